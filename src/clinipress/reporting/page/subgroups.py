"""Subgroups: whether what was lost falls on one group of patients or one source of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from clinipress.records.judgement import Gap, Subgroup, Subgroups
from clinipress.records.metrics import metric_facts
from clinipress.records.result import Interval
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.figures import Scale, nice_ticks, strip, strip_axis
from clinipress.reporting.drawing.forest import ForestRow, forest, marks
from clinipress.reporting.drawing.parts import (
    MANY,
    cell,
    column_heads,
    grid,
    legend,
    lines,
    pair_cell,
    small,
)
from clinipress.reporting.page.shown import SectionView, judgement_section
from clinipress.reporting.view import View
from clinipress.reporting.wording.lead import change_words
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    counted,
    figure,
    figure_interval,
    finite,
    metric_class,
    metric_name,
    points_interval,
    points_words,
    tick_words,
)
from clinipress.reporting.wording.phrases import interval_phrase, unit_words
from clinipress.reporting.wording.sentences import withheld_sentence
from clinipress.text import capital, joined

__all__ = ["subgroups_section"]

PREFERRED = ("balanced_accuracy", "accuracy")  # what is drawn for each group
BESIDE = ("auroc_macro", "ece")  # what stands in figures beside it, unless it is drawn
NONE = "No metadata: the data set says nothing of its patients"
NOTE = (
    "Changes are candidate minus reference on the same images, in points. A gap is the best group "
    "minus the worst; its change is the candidate's gap minus the reference's: above zero, "
    "compression set groups further apart. Grey: groups with too few images to judge."
)


def subgroups_section(view: View) -> doc.Section | None:
    """Figures by group, gaps between groups, and how compression changed them."""
    return judgement_section(
        view, "subgroups", lambda judgements: judgements.subgroups, _sentence, _body, NOTE
    )


def _drawn(view: View, groups: Sequence[Subgroup]) -> str:
    """The metric that most groups have; the mean area of several findings."""
    if view.several:
        return view.overall
    return max(PREFERRED, key=lambda metric: sum(metric in group.metrics for group in groups))


def _sentence(shown: SectionView[Subgroups]) -> str:
    """How many groups, which lost most, and the gap that widened most."""
    section = shown.mine
    withheld = withheld_sentence(shown.view)
    if not section.columns and withheld:
        return f"No groups are shown.{withheld}"
    if not section.columns:
        return (
            f"{NONE} ({shown.where} images), so whether a loss falls on one sex, age or hospital "
            f"is {NOT_MEASURED}."
        )
    small_ones = sum(group.too_small for group in section.groups)
    opening = (
        f"{counted(len(section.groups), 'group')} by {joined(section.columns)} on the "
        f"{shown.where} images, "
    )
    if small_ones:
        opening += (
            f"of which {small_ones:,} {'has' if small_ones == 1 else 'have'} fewer than "
            f"{section.minimum:,} and {'is' if small_ones == 1 else 'are'} not judged"
        )
    else:
        opening += f"each with at least {section.minimum:,}"
    return f"{opening}.{_worst_group(shown.view, section)}{_widest(section.gaps)}"


def _worst_group(view: View, section: Subgroups) -> str:
    metric = _drawn(view, section.groups)
    changes = [
        (change, group)
        for group in section.groups
        if not group.too_small and (change := group.changes.get(metric)) and finite(change)
    ]
    if not changes:
        return ""
    change, group = min(changes, key=lambda pair: pair[0].value)
    if change.value >= 0:
        return f" In no group did {metric_name(metric)} fall."
    return (
        f" The group that lost most is {group.column}: {group.value}, whose "
        f"{metric_name(metric)} fell by {points_words(-change.value)} ({interval_phrase(change)})."
    )


def _widest(gaps: Sequence[Gap]) -> str:
    known = [gap for gap in gaps if finite(gap.change)]
    if not known:
        return ""
    gap = max(known, key=lambda gap: gap.change.value)
    proof = "" if gap.change.low > 0 or gap.change.high < 0 else ", which chance may explain"
    ends = interval_phrase(gap.change).replace("CI", "CI of the change", 1)
    amount = f"{points_words(abs(gap.change.value))} ({ends}){proof}"
    which = f"between {gap.best} and {gap.worst} ({gap.column}, {metric_name(gap.metric)})"
    if gap.change.value > 0:
        return f" The gap that widened most, {which}, grew by {amount}."
    return f" No gap widened; the one that narrowed least, {which}, shrank by {amount}."


def _body(shown: SectionView[Subgroups]) -> list[doc.Content]:
    section = shown.mine
    if not section.columns:
        return []
    shapes = legend([("reference", shown.view.result.reference), (shown.role, shown.name)])
    columns = [_column(shown, column) for column in section.columns]
    return [shapes, columns, _gaps(shown)]


def _column(shown: SectionView[Subgroups], column: str) -> list[doc.Content]:
    """One column: its groups as a forest plot, then class by class."""
    groups = [group for group in shown.mine.groups if group.column == column]
    unknown = shown.mine.unknown.get(column, 0)
    coverage = (
        f"{counted(unknown, 'image')} without a value." if unknown else "Known for all images."
    )
    return [
        doc.Heading(capital(column)),
        doc.Paragraph(coverage if unknown else "Known for all images.", "note"),
        _table(shown, groups) if groups else doc.Paragraph("no group has images", "empty"),
        _by_class(shown, groups),
    ]


def _table(shown: SectionView[Subgroups], groups: Sequence[Subgroup]) -> doc.DataTable:
    metric = _drawn(shown.view, groups)
    ends = [
        interval.low
        for group in groups
        for side in (group.metrics, group.reference)
        if (interval := side.get(metric)) is not None and finite(interval)
    ]
    low = max(min(ends, default=0.0) - 0.02, 0.0)
    scale = Scale(low, 1.0, 3, 94)
    ticks = nice_ticks(low, 1.0, 4)
    labels = [
        tick_words(metric, tick, figure("accuracy", tick).replace(".0", "")) for tick in ticks
    ]
    axis = strip_axis(scale, ticks, labels)
    name = capital(metric_name(metric))
    beside = [capital(_short(other)) for other in _beside(metric)]
    heads = column_heads(["Subgroup", "Images", axis, name, "Change, points", *beside])
    rows = [_group_row(shown, group, metric, scale) for group in groups]
    return doc.DataTable(heads, [doc.RowGroup(rows)], "cards classes")


def _beside(drawn: str) -> list[str]:
    return [metric for metric in BESIDE if metric != drawn]


def _short(metric: str) -> str:
    known = {"auroc_macro": "mean AUROC", "ece": "calibration error"}
    return known.get(metric, metric_name(metric))


def _group_row(
    shown: SectionView[Subgroups], group: Subgroup, metric: str, scale: Scale
) -> doc.DataRow:
    drawn = marks(
        ("reference", group.reference.get(metric)), (shown.role, group.metrics.get(metric))
    )
    few = small(f"too few: at least {shown.mine.minimum:,} are needed") if group.too_small else None
    cells = [
        doc.DataCell([group.value, few], heads="row"),
        cell(
            "Images",
            [f"{group.cases:,}", small(counted(group.units, *unit_words(shown.view.result.split)))],
        ),
        doc.DataCell(strip(drawn, scale), "strip-cell"),
        _pair(capital(metric_name(metric)), metric, group),
        cell("Change, points", lines([change_words(metric, group.changes.get(metric))])),
        *(_pair(capital(_short(other)), other, group) for other in _beside(metric)),
    ]
    return doc.DataRow(cells, "grey" if group.too_small else None)


def _pair(label: str, metric: str, group: Subgroup) -> doc.DataCell:
    if metric not in group.metrics and metric not in group.reference:
        return cell(label, NOT_MEASURED, "pair")
    return pair_cell(label, metric, group.reference.get(metric), group.metrics.get(metric))


def _by_class(shown: SectionView[Subgroups], groups: Sequence[Subgroup]) -> doc.Content:
    """Sensitivity of every class, area of every finding, in every group, behind a title."""
    family = "auroc" if shown.view.several else "sensitivity"
    classes = [
        name
        for name in shown.view.classes
        if any(f"{family}[{name}]" in group.metrics for group in groups)
    ]
    if not classes:
        return None
    rows: list[list[doc.Content]] = [
        [group.value, *[_figures(group, f"{family}[{name}]") for name in classes]]
        for group in groups
    ]
    heads = ["Subgroup", *classes]
    if shown.view.several:  # they may be forty
        first, *rest = zip(*rows, strict=True)
        heads = ["Finding", *map(str, first)]
        rows = [[name, *cells] for name, cells in zip(classes, rest, strict=True)]
    return doc.Details(
        "Area under the ROC curve for each finding"
        if shown.view.several
        else "Sensitivity for each class",
        [
            grid(heads, rows, "cards rows wide"),
            doc.Paragraph("Upper line: original. Lower line: compressed, then the change.", "note"),
        ],
    )


def _figures(group: Subgroup, metric: str) -> doc.Content:
    mine = group.metrics.get(metric)
    if not finite(mine):
        return "too few there" if metric.startswith("auroc") else "none there"
    return [
        doc.Text(figure_interval(metric, group.reference.get(metric)), "line", "line soft"),
        doc.Text(figure_interval(metric, mine), "line", "line"),
        doc.Text(change_words(metric, group.changes.get(metric)), "aside", "line small"),
    ]


def _gaps(shown: SectionView[Subgroups]) -> doc.Content:
    """Gaps before and after, and their change on one scale; those that widened most first."""
    gaps = sorted(shown.mine.gaps, key=lambda gap: -gap.change.value)
    heading = doc.Heading("Gap between best and worst group, and its change, points")
    if not gaps:
        reason = "No column has two groups that are large enough to compare."
        return [heading, doc.Paragraph(reason, "empty")]
    first, rest = gaps[:MANY], gaps[MANY:]
    more = doc.Details(
        f"{counted(len(rest), 'more gap')} that widened less, or narrowed",
        forest([_gap_row(shown, gap) for gap in rest]),
    )
    return [heading, forest([_gap_row(shown, gap) for gap in first]), more if rest else None]


def _gap_row(shown: SectionView[Subgroups], gap: Gap) -> ForestRow:
    name = _short(gap.metric) if metric_class(gap.metric) is None else metric_name(gap.metric)
    label: doc.Content = [
        f"{gap.column}, {name}",
        doc.Text(f"{gap.best} against {gap.worst}", "aside", "small line"),
        doc.Text(f"reference {_gap(gap.metric, gap.reference)}", "aside", "small line"),
        doc.Text(f"candidate {_gap(gap.metric, gap.candidate)}", "aside", "small line"),
    ]
    # a gap is worse when it is larger, as an error is
    return ForestRow(label, marks((shown.role, gap.change)), change_words("ece", gap.change))


def _gap(metric: str, interval: Interval) -> str:
    share = metric_facts(metric).is_share
    return points_interval(interval) if share else figure_interval(metric, interval)
