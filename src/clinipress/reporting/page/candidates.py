"""The sections that compare candidates: the table, the trade-off, the changes and their limits."""

from __future__ import annotations

from collections.abc import Callable

from clinipress.records.candidate import (
    CandidateRecord,
)
from clinipress.records.result import (
    Interval,
)
from clinipress.reporting.drawing.forest import Row, forest, marks
from clinipress.reporting.drawing.markup import Child, Markup, tag
from clinipress.reporting.drawing.parts import (
    badge,
    bullets,
    cell,
    legend,
    role_mark,
    section,
    small,
    two_lines,
)
from clinipress.reporting.drawing.plot import Point, trade_off
from clinipress.reporting.view import Role, View
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    TIMES,
    change_interval,
    finite,
    in_points,
    large,
    megabytes,
    metric_class,
    metric_name,
    milliseconds,
    points,
    points_words,
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
from clinipress.text import (
    capital,
    joined,
)

__all__ = ["candidates_section", "gate_section", "trade_off_section"]

ROLE_WORDS: dict[Role, str] = {
    "reference": "reference",
    "shipped": "shipped",
    "rejected": "rejected",
    "candidate": "not chosen",
}


# ------------------------------------------------------------------------------- all candidates


def candidates_section(view: View) -> Markup:
    """Size, speed and accuracy of every candidate, the reference beside them."""
    heads = ["", "Candidate", "File", "Time per image", "Weights", "Peak memory"]
    heads += [f"Accuracy, {split_name(split)}" for split in view.splits]
    heads += [f"Change in {metric_name(view.metric)}, points", "Agreement", "Verdict"]
    table = tag(
        "table",
        tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads])),
        [_candidate_rows(view, number, record) for number, record in view.numbered()],
        class_="cards candidates",
    )
    note = (
        f"In brackets: {coverage_phrase(view)}. Changes are candidate minus reference: below 0 is "
        "a loss. Agreement is the share of images that get the same answer from the reference. 1 "
        "MB is a million bytes; weights are the parameters of the network, with its multiply-adds "
        "for one image; p95 is the time "
        "that 95 of 100 calls stay under."
    )
    lead, taught = candidates_sentence(view), distillation_sentences(view)
    return section(
        "candidates",
        "Size, speed and accuracy",
        lead,
        tag("div", table, class_="scroll", tabindex="0"),
        bullets(taught) if taught else None,
        tag("p", note, class_="note"),
    )


def _candidate_rows(view: View, number: int, record: CandidateRecord) -> Markup:
    role = view.role(record)
    cells = [
        tag("td", role_mark(role), str(number), class_="number"),
        tag(
            "th",
            record.name,
            small(f"{record.format}, {record.precision}"),
            tag("span", ROLE_WORDS[role], class_=f"role {role}") if role != "candidate" else None,
            scope="row",
        ),
        cell(
            "File",
            megabytes(record.file_bytes),
            _ratio(size_phrase(view.size_ratio(record)), role),
        ),
        cell(
            "Time per image",
            _latency(view, record),
            _ratio(speed_phrase(view.speed_ratio(record)), role),
        ),
        cell("Weights", large(record.parameters), small(_macs(record))),
        cell("Peak memory", megabytes(record.peak_memory_bytes)),
        [_accuracy(record, split) for split in view.splits],
        _change(view, record),
        _agreement(view, record),
        cell("Verdict", _said(role, record), class_="verdict-cell"),
    ]
    rows = [tag("tr", cells)]
    reasons = _reasons(record)
    if reasons:
        rows.append(tag("tr", tag("td", reasons, colspan=str(9 + len(view.splits))), class_="why"))
    return tag("tbody", rows, class_=role)


def _said(role: Role, record: CandidateRecord) -> Markup:
    return tag("span", "\u2014") if role == "reference" else badge(record.verdict)


def _ratio(phrase: str | None, role: Role) -> Markup | None:
    """A comparison with the reference, shortened for a table: "40x smaller"."""
    if phrase is None or role == "reference":
        return None
    return small(phrase.replace(" times", TIMES, 1))


def _latency(view: View, record: CandidateRecord) -> list[Child]:
    timing = view.timing(record)
    if timing is None:
        return [NOT_MEASURED]
    alone = record.latency_ms if timing.preprocessing else None
    return [
        milliseconds(timing.median),
        small(f"p95 {milliseconds(timing.p95)}"),
        small(f"network alone {milliseconds(alone.median)}") if alone else None,
    ]


def _macs(record: CandidateRecord) -> str:
    return (
        f"{large(record.macs)} multiply-adds"
        if record.macs is not None
        else f"multiply-adds {NOT_MEASURED}"
    )


def _accuracy(record: CandidateRecord, split: str) -> Markup:
    found = record.evidence.get(split, {}).get("accuracy")
    return cell(f"Accuracy, {split_name(split)}", two_lines("accuracy", found))


def _change(view: View, record: CandidateRecord) -> Markup:
    label = f"Change in {metric_name(view.metric)}, points"
    if view.role(record) == "reference":
        return cell(label, "\u2014")
    change, split = view.change(record, view.metric)
    if change is None or not finite(change):
        return cell(label, NOT_MEASURED)
    value, _, rest = change_interval(change, view.margin).partition(" (")
    return cell(label, value, small(f"({rest}"), small(f"on {split_name(split)}"))


def _agreement(view: View, record: CandidateRecord) -> Markup:
    if view.role(record) == "reference":
        return cell("Agreement", "\u2014")
    found = [record.evidence.get(split, {}).get("agreement") for split in view.splits]
    return cell("Agreement", two_lines("agreement", next((one for one in found if one), None)))


def _reasons(record: CandidateRecord) -> list[Markup]:
    """Why a candidate is not shipped and what the gate said of it, each once."""
    said = [f"Not shipped: {record.rejected}"] if record.rejected is not None else []
    if record.because is not None:
        said.append(f"Tried because {record.because}")
    if record.verdict is not None and record.verdict.status != "pass":
        said += [text for text in record.verdict.texts if text != record.rejected]
    if record.verdict is not None and record.verdict.cases_needed:
        said.append(f"About {record.verdict.cases_needed:,} images would decide.")
    return [tag("span", capital(text), class_="reason") for text in said]


# --------------------------------------------------------------------------------- the trade-off


def _points(view: View, cost: Callable[[CandidateRecord], float | None]) -> list[Point]:
    split = view.plotted_split
    found: list[Point] = []
    for number, record in view.numbered():
        spent = cost(record)
        gain = record.evidence.get(split, {}).get("accuracy") if split else None
        if spent and gain is not None and finite(gain):
            found.append(Point(number, record.name, spent, gain, view.role(record)))
    return found


def trade_off_section(view: View) -> Markup:
    """Accuracy against time and against size, with the front that nothing beats."""

    def median(record: CandidateRecord) -> float | None:
        timing = view.timing(record)
        return timing.median if timing else None

    timed = _points(view, median)
    root = view.timing(view.reference) if view.reference else None
    read = ", reading included" if root and root.preprocessing else ""
    sized = _points(view, lambda record: record.file_bytes / 1e6)
    plots = [
        _panel(timed, f"milliseconds per image (median{read})", "Accuracy against time"),
        _panel(sized, "MB of file", "Accuracy against file size"),
    ]
    names = [
        tag("li", tag("span", str(number), class_="n"), role_mark(view.role(record)), record.name)
        for number, record in view.numbered()
    ]
    absent = [record.name for record in view.candidates if record.latency_ms is None]
    note = (
        f"Accuracy on the {split_name(view.plotted_split)} images with its interval; further left "
        "and further up is better; the cost axis is logarithmic. The stepped line joins the "
        "candidates that no other beats in both."
    )
    if absent:
        note += f" Time {NOT_MEASURED}: {joined(absent)}."
    shapes: list[tuple[Role, str]] = [
        ("reference", "reference"),
        ("shipped", "shipped"),
        ("candidate", "not chosen"),
        ("rejected", "rejected"),
    ]
    return section(
        "trade-off",
        "What accuracy costs",
        trade_off_sentence(view, timed),
        legend(shapes),
        tag("div", plots, class_="panels"),
        tag("ul", names, class_="names"),
        tag("p", note, class_="note"),
    )


def _panel(drawn: list[Point], unit: str, title: str) -> Markup:
    plot = trade_off(drawn, unit, title)
    missing = tag(
        "p", f"{NOT_MEASURED}: fewer than two candidates have both figures", class_="empty"
    )
    return tag("figure", tag("figcaption", title), plot if plot is not None else missing)


# ------------------------------------------------------------------------- changes and their limits


def gate_section(view: View) -> Markup:
    """Every candidate against the main limit, then the shipped one against every limit."""
    name, margin = metric_name(view.metric), view.margin
    rows: list[Row] = []
    for number, record in view.numbered():
        if record is not view.reference:
            change, split = view.change(record, view.metric)
            label = [f"{number} {record.name} ", small(split_name(split) if split else None)]
            rows.append(_change_row(label, change, margin, view.role(record)))
    limit = f" (limit {points_words(margin)})" if margin is not None else ""
    blocks: list[Child] = [tag("h3", f"Change in {name}, all candidates{limit}"), forest(rows)]
    if view.subject is not None:
        blocks.append(tag("h3", f"Every measured change of {view.subject.name}"))
        blocks.append(forest(_subject_rows(view, view.subject)))
    note = (
        "Candidate minus reference on the same images, in points (1 point = 0.01); right of the "
        "zero line the candidate is better. The line across is the interval; the shaded zone "
        "ends at the limit. The main rule needs the whole interval right of the zone; a guard "
        "stops a candidate whose whole interval lies in it."
    )
    said = view.result.verdict.texts
    return section(
        "gate",
        "Change in performance",
        gate_sentence(view),
        bullets([capital(rule_phrase(rule)) + "." for rule in view.result.rules]),
        blocks,
        tag("p", note, class_="note"),
        [tag("h3", "The verdict, rule by rule"), bullets(said)] if said else None,
    )


def _subject_rows(view: View, subject: CandidateRecord) -> list[Row]:
    """Rules first, then every other change that was measured, classes last."""
    margins = view.margins
    split = view.compared_split
    measured = subject.changes.get(split or "", {})
    others = [metric for metric in measured if metric not in margins and in_points(metric)]
    others.sort(key=lambda metric: metric_class(metric) is not None)
    rows: list[Row] = []
    for metric in [*margins, *[m for m in others if not m.startswith(("precision[", "f1["))]]:
        change = view.change(subject, metric)[0] or measured.get(metric)
        name, limit = capital(metric_name(metric)), margins.get(metric)
        told = small(f"limit {points(limit)}") if limit is not None else None
        rows.append(_change_row(name, change, limit, view.role(subject), told))
    return rows


def _change_row(
    label: Child, change: Interval | None, limit: float | None, role: Role, told: Child = None
) -> Row:
    zone = None if limit is None else -limit
    return Row(label, marks((role, change)), [change_interval(change, limit), told], zone)
