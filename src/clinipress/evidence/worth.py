"""Whether a reference is worth comparing with, and what else keeps any verdict from being a pass.

Losing little of a classifier that is no better than guessing is no proof of anything. So the
reference has to be shown to beat chance (its macro AUROC), whoever always names the largest class,
and a classifier that sees facts of the files alone: both paired on the same images, a patient or
cluster counting as far as its images tell more than one. A floor on a figure of all classes, well
above what a constant answer reaches, stands in for all but chance; a floor of one class does not,
because calling everything by that class meets it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from clinipress.evidence.scores import Scores
from clinipress.records.result import Interval, Reason, RiskLevel, RuleChange
from clinipress.stats.intervals import unit_index
from clinipress.stats.metrics import predictions
from clinipress.stats.paired import paired_difference
from clinipress.text import fixed, signed

__all__ = ["FLOORED_ALWAYS", "caps"]

FLOORED_ALWAYS: frozenset[RiskLevel] = frozenset(("critical", "high"))
CHANCE = 0.5  # of the area under the ROC curve
LARGEST, FILES, GUESSING = "always naming the largest class", "facts of the files alone", "chance"


def caps(
    risk: RiskLevel,
    floors: Mapping[str, float],
    rule_changes: Sequence[RuleChange],
    reference: Scores,
    figures: Mapping[str, Interval],
    *,
    baseline: Mapping[str, bool],
    baseline_accuracy: Interval | None,
    may_have_seen: bool = False,
    shared: int = 0,
) -> tuple[Reason, ...]:
    """Why no verdict on a split is better than inconclusive; empty where nothing stands against it.

    Args:
        risk: Of the study.
        floors: Metric -> least figure.
        rule_changes: What is not as it was sealed.
        reference: Its answers on the split.
        figures: Its metrics there.
        baseline: Image -> whether facts of its file alone give the right class.
        baseline_accuracy: Of that, where no image of the split is in `baseline`.
        may_have_seen: Nobody says that the reference was trained on none of these images.
        shared: Images of the rest of the data that share a unit with these.
    """
    reasons = []
    if rule_changes:
        changes = [change.model_dump() for change in rule_changes]
        reasons.append(_cap("rules changed", changes=changes))
    if may_have_seen:
        reasons.append(_cap("may have seen", **({"shared": shared} if shared else {})))
    asked = {
        metric: floor for metric, floor in floors.items() if not _trivial(metric, floor, reference)
    }
    more = {"several": True} if reference.several else {}
    if not asked and risk in FLOORED_ALWAYS:
        reasons.append(_cap("no floor", risk=risk, **more))
    if reference.several:
        area = figures.get("auroc_macro")
        if area is None or not area.low > CHANCE:
            value = "not measured" if area is None else _decimals(area)
            shown = [f"mean area under the ROC curve {value}, chance {CHANCE:g}"]
            reasons.append(_cap("weak reference", than=[GUESSING], not_beaten=shown))
        return tuple(reasons)
    unbeaten = _unbeaten(reference, figures, baseline, baseline_accuracy)
    if any(metric in _guessed(reference) for metric in asked):
        # such a floor stands for the comparison with constant answers, never for that with chance
        unbeaten = {name: shown for name, shown in unbeaten.items() if name == GUESSING}
    if unbeaten:
        than, shown = list(unbeaten), list(unbeaten.values())
        reasons.append(_cap("weak reference", than=than, not_beaten=shown))
    return tuple(reasons)


def _guessed(reference: Scores) -> dict[str, float]:
    """Figures of all classes -> what guessing or a constant answer reaches."""
    if reference.several:
        return {"auroc_macro": CHANCE}
    counts = np.bincount(reference.labels)
    share = 1 / len(reference.classes)
    least = {"accuracy": counts.max() / counts.sum(), "auroc_macro": CHANCE}
    least |= dict.fromkeys(("kappa", "kappa_quadratic"), 0.0)
    return least | dict.fromkeys(("balanced_accuracy", "f1_macro"), share)


def _trivial(metric: str, floor: float, reference: Scores) -> bool:
    """Whether a floor asks for little more than guessing reaches.

    Of the accuracy all that is above the largest class counts, of the others, which a useless
    classifier may exceed by chance, what is above half of the way from guessing to perfect.
    """
    least = _guessed(reference).get(metric)
    if least is None:  # of one class
        return False
    return floor <= (least if metric == "accuracy" else (1 + least) / 2)


def _cap(kind: str, **parameters: object) -> Reason:
    return Reason(kind=kind, status="inconclusive", rule="primary", parameters=parameters)


def _unbeaten(
    reference: Scores,
    figures: Mapping[str, Interval],
    baseline: Mapping[str, bool],
    baseline_accuracy: Interval | None,
) -> dict[str, str]:
    """What the reference is not shown to be better than -> the figures, for people."""
    unbeaten: dict[str, str] = {}
    area = figures.get("auroc_macro")
    if area is None or not area.low > CHANCE:
        value = "not measured" if area is None else _decimals(area)
        unbeaten[GUESSING] = f"area under the ROC curve {value}, chance {CHANCE:g}"
    right = predictions(reference.logits) == reference.labels
    largest = reference.labels == np.bincount(reference.labels).argmax()
    rows = np.flatnonzero([key in baseline for key in reference.keys])
    files = np.asarray([baseline[reference.keys[row]] for row in rows], dtype=np.bool_)
    units = reference.units
    for name, other, chosen in ((LARGEST, largest, slice(None)), (FILES, files, rows)):
        gain = None
        if len(other):
            mine = right[chosen]
            gain = paired_difference(mine, other, unit_index(units[chosen], len(mine)))
        if gain is not None and not gain.low > 0:
            share = f"{fixed(100 * mine.mean(), 1)}% right against {fixed(100 * other.mean(), 1)}%"
            share += f" of the same {len(mine):,} images"
            low, high = (signed(100 * end, 1) for end in (gain.low, gain.high))
            unbeaten[name] = f"{share}, 95% CI of the difference {low} to {high} points"
    accuracy = figures.get("accuracy")
    if len(rows) or baseline_accuracy is None or accuracy is None:
        return unbeaten
    if not accuracy.low > baseline_accuracy.high:
        mine, files_alone = _percent(accuracy), _percent(baseline_accuracy)
        unbeaten[FILES] = f"{mine} right against {files_alone} of all images of the set"
    return unbeaten


def _decimals(figure: Interval) -> str:
    return f"{fixed(figure.value, 2)} ({fixed(figure.low, 2)} to {fixed(figure.high, 2)})"


def _percent(share: Interval) -> str:
    value, low, high = (fixed(100 * x, 1) for x in (share.value, share.low, share.high))
    return f"{value}% ({low} to {high})"
