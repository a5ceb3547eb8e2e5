"""Operating points: each class called at a threshold, the reference's and the candidate's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clinipress.records.candidate import ANY_FINDING
from clinipress.records.judgement import OperatingRow, OperatingSection
from clinipress.records.result import Interval
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.forest import ForestRow, forest, marks
from clinipress.reporting.drawing.parts import grid, legend, lines, small
from clinipress.reporting.page.shown import SectionView, judgement_section
from clinipress.reporting.view import OPEN_FINDINGS, View
from clinipress.reporting.wording.numbers import (
    change_interval,
    counted,
    decimal,
    figure_interval,
    finite,
    percent,
)
from clinipress.text import capital, class_words

__all__ = ["operating_section"]

MOST = 8  # classes whose points are shown at once; of more findings those that lost most
LISTED = 60  # names of missed images that are listed for one class and threshold
NOTE = (
    "A class is called when its calibrated probability reaches the threshold. Own threshold: "
    "chosen for this candidate; kept: the reference's, as when only the weights are exchanged. "
    "Changes are candidate minus reference (at its own threshold), in points. New: missed by the "
    "candidate and found by the reference. PPV and NPV: of the images that are called, or not "
    "called, the share where that is right, if the class is as frequent as said."
)
HEADS = (*("Whose threshold", "Threshold", "Sensitivity", "Specificity"), *("PPV", "NPV", "Missed"))


def operating_section(view: View) -> doc.Section | None:
    """Thresholds, what they find and miss, and what they would mean in use."""
    return judgement_section(
        view, "operating", lambda judgements: judgements.operating, _sentence, _body, NOTE
    )


def _by_point(rows: Sequence[OperatingRow]) -> dict[tuple[str, str], dict[bool, OperatingRow]]:
    """(class, aim) -> own and kept threshold."""
    points: dict[tuple[str, str], dict[bool, OperatingRow]] = {}
    for row in rows:
        points.setdefault((row.label, row.aim), {})[row.kept] = row
    return points


def _sentence(shown: SectionView[OperatingSection]) -> str:
    """The first aim: the class found least often, and the positives missed in all."""
    rows = shown.mine.rows
    if not rows:
        return f"No {shown.view.noun} of the {shown.where} images could be called at a threshold."
    aims = [row.aim for row in rows]
    aim = next((name for name in aims if name.startswith("sensitivity")), aims[0])
    own = [row for row in rows if row.aim == aim and not row.kept]
    kept = [row for row in rows if row.aim == aim and row.kept]
    if not own:
        own, kept = kept, []
    worst = min(own, key=lambda row: row.sensitivity.value)
    missed, positives = sum(row.missed for row in own), sum(row.positives for row in own)
    theirs = [row.missed_by_reference for row in own if row.missed_by_reference is not None]
    beside = f", the reference {sum(theirs):,}" if len(theirs) == len(own) else ""
    exchanged = (
        f"; with the reference's thresholds kept it would miss {sum(r.missed for r in kept):,}"
        if len(kept) == len(own)
        else ""
    )
    weakest = f"weakest for {class_words(worst.label, shown.view.noun)}: " if len(own) > 1 else ""
    return (
        f"With thresholds chosen for {_aim(aim)} on the {shown.mine.chosen_on} images, "
        f"{shown.name} misses {missed:,} of {counted(positives, 'positive')} among the "
        f"{shown.where} images{_counting_note(shown.view, own)}{beside}{exchanged} "
        f"({weakest}sensitivity {figure_interval('sensitivity', worst.sensitivity)})."
    )


def _counting_note(view: View, rows: Sequence[OperatingRow]) -> str:
    """Why the positives may be more than the images: one is counted in several rows."""
    if len(rows) > 1 and view.result.order:
        return f", over the {len(rows)} steps of the order, an image once for each step it reaches"
    if len(rows) > 1 and view.several:
        return f", over {len(rows)} findings, an image once for each that it shows"
    if ANY_FINDING in {row.label for row in rows}:
        return f", an image with a finding once for itself and once as {ANY_FINDING}"
    return ""


def _aim(aim: str) -> str:
    """An aim in words, "95 % sensitivity" for "sensitivity 0.95"; no number, no change."""
    name, _, number = aim.rpartition(" ")
    try:
        return f"{percent(float(number), 0 if float(number) * 100 % 1 == 0 else 1)} {name}"
    except ValueError:
        return aim


def _body(shown: SectionView[OperatingSection]) -> list[doc.Content]:
    labels = _worst_first(shown.mine.rows)
    most = OPEN_FINDINGS if shown.view.several and len(labels) > MOST else MOST
    rest = labels[most:]
    few = [row for row in shown.mine.rows if row.label in labels[:most]]
    text = f"Those {most} {shown.view.nouns} that may have lost most."
    first = [doc.Paragraph(text, "note")]
    return [
        first if rest else None,
        _changes(shown, few),
        _table(shown, few),
        doc.Details(
            counted(len(rest), f"more {shown.view.noun}", f"more {shown.view.nouns}"),
            _table(shown, [row for row in shown.mine.rows if row.label in rest]),
        )
        if rest
        else None,
        _missed(shown),
    ]


def _worst_first(rows: Sequence[OperatingRow]) -> list[str]:
    """Classes as recorded where they are few, else by the loss that is not excluded."""
    labels = list(dict.fromkeys(row.label for row in rows))
    if len(labels) <= MOST:
        return labels
    worst = dict.fromkeys(labels, 0.0)
    for row in rows:
        change = row.sensitivity_change
        if change is not None and not row.kept:
            worst[row.label] = min(worst[row.label], change.low)
    return sorted(labels, key=lambda label: worst[label])


def _changes(shown: SectionView[OperatingSection], rows: Sequence[OperatingRow]) -> doc.Content:
    """Two forest plots: what own and kept thresholds change."""
    if not any(row.sensitivity_change or row.specificity_change for row in rows):
        return None
    panels = [
        doc.Box([doc.Heading(f"Change in {metric}"), forest(_change_rows(shown, rows, metric))])
        for metric in ("sensitivity", "specificity")
    ]
    both = any(len(pair) == 2 for pair in _by_point(rows).values())
    shapes = legend(
        [(shown.role, "own threshold"), ("kept", "the reference's threshold kept")], stacked=both
    )
    return [shapes, doc.Box(panels, "panels")]


def _change_rows(
    shown: SectionView[OperatingSection], rows: Sequence[OperatingRow], metric: str
) -> list[ForestRow]:
    points = []
    for (label, aim), pair in _by_point(rows).items():
        changes: dict[bool, Interval | None] = {
            kept: row.sensitivity_change if metric == "sensitivity" else row.specificity_change
            for kept, row in pair.items()
        }
        text = lines([change_interval(changes[kept]) for kept in sorted(changes)])
        drawn = marks((shown.role, changes.get(False)), ("kept", changes.get(True)))
        points.append(
            ForestRow([label, doc.Text(f"for {_aim(aim)}", "aside", "small line")], drawn, text)
        )
    return points


def _table(shown: SectionView[OperatingSection], rows: Sequence[OperatingRow]) -> doc.Box:
    theirs = _by_point(shown.theirs.rows if shown.theirs else ())
    body = [
        _table_row(shown, point, pair, theirs.get(point, {}).get(False))
        for point, pair in _by_point(rows).items()
    ]
    heads = [capital(shown.view.noun), *HEADS]
    return doc.Box(grid(heads, body, "cards rows lined"), "below")


def _table_row(
    shown: SectionView[OperatingSection],
    point: tuple[str, str],
    pair: Mapping[bool, OperatingRow],
    root: OperatingRow | None,
) -> list[doc.Content]:
    """Three lines in each cell: the reference, the candidate's own threshold, the one kept."""
    some = next(iter(pair.values()))
    declared = "declared" if shown.mine.declared else "as here"
    sides: list[tuple[str, OperatingRow | None]] = [("reference", root)]
    sides += [("own", pair.get(False)), ("reference's, kept", pair.get(True))]
    there = [(words, row) for words, row in sides if row is not None]
    return [
        [
            point[0],
            small(f"for {_aim(point[1])}"),
            small(f"PPV, NPV at {percent(some.prevalence)} ({declared})"),
        ],
        lines([words for words, _ in there]),
        lines([decimal(row.threshold, 3) for _, row in there]),
        lines([figure_interval("share", row.sensitivity) for _, row in there]),
        lines([figure_interval("share", row.specificity) for _, row in there]),
        lines([_defined(row.ppv) for _, row in there]),
        lines([_defined(row.npv) for _, row in there]),
        lines([_misses(row) for _, row in there]),
    ]


def _defined(interval: Interval | None) -> str:
    return figure_interval("share", interval) if finite(interval) else "not defined"


def _misses(row: OperatingRow) -> str:
    new = f", {len(row.newly_missed):,} new" if row.newly_missed else ""
    return f"{row.missed:,} of {row.positives:,}{new}"


def _missed(shown: SectionView[OperatingSection]) -> doc.Content:
    """Names of the images that only the candidate misses, class by class."""
    rows = [row for row in shown.mine.rows if row.newly_missed]
    heading = doc.Heading("Positives that the reference finds and the candidate misses")
    if not rows:
        return [heading, doc.Paragraph("No image.")]
    labels = list(dict.fromkeys(row.label for row in rows))
    many = shown.view.several and len(labels) > MOST
    if many:
        missed = {n: max(len(r.newly_missed) for r in rows if r.label == n) for n in labels}
        labels.sort(key=lambda label: -missed[label])
    named = [_missed_of(label, [r for r in rows if r.label == label]) for label in labels]
    if not many:
        return [heading, named]
    more = counted(len(named) - OPEN_FINDINGS, "more finding")
    return [heading, named[:OPEN_FINDINGS], doc.Details(more, named[OPEN_FINDINGS:])]


def _missed_of(label: str, rows: Sequence[OperatingRow]) -> doc.Details:
    """One class behind its name: the images missed at each of its thresholds."""
    every = {name for row in rows for name in row.newly_missed}
    return doc.Details(
        f"{class_words(label)}: {counted(len(every), 'image')}", [_missed_list(row) for row in rows]
    )


def _missed_list(row: OperatingRow) -> list[doc.Content]:
    names = list(row.newly_missed)
    rest = len(names) - LISTED
    items = [*names[:LISTED], *([f"\u2026 and {rest:,} more in the record"] if rest > 0 else [])]
    where = "the reference's threshold kept" if row.kept else "own threshold"
    title = f"For {_aim(row.aim)}, {where}: {len(names):,}, the surest miss first"
    return [doc.Paragraph(title, "note"), doc.Bullets(items, "params")]
