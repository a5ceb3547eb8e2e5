"""The sections that compare candidates: the table, the trade-off, the changes and their limits."""

from __future__ import annotations

from collections.abc import Callable

from clinipress.records.candidate import CandidateRecord
from clinipress.records.metrics import metric_facts
from clinipress.records.result import Interval
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.forest import ForestRow, forest, marks
from clinipress.reporting.drawing.markup import tag
from clinipress.reporting.drawing.parts import (
    badge,
    cell,
    column_heads,
    legend,
    lines,
    reasons,
    role_mark,
    small,
    stated_reasons,
    two_lines,
)
from clinipress.reporting.drawing.plot import Point, trade_off
from clinipress.reporting.measures import Measure, measures
from clinipress.reporting.page.first_screen import TONES, both_figures
from clinipress.reporting.view import Role, View
from clinipress.reporting.wording.lead import change_words, measure_name, reading, selection_words
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    TIMES,
    change_interval,
    counted,
    finite,
    large,
    megabytes,
    metric_class,
    metric_name,
    milliseconds,
    points_words,
    short_name,
    times,
)
from clinipress.reporting.wording.phrases import (
    coverage_phrase,
    rule_phrase,
    size_phrase,
    speed_phrase,
    split_name,
)
from clinipress.reporting.wording.sentences import (
    candidates_sentence,
    distillation_sentences,
    gate_sentence,
    trade_off_sentence,
)
from clinipress.text import capital, joined

__all__ = ["candidates_section", "gate_section", "trade_off_section"]

ROLE_WORDS: dict[Role, str] = {
    "reference": "reference",
    "shipped": "selected",
    "rejected": "rejected",
    "candidate": "not chosen",
}


# ------------------------------------------------------------------------------- all candidates


def candidates_section(view: View) -> doc.Section:
    """Size, speed and accuracy of every candidate, the reference beside them."""
    heads = ["", "Candidate", "File", "Time per image", "Weights", "Peak memory"]
    heads += [f"{capital(short_name(view.overall))}, {split_name(split)}" for split in view.splits]
    heads += [f"Change in {metric_name(view.metric)}, points", "Agreement", "Verdict"]
    groups = [_candidate_rows(view, number, record) for number, record in view.numbered()]
    note = (
        f"In brackets: {coverage_phrase(view)}. Changes are candidate minus reference: below 0 is "
        f"a loss. Agreement is the share of {view.answered[1]} that get the same answer from the "
        "reference. 1 MB is a million bytes; weights are the parameters of the network, with its "
        "multiply-adds for one image; p95 is the time that 95 of 100 calls stay under. How many "
        "times faster is the median over turns in which both were timed one after the other."
    )
    lead, taught = candidates_sentence(view), distillation_sentences(view)
    lead += f" {view.too_busy}" if view.too_busy else ""
    return doc.Section(
        "candidates",
        view.told("Size, speed and accuracy"),
        lead,
        [
            doc.DataTable(column_heads(heads), groups, "cards candidates"),
            doc.Bullets(taught) if taught else None,
            doc.Paragraph(note, "note"),
        ],
        short=view.told("Size, speed, accuracy"),
    )


def _candidate_rows(view: View, number: int, record: CandidateRecord) -> doc.RowGroup:
    role = view.role(record)
    words = selection_words(view, record) or ROLE_WORDS[role]
    word = doc.Text(words, "aside", f"role {role}") if role != "candidate" else None
    size, speed = size_phrase(view.size_ratio(record)), speed_phrase(view.speed_ratio(record))
    verdict = doc.Text("\u2014") if role == "reference" else badge(record.verdict)
    cells = [
        doc.DataCell([role_mark(role), str(number)], "number"),
        doc.DataCell(
            [record.name, small(f"{record.format}, {record.precision}"), word], heads="row"
        ),
        cell("File", [megabytes(record.file_bytes), _ratio(size, role)]),
        cell("Time per image", [_latency(view, record), _ratio(speed, role)]),
        cell("Weights", [large(record.parameters), small(_macs(record))]),
        cell("Peak memory", megabytes(record.peak_memory_bytes)),
        *(_overall(view, record, split) for split in view.splits),
        _change(view, record),
        _agreement(view, record),
        cell("Verdict", verdict, "verdict-cell"),
    ]
    rows = [doc.DataRow(cells)]
    if remarks := _remarks(record):
        rows.append(doc.DataRow([doc.DataCell(remarks, span=len(cells))], kind="reasons"))
    return doc.RowGroup(rows, role)


def _ratio(phrase: str | None, role: Role) -> doc.Text | None:
    """A comparison with the reference, shortened for a table: "40x smaller"."""
    if phrase is None or role == "reference":
        return None
    return small(phrase.replace(" times", TIMES, 1))


def _latency(view: View, record: CandidateRecord) -> list[doc.Content]:
    timing = view.timing(record)
    if timing is None:
        return [NOT_MEASURED]
    alone = record.latency_ms if timing.preprocessing else None
    return [
        milliseconds(timing.median),
        small(f"p95 {milliseconds(timing.p95)}"),
        small(f"processor {milliseconds(timing.processor)}") if timing.processor else None,
        small(f"network alone {milliseconds(alone.median)}") if alone else None,
        small(f"{interval.confidence:.0%} CI {times(interval.low)} to {times(interval.high)}")
        if (interval := _believed(record))
        else None,
    ]


def _believed(record: CandidateRecord) -> Interval | None:
    """Of the ratio of times, where it can be relied on."""
    return record.speed.ratio if record.speed is not None and record.speed.reliable else None


def _macs(record: CandidateRecord) -> str:
    return (
        f"{large(record.macs)} multiply-adds"
        if record.macs is not None
        else f"multiply-adds {NOT_MEASURED}"
    )


def _overall(view: View, record: CandidateRecord, split: str) -> doc.DataCell:
    figure = record.evidence.get(split, {}).get(view.overall)
    name = capital(short_name(view.overall))
    return cell(f"{name}, {split_name(split)}", two_lines(view.overall, figure))


def _change(view: View, record: CandidateRecord) -> doc.DataCell:
    label = f"Change in {metric_name(view.metric)}, points"
    if view.role(record) == "reference":
        return cell(label, "\u2014")
    change, split = view.change(record, view.metric)
    if change is None or not finite(change):
        return cell(label, NOT_MEASURED)
    value, _, rest = change_interval(change, view.margin).partition(" (")
    return cell(label, [value, small(f"({rest}"), small(f"on {split_name(split)}")])


def _agreement(view: View, record: CandidateRecord) -> doc.DataCell:
    if view.role(record) == "reference":
        return cell("Agreement", "\u2014")
    shares = [record.evidence.get(split, {}).get("agreement") for split in view.splits]
    own = view.own_judgements(record)
    if view.several and own and own[1].disagreement:  # of pairs of image and finding
        shares.append(own[1].disagreement.agreement)
    return cell("Agreement", two_lines("agreement", next(filter(None, shares), None)))


def _remarks(record: CandidateRecord) -> list[doc.Content]:
    """Why a candidate was not selected and what the gate said of it, each once."""
    texts = [f"Not selected: {record.rejected}"] if record.rejected is not None else []
    if record.because is not None:
        texts.append(f"Tried because {record.because}")
    if record.verdict is not None and record.verdict.status != "pass":
        texts += [reason for reason in reasons(record.verdict) if reason != record.rejected]
    if record.verdict is not None and record.verdict.cases_needed:
        texts.append(f"About {record.verdict.cases_needed:,} images would decide.")
    return [doc.Text(capital(text), "aside", "reason") for text in texts]


# --------------------------------------------------------------------------------- the trade-off


def _points(view: View, cost: Callable[[CandidateRecord], float | None]) -> list[Point]:
    split = view.plotted_split
    points_drawn: list[Point] = []
    for number, record in view.numbered():
        spent = cost(record)
        gain = record.evidence.get(split, {}).get(view.overall) if split else None
        if spent and gain is not None and finite(gain):
            points_drawn.append(Point(number, record.name, spent, gain, view.role(record)))
    return points_drawn


def trade_off_section(view: View) -> doc.Section:
    """Accuracy against time and against size, with the front that nothing beats."""

    def median(record: CandidateRecord) -> float | None:
        timing = view.timing(record)
        return timing.median if timing else None

    timed = _points(view, median)
    root = view.timing(view.reference) if view.reference else None
    read = ", reading included" if root and root.preprocessing else ""
    sized = _points(view, lambda record: record.file_bytes / 1e6)
    plots = [
        _panel(
            timed,
            f"milliseconds per image (median{read})",
            view.told("Accuracy against time"),
            view.overall,
        ),
        _panel(sized, "MB of file", view.told("Accuracy against file size"), view.overall),
    ]
    names = [
        tag("li", tag("span", str(number), class_="n"), role_mark(view.role(record)), record.name)
        for number, record in view.numbered()
    ]
    absent = [record.name for record in view.candidates if record.latency_ms is None]
    note = (
        f"{capital(short_name(view.overall))} on the {split_name(view.plotted_split)} images "
        "with its interval; further left and further up is better; the cost axis is logarithmic. "
        "The stepped line joins the candidates that no other beats in both."
    )
    if absent:
        note += f" Time {NOT_MEASURED}: {joined(absent)}."
    shapes: list[tuple[Role, str]] = [
        ("reference", "reference"),
        ("shipped", "selected"),
        ("candidate", "not chosen"),
        ("rejected", "rejected"),
    ]
    return doc.Section(
        "trade-off",
        view.told("Accuracy versus speed and size"),
        trade_off_sentence(view, timed),
        [
            legend(shapes),
            doc.Box(plots, "panels"),
            doc.Drawing(tag("ul", names, class_="names")),
            doc.Paragraph(note, "note"),
        ],
        short="Trade-off",
    )


def _panel(drawn: list[Point], unit: str, title: str, metric: str) -> doc.Figure:
    plot = trade_off(drawn, unit, title, metric)
    if plot is not None:
        return doc.Figure(title, plot)
    missing = f"{NOT_MEASURED}: fewer than two candidates have both figures"
    return doc.Figure(title, doc.Paragraph(missing, "empty"), missing)


# ------------------------------------------------------------------------- changes and their limits


def gate_section(view: View) -> doc.Section:
    """Every candidate against the main limit, then the selected one against every limit."""
    name, margin = metric_name(view.metric), view.margin
    rows = [
        _change_row(view, number, record)
        for number, record in view.numbered()
        if record is not view.reference
    ]
    limit = f" (limit {points_words(margin)})" if margin is not None else ""
    blocks: list[doc.Content] = [
        doc.Heading(f"Change in {name}, all candidates{limit}"),
        forest(rows),
    ]
    if view.subject is not None:
        blocks.append(_all_measures(view, view.subject))
    note = (
        "Differences are compressed minus original on the same images, of shares in percentage "
        "points. The words worse and better say which way the figure points; a loss or a gain is "
        "shown where the whole interval does. The line across is the interval; the shaded zone "
        "ends at the limit. The main rule needs the whole interval right of the zone; a guard "
        "stops a candidate whose whole interval lies in it. Several measures are looked at: where "
        "nothing was lost, about one in forty still shows a loss by chance."
    )
    verdict = stated_reasons(view.result.verdict)
    return doc.Section(
        "gate",
        "Change in performance",
        gate_sentence(view),
        [
            doc.Bullets(
                [capital(rule_phrase(rule, view.noun)) + "." for rule in view.result.rules]
            ),
            blocks,
            doc.Paragraph(note, "note"),
            [doc.Heading("The verdict, rule by rule"), doc.Bullets(verdict)] if verdict else None,
        ],
    )


def _all_measures(view: View, subject: CandidateRecord) -> list[doc.Content]:
    """Every measured change with both figures; shares are drawn on one scale."""
    every = measures(view, subject)
    title = f"All {counted(len(every), 'measure')} of {subject.name}"
    names = [name for measure in every if (name := metric_class(measure.metric)) is not None]
    folded = view.lost_most_first(list(dict.fromkeys(names)))[1]
    rows: dict[bool, list[ForestRow]] = {True: [], False: []}
    for measure in every:
        hidden = metric_class(measure.metric) in folded
        rows[hidden].append(_measure_row(view.role(subject), measure))
    more = counted(len(rows[True]), "more measure") + " of findings that may have lost less"
    return [
        doc.Heading(title),
        forest(rows[False]),
        doc.Details(more, forest(rows[True])) if folded else None,
    ]


def _measure_row(role: Role, measure: Measure) -> ForestRow:
    """A measure; what is better when lower is drawn turned, so that right is always better."""
    before, after = both_figures(measure)
    drawn = measure.loss.turned if metric_facts(measure.metric).is_share else None
    tone = f"line reading {TONES[measure.shown] or ''}".strip()
    words = doc.Text(reading(measure), "line", tone)
    return ForestRow(
        [
            capital(measure_name(measure)),
            doc.Text(f"{before} \u2192 {after}", "aside", "small line"),
        ],
        marks((role, drawn)),
        [lines([change_words(measure.metric, measure.change, measure.limit)]), words],
        None if measure.limit is None else -measure.limit,
    )


def _change_row(view: View, number: int, record: CandidateRecord) -> ForestRow:
    """A candidate's change of the main metric."""
    metric, limit = view.metric, view.margin
    change, split = view.change(record, metric)
    label: doc.Content = [f"{number} {record.name} ", small(split_name(split) if split else None)]
    drawn = metric_facts(metric).loss(change).turned if change is not None else None
    zone = None if limit is None else -limit
    return ForestRow(
        label, marks((view.role(record), drawn)), change_words(metric, change, limit), zone
    )
