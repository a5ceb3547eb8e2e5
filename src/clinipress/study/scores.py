"""What candidates answer to the images of each split; the test split is opened here alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clinipress import distributed
from clinipress.data.cache import DECODERS
from clinipress.data.study import Rows, predict_rows
from clinipress.evidence.calibration import (
    fit_findings,
    fit_temperature,
    operating_points,
    uncertain_threshold,
)
from clinipress.evidence.gate import FEWEST_UNITS
from clinipress.evidence.multilabel import judgeable
from clinipress.evidence.scores import Scores, without_unasked
from clinipress.formats.open import engine_packages
from clinipress.recipe.study import Study
from clinipress.records.candidate import Candidate, Card, Made
from clinipress.records.store import versions
from clinipress.stats.intervals import proportion, unit_index
from clinipress.stats.metrics import overall_score, predictions, score_words
from clinipress.study.sealing import KEPT_OPENING, Seal
from clinipress.study.workbench import Piece, Workbench, gpus
from clinipress.text import counted

__all__ = ["ScoreKeeper", "calibrated", "scores_path"]


@dataclass(frozen=True)
class ScoreKeeper:
    """Predicts, and keeps what was predicted.

    Attributes:
        bench: The workbench of the study.
        seal: The rules that each opening of the test split names; None outside studies.
    """

    bench: Workbench
    seal: Seal | None = None

    def on_validation(self, piece: Piece[Made]) -> Piece[Made]:
        """The piece with its answers to the validation images."""
        rows = self.bench.data.rows("validation", piece.file.card.input)
        return self._with(piece, "validation", rows, self.logits(piece.file, "validation"))

    def logits(
        self, candidate: Candidate, split: Literal["train", "validation"]
    ) -> NDArray[np.float32]:
        """A candidate's logits float32 ``[n, k]`` on a split that is not sealed."""
        bench = self.bench
        inputs = {"candidate": candidate.digest, "split": split, "data": bench.data.digest}
        inputs |= gpus([candidate.card.format])

        def make(folder: Path) -> None:
            rows = bench.data.rows(split, candidate.card.input)
            self._predict(candidate, rows, folder / "logits.npz")

        with bench.times.phase("predict"):
            packages = (*engine_packages([candidate.card.format]), *DECODERS)
            folder = bench.store.once("scores", inputs, make, packages=packages)
        return _load(folder / "logits.npz")[0]

    def open_test(
        self, pieces: Sequence[Piece[Made]], finalists: Sequence[str], reason: str
    ) -> tuple[Piece[Made], ...]:
        """Open the sealed test split once for all finalists together.

        A second run over the same finalists reads the scores back and opens nothing; one with other
        versions of clinipress or of an engine scores them again, which is a further opening, and
        so is one that judges them by other rules.

        Returns:
            All pieces, the finalists with their answers to the test images.
        """
        bench, data = self.bench, self.bench.data
        files = {piece.name: piece.file for piece in pieces if piece.name in finalists}
        digests = {name: file.digest for name, file in files.items()}
        inputs = {"candidates": digests, "data": data.test_digest}
        inputs |= gpus(file.card.format for file in files.values())
        packages = (*engine_packages(f.card.format for f in files.values()), *DECODERS)

        def make(folder: Path) -> None:
            spec = next(iter(files.values())).card.input
            changed = bench.store.older("test", inputs, versions(packages))
            why = f"{reason}; again, with other versions: {changed}" if changed else reason
            rules = self.seal.rules.digest if self.seal else None
            # a scoring that was interrupted, its figures unseen, goes on with the same opening
            kept = folder / KEPT_OPENING
            rows = data.open_test(spec, tuple(files), why, rules=rules, kept=kept)
            for name, file in files.items():
                self._predict(file, rows, folder / f"{name}.npz")

        with bench.times.phase("test"):
            folder = bench.store.once("test", inputs, make, packages=packages)
        if self.seal is not None and distributed.is_main():
            self.seal.log_judging(bench.store.folder, tuple(files))
        opened = []
        for piece in pieces:
            if piece.name in files:
                logits, rows = _load(folder / f"{piece.name}.npz")
                # numbers of units and groups as this run has them
                rows = replace(rows, units=data.units(rows.keys), groups=data.groups(rows.keys))
                opened.append(self._with(piece, "test", rows, logits))
            else:
                opened.append(piece)
        return tuple(opened)

    def _with(
        self, piece: Piece[Made], split: str, rows: Rows, logits: NDArray[np.float32]
    ) -> Piece[Made]:
        """The piece with one split more, kept for people and said."""
        validation = piece.scores.get("validation")
        several = rows.labels.ndim == 2
        how: dict[str, Any] = {}
        if several:
            fitted = fit_findings(logits, rows.labels) if validation is None else None
            how = dict(zip(("temperatures", "thresholds"), fitted, strict=True)) if fitted else how
        elif validation is None:
            how = {"temperature": fit_temperature(logits, rows.labels)}
        if validation is not None:  # what was chosen there stays
            names = ("temperature", "temperatures", "thresholds")
            how = {name: getattr(validation, name) for name in names}
        scores = Scores(
            logits=logits,
            labels=rows.labels,
            units=rows.units,
            keys=rows.keys,
            classes=piece.file.card.classes,
            positive=self.bench.study.data.positive,
            normal=self.bench.study.data.normal,
            order=self.bench.study.data.order,
            groups=rows.groups,
            **how,
        )
        if distributed.is_main():
            scores.save(self.bench.store.folder / scores_path(piece.name, split))
        if several:
            self.bench.progress.say(f"{piece.name}: {split} {area_words(logits, rows)}")
            return replace(piece, scores={**piece.scores, split: scores})
        hits = predictions(logits) == rows.labels
        accuracy = proportion(hits, unit_index(rows.units, len(hits)))
        if accuracy is not None:
            span = f"{accuracy.low:.1%} to {accuracy.high:.1%}"
            self.bench.progress.say(f"{piece.name}: {split} accuracy {accuracy.value:.1%} ({span})")
        return replace(piece, scores={**piece.scores, split: scores})

    def _predict(self, candidate: Candidate, rows: Rows, path: Path) -> None:
        cache = self.bench.data.cache(candidate.card.input)
        _save(path, predict_rows(candidate, cache, rows), rows)


def area_words(logits: NDArray[np.floating], rows: Rows) -> str:
    """The mean area that decides, over the findings that it is a mean of; else that of all."""
    shown = judgeable(rows.labels, rows.units)
    over = shown if shown.any() else np.ones_like(shown)
    area = overall_score(logits[:, over], rows.labels[:, over])
    many = counted(int(over.sum()), "finding")
    fewest = f"the {many} that {FEWEST_UNITS} patients or more show, and as many do not"
    which = fewest if shown.any() else "all"
    return f"{score_words(area, several=True)} over {which}"


def calibrated(piece: Piece[Made], study: Study) -> Card:
    """The card of a bundle: what validation says of temperature, thresholds and doubt."""
    seen = piece.scores["validation"]
    if seen.several:
        return piece.file.card.model_copy(
            update={
                "temperatures": seen.temperatures,
                "thresholds": without_unasked(seen).thresholds,
                "intended_use": study.intended_use,
                "synthetic": study.synthetic,
                "class_map": study.data.class_map,
            }
        )
    return piece.file.card.model_copy(
        update={
            "temperature": seen.temperature,
            "operating_points": operating_points(
                seen.probabilities,
                seen.labels,
                seen.classes,
                normal=study.data.normal,
                order=study.data.order,
            ),
            "uncertain_below": uncertain_threshold(seen.logits / seen.temperature, seen.labels),
            "intended_use": study.intended_use,
            "positive": study.data.positive,
            "normal": study.data.normal,
            "order": study.data.order,
            "synthetic": study.synthetic,
            "class_map": study.data.class_map,
        }
    )


def scores_path(name: str, split: str) -> str:
    """Where a candidate's answers lie below the run folder."""
    return f"scores/{name}-{split}.npz"


def _save(path: Path, logits: NDArray[np.float32], rows: Rows) -> None:
    """Logits and the images they belong to."""
    keys = np.asarray(rows.keys, dtype=np.str_)
    np.savez_compressed(
        path, logits=logits, labels=rows.labels, units=rows.units, keys=keys, index=rows.index
    )


def _load(path: Path) -> tuple[NDArray[np.float32], Rows]:
    with np.load(path, allow_pickle=False) as file:
        keys = tuple(str(key) for key in file["keys"])
        rows = Rows(file["index"], file["labels"], file["units"], keys)
        return file["logits"], rows
