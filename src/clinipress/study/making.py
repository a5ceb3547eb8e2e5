"""What a study makes: the reference, a candidate per step, and the files of the last one."""

from __future__ import annotations

from collections.abc import Iterator

from clinipress.errors import RecipeError
from clinipress.models.classifier import TorchCandidate
from clinipress.recipe.steps import (
    DistillStep,
    FineTuneStep,
    PruneStep,
    QatStep,
    SearchStep,
    ShrinkStep,
    Step,
)
from clinipress.recipe.study import Study
from clinipress.records.candidate import Made
from clinipress.steps.distill.step import Distill
from clinipress.steps.prune.step import Prune
from clinipress.steps.qat.step import QuantizationAware
from clinipress.steps.supernet.search import Search
from clinipress.steps.supernet.shrink import Shrink
from clinipress.steps.train import FineTune
from clinipress.study.choice import Attempt
from clinipress.study.workbench import FLOAT32, Piece, Workbench

__all__ = ["make_all", "make_attempt", "step_names", "torch_step"]


def make_all(study: Study, bench: Workbench) -> Iterator[Piece[Made]]:
    """Every candidate that a study names, each as soon as it is made; the reference comes first."""
    reference = _reference(study, bench)
    yield reference
    last = reference
    for name, recipe in zip(step_names(study), study.steps, strict=True):
        before = last
        network, folder = bench.step(name, torch_step(recipe), before.network, reference)
        last = bench.piece(name, network, FLOAT32, origin="step", parent=before.name, folder=folder)
        yield last
        if isinstance(recipe, DistillStep) and recipe.control:
            yield _control(recipe, before, last, reference, bench)
    for export in study.exports:
        if export.precision == "float32" and export.format == "onnx":
            continue  # every step's candidate already is that file
        yield bench.piece(
            f"{last.name}-{export.format}-{export.precision}",
            last.network,
            export,
            origin="export",
            parent=last.name,
            folder=last.record.network,
        )


def _reference(study: Study, bench: Workbench) -> Piece[Made]:
    """The reference, trained where the study says so."""
    network, folder = bench.fresh(), None
    if study.reference.train is not None:
        step = FineTune(FineTuneStep(train=study.reference.train))
        network, folder = bench.step("reference", step, network, reference=None)
    return bench.piece(
        "reference", network, FLOAT32, origin="reference", parent=None, folder=folder
    )


def _control(
    recipe: DistillStep,
    before: Piece[Made],
    student: Piece[Made],
    reference: Piece[Made],
    bench: Workbench,
) -> Piece[Made]:
    """The same student for as long without a teacher: to compare with, never to ship."""
    alone = Distill(recipe.without_teacher(student.network.card.history[-1].params["numerics"]))
    name = control_name(student.name)
    network, folder = bench.step(name, alone, before.network, reference)
    return bench.piece(
        name,
        network,
        FLOAT32,
        origin="control",
        parent=before.name,
        folder=folder,
        control_of=student.name,
    )


def make_attempt(
    attempt: Attempt, of: Piece[Made], reference: Piece[Made], bench: Workbench
) -> Iterator[Piece[Made]]:
    """What the policy tries next, trained first where it asks for that."""
    bench.progress.say(f"trying {attempt.rung}, because {attempt.because}")
    network: TorchCandidate = of.network
    name, folder = of.name, of.record.network
    if attempt.train:
        name = f"{name}-quantization-aware"
        network, folder = bench.step(name, QuantizationAware(QatStep()), network, reference)
        yield bench.piece(
            name,
            network,
            FLOAT32,
            origin="step",
            parent=of.name,
            folder=folder,
            because=attempt.because,
        )
    yield bench.piece(
        f"{name}-{attempt.export.format}-{attempt.export.precision}",
        network,
        attempt.export,
        origin="export",
        parent=name,
        folder=folder,
        because=attempt.because,
    )


def torch_step(
    recipe: Step,
) -> Distill | FineTune | Prune | QuantizationAware | Shrink | Search:
    """The step a recipe names."""
    if isinstance(recipe, ShrinkStep):
        return Shrink(recipe)
    if isinstance(recipe, SearchStep):
        return Search(recipe)
    if isinstance(recipe, DistillStep):
        return Distill(recipe)
    if isinstance(recipe, PruneStep):
        return Prune(recipe)
    if isinstance(recipe, QatStep):
        return QuantizationAware(recipe)
    return FineTune(recipe)


def step_names(study: Study) -> list[str]:
    """One name per step: its own, or its kind with a number where that kind comes twice.

    Raises:
        RecipeError: Two steps carry one name.
    """
    kinds = [recipe.step for recipe in study.steps]
    verb = {
        "distill": "distilled",
        "prune": "pruned",
        "qat": "quantization-aware",
        "train": "fine-tuned",
        "shrink": "shrunk",
        "search": "searched",
    }
    names: list[str] = []
    for number, recipe in enumerate(study.steps):
        again = kinds[: number + 1].count(recipe.step)
        plain = verb[recipe.step] + (f"-{again}" if kinds.count(recipe.step) > 1 else "")
        names.append(recipe.name or plain)
    made = [
        *names,
        *(
            control_name(n)
            for n, r in zip(names, study.steps, strict=True)
            if isinstance(r, DistillStep) and r.control
        ),
    ]
    if len({*made, "reference"}) <= len(made):
        raise RecipeError("step names that differ", ", ".join(made), "change 'name' of one of them")
    return names


def control_name(name: str) -> str:
    """The row of a distilled student's control."""
    return f"{name}-control"
