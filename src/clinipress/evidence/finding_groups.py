"""Groups of patients where an image may show several findings: the mean area of each group.

The findings of a mean are those that enough patients of the group show, and enough do not
(`clinipress.evidence.multilabel`); they are the same for both classifiers. A gap between groups is
not told: other findings are counted in each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.evidence.columns import divide
from clinipress.evidence.family import (
    ITSELF,
    check_same_images,
    combine,
    identical,
    joint_confidence,
    judge_family,
    widened,
)
from clinipress.evidence.gate import CLASS_MARGIN_FACTOR, IDENTICAL
from clinipress.evidence.multilabel import (
    carried_by_findings,
    multilabel_changes,
    multilabel_evidence,
)
from clinipress.evidence.scores import Scores
from clinipress.records.judgement import Subgroup, Subgroups
from clinipress.records.result import Interval, Reason, Rule, Verdict
from clinipress.reporting.wording.reasons import worded
from clinipress.stats.intervals import unit_index

__all__ = ["finding_groups_section"]

SHOWN = ("auroc_macro", "sensitivity", "ece")


def finding_groups_section(
    reference: Scores,
    candidate: Scores,
    *,
    minimum: int = 20,
    margin: float,
    resamples: int = 2000,
    seed: int = 0,
) -> Subgroups:
    """Figures of every group of every column, of several findings.

    What is judged, against `CLASS_MARGIN_FACTOR` times the margin: the change of the mean area of
    each group, which has to be shown to be small; all groups together
    (`clinipress.evidence.family`).

    Args:
        reference: The reference's answers, of several findings.
        candidate: The candidate's on the same images, whose `groups` are used; the very same object
            for the reference itself, whose changes are left out.
        minimum: Images below which a group is too small: it is counted, and not judged.
        margin: Largest loss allowed of the mean area, a share.
        resamples: Bootstrap resamples.
        seed: Same seed, same intervals.

    Raises:
        DataError: Answers that do not belong together.
    """
    check_same_images(reference, candidate)
    index = unit_index(candidate.units, len(candidate.labels))
    columns, left_out = divide(candidate.groups, index)
    how = {"resamples": resamples, "seed": seed}
    groups = [
        _group(reference, candidate, column.name, value, np.flatnonzero(column.codes == n),
               minimum, how)
        for column in columns for n, value in enumerate(column.values)
    ]  # fmt: skip
    return Subgroups(
        columns=tuple(column.name for column in columns),
        minimum=minimum,
        unknown={column.name: column.unknown for column in columns},
        left_out=left_out,
        groups=tuple(group for group, _ in groups),
        verdict=ITSELF
        if candidate is reference and columns
        else IDENTICAL
        if columns and identical(reference, candidate)
        else _verdict(groups, left_out, CLASS_MARGIN_FACTOR * margin),
    )


def _group(
    reference: Scores,
    candidate: Scores,
    column: str,
    value: str,
    rows: NDArray[np.int64],
    minimum: int,
    how: Mapping[str, Any],
) -> tuple[Subgroup, float]:
    """One group, and how many units carry its mean area."""
    itself, units = candidate is reference, candidate.units[rows]
    labels, names = candidate.labels[rows], candidate.classes
    mine: dict[str, Interval] = {}
    theirs: dict[str, Interval] = {}
    changes: dict[str, Interval] = {}
    large = len(rows) >= minimum
    if large:
        before, after = (scores.scaled[rows] for scores in (reference, candidate))
        limits = [scores.thresholds or 0.5 for scores in (reference, candidate)]
        common = {"units": units, **how}
        mine = multilabel_evidence(after, labels, names, thresholds=limits[1], **common)
        theirs = multilabel_evidence(before, labels, names, thresholds=limits[0], **common)
        if not itself:
            changes = multilabel_changes(
                before, after, labels, names,
                thresholds=limits[0], candidate_thresholds=limits[1], **common,
            )  # fmt: skip
    enough = {f"[{name}]" for c, name in enumerate(names) if (labels[:, c] == 1).sum() >= minimum}
    group = Subgroup(
        column=column,
        value=value,
        cases=len(rows),
        units=len(np.unique(units)),
        too_small=not large,
        metrics=_shown(mine, enough),
        reference=_shown(theirs, enough),
        changes=_shown(changes, enough),
    )
    return group, carried_by_findings(labels, names, units=units)["auroc_macro"]


def _shown(figures: Mapping[str, Interval], enough: set[str]) -> dict[str, Interval]:
    """Those of the group, and of findings that enough of its images show."""
    shown = {}
    for name, figure in figures.items():
        family, bracket, rest = name.partition("[")
        if family in SHOWN and (not bracket or bracket + rest in enough):
            shown[name] = figure
    return shown


def _verdict(
    groups: list[tuple[Subgroup, float]], left_out: Mapping[str, str], limit: float
) -> Verdict:
    if not groups:
        reason = Reason(
            kind="no groups",
            status="inconclusive",
            rule="primary",
            parameters={"left_out": dict(left_out)},
        )
        return Verdict(status="inconclusive", reasons=worded([reason]))
    names = {f"auroc_macro[{g.column}: {g.value}]": (g, units) for g, units in groups}
    plain = {
        name: group.changes["auroc_macro"]
        for name, (group, _) in names.items()
        if "auroc_macro" in group.changes
    }
    confidence = joint_confidence(len(plain))
    joint = {name: widened(change, confidence) for name, change in plain.items()}
    units = {name: units for name, (_, units) in names.items()}
    rules = [Rule(metric="auroc_macro[*]", margin=limit)]
    verdict = combine([(judge_family(rules, plain, joint, units), True)])
    small = {f"{g.column}: {g.value}": g.cases for g, _ in groups if g.too_small}
    if not small:
        return verdict
    note = worded([Reason(kind="small groups", parameters={"groups": small})])
    return verdict.model_copy(update={"reasons": (*verdict.reasons, *note)})
