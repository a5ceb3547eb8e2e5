"""Evidence for any model file, bundle or candidate on labelled images: evaluate and compare.

The images may come from elsewhere: their class names are mapped by a key. Nothing is trained and no
split is made, so all images given (or one published split of them) are measured.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from clinipress import gate
from clinipress.candidate import Candidate
from clinipress.data.cache import Cache
from clinipress.data.study import Rows, whole_dataset
from clinipress.errors import InputError, ModelError
from clinipress.evaluate.evidence import drops, evidence
from clinipress.evaluate.metrics import confusion
from clinipress.evaluate.paired import discordance
from clinipress.progress import SILENT, Progress
from clinipress.records import RiskLevel

__all__ = ["compare", "evaluate", "load_candidate", "parse_class_map"]

BATCH = 64


def load_candidate(path: Path, threads: int | None = None) -> Candidate:
    """Any classifier that can be run: a bundle, an .onnx file, or a candidate folder.

    Raises:
        ModelError: It is none of these, or cannot be loaded.
        BundleError: It is a bundle that is incomplete or was changed.
    """
    if path.is_dir() and (path / "weights.safetensors").is_file():
        from clinipress.models.classifier import TorchCandidate

        return TorchCandidate.load(path)
    if path.is_dir() and (path / "card.json").is_file():
        from clinipress.edge.bundle import load_bundle

        return load_bundle(path, threads=threads).candidate
    if path.is_file():
        from clinipress.runtimes.onnx import OnnxCandidate

        return OnnxCandidate.load(path, threads=threads)
    raise ModelError(
        "a bundle folder, a .onnx file or a candidate folder",
        f"'{path}'" if path.exists() else f"nothing at '{path}'",
    )


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
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        cache, rows, found = whole_dataset(
            data, candidate.card.input, candidate.card.classes, parse_class_map(class_map),
            Path(folder) / "cache", split=split, threads=threads, progress=progress,
        )  # fmt: skip
        logits = _predict(candidate, cache, rows)
    classes = candidate.card.classes
    figures = evidence(
        logits,
        rows.labels,
        classes,
        units=rows.units,
        resamples=resamples,
        positive=candidate.card.positive,
    )
    return {
        "name": candidate.card.name,
        "model": str(model),
        "data": str(data),
        "digest": candidate.digest,
        "format": candidate.card.format,
        "precision": candidate.card.precision,
        "images": len(rows.labels),
        "unreadable": [u.model_dump() for u in found.unreadable],
        "evidence": {name: interval.model_dump() for name, interval in figures.items()},
        "confusion": confusion(logits, rows.labels, len(classes)).tolist(),
        "classes": list(classes),
        "warnings": list(found.warnings),
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
    a, b = models
    if a.card.classes != b.card.classes:
        raise ModelError(
            f"two models of one set of classes ({', '.join(a.card.classes)})",
            ", ".join(b.card.classes),
        )
    scores: list[NDArray[np.float32]] = []
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        for number, model in enumerate(models):
            cache, rows, _ = whole_dataset(
                data, model.card.input, model.card.classes, parse_class_map(class_map),
                Path(folder) / f"cache-{number}", split=split, threads=threads, progress=progress,
            )  # fmt: skip
            scores.append(_predict(model, cache, rows))
    options: dict[str, Any] = {
        "units": rows.units,
        "resamples": resamples,
        "positive": a.card.positive,
    }
    classes = a.card.classes
    fall = drops(scores[0], scores[1], rows.labels, classes, **options)
    found = discordance(scores[0], scores[1], rows.labels, classes)
    verdict = gate.judge(rules, fall, discordance=found)
    return {
        "reference": a.card.name,
        "candidate": b.card.name,
        "data": str(data),
        "risk": risk,
        "images": len(rows.labels),
        "candidates": [
            {
                "name": model.card.name,
                "digest": model.digest,
                "format": model.card.format,
                "precision": model.card.precision,
                "evidence": {
                    "data": {
                        name: interval.model_dump()
                        for name, interval in evidence(
                            logits,
                            rows.labels,
                            classes,
                            reference=None if model is a else scores[0],
                            **options,
                        ).items()
                    }
                },
                "confusion": confusion(logits, rows.labels, len(classes)).tolist(),
            }
            for model, logits in zip(models, scores, strict=True)
        ],
        "drop": {name: interval.model_dump() for name, interval in fall.items()},
        "verdict": verdict.model_dump(mode="json"),
    }


def _predict(candidate: Candidate, cache: Cache, rows: Rows) -> NDArray[np.float32]:
    starts = range(0, len(rows.index), BATCH)
    return np.concatenate(
        [candidate.predict(cache.take(rows.index[s : s + BATCH])) for s in starts]
    )
