"""What every other record is built of: the base of all, a figure, a reason and a verdict."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Interval", "Reason", "Record", "Status", "Verdict", "without_empty"]

Status = Literal["pass", "fail", "inconclusive"]


class Record(BaseModel):
    """Base of all records: frozen, no unknown keys, no silent type coercion of NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def without_empty(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """Fields as they are written, without those named that hold nothing.

    What came later than the first files is left out of those that have none of it: they, and the
    digests of them, stay as they were.
    """
    return {name: value for name, value in fields.items() if name not in names or value}


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

    @property
    def turned(self) -> Interval:
        """The same with the other sign: a change for the better as a loss, and the reverse."""
        # 0 - x, so that no "-0.0" comes to stand in a file
        ends = {"value": 0 - self.value, "low": 0 - self.high, "high": 0 - self.low}
        return self.model_copy(update=ends)


class Reason(Record):
    """What one rule, or one note beside the rules, says of the evidence: the facts of a sentence.

    Attributes:
        kind: Which sentence it is: "margin", "agreement", "gap", ...
            (`clinipress.reporting.wording.reasons` has one for each).
        status: What it shows by itself; None for what decides nothing (a note, a guard that
            cannot tell).
        rule: "primary" must be shown to hold; a "guard" can only stop; a "note" decides nothing.
        section: Section of the evidence that it comes from; None: the rules of the study.
        metric: What is judged, without what it is judged of.
        where: The class, group, threshold or disturbance that it is about; None: all images.
        interval: The figure. A change is compressed minus original.
        limit: Largest loss allowed, or least figure asked for: positive.
        cases: Cases that would decide with 80 % power, where that can be said.
        parameters: What else the sentence needs.
        text: The sentence, for readers without this code. Nobody but
            `clinipress.reporting.wording.reasons.worded` makes one.
    """

    kind: str
    status: Status | None = None
    rule: Literal["primary", "guard", "note"] = "note"
    section: str | None = None
    metric: str | None = None
    where: str | None = None
    interval: Interval | None = None
    limit: float | None = None
    cases: int | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    text: str = ""


class Verdict(Record):
    """A rule applied to evidence.

    Attributes:
        status: "pass", "fail" or "inconclusive".
        reasons: One per rule and note, each with its sentence.
        cases_needed: Cases that would decide (80 % power), when inconclusive and computable.
    """

    status: Status
    reasons: tuple[Reason, ...] = ()
    cases_needed: int | None = None

    @model_validator(mode="after")
    def _every_reason_has_its_sentence(self) -> Verdict:
        wordless = [reason.kind for reason in self.reasons if not reason.text]
        if wordless:
            raise ValueError(f"a sentence for every reason, none for '{wordless[0]}'")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """All sentences, in their order."""
        return tuple(reason.text for reason in self.reasons)

    @property
    def deciding(self) -> tuple[str, ...]:
        """Sentences of what made the verdict what it is; all where nothing did so by itself."""
        own = tuple(reason.text for reason in self.reasons if reason.status == self.status)
        return own or self.texts
