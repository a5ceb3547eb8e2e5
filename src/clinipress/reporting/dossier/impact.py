"""Part 3 of dossier.md: what the modifications bring and what they cost, each and together."""

from __future__ import annotations

from clinipress.records.judgement import SECTION_TITLES, SECTIONS, Judgements
from clinipress.records.metrics import metric_facts
from clinipress.records.result import Interval, Rule
from clinipress.reporting.dossier.answers_study import judgements_of, verdict_words
from clinipress.reporting.dossier.people import RISKS, MakerAnswers, left
from clinipress.reporting.dossier.plan import Dossier, Modification
from clinipress.reporting.markdown import bullet_list, escape, table
from clinipress.reporting.view import View
from clinipress.reporting.wording.limits import limits
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    STATUS_WORDS,
    change_interval,
    counted,
    figure,
    limit_figure,
    megabytes,
    metric_class,
    metric_name,
    milliseconds,
)
from clinipress.reporting.wording.phrases import size_phrase, speed_phrase, split_name
from clinipress.reporting.wording.sentences import limits_sentence
from clinipress.text import capital, joined, signed

__all__ = ["impact", "status_word"]


def status_word(modification: Modification) -> str:
    """The verdict on its rules, by its word."""
    return STATUS_WORDS[modification.verdict.status] if modification.verdict else "not judged"


def impact(data: Dossier, view: View, answers: MakerAnswers) -> list[str]:
    """Part 3 of the dossier: benefits, and risks of each change and of all together."""
    reference = view.reference
    timing = view.timing(reference) if reference else None
    root = [
        ["", escape(data.reference), megabytes(reference.file_bytes), "",
         milliseconds(timing.median if timing else None), "",
         megabytes(reference.peak_memory_bytes)]
    ] if reference else []  # fmt: skip
    heads = ["", "Candidate", "File", "", "Time per image", "", "Peak memory"]
    changes = [
        [str(modification.number), escape(modification.name),
         split_name(modification.split) if modification.split else NOT_MEASURED,
         *[_change(rule, modification) for rule in data.protocol.rules],
         status_word(modification)]
        for modification in data.modifications
    ]  # fmt: skip
    named = [escape(_limit(rule, view.noun)) for rule in data.protocol.rules]
    return [
        "## 3. Impact assessment",
        "### Benefits",
        table(heads, [*root, *[_benefit(modification) for modification in data.modifications]]),
        "### Risks, cumulative: change from the root reference",
        "Compressed minus original with their intervals, shares in percentage points.",
        table(["", "Candidate", "Images", *named, "Verdict"], changes),
        "### Risks, each change on its own: beside the candidate it was made from",
        "The records pair every candidate with the root reference: a change made on another "
        "candidate has a point estimate here and no interval. What the teacher gave is the "
        "difference from a control without one, paired.",
        table(
            ["", "Candidate", "Made from", "Images",
             f"Change in {metric_name(view.metric)}, points", "File", "Time",
             "Gain from the teacher, points"],
            [_alone(modification, view)
             for modification in data.modifications if modification.alone],
        ),
        "### Risks, section by section",
        *_sections(data, view),
        "### What remains",
        escape(limits_sentence(len(data.limits))),
        bullet_list(map(escape, limits(view))),
        left(answers, RISKS),
    ]  # fmt: skip


def _limit(rule: Rule, noun: str) -> str:
    limit = limit_figure(rule.metric, rule.margin)
    worst = ", the worst" if rule.metric.endswith("[*]") else ""
    return f"{capital(metric_name(rule.metric, noun))}{worst} (limit {limit})"


def _benefit(modification: Modification) -> list[str]:
    speed = speed_phrase(modification.time_ratio)
    return [
        str(modification.number),
        escape(modification.name),
        megabytes(modification.file_bytes),
        size_phrase(modification.file_ratio) or NOT_MEASURED,
        milliseconds(modification.time.median if modification.time else None),
        speed or ("not comparable" if modification.time else NOT_MEASURED),
        megabytes(modification.peak_memory_bytes),
    ]


def _change(rule: Rule, modification: Modification) -> str:
    """The change that a rule is about; of a rule for every class, the worst class by name."""
    family, every, _ = rule.metric.partition("[*]")
    if not every:
        return _interval(rule.metric, modification.differences.get(rule.metric), rule.margin)
    changes = {
        metric: change
        for metric, change in modification.differences.items()
        if metric.startswith(f"{family}[")
    }
    worst = min(changes, key=lambda metric: changes[metric].low, default=None)
    if worst is None:
        return NOT_MEASURED
    return f"{escape(metric_class(worst) or '')} {_interval(worst, changes[worst], rule.margin)}"


def _interval(metric: str, change: Interval | None, margin: float) -> str:
    if change is None or metric_facts(metric).is_share:
        return change_interval(change, margin)
    value, low, high = (
        figure(metric, number) for number in (change.value, change.low, change.high)
    )
    return f"{value} ({low} to {high})"


def _alone(modification: Modification, view: View) -> list[str]:
    alone = modification.alone
    if alone is None:
        return []
    change = NOT_MEASURED
    if view.metric in alone.differences:
        change = signed(100 * alone.differences[view.metric], 1)
    if alone.parent == view.result.reference and alone.split == modification.split:
        change = change_interval(modification.differences.get(view.metric), view.margin)
    gain = modification.over_control.get(view.metric)
    return [
        str(modification.number),
        escape(modification.name),
        escape(alone.parent),
        split_name(alone.split) if alone.split else NOT_MEASURED,
        change,
        size_phrase(alone.file_ratio) or NOT_MEASURED,
        speed_phrase(alone.time_ratio) or NOT_MEASURED,
        change_interval(gain) if gain else NOT_MEASURED,
    ]


def _sections(data: Dossier, view: View) -> list[str]:
    """Verdicts of all candidates, then the reasons and figures of the one that matters."""
    subject, judgements = view.subject, judgements_of(view)
    if not any(modification.sections for modification in data.modifications):
        names = joined([SECTION_TITLES[name].lower() for name in SECTIONS])
        return [f"{capital(names)}: {NOT_MEASURED}."]
    rows = [
        [
            str(modification.number),
            escape(modification.name),
            *(_section_word(modification, name) for name in SECTIONS),
        ]
        for modification in data.modifications
    ]
    verdicts = table(["", "Candidate", *(SECTION_TITLES[name] for name in SECTIONS)], rows)
    if subject is None:
        return [verdicts]
    reasons = [f"**{SECTION_TITLES[name]}**: {escape(_why(judgements, name))}" for name in SECTIONS]
    flips = judgements.disagreement
    if flips is not None:
        reasons.append(
            f"**Changed answers** among {counted(flips.cases, *view.answered)}: "
            f"{flips.lost:,} right before and wrong now, {flips.gained:,} wrong before and right "
            f"now, {flips.changed:,} wrong in another way"
        )
    where = f"Of {escape(subject.name)}, {split_name(view.compared_split)} images:"
    return [verdicts, where, bullet_list(reasons)]


def _section_word(modification: Modification, name: str) -> str:
    verdict = modification.sections.get(name)
    return STATUS_WORDS[verdict.status] if verdict else NOT_MEASURED


def _why(judgements: Judgements, name: str) -> str:
    section, reason = getattr(judgements, name), judgements.not_measured.get(name)
    if section is not None:
        return verdict_words(section.verdict)
    return f"{NOT_MEASURED}: {reason}" if reason else NOT_MEASURED
