"""Saliency: whether the candidate still looks where the reference looks."""

from __future__ import annotations

from collections.abc import Sequence

from clinipress.records.judgement import Saliency, SaliencyPanel
from clinipress.records.result import Interval
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.figures import Scale, Shape, nice_ticks, strip, strip_axis
from clinipress.reporting.drawing.forest import foot, marks
from clinipress.reporting.drawing.parts import grid, role_mark, small
from clinipress.reporting.drawing.pictures import PANELS, embedded, maps_picture
from clinipress.reporting.page.shown import SectionView, judgement_section
from clinipress.reporting.view import View
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    counted,
    decimal,
    decimal_interval,
    figure_interval,
    finite,
    significant,
)
from clinipress.text import capital

__all__ = ["saliency_section"]

BASELINES = ("independent", "randomized")
SIMILARITY = {
    "spearman": ("Rank correlation (Spearman)", "1: the same order of places"),
    "ssim": ("Structural similarity (SSIM)", "1: the same map"),
    "iou_top20": ("Overlap of the top 20 %", "1: the same fifth of the picture"),
}
FAITHFULNESS = {
    "average_drop": "Average drop (lower is better)",
    "increase_in_confidence": "Increase in confidence (higher is better)",
    "deletion_auc": "Deletion AUC (lower is better)",
    "insertion_auc": "Insertion AUC (higher is better)",
}
SHARES = frozenset(("average_drop", "increase_in_confidence"))
MODES = {
    "exact": "computed exactly, every channel by the network itself",
    "fast": "computed in the fast mode: channels grouped or skipped, an approximation",
}
NOTE = (
    "Similarity is to the reference's maps of the same images. It means something only between the "
    "two baselines: a network trained apart from the reference (what two good networks share "
    "anyway) and the candidate with random weights (what the method draws whatever the network "
    "knows). Maps show where the answer hangs on the picture, not whether that is sound medicine."
)


def saliency_section(view: View) -> doc.Section | None:
    """Similarity of the maps against their baselines, faithfulness, and the maps."""
    return judgement_section(
        view, "saliency", lambda judgements: judgements.saliency, _sentence, _body, NOTE
    )


def _row_of_candidate(shown: SectionView[Saliency]) -> str | None:
    """Which row is the candidate: by its name, else the first that is neither baseline."""
    rows = [row for row in shown.mine.similarity if row not in (*BASELINES, "reference")]
    return shown.name if shown.name in rows else next(iter(rows), None)


def _sentence(shown: SectionView[Saliency]) -> str:
    """The candidate's similarity between its two baselines."""
    section, row = shown.mine, _row_of_candidate(shown)
    measured = section.similarity.get(row or "", {}).get("spearman")
    opening = f"{section.method} maps of {counted(section.images, f'{shown.where} image')}"
    if measured is None or not finite(measured):
        return f"{opening}: how alike those of {shown.name} are to the reference's: {NOT_MEASURED}."
    beside = [
        f"{words} {decimal(baseline.value)}"
        for key, words in (
            ("independent", "those of a network trained apart"),
            ("randomized", "those of random weights"),
        )
        if (baseline := section.similarity.get(key, {}).get("spearman")) and finite(baseline)
    ]
    against = f", {' and '.join(beside)}" if beside else ", with no baseline to compare with"
    return (
        f"{opening} ({section.mode}): those of {shown.name} correlate with the reference's by "
        f"{decimal_interval(measured)}{against}: {_reading(section, measured)}."
    )


def _reading(section: Saliency, mine: Interval) -> str:
    """What the intervals say about the baselines."""
    apart = section.similarity.get("independent", {}).get("spearman")
    random = section.similarity.get("randomized", {}).get("spearman")
    if random is not None and finite(random) and mine.low <= random.high:
        return "it is not shown to look where the reference looks"
    if apart is None or not finite(apart):
        known = random is not None and finite(random)
        return "more than chance would give" if known else "what that means cannot be told"
    if mine.low > apart.high:
        return "it looks where the reference looks, more than a network trained apart does"
    if mine.high < apart.low:
        return "less than a network trained apart: it looks elsewhere than the reference"
    return "about as much as two networks trained apart share anyway"


def _body(shown: SectionView[Saliency]) -> list[doc.Content]:
    section = shown.mine
    return [
        doc.Heading("How like the reference's maps"),
        _similarity(shown),
        [doc.Heading("Do the maps tell what the answer hangs on?"), _faithfulness(shown)]
        if section.faithfulness or section.inside_mask
        else None,
        _how(section),
        _panels(shown, section.panels),
    ]


def _shape(shown: SectionView[Saliency], row: str) -> Shape:
    if row in ("reference", "independent", "randomized"):
        return row  # type: ignore[return-value]  # mypy does not narrow by a tuple of literals
    return shown.role if row == _row_of_candidate(shown) else "candidate"


def _label(shown: SectionView[Saliency], row: str, *, described: bool = True) -> list[doc.Content]:
    description = shown.mine.maps.get(row) if described else None
    name = shown.name if row == _row_of_candidate(shown) else row
    if row in ("reference", *BASELINES):
        name = capital(row)
    return [role_mark(_shape(shown, row)), name, small(description) if description else None]


def _similarity(shown: SectionView[Saliency]) -> doc.DataTable:
    """Strips: every row of maps on one scale, metric by metric."""
    rows = shown.mine.similarity
    ends = [
        interval.low
        for measured in rows.values()
        for interval in measured.values()
        if finite(interval)
    ]
    low = min(0.0, *ends) if ends else 0.0
    scale = Scale(low, 1.0, 2, 98)
    ticks = nice_ticks(low, 1.0, 5)
    axis = strip_axis(scale, ticks, [decimal(tick, 1) for tick in ticks])
    groups = []
    for metric, (name, best) in SIMILARITY.items():
        head = doc.DataCell([name, small(best)], "group", heads="rowgroup", span=3)
        strips = [_strip_row(shown, row, metric, scale) for row in rows]
        groups.append(doc.RowGroup([doc.DataRow([head], kind="group"), *strips]))
    return doc.DataTable((), [*groups, doc.RowGroup([foot(axis)])], "forest maps", scroll=False)


def _strip_row(shown: SectionView[Saliency], row: str, metric: str, scale: Scale) -> doc.DataRow:
    similarity = shown.mine.similarity[row].get(metric)
    # in words once, in the table below, where there is one
    label = _label(shown, row, described=not shown.mine.faithfulness)
    drawn = strip(marks((_shape(shown, row), similarity)), scale)
    cells = [
        doc.DataCell(label, heads="row"),
        doc.DataCell(drawn, "strip-cell"),
        doc.DataCell(decimal_interval(similarity), "value"),
    ]
    return doc.DataRow(cells)


def _faithfulness(shown: SectionView[Saliency]) -> doc.DataTable:
    section = shown.mine
    metrics = [key for key in FAITHFULNESS if any(key in m for m in section.faithfulness.values())]
    heads = ["", *[FAITHFULNESS[key] for key in metrics]]
    heads += ["Energy inside the mask"] if section.inside_mask else []
    names = list(dict.fromkeys([*section.faithfulness, *section.inside_mask]))
    rows: list[list[doc.Content]] = []
    for name in names:
        measured = section.faithfulness.get(name, {})
        cells: list[doc.Content] = [_write(key, measured.get(key)) for key in metrics]
        inside = figure_interval("share", section.inside_mask.get(name))
        rows.append([_label(shown, name), *cells, *([inside] if section.inside_mask else [])])
    return grid(heads, rows, "cards rows")


def _write(key: str, interval: Interval | None) -> str:
    return figure_interval("share", interval) if key in SHARES else decimal_interval(interval, 3)


def _how(section: Saliency) -> doc.Facts:
    spent = ", ".join(
        f"{name} {significant(seconds)} s" for name, seconds in section.seconds_per_image.items()
    )
    return doc.Facts(
        [
            ("Method", f"{section.method}, {MODES[section.mode]}"),
            ("Time of one map", spent or NOT_MEASURED),
        ]
    )


def _panels(shown: SectionView[Saliency], panels: Sequence[SaliencyPanel]) -> list[doc.Content]:
    heading = doc.Heading("The maps themselves")
    if not panels:
        return [heading, doc.Paragraph("No picture was kept.", "empty")]
    rest = len(panels) - PANELS
    note = doc.Paragraph(f"{rest:,} more are in the run folder.", "note") if rest > 0 else None
    return [heading, doc.Box([_panel(shown, panel) for panel in panels[:PANELS]]), note]


def _panel(shown: SectionView[Saliency], panel: SaliencyPanel) -> doc.Figure:
    """One picture, and the similarity of its maps."""
    picture = embedded(shown.view, panel.picture, f"{panel.key}: {', '.join(panel.titles)}")
    caption = (
        f"{panel.key}: truth {panel.truth}, explained {panel.explained}, correlation "
        f"{decimal(panel.similarity)}"
    )
    return maps_picture(panel.titles, picture, caption)
