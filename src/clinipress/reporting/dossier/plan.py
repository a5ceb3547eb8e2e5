"""What a dossier holds: records of a change control plan's parts and of the checklists' answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clinipress.records.candidate import Latency
from clinipress.records.result import (
    Interval,
    Record,
    RiskLevel,
    Rule,
    Status,
    TestOpening,
    Verdict,
)
from clinipress.reporting.view import Role

__all__ = [
    "NOTICE",
    "SIGNERS",
    "YOURS",
    "Alone",
    "Answer",
    "Change",
    "Dossier",
    "Modification",
    "Part",
    "Protocol",
    "Signature",
    "State",
    "Tried",
]

NOTICE = (
    "This dossier supports a predetermined change control plan, and two reporting checklists, with "
    "what the records of one study hold. It does not claim conformity with any guideline, standard "
    "or regulation. What the records do not hold is marked \u201cfor you to complete\u201d."
)
YOURS = "for you to complete"
# Who weighs accuracy against size and speed; the names and dates are the maker's.
SIGNERS = (
    "Clinician who answers for the use",
    "Quality and regulatory affairs",
    "Risk management",
    "Development",
)
State = Literal["records", "part", "you"]


class Change(Record):
    """One step of a modification with the parameters that say how far it goes."""

    step: str
    parameters: dict[str, str]


class Alone(Record):
    """A modification beside the candidate it was made from, by point estimates.

    Attributes:
        parent: That candidate.
        split: Where both were measured, or None.
        differences: Metric -> this one minus its parent. No interval: the records pair every
            candidate with the root reference.
        file_ratio: Parent's file over this one's.
        time_ratio: Parent's median time over this one's; None unless both were timed alike.
    """

    parent: str
    split: str | None
    differences: dict[str, float]
    file_ratio: float | None
    time_ratio: float | None


class Modification(Record):
    """One candidate: what was done, and what it did.

    Attributes:
        number: As in the report.
        name: Its name.
        changes: All its steps since the reference's own training, oldest first.
        format: Of its file.
        precision: Of its file.
        because: Why it was tried although the study does not name it, or None.
        control: Trained without a teacher, to compare with; never selected.
        role: What became of it.
        reasons: Why it was not selected, and what its verdict said against it.
        verdict: On the rules.
        file_bytes: Size of the file.
        sha256: Of the file.
        file_ratio: Reference's file over this one's.
        time: Time of one image, or None.
        time_ratio: Reference's time over this one's.
        peak_memory_bytes: Or None.
        split: Where the differences below were measured.
        differences: Cumulative: metric -> this one minus the reference, paired.
        alone: Beside its parent; None where the parent is not in the record.
        over_control: What the teacher gave, by metric, where a control was trained.
        sections: Section of the evidence -> its verdict; what was not measured is absent.
    """

    number: int
    name: str
    changes: tuple[Change, ...]
    format: str
    precision: str
    because: str | None
    control: bool
    role: Role
    reasons: tuple[str, ...]
    verdict: Verdict | None
    file_bytes: int
    sha256: str
    file_ratio: float | None
    time: Latency | None
    time_ratio: float | None
    peak_memory_bytes: int | None
    split: str | None
    differences: dict[str, Interval]
    alone: Alone | None
    over_control: dict[str, Interval]
    sections: dict[str, Verdict]


class Tried(Record):
    """Values of a parameter over all candidates: the range that the evidence covers."""

    step: str
    parameter: str
    values: tuple[str, ...]


class Protocol(Record):
    """How a modification is made and judged.

    Attributes:
        rules: The primary first.
        guarding_sections: Sections of the evidence that stop a candidate where they show a loss.
        divided_by: What the images were divided by.
        split_sha256: Of the split file.
        openings: Every opening of the sealed test split.
        data_management: Sentences of the records.
        retraining: Likewise.
        performance_evaluation: Likewise.
        update_procedures: None: the maker's.
    """

    rules: tuple[Rule, ...]
    guarding_sections: tuple[str, ...]
    divided_by: str
    split_sha256: str
    openings: tuple[TestOpening, ...]
    data_management: tuple[str, ...]
    retraining: tuple[str, ...]
    performance_evaluation: tuple[str, ...]
    update_procedures: None = None


class Answer(Record):
    """A checklist's item and what is said to it.

    Attributes:
        number: The checklist's own.
        section: Where it belongs.
        asks: The item in short words.
        state: "records": the records answer it; "part": in part; "you": they hold nothing of it.
        said: What they say, or None.
        rest: What is left to complete, or None.
        maker: What people said to it, or None.
    """

    number: str
    section: str
    asks: str
    state: State
    said: str | None
    rest: str | None
    maker: str | None = None


class Part(Record):
    """A piece of software or a file that the figures hang on."""

    kind: Literal["software", "file"]
    name: str
    version: str | None = None
    sha256: str | None = None


class Signature(Record):
    """Who accepts or declines what is lost; empty until somebody signs."""

    role: str
    name: str = ""
    decision: str = ""
    date: str = ""
    signature: str = ""


class Dossier(Record):
    """``dossier.json``."""

    schema_version: Literal["2"] = "2"
    notice: str = NOTICE
    study: str
    synthetic: bool
    created: str
    risk: RiskLevel
    intended_use: str | None
    reference: str
    shipped: str | None
    status: Status
    verdict: Verdict
    modifications: tuple[Modification, ...]
    tried: tuple[Tried, ...]
    protocol: Protocol
    limits: tuple[str, ...]
    inventory: tuple[Part, ...]
    claim_2024: tuple[Answer, ...]
    tripod_ai: tuple[Answer, ...]
    answers: dict[str, str] = Field(default_factory=dict)
    signatures: tuple[Signature, ...] = ()
