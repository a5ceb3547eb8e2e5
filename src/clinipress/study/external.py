"""Evidence for any model file, bundle, run or scores on labelled images: evaluate and compare.

The images may come from elsewhere: their class names are mapped by a key. Nothing is trained and no
split is made, so all images given (or one published split of them) are measured.
"""

from __future__ import annotations

import datetime
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from clinipress.data.study import predict_rows, whole_dataset
from clinipress.edge.load import load_candidate
from clinipress.errors import InputError, ModelError
from clinipress.evidence import gate
from clinipress.evidence.judged import Declared, figures, judged, statistics
from clinipress.evidence.scores import Scores
from clinipress.progress import SILENT, Progress
from clinipress.recipe.study import EvidenceRecipe, Study
from clinipress.records.candidate import Candidate, CandidateRecord
from clinipress.records.result import Audit, ExternalRow, ExternalTest, Interval, Result, RiskLevel
from clinipress.records.store import below, read_result, write_atomically
from clinipress.stats.metrics import confusion
from clinipress.study.redraw import EXTERNAL, judged_by

__all__ = ["compare", "evaluate", "evaluate_run", "load_candidate", "parse_class_map"]


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
class Elsewhere:
    """Labelled images that no study divided, and how to read them.

    Attributes:
        data: Folder, manifest or .npz.
        class_map: "theirs=ours,...".
        split: Only images that the data set publishes under this split.
        threads: Decoding threads.
        progress: The listener.
    """

    data: Path
    class_map: str = ""
    split: str | None = None
    threads: int | None = None
    progress: Progress = SILENT

    def score(self, candidates: Mapping[str, Candidate]) -> tuple[dict[str, Scores], Audit]:
        """Answers of several classifiers of the same classes and input, decoding once.

        Raises:
            DataError: The images or their classes do not suit.
        """
        first = next(iter(candidates.values())).card
        by_name: dict[str, Scores] = {}
        with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
            cache, rows, audit = whole_dataset(
                self.data, first.input, first.classes, parse_class_map(self.class_map),
                Path(folder) / "cache", split=self.split, threads=self.threads,
                progress=self.progress,
            )  # fmt: skip
            for name, candidate in candidates.items():
                by_name[name] = Scores(
                    logits=predict_rows(candidate, cache, rows),
                    labels=rows.labels,
                    units=rows.units,
                    keys=rows.keys,
                    classes=candidate.card.classes,
                    positive=candidate.card.positive,
                    temperature=candidate.card.temperature,
                    groups=rows.groups,
                )
        return by_name, audit


def evaluate(
    model: Path,
    data: Path,
    *,
    class_map: str = "",
    split: str | None = None,
    threads: int | None = None,
    resamples: int = 2000,
    scores: Path | None = None,
    progress: Progress = SILENT,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Evidence of one model on labelled images.

    Args:
        model: A bundle, a model file or a candidate folder.
        data: Labelled images.
        class_map: "theirs=ours,...".
        split: Only images published under this split.
        threads: CPU threads.
        resamples: Of the bootstrap.
        scores: Where to keep the per-image scores (.npz), for `compare`; None: nowhere.
        progress: The listener.
        allow_code: Whether a user's function that a candidate folder names may build its network.

    Returns:
        Plain data: name, images, evidence {metric: {value, low, high}}, confusion, judgements by
        section, audit warnings.

    Raises:
        InputError: The model or the data cannot be used.
    """
    candidate = load_candidate(model, threads, allow_code=allow_code)
    elsewhere = Elsewhere(data, class_map, split, threads, progress)
    answers, audit = elsewhere.score({"model": candidate})
    mine = answers["model"]
    if scores is not None:
        mine.save(scores)
    declared = Declared(
        "medium", EvidenceRecipe(), resamples
    )  # nothing is judged: the risk has no say
    judgements = statistics(declared, mine, mine, validation=None)
    return {
        **_facts(candidate, mine),
        "model": str(model),
        "data": str(data),
        "images": len(mine.labels),
        "unreadable": [u.model_dump() for u in audit.unreadable],
        "evidence": _plain(figures(declared, mine)),
        "judgements": judgements.model_dump(mode="json"),
        "classes": list(mine.classes),
        "warnings": list(audit.warnings),
    }


def compare(
    reference: Path,
    candidate: Path,
    data: Path | None = None,
    *,
    risk: str = "medium",
    class_map: str = "",
    split: str | None = None,
    threads: int | None = None,
    resamples: int = 2000,
    progress: Progress = SILENT,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Two models on the same images, paired, with a verdict at a risk level.

    Args:
        reference: A bundle, a model file, a candidate folder, or per-image scores (.npz).
        candidate: Likewise; scores go with scores.
        data: Labelled images; None with scores, which hold the labels.
        risk: Sets the margins.
        class_map: "theirs=ours,...".
        split: Only images published under this split.
        threads: CPU threads.
        resamples: Of the bootstrap.
        progress: The listener.
        allow_code: Whether a user's function that a candidate folder names may build its network.

    Returns:
        Plain data: both evidences, the changes (candidate minus reference), the candidate's
        judgements by section, and the verdict.

    Raises:
        InputError: A model, the data or the risk level cannot be used, or the classes differ.
    """
    if risk not in get_args(RiskLevel):
        raise InputError(f"--risk {', '.join(get_args(RiskLevel))}", f"'{risk}'")
    if data is None:
        facts, (a, b) = _kept(reference, candidate)
    else:
        elsewhere = Elsewhere(data, class_map, split, threads, progress)
        facts, (a, b) = _run(reference, candidate, elsewhere, allow_code)
    declared = Declared(risk, EvidenceRecipe(), resamples)  # type: ignore[arg-type]
    judgements = statistics(declared, a, b, validation=None)
    second = judged(declared, gate.rules_for(declared.risk), a, b, judgements)
    return {
        "reference": facts[0]["name"],
        "candidate": facts[1]["name"],
        "data": str(data or reference),
        "risk": risk,
        "images": len(a.labels),
        "candidates": [
            {**facts[0], "evidence": {"data": _plain(figures(declared, a))}},
            {**facts[1], "evidence": {"data": _plain(second.evidence)}},
        ],
        "changes": _plain(second.changes),
        "judgements": judgements.model_dump(mode="json"),
        "verdict": second.verdict.model_dump(mode="json") if second.verdict else None,
    }


def evaluate_run(
    run: Path,
    data: Path,
    *,
    name: str | None = None,
    class_map: str = "",
    split: str | None = None,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> ExternalTest:
    """What a finished study shipped, and its reference, on images from elsewhere.

    Thresholds and temperatures stay those of the study's validation images: that is what an
    external test asks. It is kept in ``RUN/external/NAME.json`` with the per-image scores, and
    `clinipress report RUN` shows it beside the internal figures.

    Args:
        run: A run folder.
        data: Labelled images.
        name: Of the set; None: of its folder or file.
        class_map: "theirs=ours,...".
        split: Only images published under this split.
        threads: CPU threads.
        progress: The listener.

    Raises:
        InputError: The run, its files or the data cannot be used.
    """
    result = read_result(run)
    title = name or re.sub(r"[^A-Za-z0-9_.-]+", "-", data.resolve().stem) or "elsewhere"
    rows = _rows_to_test(result)
    kept = {row.name: Scores.load(below(run, row.per_image["validation"])) for row in rows}
    elsewhere = Elsewhere(data, class_map, split, threads, progress)
    answers, audit = elsewhere.score(
        {r.name: load_candidate(below(run, r.path), threads) for r in rows}
    )
    study = Study.model_validate(result.recipe)
    declared = Declared(study.risk, study.evidence, study.bootstrap, study.seed)
    folder = run / EXTERNAL
    tested: dict[str, ExternalRow] = {}
    for row in rows:
        scores = replace(answers[row.name], temperature=kept[row.name].temperature,
                      positive=study.data.positive)  # fmt: skip
        root = scores if row.name == result.reference else answers[result.reference]
        answers[row.name] = scores
        path = below(folder, f"{title}-{row.name}.npz")
        scores.save(path)
        chosen_on = kept[result.reference], kept[row.name]
        judgements = statistics(declared, root, scores, validation=chosen_on)
        tested[row.name] = ExternalRow(
            digest=row.digest,
            per_image=path.relative_to(run).as_posix(),
            judgements=judgements,
            **vars(judged(declared, result.rules, root, scores, judgements)),
        )
    test = ExternalTest(
        name=title,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        images=len(answers[result.reference].labels),
        class_map=parse_class_map(class_map),
        unreadable=audit.unreadable,
        warnings=audit.warnings,
        judged_by=judged_by(result, run),
        rows=tested,
    )
    write_atomically(below(folder, f"{title}.json"), test.model_dump_json(indent=1))
    return test


def _rows_to_test(result: Result) -> list[CandidateRecord]:
    """The reference, then whatever was shipped.

    Raises:
        InputError: The study shipped nothing.
    """
    shipped = {target.shipped for target in result.targets} | {result.shipped}
    rows = [row for row in result.candidates if row.name in shipped - {result.reference}]
    root = [row for row in result.candidates if row.name == result.reference]
    if not rows or not root:
        raise InputError("a run that shipped a candidate", f"'{result.study}', which shipped none")
    return [*root, *rows]


def _run(
    reference: Path, candidate: Path, elsewhere: Elsewhere, allow_code: bool
) -> tuple[list[dict[str, Any]], tuple[Scores, Scores]]:
    """Both models on the images; which files they are."""
    a, b = (
        load_candidate(path, elsewhere.threads, allow_code=allow_code)
        for path in (reference, candidate)
    )
    if a.card.classes != b.card.classes:
        raise ModelError(
            f"two models of one set of classes ({', '.join(a.card.classes)})",
            ", ".join(b.card.classes),
        )
    if a.card.input == b.card.input:
        scores, _ = elsewhere.score({"a": a, "b": b})
    else:
        scores = {"a": elsewhere.score({"a": a})[0]["a"], "b": elsewhere.score({"b": b})[0]["b"]}
    mine, other = scores["a"], replace(scores["b"], positive=a.card.positive)
    return [_facts(a, mine), _facts(b, other)], (mine, other)


def _kept(reference: Path, candidate: Path) -> tuple[list[dict[str, Any]], tuple[Scores, Scores]]:
    """Two files of scores of the same images in the same order."""
    for path in (reference, candidate):
        if path.suffix != ".npz":
            raise InputError(
                "two files of per-image scores (.npz), or images as the third argument",
                f"'{path}' and no images",
            )
    a, b = Scores.load(reference), Scores.load(candidate)
    if (a.classes, a.keys) != (b.classes, b.keys) or (a.labels != b.labels).any():
        raise InputError(
            "scores of the same images and classes in the same order",
            f"'{reference.name}' and '{candidate.name}', which differ",
            "score both on the same data",
        )
    names = [{"name": path.stem} for path in (reference, candidate)]
    return names, (a, replace(b, positive=a.positive))


def _facts(candidate: Candidate, mine: Scores) -> dict[str, Any]:
    """Which file it is and which images it took for which."""
    card = candidate.card
    return {
        "name": card.name,
        "digest": candidate.digest,
        "format": card.format,
        "precision": card.precision,
        "confusion": confusion(mine.logits, mine.labels, len(card.classes)).tolist(),
    }


def _plain(figures: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: interval.model_dump() for name, interval in figures.items()}
