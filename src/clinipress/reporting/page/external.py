"""Internal beside external: the same figures on the study's images and on sets from elsewhere."""

from __future__ import annotations

from clinipress.records.candidate import CandidateRecord
from clinipress.records.metrics import metric_facts
from clinipress.records.result import Interval
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.parts import grid
from clinipress.reporting.view import SPLIT_ORDER, View
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    change_interval,
    decimal_interval,
    figure_interval,
    finite,
    metric_name,
)
from clinipress.reporting.wording.phrases import change_phrase, split_name
from clinipress.reporting.wording.sentences import overlap_sentence
from clinipress.text import capital, joined

__all__ = ["external_section"]

METRICS = ("accuracy", "balanced_accuracy", "auroc_macro", "ece", "brier")
NOTE = (
    "In each cell the reference stands above, the candidate below, then the change (candidate "
    "minus reference, in points where it is a share). What the model loses between the two "
    "columns is the price of a new place; the change is the price of compression there."
)


def external_section(view: View) -> doc.Section | None:
    """One table, a column for every set of images; None without sets from elsewhere."""
    subject, reference, own = view.subject, view.reference, view.compared_split
    if subject is None or reference is None or own is None:
        return None
    elsewhere = [
        split
        for split in view.splits
        if split not in (*SPLIT_ORDER, own) and subject.evidence.get(split)
    ]
    if not elsewhere:
        return None
    splits = [own, *elsewhere]
    classes = [f"sensitivity[{name}]" for name in view.result.classes]
    rows: list[list[doc.Content]] = [
        [
            capital(metric_name(metric)),
            *[_cell(reference, subject, split, metric) for split in splits],
        ]
        for metric in (*METRICS, *classes)
        if any(metric in subject.evidence[split] for split in splits)
    ]
    heads = ["", *[capital(split_name(split)) for split in splits]]
    return doc.Section(
        "external",
        "Images from elsewhere",
        _sentence(view, subject, own, elsewhere),
        [grid(heads, rows, "cards rows"), doc.Paragraph(NOTE, "note")],
    )


def _sentence(view: View, subject: CandidateRecord, own: str, elsewhere: list[str]) -> str:
    """What the model reaches inside and outside, what compression costs there, and overlap."""
    inside = figure_interval(view.metric, subject.evidence[own].get(view.metric))
    outside, changes = [], []
    for split in elsewhere:
        figure = figure_interval(view.metric, subject.evidence[split].get(view.metric))
        outside.append(f"{figure} on the {split_name(split)} images")
        change = subject.changes.get(split, {}).get(view.metric)
        changes.append(f"on the {split_name(split)} images {change_phrase(view.metric, change)}")
    overlaps = " ".join(overlap_sentence(test.overlap) for test in view.result.external_tests)
    return (
        f"{subject.name}: {metric_name(view.metric)} {inside} on the {split_name(own)} images, "
        f"{joined(outside)}. Against the reference: {joined(changes)}. {overlaps}"
    ).rstrip()


def _cell(
    reference: CandidateRecord, subject: CandidateRecord, split: str, metric: str
) -> doc.Content:
    theirs = reference.evidence.get(split, {}).get(metric)
    mine = subject.evidence[split].get(metric)
    change = subject.changes.get(split, {}).get(metric)
    if not finite(mine):
        return NOT_MEASURED
    return [
        doc.Text(figure_interval(metric, theirs), "line", "line soft"),
        doc.Text(figure_interval(metric, mine), "line", "line"),
        doc.Text(_change(metric, change), "aside", "line small"),
    ]


def _change(metric: str, change: Interval | None) -> str | None:
    if change is None or not finite(change):
        return None
    shares = metric_facts(metric).unit == "points"
    return f"change {change_interval(change) if shares else decimal_interval(change, 3)}"
