"""model-card.md: the selected model in the form of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import yaml

from clinipress.recipe.formats import format_facts
from clinipress.records.candidate import CandidateRecord
from clinipress.records.judgement import Judgements, OperatingRow
from clinipress.records.result import Interval, Result
from clinipress.reporting.dossier.answers import TOPICS
from clinipress.reporting.dossier.answers_study import (
    judgements_of,
    recipe_setting,
    subject_or_reference,
    techniques_phrase,
    verdict_words,
)
from clinipress.reporting.dossier.people import NOTHING_SAID, MakerAnswers
from clinipress.reporting.dossier.plan import YOURS
from clinipress.reporting.markdown import bullet_list, escape, table
from clinipress.reporting.model_card.hub import metadata, overall_first
from clinipress.reporting.page.calibration import NAMES
from clinipress.reporting.view import View
from clinipress.reporting.wording.lead import change_words, lead, lead_sentences, privacy_sentence
from clinipress.reporting.wording.limits import limits
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    counted,
    decimal_interval,
    figure_interval,
    large,
    megabytes,
    metric_class,
    metric_name,
    milliseconds,
    percent,
)
from clinipress.reporting.wording.phrases import split_name
from clinipress.reporting.wording.sentences import caution_sentence, half_sentence, unasked_sentence
from clinipress.text import capital, sentence, trial_words

__all__ = ["model_card"]

OUT_OF_SCOPE = (
    "Diagnosis, or any decision on a patient, without an assessment of its own: this is not a "
    "medical device.",
    "Images of another kind, modality, body part or preparation than those it was trained on.",
)
NO_THRESHOLD = "no threshold: not asked"
THRESHOLDS = (
    "Each threshold is the probability, after the temperature of its finding, at which sensitivity "
    "plus specificity was largest on the validation images."
)
UNKNOWN_CLASS = "Classes that it was not trained on: it answers with one of its own all the same."
UNKNOWN_FINDING = "Findings that it was not trained on: it says nothing of them, whatever they are."


def model_card(result: Result, answers: MakerAnswers = NOTHING_SAID) -> str:
    """The card of the selected model; of the closest candidate, and so marked, where none is.

    Args:
        result: The record of a study; the only source of what is said of it.
        answers: What people said: licence, maker, users, data.
    """
    view = View(result)
    front = yaml.safe_dump(
        metadata(result, answers["licence"]), sort_keys=False, allow_unicode=True, width=100
    )
    parts = [
        f"---\n{front}---",
        *_head(view, answers),
        *_uses(view, answers),
        *_training(view, answers),
        *_evaluation(view),
        *_calibration(view),
        *_groups(view),
        "## Limitations",
        bullet_list(escape(text) for text in limits(view)),
        *_running(view),
        escape(privacy_sentence(view, sent=True)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# -------------------------------------------------------------------------------------------- text


def _head(view: View, answers: MakerAnswers) -> list[str]:
    result, subject, first = view.result, view.subject, lead(view)
    marks = ["**SYNTHETIC**: drawn images, no patients."] if result.synthetic else []
    if trial := trial_words(result.audit.images, result.audit.trial_of):
        marks.append(f"**Trial**: {escape(trial)}")
    if subject is not None and subject is not view.shipped:
        marks.append(f"**Not selected**: {escape(subject.name)} came closest to what was asked.")
    caution = caution_sentence(view)
    facts = []
    candidate = subject_or_reference(view)
    if candidate is not None:
        facts = [
            f"Model: {escape(candidate.name)}, {escape(techniques_phrase(candidate))}",
            f"{'Grades, the least first' if result.order else capital(view.nouns)}: "
            f"{escape(', '.join(view.classes))}",
            f"Size: {megabytes(candidate.file_bytes)}, {large(candidate.parameters)} parameters",
            f"Time per image: {_time(view, candidate)}",
            f"sha256 of the file: `{candidate.digest}`",
            f"Licence: {_said_or_open(answers, 'licence')}",
            f"Developed by, contact: {_said_or_open(answers, 'developer')}",
        ]
    return [
        f"# {escape(result.study)}",
        *marks,
        f"**{first.word}**: {escape(first.headline)}",
        bullet_list(map(escape, lead_sentences(view))),
        escape(caution) if caution else "",
        bullet_list(facts),
    ]


def _said_or_open(answers: MakerAnswers, *keys: str) -> str:
    said = " ".join(answers[key] for key in keys if answers[key])
    return escape(said) if said else f"*{YOURS}*"


def _time(view: View, candidate: CandidateRecord) -> str:
    timing = view.timing(candidate)
    if timing is None:
        return NOT_MEASURED
    read = ", reading the file included" if timing.preprocessing else ""
    threads = counted(timing.threads, "thread")
    cpu = escape(view.result.environment.cpu)
    return f"{milliseconds(timing.median)} ({timing.runtime}, {threads}, {cpu}{read})"


def _uses(view: View, answers: MakerAnswers) -> list[str]:
    purpose = recipe_setting(view, "intended_use")
    return [
        "## Intended use",
        escape(sentence(purpose)) if purpose else f"*{YOURS}*",
        f"Users, patients, place in the care pathway: {_said_or_open(answers, 'users')}",
        "## Out of scope",
        bullet_list([*OUT_OF_SCOPE, UNKNOWN_FINDING if view.several else UNKNOWN_CLASS]),
    ]


def _said(view: View, topics: Sequence[str]) -> list[str]:
    return [escape(text) for topic in topics if (text := TOPICS[topic](view))]


def _training(view: View, answers: MakerAnswers) -> list[str]:
    origin = [
        f"Origin, dates and licence of the images: {_said_or_open(answers, 'data_origin')}",
        f"Ethics and consent: {_said_or_open(answers, 'ethics', 'consent')}",
    ]
    return [
        "## Training data",
        bullet_list([*_said(view, ("source", "partitions", "counts")), *origin]),
        "## Training",
        bullet_list(_said(view, ("technology", "preprocessing", "training", "initial"))),
    ]


def _evaluation(view: View) -> list[str]:
    subject, reference, split = view.subject, view.reference, view.compared_split
    if subject is None or reference is None or split is None:
        return ["## Evaluation", f"Beside a reference: {NOT_MEASURED}."]
    mine, theirs = subject.evidence[split], reference.evidence[split]
    changes = subject.changes.get(split, {})
    rows = [
        [
            escape(capital(metric_name(metric))),
            figure_interval(metric, theirs.get(metric)),
            figure_interval(metric, mine.get(metric)),
            change_words(metric, changes.get(metric)),
        ]
        for metric, _ in overall_first({**theirs, **mine})
        if metric != "agreement" and not (view.several and metric_class(metric))
    ]
    heads = [
        f"{capital(split_name(split))} images",
        f"Reference ({escape(reference.name)})",
        f"This model ({escape(subject.name)})",
        "Change (shares in percentage points)",
    ]
    each = _each_finding(view, mine, theirs, changes) if view.several else []
    return ["## Evaluation", *_said(view, ("uncertainty",)), table(heads, rows), *each]


def _each_finding(
    view: View,
    mine: Mapping[str, Interval],
    theirs: Mapping[str, Interval],
    changes: Mapping[str, Interval],
) -> list[str]:
    """A row for each finding; what stands folded in an open page is whole in the file."""
    names = [name for part in view.lost_most_first(view.classes) for name in part]
    limits = _own_thresholds(view)
    rows = [
        [
            escape(name),
            figure_interval("auroc", theirs.get(f"auroc[{name}]")),
            figure_interval("auroc", mine.get(f"auroc[{name}]")),
            change_words("auroc", changes.get(f"auroc[{name}]")),
            f"{limits[name]:.3f}" if name in limits else NO_THRESHOLD if limits else NOT_MEASURED,
            figure_interval("sensitivity", mine.get(f"sensitivity[{name}]")),
            figure_interval("specificity", mine.get(f"specificity[{name}]")),
        ]
        for name in names
    ]
    heads = ["Finding", "AUROC, reference", "AUROC", "Change, points", "Threshold",
             "Sensitivity", "Specificity"]  # fmt: skip
    half = half_sentence(_own_thresholds(view).values())
    note = f"{THRESHOLDS}{half} {unasked_sentence(view)}".strip()
    return _folded(f"All {len(names)} findings", table(heads, rows), escape(note))


def _folded(title: str, *blocks: str) -> list[str]:
    return [f"<details>\n<summary>{title}</summary>", *blocks, "</details>"]


def _own_thresholds(view: View) -> dict[str, float]:
    """The calibrated probability at or above which the model in hand calls each finding."""
    section = judgements_of(view).calibration
    return dict(section.thresholds) if section else {}


# --------------------------------------------------------------------- calibration, groups, running


def _calibration(view: View) -> list[str]:
    judgements = judgements_of(view)
    parts = ["## Calibration and thresholds"]
    section = judgements.calibration
    if section is None:
        parts.append(f"Calibration after a temperature: {_absent(judgements, 'calibration')}.")
    else:
        parts += [
            escape(TOPICS["updating"](view) or ""),
            _before_after(section.before, section.after),
        ]
    thresholds = judgements.operating
    if thresholds is None:
        return [*parts, f"Operating points: {_absent(judgements, 'operating')}."]
    declared = "declared by the study" if thresholds.declared else "that of the split"
    points = _thresholds((row for row in thresholds.rows if not row.kept), capital(view.noun))
    return [
        *parts,
        f"Thresholds chosen on {escape(thresholds.chosen_on)} images; prevalence {declared}. "
        f"{escape(verdict_words(thresholds.verdict))}",
        *(_folded("All operating points", points) if view.several else [points]),
    ]


def _absent(judgements: Judgements, section: str) -> str:
    reason = judgements.not_measured.get(section)
    return f"{NOT_MEASURED} ({escape(reason)})" if reason else NOT_MEASURED


def _before_after(before: Mapping[str, Interval], after: Mapping[str, Interval]) -> str:
    rows = [
        [
            escape(", ".join(NAMES[metric][:2]) if metric in NAMES else metric),
            decimal_interval(before.get(metric), 3),
            decimal_interval(after.get(metric), 3),
        ]
        for metric in dict.fromkeys([*before, *after])
    ]
    return table(["", "As trained", "With its temperature"], rows)


def _thresholds(operating: Iterable[OperatingRow], noun: str) -> str:
    rows = [
        [
            escape(row.label),
            escape(row.aim),
            f"{row.threshold:.3f}",
            figure_interval("sensitivity", row.sensitivity),
            figure_interval("specificity", row.specificity),
            f"{figure_interval('ppv', row.ppv)} at {percent(row.prevalence)}",
            f"{row.missed:,} of {row.positives:,}",
        ]
        for row in operating
    ]
    heads = [noun, "Chosen for", "Threshold", "Sensitivity", "Specificity", "PPV", "Missed"]
    return table(heads, rows)


def _groups(view: View) -> list[str]:
    judgements = judgements_of(view)
    section = judgements.subgroups
    if section is None:
        return ["## Subgroups", f"Figures by group: {_absent(judgements, 'subgroups')}."]
    blocks = ["## Subgroups", escape(verdict_words(section.verdict))]
    if not section.groups:
        return blocks
    metrics = list(dict.fromkeys(metric for group in section.groups for metric in group.metrics))
    shown = [metric for metric in metrics if metric_class(metric) is None]
    rows = [
        [
            escape(f"{group.column}: {group.value}"),
            f"{group.cases:,}",
            *(
                "too small"
                if group.too_small
                else figure_interval(metric, group.metrics.get(metric))
                for metric in shown
            ),
        ]
        for group in section.groups
    ]
    return [*blocks, table(["Group", "Images", *(capital(metric_name(m)) for m in shown)], rows)]


def _running(view: View) -> list[str]:
    bundle = view.result.bundle
    heading = "## How to run it"
    if bundle is None:
        return [heading, "No bundle was written, since nothing was selected."]
    shipped = view.shipped
    extra = format_facts(shipped.format).extra if shipped is not None else ""
    package = f"'clinipress[{extra}]'" if extra else "clinipress"
    shell = f"pip install {package}\nclinipress predict {bundle} image.png"
    python = f'from clinipress import load_bundle\n\nload_bundle("{bundle}").classify("image.png")'
    return [heading, f"```sh\n{shell}\n```", f"```python\n{python}\n```"]
