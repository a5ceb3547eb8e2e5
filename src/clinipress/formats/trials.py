"""How a network that was trained elsewhere wants its images: tried on labelled training images.

A network that is given images of another scale or size still answers, only worse. A way is taken
where it is better than every other beyond chance: right in more images or, where that does not
tell, with a lower Brier score; of several findings, with a larger mean area under their ROC curves.
What the trials cannot tell is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.stats.intervals import wilson
from clinipress.stats.metrics import auroc, mean_of_defined, rank_table, sigmoid, weighted_auroc
from clinipress.stats.paired import mcnemar_exact

__all__ = [
    "FIRST_CASES",
    "SCALES",
    "SETTLING_CASES",
    "Areas",
    "Classes",
    "Hits",
    "by_output",
    "check_better_than_chance",
    "figures",
    "hits_of",
    "likeliest_order",
    "order_refusal",
    "share_words",
    "trial_lines",
    "tried",
]

Classes = NDArray[np.int64]

FIRST_CASES, SETTLING_CASES = 48, 240
CHANCE = 0.05  # of a difference that is none, two-sided (exact McNemar test)
TEMPERATURES = np.geomspace(0.02, 50, 40)
RESAMPLES = 400  # of the cases of several findings
Z = 1.96  # of the mean difference of Brier scores, over its standard error
# What networks are trained with: mean and standard deviation of pixels in [0, 1]; "caffe" is BGR
SCALES: Mapping[str, tuple[Any, Any]] = {
    "0..1": (0.0, 1.0),
    "0..255": (0.0, 1 / 255),
    "-1..1": (0.5, 0.5),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": ((103.939 / 255, 116.779 / 255, 123.68 / 255), 1 / 255),
}


@dataclass(frozen=True)
class Hits:
    """How well cases were answered: which of them right, and the Brier score of each."""

    right: NDArray[np.bool_]
    brier: NDArray[np.float64]

    measure = "accuracy"

    @classmethod
    def of(cls, logits: NDArray[np.float32], labels: Classes) -> Hits:
        """Of logits in the order of the labels; how sure they sound has no say (temperature)."""
        tempered = logits.astype(np.float64)[None] / TEMPERATURES[:, None, None]
        exponents = np.exp(tempered - tempered.max(2, keepdims=True))
        shares = exponents / exponents.sum(2, keepdims=True)
        cases = np.arange(len(labels))
        likelihood = np.log(np.maximum(shares[:, cases, labels], 1e-12)).mean(1)
        best = shares[int(likelihood.argmax())]
        best[cases, labels] -= 1
        return cls(logits.argmax(1) == labels, (best**2).sum(1))

    @property
    def merit(self) -> tuple[float, float]:
        """The higher, the better."""
        return int(self.right.sum()), -float(self.brier.mean())

    @property
    def cases(self) -> int:
        """How many were answered."""
        return len(self.right)

    @property
    def share(self) -> float:
        """Of them that were answered right."""
        return float(self.right.mean())

    def interval(self) -> tuple[float, float]:
        """Of `share`, 95 %."""
        return wilson(float(self.right.sum()), self.cases)

    def __str__(self) -> str:
        return f"{100 * self.share:.1f}% of {self.cases} training images right"

    def worse_than(self, best: Any) -> bool:
        """Whether fewer are right, beyond chance; or else the Brier score is higher, likewise."""
        lost = int((best.right & ~self.right).sum())
        gained = int((self.right & ~best.right).sum())
        if lost > gained and mcnemar_exact(lost, gained) <= CHANCE:
            return True
        return lost >= gained and _dearer(self.brier, best.brier)


def _dearer(mine: NDArray[np.float64], best: NDArray[np.float64]) -> bool:
    """Whether Brier scores of the same cases are higher, beyond chance."""
    difference = mine - best
    error = float(difference.std(ddof=1)) / np.sqrt(len(difference))
    return bool(difference.mean() > Z * error)


@dataclass(frozen=True)
class Areas:
    """How well several findings were told from their absence: the mean area under their ROC curves.

    Attributes:
        share: The mean area; 0.5 where no finding is known in both ways.
        drawn: float64 ``[RESAMPLES]``, likewise on cases drawn again, the same for every way.
        brier: float64 ``[n]``, mean Brier score of what is known of a case.
    """

    share: float
    drawn: NDArray[np.float64]
    brier: NDArray[np.float64]

    measure = "auroc"

    @classmethod
    def of(cls, logits: NDArray[np.float32], labels: Classes) -> Areas:
        """Of logits and labels ``[n, k]``: 1 present, 0 absent, -1 unknown; as `Hits.of`."""
        cases = len(labels)
        weights = np.random.default_rng(0).multinomial(cases, np.full(cases, 1 / cases), RESAMPLES)
        every = np.concatenate([np.ones((1, cases)), weights]).T
        areas = []
        for finding, scores in zip(labels.T, logits.astype(np.float64).T, strict=True):
            known = np.flatnonzero(finding >= 0)
            areas.append(
                weighted_auroc(rank_table(scores[known], finding[known] == 1), every[known])
            )
        mean = np.nan_to_num(mean_of_defined(np.stack(areas)), nan=0.5)
        told, there = labels >= 0, labels == 1
        tempered = logits.astype(np.float64)[None] / TEMPERATURES[:, None, None]
        surprise = np.logaddexp(0, np.where(there, -tempered, tempered))
        shares = sigmoid(tempered[int(np.where(told, surprise, 0).sum((1, 2)).argmin())])
        errors = np.where(told, (shares - there) ** 2, 0).sum(1) / np.maximum(told.sum(1), 1)
        return cls(float(mean[0]), mean[1:], errors)

    @property
    def merit(self) -> tuple[float, float]:
        """The higher, the better."""
        return self.share, -float(self.brier.mean())

    @property
    def cases(self) -> int:
        """How many were answered."""
        return len(self.brier)

    def interval(self) -> tuple[float, float]:
        """Of `share`, 95 %."""
        low, high = np.quantile(self.drawn, (CHANCE / 2, 1 - CHANCE / 2))
        return float(low), float(high)

    def __str__(self) -> str:
        return f"mean AUROC {self.share:.3f} on {self.cases} training images"

    def worse_than(self, best: Any) -> bool:
        """Whether the mean area is smaller, beyond chance; or else the Brier score is higher."""
        if np.quantile(self.drawn - best.drawn, 1 - CHANCE / 2) < 0:
            return True
        return self.share <= best.share and _dearer(self.brier, best.brier)


def hits_of(logits: NDArray[np.float32], labels: Classes) -> Hits | Areas:
    """`Hits` of labels ``[n]``, `Areas` of labels ``[n, k]``."""
    return Areas.of(logits, labels) if labels.ndim == 2 else Hits.of(logits, labels)


def tried(
    asked: str,
    ways: Iterable[str],
    hits: Callable[[str, int], Hits | Areas],
    same: Callable[[str, str], bool],
    most: int | None = None,
) -> tuple[str, list[str], list[dict[str, Any]]]:
    """Try ways to read images; what is worse on a few need not be tried on all.

    Args:
        asked: What they differ in.
        ways: Their names.
        hits: Of a way, on the first so many images.
        same: Whether two ways give the network the same numbers: there is nothing to choose.
        most: So many at most are tried on all images.

    Returns:
        The best one, those that are not worse beyond chance, and each trial (`trial_lines`).
    """
    rows: list[dict[str, Any]] = []
    for count in (FIRST_CASES, SETTLING_CASES):
        found = {way: hits(way, count) for way in ways}
        order = sorted(found, key=lambda way: found[way].merit, reverse=True)
        best = order[0]
        rows += [figures(asked, way, hit, way == best) for way, hit in found.items()]
        rivals = [way for way in order[1:] if not found[way].worse_than(found[best])]
        rivals = [way for way in rivals if not same(way, best)]
        if not rivals:
            break
        going_on = {best, *rivals[: most and most - 1]}
        ways = [way for way in found if way in going_on]
    return best, rivals, rows


def figures(asked: str, option: str, hits: Hits | Areas, chosen: bool) -> dict[str, Any]:
    """A trial: "asked", "option", "accuracy", "low", "high", "brier", "cases", "chosen".

    Of several findings "auroc" instead of accuracy.
    """
    low, high = hits.interval()
    values = {hits.measure: hits.share, "low": low, "high": high}
    values["brier"] = float(hits.brier.mean())
    rounded = {key: round(value, 6) for key, value in values.items()}
    return {"asked": asked, "option": option, **rounded, "cases": hits.cases, "chosen": chosen}


def trial_lines(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """The trials for a reader, a line each."""
    return [
        f"{row['asked']} {row['option']}: {_line(row)}"
        + (", taken" if row["chosen"] and row["asked"] != "all" else "")
        for row in trials
    ]


def _line(row: Mapping[str, Any]) -> str:
    if "auroc" in row:
        share = (
            f"mean AUROC {row['auroc']:.3f} on {row['cases']} training images "
            f"(95% CI {row['low']:.3f} to {row['high']:.3f})"
        )
    else:
        share = (
            f"{100 * row['accuracy']:.1f}% of {row['cases']} training images "
            f"(95% CI {100 * row['low']:.1f} to {100 * row['high']:.1f})"
        )
    return f"{share}, Brier score {row['brier']:.3f} after temperature scaling"


def likeliest_order(logits: NDArray[np.float32], labels: Classes, count: int) -> list[int]:
    """The order of the outputs under which most cases are right: output of each class.

    Of several findings, labels ``[n, k]``: the output by which each is best told, greedily.
    """
    table: NDArray[Any] = np.zeros((count, count), np.int64)
    if labels.ndim == 2:
        known = [finding >= 0 for finding in labels.T]
        table = np.nan_to_num(
            [
                [auroc(scores[k], finding[k] == 1) for scores in logits.T]
                for finding, k in zip(labels.T, known, strict=True)
            ]
        )
    else:
        np.add.at(table, (labels, np.minimum(logits.argmax(1), count - 1)), 1)
    order = [-1] * count
    for _ in range(count):
        row, column = np.unravel_index(int(table.argmax()), table.shape)
        order[int(row)] = int(column)
        table[row, :], table[:, column] = -1, -1
    return order


def by_output(order: Sequence[int], classes: Sequence[str]) -> list[str]:
    """The classes as the outputs follow each other, where `order` is the output of each class."""
    return [classes[order.index(output)] for output in range(len(order))]


def order_refusal(
    name: str,
    order: Sequence[str],
    hits: Hits | Areas,
    other: Sequence[str],
    better: Hits | Areas,
    fix: str,
) -> ModelError:
    """Another order of the outputs does better."""
    return ModelError(
        f"the outputs of {name} in the order {', '.join(order)}",
        f"{hits} so, {_short(better)} as {', '.join(other)}",
        fix,
    )


def share_words(row: Mapping[str, Any]) -> str:
    """What a trial found, in a word: "85.0%", or a mean area under the curve, "0.812"."""
    return f"{row['auroc']:.3f}" if "auroc" in row else f"{100 * row['accuracy']:.1f}%"


def _short(hits: Hits | Areas) -> str:
    return share_words({hits.measure: hits.share})


def check_better_than_chance(name: str, hits: Hits | Areas, labels: Classes, fix: str) -> None:
    """Refuse answers that say nothing of these classes.

    Raises:
        ModelError: No more are right, beyond chance, than by naming the commonest class; or the
            mean area of the findings is not above a half.
    """
    if isinstance(hits, Areas):
        if hits.interval()[0] <= 0.5:
            raise ModelError(
                f"{name} to tell these findings better than by chance (mean AUROC above 0.5)",
                f"{hits}, however it was read",
                fix,
            )
        return
    chance = float(np.bincount(labels).max() / len(labels))
    if hits.interval()[0] <= chance:
        raise ModelError(
            f"{name} to be right more often than by naming the commonest class "
            f"({100 * chance:.1f}%)",
            f"{100 * hits.right.mean():.1f}% of {len(labels)} training images, however it was read",
            fix,
        )
