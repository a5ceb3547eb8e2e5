"""How far the classes can be told apart without looking at the picture.

A network takes the easiest way. Where the width of the file or its mean brightness gives a class
away, a high accuracy proves little (DeGrave et al., 2021). So each plain fact gets its area under
the ROC curve, and all of them together a cross-validated logistic regression: the statistics-only
baseline that stands beside every model.

Intervals are score intervals (Wilson; Newcombe 2006, method 5, which is Hanley and McNeil's
variance solved at the limit, and does not shrink to nothing at 1 as DeLong's does), with units
counted, not images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinipress.data.grouping import class_counts, deal, numbered, shuffled_by_key
from clinipress.records.result import Interval, Shortcut
from clinipress.stats.intervals import auroc_score_limits, wilson
from clinipress.stats.logistic import fit_logistic, standardised
from clinipress.stats.metrics import auroc, log_softmax

__all__ = [
    "WARNING_FROM",
    "Baseline",
    "FeatureTable",
    "cross_validated",
    "feature_shortcuts",
    "finding_shortcuts",
    "statistics_baseline",
]

FOLDS = 5
LARGEST_SAMPLE = 20_000
# Lower end of the interval from which a shortcut is strong. Image width on the Bhuvaji brain MRI
# (0.83 for no_tumor) and contrast on the Kaggle chest CT (0.98 for normal) lie above it
WARNING_FROM = 0.75
LOGARITHMIC = frozenset({"width", "height", "aspect ratio", "file bytes"})


@dataclass(frozen=True)
class FeatureTable:
    """Plain facts of readable images.

    Attributes:
        keys: Image names, for a seeded order that does not depend on listing.
        features: float ``[n, f]``.
        names: ``f`` names.
        labels: int64 ``[n]``.
        classes: Class names.
        units: int64 ``[n]`` patient or cluster.
    """

    keys: list[str]
    features: NDArray[np.floating]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    units: NDArray[np.int64]

    def sample(self, most: int, seed: int) -> FeatureTable:
        """At most `most` images, seeded."""
        if len(self.keys) <= most:
            return self
        rows = np.sort(shuffled_by_key(self.keys, seed)[:most])
        keys = [self.keys[row] for row in rows]
        parts = self.features[rows], self.names, self.labels[rows], self.classes, self.units[rows]
        return FeatureTable(keys, *parts)


@dataclass(frozen=True)
class Baseline:
    """What file facts alone reach.

    Attributes:
        accuracy: Cross-validated.
        majority: Share of the most frequent class.
        shortcuts: AUROC, feature "all": the mean of the classes ("macro") and, of three classes or
            more, each.
        right: Image -> whether it was classified right, by a fold that did not see its unit.
    """

    accuracy: Interval
    majority: float
    shortcuts: tuple[Shortcut, ...]
    right: Mapping[str, bool]


def feature_shortcuts(facts: FeatureTable) -> tuple[Shortcut, ...]:
    """One-vs-rest AUROC of every single feature that varies, by class, the strongest first.

    As the better direction is taken, pure chance lies a little above 0.5.
    """
    shortcuts = []
    for column, name in enumerate(facts.names):
        values = facts.features[:, column].astype(np.float64)
        if values.min() == values.max():
            continue
        # of two classes the one mirrors the other
        targets = facts.classes if len(facts.classes) > 2 else facts.classes[:1]
        for label, target in enumerate(targets):
            positive = facts.labels == label
            if positive.any() and not positive.all():
                shortcuts.append(_shortcut(name, target, values, positive, facts.units))
    return tuple(
        sorted(
            shortcuts,
            key=lambda shortcut: (-shortcut.auroc.value, shortcut.feature, shortcut.target),
        )
    )


def statistics_baseline(facts: FeatureTable, seed: int = 0) -> Baseline | None:
    """Cross-validated logistic regression on all features of at most 20,000 images, seeded.

    None where a class has fewer than two units, so that nothing can be held out.
    """
    facts = facts.sample(LARGEST_SAMPLE, seed)
    owners = [len(np.unique(facts.units[facts.labels == c])) for c in range(len(facts.classes))]
    if min(owners) < 2:
        return None
    logits = cross_validated(facts, seed)
    hits = logits.argmax(axis=1) == facts.labels
    size = len(np.unique(facts.units))
    low, high = wilson(hits.mean() * size, size)
    accuracy = Interval(value=hits.mean(), low=low, high=high, method="wilson", n=len(hits))
    shortcuts = [
        _shortcut("all", name, logits[:, c], facts.labels == c, facts.units, either_way=False)
        for c, name in enumerate(facts.classes)
    ]
    counts = np.bincount(facts.labels)
    majority = float(counts.max() / counts.sum())
    # of two classes the one mirrors the other, and both their mean
    singles = shortcuts if len(facts.classes) > 2 else []
    # right answers beyond the largest class come from somewhere, however low the area
    overall = _macro(shortcuts)
    overall = overall.model_copy(update={"warning": overall.warning or accuracy.low > majority})
    by_image = dict(zip(facts.keys, hits.tolist(), strict=True))
    return Baseline(accuracy, majority, (overall, *singles), by_image)


def finding_shortcuts(findings: Mapping[str, FeatureTable], seed: int = 0) -> tuple[Shortcut, ...]:
    """Of several findings: what single facts, and all of them together, tell of each.

    Args:
        findings: Finding -> the images of which it is known, in two classes: it is present (0), or
            not.
        seed: Of the folds.

    Returns:
        Each finding with all facts, feature "all", their mean first, then the strongest single
        facts. A finding that fewer than two units show, or do not show, has none.
    """
    together, singles = [], []
    for name, whole in findings.items():
        facts = whole.sample(LARGEST_SAMPLE, seed)
        present = facts.labels == 0
        if min(len(np.unique(facts.units[rows])) for rows in (present, ~present)) < 2:
            continue
        odds = cross_validated(facts, seed)[:, 0]
        together.append(_shortcut("all", name, odds, present, facts.units, either_way=False))
        singles += [s.model_copy(update={"target": name}) for s in feature_shortcuts(facts)]
    singles.sort(key=lambda s: (-s.auroc.value, s.feature, s.target))
    return (*([_macro(together)] if together else []), *together, *singles)


def cross_validated(facts: FeatureTable, seed: int) -> NDArray[np.float64]:
    """Log-probabilities, float64 ``[n, classes]``, by a model that saw no image of the unit.

    Five folds, stratified by class as near as units allow.
    """
    unit = numbered(facts.units.tolist())
    _, inverse = np.unique(unit, return_inverse=True)
    # a unit goes by its first key, so that folds do not depend on the order of listing
    name: dict[int, str] = {}
    for key, number in sorted(zip(facts.keys, inverse.tolist(), strict=True)):
        name.setdefault(number, key)
    order = shuffled_by_key([name[number] for number in range(len(name))], seed)
    counts = class_counts(inverse, facts.labels, len(facts.classes))
    folds = min(FOLDS, len(counts))
    fold = deal(counts, [1 / folds] * folds, order)[inverse]
    features = _logarithms(facts)
    result = np.empty((len(facts.keys), len(facts.classes)))
    for held in range(folds):
        train = fold != held
        x = standardised(features, train)
        weights = fit_logistic(x[train], facts.labels[train], len(facts.classes))
        result[~train] = log_softmax(x[~train] @ weights)
    return result


def _logarithms(facts: FeatureTable) -> NDArray[np.float64]:
    """Sizes on a logarithmic scale, where a factor is a step; the rest as it is."""
    features = facts.features.astype(np.float64)
    columns = [i for i, name in enumerate(facts.names) if name in LOGARITHMIC]
    features[:, columns] = np.log(np.maximum(features[:, columns], 1e-6))
    return features


def _shortcut(
    feature: str,
    target: str,
    values: NDArray[np.float64],
    positive: NDArray[np.bool_],
    units: NDArray[np.int64],
    *,
    either_way: bool = True,
) -> Shortcut:
    value = auroc(values, positive)
    if either_way:
        value = max(value, 1 - value)
    owners = len(np.unique(units[positive])), len(np.unique(units[~positive]))
    low, high = auroc_score_limits(value, *owners)
    interval = Interval(value=value, low=low, high=high, method="newcombe-5", n=len(values))
    return Shortcut(feature=feature, target=target, auroc=interval, warning=low >= WARNING_FROM)


def _macro(shortcuts: list[Shortcut]) -> Shortcut:
    """The mean over classes; its limits are the mean limits, wider than the mean's own."""
    parts = [shortcut.auroc for shortcut in shortcuts]
    low, value, high = (
        float(np.mean([getattr(part, name) for part in parts])) for name in ("low", "value", "high")
    )
    interval = Interval(value=value, low=low, high=high, method="newcombe-5, mean", n=parts[0].n)
    return Shortcut(feature="all", target="macro", auroc=interval, warning=low >= WARNING_FROM)
