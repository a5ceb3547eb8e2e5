"""Two classifiers on the same images, and one verdict from many comparisons of them.

A section of the evidence looks at many figures at once: every class, every threshold, every group.
To pass, all of them have to be shown to be small, each by its own 95 % interval; no allowance for
their number is due (the intersection-union test: Berger 1982, Technometrics 24:295). To fail, one
is enough, and the more there are the likelier one looks bad by chance; so a loss counts as shown
only when the interval at Bonferroni's confidence ``1 - 0.05 / m`` lies beyond the limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import DataError
from clinipress.evidence import gate
from clinipress.evidence.scores import Scores
from clinipress.records.result import Interval, Reason, Rule, Status, Verdict
from clinipress.reporting.wording.reasons import worded
from clinipress.stats.intervals import unit_index, z_value
from clinipress.stats.metrics import Cases, check_cases
from clinipress.stats.paired import paired_difference

__all__ = [
    "ITSELF",
    "Comparison",
    "check_pair",
    "check_same_images",
    "combine",
    "identical",
    "joint_confidence",
    "judge_family",
    "tango_changes",
    "widened",
]

# right by the reference, right by the candidate, unit: of the same cases, each [n]
Comparison = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]
ITSELF = Verdict(status="pass", reasons=worded([Reason(kind="itself", status="pass")]))


def check_pair(reference: Scores, candidate: Scores) -> tuple[Cases, Cases, NDArray[np.int64]]:
    """Make sure that two classifiers answered the same images.

    Returns:
        The checked cases of both, and the unit of each image, int64 ``[n]``, numbered from 0.

    Raises:
        DataError: No image, other images or another order, other labels, units or classes, or
            logits that are not finite.
    """
    check_same_images(reference, candidate)
    before, after = (
        check_cases(scores.logits, scores.labels, scores.classes, scores.positive)
        for scores in (reference, candidate)
    )
    return before, after, unit_index(candidate.units, len(candidate.labels))


def check_same_images(reference: Scores, candidate: Scores) -> None:
    """Make sure that two sets of scores are of the same images in the same order.

    Raises:
        DataError: They are not, or have other labels, units or classes.
    """
    same = (
        reference.keys == candidate.keys
        and reference.classes == candidate.classes
        and np.array_equal(reference.labels, candidate.labels)
        and np.array_equal(reference.units, candidate.units)
    )
    if not same:
        raise DataError(
            "answers of reference and candidate to the same images in the same order",
            "other names, classes, labels or units",
            "measure both on one split",
        )


def identical(reference: Scores, candidate: Scores) -> bool:
    """Whether all probabilities are the same to the last digit, as of a copy of the file."""
    how = [(s.temperature, s.temperatures, s.thresholds) for s in (reference, candidate)]
    return how[0] == how[1] and np.array_equal(reference.logits, candidate.logits)


def joint_confidence(comparisons: int) -> float:
    """Confidence at which m intervals hold together with 95 %, ``1 - 0.05 / m`` (Bonferroni).

    Rounded up to four digits, so that a sentence can name it.
    """
    return math.ceil((1 - 0.05 / max(comparisons, 1)) * 1e4 - 1e-9) / 1e4


def widened(interval: Interval, confidence: float) -> Interval:
    """A bootstrap interval at a higher confidence: each end moved out by the normal quantiles.

    Percentiles that far out would rest on one or two resamples.
    """
    stretch = z_value(confidence) / z_value(interval.confidence)
    return interval.model_copy(
        update={
            "low": interval.value - stretch * (interval.value - interval.low),
            "high": interval.value + stretch * (interval.high - interval.value),
            "confidence": confidence,
        }
    )


def judge_family(
    rules: Sequence[Rule],
    plain: Mapping[str, Interval],
    joint: Mapping[str, Interval],
    units: Mapping[str, float] | None = None,
) -> Verdict:
    """Apply rules such as "sensitivity[*]" to many paired changes.

    Args:
        rules: What must hold. Those without ``primary`` can fail, and need not be shown to hold.
        plain: Name of the comparison -> change, each with its own 95 % interval.
        joint: The same names -> change at the `joint_confidence`.
        units: The same names -> effective units that carry them, as `gate.judge` takes them.

    Returns:
        "fail" when a rule's loss is shown jointly; "pass" when every primary rule holds in every
        comparison; else "inconclusive". One reason per rule, on its worst comparison; a rule
        without a comparison has none, and none at all is "inconclusive".
    """
    verdicts = []
    for rule in rules:
        family = rule.metric.partition("[*]")[0]
        several = (
            sum(name.startswith(f"{family}[") for name in plain) if "[*]" in rule.metric else 1
        )
        if several and (rule.metric in plain or "[*]" in rule.metric):
            verdict = _worst_comparison(
                rule.model_copy(update={"primary": True}), plain, joint, units or {}
            )
            reasons = tuple(
                reason.model_copy(update={"parameters": {"comparisons": several}})
                if reason.kind == "margin"
                else reason
                for reason in verdict.reasons
            )
            verdicts.append((verdict.model_copy(update={"reasons": reasons}), rule.primary))
    return combine(verdicts)


def tango_changes(compared: Mapping[str, Comparison], confidence: float) -> dict[str, Interval]:
    """Changes of proportions by name; what has no case is absent."""
    changes = {
        name: paired_difference(after, before, unit_index(units, len(units)), confidence)
        for name, (before, after, units) in compared.items()
    }
    return {name: change for name, change in changes.items() if change is not None}


def combine(verdicts: Sequence[tuple[Verdict, bool]]) -> Verdict:
    """One verdict of several: (verdict, whether it has to pass) in the order of their reasons."""
    needed = [verdict for verdict, primary in verdicts if primary]
    status: Status = "pass"
    if any(verdict.status == "fail" for verdict, _ in verdicts):
        status = "fail"
    elif not needed or any(verdict.status != "pass" for verdict in needed):
        status = "inconclusive"
    cases = [verdict.cases_needed for verdict in needed if verdict.status == "inconclusive"]
    known = [number for number in cases if number is not None]
    reasons = [
        reason if primary else _as_guard(reason)
        for verdict, primary in verdicts
        for reason in verdict.reasons
    ]
    return Verdict(
        status=status,
        reasons=worded(reasons),
        cases_needed=max(known)
        if status == "inconclusive" and known and len(known) == len(cases)
        else None,
    )


def _as_guard(reason: Reason) -> Reason:
    """What need not pass decides only where it fails."""
    if reason.rule != "primary":
        return reason
    status = None if reason.status == "inconclusive" else reason.status
    return reason.model_copy(update={"rule": "guard", "status": status})


def _worst_comparison(
    rule: Rule,
    plain: Mapping[str, Interval],
    joint: Mapping[str, Interval],
    units: Mapping[str, float],
) -> Verdict:
    together, alone = (gate.judge([rule], each, units=units) for each in (joint, plain))
    if together.status == "fail" or alone.status == "pass":
        return together if together.status == "fail" else alone
    # by itself the loss would be shown, but not as the worst of so many
    return together if alone.status == "fail" else alone
