"""A training in stages: which weights learn when, and at what rate.

Stages of time; those of `clinipress.models.stages` are of a network. A training without stages is
one stage in which all weights learn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from clinipress.recipe.steps import Decay, TrainOptions, TrainStage
from clinipress.train.schedule import learning_rate

__all__ = ["TrainingStage", "learning_restored", "stage_at", "step_costs", "training_stages"]

WHOLE_STEP = 3  # a step in forward passes: the backward pass costs two
INHERITED = ("learning_rate", "final_learning_rate", "warmup_epochs", "decay", "layer_decay")


@dataclass(frozen=True)
class TrainingStage:
    """A row of epochs with one curve of the rate.

    Attributes:
        number: Its number, from 1.
        of: How many stages there are.
        first: Its first epoch, from 0, counted over the whole training.
        epochs: How many epochs it has.
        part: What learns: "head" or "all".
        peak: Largest learning rate.
        final: Share of it left at the end.
        warmup_epochs: Epochs of linear warm-up.
        decay: How the rate falls.
        layer_decay: Factor of the rate from layer to layer; 1 for all alike.
    """

    number: int
    of: int
    first: int
    epochs: int
    part: Literal["head", "all"]
    peak: float
    final: float
    warmup_epochs: float
    decay: Decay
    layer_decay: float

    @property
    def end(self) -> int:
        """The first epoch after it."""
        return self.first + self.epochs

    def rate(self, step: int, per_epoch: int) -> float:
        """Learning rate of a step of the whole training, from 0, with `per_epoch` steps each."""
        return learning_rate(
            step - self.first * per_epoch,
            self.epochs * per_epoch,
            round(self.warmup_epochs * per_epoch),
            self.peak,
            self.final,
            self.decay,
        )

    def __str__(self) -> str:
        what = "the head alone" if self.part == "head" else "all weights"
        epochs = f"{self.epochs} epoch{'s' if self.epochs > 1 else ''}"
        return f"stage {self.number} of {self.of}: {what}, {epochs} at {self.peak:g}"


def training_stages(options: TrainOptions) -> tuple[TrainingStage, ...]:
    """The stages of a training, one where none are named; what a stage leaves open, filled in."""
    requested = options.stages or (TrainStage(epochs=options.epochs),)
    stages: list[TrainingStage] = []
    for number, stage in enumerate(requested, 1):
        explicit = {k: v for k, v in stage.model_dump().items() if v is not None}
        chosen = {key: explicit.get(key, getattr(options, key)) for key in INHERITED}
        stages.append(
            TrainingStage(
                number=number,
                of=len(requested),
                first=stages[-1].end if stages else 0,
                epochs=stage.epochs,
                part=stage.train,
                peak=chosen["learning_rate"],
                final=chosen["final_learning_rate"],
                warmup_epochs=chosen["warmup_epochs"],
                decay=chosen["decay"],
                layer_decay=chosen["layer_decay"] or 1.0,
            )
        )
    return tuple(stages)


def stage_at(stages: tuple[TrainingStage, ...], epoch: int) -> TrainingStage:
    """The stage that an epoch lies in; the last one for an epoch after the end."""
    return next((stage for stage in stages if epoch < stage.end), stages[-1])


def step_costs(stages: tuple[TrainingStage, ...], sizes: Sequence[tuple[int, int]]) -> list[int]:
    """What a step costs in every epoch, in pixels: those that pass, and those that come back."""
    return [
        height * width * (1 if stage_at(stages, epoch).part == "head" else WHOLE_STEP)
        for epoch, (height, width) in enumerate(sizes)
    ]


@contextlib.contextmanager
def learning_restored(module: nn.Module) -> Iterator[None]:
    """Inside, parameters may be frozen; afterwards those learn that did before."""
    before = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        yield
    finally:
        for parameter, learns in before:
            parameter.requires_grad_(learns)
