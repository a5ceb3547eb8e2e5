"""What every other record is built of: the base of all, a figure, and a verdict.

They have a module of their own because `records` holds `findings` and both are built of these; who
uses them imports them from `records`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

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
        cases_needed: Cases that would decide (80 % power), when inconclusive and computable.
    """

    status: Status
    reasons: tuple[str, ...] = ()
    cases_needed: int | None = None
