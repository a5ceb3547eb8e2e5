"""How far a file's answers lie from its parent's, and how far they may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.records.candidate import Candidate, Parity

if TYPE_CHECKING:
    from clinipress.models.classifier import TorchCandidate

__all__ = ["PARITY_TOLERANCE", "check_images", "check_logits", "compare_logits", "parity"]

# Largest difference of a logit between a network and its float32 file. Both compute in float32 with
# sums in another order; 1e-3 is some hundred times what that gives and far from any decision.
PARITY_TOLERANCE = 1e-3
# Where float32 itself lies farther than that from float64, so may the file: both are rounded.
ROUNDINGS = 4
CHECK_IMAGES = 2


def parity(a: Candidate, b: Candidate, images: NDArray[np.uint8]) -> Parity:
    """How far two candidates answer differently on the same images.

    Args:
        a: The parent.
        b: What was made of it.
        images: uint8 ``[n, c, h, w]``.

    Returns:
        Largest and mean absolute difference of the logits, and the images whose top class changed.
    """
    return compare_logits(a.predict(images), b.predict(images))


def compare_logits(first: NDArray[np.float32], second: NDArray[np.float32]) -> Parity:
    """`parity` of logits float32 ``[n, classes]`` that are known already."""
    difference = np.abs(first.astype(np.float64) - second)
    return Parity(
        images=len(first),
        max_logit_difference=float(difference.max()),
        mean_logit_difference=float(difference.mean()),
        label_flips=int((first.argmax(1) != second.argmax(1)).sum()),
    )


def check_images(parent: TorchCandidate) -> NDArray[np.uint8]:
    """Two images of seeded noise, uint8 ``[2, c, h, w]``, for a network to be checked on."""
    spec = parent.card.input
    shape = (CHECK_IMAGES, spec.channels, spec.height, spec.width)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def check_logits(
    parent: TorchCandidate, logits: NDArray[np.float32], images: NDArray[np.uint8], kind: str
) -> None:
    """Raise unless a float32 file answers as its network does.

    Args:
        parent: The network.
        logits: The file's logits, float32 ``[n, classes]``.
        images: uint8 ``[n, c, h, w]`` that they are of.
        kind: What the file is, for the message: "an ONNX file".

    Raises:
        ModelError: A logit differs by more than `PARITY_TOLERANCE`, in proportion where logits are
            above 100, and by more than four times what float32 costs the network itself.
    """
    expected = parent.predict(images)
    difference = compare_logits(expected, logits).max_logit_difference
    # logits far above the usual 10 or so are rounded in proportion
    allowed = PARITY_TOLERANCE * max(1.0, float(np.abs(expected).max()) / 100)
    if not difference <= allowed:  # seldom: the network is computed once more
        allowed = max(allowed, ROUNDINGS * parent.rounding(images))
    if not difference <= allowed:
        raise ModelError(
            f"{kind} with the logits of '{parent.card.name}' within {allowed:.3g}",
            f"a difference of {difference:.3g}",
            "the network does something that its converter cannot follow",
        )
