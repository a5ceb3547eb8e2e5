"""Evidence for any model file, bundle, run or scores on labelled images: evaluate and compare.

The images may come from elsewhere: their class names are mapped by a key. Nothing is trained and no
split is made, so all images given (or one published split of them) are measured. Images that the
study behind a model has, too, are not from elsewhere: they are refused or left out.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import itertools
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from clinipress.data.audit.overlap import Seen
from clinipress.data.layouts.items import ONE_LABEL, Labelling, ReaderRule, Unsaid
from clinipress.data.study import FINGERPRINTS, Known, OverlapPolicy, predict_rows, whole_dataset
from clinipress.edge.load import load_candidate
from clinipress.errors import DataError, InputError, ModelError
from clinipress.evidence import gate
from clinipress.evidence.judged import Declared, counted, figures, judged, statistics
from clinipress.evidence.multilabel import judgeable, multilabel_evidence
from clinipress.evidence.scores import Scores, asked_of_both, without_unasked
from clinipress.evidence.worth import caps
from clinipress.formats.trials import by_output, likeliest_order
from clinipress.progress import SILENT, Progress
from clinipress.recipe.study import EvidenceRecipe, Study
from clinipress.records.candidate import Candidate, CandidateRecord
from clinipress.records.result import (
    Audit,
    ExternalRow,
    ExternalTest,
    FindingMeans,
    Interval,
    Overlap,
    Reason,
    Result,
    RiskLevel,
)
from clinipress.records.store import below, read_result, write_atomically
from clinipress.reporting.wording.phrases import shared_patients
from clinipress.stats.intervals import wilson
from clinipress.study.redraw import EXTERNAL, judged_by
from clinipress.study.sealing import Seal, check_floors, rules_of
from clinipress.text import joined

__all__ = [
    "compare",
    "evaluate",
    "evaluate_run",
    "load_candidate",
    "parse_class_map",
    "parse_floors",
    "parse_onnx",
]


def parse_class_map(text: str) -> dict[str, str]:
    """Read `theirs=ours,...` as a mapping.

    Raises:
        InputError: A pair has no "=", or a class is mapped to two.

    Example:
        >>> parse_class_map("covid=CT_COVID, normal=CT_NonCOVID")
        {'covid': 'CT_COVID', 'normal': 'CT_NonCOVID'}
    """
    pairs = [pair.strip() for pair in text.split(",") if pair.strip()]
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise InputError("--class-map theirs=ours,...", f"'{wrong[0]}'")
    mapped: dict[str, str] = {}
    for theirs, _, ours in (pair.partition("=") for pair in pairs):
        before = mapped.setdefault(theirs.strip(), ours.strip())
        if before != ours.strip():
            raise InputError(
                f"--class-map with one class for '{theirs.strip()}'", f"{before} and {ours.strip()}"
            )
    return mapped


def parse_floors(texts: Sequence[str]) -> dict[str, float]:
    """Read `metric=least` pairs.

    Raises:
        InputError: A pair has no "=", or no number between 0 and 1 behind it.
        RecipeError: There is no such figure.

    Example:
        >>> parse_floors(["accuracy=0.9", "sensitivity[covid]=0.95"])
        {'accuracy': 0.9, 'sensitivity[covid]': 0.95}
    """
    floors = {}
    for text in texts:
        metric, _, number = text.rpartition("=")
        try:
            least = float(number)
        except ValueError:
            least = math.nan
        if not metric or math.isnan(least):
            raise InputError("--floor metric=number, between 0 and 1", f"'{text}'")
        check_floors({metric.strip(): least})
        if not 0 < least < 1:
            fix = f"a share: {least / 100:g}, not {number}" if 1 < least <= 100 else None
            raise InputError("--floor metric=number, between 0 and 1", f"'{text}'", fix)
        floors[metric.strip()] = least
    return floors


def parse_onnx(texts: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` pairs on an ONNX file; several values are parted by commas.

    Raises:
        InputError: A pair has no "=".

    Example:
        >>> parse_onnx(["scale=0..1", "classes=glioma, normal", "mean=0.5,0.5,0.5", "size=224"])
        {'scale': '0..1', 'classes': ['glioma', 'normal'], 'mean': [0.5, 0.5, 0.5], 'size': 224}
    """
    facts: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError("--onnx key=value", f"'{text}'", "for example --onnx scale=0..1")
        parts: list[Any] = [part.strip() for part in value.split(",")]
        if key.strip() in ("mean", "std", "size"):
            with contextlib.suppress(ValueError):
                parts = [int(p) if p.isdigit() else float(p) for p in parts]
        several = len(parts) > 1 or key.strip() == "classes"
        facts[key.strip()] = parts if several else parts[0]
    return facts


def _finding(classes: Sequence[str], known: str | None, asked: str | None) -> str | None:
    """The class that is the finding: what was named now or, on the card, before; never a guess.

    Raises:
        InputError: Of two classes none was named, or no such class, or another one before.
    """
    if asked is not None and asked not in classes and len(classes) == 2:
        near = difflib.get_close_matches(asked, classes, n=1)
        hint = f"did you mean '{near[0]}'?" if near else None
        raise InputError(f"--positive {' or '.join(classes)}", f"'{asked}'", hint)
    if asked is not None and asked != known and len(classes) > 2:
        raise InputError(
            "--positive with a model of two classes", f"one of {len(classes)}", "leave it out"
        )
    if asked is not None and known is not None and asked != known:
        raise InputError(
            f"--positive {known}, as the model's card says", f"'{asked}'", "leave it out"
        )
    if asked is None and known is None and len(classes) == 2:
        raise InputError(
            f"one of two classes to be the finding, {classes[0]} or {classes[1]}",
            "a model whose card names none",
            f"add --positive {classes[0]} or --positive {classes[1]}",
        )
    return asked or known


def _no_positive(asked: str | None) -> None:
    """Of several findings none is the positive one.

    Raises:
        InputError: One was named.
    """
    if asked is not None:
        raise InputError(
            "--positive with a model of two classes", "one of several findings", "leave it out"
        )


@dataclass(frozen=True)
class Elsewhere:
    """Labelled images that no study divided, and how to read them.

    Attributes:
        data: Folder, manifest or .npz.
        class_map: "theirs=ours,...".
        split: Only images that the data set publishes under this split.
        positive: The finding of two classes, where cards name none.
        seen: Images of the study behind the classifiers; None: not known.
        overlap: What to do with those of them that are in `data`.
        threads: Decoding threads.
        progress: The listener.
        own_names: Names of the training data -> classes; empty: those of the first card.
        labelling: What blanks, -1 and differing readers say; task and classes are the card's.
    """

    data: Path
    class_map: str = ""
    split: str | None = None
    positive: str | None = None
    seen: Seen | None = None
    overlap: OverlapPolicy = "refuse"
    threads: int | None = None
    progress: Progress = SILENT
    own_names: Mapping[str, str] = field(default_factory=dict)
    labelling: Labelling = ONE_LABEL

    def score(self, candidates: Mapping[str, Candidate]) -> tuple[dict[str, Scores], Audit, Known]:
        """Answers of several classifiers of the same classes and input, decoding once.

        Raises:
            DataError: The images or their classes do not suit.
            InputError: The options do not suit the task.
        """
        first = next(iter(candidates.values())).card
        several = first.task == "multilabel"
        if not several and (self.labelling.blank, self.labelling.uncertain) != ("unknown",) * 2:
            raise InputError(
                "--blank and --uncertain with a model of several findings",
                f"one class for each image ({first.name})",
                "leave them out",
            )
        _no_positive(self.positive if several else None)
        positive = None if several else _finding(first.classes, first.positive, self.positive)
        by_name: dict[str, Scores] = {}
        with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
            cache, rows, audit, known = whole_dataset(
                self.data, first.input, first.classes, parse_class_map(self.class_map),
                Path(folder) / "cache", labelling=replace(self.labelling, task=first.task),
                split=self.split, seen=self.seen, overlap=self.overlap, threads=self.threads,
                progress=self.progress, own_names=self.own_names or first.class_map,
            )  # fmt: skip
            for name, candidate in candidates.items():
                by_name[name] = Scores(
                    logits=predict_rows(candidate, cache, rows),
                    labels=rows.labels,
                    units=rows.units,
                    keys=rows.keys,
                    classes=candidate.card.classes,
                    positive=positive,
                    normal=candidate.card.normal,
                    order=candidate.card.order,
                    temperature=candidate.card.temperature,
                    temperatures=candidate.card.temperatures,
                    thresholds=candidate.card.thresholds,
                    groups=rows.groups,
                )
        return by_name, audit, known


def _labelling(blank: Unsaid, uncertain: Unsaid, readers: ReaderRule | None) -> Labelling:
    """How the labels of a set from elsewhere are to be read.

    Raises:
        InputError: A word that says nothing.
    """
    for option, word, known in (
        ("--blank", blank, get_args(Unsaid)),
        ("--uncertain", uncertain, get_args(Unsaid)),
        ("--readers", readers, (None, *get_args(ReaderRule))),
    ):
        if word not in known:
            raise InputError(f"{option} {joined([w for w in known if w], 'or')}", f"'{word}'")
    return Labelling(blank=blank, uncertain=uncertain, readers=readers)


def evaluate(
    model: Path,
    data: Path,
    *,
    class_map: str = "",
    split: str | None = None,
    positive: str | None = None,
    overlap: OverlapPolicy = "refuse",
    blank: Unsaid = "unknown",
    uncertain: Unsaid = "unknown",
    readers: ReaderRule | None = None,
    threads: int | None = None,
    resamples: int = 2000,
    scores: Path | None = None,
    progress: Progress = SILENT,
    allow_code: bool = False,
    onnx: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evidence of one model on labelled images.

    Args:
        model: A bundle, a model file or a candidate folder.
        data: Labelled images.
        class_map: "theirs=ours,...".
        split: Only images published under this split.
        positive: The finding of a two-class model whose card names none.
        overlap: What to do with images that the study behind a bundle has, too: "refuse",
            "leave-out", or "keep" where they are not meant to be from elsewhere.
        blank: Where each finding has a column, what an empty cell of it says.
        uncertain: And what -1 says.
        readers: Which answer counts where several readers of an image differ.
        threads: CPU threads.
        resamples: Of the bootstrap.
        scores: Where to keep the per-image scores (.npz), for `compare`; None: nowhere.
        progress: The listener.
        allow_code: Whether a user's function that a candidate folder names may build its network.
        onnx: Of ONNX files that others made: what they do not say themselves (`OnnxRecipe`).

    Returns:
        Plain data: name, images, positive, evidence {metric: {value, low, high}}, confusion,
        judgements by section, overlap, audit warnings.

    Raises:
        InputError: The model or the data cannot be used.
    """
    labelling = _labelling(blank, uncertain, readers)
    candidate = load_candidate(model, threads, allow_code=allow_code, onnx=onnx)
    seen = _seen_by(model)
    elsewhere = Elsewhere(data, class_map, split, positive, seen, overlap, threads, progress,
                          labelling=labelling)  # fmt: skip
    answers, audit, known = elsewhere.score({"model": candidate})
    mine = answers["model"]
    _check_known(mine)
    if scores is not None:
        mine.save(scores)
    warnings = (
        *audit.warnings,
        *_order_question(mine),
        *_not_shown(mine),
        *_without_threshold(candidate, mine),
    )
    declared = Declared(
        "medium", EvidenceRecipe(), resamples
    )  # nothing is judged: the risk has no say
    judgements = statistics(declared, mine, mine, validation=None)
    return {
        **_facts(candidate, mine),
        "model": str(model),
        "data": str(data),
        "images": len(mine.labels),
        "positive": mine.positive,
        **({"task": "multilabel"} if mine.several else {}),
        "overlap": known.overlap.model_dump(mode="json"),
        "unreadable": [u.model_dump() for u in audit.unreadable],
        "evidence": _plain(figures(declared, mine)),
        "judgements": judgements.model_dump(mode="json"),
        "classes": list(mine.classes),
        "warnings": list(warnings),
    }


def _check_known(scores: Scores) -> None:
    """Of several findings: something has to be known of some image.

    Raises:
        DataError: Nothing is.
    """
    if scores.several and not (scores.labels >= 0).any():
        raise DataError(
            f"images of which it is known whether they show {' or '.join(scores.classes)}",
            f"{len(scores.keys):,} images of which none is",
            "map the findings of the set with --class-map, or fill in its columns",
        )


def _without_threshold(candidate: Candidate, answers: Scores) -> list[str]:
    """Findings that the images tell of, and that the model has no threshold for."""
    card = candidate.card
    if card.task != "multilabel":
        return []
    if not card.thresholds:
        return [
            f"'{card.name}' brings a threshold for no finding: called from a probability of 0.5"
        ]
    known = {name for name, column in zip(answers.classes, answers.labels.T, strict=True)
             if (column >= 0).any()}  # fmt: skip
    limits = zip(card.classes, card.thresholds, strict=True)
    names = [name for name, limit in limits if limit is None and name in known]
    if not names:
        return []
    return [
        f"{joined(names)} {'has' if len(names) == 1 else 'have'} no threshold in '{card.name}': "
        "nothing that needs one is measured"
    ]


def _not_shown(answers: Scores) -> list[str]:
    """Classes or findings that the images do not show, so that means are over the others."""
    if answers.several:
        there = judgeable(answers.labels, answers.units)
    else:
        there = np.isin(np.arange(len(answers.classes)), answers.labels)
    names = [[n for n, t in zip(answers.classes, there, strict=True) if t is side]
             for side in (np.True_, np.False_)]  # fmt: skip
    over, left_out = names
    if not left_out:
        return []
    if answers.several:
        few = f"fewer than {gate.FEWEST_UNITS} patients show {joined(left_out, 'or')}, or do not"
        return [f"{few}: means are over {joined(over) or 'no finding'}"]
    return [
        f"no image of {joined(left_out, 'or')}: balanced accuracy and means over classes are over "
        f"{joined(over)} alone"
    ]


def _order_question(scores: Scores) -> list[str]:
    """What to ask where a model is wrong oftener than a guess, or right under another order."""
    if scores.several:
        return []
    answers, labels, count = scores.logits.argmax(1), scores.labels, len(scores.labels)
    hits, chance = int((answers == labels).sum()), 1 / len(scores.classes)
    asked = f"are {', '.join(scores.classes)} in the order of the outputs?"
    order = likeliest_order(scores.logits, labels, len(scores.classes))
    other = int((answers == np.array(order)[labels]).sum())
    if wilson(other, count)[0] > max(wilson(hits, count)[1], chance):
        names = ", ".join(by_output(order, scores.classes))
        return [f"{hits} of {count} images right, {other} if the outputs were {names}: {asked}"]
    if wilson(hits, count)[1] < chance:
        return [f"{hits} of {count} images right is fewer than by chance ({chance:.0%}): {asked}"]
    return []


def compare(
    reference: Path,
    candidate: Path,
    data: Path | None = None,
    *,
    risk: str = "medium",
    floors: Mapping[str, float] | None = None,
    class_map: str = "",
    split: str | None = None,
    positive: str | None = None,
    overlap: OverlapPolicy = "keep",
    blank: Unsaid = "unknown",
    uncertain: Unsaid = "unknown",
    readers: ReaderRule | None = None,
    threads: int | None = None,
    resamples: int = 2000,
    progress: Progress = SILENT,
    allow_code: bool = False,
    onnx: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Two models on the same images, paired, with a verdict at a risk level.

    Args:
        reference: A bundle, a model file, a candidate folder, or per-image scores (.npz).
        candidate: Likewise; scores go with scores.
        data: Labelled images; None with scores, which hold the labels.
        risk: Sets the margins.
        floors: Metric -> least figure that the candidate must be shown to have; without one the
            verdict at critical or high risk is at most inconclusive.
        class_map: "theirs=ours,...".
        split: Only images published under this split.
        positive: The finding of two classes, where neither model names it.
        overlap: What to do with images that the study behind either model has, too.
        blank: Where each finding has a column, what an empty cell of it says.
        uncertain: And what -1 says.
        readers: Which answer counts where several readers of an image differ.
        threads: CPU threads.
        resamples: Of the bootstrap.
        progress: The listener.
        allow_code: Whether a user's function that a candidate folder names may build its network.
        onnx: Of ONNX files that others made: what they do not say themselves (`OnnxRecipe`).

    Returns:
        Plain data: both evidences, the changes (candidate minus reference), the candidate's
        judgements by section, the overlap with what the study behind a model has seen, the models
        of which that is not known, and the verdict. Its rules were given with the call: nothing
        shows that they were fixed before the answers were seen.

    Raises:
        InputError: A model, the data or the risk level cannot be used, or the classes differ.
    """
    if risk not in get_args(RiskLevel):
        raise InputError(f"--risk {', '.join(get_args(RiskLevel))}", f"'{risk}'")
    labelling = _labelling(blank, uncertain, readers)
    if data is None:
        facts, (a, b) = _kept(reference, candidate, positive)
        accuracy, known = None, Known(Overlap(), {})
        unknown = [reference, candidate]
    else:
        mine, other = _seen_by(reference), _seen_by(candidate)
        seen = mine.and_of(other) if mine and other else mine or other
        elsewhere = Elsewhere(data, class_map, split, positive, seen, overlap, threads, progress,
                              labelling=labelling)  # fmt: skip
        facts, (a, b), accuracy, known = _run(reference, candidate, elsewhere, allow_code, onnx)
        unknown = [path for path, s in ((reference, mine), (candidate, other)) if s is None]
    _check_known(a)
    check_floors(floors or {}, a.classes)
    level: RiskLevel = risk  # type: ignore[assignment]
    declared = Declared(level, EvidenceRecipe(), resamples, floors=floors or {})
    judgements = statistics(declared, a, b, validation=None)
    first = figures(declared, a)
    limits = caps(
        level, declared.floors, (), a, first, baseline=known.baseline, baseline_accuracy=accuracy
    )  # fmt: skip
    rules = gate.rules_for(
        level, ordered=bool(a.order), several="auroc_macro" if a.several else None
    )
    second = judged(declared, rules, a, b, judgements, limits)
    return {
        "reference": facts[0]["name"],
        "candidate": facts[1]["name"],
        "data": str(data or reference),
        "risk": risk,
        "images": len(a.labels),
        "positive": a.positive,
        **({"task": "multilabel"} if a.several else {}),
        "overlap": known.overlap.model_dump(mode="json"),
        "overlap_unknown": [str(path) for path in unknown],
        "candidates": [
            {**facts[0], "evidence": {"data": _plain(first)}},
            {**facts[1], "evidence": {"data": _plain(second.evidence)}},
        ],
        "changes": _plain(second.changes),
        "judgements": judgements.model_dump(mode="json"),
        "verdict": second.verdict.model_dump(mode="json") if second.verdict else None,
    }


def _seen_by(model: Path) -> Seen | None:
    """What the study behind a model has seen; None: nothing is known.

    A bundle carries it; a candidate's folder and a model file lie in a bundle or a run folder.
    """
    path = model.resolve()
    for folder in (path, *path.parents[:4]):
        if any((folder / name).exists() for name in ("card.json", "result.json", "objects")):
            seen = Seen.load(folder / FINGERPRINTS)
            if seen is not None:
                return seen
    return None


def evaluate_run(
    run: Path,
    data: Path,
    *,
    name: str | None = None,
    class_map: str = "",
    split: str | None = None,
    positive: str | None = None,
    overlap: OverlapPolicy = "refuse",
    blank: Unsaid = "unknown",
    uncertain: Unsaid = "unknown",
    readers: ReaderRule | None = None,
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
        name: Of the set; None: of its folder or file, and a number in a study of strict privacy.
        class_map: "theirs=ours,...".
        split: Only images published under this split.
        positive: The finding of two classes, in a run of before, whose study did not name it.
        overlap: What to do with the study's own images among them: "refuse" or "leave-out".
        blank: Where each finding has a column, what an empty cell of it says.
        uncertain: And what -1 says.
        readers: Which answer counts where several readers of an image differ.
        threads: CPU threads.
        progress: The listener.

    Raises:
        InputError: The run, its files or the data cannot be used, or images are the study's own.
    """
    labelling = _labelling(blank, uncertain, readers)
    if overlap == "keep":
        raise InputError(
            "--overlap refuse or leave-out", "'keep'", "a study's own images are not from elsewhere"
        )
    result = read_result(run)
    title = name or re.sub(r"[^A-Za-z0-9_.-]+", "-", data.resolve().stem) or "elsewhere"
    below(run, f"{title}.json")  # refused before anything is read
    if "/" in title:
        raise InputError("a name for the set, without '/'", f"'{title}'", "choose another")
    rows = _rows_to_test(result)
    study = Study.model_validate(result.recipe)
    several = study.data.task == "multilabel"
    _no_positive(positive if several else None)
    finding = None if several else _finding(result.classes, study.data.positive, positive)
    kept = {
        row.name: replace(Scores.load(below(run, row.per_image["validation"])), positive=finding)
        for row in rows
    }
    if several:
        kept = {name: without_unasked(scores) for name, scores in kept.items()}
    seen = Seen.load(run / FINGERPRINTS)
    elsewhere = Elsewhere(data, class_map, split, finding, seen, overlap, threads, progress,
                          study.data.class_map, labelling)  # fmt: skip
    candidates = {row.name: load_candidate(below(run, row.path), threads) for row in rows}
    answers, audit, known = elsewhere.score(candidates)
    _check_known(answers[result.reference])
    if study.privacy == "strict" and name is None:
        title = _numbered(run / EXTERNAL, result.reference, answers[result.reference])
    rules = rules_of(study, result.classes)
    declared = Seal(rules, result.sealed, result.rule_changes).declared(study)
    folder = run / EXTERNAL
    _check_same_set(below(folder, f"{title}-{result.reference}.npz"), answers[result.reference])
    tested: dict[str, ExternalRow] = {}
    limits: tuple[Reason, ...] = ()
    for row in rows:
        before = kept[row.name]
        scores = replace(answers[row.name], temperature=before.temperature,
                         temperatures=before.temperatures, thresholds=before.thresholds,
                         normal=study.data.normal, order=study.data.order)  # fmt: skip
        root = scores if row.name == result.reference else answers[result.reference]
        answers[row.name] = scores
        path = below(folder, f"{title}-{row.name}.npz")
        scores.save(path)
        chosen_on = kept[result.reference], kept[row.name]
        judgements = statistics(declared, root, scores, validation=chosen_on)
        part = judged(declared, result.rules, root, scores, judgements, limits)
        if row.name == result.reference:
            limits = caps(
                declared.risk, declared.floors, declared.rule_changes, scores, part.evidence,
                baseline=known.baseline, baseline_accuracy=audit.baseline_accuracy,
            )  # fmt: skip
        tested[row.name] = ExternalRow(
            digest=row.digest,
            per_image=path.relative_to(run).as_posix(),
            judgements=judgements,
            **vars(part),
        )
    test = ExternalTest(
        name=title,
        named=name is not None,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        images=len(answers[result.reference].labels),
        class_map=parse_class_map(class_map),
        unreadable=audit.unreadable,
        warnings=(
            *audit.warnings,
            *([shared_patients(known.overlap)] if known.overlap.patients else []),
            *_not_shown(answers[result.reference]),
        ),
        means=_means(run, rows, answers, declared) if several else None,
        overlap=known.overlap,
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


def _means(
    run: Path, rows: Sequence[CandidateRecord], answers: Mapping[str, Scores], declared: Declared
) -> FindingMeans | None:
    """What means are over, inside and outside; None: the same findings."""
    inside = {
        row.name: Scores.load(below(run, row.per_image.get("test") or row.per_image["validation"]))
        for row in rows
    }
    first = rows[0].name
    here, there = (judgeable(s.labels, s.units) for s in (inside[first], answers[first]))
    if (here == there).all():
        return None
    classes, both = answers[first].classes, np.flatnonzero(here & there)

    def area(scores: Scores) -> Interval:
        return multilabel_evidence(
            scores.scaled[:, both],
            scores.labels[:, both],
            [classes[c] for c in both],
            units=scores.units,
            resamples=declared.resamples,
            seed=declared.seed,
        )["auroc_macro"]

    over, elsewhere, shared = (
        tuple(name for name, counts in zip(classes, side, strict=True) if counts)
        for side in (here, there, here & there)
    )
    areas = {name: (area(inside[name]), area(answers[name])) for name in inside} if shared else {}
    return FindingMeans(inside=over, outside=elsewhere, both=shared, areas=areas)


def _run(
    reference: Path,
    candidate: Path,
    elsewhere: Elsewhere,
    allow_code: bool,
    onnx: Mapping[str, Any] | None,
) -> tuple[list[dict[str, Any]], tuple[Scores, Scores], Interval | None, Known]:
    """Both models on the images; which files they are; what facts of the files alone give."""
    a, b = (
        load_candidate(path, elsewhere.threads, allow_code=allow_code, onnx=onnx)
        for path in (reference, candidate)
    )
    _check_same_task(a, b)
    if sorted(a.card.classes) != sorted(b.card.classes):
        raise ModelError(
            f"two models of one set of classes ({', '.join(a.card.classes)})",
            ", ".join(b.card.classes),
        )
    card = a.card
    named = card.positive or b.card.positive
    if card.task == "multiclass":
        elsewhere = replace(elsewhere, positive=_finding(card.classes, named, elsewhere.positive))
    if card.input == b.card.input and card.classes == b.card.classes:
        scores, audit, known = elsewhere.score({"a": a, "b": b})
    else:
        scores, audit, known = elsewhere.score({"a": a})
        scores["b"] = elsewhere.score({"b": b})[0]["b"].in_order(card.classes)
    order = card.order or b.card.order
    mine = replace(scores["a"], order=order)
    other = replace(scores["b"], normal=card.normal, order=order)
    lines = (*_without_threshold(a, mine), *_without_threshold(b, other), *_not_shown(mine))
    for line in dict.fromkeys((*audit.warnings, *lines)):
        elsewhere.progress.say(f"warning: {line}")
    mine, other = asked_of_both(mine, other)
    facts = [_facts(a, mine), _facts(b, other)]
    return facts, (mine, other), audit.baseline_accuracy, known


def _check_same_task(*candidates: Candidate) -> None:
    """Two models that answer the same question; before the images are read as one of them does.

    Raises:
        ModelError: One of them answers several findings, the other one class for each image.
    """
    first, second = (candidate.card for candidate in candidates)
    if first.task == second.task:
        return
    raise ModelError(
        f"two models of one task, '{first.name}' being {first.task}",
        f"'{second.name}', which is {second.task}",
        "of an ONNX file that others made, whose answers do not exclude one another, add "
        "--onnx task=multilabel",
    )


def _numbered(folder: Path, reference: str, answers: Scores) -> str:
    """A name that says nothing of the folder: that of the same set before, else the next number."""
    titles = (f"external-set-{number}" for number in itertools.count(1))
    return next(t for t in titles if _same_set(below(folder, f"{t}-{reference}.npz"), answers)[0])


def _same_set(path: Path, answers: Scores) -> tuple[bool, int]:
    """Whether these images may take the place of those in a file, if any; how many it has."""
    if not path.is_file():
        return True, 0
    before = Scores.load(path)
    known = dict(zip(before.keys, before.labels.tolist(), strict=True))
    shared = [(known[k], n) for k, n in zip(answers.keys, answers.labels.tolist(), strict=True)
              if k in known]  # fmt: skip
    fewest = min(len(known), len(answers.keys))  # some may have been left out, or added
    return 2 * len(shared) >= fewest and all(was == now for was, now in shared), len(known)


def _check_same_set(path: Path, answers: Scores) -> None:
    """Refuse to write over the test of another set, whose folder bears the same name.

    Raises:
        InputError: It is another set.
    """
    same, before = _same_set(path, answers)
    if not same:
        raise InputError(
            f"the set that was tested under this name ({before:,} images)",
            f"another one ({len(answers.keys):,} images)",
            f"give --name NAME, or remove '{path.parent}' if it replaces that set",
        )


def _kept(
    reference: Path, candidate: Path, positive: str | None
) -> tuple[list[dict[str, Any]], tuple[Scores, Scores]]:
    """Two files of scores of the same images in the same order."""
    for path in (reference, candidate):
        if path.suffix != ".npz":
            raise InputError(
                "two files of per-image scores (.npz), or images as the third argument",
                f"'{path}' and no images",
            )
    a, b = Scores.load(reference), Scores.load(candidate)
    same = (a.classes, a.keys, a.several) == (b.classes, b.keys, b.several)
    if not same or (a.labels != b.labels).any():
        raise InputError(
            "scores of the same images and classes in the same order",
            f"'{reference.name}' and '{candidate.name}', which differ",
            "score both on the same data",
        )
    if None not in (a.positive, b.positive) and a.positive != b.positive:
        raise InputError(
            "two files of scores with the same finding", f"'{a.positive}' and '{b.positive}'"
        )
    if a.groups != b.groups or len(set(a.keys)) < len(a.keys):
        raise InputError(
            "scores of the same images, each once, in the same groups",
            f"'{reference.name}' and '{candidate.name}', which differ or repeat images",
            "score both on the same data",
        )
    names = [{"name": path.stem} for path in (reference, candidate)]
    _no_positive(positive if a.several else None)
    finding = None if a.several else _finding(a.classes, a.positive or b.positive, positive)
    order = a.order or b.order
    a, b = asked_of_both(a, b)
    a, b = (replace(s, positive=finding, normal=a.normal, order=order) for s in (a, b))
    return names, (a, b)


def _facts(candidate: Candidate, mine: Scores) -> dict[str, Any]:
    """Which file it is and which images it took for which."""
    card = candidate.card
    return {
        "name": card.name,
        "digest": candidate.digest,
        "format": card.format,
        "precision": card.precision,
        "confusion": counted(mine),
    }


def _plain(figures: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: interval.model_dump() for name, interval in figures.items()}
