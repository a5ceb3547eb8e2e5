"""How a network that was trained elsewhere wants its images: declared, or tried on labelled ones.

A classifier that is given images of another scale or size still answers, only worse. What nobody
declares is tried on images to train on, never on the test images; each trial is said with its
accuracy, and where the trials cannot tell, a person is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import InputError
from clinipress.stats.metrics import predictions
from clinipress.stats.paired import mcnemar_exact

__all__ = [
    "Reading",
    "best_reading",
    "check_order",
    "clearly_better",
    "in_best_order",
    "losses_in_best_order",
    "table",
]

CHANCE, SURELY = 0.05, 0.001  # of more right answers that mean nothing: beside losses, alone
CLEARLY = 3.0  # standard errors of the mean difference of log losses
TEMPERATURES = np.geomspace(0.003, 30, 41)  # of the spread of the logits
FAR_BETTER = 0.2  # in accuracy, of classes in another order


@dataclass(frozen=True)
class Reading:
    """One way to read images, and what the network made of them.

    Attributes:
        words: What it is, for people.
        settings: What it is, for a recipe.
        logits: float32 ``[n, classes]``.
        labels: int64 ``[n]``.
    """

    words: str
    settings: Mapping[str, Any]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float((predictions(self.logits) == self.labels).mean())

    @property
    def losses(self) -> NDArray[np.float64]:
        """Log loss of each image at the temperature that suits all: float64 ``[n]``.

        More contrast makes the same answers surer, which says nothing of how they are read best.
        """
        rows = np.arange(len(self.labels))
        spread = float(self.logits.std()) or 1.0
        tempered = self.logits.astype(np.float64)[None] / (spread * TEMPERATURES[:, None, None])
        tempered -= tempered.max(2, keepdims=True)
        likelihood = tempered[:, rows, self.labels] - np.log(np.exp(tempered).sum(2))
        losses: NDArray[np.float64] = -likelihood[int(likelihood.mean(1).argmax())]
        return losses


def table(trials: Sequence[Reading]) -> str:
    """Every trial with its accuracy, the best first."""
    order = sorted(trials, key=lambda trial: (-trial.accuracy, trial.losses.mean()))
    return "; ".join(f"{trial.words} {100 * trial.accuracy:.1f}%" for trial in order)


def best_reading(trials: Sequence[Reading], key: Callable[[Reading], Any], fix: str) -> Reading:
    """The way of reading that fits best, whatever order of the classes it speaks for.

    Args:
        trials: On the same images.
        key: What must not be guessed: trials that are equal in it may be equally good.
        fix: How a person says which it is.

    Raises:
        InputError: Two that differ in `key` cannot be told apart.
    """
    losses = [in_best_order(trial).losses for trial in trials]
    order = sorted(range(len(trials)), key=lambda n: (losses[n].mean(), -trials[n].accuracy))
    best = trials[order[0]]
    for number in order[1:]:
        other = trials[number]
        if key(other) == key(best) or np.array_equal(other.logits, best.logits):
            continue
        gain = losses[number] - losses[order[0]]
        error = float(gain.std(ddof=1)) / len(gain) ** 0.5
        if float(gain.mean()) < CLEARLY * error and not _more_right(best, other, SURELY):
            raise InputError(
                "to know how the network wants its images",
                f"two ways that do equally well on {len(gain)} images to train on: "
                f"{best.words} ({100 * best.accuracy:.1f}%) and "
                f"{other.words} ({100 * other.accuracy:.1f}%)",
                fix,
            )
        break
    return best


def clearly_better(trial: Reading, other: Reading) -> bool:
    """Whether it is right in more cases, and its log losses are lower, both beyond chance.

    Losses alone do not tell: more contrast makes the same answers surer. Each trial is taken in the
    order of classes that it speaks for.
    """
    one, two = in_best_order(trial), in_best_order(other)
    gain = two.losses - one.losses
    error = float(gain.std(ddof=1)) / len(gain) ** 0.5 if len(gain) > 1 else np.inf
    surer = float(gain.mean()) > CLEARLY * error
    return surer and _more_right(one, two, CHANCE)


def _more_right(trial: Reading, other: Reading, chance: float) -> bool:
    """Whether it is right in more cases than chance explains (exact McNemar test)."""
    one, two = _right(in_best_order(trial)), _right(in_best_order(other))
    gained, lost = int((one & ~two).sum()), int((two & ~one).sum())
    return gained > lost and mcnemar_exact(gained, lost) <= chance


def _right(trial: Reading) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = predictions(trial.logits) == trial.labels
    return right


def losses_in_best_order(trial: Reading) -> NDArray[np.float64]:
    """Log losses of a trial in the order of classes that it speaks for: float64 ``[n]``."""
    return in_best_order(trial).losses


def _order(trial: Reading) -> list[int] | None:
    """Class of each output, where answers fit another order far better; None: they do not."""
    count = trial.logits.shape[1]
    answers = predictions(trial.logits)
    counts = np.zeros((count, count), np.int64)
    np.add.at(counts, (answers, trial.labels), 1)
    order: list[int] = counts.argmax(axis=1).tolist()
    right = float((np.asarray(order)[answers] == trial.labels).mean())
    if len(set(order)) < count or right < trial.accuracy + FAR_BETTER:
        return None
    return order


def in_best_order(trial: Reading) -> Reading:
    """A trial in the order of classes that its answers speak for."""
    order = _order(trial)
    return trial if order is None else replace(trial, logits=trial.logits[:, np.argsort(order)])


def check_order(trial: Reading, classes: Sequence[str], fix: str) -> None:
    """Refuse classes in an order that the answers contradict, and answers that say nothing.

    Raises:
        InputError: The same answers would be far better in another order; or no better than
            always naming the largest class.
    """
    order = _order(trial)
    if order is not None:
        other = in_best_order(trial).accuracy
        raise InputError(
            f"outputs in the order {', '.join(classes)}",
            f"answers of which {100 * trial.accuracy:.0f}% are right so, and {100 * other:.0f}% in "
            f"another order ({trial.words})",
            f"{fix} {','.join(classes[number] for number in order)}",
        )
    largest = float(np.bincount(trial.labels).max() / len(trial.labels))
    if trial.accuracy <= largest:
        raise InputError(
            "a network that was trained for these classes",
            f"{100 * trial.accuracy:.0f}% right of {len(trial.labels)} images to train on "
            f"({trial.words}), where always naming the largest class has {100 * largest:.0f}%",
            "check the weights, the classes and their order, and how the images are read",
        )
