"""Which records the report compares: choices made once, so that all sections agree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from clinipress.recipe.study import GUARDS
from clinipress.records.candidate import CandidateRecord, Latency
from clinipress.records.judgement import Judgements
from clinipress.records.metrics import least_loss
from clinipress.records.result import Interval, Result, Rule
from clinipress.reporting.wording.numbers import finite, of_findings

__all__ = ["Role", "View", "unjudged"]

Role = Literal["reference", "shipped", "rejected", "candidate"]
MOST_FINDINGS, OPEN_FINDINGS = 8, 6  # shown at once: all of them, or so many of more
SPLIT_ORDER = ("test", "validation", "train")


def unjudged(record: CandidateRecord) -> frozenset[str]:
    """Of several findings those that too few patients show."""
    reasons = record.verdict.reasons if record.verdict else ()
    few = (r.parameters["units"] for r in reasons if r.kind == "few units")
    return frozenset(name for places in few for name in places if name)


@dataclass(frozen=True)
class View:
    """A result and the choices that follow from it.

    Args:
        result: The record the report is drawn from.
        pictures: File named in the record -> what it holds; those that are not here are said.
    """

    result: Result
    pictures: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def candidates(self) -> tuple[CandidateRecord, ...]:
        """All candidates, the reference first, the others in the order they were made."""
        name = self.result.reference
        return tuple(sorted(self.result.candidates, key=lambda record: record.name != name))

    def numbered(self) -> Iterator[tuple[int, CandidateRecord]]:
        """The candidates with the numbers they carry in tables and figures, from 1."""
        return enumerate(self.candidates, start=1)

    def named(self, name: str | None) -> CandidateRecord | None:
        """The candidate of that name, if there is one."""
        return next((record for record in self.candidates if record.name == name), None)

    @property
    def reference(self) -> CandidateRecord | None:
        """The reference; None when the record does not hold it."""
        return self.named(self.result.reference)

    @property
    def shipped(self) -> CandidateRecord | None:
        """The shipped candidate, if any."""
        return self.named(self.result.shipped)

    @cached_property
    def subject(self) -> CandidateRecord | None:
        """What is set beside the reference: the shipped one, else the one that came closest.

        Closest: the smallest loss of the primary metric that can be excluded.
        """
        if self.shipped is not None and self.shipped is not self.reference:
            return self.shipped
        judged = self.compressed
        changes = [self.change(record, self.metric)[0] for record in judged]
        index = least_loss(self.metric, changes)
        return None if index is None else judged[index]

    @cached_property
    def controls(self) -> tuple[CandidateRecord, ...]:
        """Those that are only there to be compared with: trained without a teacher."""
        names = {record.control for record in self.candidates if record.control}
        return tuple(record for record in self.candidates if record.name in names)

    @property
    def compressed(self) -> tuple[CandidateRecord, ...]:
        """All candidates but the reference and the controls."""
        left_out = (self.reference, *self.controls)
        return tuple(
            record for record in self.candidates if all(record is not other for other in left_out)
        )

    @property
    def primary(self) -> Rule | None:
        """The rule that decides."""
        rules = self.result.rules
        return next((rule for rule in rules if rule.primary), rules[0] if rules else None)

    @property
    def metric(self) -> str:
        """The metric of the primary rule."""
        return self.primary.metric if self.primary else self.overall

    @property
    def several(self) -> bool:
        """Whether an image may show several findings."""
        return self.result.task == "multilabel"

    @property
    def noun(self) -> str:
        """What an image is said to show: "class" or "finding"."""
        return "finding" if self.several else "class"

    @property
    def nouns(self) -> str:
        """More than one of them."""
        return "findings" if self.several else "classes"

    @property
    def answered(self) -> tuple[str, str]:
        """What an answer is given to, one and several."""
        if self.several:
            return "pair of image and finding", "pairs of image and finding"
        return "image", "images"

    def told(self, text: str) -> str:
        """A text about classes and accuracy as this study tells it; no text that users wrote."""
        return of_findings(text) if self.several else text

    @property
    def overall(self) -> str:
        """The one figure that stands for all: "accuracy", "auroc_macro" of several findings."""
        return self.result.overall

    @property
    def margin(self) -> float | None:
        """The limit of the primary rule, in the metric's own unit."""
        return self.primary.margin if self.primary else None

    @cached_property
    def margins(self) -> dict[str, float]:
        """Metric -> limit; a rule for every class, "sensitivity[*]", becomes one per class."""
        margins: dict[str, float] = {}
        for rule in self.result.rules:
            for name in self._each_class(rule.metric):
                if (
                    "[*]" not in rule.metric or name not in margins
                ):  # one class's own rule goes first
                    margins[name] = rule.margin
        return margins

    @cached_property
    def floors(self) -> dict[str, float]:
        """Metric -> least figure that must be shown; as sealed, else as the study file has it."""
        sealed, recipe = self.result.sealed, self.result.recipe.get("floors")
        floors = sealed.floors if sealed else recipe if isinstance(recipe, dict) else {}
        return {name: floor for key, floor in floors.items() for name in self._each_class(key)}

    def _each_class(self, metric: str) -> list[str]:
        base, every, _ = metric.partition("[*]")
        return [f"{base}[{name}]" for name in self.result.classes] if every else [metric]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes as they are shown: grades from the least to the gravest."""
        return self.result.order or self.result.classes

    @cached_property
    def unasked(self) -> tuple[str, ...]:
        """Findings without a threshold of the model in hand: neither called nor missed."""
        own = self.own_judgements(self.subject) if self.subject else None
        section = own[1].calibration if own else None
        if section is None:
            return ()
        return tuple(
            n for n in self.classes if n in section.temperatures.keys() - section.thresholds
        )

    def lost_most_first(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Names of findings that are shown at once, and of those that are folded away.

        Where they are few, or are classes, all as they come; else first those whose area under the
        ROC curve may have lost most, and last those that too few patients show to tell.
        """
        if not self.several or len(names) <= MOST_FINDINGS:
            return list(names), []
        changes = self.subject.changes if self.subject else {}
        split = changes.get(self.compared_split or "", {})
        few = unjudged(self.subject) if self.subject else frozenset()

        def low(name: str) -> float:
            change = split.get(f"auroc[{name}]")
            known = change is not None and finite(change) and name not in few
            return change.low if known and change is not None else math.inf

        ranked = sorted(names, key=low)
        return ranked[:OPEN_FINDINGS], ranked[OPEN_FINDINGS:]

    def in_order(self, matrix: Sequence[Sequence[int]]) -> list[list[int]]:
        """Rows and columns by true class and answer, as the classes are shown."""
        places = [self.result.classes.index(name) for name in self.classes]
        return [[matrix[row][column] for column in places] for row in places]

    @cached_property
    def guards(self) -> tuple[str, ...]:
        """Sections of the evidence that can stop a candidate."""
        evidence = self.result.recipe.get("evidence")
        named = evidence.get("guards") if isinstance(evidence, dict) else ()
        if self.result.sealed is not None:
            return self.result.sealed.guards
        return tuple(GUARDS[self.result.risk] if named is None else named)

    @property
    def released(self) -> bool:
        """Whether what was selected passed; selected on validation is not released."""
        return self.shipped is not None and self.result.verdict.status == "pass"

    def role(self, record: CandidateRecord) -> Role:
        """What became of a candidate; one that did not fail but was not chosen is a "candidate"."""
        if record is self.shipped:
            return "shipped"
        if record is self.reference:
            return "reference"
        failed = record.verdict is None or record.verdict.status == "fail"
        return "rejected" if record.rejected is not None and failed else "candidate"

    def change(self, record: CandidateRecord, metric: str) -> tuple[Interval | None, str | None]:
        """Candidate minus reference of a metric, and on which split: test before validation."""
        for split in SPLIT_ORDER:
            interval = record.changes.get(split, {}).get(metric)
            if interval is not None:
                return interval, split
        return None, None

    @staticmethod
    def judged_split(record: CandidateRecord) -> str | None:
        """The split that decides on a candidate; None for the reference."""
        return next((split for split in SPLIT_ORDER if split in record.changes), None)

    def cases(self, interval: Interval | None, split: str | None) -> int | None:
        """Images behind a figure: its own count, else the size of the split."""
        if interval is not None and interval.n is not None:
            return interval.n
        return self.result.split.size(split or "") or None

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Splits on which any candidate was measured; test first."""
        measured = {split for record in self.candidates for split in record.evidence}
        known = [split for split in SPLIT_ORDER if split in measured]
        return (*known, *sorted(measured - set(known)))

    @cached_property
    def compared_split(self) -> str | None:
        """The split on which subject and reference can be set side by side."""
        if self.reference is None or self.subject is None:
            return None
        shared = [
            split
            for split in self.splits
            if self.reference.evidence.get(split) and self.subject.evidence.get(split)
        ]
        own = self.judged_split(self.subject)
        return own if own in shared else next(iter(shared), None)

    @cached_property
    def plotted_split(self) -> str | None:
        """The split on which most candidates have an accuracy; mixing splits would mislead."""
        have = {
            split: sum(
                finite(record.evidence.get(split, {}).get(self.overall))
                for record in self.candidates
            )
            for split in self.splits
        }
        best = max(have.values(), default=0)
        return next((split for split in self.splits if have[split] == best and best), None)

    @property
    def shown_judgements(self) -> dict[str, Judgements]:
        """The subject's sections by split, in the order of the page."""
        if self.subject is None:
            return {}
        return {split: self.subject.judgements[split] for split in self.judged_splits}

    def own_judgements(self, record: CandidateRecord) -> tuple[str, Judgements] | None:
        """A candidate's sections on the study's own images, and which images these are."""
        wanted = (self.judged_split(record), self.compared_split, *SPLIT_ORDER)
        split = next((split for split in wanted if split in record.judgements), None)
        return (split, record.judgements[split]) if split is not None else None

    @cached_property
    def judged_splits(self) -> tuple[str, ...]:
        """Where the subject's sections come from: its own images, then sets from elsewhere."""
        if self.subject is None:
            return ()
        own = self.own_judgements(self.subject)
        elsewhere = sorted(set(self.subject.judgements) - set(SPLIT_ORDER))
        return (*([own[0]] if own and own[0] not in elsewhere else []), *elsewhere)

    def size_ratio(self, record: CandidateRecord) -> float | None:
        """Times smaller than the reference's file."""
        if self.reference is None or not record.file_bytes or not self.reference.file_bytes:
            return None
        return self.reference.file_bytes / record.file_bytes

    def timing(self, record: CandidateRecord) -> Latency | None:
        """Time per image: with reading and decoding of the file, where that was measured."""
        root = self.reference
        whole = root is None or root.latency_with_preprocessing_ms is not None
        return (record.latency_with_preprocessing_ms if whole else None) or record.latency_ms

    @property
    def too_busy(self) -> str:
        """Why times were not compared, as the first candidate has it; "" where they were."""
        speeds = (record.speed for record in self.candidates if record.speed is not None)
        return next((speed.why for speed in speeds if not speed.reliable), "")

    def speed_ratio(self, record: CandidateRecord) -> float | None:
        """Times faster than the reference; None unless both were timed alike, and reliably."""
        if record.speed is not None:
            return record.speed.ratio.value if record.speed.reliable else None
        mine = self.timing(record)
        theirs = self.timing(self.reference) if self.reference else None
        if mine is None or theirs is None or mine.median <= 0:
            return None
        same = (mine.batch, mine.threads, mine.preprocessing) == (
            theirs.batch,
            theirs.threads,
            theirs.preprocessing,
        )
        return theirs.median / mine.median if same else None
