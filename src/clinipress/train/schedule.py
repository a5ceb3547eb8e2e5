"""What changes during training: the learning rate per step and the input size per epoch."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import RecipeError
from clinipress.recipe.steps import Decay

__all__ = ["epoch_order", "epoch_sizes", "learning_rate", "steps_per_epoch"]


def learning_rate(
    step: int, total: int, warmup: int, peak: float, final: float, decay: Decay = "cosine"
) -> float:
    """Rate of one step: linear warm-up, then down to a share of the peak.

    By half a cosine (Loshchilov, Hutter, 2017), or by the same factor at every step: with a final
    share of 0.001 the rate is halved ten times, evenly.

    Args:
        step: Number of the step, from 0.
        total: Steps of the whole training.
        warmup: Steps of warm-up; the first has ``peak / warmup``, the last the peak.
        peak: Largest rate.
        final: Share of the peak left at the last step, in [0, 1]; above 0 for "exponential".
        decay: "cosine" or "exponential".
    """
    warmup = min(warmup, total)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step + 1 - warmup) / max(total - warmup, 1)
    if decay == "exponential":
        return peak * float(final**progress)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (final + (1 - final) * cosine)


def epoch_sizes(
    sizes: tuple[tuple[int, float], ...], epochs: int, final: tuple[int, int]
) -> list[tuple[int, int]]:
    """Input size (height, width) of every epoch; the last is always `final`, the network's own.

    Sizes are (pixels of the longer side, share of the epochs), in order; the shares count relative
    to their sum. Empty: `final` throughout.

    Raises:
        RecipeError: The last size is not the network's, a size is below 8, or a share is not
            positive.
    """
    if not sizes:
        return [final] * epochs
    longer = max(final)
    if sizes[-1][0] != longer:
        raise RecipeError(
            f"progressive sizes that end at the input's {longer} pixels",
            str(sizes[-1][0]),
            "make the last size that of the input",
        )
    if any(pixels < 8 for pixels, _ in sizes) or any(share <= 0 for _, share in sizes):
        raise RecipeError("progressive sizes of 8 pixels or more with positive shares", str(sizes))
    shares = np.asarray([share for _, share in sizes], dtype=np.float64)
    ends = np.rint(np.cumsum(shares) / shares.sum() * epochs)
    chosen = []
    for epoch in range(epochs):
        pixels = sizes[int(np.searchsorted(ends, epoch, side="right"))][0]
        chosen.append(_scaled(final, pixels / longer))
    chosen[-1] = final
    return chosen


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(8, round(size[0] * factor)), max(8, round(size[1] * factor))


def steps_per_epoch(images: int, batch: int) -> int:
    """Full batches only; one smaller batch when there are fewer images than a batch holds."""
    return max(1, images // batch)


def epoch_order(
    rows: NDArray[np.int64], batch: int, seed: int, epoch: int
) -> list[NDArray[np.int64]]:
    """The batches of one epoch, shuffled by (seed, epoch) alone, of all processes together.

    int64 arrays of `batch` rows; a remainder is left out (another one every epoch).
    """
    shuffled = np.random.default_rng([seed, epoch]).permutation(rows)
    steps = steps_per_epoch(len(rows), batch)
    return [shuffled[i * batch : (i + 1) * batch] for i in range(steps)]
