"""Quantization-aware training: the network learns to live with the rounding of its int8 file."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

from clinipress.models.classifier import TorchCandidate
from clinipress.recipe.steps import QatStep
from clinipress.records.candidate import Candidate
from clinipress.steps.distill.soft_targets import SOFT, recovery_loss, recovery_params
from clinipress.steps.fitting import (
    calibration_rows,
    fit_module,
    plan_fit,
    step_seed,
    torch_candidate,
)
from clinipress.steps.qat.network import Place, QuantizedNetwork, Schedule
from clinipress.steps.qat.places import find_places
from clinipress.steps.step import Child, Context, Params
from clinipress.train.schedule import steps_per_epoch

__all__ = ["QuantizationAware"]


class QuantizationAware:
    """Train a copy of the parent with weights and activations rounded as in its int8 file.

    The best epoch is chosen by the validation accuracy of the rounded network, which is the file's.
    """

    kind = "qat"
    inherits = True

    def __init__(self, recipe: QatStep) -> None:
        self.recipe = recipe

    def plan(self, parent: Candidate | None, context: Context) -> Params:
        """Calibrate, and find where the file rounds; the parent is left as it is."""
        origin, recipe = torch_candidate(parent), self.recipe
        options = recipe.train
        if options.numerics == "auto":
            options = options.model_copy(update={"numerics": "float32-channels-last"})
        params = plan_fit(origin.module, options, context, SOFT if recipe.distill else self.kind)
        if recipe.train.numerics == "auto":
            params["numerics_reason"] = "the grids have more levels than bfloat16"
        spec = origin.card.input
        train = context.data.rows("train", spec)
        seed = step_seed(context.seed, "calibration")
        chosen = train.index[calibration_rows(train.labels, recipe.calibration_images, seed)]
        images = context.data.cache(spec).take(chosen)
        found = find_places(origin, images, recipe.calibration_method)
        if found.missed:
            params["activations_not_learnt"] = found.missed
            context.progress.say(f"qat: {_not_learnt(found.missed)}")
        if found.constants:
            params["constants"] = found.constants
        steps = steps_per_epoch(len(train.index), options.batch_size) * options.epochs
        params |= {
            "asked": recipe.model_dump(mode="json", exclude={"train"}),
            "calibration_seed": seed,
            "calibration_rows": [int(row) for row in chosen],
            "activations_not_found": len(found.missed),
            "places": {tensor: list(activation) for tensor, activation in found.places.items()},
            "freeze_batch_norm_after": round(recipe.freeze_batch_norm * steps),
            "freeze_ranges_after": round(recipe.freeze_ranges * steps),
        }
        return params | recovery_params(recipe, options.epochs, context)

    def apply(self, parent: Candidate | None, params: Params, context: Context) -> Child:
        """Fit a rounded copy of the parent; the child is the copy without rounding, with ranges."""
        origin = torch_candidate(parent)
        spec = origin.card.input
        places = {tensor: Place(*activation) for tensor, activation in params["places"].items()}
        constants: dict[str, list[str]] = params.get("constants", {})
        network = QuantizedNetwork(
            copy.deepcopy(origin.module),
            list(places.values()),
            Schedule(params["freeze_batch_norm_after"], params["freeze_ranges_after"]),
            sorted({node for nodes in constants.values() for node in nodes}),
        )
        network.fit_reach(_calibration(params, context, origin))
        loss, views = recovery_loss(self.recipe, params, context, spec)
        facts = fit_module(network, params, context, loss=loss, views=views)
        learnt = {
            tensor: ends
            for (tensor, activation), ends in zip(places.items(), network.learnt(), strict=True)
            if not activation.fixed
        }
        model = origin.spec.model_copy(update={"ranges": learnt})
        child = TorchCandidate(origin.card.model_copy(update={"model": model}), network.network)
        if network.unrounded:
            facts["weights_not_rounded"] = network.unrounded
            named = ", ".join(f"{name} ({why})" for name, why in network.unrounded.items())
            context.progress.say(f"qat: weights that were not rounded in training: {named}")
        if constants:
            facts["rounded_constants"] = len(constants)
        return child, facts | {
            "rounded_activations": len(places),
            "calibrated_activations": params["activations_not_found"],
        }


def _not_learnt(missed: dict[str, str]) -> str:
    """Activations without a place in training, by name."""
    named = ", ".join(f"{name} (of {kind})" for name, kind in missed.items())
    return f"activations that nothing in the network computes keep calibrated ranges: {named}"


def _calibration(
    params: dict[str, Any], context: Context, origin: TorchCandidate
) -> Iterator[torch.Tensor]:
    rows, size = params["calibration_rows"], params["options"]["batch_size"]
    cache = context.data.cache(origin.card.input)
    for start in range(0, max(1, len(rows) - size + 1), size):
        yield torch.from_numpy(cache.take(rows[start : start + size]))
