"""What `arm_check` finds: pure functions of what the sides wrote, without a dependency."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["compare", "first_difference", "sentence", "summary"]


def compare(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of equal images, and the largest difference of a logit.

    A refused image has equal labels when the other side refuses it as well.
    """
    pairs = list(zip(one, other, strict=True))
    seen = [(a["logits"], b["logits"]) for a, b in pairs if a["logits"] and b["logits"]]
    gaps = [abs(x - y) for a, b in seen for x, y in zip(a, b, strict=True)]
    return {
        "pixels_equal": sum(a["pixels"] == b["pixels"] for a, b in pairs),
        "labels_equal": sum(a["label"] == b["label"] for a, b in pairs),
        "logits_bit_equal": sum(a["logits"] == b["logits"] for a, b in pairs),
        "largest_logit_difference": max(gaps, default=0.0),
        "logit_range": statistics.median([max(a) - min(a) for a, _ in seen]) if seen else None,
    }


def summary(
    here: Mapping[str, Any],
    arm: Mapping[str, Any],
    as_arm: Mapping[str, Any] | None,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The JSON of a check, from what the sides wrote.

    Args:
        here: Side, bundle and answers with this environment.
        arm: The same under the emulator.
        as_arm: The same on this machine with Arm's engine version, where that is another.
        facts: `cpu`, `emulator`, `system`, `seconds` and `first_difference`.
    """
    comparisons = {"processor": compare((as_arm or here)["answers"], arm["answers"])}
    if as_arm:
        comparisons["version"] = compare(here["answers"], as_arm["answers"])
        comparisons["both"] = compare(here["answers"], arm["answers"])
    shown = comparisons["both" if as_arm else "processor"]
    count = len(arm["answers"])
    self_test = arm["side"]["self_test"]
    sides = {"here": here["side"], "arm": arm["side"]}
    found = {
        "kind": "clinipress arm check",
        "version": "1",
        "passed": shown["labels_equal"] == count and not isinstance(self_test, str),
        "sentence": "",
        "bundle_sha256": arm["bundle"]["sha256"],
        "bundle": {key: arm["bundle"][key] for key in ("name", "format", "precision")},
        "images": count,
        "refused": sum(found["refused"] is not None for found in arm["answers"]),
        "runtime_here": here["side"]["runtime"],
        "runtime_arm": arm["side"]["runtime"],
        **shown,
        "comparisons": comparisons,
        "sides": sides | ({"here_as_arm": as_arm["side"]} if as_arm else {}),
        **facts,
    }
    found["sentence"] = sentence(found)
    return found


def sentence(found: Mapping[str, Any]) -> str:
    """The result as one plain sentence."""
    count, gap = found["images"], found["largest_logit_difference"]
    text = (
        f"On an emulated {found['cpu']} with {found['runtime_arm']} the bundle gave the same label "
        f"as here for {found['labels_equal']} of {count} images and the same logits to the last "
        f"bit for {found['logits_bit_equal']}"
    )
    if gap:
        text += f"; the largest difference of a logit was {gap:.2g}"
        text += f", where an image's logits span {found['logit_range']:.2g}"
    said = found["sides"]["arm"]["self_test"]
    return text + (f"; its self-test failed there: {said}" if isinstance(said, str) else "") + "."


def first_difference(
    here: Mapping[str, Any], arm: Mapping[str, Any], made_by: Mapping[str, str], image: int
) -> dict[str, Any] | None:
    """The first tensor that differs for one image.

    Args:
        here: ``IMAGE|TENSOR`` -> array, by `trace_all`.
        arm: The same under the emulator.
        made_by: Tensor -> the operator that made it, in the graph's order.
        image: Its number.

    Returns:
        Tensor, operator, values, how many differ, largest difference in levels; None where no
        tensor differs.
    """
    for tensor, operator in made_by.items():
        one, other = here[f"{image}|{tensor}"], arm[f"{image}|{tensor}"]
        if (one != other).any():
            gap = abs(one.astype("int64") - other.astype("int64"))
            counts = {"values": int(gap.size), "different": int((gap > 0).sum())}
            return {"tensor": tensor, "operator": operator, **counts, "levels": int(gap.max())}
    return None
