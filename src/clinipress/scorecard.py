"""From logits to a row of the report: evidence, drop, verdict and cost of every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clinipress import gate
from clinipress.evaluate.evidence import drops, evidence
from clinipress.evaluate.metrics import confusion
from clinipress.evaluate.paired import discordance
from clinipress.models.classifier import TorchCandidate
from clinipress.records import (
    Interval,
    Rule,
    Verdict,
)
from clinipress.runner import Runner
from clinipress.runtimes.files import FileCandidate
from clinipress.targets import Target

__all__ = ["Row", "Scorecard"]

Kind = Literal["reference", "step", "export", "control"]


@dataclass
class Row:
    """A candidate and what is known of it so far; `to`: the row that a control is compared with."""

    name: str
    file: FileCandidate
    torch: TorchCandidate
    of: Kind
    to: str | None = None
    logits: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    evidence: dict[str, dict[str, Interval]] = field(default_factory=dict)
    drops: dict[str, dict[str, Interval]] = field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)
    scores: dict[str, Path] = field(default_factory=dict)
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
    cases: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=dict)

    @property
    def reference(self) -> Row:
        """The root of every comparison."""
        return self.rows[0]

    def add_reference(self, file: FileCandidate, torch: TorchCandidate) -> None:
        """The first row."""
        self._add(Row("reference", file, torch, "reference"))

    def add(
        self,
        file: FileCandidate,
        torch: TorchCandidate,
        *,
        of: Kind,
        to: str | None = None,
        because: str | None = None,
    ) -> None:
        """Measure a file on validation and judge it against the reference.

        Args:
            file: The candidate.
            torch: The network it was made from.
            of: What it is.
            to: Name of the row that a control is compared with.
            because: Why it was tried although the study does not name it.
        """
        self._add(Row(file.card.name, file, torch, of, to, because=because))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        rows = self.runner.data.rows("validation", row.file.card.input)
        row.logits["validation"], row.scores["validation"] = self.runner.logits(
            row.file, "validation"
        )
        self._score(row, "validation", rows.labels, rows.units)

    def _score(
        self, row: Row, split: str, labels: NDArray[np.int64], units: NDArray[np.int64]
    ) -> None:
        study, classes = self.runner.study, row.file.card.classes
        self.cases[split] = labels, units
        root = None if row is self.reference else self.reference.logits[split]
        options: dict[str, Any] = {
            "units": units,
            "resamples": study.bootstrap,
            "seed": study.seed,
            "positive": study.data.positive,
        }
        logits = row.logits[split]
        row.evidence[split] = evidence(logits, labels, classes, reference=root, **options)
        row.confusion[split] = confusion(logits, labels, len(classes)).tolist()
        accuracy = row.evidence[split]["accuracy"]
        span = f"{accuracy.low:.1%} to {accuracy.high:.1%}"
        said = f"{row.name}: {split} accuracy {accuracy.value:.1%} ({span})"
        if root is not None:
            row.drops[split] = drops(root, logits, labels, classes, **options)
            found = discordance(root, logits, labels, classes)
            row.verdicts[split] = gate.judge(self.rules, row.drops[split], discordance=found)
            said += f", {row.verdicts[split].status}"
        self.runner.progress.say(said)

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
                row.logits["test"], row.scores["test"] = scores[row.name]
                self._score(row, "test", rows.labels, rows.units)

    def control(self, row: Row) -> Row | None:
        """The row's control, if it has one."""
        return next((one for one in self.rows if one.to == row.name), None)

    def over_control(self, row: Row) -> dict[str, dict[str, Interval]]:
        """What the teacher gave: the row minus its control, paired, split -> metric -> interval."""
        control, study = self.control(row), self.runner.study
        if control is None:
            return {}
        found = {}
        for split in [name for name in row.logits if name in control.logits]:
            labels, units = self.cases[split]
            found[split] = drops(
                row.logits[split], control.logits[split], labels, row.file.card.classes,
                units=units, resamples=study.bootstrap, seed=study.seed,
                positive=study.data.positive,
            )  # fmt: skip
        return found

    def gain(self, row: Row) -> float:
        """Product of size and speed gains over the reference; of size alone where it is untimed."""
        root, key = self.reference.cost, "with_preprocessing"
        size = root["file_bytes"] / row.cost["file_bytes"]
        speed = root[key]["median"] / row.cost[key]["median"] if row.cost[key] else 1.0
        return float(size * speed)
