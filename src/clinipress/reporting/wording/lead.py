"""What stands first on every page and on the terminal: the verdict about loss, hiding nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clinipress.records.candidate import CandidateRecord
from clinipress.records.judgement import SECTION_TITLES, SECTIONS
from clinipress.records.metrics import metric_facts, way
from clinipress.records.result import Interval, Reason, Status, Verdict
from clinipress.reporting.measures import Measure, lost_most, main_changes, measures
from clinipress.reporting.view import SPLIT_ORDER, View
from clinipress.reporting.wording.numbers import (
    STATUS_WORDS,
    change_interval,
    counted,
    figure,
    figure_interval,
    finite,
    limit_figure,
    megabytes,
    metric_name,
    milliseconds,
    moment,
    percent,
    short_name,
    times,
)
from clinipress.reporting.wording.phrases import (
    overlap_sentence,
    size_phrase,
    speed_phrase,
    split_name,
    unit_words,
)
from clinipress.reporting.wording.reasons import OF_A_CLASS
from clinipress.reporting.wording.sentences import withheld_sentence
from clinipress.text import capital, class_words, joined, sentence, signed

__all__ = [
    "Lead",
    "SectionMark",
    "change_words",
    "floor_sentences",
    "lead",
    "lead_sentences",
    "measure_name",
    "privacy_sentence",
    "reading",
    "release_sentence",
    "rule_change_sentences",
    "selection_words",
]

LOSSES = ", with losses"


@dataclass(frozen=True)
class SectionMark:
    """A section of the evidence in a few words.

    Attributes:
        key: Its name, and its address on the page.
        title: For people.
        status: Its verdict's; None: not measured.
        guard: It can stop the candidate.
        note: What a failure is about, or None.
    """

    key: str
    title: str
    status: Status | None
    guard: bool
    note: str | None = None

    @property
    def word(self) -> str:
        """Its verdict as a word, and what a failure is about."""
        word = STATUS_WORDS[self.status] if self.status else "not measured"
        return f"{word}: {self.note}" if self.note else word


@dataclass(frozen=True)
class Lead:
    """The first screen in words.

    Attributes:
        facts: What it is for, cases and units, when the rules were fixed, openings.
        changed: What of the rules is not as it was at the first opening.
        word: The verdict in capitals; a pass where a loss is shown says so.
        tone: Colour of the verdict: its status, "inconclusive" for a pass with losses.
        beside: What stands below the word: rule, losses shown, sections failed.
        headline: The verdict about loss in one sentence.
        lines: The figures behind it, floors, size and speed.
        changes: The main changes.
        flips: How many answers changed and how, or None.
        flips_reading: What that means, or None.
        sections: All six.
        external: Tests on images from elsewhere, one sentence each, or that there is none.
        steps: What to do next.
    """

    facts: tuple[str, ...]
    changed: tuple[str, ...]
    word: str
    tone: Status
    beside: tuple[str, ...]
    headline: str
    lines: tuple[str, ...]
    changes: tuple[Measure, ...]
    flips: str | None
    flips_reading: str | None
    sections: tuple[SectionMark, ...]
    external: tuple[str, ...]
    steps: tuple[str, ...]


def lead(view: View) -> Lead:
    """The first screen of a result, from its record alone."""
    every = measures(view, view.subject)
    losses = [measure for measure in every if measure.shown == "worse"]
    sections = tuple(_section_marks(view))
    failed = [section for section in sections if section.status == "fail"]
    status = view.result.verdict.status
    with_losses = status == "pass" and bool(losses or failed)
    flips, flips_reading = _flips(view)
    return Lead(
        facts=tuple(_facts(view)),
        changed=tuple(rule_change_sentences(view)),
        word=STATUS_WORDS[status] + (LOSSES if with_losses else ""),
        tone="inconclusive" if with_losses else status,
        beside=tuple(_beside(view, len(every), len(losses), len(failed))),
        headline=_headline(view, every, losses, failed),
        lines=tuple(_lines(view, every)),
        changes=tuple(main_changes(every)),
        flips=flips,
        flips_reading=flips_reading,
        sections=sections,
        external=tuple(_external(view)),
        steps=tuple(_steps(view, every)),
    )


# ---------------------------------------------------------------------------------- the status line


def _facts(view: View) -> list[str]:
    result = view.result
    purpose = str(result.recipe.get("intended_use") or "").strip()
    return [
        f"Intended use: {purpose.removesuffix('.') or 'not stated in the study'}",
        _cases(view),
        _rules_fixed(view),
    ]


def _cases(view: View) -> str:
    """Cases, their units and how many sets they come from."""
    split = view.compared_split or view.plotted_split or "test"
    cases = view.result.split.size(split)
    units, nouns = view.result.split.units.get(split), unit_words(view.result.split)
    of = f" of {counted(units, *nouns)}" if units and nouns[0] != "image" else ""
    sets = len(view.result.external_tests)
    sources = f"one data set and {counted(sets, 'external set')}" if sets else "one data set"
    return f"{counted(cases, f'{split_name(split)} image')}{of}, {sources}"


def _rules_fixed(view: View) -> str:
    result = view.result
    number = len(result.test_openings)
    opened = {0: "test set never opened", 1: "test set opened once"}.get(
        number, f"test set opened {number:,} times"
    )
    first = f", {moment(result.test_openings[0].when)}" if number else ""
    if result.sealed is None:
        return f"When the rules were fixed: not recorded; {opened}{first}"
    fixed = moment(result.sealed.when)
    return f"Rules fixed {fixed} (sha256 {result.sealed.digest[:8]}…); {opened}{first}"


def rule_change_sentences(view: View) -> list[str]:
    """What of the rules is not as it was when the test set was first opened, and since when."""
    words = {"seal": "The sealed rules, or the log of openings, are not as they were written"}
    return [
        f"{words.get(change.what) or _changed(change.what)}: {change.before} \u2192 {change.after} "
        f"(first seen {moment(change.when)})."
        for change in view.result.rule_changes
    ]


def _changed(what: str) -> str:
    return f"{capital(what.replace('_', ' '))} changed after the test set was first opened"


def privacy_sentence(view: View, *, sent: bool) -> str:
    """What a page leaves out of what would name a patient; `sent`: a page that is meant to go."""
    mode = view.result.recipe.get("privacy", "standard")
    without = "images of patients, file names, paths and identifying columns are left out"
    if mode == "strict" or (sent and mode != "full"):
        return f"Privacy ({mode}): {without}.{withheld_sentence(view)}"
    if sent:
        return f"Privacy ({mode}): names, paths and columns may stand here; no image of a patient."
    return (
        f"Privacy ({mode}): this page may hold images of patients, file names and paths, so it "
        "stays with the data. Bundle, model card and dossier are made to be sent."
    )


# -------------------------------------------------------------------------------------- the verdict


def selection_words(view: View, record: CandidateRecord) -> str | None:
    """Whether what was selected on validation is released; None of what was not selected."""
    if record is not view.shipped and not record.selected_for:
        return None
    if record is view.reference:
        return "selected"
    verdict = view.result.verdict if record is view.shipped else record.verdict
    passed = verdict is not None and verdict.status == "pass"
    return "selected, released" if passed else "selected, not released"


def release_sentence(view: View) -> str | None:
    """Why what was selected is, or is not, released; None where nothing was selected."""
    selected = view.shipped
    if selected is None or selected is view.reference:
        return None
    if view.released:
        return f"{selected.name} was selected on the validation images and passed: released."
    others = [
        record.name
        for record in view.compressed
        if record is not selected
        and record.verdict is not None
        and record.verdict.status == "pass"
        and view.judged_split(record) == "test"
    ]
    beside = ""
    if others:
        were = "was" if len(others) == 1 else "were"
        beside = f" {joined(others)} passed on the test images but {were} not the choice."
    return (
        f"{selected.name} was selected, not released: the selection was fixed on the validation "
        f"images so that the test stays honest, and the verdict is "
        f"{STATUS_WORDS[view.result.verdict.status]}.{beside}"
    )


# What stands against any verdict better than inconclusive -> the headline, the line beside the
# verdict, and what to do about it.
_CAPS = {
    "rules changed": (
        "The rules were changed after the test images were read",
        "rules changed after the test",
        "Test again on images that nobody has looked at: the rules are not those that were fixed "
        "before the test set was opened.",
    ),
    "no floor": (
        "No floor says how good the model must be, and nothing passes without one at this risk "
        "level",
        "no floor set",
        "Set floors in a study whose test set was not opened yet, for example floors: "
        "{accuracy: 0.9}.",
    ),
    "may have seen": (
        "Whether the original was trained on the test images is not known",
        "original may have seen the test",
        "Name test images that the original was not trained on (data.test), or say that it has "
        "seen none of these (reference.unseen: true).",
    ),
    "weak reference": (
        "The original itself is not shown to be of use",
        "original not shown to be of use",
        "Start from an original that is shown to be better than chance, the largest class and "
        "the facts of the files.",
    ),
}


def _caps(view: View) -> list[tuple[str, str, str]]:
    """Words of what keeps the verdict from passing; none where it failed on its own."""
    if view.result.verdict.status != "inconclusive":
        return []
    kinds = [reason.kind for reason in view.result.verdict.reasons]
    return [
        (first, beside, fix.replace("{accuracy:", f"{{{view.overall}:"))
        for kind, (first, beside, fix) in _CAPS.items()
        if kind in kinds
    ]


def _beside(view: View, number: int, losses: int, failed: int) -> list[str]:
    primary = next((r for r in view.result.verdict.reasons if r.rule == "primary"), None)
    words = {"pass": "main rule met", "fail": "main rule not met", "inconclusive": "main rule open"}
    parts = [words[primary.status]] if primary and primary.status else []
    parts += [beside for _, beside, _ in _caps(view)]
    if number:
        shown = counted(losses, "loss", "losses") if losses else "no loss"
        parts.append(f"{shown} shown in {counted(number, 'measure')}")
    if failed:
        parts.append(f"{counted(failed, 'section')} failed")
    selected = selection_words(view, view.shipped) if view.shipped else "nothing selected"
    return [*parts, *([selected] if selected else [])]


def _headline(
    view: View, every: Sequence[Measure], losses: Sequence[Measure], failed: Sequence[SectionMark]
) -> str:
    """The verdict about loss in one sentence."""
    if view.subject is None or not every:
        return "No compressed model could be judged against the original."
    if view.shipped is view.reference:
        return "The original itself was selected: nothing was compressed."
    opening = "".join(f"{headline}. " for headline, _, _ in _caps(view))
    if view.shipped is None:
        opening += f"No compressed model was selected; {view.subject.name} came closest. "
    main = next((measure for measure in every if measure.metric == view.metric), None)
    others = [measure for measure in losses if measure is not main]
    kept = f"{opening}{_kept(view, main)}"
    if others:
        worst = max(others, key=lambda measure: (measure.size, measure.loss.value))
        first = lost_most(others) or worst
        more = len(others) - 1
        beside = f", and {counted(more, 'other measure')} got worse" if more else ""
        verb = "fell" if metric_facts(first.metric).higher_is_better else "rose"
        return f"{kept}; {_spoken(first)} {verb}{beside}."
    if failed:
        titles = joined([section.title.lower() for section in failed])
        return f"{kept}; {counted(len(failed), 'section')} of the evidence failed: {titles}."
    if main is not None and main.shown == "worse":
        return f"{kept}; no other loss is shown."
    return f"{kept}; no loss is shown in any of {counted(len(every), 'measure')}."


def _kept(view: View, main: Measure | None) -> str:
    """What became of the metric that decides: "Overall accuracy was kept"."""
    overall = "overall " if view.metric == "accuracy" else ""
    name = capital(f"{overall}{metric_name(view.metric)}")
    if main is None:
        return f"The change in {overall}{metric_name(view.metric)} was not measured"
    if main.shown == "better":
        return f"{name} improved"
    if main.within is None and main.limit is not None:
        return f"{name} may have fallen by more than the margin"
    if main.within is False:
        return f"{name} fell by more than the margin"
    if main.shown == "worse":
        return f"{name} fell within the margin"
    return f"{name} was kept within the margin" if main.limit is not None else f"{name} was kept"


def measure_name(measure: Measure) -> str:
    """A measure in words, with the class where two classes share its name."""
    name = metric_name(measure.metric)
    return (
        f"{name} ({class_words(measure.of)})"
        if measure.of and measure.metric == "sensitivity"
        else name
    )


def _spoken(measure: Measure) -> str:
    name = metric_name(measure.metric)
    return (
        f"{name} for {class_words(measure.of)}"
        if measure.of and measure.metric == "sensitivity"
        else name
    )


def change_words(metric: str, change: Interval | None, margin: float | None = None) -> str:
    """A change with its interval and its direction: "−6.3 (−13.2 to −1.0), worse"."""
    if change is None or not finite(change):
        return "not measured"
    shares = metric_facts(metric).is_share
    text = change_interval(change, margin) if shares else _plain_change(change)
    return f"{text}, {way(metric, change.value)}"


def _plain_change(change: Interval) -> str:
    value, low, high = (signed(x, 3) for x in (change.value, change.low, change.high))
    return f"{value} ({low} to {high})"


def reading(measure: Measure) -> str:
    """How a change reads beside its limit: "loss shown, within its limit of 20.0"."""
    shown = {"worse": "loss shown", "better": "gain shown", None: "no change shown"}
    word = shown[measure.shown]
    if measure.shown == "better":
        return word
    if measure.limit is None:
        return f"{word}, no limit set" if measure.shown == "worse" else word
    limit = limit_figure(measure.metric, measure.limit)
    if measure.within:
        return f"{word}, within its limit of {limit}"
    if measure.within is False:
        return f"{word}, beyond its limit of {limit}"
    return f"{word}, limit of {limit} not settled"


def _lines(view: View, every: Sequence[Measure]) -> list[str]:
    """The figures behind the headline."""
    main = next((measure for measure in every if measure.metric == view.metric), None)
    worst = lost_most(every)
    shown = [measure for measure in (main, worst) if measure is not None]
    lines = [_figures(measure) for measure in dict.fromkeys(shown)]
    lines += floor_sentences(view, view.subject)
    if view.subject is not None and view.subject is not view.reference:
        lines.append(_cost(view, view.subject))
    return lines


def _figures(measure: Measure) -> str:
    """Both figures of a measure, the difference with its interval, and the limit."""
    shares = metric_facts(measure.metric).is_share
    unit = " percentage points" if shares else ""
    both = figure(measure.metric, measure.compressed.value if measure.compressed else None)
    before = figure(measure.metric, measure.reference.value if measure.reference else None)
    change = (
        change_interval(measure.change, measure.limit) if shares else _plain_change(measure.change)
    )
    value, _, ends = change.partition(" (")
    limit = ""
    if measure.limit is not None:
        limit = f"; the largest loss allowed is {limit_figure(measure.metric, measure.limit)}"
    return (
        f"{capital(_spoken(measure))}: {both} (original {before}), difference {value}{unit}, "
        f"{100 * measure.change.confidence:g}% CI {ends.removesuffix(')')}{limit}."
    )


def floor_sentences(view: View, record: CandidateRecord | None) -> list[str]:
    """Each floor beside what was shown."""
    split = view.judged_split(record) if record else None
    lines = []
    for metric, floor in view.floors.items():
        measured = record.evidence.get(split or "", {}).get(metric) if record else None
        least = figure(metric, floor)
        name = capital(metric_name(metric))
        if measured is None or not finite(measured):
            lines.append(f"{name}: at least {least} is required; not measured.")
            continue
        word = (
            "shown" if measured.low > floor else "missed" if measured.high < floor else "not shown"
        )
        lines.append(
            f"{name}: at least {least} is required; {figure_interval(metric, measured)} was "
            f"measured: {word}."
        )
    return lines


def _cost(view: View, record: CandidateRecord) -> str:
    """Size and speed with its interval; no ratio of times where the machine was too busy."""
    size = size_phrase(view.size_ratio(record)) or "size not compared"
    timing, speed, ratio = view.timing(record), record.speed, speed_phrase(view.speed_ratio(record))
    busy = speed is not None and not speed.reliable
    took = f"{milliseconds(timing.median if timing else None)} per image on this computer"
    if timing is None:
        took = "speed not measured"
    elif ratio is not None:
        ends = ""
        if speed is not None:
            low, high = times(speed.ratio.low), times(speed.ratio.high)
            ends = f"{100 * speed.ratio.confidence:g}% CI {low} to {high}; "
        took = f"{ratio} ({ends}{took})"
    why = f" {speed.why}" if busy and speed is not None else ""
    return f"{capital(size)} ({megabytes(record.file_bytes)}), {took}.{why}"


def lead_sentences(view: View) -> list[str]:
    """The first screen as sentences, for pages without its layout."""
    first = lead(view)
    released = release_sentence(view)
    marks = [
        f"{mark.title} {mark.word}{' (can stop the model)' if mark.guard else ''}"
        for mark in first.sections
    ]
    moved = [
        f"{capital(measure_name(m))} {change_words(m.metric, m.change, m.limit)}: {reading(m)}."
        for m in first.changes
    ]
    return [
        *first.changed,
        *([released] if released else []),
        *first.lines,
        *moved,
        *([f"Answers changed: {first.flips}."] if first.flips else []),
        f"Sections: {'; '.join(marks)}.",
        f"External test: {' '.join(first.external)}",
        *map(sentence, first.facts),
    ]


# ----------------------------------------------------------------------------- answers and sections


def _flips(view: View) -> tuple[str | None, str | None]:
    own = view.own_judgements(view.subject) if view.subject else None
    section = own[1].disagreement if own else None
    if section is None or not section.cases:
        return None, None
    total = section.lost + section.gained + section.changed
    if not total:
        return f"none of {section.cases:,}", "every image reads as before"
    return (
        f"{total:,} of {section.cases:,} ({percent(total / section.cases)}): {section.lost:,} now "
        f"wrong, {section.gained:,} now right, {section.changed:,} wrong both times",
        f"{percent(total / section.cases, 0)} of {'answers' if view.several else 'images'} read "
        "differently",
    )


def _section_marks(view: View) -> list[SectionMark]:
    own = view.own_judgements(view.subject) if view.subject else None
    marks = []
    for key in SECTIONS:
        section: Any = getattr(own[1], key) if own else None
        verdict: Verdict | None = section.verdict if section else None
        note = _about(verdict) if verdict and verdict.status == "fail" else None
        status = verdict.status if verdict else None
        marks.append(SectionMark(key, SECTION_TITLES[key], status, key in view.guards, note))
    return marks


def _about(verdict: Verdict) -> str | None:
    """What a failed section is about, in a word or two."""
    reason = _first(verdict, "fail")
    if reason is None or not reason.where or reason.where == "*":
        return None
    where = class_words(reason.where) if reason.kind in OF_A_CLASS else reason.where
    return f"{where} newly missed" if reason.kind == "new misses" else where


def _first(verdict: Verdict, status: Status) -> Reason | None:
    return next((reason for reason in verdict.reasons if reason.status == status), None)


# ---------------------------------------------------------------------------- elsewhere, and then


def _external(view: View) -> list[str]:
    subject, reference = view.subject, view.reference
    splits = [split for split in view.splits if split not in SPLIT_ORDER]
    inside = view.compared_split
    lines = []
    for split in splits:
        if subject is None or inside is None or split not in subject.evidence:
            continue
        name = split.removeprefix("external: ")
        test = next((test for test in view.result.external_tests if test.name == name), None)
        row = test.rows.get(subject.name) if test else None
        verdict = row.verdict if row else None
        overall = view.overall
        here, there = (_pair(subject, reference, where, overall) for where in (inside, split))
        change = subject.changes.get(split, {}).get(overall)
        moved = f"; difference outside {change_words(overall, change)}" if change else ""
        word = f": {STATUS_WORDS[verdict.status]}" if verdict else ""
        overlap = overlap_sentence(test.overlap if test else None)
        text = f"{name}: {short_name(overall)} {here} inside, {there} outside{moved}{word}."
        why = verdict.deciding[:1] if verdict and verdict.status != "pass" else ()
        lines.append(" ".join((text, *map(sentence, why), overlap)))
    lines += [why for file, why in view.result.set_aside.items() if file.startswith("external/")]
    return lines or ["none; all images come from the one data set."]


def _pair(
    subject: CandidateRecord, reference: CandidateRecord | None, split: str, metric: str
) -> str:
    mine = subject.evidence.get(split, {}).get(metric)
    theirs = reference.evidence.get(split, {}).get(metric) if reference else None
    beside = f" (original {figure(metric, theirs.value)})" if theirs else ""
    return f"{figure(metric, mine.value if mine else None)}{beside}"


def _external_steps(view: View) -> list[str]:
    """Where a test on images from elsewhere was not passed."""
    steps = []
    for test in view.result.external_tests:
        row = test.rows.get(view.subject.name) if view.subject else None
        if row is not None and row.verdict and row.verdict.status != "pass":
            verb = "failed" if row.verdict.status == "fail" else "is inconclusive"
            steps.append(
                f"Do not use the model on images like those of {test.name} before it is known why "
                f"the external test there {verb} (section External test set)."
            )
    return steps


def _steps(view: View, every: Sequence[Measure]) -> list[str]:
    """What to do next, the gravest first."""
    result, subject = view.result, view.subject
    steps = [step for _, _, step in _caps(view)]
    if result.rule_changes and not steps:
        steps.append(_CAPS["rules changed"][2])
    if view.shipped is None:
        fixes = [r.parameters["fix"] for r in result.verdict.reasons if r.kind == "barred"]
        steps += [sentence(f"{capital(fix)}, then run the study again") for fix in fixes]
        steps.append("Nothing was selected: see the reasons in the table of candidates.")
    elif result.verdict.status == "fail":
        steps.append("Do not use this model: it failed. The reasons are listed below.")
    own = view.own_judgements(subject) if subject else None
    flips = own[1].disagreement if own else None
    missed = (
        max(flips.directions, key=lambda d: d.missed - d.found, default=None) if flips else None
    )
    if missed is not None and missed.missed > missed.found:
        images = f"newly missed {class_words(missed.label, view.noun)} image"
        images = images if missed.missed == 1 else counted(missed.missed, images)
        steps.append(f"Look at the {images} (section {SECTION_TITLES['disagreement']}).")
    open_limits = [
        measure for measure in every if measure.limit is not None and measure.within is None
    ]
    needed = result.verdict.cases_needed
    if needed:
        steps.append(f"About {counted(needed, 'image')} would be needed to decide.")
    elif open_limits and result.verdict.status != "fail":
        names = joined([_spoken(measure) for measure in open_limits[:3]])
        steps.append(sentence(f"More cases are needed to settle {names}"))
    if not any(split not in SPLIT_ORDER for split in view.splits):
        steps.append("No external test yet: clinipress evaluate RUN OTHER_SITE.")
    steps += _external_steps(view)
    if not str(result.recipe.get("intended_use") or "").strip():
        steps.append("State the intended use in the study (intended_use).")
    return steps
