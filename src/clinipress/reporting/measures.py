"""Every measured change of a candidate, each once, with its limit, its floor and how it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clinipress.records.candidate import CandidateRecord
from clinipress.records.metrics import metric_facts
from clinipress.records.result import Interval
from clinipress.reporting.view import View, unjudged
from clinipress.reporting.wording.numbers import finite, metric_class

__all__ = ["Direction", "Measure", "finding", "lost_most", "main_changes", "measures"]

Direction = Literal["worse", "better"]
MAIN = 3  # changes that the first screen shows


@dataclass(frozen=True)
class Measure:
    """One metric of the original and of the compressed model on the same images.

    Attributes:
        metric: Its name in the evidence.
        reference: The original's figure, or None.
        compressed: The candidate's, or None.
        change: Compressed minus original, finite.
        limit: Largest loss that a rule allows, or None.
        floor: Least figure asked for, or None.
        of: The class of a metric that is of one class in a two-class task, or None.
    """

    metric: str
    reference: Interval | None
    compressed: Interval | None
    change: Interval
    limit: float | None = None
    floor: float | None = None
    of: str | None = None

    @property
    def loss(self) -> Interval:
        """The change turned so that more is worse."""
        return metric_facts(self.metric).loss(self.change)

    @property
    def shown(self) -> Direction | None:
        """Which way the whole interval points; None where it holds 0."""
        return "worse" if self.loss.low > 0 else "better" if self.loss.high < 0 else None

    @property
    def within(self) -> bool | None:
        """Whether the loss stays within the limit; None where that is open, or there is none."""
        if self.limit is None or self.loss.low < self.limit <= self.loss.high:
            return None
        return self.loss.high < self.limit

    @property
    def label_class(self) -> str | None:
        """The class that it is of."""
        return metric_class(self.metric) or self.of

    @property
    def size(self) -> float:
        """How large the change is on a scale common to all: figures that are no share count 0."""
        return abs(self.change.value) if metric_facts(self.metric).is_share else 0.0


def finding(view: View) -> str | None:
    """The class that "sensitivity" is of, in a two-class task."""
    classes = view.result.classes
    if len(classes) != 2:
        return None
    recipe = view.result.recipe.get("data")
    named = view.result.positive or (recipe.get("positive") if isinstance(recipe, dict) else None)
    return named if named in classes else classes[1]  # as runs of 0.1.0 took it


def _twins(view: View) -> dict[str, tuple[str, str]]:
    """In two classes: a metric of one class -> the name that says the same, and of which class."""
    positive = finding(view)
    if positive is None:
        return {}
    (negative,) = (name for name in view.result.classes if name != positive)
    return {
        f"sensitivity[{positive}]": ("sensitivity", positive),
        f"sensitivity[{negative}]": ("specificity", positive),
    }


def measures(view: View, record: CandidateRecord | None, split: str | None = None) -> list[Measure]:
    """What was measured of a change, rules first, classes last, nothing twice.

    Args:
        view: The result.
        record: A candidate; None has no changes.
        split: The images; None: those that decide on the candidate.
    """
    split = split or (view.judged_split(record) if record else None)
    if record is None or split is None:
        return []
    changes = {name: x for name, x in record.changes.get(split, {}).items() if finite(x)}
    if view.several:
        changes = {name: x for name, x in changes.items() if _is_told(name, unjudged(record))}
    theirs = view.reference.evidence.get(split, {}) if view.reference else {}
    mine, limits, floors = record.evidence.get(split, {}), dict(view.margins), dict(view.floors)
    of: dict[str, str] = {}
    for name, (twin, positive) in _twins(view).items():
        if name in changes and changes.get(twin) is not None:
            del changes[name]
            of[twin] = positive
            for asked in (limits, floors):
                if name in asked:
                    asked.setdefault(twin, asked[name])
    ranked = sorted(changes, key=lambda metric: metric_class(metric) is not None)
    order = [*(metric for metric in limits if metric in changes), *ranked]
    return [
        Measure(
            metric,
            theirs.get(metric),
            mine.get(metric),
            changes[metric],
            limits.get(metric),
            floors.get(metric),
            of.get(metric),
        )
        for metric in dict.fromkeys(order)
    ]


def _is_told(metric: str, few: frozenset[str]) -> bool:
    """Of several findings: means, and each one's area; the rest follows from thresholds.

    Fourteen findings by five figures would show a loss by chance alone.
    """
    name = metric_class(metric)
    if name is None:
        return not metric.endswith("_micro") and metric != "hamming_accuracy"
    return metric.startswith("auroc[") and name not in few


def lost_most(every: Sequence[Measure]) -> Measure | None:
    """The class whose sensitivity lost most, or gained least; None where no class was measured.

    Of several findings, whose sensitivities hang on thresholds, the one whose area did.
    """
    found = [m for m in every if m.metric.partition("[")[0] in ("sensitivity", "specificity")]
    found = found or [m for m in every if m.metric.startswith("auroc[")]
    return max(found, key=lambda measure: measure.loss.value, default=None)


def main_changes(every: Sequence[Measure]) -> list[Measure]:
    """The class that lost most, then the largest changes; the largest shown loss among them."""
    first = lost_most(every)
    chosen = [first] if first else []
    largest = sorted(every, key=lambda measure: -measure.size)
    losses = [measure for measure in largest if measure.shown == "worse"]
    for measure in (*losses[:1], *largest):
        if measure not in chosen and len(chosen) < MAIN:
            chosen.append(measure)
    return chosen
