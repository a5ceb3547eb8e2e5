"""model-card.md: the shipped model in the form of the Hugging Face Hub, with its metadata.

The metadata follow the Hub's specification (huggingface/hub-docs, modelcard.md): what it has no
field for, the intervals, stands in each result's name and arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import yaml

from clinipress.findings import Findings, OperatingRow
from clinipress.records import CandidateRecord, Interval, Result
from clinipress.report.answers import TOPICS
from clinipress.report.answers_study import (
    asked,
    data_name,
    findings_of,
    subject_or_reference,
    techniques_phrase,
    verdict_words,
)
from clinipress.report.formats import (
    NOT_MEASURED,
    counted,
    figure,
    figure_interval,
    finite,
    in_points,
    large,
    megabytes,
    metric_class,
    metric_name,
    milliseconds,
    percent,
    points_interval,
)
from clinipress.report.limits import limits
from clinipress.report.phrases import capital, split_name
from clinipress.report.plain import bullet_list, escape, table
from clinipress.report.plan import YOURS
from clinipress.report.view import View
from clinipress.report.words import caution_sentence, meaning_sentence, verdict_sentence

__all__ = ["metadata", "model_card"]

# Our name of a figure -> the Hub's name of the metric; it has none for the balanced accuracy.
HUB_METRICS: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced_accuracy",
        "auroc_macro": "roc_auc",
        "f1_macro": "f1",
        "sensitivity": "recall",
        "brier": "brier_score",
    }
)
KNOWN = frozenset({"accuracy", "brier_score", "f1", "recall", "roc_auc"})
# Extras that bring a format's engine, beside those that the base install has.
EXTRAS = frozenset({"executorch", "litert", "openvino", "tflite-micro"})
FOREIGN: Mapping[str, str] = MappingProxyType({"litert": "tflite", "tflite-micro": "tflite"})
TASK = "image-classification"
OUT_OF_SCOPE = (
    "Diagnosis, or any decision on a patient, without an assessment of its own: this is not a "
    "medical device.",
    "Images of another kind, modality, body part or preparation than those it was trained on.",
    "Classes that it was not trained on: it answers with one of its own all the same.",
)


def model_card(result: Result) -> str:
    """The card of the shipped model; of the closest candidate, and so marked, where none is.

    Args:
        result: The record of a study; the only source of what is said.
    """
    view = View(result)
    front = yaml.safe_dump(metadata(result), sort_keys=False, allow_unicode=True, width=100)
    parts = [
        f"---\n{front}---",
        *_head(view),
        *_uses(view),
        *_training(view),
        *_evaluation(view),
        *_calibration(view),
        *_groups(view),
        "## Limitations",
        bullet_list(escape(text) for text in limits(view)),
        *_running(view),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# ---------------------------------------------------------------------------------------- metadata


def metadata(result: Result) -> dict[str, Any]:
    """The card's front matter as plain data."""
    view = View(result)
    subject = subject_or_reference(view)
    found: dict[str, Any] = {
        "license": "unknown",
        "library_name": "clinipress",
        "pipeline_tag": TASK,
        "tags": _tags(view, subject),
        "datasets": [data_name(view)],
    }
    measured = _reported(view, subject)
    if not measured or subject is None:
        return found
    split = view.compared_split or view.plotted_split or ""
    found["metrics"] = [hub for hub in dict.fromkeys(hub for _, hub, _ in measured) if hub in KNOWN]
    found["model-index"] = [
        {
            "name": f"{result.study}-{subject.name}",
            "results": [
                {
                    "task": {"type": TASK, "name": "Image classification"},
                    "dataset": {
                        "type": data_name(view),
                        "name": f"{data_name(view)}, {split_name(split)} images",
                        "split": split,
                        "args": {
                            "divided_by": result.split.by,
                            "split_sha256": result.split.digest,
                        },
                    },
                    "metrics": [_entry(metric, hub, one) for metric, hub, one in measured],
                }
            ],
        }
    ]
    return found


def _tags(view: View, subject: CandidateRecord | None) -> list[str]:
    tags = ["medical-imaging", TASK, "model-compression"]
    modality = asked(view, "data", "modality")
    tags += [modality] if modality and modality != "generic" else []
    if subject is not None:
        tags += [FOREIGN.get(subject.format, subject.format), subject.precision]
        tags += [step.step for step in subject.history if step.step not in ("train", "export")]
    tags += ["synthetic"] if view.result.synthetic else []
    return list(dict.fromkeys(tags))


def _reported(view: View, subject: CandidateRecord | None) -> list[tuple[str, str, Interval]]:
    """Figures that the Hub has a name for: our name, the Hub's, the interval."""
    split = view.compared_split or view.plotted_split or ""
    evidence = subject.evidence.get(split, {}) if subject else {}
    return [
        (metric, HUB_METRICS[metric.partition("[")[0]], one)
        for metric, one in _overall_first(evidence)
        if metric.partition("[")[0] in HUB_METRICS and finite(one)
    ]


def _overall_first(evidence: Mapping[str, Interval]) -> list[tuple[str, Interval]]:
    """Figures over all classes before those of one."""
    return sorted(evidence.items(), key=lambda pair: metric_class(pair[0]) is not None)


def _entry(metric: str, hub: str, one: Interval) -> dict[str, Any]:
    """One result; its name and arguments carry the interval."""
    coverage = f"{100 * one.confidence:g} % interval"
    low, high = (figure(metric, end) for end in (one.low, one.high))
    known = {"cases": one.n, "interval": one.method or None, "class": metric_class(metric)}
    return {
        "type": hub,
        "value": one.value,
        "name": f"{capital(metric_name(metric))} ({coverage} {low} to {high})",
        "args": {
            "confidence": one.confidence,
            "low": one.low,
            "high": one.high,
            **{key: value for key, value in known.items() if value is not None},
        },
    }


# -------------------------------------------------------------------------------------------- text


def _head(view: View) -> list[str]:
    result, subject = view.result, view.subject
    marks = ["**SYNTHETIC**: drawn images, no patients."] if result.synthetic else []
    if subject is not None and subject is not view.shipped:
        marks.append(f"**Not shipped**: {escape(subject.name)} came closest to what was asked.")
    caution = caution_sentence(view)
    facts = []
    one = subject_or_reference(view)
    if one is not None:
        facts = [
            f"Model: {escape(one.name)}, {escape(techniques_phrase(one))}",
            f"Classes: {escape(', '.join(result.classes))}",
            f"Size: {megabytes(one.file_bytes)}, {large(one.parameters)} parameters",
            f"Time per image: {_time(view, one)}",
            f"sha256 of the file: `{one.digest}`",
            f"Licence: *{YOURS}* (the record holds none)",
            f"Developed by, contact: *{YOURS}*",
        ]
    return [
        f"# {escape(result.study)}",
        *marks,
        escape(verdict_sentence(view)),
        escape(meaning_sentence(view)),
        escape(caution) if caution else "",
        bullet_list(facts),
    ]


def _time(view: View, one: CandidateRecord) -> str:
    timing = view.timing(one)
    if timing is None:
        return NOT_MEASURED
    read = ", reading the file included" if timing.preprocessing else ""
    threads = counted(timing.threads, "thread")
    cpu = escape(view.result.environment.cpu)
    return f"{milliseconds(timing.median)} ({timing.runtime}, {threads}, {cpu}{read})"


def _uses(view: View) -> list[str]:
    purpose = asked(view, "intended_use")
    return [
        "## Intended use",
        escape(purpose) if purpose else f"*{YOURS}*",
        f"Users, patients, place in the care pathway: *{YOURS}*",
        "## Out of scope",
        bullet_list(OUT_OF_SCOPE),
    ]


def _said(view: View, topics: Sequence[str]) -> list[str]:
    return [escape(text) for topic in topics if (text := TOPICS[topic](view))]


def _training(view: View) -> list[str]:
    origin = f"Origin, dates, consent and licence of the images: *{YOURS}*"
    return [
        "## Training data",
        bullet_list([*_said(view, ("source", "partitions", "counts")), origin]),
        "## Training",
        bullet_list(_said(view, ("technology", "preprocessing", "training", "initial"))),
    ]


def _evaluation(view: View) -> list[str]:
    subject, reference, split = view.subject, view.reference, view.compared_split
    if subject is None or reference is None or split is None:
        return ["## Evaluation", f"Beside a reference: {NOT_MEASURED}."]
    mine, theirs = subject.evidence[split], reference.evidence[split]
    falls = subject.drops.get(split, {})
    rows = [
        [
            escape(capital(metric_name(metric))),
            figure_interval(metric, theirs.get(metric)),
            figure_interval(metric, mine.get(metric)),
            points_interval(falls.get(metric)) if in_points(metric) else "",
        ]
        for metric, _ in _overall_first({**theirs, **mine})
        if metric != "agreement"
    ]
    heads = [
        f"{capital(split_name(split))} images",
        f"Reference ({escape(reference.name)})",
        f"This model ({escape(subject.name)})",
        "Fall, points (negative: a gain)",
    ]
    return ["## Evaluation", *_said(view, ("uncertainty",)), table(heads, rows)]


# --------------------------------------------------------------------- calibration, groups, running


def _calibration(view: View) -> list[str]:
    found = findings_of(view)
    parts = ["## Calibration and thresholds"]
    section = found.calibration
    if section is None:
        parts.append(f"Calibration after a temperature: {_absent(found, 'calibration')}.")
    else:
        parts += [
            escape(TOPICS["updating"](view) or ""),
            _before_after(section.before, section.after),
        ]
    thresholds = found.operating
    if thresholds is None:
        return [*parts, f"Operating points: {_absent(found, 'operating')}."]
    declared = "declared by the study" if thresholds.declared else "that of the split"
    return [
        *parts,
        f"Thresholds chosen on {escape(thresholds.chosen_on)} images; prevalence {declared}. "
        f"{escape(verdict_words(thresholds.verdict))}",
        _thresholds(row for row in thresholds.rows if not row.kept),
    ]


def _absent(found: Findings, section: str) -> str:
    reason = found.not_measured.get(section)
    return f"{NOT_MEASURED} ({escape(reason)})" if reason else NOT_MEASURED


def _before_after(before: Mapping[str, Interval], after: Mapping[str, Interval]) -> str:
    rows = [
        [
            escape(capital(metric_name(metric))),
            figure_interval(metric, before.get(metric)),
            figure_interval(metric, after.get(metric)),
        ]
        for metric in dict.fromkeys([*before, *after])
    ]
    return table(["", "As trained", "With its temperature"], rows)


def _thresholds(found: Iterable[OperatingRow]) -> str:
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
        for row in found
    ]
    heads = ["Class", "Chosen for", "Threshold", "Sensitivity", "Specificity", "PPV", "Missed"]
    return table(heads, rows)


def _groups(view: View) -> list[str]:
    found = findings_of(view)
    section = found.subgroups
    if section is None:
        return ["## Subgroups", f"Figures by group: {_absent(found, 'subgroups')}."]
    told = ["## Subgroups", escape(verdict_words(section.verdict))]
    if not section.groups:
        return told
    metrics = list(dict.fromkeys(metric for one in section.groups for metric in one.metrics))
    shown = [metric for metric in metrics if metric_class(metric) is None]
    rows = [
        [
            escape(f"{one.column}: {one.value}"),
            f"{one.cases:,}",
            *(
                "too small" if one.too_small else figure_interval(metric, one.metrics.get(metric))
                for metric in shown
            ),
        ]
        for one in section.groups
    ]
    return [*told, table(["Group", "Images", *(capital(metric_name(m)) for m in shown)], rows)]


def _running(view: View) -> list[str]:
    bundle = view.result.bundle
    heading = "## How to run it"
    if bundle is None:
        return [heading, "No bundle was written, since nothing is shipped."]
    shipped = view.shipped
    extra = f"[{shipped.format}]" if shipped is not None and shipped.format in EXTRAS else ""
    shell = f"pip install 'clinipress{extra}'\nclinipress predict {bundle} image.png"
    python = f'from clinipress import load_bundle\n\nload_bundle("{bundle}").classify("image.png")'
    return [heading, f"```sh\n{shell}\n```", f"```python\n{python}\n```"]
