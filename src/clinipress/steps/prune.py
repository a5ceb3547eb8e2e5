"""Pruning: channels are removed for good, and what is left is fine-tuned."""

from __future__ import annotations

from typing import Any

from clinipress.candidate import Candidate, Context
from clinipress.models.classifier import TorchCandidate, build
from clinipress.models.pruned import plan_pruning, prune
from clinipress.recipe import PruneStep
from clinipress.steps.fitting import fit_module, hard_loss, plan_fit, step_seed, torch_candidate
from clinipress.steps.soft_targets import SOFT, root_teacher, soft_loss

__all__ = ["Prune"]


class Prune:
    """Remove channels physically, then fine-tune with the reference's soft targets."""

    kind = "prune"
    inherits = True

    def __init__(self, recipe: PruneStep) -> None:
        self.recipe = recipe

    def plan(self, parent: Candidate | None, context: Context) -> dict[str, Any]:
        """Rank the channels and fix which go; the parent is left as it is."""
        origin = torch_candidate(parent)
        asked = self.recipe
        history = plan_pruning(
            origin.module,
            ratio=asked.ratio,
            of=asked.of,
            criterion=asked.criterion,
            scope=asked.scope,
            round_to=asked.round_to,
            protect=asked.protect,
            seed=step_seed(context.seed, self.kind),
        )
        small = prune(origin.module, history)
        params = plan_fit(small, asked.train, context, SOFT if asked.distill else self.kind)
        params["asked"] = asked.model_dump(mode="json", exclude={"train"})
        params["removed"] = [[module, is_out, list(index)] for module, is_out, index in history]
        if asked.distill:
            params |= {
                "teacher": root_teacher(context).digest,
                "temperature": asked.temperature,
                "alpha": asked.alpha,
                "views": asked.views,
            }
        return params

    def apply(
        self, parent: Candidate | None, params: dict[str, Any], context: Context
    ) -> tuple[Candidate, dict[str, Any]]:
        """Cut a copy of the parent and fit what is left."""
        origin = torch_candidate(parent)
        history = tuple((name, out, tuple(index)) for name, out, index in params["removed"])
        module = prune(origin.module, history)
        spec = origin.spec
        spec = spec.model_copy(update={"pruning": (*spec.pruning, *history)})
        loss, views = (
            soft_loss(params, context)
            if self.recipe.distill
            else (hard_loss(params, context, origin.card.input), None)
        )
        facts = fit_module(module, params, context, loss=loss, views=views)
        rebuilt = build(spec, origin.card.input)  # proves that the record is enough to rebuild it
        rebuilt.load_state_dict(module.state_dict())
        return TorchCandidate(origin.card.model_copy(update={"model": spec}), rebuilt), facts
