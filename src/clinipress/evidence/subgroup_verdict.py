"""Whether some group is shown to have lost too much, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clinipress.evidence.family import (
    Comparison,
    combine,
    joint_confidence,
    judge_family,
    span,
    tango_drops,
    widened,
)
from clinipress.records.judgement import Gap
from clinipress.records.metrics import (
    metric_facts,
)
from clinipress.records.result import Interval, Rule, Status, Verdict

__all__ = ["judge_groups"]

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
        areas: "auroc_macro[sex: female]" -> the drop of the area under the ROC curve.
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
    plain = tango_drops(compared, 0.95) | dict(areas)
    joint = tango_drops(compared, confidence)
    joint |= {name: widened(area, confidence) for name, area in areas.items()}
    accuracy = [gap for gap in judged if gap.metric == "accuracy"]
    others = [gap for gap in judged if gap.metric != "accuracy"]
    verdicts = [
        (judge_family(rules, plain, joint), True),
        (_judge_gaps(accuracy, limit, confidence), True),
    ]
    if others:
        verdicts.append((_judge_gaps(others, limit, confidence), False))
    verdict = combine(verdicts)
    if not small:
        return verdict
    names = ", ".join(f"{name} ({cases})" for name, cases in small.items())
    return verdict.with_notes(f"Too few images to judge: {names}.")


def _judge_gaps(gaps: Sequence[Gap], limit: float, confidence: float) -> Verdict:
    """The worst gap in one sentence: a shown loss before an open question before the largest."""
    if not gaps:
        return Verdict(
            status="inconclusive", reasons=("No column has two groups large enough to compare.",)
        )
    judged: list[tuple[int, float, Status, str]] = []
    for gap in gaps:
        wide = widened(gap.change, confidence)
        status: Status = "inconclusive"
        change, end = gap.change, "too few cases to tell"
        if wide.low >= limit:
            status, change, end = "fail", wide, "shown to reach or exceed it"
        elif gap.change.high < limit:
            status, end = "pass", "shown to be below it"
        elif gap.change.low >= limit:
            change = wide
        rank = ("pass", "inconclusive", "fail").index(status)
        reason = (
            f"The gap in {metric_facts(gap.metric).label} between the groups of {gap.column} "
            f"(worst: {gap.worst}) went from {100 * gap.reference.value:.1f} to "
            f"{100 * gap.candidate.value:.1f} points, a change of {span(change)}, "
            f"the limit is {100 * limit:.1f}: {end}."
        )
        judged.append((rank, gap.change.value, status, reason))
    _, _, status, reason = max(judged)
    lead = f"Worst of {len(gaps)} gaps: " if len(gaps) > 1 else ""
    return Verdict(status=status, reasons=(lead + reason,))
