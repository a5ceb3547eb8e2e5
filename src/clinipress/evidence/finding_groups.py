"""Groups of patients where an image may show several findings: the mean area of each group.

The findings of a mean are those that enough patients of the group show, and enough do not
(`clinipress.evidence.multilabel.judgeable`); they are the same for both classifiers. A gap between
groups is of one finding, of the groups that can be judged by it, or of the mean over the findings
by which each of these groups can be judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.evidence.columns import GroupColumn, divide
from clinipress.evidence.evidence import unchanged
from clinipress.evidence.family import (
    ITSELF,
    check_same_images,
    combine,
    identical,
    joint_confidence,
    judge_family,
    widened,
)
from clinipress.evidence.gate import CLASS_MARGIN_FACTOR, IDENTICAL, few_units
from clinipress.evidence.groups import change_interval, gap_interval, gap_of
from clinipress.evidence.multilabel import (
    carried_by_findings,
    judgeable,
    multilabel_changes,
    multilabel_evidence,
)
from clinipress.evidence.scores import Scores
from clinipress.evidence.subgroup_verdict import judge_gaps
from clinipress.records.judgement import Gap, Subgroup, Subgroups
from clinipress.records.result import Interval, Reason, Rule, Verdict
from clinipress.reporting.wording.reasons import worded
from clinipress.stats.bootstrap import BootstrapSpread, bootstrap
from clinipress.stats.intervals import unit_index
from clinipress.stats.metrics import rank_table, weighted_auroc

__all__ = ["finding_groups_section"]

SHOWN = ("auroc_macro", "auroc", "sensitivity", "ece")


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
    each group, and of the gaps between groups in it, which have to be shown to be small; all
    together (`clinipress.evidence.family`). Gaps in the area of single findings are shown, and not
    judged: of forty findings some widen by chance.

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
    gaps = [
        gap
        for column in columns
        for gap in _gaps(reference, candidate, index, column, minimum, resamples, seed)
    ]
    return Subgroups(
        columns=tuple(column.name for column in columns),
        minimum=minimum,
        unknown={column.name: column.unknown for column in columns},
        left_out=left_out,
        groups=tuple(group for group, _, _ in groups),
        gaps=tuple(gaps),
        verdict=ITSELF
        if candidate is reference and columns
        else IDENTICAL
        if columns and identical(reference, candidate)
        else _verdict(groups, gaps, left_out, CLASS_MARGIN_FACTOR * margin),
    )


def _group(
    reference: Scores,
    candidate: Scores,
    column: str,
    value: str,
    rows: NDArray[np.int64],
    minimum: int,
    how: Mapping[str, Any],
) -> tuple[Subgroup, float, dict[str, int]]:
    """One group, how many units carry its mean area, and findings that too few of them carry."""
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
    judged, index = judgeable(labels, units), unit_index(units, len(units))
    enough = {f"[{name}]" for name, judge in zip(names, judged, strict=True) if judge}
    everywhere = judgeable(candidate.labels, candidate.units)
    few = {
        f"{name}, {column}: {value}": len(np.unique(index[labels[:, c] == 1]))
        for c, name in enumerate(names)
        if large and everywhere[c] and not judged[c]
    }
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
    return group, carried_by_findings(labels, names, units=units)["auroc_macro"], few


def _gaps(
    reference: Scores,
    candidate: Scores,
    index: NDArray[np.int64],
    column: GroupColumn,
    minimum: int,
    resamples: int,
    seed: int,
) -> Iterator[Gap]:
    """Best minus worst of the groups of a column: in the mean area, and in each finding's."""
    codes = [np.flatnonzero(column.codes == n) for n in range(len(column.values))]
    rows = {v: r for v, r in zip(column.values, codes, strict=True) if len(r) >= minimum}
    able = {v: judgeable(candidate.labels[r], index[r]) for v, r in rows.items()}
    whole = [value for value in rows if able[value].any()]
    common = np.logical_and.reduce([able[value] for value in whole]) if whole else np.zeros(0)
    among: dict[str, tuple[list[str], list[int]]] = {}  # metric -> groups, findings
    if len(whole) > 1 and common.any():
        among["auroc_macro"] = whole, np.flatnonzero(common).tolist()
    for c, name in enumerate(candidate.classes):
        groups = [value for value in rows if able[value][c]]
        if len(groups) > 1:
            among[f"auroc[{name}]"] = groups, [c]
    if not among:
        return
    before, after = _areas(reference, candidate, index, rows, able, resamples, seed)
    for metric, (groups, findings) in among.items():
        was, now = ([_mean(side, value, findings) for value in groups] for side in (before, after))
        units = np.concatenate([index[rows[value]] for value in groups])
        gaps = [gap_interval(gap_of(side), units) for side in (was, now)]
        change = change_interval(was, now, units)
        if change is None or gaps[0] is None or gaps[1] is None:
            continue
        values = np.array([area.value for area in now])
        yield Gap(
            column=column.name,
            metric=metric,
            best=groups[int(values.argmax())],
            worst=groups[int(values.argmin())],
            candidate=gaps[1],
            reference=gaps[0],
            change=unchanged(change) if identical(reference, candidate) else change,
        )


Areas = dict[str, BootstrapSpread]


def _areas(
    reference: Scores,
    candidate: Scores,
    index: NDArray[np.int64],
    rows: Mapping[str, NDArray[np.int64]],
    able: Mapping[str, NDArray[np.bool_]],
    resamples: int,
    seed: int,
) -> list[Areas]:
    """Each classifier's areas, by group and finding, on shared draws of units within the groups."""
    every = np.concatenate(list(rows.values()))
    codes = np.repeat(np.arange(len(rows)), [len(r) for r in rows.values()])
    dense = np.unique(index[every], return_inverse=True)[1].reshape(-1)
    labels = candidate.labels[every]
    known = {
        f"{value} {c}": (c, np.flatnonzero((codes == n) & (labels[:, c] >= 0)))
        for n, value in enumerate(rows)
        for c in np.flatnonzero(able[value]).tolist()
    }
    tables = [
        {key: rank_table(odds[mine, c], labels[mine, c] == 1) for key, (c, mine) in known.items()}
        for odds in (scores.scaled[every] for scores in (reference, candidate))
    ]

    def measure(counts: NDArray[np.float64]) -> list[dict[str, NDArray[np.float64]]]:
        weights = counts.astype(np.float32)[dense]
        return [
            {key: weighted_auroc(table, weights[known[key][1]]) for key, table in each.items()}
            for each in tables
        ]

    return bootstrap(measure, dense, codes, resamples, seed)


def _mean(areas: Areas, group: str, findings: Sequence[int]) -> BootstrapSpread:
    parts = [areas[f"{group} {c}"] for c in findings]
    return BootstrapSpread(
        float(np.mean([part.value for part in parts])),
        np.mean([part.resampled for part in parts], axis=0),
        np.mean([part.left_out for part in parts], axis=0),
    )


def _shown(figures: Mapping[str, Interval], enough: set[str]) -> dict[str, Interval]:
    """Those of the group, and of findings that enough of its images show."""
    shown = {}
    for name, figure in figures.items():
        family, bracket, rest = name.partition("[")
        if family in SHOWN and (not bracket or bracket + rest in enough):
            shown[name] = figure
    return shown


def _verdict(
    groups: list[tuple[Subgroup, float, dict[str, int]]],
    gaps: Sequence[Gap],
    left_out: Mapping[str, str],
    limit: float,
) -> Verdict:
    if not groups:
        reason = Reason(
            kind="no groups",
            status="inconclusive",
            rule="primary",
            parameters={"left_out": dict(left_out)},
        )
        return Verdict(status="inconclusive", reasons=worded([reason]))
    names = {f"auroc_macro[{g.column}: {g.value}]": (g, units) for g, units, _ in groups}
    plain = {
        name: group.changes["auroc_macro"]
        for name, (group, _) in names.items()
        if "auroc_macro" in group.changes
    }
    of_means = [gap for gap in gaps if gap.metric == "auroc_macro"]
    confidence = joint_confidence(len(plain) + len(of_means))
    joint = {name: widened(change, confidence) for name, change in plain.items()}
    units = {name: units for name, (_, units) in names.items()}
    rules = [Rule(metric="auroc_macro[*]", margin=limit)]
    verdicts = [(judge_family(rules, plain, joint, units), True)]
    verdicts += [(judge_gaps(of_means, limit, confidence), True)] if of_means else []
    verdict = combine(verdicts)
    small = {f"{g.column}: {g.value}": g.cases for g, _, _ in groups if g.too_small}
    notes = [Reason(kind="small groups", parameters={"groups": small})] if small else []
    if few := {name: n for _, _, each in groups for name, n in each.items()}:
        notes.append(few_units(Rule(metric="auroc[*]", margin=limit, primary=False), {
            f"auroc[{name}]": float(n) for name, n in few.items()
        }, whole=True))  # fmt: skip
    return verdict.model_copy(update={"reasons": (*verdict.reasons, *worded(notes))})
