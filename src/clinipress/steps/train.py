"""Training on labels: of the reference, and of any candidate further."""

from __future__ import annotations

import copy

from clinipress.models.classifier import TorchCandidate
from clinipress.recipe.steps import FineTuneStep
from clinipress.records.candidate import Candidate
from clinipress.steps.fitting import fit_module, hard_loss, plan_fit, torch_candidate
from clinipress.steps.step import Child, Context, Params
from clinipress.train.layers import never_trained

__all__ = ["FineTune"]


class FineTune:
    """Train the parent on labels; the reference's own training is this step on a fresh network."""

    kind = "train"
    inherits = True

    def __init__(self, recipe: FineTuneStep) -> None:
        self.recipe = recipe

    def plan(self, parent: Candidate | None, context: Context) -> Params:
        """Measure the numerics, fix the options; say of a frozen backbone that it is random."""
        module, options = torch_candidate(parent).module, self.recipe.train
        params = plan_fit(module, options, context, self.kind)
        first = options.stages[0].train if options.stages else "all"
        if first == "head" and never_trained(module):
            params["frozen_backbone"] = "random weights: no pretrained weights were given"
        return params

    def apply(self, parent: Candidate | None, params: Params, context: Context) -> Child:
        """Fit a copy of the parent."""
        origin = torch_candidate(parent)
        module = copy.deepcopy(origin.module)
        loss = hard_loss(params, context, origin.card.input)
        facts = fit_module(module, params, context, loss=loss, views=None)
        return TorchCandidate(origin.card, module), facts
