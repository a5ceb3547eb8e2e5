"""Progressive shrinking: a trained supernet learns to serve its sub-nets.

Phases as in Cai et al. (arXiv:1908.09791, section 3.3): first smaller kernels, then fewer blocks,
then fewer channels, each phase keeping what the ones before allowed; the channels are sorted by
importance before they may be left out. The teacher is the largest network as it came. Deviations:
the ends of a phase are in every step (sandwich rule), and the teacher gives one answer per
image, the mean over some views, computed once.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, model_validator

from clinipress.candidate import Candidate, Context
from clinipress.errors import RecipeError
from clinipress.models.classifier import Classifier, TorchCandidate
from clinipress.models.ofa import Space, sort_by_importance
from clinipress.models.recalibration import recalibrate_batch_norms
from clinipress.recipe import Config, TrainOptions
from clinipress.steps.fitting import fit_module, plan_fit
from clinipress.steps.soft_targets import SOFT, soft_loss
from clinipress.steps.supernets import calibration_batches, supernet_candidate, supernet_of
from clinipress.train import distributed
from clinipress.train.shrinking import Shrinking, SubnetLoss

__all__ = ["PHASES", "Phase", "Shrink", "ShrinkStep"]


class Phase(Config):
    """One phase: what sub-nets may choose, and its part of the training.

    Attributes:
        name: In the history and of its folder.
        kernels: Choices of each block.
        depths: Choices of each stage.
        expansions: Choices of each block.
        epochs: Relative to the other phases'.
        rate: Of the learning rate.
        sampled: Sub-nets drawn for every step, besides the ends.
    """

    name: str
    kernels: tuple[Literal[3, 5, 7], ...] = (3, 5, 7)
    depths: tuple[Literal[2, 3, 4], ...] = (2, 3, 4)
    expansions: tuple[Literal[3, 4, 6], ...] = (3, 4, 6)
    epochs: float = Field(1, gt=0)
    rate: float = Field(1, gt=0)
    sampled: int = Field(1, ge=1)


# Shares of epochs and rates of the published recipe: 120, 25, 120, 25 and 120 epochs at 0.03,
# 0.0025, 0.0075, 0.0025 and 0.0075. It draws one, two and four sub-nets a step, here it is one, one
# and two beside the ends.
PHASES = (
    Phase(name="kernel", depths=(4,), expansions=(6,), epochs=120),
    Phase(name="depth-1", depths=(3, 4), expansions=(6,), epochs=25, rate=1 / 12),
    Phase(name="depth-2", expansions=(6,), epochs=120, rate=1 / 4),
    Phase(name="expand-1", expansions=(4, 6), epochs=25, rate=1 / 12, sampled=2),
    Phase(name="expand-2", epochs=120, rate=1 / 4, sampled=2),
)
OPTIONS: dict[str, Any] = {"epochs": 41, "learning_rate": 5e-4, "warmup_epochs": 1}


class ShrinkStep(Config):
    """Train a supernet's sub-nets, phase by phase, with its largest network as the teacher.

    Attributes:
        phases: In order.
        sandwich: The largest and the smallest sub-net of a phase are in every step.
        alpha: Weight of the teacher; 0.5 is the published weight of one beside the labels.
        temperature: T of both softmaxes; 1 as published.
        views: Augmented views of each image over which the teacher's answers are averaged.
        calibration_images: Training images on which batch norms are measured again.
        train: Options; `epochs` are those of all phases together, `warmup_epochs` of each phase.
    """

    step: Literal["shrink"] = "shrink"
    name: str | None = None
    phases: tuple[Phase, ...] = Field(PHASES, min_length=1)
    sandwich: bool = True
    alpha: float = Field(0.5, ge=0, le=1)
    temperature: float = Field(1.0, gt=0)
    views: int = Field(4, ge=1)
    calibration_images: int = Field(256, ge=2)
    train: TrainOptions = TrainOptions(**OPTIONS)

    @model_validator(mode="after")
    def _phases_that_can_be_trained(self) -> ShrinkStep:
        if self.train.stages:
            raise ValueError("the phases of 'shrink' are its stages: leave out 'train.stages'")
        if self.train.epochs < len(self.phases):
            raise ValueError(
                f"{len(self.phases)} phases need at least {len(self.phases)} epochs, "
                f"'train.epochs' is {self.train.epochs}"
            )
        if self.train.stages:
            raise ValueError("'phases' are the stages of 'shrink': leave out 'train.stages'")
        return self

    def epochs(self) -> list[int]:
        """Epochs of each phase: at least one, in all those of the training."""
        found, left = [], self.train.epochs
        shares = [phase.epochs for phase in self.phases]
        for number, share in enumerate(shares):
            after = len(shares) - number - 1
            wanted = round(left * share / sum(shares[number:]))
            found.append(min(max(1, wanted), left - after))
            left -= found[-1]
        return found


class Shrink:
    """Make a supernet serve its sub-nets; the child is the supernet, its batch norms as trained."""

    kind = "shrink"
    inherits = True

    def __init__(self, recipe: ShrinkStep) -> None:
        self.recipe = recipe

    def plan(self, parent: Candidate | None, context: Context) -> dict[str, Any]:
        """Fix the options of every phase; nothing is trained.

        Raises:
            RecipeError: Several processes are asked for.
        """
        asked, origin = self.recipe, supernet_candidate(parent)
        if max(asked.train.processes, distributed.world_size()) > 1:
            raise RecipeError("one process to shrink a supernet", "several", "train.processes: 1")
        params = plan_fit(origin.module, asked.train, context, SOFT)
        params |= {
            "teacher": origin.digest,
            "alpha": asked.alpha,
            "temperature": asked.temperature,
            "views": asked.views,
            "answers": "mean",
            "sandwich": asked.sandwich,
            "calibration_images": asked.calibration_images,
        }
        params["phases"] = [
            phase.model_dump(mode="json") | {"epochs": epochs}
            for phase, epochs in zip(asked.phases, asked.epochs(), strict=True)
        ]
        return params

    def apply(
        self, parent: Candidate | None, params: dict[str, Any], context: Context
    ) -> tuple[Candidate, dict[str, Any]]:
        """All phases; one that a killed run has finished is read back."""
        origin = supernet_candidate(parent)
        # the teacher is the parent, whatever the study's reference is
        own = replace(context, reference=origin, root=origin)
        module, phases = copy.deepcopy(origin.module), []
        before: dict[str, Any] | None = None
        for number, phase in enumerate(params["phases"]):
            _sort(module, phase, before)
            phases.append(self._phase(module, phase, number, params, own))
            before = phase
        batches = self._calibration(module, params, own)
        recalibrate_batch_norms(module, batches)  # the largest network's, which eval mode uses
        return TorchCandidate(origin.card, module), {"phases": phases}

    def _phase(
        self,
        module: Classifier,
        phase: dict[str, Any],
        number: int,
        params: dict[str, Any],
        context: Context,
    ) -> dict[str, Any]:
        """Train one phase in place; what came of it."""
        width = supernet_of(module).space.width
        space = Space(
            width, tuple(phase["kernels"]), tuple(phase["expansions"]), tuple(phase["depths"])
        )
        seed = params["seed"] + number
        shrinking = Shrinking(
            module,
            space,
            sampled=phase["sampled"],
            sandwich=params["sandwich"],
            seed=seed,
            calibration=self._calibration(module, params, context),
        )
        options = TrainOptions.model_validate(params["options"])
        changes = {
            "epochs": phase["epochs"],
            "learning_rate": options.learning_rate * phase["rate"],
            "warmup_epochs": min(options.warmup_epochs, phase["epochs"] / 2),
        }
        own = params | {"options": options.model_copy(update=changes).model_dump(mode="json")}
        loss, views = soft_loss(own, context)  # the teacher's views: the same seed in all phases
        own["seed"] = seed
        here = replace(context, work=context.work / f"phase-{number + 1}-{phase['name']}")
        facts = fit_module(shrinking, own, here, loss=SubnetLoss(loss, shrinking), views=views)  # type: ignore[arg-type]
        return {"phase": phase["name"]} | facts

    def _calibration(
        self, module: Classifier, params: dict[str, Any], context: Context
    ) -> list[Any]:
        count, seed = params["calibration_images"], params["seed"]
        return calibration_batches(count, module.input_spec, seed, context)


def _sort(module: Classifier, phase: dict[str, Any], before: dict[str, Any] | None) -> None:
    """Sort channels where the phase is the first to leave some out, or more than before."""
    trained = min(before["expansions"]) if before else 6
    if min(phase["expansions"]) < trained:
        sort_by_importance(supernet_of(module), None if trained == 6 else trained)
