"""From logits to a row of the report: evidence, change, verdict and cost of every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clinipress import distributed
from clinipress.data.study import Rows
from clinipress.evidence.calibration import fit_temperature, operating_points, uncertain_threshold
from clinipress.evidence.judged import Declared, judged, paired, statistics
from clinipress.evidence.scores import Scores
from clinipress.formats.file import FileCandidate
from clinipress.models.classifier import TorchCandidate
from clinipress.records.candidate import (
    Card,
)
from clinipress.records.judgement import Judgements
from clinipress.records.result import (
    Interval,
    Rule,
    Verdict,
)
from clinipress.records.store import digest_of, read_json, write_atomically
from clinipress.study.devices import Target
from clinipress.study.workbench import Runner

__all__ = ["Row", "Scorecard", "scores_path"]

JUDGEMENTS = "judgements.json"
Kind = Literal["reference", "step", "export", "control"]


@dataclass
class Row:
    """A candidate and what is known of it so far, by split.

    Attributes:
        parent: Name of the row whose network this one's was made from; of an export, of the
            float32 file of the very network. None: the reference.
        to: The row that a control is compared with.
        scores: Its answers to every image.
    """

    name: str
    file: FileCandidate
    torch: TorchCandidate
    of: Kind
    parent: str | None
    to: str | None = None
    scores: dict[str, Scores] = field(default_factory=dict)
    evidence: dict[str, dict[str, Interval]] = field(default_factory=dict)
    changes: dict[str, dict[str, Interval]] = field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)
    judgements: dict[str, Judgements] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    rejected: str | None = None
    because: str | None = None

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on the most decisive split measured."""
        return self.verdicts.get("test") or self.verdicts.get("validation")


@dataclass
class Scorecard:
    """All rows of a study, judged against the first."""

    runner: Runner
    rules: tuple[Rule, ...]
    targets: tuple[Target, ...] = ()
    rows: list[Row] = field(default_factory=list)

    @property
    def reference(self) -> Row:
        """The root of every comparison."""
        return self.rows[0]

    def add_reference(self, file: FileCandidate, torch: TorchCandidate) -> None:
        """The first row."""
        self._add(Row("reference", file, torch, "reference", None))

    def add(
        self,
        file: FileCandidate,
        torch: TorchCandidate,
        *,
        of: Kind,
        parent: str,
        to: str | None = None,
        because: str | None = None,
    ) -> None:
        """Measure a file on validation and judge it against the reference.

        Args:
            file: The candidate.
            torch: The network it was made from.
            of: What it is.
            parent: Name of the row whose network it was made from.
            to: Name of the row that a control is compared with.
            because: Why it was tried although the study does not name it.
        """
        self._add(Row(file.card.name, file, torch, of, parent, to, because=because))

    @property
    def asked(self) -> Declared:
        """What the study declared of the evidence."""
        study = self.runner.study
        return Declared(study.risk, study.evidence, study.bootstrap, study.seed)

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        rows = self.runner.data.rows("validation", row.file.card.input)
        self._score(row, "validation", rows, self.runner.logits(row.file, "validation"))

    def _score(self, row: Row, split: str, rows: Rows, logits: NDArray[np.float32]) -> None:
        mine = row.scores[split] = self._answers(row, rows, logits)
        row.judgements[split] = self._judgements(row, split)
        root = self.reference.scores[split]
        found = judged(self.asked, self.rules, root, mine, row.judgements[split])
        row.evidence[split], row.confusion[split] = found.evidence, found.confusion
        accuracy = row.evidence[split]["accuracy"]
        span = f"{accuracy.low:.1%} to {accuracy.high:.1%}"
        said = f"{row.name}: {split} accuracy {accuracy.value:.1%} ({span})"
        if found.verdict is not None:
            row.changes[split], row.verdicts[split] = found.changes, found.verdict
            said += f", {found.verdict.status}"
        self.runner.progress.say(said)
        if distributed.is_main():
            mine.save(self.runner.store.folder / scores_path(row.name, split))

    def _answers(self, row: Row, rows: Rows, logits: NDArray[np.float32]) -> Scores:
        """Logits with all that a statistic needs beside them; the temperature of validation."""
        validation = row.scores.get("validation")
        temperature = validation.temperature if validation else fit_temperature(logits, rows.labels)
        return Scores(
            logits=logits,
            labels=rows.labels,
            units=rows.units,
            keys=rows.keys,
            classes=row.file.card.classes,
            positive=self.runner.study.data.positive,
            temperature=temperature,
            groups=rows.groups,
        )

    def _judgements(self, row: Row, split: str) -> Judgements:
        """The sections of a row, or those that were made before of the same answers."""
        root = self.reference
        inputs = {
            "reference": root.file.digest,
            "candidate": row.file.digest,
            "split": split,
            "data": self.runner.data.digest,
            "groups": digest_of(dict(row.scores[split].groups)),
            "asked": [self.asked.risk, str(self.asked.resamples), str(self.asked.seed)],
            "recipe": self.asked.recipe.model_dump(mode="json"),
        }

        def make(folder: Path) -> None:
            found = statistics(
                self.asked,
                root.scores[split],
                row.scores[split],
                validation=(root.scores["validation"], row.scores["validation"]),
            )
            write_atomically(folder / JUDGEMENTS, found.model_dump_json(indent=1))

        with self.runner.phase("evidence"):
            folder = self.runner.store.once("judgements", inputs, make, packages=("numpy", "scipy"))
        return Judgements.model_validate(read_json(folder / JUDGEMENTS))

    def measure(self) -> None:
        """Latency, memory, size and arithmetic of every file."""
        found = self.runner.latencies([row.file for row in self.rows])
        for row in self.rows:
            row.cost = {**found[row.name], "file_bytes": row.file.file_bytes}

    def open_test(self, names: Sequence[str], reason: str) -> None:
        """Score the finalists on the sealed test split."""
        rows, scores = self.runner.open_test(
            {row.name: row.file for row in self.rows if row.name in names}, reason
        )
        for row in self.rows:
            if row.name in scores:
                self._score(row, "test", rows, scores[row.name])

    def calibrated(self, row: Row) -> Card:
        """The card of a bundle: what validation says of temperature, thresholds and doubt."""
        study, seen = self.runner.study, row.scores["validation"]
        return row.file.card.model_copy(
            update={
                "temperature": seen.temperature,
                "operating_points": operating_points(seen.probabilities, seen.labels, seen.classes),
                "uncertain_below": uncertain_threshold(seen.logits / seen.temperature, seen.labels),
                "intended_use": study.intended_use,
                "positive": study.data.positive,
                "synthetic": study.synthetic,
            }
        )

    def network(self, row: Row) -> Row:
        """The row of the network that a file is of, in float32: an export's parent, else itself."""
        if row.of != "export":
            return row
        return next(one for one in self.rows if one.name == row.parent)

    def control(self, row: Row) -> Row | None:
        """The row's control, if it has one."""
        return next((one for one in self.rows if one.to == row.name), None)

    def over_control(self, row: Row) -> dict[str, dict[str, Interval]]:
        """What the teacher gave: the row minus its control, paired, split -> metric -> interval."""
        control = self.control(row)
        if control is None:
            return {}
        return {
            split: paired(self.asked, control.scores[split], mine)
            for split, mine in row.scores.items()
            if split in control.scores
        }

    def gain(self, row: Row) -> float:
        """Product of size and speed gains over the reference; of size alone where it is untimed."""
        root, key = self.reference.cost, "with_preprocessing"
        size = root["file_bytes"] / row.cost["file_bytes"]
        speed = root[key]["median"] / row.cost[key]["median"] if row.cost[key] else 1.0
        return float(size * speed)


def scores_path(name: str, split: str) -> str:
    """Where a row's answers lie below the run folder."""
    return f"scores/{name}-{split}.npz"
