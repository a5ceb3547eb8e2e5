"""Internal beside external: the same figures on the study's images and on sets from elsewhere."""

from __future__ import annotations

from clinipress.records.candidate import CandidateRecord
from clinipress.records.result import Interval
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.parts import grid
from clinipress.reporting.view import SPLIT_ORDER, View
from clinipress.reporting.wording.lead import change_words
from clinipress.reporting.wording.numbers import NOT_MEASURED, figure_interval, finite, metric_name
from clinipress.reporting.wording.phrases import split_name
from clinipress.text import capital, joined

__all__ = ["external_section"]

METRICS = (
    *("accuracy", "two_off", "kappa_quadratic", "balanced_accuracy", "auroc_macro"),
    *("ece", "brier"),
)
NOTE = (
    "Upper line: original. Lower line: compressed, then the change (compressed minus original, of "
    "shares in percentage points). What is lost between the columns is the price of a new place; "
    "the change is the price of compression there."
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
    families = ("auroc", "sensitivity", "specificity") if view.several else ("sensitivity",)
    classes = [f"{family}[{name}]" for name in view.classes for family in families]
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
        "External test set",
        _sentence(view, subject, elsewhere),
        [grid(heads, rows, "cards rows"), doc.Paragraph(NOTE, "note")],
    )


def _sentence(view: View, subject: CandidateRecord, elsewhere: list[str]) -> str:
    """The deciding figure inside and outside, then its change outside."""
    metric, own = view.metric, view.compared_split or ""
    inside = figure_interval(metric, subject.evidence[own].get(metric))
    parts = []
    for split in elsewhere:
        outside = figure_interval(metric, subject.evidence[split].get(metric))
        change = change_words(metric, subject.changes.get(split, {}).get(metric))
        parts.append(f"{outside} on the {split_name(split)} images (change there {change})")
    return f"{subject.name}, {metric_name(metric)}: {inside} inside, {joined(parts)}."


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
    return f"change {change_words(metric, change)}" if finite(change) else None
