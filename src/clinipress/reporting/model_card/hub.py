"""Metadata of a model card as the Hugging Face Hub reads them.

They follow the Hub's specification (huggingface/hub-docs, modelcard.md): what it has no field for,
the intervals, stands in each result's name and arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from clinipress.recipe.formats import format_facts
from clinipress.recipe.techniques import technique_of
from clinipress.records.candidate import CandidateRecord
from clinipress.records.result import Interval, Result
from clinipress.reporting.dossier.answers_study import (
    data_name,
    recipe_setting,
    subject_or_reference,
)
from clinipress.reporting.view import View
from clinipress.reporting.wording.numbers import figure, finite, metric_class, metric_name
from clinipress.reporting.wording.phrases import split_name
from clinipress.text import capital

__all__ = ["metadata", "overall_first"]

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
TASK = "image-classification"


def metadata(result: Result, licence: str = "") -> dict[str, Any]:
    """The card's front matter as plain data; a licence is an identifier, as "apache-2.0" is."""
    identifier = re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence.strip().rstrip(".").lower())
    view = View(result)
    subject = subject_or_reference(view)
    fields: dict[str, Any] = {
        "license": identifier[0] if identifier else "other" if licence else "unknown",
        "library_name": "clinipress",
        "pipeline_tag": TASK,
        "tags": _tags(view, subject),
        "datasets": [data_name(view)],
    }
    measured = _reported(view, subject)
    if not measured or subject is None:
        return fields
    split = view.compared_split or view.plotted_split or ""
    fields["metrics"] = [
        hub for hub in dict.fromkeys(hub for _, hub, _ in measured) if hub in KNOWN
    ]
    fields["model-index"] = [
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
                    "metrics": [
                        _entry(metric, hub, interval, view.noun)
                        for metric, hub, interval in measured
                    ],
                }
            ],
        }
    ]
    return fields


def _tags(view: View, subject: CandidateRecord | None) -> list[str]:
    tags = ["medical-imaging", TASK, "model-compression"]
    modality = recipe_setting(view, "data", "modality")
    tags += [modality] if modality and modality != "generic" else []
    if subject is not None:
        tags += [format_facts(subject.format).hub or subject.format, subject.precision]
        made = [step.step for step in subject.history if step.step != "export"]
        tags += [step for step in made if technique_of(step).tagged]
    tags += ["synthetic"] if view.result.synthetic else []
    return list(dict.fromkeys(tags))


def _reported(view: View, subject: CandidateRecord | None) -> list[tuple[str, str, Interval]]:
    """Figures that the Hub has a name for: our name, the Hub's, the interval."""
    split = view.compared_split or view.plotted_split or ""
    evidence = subject.evidence.get(split, {}) if subject else {}
    return [
        (metric, HUB_METRICS[metric.partition("[")[0]], interval)
        for metric, interval in overall_first(evidence)
        if metric.partition("[")[0] in HUB_METRICS and finite(interval)
    ]


def overall_first(evidence: Mapping[str, Interval]) -> list[tuple[str, Interval]]:
    """Figures over all classes before those of one."""
    return sorted(evidence.items(), key=lambda pair: metric_class(pair[0]) is not None)


def _entry(metric: str, hub: str, interval: Interval, noun: str) -> dict[str, Any]:
    """One result; its name and arguments carry the interval."""
    coverage = f"{100 * interval.confidence:g}% interval"
    low, high = (figure(metric, end) for end in (interval.low, interval.high))
    known = {"cases": interval.n, "interval": interval.method or None, noun: metric_class(metric)}
    return {
        "type": hub,
        "value": interval.value,
        "name": f"{capital(metric_name(metric))} ({coverage} {low} to {high})",
        "args": {
            "confidence": interval.confidence,
            "low": interval.low,
            "high": interval.high,
            **{key: value for key, value in known.items() if value is not None},
        },
    }
