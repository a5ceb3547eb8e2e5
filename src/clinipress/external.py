"""Evidence for any model file, bundle or candidate on labelled images: evaluate and compare.

The images may come from elsewhere: their class names are mapped by a key. Nothing is trained and no
split is made, so all images given (or one published split of them) are measured.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from clinipress import gate
from clinipress.candidate import Candidate, predict_rows
from clinipress.data.study import Rows, whole_dataset
from clinipress.errors import InputError, ModelError
from clinipress.evaluate.evidence import drops, evidence
from clinipress.evaluate.metrics import confusion
from clinipress.evaluate.paired import discordance
from clinipress.loading import load_candidate
from clinipress.progress import SILENT, Progress
from clinipress.records import Audit, RiskLevel

__all__ = ["compare", "evaluate", "load_candidate", "parse_class_map"]


def parse_class_map(text: str) -> dict[str, str]:
    """Read `theirs=ours,...` as a mapping.

    Raises:
        InputError: A pair has no "=".

    Example:
        >>> parse_class_map("covid=CT_COVID, normal=CT_NonCOVID")
        {'covid': 'CT_COVID', 'normal': 'CT_NonCOVID'}
    """
    pairs = [pair.strip() for pair in text.split(",") if pair.strip()]
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise InputError("--class-map theirs=ours,...", f"'{wrong[0]}'")
    return {a.strip(): b.strip() for a, _, b in (pair.partition("=") for pair in pairs)}


@dataclass(frozen=True)
class _Scored:
    """A classifier's answers on labelled images."""

    candidate: Candidate
    logits: NDArray[np.float32]
    rows: Rows
    audit: Audit

    def facts(self) -> dict[str, Any]:
        """Which file it is and which images it took for which."""
        card = self.candidate.card
        table = confusion(self.logits, self.rows.labels, len(card.classes))
        return {
            "name": card.name,
            "digest": self.candidate.digest,
            "format": card.format,
            "precision": card.precision,
            "confusion": table.tolist(),
        }

    def evidence(
        self, resamples: int, reference: NDArray[np.float32] | None = None
    ) -> dict[str, Any]:
        """Every metric with its interval, as plain data."""
        card = self.candidate.card
        figures = evidence(
            self.logits, self.rows.labels, card.classes, reference=reference,
            units=self.rows.units, resamples=resamples, positive=card.positive,
        )  # fmt: skip
        return {name: interval.model_dump() for name, interval in figures.items()}


def _score(
    candidate: Candidate,
    data: Path,
    class_map: str,
    split: str | None,
    threads: int | None,
    progress: Progress,
) -> _Scored:
    """Decode the images for a classifier's input and run it on all of them."""
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        cache, rows, found = whole_dataset(
            data, candidate.card.input, candidate.card.classes, parse_class_map(class_map),
            Path(folder) / "cache", split=split, threads=threads, progress=progress,
        )  # fmt: skip
        return _Scored(candidate, predict_rows(candidate, cache, rows), rows, found)


def evaluate(
    model: Path,
    data: Path,
    *,
    class_map: str = "",
    split: str | None = None,
    threads: int | None = None,
    resamples: int = 2000,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Evidence of one model on labelled images.

    Returns:
        Plain data: name, images, evidence {metric: {value, low, high}}, confusion, audit warnings.

    Raises:
        InputError: The model or the data cannot be used.
    """
    candidate = load_candidate(model, threads)
    scored = _score(candidate, data, class_map, split, threads, progress)
    return {
        **scored.facts(),
        "model": str(model),
        "data": str(data),
        "images": len(scored.rows.labels),
        "unreadable": [u.model_dump() for u in scored.audit.unreadable],
        "evidence": scored.evidence(resamples),
        "classes": list(candidate.card.classes),
        "warnings": list(scored.audit.warnings),
    }


def compare(
    reference: Path,
    candidate: Path,
    data: Path,
    *,
    risk: str = "medium",
    class_map: str = "",
    split: str | None = None,
    threads: int | None = None,
    resamples: int = 2000,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Two models on the same images, paired, with a verdict at a risk level.

    Returns:
        Plain data: both evidences, the drops (reference minus candidate) and the verdict.

    Raises:
        InputError: A model, the data or the risk level cannot be used, or the classes differ.
    """
    if risk not in get_args(RiskLevel):
        raise InputError(f"--risk {', '.join(get_args(RiskLevel))}", f"'{risk}'")
    rules = gate.rules_for(risk)  # type: ignore[arg-type]
    models = [load_candidate(path, threads) for path in (reference, candidate)]
    classes = models[0].card.classes
    if models[1].card.classes != classes:
        raise ModelError(
            f"two models of one set of classes ({', '.join(classes)})",
            ", ".join(models[1].card.classes),
        )
    a, b = (_score(model, data, class_map, split, threads, progress) for model in models)
    labels = a.rows.labels
    fall = drops(
        a.logits, b.logits, labels, classes,
        units=a.rows.units, resamples=resamples, positive=a.candidate.card.positive,
    )  # fmt: skip
    found = discordance(a.logits, b.logits, labels, classes)
    return {
        "reference": a.candidate.card.name,
        "candidate": b.candidate.card.name,
        "data": str(data),
        "risk": risk,
        "images": len(labels),
        "candidates": [
            {**a.facts(), "evidence": {"data": a.evidence(resamples)}},
            {**b.facts(), "evidence": {"data": b.evidence(resamples, a.logits)}},
        ],
        "drop": {name: interval.model_dump() for name, interval in fall.items()},
        "verdict": gate.judge(rules, fall, discordance=found).model_dump(mode="json"),
    }
