"""From a float32 file to the file a recipe asks for: plan, then apply.

The plan holds what was measured (ranges, corrections, trials of placements). It is stored, so that
a run that was killed writes the same bytes when it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.recipe import ExportRecipe
from clinipress.records import Card
from clinipress.steps.export import to_float16
from clinipress.steps.onnx_precision import not_quantized, quantized_layers
from clinipress.steps.placement import agreement_images, place
from clinipress.steps.quantize import Int8Plan, apply_int8, plan_int8
from clinipress.steps.weight_only import to_int4, to_int8_dynamic
from clinipress.store import digest_of

__all__ = ["CALIBRATED", "apply_export", "plan_export", "precision_facts"]

# Precisions that need calibration images.
CALIBRATED = ("int8", "mixed")


def plan_export(
    recipe: ExportRecipe,
    source: Path,
    images: NDArray[np.uint8],
    *,
    threads: int,
    seed: int,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Measure what the recipe's precision needs.

    Args:
        recipe: What to make.
        source: The float32 file.
        images: uint8 ``[n, c, h, w]``: training images, un-augmented; may be empty where nothing is
            calibrated.
        threads: Threads of timed calls.
        seed: Of the pairs of `agreement_images`.
        ranges: Learnt in training, by activation of `source`; they take the place of measured ones.

    Raises:
        ModelError: Learnt ranges together with a change of the weights, which would not fit them.

    Returns:
        Plain data for `apply_export`; {} where the precision needs nothing.
    """
    if recipe.precision not in CALIBRATED:
        return {}
    if ranges and (recipe.equalize or recipe.smooth is not None):
        raise ModelError(
            "weights as they were trained, for learnt ranges",
            f"'{'equalize' if recipe.equalize else 'smooth'}' in an export after 'qat'",
            "leave it out: training has done its work",
        )
    plan = plan_int8(
        source,
        images,
        method=recipe.calibration_method,
        per_channel=recipe.per_channel,
        ranges=ranges,
        equalized=recipe.equalize,
        bias_correction=recipe.bias_correction,
        smoothing=recipe.smooth,
    )
    if recipe.precision == "int8":
        return {"int8": plan.to_json()}
    plan, placement = place(
        source,
        plan,
        agreement_images(images, seed),
        threads=threads,
        agreement=recipe.agreement,
        time=recipe.slowest,
    )
    return {"int8": plan.to_json(), "placement": placement}


def apply_export(
    recipe: ExportRecipe, source: Path, target: Path, plan: dict[str, Any], card: Card
) -> None:
    """Write the file of a plan; its bytes depend on source, plan and card alone."""
    if recipe.precision == "float16":
        to_float16(source, target, card=card)
    elif recipe.precision == "int8-dynamic":
        to_int8_dynamic(source, target, card=card)
    elif recipe.precision == "int4-weights":
        to_int4(source, target, block=recipe.block, card=card)
    else:
        chosen = Int8Plan.from_json(plan["int8"])
        apply_int8(source, target, chosen, card=card, precision=recipe.precision)


def precision_facts(recipe: ExportRecipe, path: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """What the file holds of the precision it is named after.

    Returns:
        "layers": kind -> [in low precision, all]; "warning" where the file does not hold what its
        precision promises; "plan": digest; "placement": the decision and its trials.
    """
    facts: dict[str, Any] = {"layers": {k: list(v) for k, v in quantized_layers(path).items()}}
    warning = not_quantized(path, recipe.precision)
    if warning:
        facts["warning"] = warning
    if plan:
        facts["plan"] = digest_of(plan)
        facts["corrected_layers"] = len(plan["int8"]["biases"])
        facts["smoothed_norms"] = len(plan["int8"]["smoothing"])
    if "placement" in plan:
        facts["placement"] = plan["placement"]
    return facts
