"""Internal beside external: the same figures on the study's images and on sets from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clinipress.records.candidate import CandidateRecord
from clinipress.records.result import Interval
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.parts import grid, small
from clinipress.reporting.measures import finding
from clinipress.reporting.view import SPLIT_ORDER, View
from clinipress.reporting.wording.lead import change_words
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    counted,
    figure_interval,
    finite,
    metric_name,
    percent,
)
from clinipress.reporting.wording.phrases import split_name
from clinipress.reporting.wording.sentences import means_sentence, unasked_sentence
from clinipress.stats.predictive import complement, predictive_value
from clinipress.text import capital, class_words, joined

__all__ = ["external_section"]

METRICS = (
    *("accuracy", "two_off", "kappa_quadratic", "balanced_accuracy", "auroc_macro"),
    *("ece", "brier"),
)
NOTE = (
    "Upper line: original. Lower line: compressed, then the change (compressed minus original, of "
    "shares in percentage points). {between} the change is the price of compression there."
)
PLACE = "What is lost between the columns is the price of a new place;"
OTHERS_TOO = "Means differ between the columns by what they are over and by the place;"


CALLS = ("", "Present", "Called", "PPV here", "PPV if as frequent as in validation")
NOTE_OF_CALLS = (
    "Thresholds are those of the validation images; none was chosen on these images. PPV: of the "
    "images that are called, the share that shows the finding. Where it is rarer than in "
    "validation, the same sensitivity and specificity make more of the calls false."
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
    heads = ["", *[capital(split_name(split)) for split in splits]]

    def rows(metrics: Iterable[str]) -> list[list[doc.Content]]:
        return [
            [
                capital(metric_name(metric, view.noun)),
                *[_cell(reference, subject, split, metric) for split in splits],
            ]
            for metric in metrics
            if any(metric in subject.evidence[split] for split in splits)
        ]

    tests = view.result.external_tests
    sentences = (
        means_sentence(test.means, subject.name, test.name if len(tests) > 1 else "")
        for test in tests
    )
    means = [text for text in sentences if text]
    not_shown = [_not_shown(view, subject, split) for split in elsewhere]
    whole = rows(METRICS if view.several else (*METRICS, *classes))
    each = rows(classes) if view.several else []
    folded = doc.Details("Each finding, inside and outside", grid(heads, each, "cards rows"))
    return doc.Section(
        "external",
        "External test set",
        _sentence(view, subject, elsewhere),
        [
            grid(heads, whole, "cards rows"),
            doc.Paragraph(
                NOTE.format(between=OTHERS_TOO if means or any(not_shown) else PLACE), "note"
            ),
            [doc.Paragraph(text) for text in (*means, *filter(None, not_shown))],
            folded if each else None,
            [_calls(view, subject, split) for split in elsewhere],
        ],
    )


def _not_shown(view: View, subject: CandidateRecord, split: str) -> str:
    """Classes that a set has no image of; of findings `means_sentence` tells."""
    figures = subject.evidence[split]
    there = [name for name in view.classes if f"sensitivity[{name}]" in figures]
    missing = [name for name in view.classes if name not in there]
    if view.several or not missing:
        return ""
    return (
        f"No {split_name(split)} image is of {joined([class_words(n) for n in missing], 'or')}: "
        "balanced accuracy and means over classes are there over "
        f"{joined([class_words(n) for n in there])} alone."
    )


# -------------------------------------------------------------------- how often it calls, elsewhere


@dataclass(frozen=True)
class _Calls:
    """What is called at one threshold in a set from elsewhere.

    Attributes:
        label: Of which finding, or class.
        present: Images that show it.
        called: Images that are called.
        ppv: Of these the share that shows it.
        share: Of the validation images those that show it; None where that is not known.
        expected: The PPV if it were as frequent here.
    """

    label: doc.Content
    present: int
    called: int
    ppv: Interval | None
    share: float | None
    expected: Interval | None


def _calls(view: View, subject: CandidateRecord, split: str) -> doc.Content:
    """How many show each finding, how many are called, and what a call is worth."""
    every = _of_findings(view, subject, split) if view.several else _of_two(view, subject, split)
    if not every:
        return None
    first, rest = view.lost_most_first(list(every)) if view.several else (list(every), [])
    tables = [
        grid(CALLS, [_calls_row(every[name]) for name in names], "cards rows")
        for names in (first, rest)
    ]
    return [
        doc.Heading(f"Present and called, {split_name(split)} images"),
        tables[0],
        doc.Details(counted(len(rest), "more finding"), tables[1]) if rest else None,
        doc.Paragraph(f"{NOTE_OF_CALLS} {unasked_sentence(view)}".strip(), "note"),
    ]


def _calls_row(calls: _Calls) -> list[doc.Content]:
    expected: doc.Content = NOT_MEASURED
    if calls.share is not None:
        ppv = figure_interval("ppv", calls.expected) if calls.expected else "not defined"
        expected = [ppv, small(f"at {percent(calls.share)}")]
    return [
        calls.label,
        f"{calls.present:,}",
        f"{calls.called:,}",
        figure_interval("ppv", calls.ppv) if finite(calls.ppv) else "not defined",
        expected,
    ]


def _expected(
    right: Interval | None, spared: Interval | None, share: float | None
) -> Interval | None:
    if right is None or spared is None or share is None or not 0 < share < 1:
        return None
    return predictive_value(right, complement(spared), share)


def _of_findings(view: View, subject: CandidateRecord, split: str) -> dict[str, _Calls]:
    figures, counts = subject.evidence[split], subject.confusion.get(split, [])
    inside = subject.confusion.get("validation", [])
    calls = {}
    for number, (name, row) in enumerate(zip(view.result.classes, counts, strict=False)):
        if not sum(row):  # this set says nothing of it
            continue
        share = None
        if number < len(inside) and any(inside[number]):
            share = sum(inside[number][:2]) / sum(inside[number])
        right, spared = (figures.get(f"{m}[{name}]") for m in ("sensitivity", "specificity"))
        expected = _expected(right, spared, share)
        ppv = figures.get(f"precision[{name}]")
        calls[name] = _Calls(name, row[0] + row[1], row[0] + row[2], ppv, share, expected)
    return calls


def _of_two(view: View, subject: CandidateRecord, split: str) -> dict[str, _Calls]:
    """Of two classes: the answer, and each threshold that was chosen on validation."""
    positive, figures = finding(view), subject.evidence[split]
    matrix, inside = (subject.confusion.get(name, []) for name in (split, "validation"))
    if positive is None or len(matrix) != 2:
        return {}
    index = view.result.classes.index(positive)
    known = sum(number for row in inside for number in row)
    share = sum(inside[index]) / known if known else None
    right, spared = figures.get("sensitivity"), figures.get("specificity")
    present, called = sum(matrix[index]), matrix[0][index] + matrix[1][index]
    expected = _expected(right, spared, share)
    ppv = figures.get(f"precision[{positive}]")
    label: doc.Content = [positive, small("the likelier of the two")]
    calls = {"": _Calls(label, present, called, ppv, share, expected)}
    judged = subject.judgements.get(split)
    for row in judged.operating.rows if judged and judged.operating else ():
        if row.kept or row.label != positive or row.specificity.n is None:
            continue
        others = row.specificity.n
        false = round((1 - row.specificity.value) * others)
        calls[row.aim] = _Calls(
            [positive, small(f"threshold for {row.aim}")],
            row.positives,
            row.positives - row.missed + false,
            _expected(row.sensitivity, row.specificity, row.positives / (row.positives + others)),
            share,
            _expected(row.sensitivity, row.specificity, share),
        )
    return calls


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
