"""From the float32 file to another ONNX file, of any precision: plan, then apply.

The plan holds what was measured (ranges, corrections, trials of placements). It is stored, so that
a run that was killed writes the same bytes when it goes on.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.formats.measure import overflows_here
from clinipress.formats.onnx.count import count_low_precision as count_operators
from clinipress.formats.onnx.count import float_layers, weight_bytes
from clinipress.formats.onnx.float import to_float16
from clinipress.formats.onnx.int8 import (
    Int8Plan,
    apply_int8,
    plan_each,
    plan_int8,
    prepare,
    with_bias_correction,
)
from clinipress.formats.onnx.outliers import outliers
from clinipress.formats.onnx.placement import agreement_images, choose_placement, signal_to_noise
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.formats.onnx.weight_only import to_int4, to_int8_dynamic
from clinipress.formats.onnx.write import card_for, write
from clinipress.formats.ranges import Method
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import Card
from clinipress.records.store import digest_of
from clinipress.stats.metrics import same_answers

__all__ = [
    "apply_onnx",
    "count_operators",
    "float_layers",
    "plan_facts",
    "plan_onnx",
    "weight_bytes",
]

# Tried by "auto", the first of equals wins; entropy takes longest and never won (LOG.md).
METHODS: tuple[Method, ...] = ("percentile", "mse", "minmax")
GAIN = 0.5  # decibels that a change of the weights must gain, 6 % of the error


def plan_onnx(
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
        Plain data for `apply_onnx`; {} where the precision needs nothing.
    """
    if recipe.precision not in ("int8", "mixed"):
        return {}
    usual = np.delete(images, outliers(prepare(source), images), axis=0)
    looked_at = agreement_images(usual, seed)
    if ranges:
        plan = _learnt_plan(recipe, source, images, ranges)
        trials: list[dict[str, Any]] = []
    else:
        plan, trials = _best_plan(recipe, source, images, looked_at, threads=threads)
    made: dict[str, Any] = {"int8": plan.to_json(), "trials": trials}
    if recipe.precision == "int8":
        return made
    plan, placement = choose_placement(
        source, plan, looked_at, threads=threads, agreement=recipe.agreement, time=recipe.slowest
    )
    return made | {"int8": plan.to_json(), "placement": placement}


def _learnt_plan(
    recipe: ExportRecipe,
    source: Path,
    images: NDArray[np.uint8],
    ranges: Mapping[str, tuple[float, float]],
) -> Int8Plan:
    """The plan of a network that was trained for it: nothing is left to choose."""
    if recipe.equalize or recipe.smooth is not None:
        raise ModelError(
            "weights as they were trained, for learnt ranges",
            f"'{'equalize' if recipe.equalize else 'smooth'}' in an export after 'qat'",
            "leave it out: training has done its work",
        )
    plan = plan_int8(source, images, method="minmax", per_channel=recipe.per_channel, ranges=ranges)
    return dataclasses.replace(plan, reduce_range=_reduced(recipe))


def _reduced(recipe: ExportRecipe) -> bool:
    """Whether weights get 7 bits: as asked, else where this processor would overflow with 8."""
    return overflows_here() if recipe.reduce_range is None else recipe.reduce_range


def _best_plan(
    recipe: ExportRecipe,
    source: Path,
    images: NDArray[np.uint8],
    looked_at: NDArray[np.uint8],
    *,
    threads: int,
) -> tuple[Int8Plan, list[dict[str, Any]]]:
    """The plan whose file disturbs the logits least, of those the recipe leaves open.

    First the ranges, then equalization on top of the best, then bias correction on top of that:
    what does not gain `GAIN` is left out.

    Args:
        recipe: What is asked.
        source: The float32 file.
        images: For calibration.
        looked_at: What trials are judged on: the usual calibration images and their blends.
        threads: Of the trials.

    Returns:
        The plan, and every trial: choice, decibels, agreement; none where there was no choice.
    """
    methods: tuple[Method, ...] = METHODS
    calibration_method = recipe.calibration_method
    if calibration_method != "auto" and calibration_method != "runtime":
        methods = (calibration_method,)
    network = OnnxCandidate.load(source, threads=threads)
    exact, several = network.predict(looked_at), network.card.task == "multilabel"
    trials: list[dict[str, Any]] = []
    reduced = _reduced(recipe)

    def plans(names: tuple[Method, ...], equalized: bool) -> dict[Method, Int8Plan]:
        by_method = plan_each(
            source, images, names, per_channel=recipe.per_channel, equalized=equalized,
            smoothing=recipe.smooth,
        )  # fmt: skip
        by_method = {n: dataclasses.replace(p, reduce_range=reduced) for n, p in by_method.items()}
        if not recipe.bias_correction:
            return by_method
        return {
            name: with_bias_correction(source, plan, images) for name, plan in by_method.items()
        }

    def measure(method: Method, plan: Int8Plan) -> float:
        with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
            path = apply_int8(source, Path(folder) / "trial.onnx", plan).path
            logits = OnnxCandidate.load(path, threads=threads).predict(looked_at)
        decibels = signal_to_noise(exact, logits)
        trials.append(
            {
                "method": method,
                "equalize": plan.equalize,
                "bias_correction": bool(plan.biases),
                "decibels": round(decibels, 3),
                "agreement": same_answers(exact, logits, several=several),
            }
        )
        return decibels

    first = plans(methods, bool(recipe.equalize))
    tried = {name: measure(name, plan) for name, plan in first.items()}
    method = max(tried, key=lambda name: tried[name])
    decibels, plan = tried[method], first[method]
    if recipe.equalize is None:
        other = plans((method,), True)[method]
        if (better := measure(method, other)) > decibels + GAIN:
            decibels, plan = better, other
    if recipe.bias_correction is None:
        other = with_bias_correction(source, plan, images)
        if measure(method, other) > decibels + GAIN:
            plan = other
    return plan, trials


def apply_onnx(
    recipe: ExportRecipe, source: Path, target: Path, plan: dict[str, Any], card: Card
) -> None:
    """Write the file of a plan; its bytes depend on source, plan and card alone."""
    if recipe.precision == "float32":
        write(onnx.load(source), target, card_for(card, "float32"))
    elif recipe.precision == "float16":
        to_float16(source, target, card=card)
    elif recipe.precision == "int8-dynamic":
        to_int8_dynamic(source, target, card=card)
    elif recipe.precision == "int4-weights":
        to_int4(source, target, block=recipe.block, card=card)
    else:
        chosen = Int8Plan.from_json(plan["int8"])
        apply_int8(source, target, chosen, card=card, precision=recipe.precision)


def plan_facts(plan: dict[str, Any]) -> dict[str, Any]:
    """What a plan says of its file, for the history and the report."""
    facts: dict[str, Any] = {}
    if plan:
        facts["plan"] = digest_of(plan)
        facts["corrected_layers"] = len(plan["int8"]["biases"])
        facts["left_out"] = list(plan["int8"]["left_out"])
        facts["reduced_range"] = plan["int8"].get("reduce_range", False)
        facts["smoothed_norms"] = len(plan["int8"]["smoothing"])
        if plan["trials"]:
            facts["trials"] = plan["trials"]
    if "placement" in plan:
        facts["placement"] = plan["placement"]
    return facts
