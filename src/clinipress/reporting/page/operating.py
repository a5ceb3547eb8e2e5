"""Operating points: each class called at a threshold, the reference's and the candidate's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clinipress.records.judgement import OperatingRow, OperatingSection
from clinipress.records.result import Interval
from clinipress.reporting.drawing.forest import Row, forest, marks
from clinipress.reporting.drawing.markup import Child, Markup, tag
from clinipress.reporting.drawing.parts import folded, grid, legend, small
from clinipress.reporting.page.shown import Shown, judgement_section
from clinipress.reporting.view import View
from clinipress.reporting.wording.numbers import (
    change_interval,
    counted,
    decimal,
    figure_interval,
    finite,
    percent,
)

__all__ = ["operating_section"]

MOST = 8  # classes whose points are shown at once, those that lost most
LISTED = 60  # names of missed images that are listed for one class and threshold
NOTE = (
    "A class is called when its calibrated probability reaches the threshold. Own threshold: "
    "chosen for this candidate; kept: the reference's, as when only the weights are exchanged. "
    "Falls are reference (at its own threshold) minus candidate, in points. New: missed by the "
    "candidate and found by the reference. PPV and NPV: of the images that are called, or not "
    "called, the share where that is right, if the class is as frequent as said."
)
HEADS = (
    *("Class", "Whose threshold", "Threshold", "Sensitivity", "Specificity"),
    *("PPV", "NPV", "Missed"),
)


def operating_section(view: View) -> Markup | None:
    """Thresholds, what they find and miss, and what they would mean in use."""
    return judgement_section(view, "operating", lambda one: one.operating, _sentence, _body, NOTE)


def _by_point(rows: Sequence[OperatingRow]) -> dict[tuple[str, str], dict[bool, OperatingRow]]:
    """(class, aim) -> own and kept threshold."""
    found: dict[tuple[str, str], dict[bool, OperatingRow]] = {}
    for row in rows:
        found.setdefault((row.label, row.aim), {})[row.kept] = row
    return found


def _sentence(shown: Shown[OperatingSection]) -> str:
    """The first aim: the class found least often, and the positives missed in all."""
    rows = shown.mine.rows
    if not rows:
        return f"No class of the {shown.where} images could be called at a threshold."
    aims = [row.aim for row in rows]
    aim = next((one for one in aims if one.startswith("sensitivity")), aims[0])
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
    said = f"weakest for {worst.label}: " if len(own) > 1 else ""
    return (
        f"With thresholds chosen for {_aim(aim)} on the {shown.mine.chosen_on} images, "
        f"{shown.name} misses {missed:,} of {counted(positives, 'positive')} among the "
        f"{shown.where} images{beside}{exchanged} ({said}sensitivity "
        f"{figure_interval('sensitivity', worst.sensitivity)})."
    )


def _aim(aim: str) -> str:
    """An aim in words, "95 % sensitivity" for "sensitivity 0.95"; no number, no change."""
    name, _, number = aim.rpartition(" ")
    try:
        return f"{percent(float(number), 0 if float(number) * 100 % 1 == 0 else 1)} {name}"
    except ValueError:
        return aim


def _body(shown: Shown[OperatingSection]) -> list[Child]:
    labels = _worst_first(shown.mine.rows)
    rest = labels[MOST:]
    few = [row for row in shown.mine.rows if row.label in labels[:MOST]]
    first = [tag("p", f"Those {MOST} classes that may have lost most.", class_="note")]
    return [
        first if rest else None,
        _changes(shown, few),
        _table(shown, few),
        folded(
            f"{counted(len(rest), 'more class', 'more classes')}",
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
        if row.sensitivity_change is not None and not row.kept:
            worst[row.label] = min(worst[row.label], row.sensitivity_change.low)
    return sorted(labels, key=lambda label: worst[label])


def _changes(shown: Shown[OperatingSection], rows: Sequence[OperatingRow]) -> Child:
    """Two forest plots: what own and kept thresholds change."""
    if not any(row.sensitivity_change or row.specificity_change for row in rows):
        return None
    panels = [
        tag("div", tag("h3", f"Change in {metric}"), forest(_change_rows(shown, rows, metric)))
        for metric in ("sensitivity", "specificity")
    ]
    shapes = legend([(shown.role, "own threshold"), ("kept", "the reference's threshold kept")])
    return [shapes, tag("div", panels, class_="panels")]


def _change_rows(
    shown: Shown[OperatingSection], rows: Sequence[OperatingRow], metric: str
) -> list[Row]:
    found = []
    for (label, aim), pair in _by_point(rows).items():
        changes: dict[bool, Interval | None] = {
            kept: getattr(row, f"{metric}_change") for kept, row in pair.items()
        }
        text = _lines([change_interval(changes[kept]) for kept in sorted(changes)])
        drawn = marks((shown.role, changes.get(False)), ("kept", changes.get(True)))
        found.append(
            Row([label, tag("span", f"for {_aim(aim)}", class_="small line")], drawn, text)
        )
    return found


def _table(shown: Shown[OperatingSection], rows: Sequence[OperatingRow]) -> Markup:
    theirs = _by_point(shown.theirs.rows if shown.theirs else ())
    body = [
        _table_row(shown, point, pair, theirs.get(point, {}).get(False))
        for point, pair in _by_point(rows).items()
    ]
    return tag("div", grid(HEADS, body, "cards rows lined"), class_="below")


def _table_row(
    shown: Shown[OperatingSection],
    point: tuple[str, str],
    pair: Mapping[bool, OperatingRow],
    root: OperatingRow | None,
) -> list[Child]:
    """Three lines in each cell: the reference, the candidate's own threshold, the one kept."""
    some = next(iter(pair.values()))
    declared = "declared" if shown.mine.declared else "as here"
    lines: list[tuple[str, OperatingRow | None]] = [("reference", root)]
    lines += [("own", pair.get(False)), ("reference's, kept", pair.get(True))]
    there = [(words, row) for words, row in lines if row is not None]
    return [
        [
            point[0],
            small(f"for {_aim(point[1])}"),
            small(f"PPV, NPV at {percent(some.prevalence)} ({declared})"),
        ],
        _lines([words for words, _ in there]),
        _lines([decimal(row.threshold, 3) for _, row in there]),
        _lines([figure_interval("share", row.sensitivity) for _, row in there]),
        _lines([figure_interval("share", row.specificity) for _, row in there]),
        _lines([_defined(row.ppv) for _, row in there]),
        _lines([_defined(row.npv) for _, row in there]),
        _lines([_misses(row) for _, row in there]),
    ]


def _lines(texts: Sequence[str]) -> list[Child]:
    return [tag("span", text, class_="line") for text in texts]


def _defined(interval: Interval | None) -> str:
    return figure_interval("share", interval) if finite(interval) else "not defined"


def _misses(row: OperatingRow) -> str:
    new = f", {len(row.newly_missed):,} new" if row.newly_missed else ""
    return f"{row.missed:,} of {row.positives:,}{new}"


def _missed(shown: Shown[OperatingSection]) -> Child:
    """Names of the images that only the candidate misses, class by class."""
    rows = [row for row in shown.mine.rows if row.newly_missed]
    heading = tag("h3", "Positives that the reference finds and the candidate misses")
    if not rows:
        return [heading, tag("p", "No image.")]
    labels = dict.fromkeys(row.label for row in rows)
    return [heading, [_missed_of(label, [r for r in rows if r.label == label]) for label in labels]]


def _missed_of(label: str, rows: Sequence[OperatingRow]) -> Markup:
    """One class behind its name: the images missed at each of its thresholds."""
    every = {name for row in rows for name in row.newly_missed}
    return folded(f"{label}: {counted(len(every), 'image')}", [_missed_list(row) for row in rows])


def _missed_list(row: OperatingRow) -> list[Child]:
    names = list(row.newly_missed)
    rest = len(names) - LISTED
    items: list[Child] = [tag("li", name) for name in names[:LISTED]]
    more = tag("li", f"\u2026 and {rest:,} more in the record") if rest > 0 else None
    where = "the reference's threshold kept" if row.kept else "own threshold"
    title = f"For {_aim(row.aim)}, {where}: {len(names):,}, the surest miss first"
    return [tag("p", title, class_="note"), tag("ul", items, more, class_="params")]
