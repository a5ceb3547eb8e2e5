"""Whether some group is shown to have lost too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clinipress.evidence.family import (
    Comparison,
    combine,
    joint_confidence,
    judge_family,
    tango_changes,
    widened,
)
from clinipress.records.judgement import Gap
from clinipress.records.result import Interval, Reason, Rule, Status, Verdict
from clinipress.reporting.wording.reasons import worded
from clinipress.stats.intervals import effective_units

__all__ = ["judge_gaps", "judge_groups"]

JUDGED_GAPS = ("accuracy", "auroc_macro", "sensitivity")


def judge_groups(
    compared: Mapping[str, Comparison],
    areas: Mapping[str, Interval],
    gaps: Sequence[Gap],
    small: Mapping[str, int],
    *,
    limit: float,
) -> Verdict:
    """One verdict over all groups of all columns.

    Accuracy of every group and the change of its gaps have to be shown to stay below the limit;
    everything else can only fail.

    Args:
        compared: "accuracy[sex: female]", "sensitivity[glioma, sex: female]" -> the shares.
        areas: "auroc_macro[sex: female]" -> the change of the area under the ROC curve.
        gaps: Of every column and metric; those of accuracy, sensitivity and area are judged.
        small: "site: D" -> images, for the groups that are too small.
        limit: Largest loss allowed, a share.
    """
    judged = [gap for gap in gaps if gap.metric.partition("[")[0] in JUDGED_GAPS]
    confidence = joint_confidence(len(compared) + len(areas) + len(judged))
    rules = [
        Rule(metric="accuracy[*]", margin=limit),
        Rule(metric="sensitivity[*]", margin=limit, primary=False),
        Rule(metric="auroc_macro[*]", margin=limit, primary=False),
    ]
    plain = tango_changes(compared, 0.95) | dict(areas)
    joint = tango_changes(compared, confidence)
    joint |= {name: widened(area, confidence) for name, area in areas.items()}
    units = {name: effective_units(index) for name, (_, _, index) in compared.items()}
    for name in areas:  # the group's own, which its accuracy has
        units[name] = units[f"accuracy[{name.partition('[')[2]}"]
    accuracy = [gap for gap in judged if gap.metric == "accuracy"]
    others = [gap for gap in judged if gap.metric != "accuracy"]
    verdicts = [
        (judge_family(rules, plain, joint, units), True),
        (judge_gaps(accuracy, limit, confidence), True),
    ]
    if others:
        verdicts.append((judge_gaps(others, limit, confidence), False))
    verdict = combine(verdicts)
    if not small:
        return verdict
    note = worded([Reason(kind="small groups", parameters={"groups": dict(small)})])
    return verdict.model_copy(update={"reasons": (*verdict.reasons, *note)})


def judge_gaps(gaps: Sequence[Gap], limit: float, confidence: float) -> Verdict:
    """By the worst gap: a shown loss before an open question before the largest."""
    if not gaps:
        reason = Reason(kind="no gap", status="inconclusive", rule="primary")
        return Verdict(status="inconclusive", reasons=worded([reason]))
    reasons = [_gap_reason(gap, limit, confidence, len(gaps)) for gap in gaps]
    order: tuple[Status, ...] = ("pass", "inconclusive", "fail")

    def badness(number: int) -> tuple[int, float]:
        return order.index(reasons[number].status or "pass"), gaps[number].change.value

    worst = reasons[max(range(len(gaps)), key=badness)]
    return Verdict(status=worst.status or "pass", reasons=worded([worst]))


def _gap_reason(gap: Gap, limit: float, confidence: float, comparisons: int) -> Reason:
    wide = widened(gap.change, confidence)
    status: Status = "inconclusive"
    change = gap.change
    if wide.low >= limit:
        status, change = "fail", wide
    elif gap.change.high < limit:
        status = "pass"
    elif gap.change.low >= limit:
        change = wide
    return Reason(
        kind="gap",
        status=status,
        rule="primary",
        metric=gap.metric,
        where=gap.column,
        interval=change,
        limit=limit,
        parameters={
            "worst": gap.worst,
            "reference": gap.reference.value,
            "candidate": gap.candidate.value,
            "comparisons": comparisons,
        },
    )
