"""What the records say to the items of a checklist: the evidence, and all topics together.

A topic gives None where the records hold nothing of it; nobody's silence becomes a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType

from clinipress.records.result import Interval
from clinipress.reporting.dossier.answers_study import (
    STUDY_TOPICS,
    judgements_of,
    recipe_setting,
    subject_or_reference,
    verdict_words,
)
from clinipress.reporting.view import View
from clinipress.reporting.wording.limits import OWN_SPLITS, limits
from clinipress.reporting.wording.numbers import (
    counted,
    figure_interval,
    finite,
    metric_class,
    metric_name,
)
from clinipress.reporting.wording.phrases import (
    change_phrase,
    coverage_phrase,
    rule_phrase,
    split_name,
)
from clinipress.reporting.wording.sentences import (
    classes_sentence,
    meaning_sentence,
    verdict_sentence,
)
from clinipress.text import capital, class_words, joined

__all__ = ["TOPICS"]


# Of all classes, in the order of a sentence; the two in the middle where the classes are grades.
OVERALL = ("accuracy", "two_off", "kappa_quadratic", "balanced_accuracy", "auroc_macro")


def _evidence(view: View) -> dict[str, Interval]:
    """Of the subject, where it is compared."""
    subject, split = subject_or_reference(view), view.compared_split or view.plotted_split
    return subject.evidence.get(split or "", {}) if subject else {}


def _metrics(view: View) -> str | None:
    names = [metric_name(metric) for metric in _evidence(view) if metric_class(metric) is None]
    families = {m.partition("[")[0] for m in _evidence(view) if metric_class(m) is not None}
    each = f"; for each {view.noun} {joined([metric_name(family) for family in sorted(families)])}"
    return f"{capital(joined(names))}{each if families else ''}." if names else None


def _uncertainty(view: View) -> str | None:
    subject = subject_or_reference(view)
    changes = subject.changes.get(view.judged_split(subject) or "", {}) if subject else {}
    intervals = chain(_evidence(view).values(), changes.values())
    methods = sorted({interval.method for interval in intervals if interval.method})
    if not methods:
        return None
    resamples = recipe_setting(view, "bootstrap")
    drawn = f", {resamples:,} resamples" if resamples else ""
    return (
        f"{coverage_phrase(view)} ({joined(methods)}{drawn}); differences are paired, on the same "
        "images."
    )


def _pair(view: View, metrics: Sequence[str], split: str | None) -> str | None:
    """Reference and subject side by side on one split."""
    subject, reference = subject_or_reference(view), view.reference
    figures = []
    for metric in metrics:
        mine = subject.evidence.get(split or "", {}).get(metric) if subject else None
        theirs = reference.evidence.get(split or "", {}).get(metric) if reference else None
        if finite(mine):
            beside = (
                f", reference {figure_interval(metric, theirs)}" if subject != reference else ""
            )
            figures.append(f"{metric_name(metric)} {figure_interval(metric, mine)}{beside}")
    if not figures or subject is None:
        return None
    return f"{subject.name} on {split_name(split)} images: {'; '.join(figures)}."


def _internal(view: View) -> str | None:
    own = [split for split in view.splits if split in OWN_SPLITS]
    split = view.compared_split if view.compared_split in own else next(iter(own), None)
    return _pair(view, OVERALL, split)


def _external(view: View) -> str | None:
    others = [split for split in view.splits if split not in OWN_SPLITS]
    texts = (_pair(view, OVERALL, other) for other in others)
    return " ".join(text for text in texts if text) or None


def _performance(view: View) -> str | None:
    subject = view.subject
    change = view.change(subject, view.metric)[0] if subject else None
    phrase = capital(change_phrase(view.metric, change, view.margin))
    change_sentence = f" {phrase}." if finite(change) else ""
    internal = _internal(view)
    return f"{internal}{change_sentence}" if internal else None


def _performance_groups(view: View) -> str | None:
    groups = judgements_of(view).subgroups
    more = verdict_words(groups.verdict) if groups and groups.columns else "Groups: not measured."
    performance = _performance(view)
    return f"{performance} {more}" if performance else None


def _diagnostic(view: View) -> str | None:
    families = ("sensitivity", "specificity", "auroc")
    metrics = [f"{family}[{name}]" for name in view.classes for family in families]
    return _pair(view, metrics, view.compared_split or view.plotted_split)


def _failures(view: View) -> str | None:
    """The commonest confusions, what was lost to compression, and the classes."""
    subject, split = subject_or_reference(view), view.compared_split or view.plotted_split
    matrix = subject.confusion.get(split or "", []) if subject else []
    names = view.result.classes
    if view.several:
        return _missed_findings(view, matrix, split)
    wrong = sorted(
        (
            (count, names[row], names[column])
            for row, line in enumerate(matrix)
            for column, count in enumerate(line)
            if row != column and count and row < len(names) and column < len(names)
        ),
        reverse=True,
    )
    if not wrong:
        return None
    confusions = joined(
        [
            f"{class_words(true)} taken for {class_words(answer)} {count:,} times"
            for count, true, answer in wrong[:3]
        ]
    )
    section = judgements_of(view).disagreement
    flips = f" {verdict_words(section.verdict)}" if section else ""
    return f"Commonest on {split_name(split)} images: {confusions}. {classes_sentence(view)}{flips}"


def _missed_findings(view: View, matrix: Sequence[Sequence[int]], split: str | None) -> str | None:
    """Of several findings: those missed oftenest at their thresholds (`SplitJudgement`)."""
    rows = zip(view.result.classes, matrix, strict=False)
    missed = sorted(((row[1], row[0] + row[1], name) for name, row in rows if row), reverse=True)
    texts = [
        f"{class_words(n, view.noun)} in {m:,} of {counted(of, 'image')}"
        for m, of, n in missed[:3]
        if m
    ]
    section = judgements_of(view).disagreement
    flips = f" {verdict_words(section.verdict)}" if section else ""
    oftenest = f"Missed oftenest on {split_name(split)} images: {joined(texts)}. " if texts else ""
    return f"{oftenest}{classes_sentence(view)}{flips}" if matrix else None


def _section(name: str) -> Callable[[View], str | None]:
    """The verdict of a section of the evidence; None where it was not measured."""

    def answer(view: View) -> str | None:
        section = getattr(judgements_of(view), name)
        if section is None or (name == "subgroups" and not section.columns):
            return None
        return verdict_words(section.verdict)

    return answer


def _updating(view: View) -> str | None:
    section = judgements_of(view).calibration
    if section is None:
        return None
    temperature = f"Temperature {section.temperature:.3g}"
    if section.temperatures:
        low, high = min(section.temperatures.values()), max(section.temperatures.values())
        temperature = f"A temperature for each finding, {low:.3g} to {high:.3g}"
    return f"{temperature}, fitted on {section.chosen_on} images. {verdict_words(section.verdict)}"


# ------------------------------------------------------------------------------------- all together


def _limits(view: View) -> str | None:
    reservations = counted(len(limits(view)), "reservation")
    return f"{reservations}, listed in report.md under \u201cLimitations\u201d."


def _protocol(view: View) -> str | None:
    rules = "; ".join(rule_phrase(rule, view.noun) for rule in view.result.rules)
    return f"The study file and its rules are in result.json. {capital(rules)}." if rules else None


def _availability(view: View) -> str | None:
    subject = view.subject
    if subject is None:
        return None
    where = f"; bundle: {view.result.bundle}" if view.result.bundle else ""
    return f"{subject.path}, sha256 {subject.digest}{where}."


def _split_file(view: View) -> str | None:
    return f"Which image was in which part: split.json, sha256 {view.result.split.digest}."


TOPICS: Mapping[str, Callable[[View], str | None]] = MappingProxyType(
    {
        **STUDY_TOPICS,
        "availability": _availability,
        "diagnostic": _diagnostic,
        "external": _external,
        "failures": _failures,
        "internal": _internal,
        "limits": _limits,
        "meaning": meaning_sentence,
        "metrics": _metrics,
        "performance": _performance,
        "performance_groups": _performance_groups,
        "protocol": _protocol,
        "saliency": _section("saliency"),
        "split_file": _split_file,
        "stress": _section("stress"),
        "subgroups": _section("subgroups"),
        "uncertainty": _uncertainty,
        "updating": _updating,
        "verdict": verdict_sentence,
    }
)
