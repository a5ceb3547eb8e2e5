"""One noun, one verb: a Candidate can be run, a Step makes one candidate from another."""

from __future__ import annotations

import importlib
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clinipress.errors import RecipeError
from clinipress.progress import SILENT, Progress
from clinipress.recipe.steps import Config
from clinipress.recipe.techniques import TECHNIQUES, Technique, technique_of
from clinipress.records.candidate import Applied, Candidate, Card

__all__ = ["Child", "Context", "Params", "Step", "open_step", "run", "with_history"]

Params = dict[str, Any]  # what a plan decides: plain JSON
Child = tuple[Candidate, dict[str, Any]]  # and the facts worth keeping of how it was made


@dataclass(frozen=True)
class Context:
    """What a step may use besides its parent.

    Attributes:
        data: The study's images and split, test sealed (`clinipress.data.study.StudyData`).
        reference: The root reference, teacher of distillation; None while it is being made.
        work: A folder that survives a kill; checkpoints go here.
        shared: A folder for what several steps use, such as the teacher's outputs.
        seed: Seed of the study.
        threads: CPU threads to use.
        progress: The listener.
        root: The network that `reference` was exported from: its feature maps can be read.
        code: The users' functions that may build the networks of candidate folders.
    """

    data: Any
    reference: Candidate | None
    work: Path
    shared: Path
    seed: int = 0
    threads: int | None = None
    progress: Progress = SILENT
    root: Candidate | None = None
    code: Collection[str] = ()


class Step(Protocol):
    """One candidate -> another.

    `plan` decides (randomness only as a stored seed, measurements only here) and returns JSON-able
    parameters; `apply` is deterministic given them.
    """

    @property
    def kind(self) -> str:
        """Name of the step in histories: "train", "prune", ..."""

    @property
    def inherits(self) -> bool:
        """True when the child has its weights from the parent, and so the parent's history."""

    @property
    def recipe(self) -> Any:
        """The step's part of the study, a frozen pydantic model."""

    def plan(self, parent: Candidate | None, context: Context) -> Params:
        """Decide."""

    def apply(self, parent: Candidate | None, params: Params, context: Context) -> Child:
        """Do; returns the child and the facts worth keeping."""


def open_step(recipe: Config, techniques: tuple[Technique, ...] = TECHNIQUES) -> Step:
    """The step that a recipe asks for, imported from where its row says that it is.

    Raises:
        RecipeError: No row says it.
    """
    row = technique_of(recipe, techniques)
    module, _, name = row.implementation.partition(":")
    if not name:
        known = ", ".join(technique.kind for technique in techniques)
        raise RecipeError(f"a step of kind {known}", f"'{row.kind}'")
    step: Step = getattr(importlib.import_module(module), name)(recipe)
    return step


def run(
    step: Step, parent: Candidate | None, params: dict[str, Any], context: Context
) -> tuple[Applied, Candidate]:
    """Apply a planned step: the one place where history is written.

    Returns:
        The record of the step, and the child as the step made it; the caller names the child and
        joins the record to the parent's history (`with_history`).
    """
    began = time.monotonic()
    child, facts = step.apply(parent, params, context)
    facts = {**facts, "seconds": round(time.monotonic() - began, 3)}
    return Applied(
        step=step.kind, params=params, parent=parent.digest if parent else None, facts=facts
    ), child


def with_history(card: Card, parent: Candidate | None, applied: Applied, name: str) -> Card:
    """The child's card: its own facts, the parent's history and one record more."""
    history = (*(parent.card.history if parent else ()), applied)
    return card.model_copy(update={"name": name, "history": history})
