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
from typing import Any

from clinipress.errors import RecipeError
from clinipress.models.classifier import Classifier, TorchCandidate
from clinipress.models.ofa import Space, sort_by_importance
from clinipress.models.recalibration import recalibrate_batch_norms
from clinipress.recipe.steps import ShrinkStep, TrainOptions
from clinipress.records.candidate import Candidate
from clinipress.steps.distill.soft_targets import SOFT, soft_loss
from clinipress.steps.fitting import fit_module, plan_fit
from clinipress.steps.step import Child, Context, Params
from clinipress.steps.supernet.shrinking import Shrinking, SubnetLoss
from clinipress.steps.supernet.supernets import calibration_batches, supernet_candidate, supernet_of
from clinipress.train import distributed

__all__ = ["Shrink"]


class Shrink:
    """Make a supernet serve its sub-nets; the child is the supernet, its batch norms as trained."""

    kind = "shrink"
    inherits = True

    def __init__(self, recipe: ShrinkStep) -> None:
        self.recipe = recipe

    def plan(self, parent: Candidate | None, context: Context) -> Params:
        """Fix the options of every phase; nothing is trained.

        Raises:
            RecipeError: Several processes are asked for.
        """
        recipe, origin = self.recipe, supernet_candidate(parent)
        if max(recipe.train.processes, distributed.world_size()) > 1:
            raise RecipeError("one process to shrink a supernet", "several", "train.processes: 1")
        params = plan_fit(origin.module, recipe.train, context, SOFT)
        params |= {
            "teacher": origin.digest,
            "alpha": recipe.alpha,
            "temperature": recipe.temperature,
            "views": recipe.views,
            "answers": "mean",
            "sandwich": recipe.sandwich,
            "calibration_images": recipe.calibration_images,
        }
        params["phases"] = [
            phase.model_dump(mode="json") | {"epochs": epochs}
            for phase, epochs in zip(recipe.phases, recipe.epochs(), strict=True)
        ]
        return params

    def apply(self, parent: Candidate | None, params: Params, context: Context) -> Child:
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
