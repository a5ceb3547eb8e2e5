"""What every other record is built of: the base of all, a figure, and a verdict.

They have a module of their own because `records` holds `findings` and both are built of these; who
uses them imports them from `records`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = ["Interval", "Record", "Status", "Verdict"]

Status = Literal["pass", "fail", "inconclusive"]


class Record(BaseModel):
    """Base of all records: frozen, no unknown keys, no silent type coercion of NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Interval(Record):
    """A figure with its uncertainty.

    Attributes:
        value: The point estimate, unrounded.
        low: Lower end of the two-sided interval.
        high: Upper end.
        confidence: Coverage the interval aims at, 0.95 unless said.
        method: How the interval was made: "wilson", "tango", "cluster-bootstrap", ...
        n: Number of cases behind the figure.
    """

    value: float
    low: float
    high: float
    confidence: float = 0.95
    method: str = ""
    n: int | None = None


class Verdict(Record):
    """A rule applied to evidence.

    Attributes:
        status: "pass", "fail" or "inconclusive".
        reasons: One sentence per rule, with the figures.
        reason_statuses: What each reason shows by itself; None for one that decides nothing (a
            note, a guard that cannot tell). Empty: all reasons say why, or the record is of a time
            before this was kept.
        cases_needed: Cases that would decide (80 % power), when inconclusive and computable.
    """

    status: Status
    reasons: tuple[str, ...] = ()
    reason_statuses: tuple[Status | None, ...] = ()
    cases_needed: int | None = None

    @model_validator(mode="after")
    def _one_status_each(self) -> Verdict:
        if self.reason_statuses and len(self.reason_statuses) != len(self.reasons):
            raise ValueError("one entry of reason_statuses for each of reasons, or none at all")
        return self

    @property
    def by_reason(self) -> tuple[tuple[str, Status | None], ...]:
        """Each reason with its status; where none was kept, with that of the verdict."""
        statuses = self.reason_statuses or (self.status,) * len(self.reasons)
        return tuple(zip(self.reasons, statuses, strict=True))

    @property
    def deciding(self) -> tuple[str, ...]:
        """The reasons that made the verdict what it is; all where none did so by itself."""
        own = tuple(reason for reason, status in self.by_reason if status == self.status)
        return own or self.reasons

    def with_notes(self, *notes: str) -> Verdict:
        """The same verdict with sentences that decide nothing after its reasons."""
        said = (*self.by_reason, *((note, None) for note in notes))
        update = {
            "reasons": tuple(reason for reason, _ in said),
            "reason_statuses": tuple(status for _, status in said),
        }
        return self.model_copy(update=update)
