"""What a reader needs to know of a metric: one row per metric, and what the rows decide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from clinipress.records.result import Interval
from clinipress.text import class_words

__all__ = ["METRICS", "MetricFacts", "least_loss", "metric_facts", "way"]


@dataclass(frozen=True)
class MetricFacts:
    """What a reader needs to know of a metric.

    Attributes:
        label: Its name in a sentence, without a capital.
        higher_is_better: False where a rise is a loss.
        unit: "points" for shares, shown times 100; "" for figures shown as they are.
        low: Smallest possible value.
        high: Largest possible value, or None.
    """

    label: str
    higher_is_better: bool = True
    unit: str = "points"
    low: float = 0.0
    high: float | None = 1.0

    @property
    def is_share(self) -> bool:
        """Whether its changes are told in points."""
        return self.unit == "points"

    @property
    def scale(self) -> float:
        """What a value is multiplied by when shown."""
        return 100.0 if self.is_share else 1.0

    def loss(self, change: Interval) -> Interval:
        """A change, compressed minus original, turned so that more is worse."""
        return change.turned if self.higher_is_better else change


_FACTS: Mapping[str, MetricFacts] = {
    "accuracy": MetricFacts("accuracy"),
    "exact_match": MetricFacts("share of images with every finding right"),
    "hamming_accuracy": MetricFacts("share of single findings right"),
    "balanced_accuracy": MetricFacts("balanced accuracy"),
    "auroc_macro": MetricFacts("mean area under the ROC curve"),
    "f1_macro": MetricFacts("mean F1 score"),
    "kappa": MetricFacts("Cohen's kappa", low=-1.0),
    "kappa_quadratic": MetricFacts("quadratic weighted kappa", low=-1.0),
    "two_off": MetricFacts("answers two grades off or more", higher_is_better=False),
    "agreement": MetricFacts("agreement with the reference"),
    "sensitivity": MetricFacts("sensitivity"),
    "specificity": MetricFacts("specificity"),
    "precision": MetricFacts("precision"),
    "f1": MetricFacts("F1 score"),
    "auroc": MetricFacts("area under the ROC curve"),
    "log_loss": MetricFacts("log loss", higher_is_better=False, unit="", high=None),
    "brier": MetricFacts("Brier score", higher_is_better=False, unit="", high=2.0),
    "ece": MetricFacts("expected calibration error", higher_is_better=False),
    "ece_equal_mass": MetricFacts(
        "expected calibration error (bins of equal mass)", higher_is_better=False
    ),
}

# Of one number for all cases, and of each class ("sensitivity[CLASS]"), as the evidence names them;
# of classes that have an order, how far off the answers are, too.
METRICS: Mapping[str, tuple[str, ...]] = {
    "all": (
        "accuracy", "balanced_accuracy", "auroc_macro", "f1_macro", "kappa", "log_loss", "brier",
        "ece",
    ),
    "class": ("sensitivity", "precision", "f1", "auroc"),
    "two classes": ("sensitivity", "specificity"),
    "grades": ("kappa_quadratic", "two_off"),
    "findings": (
        "auroc_macro", "sensitivity_macro", "specificity_macro", "f1_macro", "exact_match", "brier",
        "ece",
    ),
    "finding": ("sensitivity", "specificity", "precision", "f1", "auroc"),
}  # fmt: skip


def metric_facts(metric: str) -> MetricFacts:
    """Facts of a metric by its name in the evidence; "sensitivity[glioma]" names its class.

    "sensitivity_macro" is the mean over findings, "_micro" pools all of them. An unknown name is
    taken for a share that is better when higher.
    """
    family, bracket, name = metric.partition("[")
    if family not in _FACTS and family.endswith(("_macro", "_micro")):
        base = metric_facts(family[:-6])
        pooled = f"{base.label} (all findings pooled)"
        return replace(base, label=pooled if family.endswith("_micro") else f"mean {base.label}")
    known = _FACTS.get(family, MetricFacts(family.replace("_", " ")))
    if not bracket:
        return known
    label = f"{known.label} for {class_words(name.removesuffix(']'))}"
    return MetricFacts(label, known.higher_is_better, known.unit, known.low, known.high)


def way(metric: str, change: float) -> Literal["worse", "better", "unchanged"]:
    """Which way a change, compressed minus original, points."""
    if change == 0:
        return "unchanged"
    return "better" if (change > 0) == metric_facts(metric).higher_is_better else "worse"


def least_loss(metric: str, changes: Sequence[Interval | None]) -> int | None:
    """Which change excludes most: the index of the one whose worst end is the smallest loss.

    It says which candidate came closest where none is shipped. The first of equals; None where no
    change is known.
    """
    facts = metric_facts(metric)
    ends = [
        (facts.loss(change).high, index)
        for index, change in enumerate(changes)
        if change is not None and all(map(math.isfinite, (change.value, change.low, change.high)))
    ]
    return min(ends)[1] if ends else None
