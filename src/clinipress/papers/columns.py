"""The columns of each table: what is shown of a candidate, each a pure function of records.

A column is a title, a role and a measure; a row says which candidate plays which role. What was not
measured gives no cell, and is drawn as "not measured"; where there is nothing to measure, such as a
change from itself, the cell is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from clinipress.papers.grids import Entry
from clinipress.papers.records import Cell, Unit
from clinipress.records.base import Interval
from clinipress.records.candidate import CandidateRecord
from clinipress.records.result import Result
from clinipress.reporting.wording.numbers import DASH

__all__ = ["COLUMNS", "NOTHING", "PER_CLASS", "Column", "EntryOutcome", "difference", "of_evidence"]

ROW = "row"
NOTHING = Cell(printed=DASH)
CHOSEN_ON = "validation"
FLOAT_BYTES = 4
WITH_ADAM = 3  # weights and Adam's two moments, as in the .h5 file of S1


@dataclass(frozen=True)
class EntryOutcome:
    """What became of one entry.

    Attributes:
        entry: The entry.
        result: Its study's result.
        training: Candidate -> accuracy on the training images, where it was asked for.
    """

    entry: Entry
    result: Result
    training: Mapping[str, Interval] = field(default_factory=dict)

    def candidate(self, name: str) -> CandidateRecord | None:
        """A candidate of the result."""
        return next((record for record in self.result.candidates if record.name == name), None)

    @property
    def reference(self) -> CandidateRecord:
        """The one that all are judged against."""
        return next(
            record for record in self.result.candidates if record.name == self.result.reference
        )


Measure = Callable[[EntryOutcome, CandidateRecord], Cell | None]


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: Its head, and its key in a row's cells.
        measure: What it shows of a candidate.
        role: Whose; a row without that role has a dash.
    """

    title: str
    measure: Measure
    role: str = ROW


def difference(a: Interval, b: Interval) -> Interval:
    """One independent figure minus another: Newcombe's square-and-add of their ends (1998, 10)."""
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    return Interval(value=value, low=low, high=high, method="newcombe")


def _over_seeds(outcome: EntryOutcome, name: str, metric: str, split: str) -> tuple[float, ...]:
    spread = outcome.result.over_seeds.get(name)
    if spread is None or spread.split != split or metric not in spread.evidence:
        return ()
    values = spread.evidence[metric].values
    return values if len(values) > 1 else ()


def of_evidence(metric: str, split: str = CHOSEN_ON, unit: Unit = "share") -> Measure:
    """A figure of the evidence on one split."""

    def measure(outcome: EntryOutcome, record: CandidateRecord) -> Cell | None:
        interval = record.evidence.get(split, {}).get(metric)
        if interval is None:
            return None
        seeds = _over_seeds(outcome, record.name, metric, split)
        return Cell(unit=unit, interval=interval, seeds=seeds)

    return measure


def _change(metric: str, unit: Unit = "points") -> Measure:
    """Candidate minus reference, paired, on the validation images."""

    def measure(outcome: EntryOutcome, record: CandidateRecord) -> Cell | None:
        if record.name == outcome.result.reference:
            return NOTHING
        interval = record.changes.get(CHOSEN_ON, {}).get(metric)
        return None if interval is None else Cell(unit=unit, interval=interval)

    return measure


def _training(outcome: EntryOutcome, record: CandidateRecord) -> Cell | None:
    interval = outcome.training.get(record.name)
    return None if interval is None else Cell(unit="share", interval=interval)


def _gap(outcome: EntryOutcome, record: CandidateRecord) -> Cell | None:
    """Training accuracy minus validation accuracy: different images, so independent."""
    seen = outcome.training.get(record.name)
    unseen = record.evidence.get(CHOSEN_ON, {}).get("accuracy")
    if seen is None or unseen is None:
        return None
    return Cell(unit="points", interval=difference(seen, unseen))


def _over_control(outcome: EntryOutcome, record: CandidateRecord) -> Cell | None:
    if record.control is None:
        return NOTHING
    interval = record.over_control.get(CHOSEN_ON, {}).get("accuracy")
    return None if interval is None else Cell(unit="points", interval=interval)


def _precision(outcome: EntryOutcome, record: CandidateRecord) -> Cell | None:
    """Mean precision over the classes; its ends too, which is wider than the mean's own."""
    evidence = record.evidence.get(CHOSEN_ON, {})
    parts = [evidence.get(f"precision[{name}]") for name in outcome.result.classes]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):  # a class that is never called has none
        return None
    value, low, high = (
        math.fsum(getattr(part, end) for part in known) / len(known)
        for end in ("value", "low", "high")
    )
    interval = Interval(value=value, low=low, high=high, method="mean of the classes' ends")
    return Cell(unit="share", interval=interval)


def _number(unit: Unit, value: Callable[[EntryOutcome, CandidateRecord], float | None]) -> Measure:
    def measure(outcome: EntryOutcome, record: CandidateRecord) -> Cell | None:
        number = value(outcome, record)
        return None if number is None else Cell(unit=unit, number=number)

    return measure


def _alike(outcome: EntryOutcome, record: CandidateRecord) -> CandidateRecord:
    """The float32 file of the reference's weights in this file's format, else the reference."""
    name = f"{outcome.result.reference}-{record.format}-float32"
    return outcome.candidate(name) or outcome.reference


def _by_paper(outcome: EntryOutcome, record: CandidateRecord) -> Cell:
    """S1's accounting: weights and Adam's moments in float32 over the file."""
    counted = WITH_ADAM * FLOAT_BYTES * outcome.reference.parameters
    return Cell(unit="ratio", number=counted / record.file_bytes, notes=("optimizer",))


def _nothing(outcome: EntryOutcome, record: CandidateRecord) -> Cell | None:
    return None


PER_CLASS = "F1 of each class"
FILE = _number("bytes", lambda _, record: record.file_bytes)
# The reference's float32 file over this one; files of one format where there are two.
SMALLER = _number(
    "ratio", lambda outcome, record: _alike(outcome, record).file_bytes / record.file_bytes
)
REDUCTION = _number(
    "reduction", lambda outcome, record: 1 - record.file_bytes / outcome.reference.file_bytes
)
PARAMETERS = _number("count", lambda _, record: record.parameters)
WEIGHTS = _number("bytes", lambda _, record: FLOAT_BYTES * record.parameters)  # nothing else
MACS = _number("count", lambda _, record: record.macs)
TIME = _number("ms", lambda _, record: record.latency_ms.median if record.latency_ms else None)
MEMORY = _number("bytes", lambda _, record: record.peak_memory_bytes)
ACCURACY = of_evidence("accuracy")
SEALED = of_evidence("accuracy", "test")
COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "s0": (
        Column("teacher: train accuracy", _training, "teacher"),
        Column("teacher: validation", ACCURACY, "teacher"),
        Column("teacher: gap, points", _gap, "teacher"),
        Column("student: train accuracy", _training, "student"),
        Column("student: validation", ACCURACY, "student"),
        Column("student: gap, points", _gap, "student"),
        Column("student over control, points", _over_control, "student"),
        Column("int8: validation", ACCURACY, "int8"),
        Column("int8: sealed test", SEALED, "int8"),
        Column("teacher: weights in float32", WEIGHTS, "teacher"),
        Column("teacher: file", FILE, "teacher"),
        Column("int8: file", FILE, "int8"),
        Column("file, teacher over int8", SMALLER, "int8"),
        Column("teacher: memory at the peak", MEMORY, "teacher"),
        Column("int8: memory at the peak", MEMORY, "int8"),
    ),
    "s1": (
        Column("validation accuracy", ACCURACY),
        Column("change, points", _change("accuracy")),
        Column("sealed test", SEALED),
        Column(PER_CLASS, _nothing),
        Column("file", FILE),
        Column("smaller", SMALLER),
        Column("smaller by the paper's accounting", _by_paper),
        Column("time, 1 image", TIME),
    ),
    "s2": (
        Column("accuracy", ACCURACY),
        Column("precision", _precision),
        Column("recall", of_evidence("balanced_accuracy")),
        Column("F1", of_evidence("f1_macro")),
        Column("AUC", of_evidence("auroc_macro", unit="area")),
        Column("over control, points", _over_control),
        Column("sealed test accuracy", SEALED),
        Column("parameters", PARAMETERS),
        Column("MACs", MACS),
        Column("file", FILE),
        Column("time", TIME),
    ),
    "s4": (
        Column("file", FILE),
        Column("time, CPU", TIME),
        Column("time, GPU", _nothing),
        Column("AUC", of_evidence("auroc_macro", unit="area")),
        Column("change of AUC", _change("auroc_macro", "area")),
        Column("accuracy", ACCURACY),
        Column("change of accuracy, points", _change("accuracy")),
        Column("sealed test accuracy", SEALED),
        Column("reduction", REDUCTION),
    ),
}
