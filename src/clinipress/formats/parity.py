"""How far a file's answers lie from its parent's, and how far they may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.records.candidate import Candidate, Parity
from clinipress.stats.metrics import same_answers

if TYPE_CHECKING:
    from clinipress.models.classifier import TorchCandidate

__all__ = [
    "PARITY_TOLERANCE",
    "check_candidate",
    "check_images",
    "check_logits",
    "compare_logits",
    "parity",
]

# Largest difference of a logit between a network and its float32 file. Both compute in float32 with
# sums in another order; 1e-3 is some hundred times what that gives and far from any decision.
PARITY_TOLERANCE = 1e-3
# Where float32 itself lies farther than that from float64, so may the file: both are rounded.
ROUNDINGS = 4
# ... up to this share of the range of the logits: a network that float32 carries farther than that
# has no answer to compare with, and one that answers by chance is no measure of its file.
LARGEST_ROUNDING = 0.05
# Of that range, between an image alone and in company, or twice: 8-bit files round a sum that was
# added up in another order to the next level.
SAME_ANSWER = 0.05
CHECK_IMAGES = 2


def parity(a: Candidate, b: Candidate, images: NDArray[np.uint8]) -> Parity:
    """How far two candidates answer differently on the same images.

    Args:
        a: The parent.
        b: What was made of it.
        images: uint8 ``[n, c, h, w]``.

    Returns:
        Largest and mean absolute difference of the logits, and the answers that changed: images
        with another top class; of several findings, images times findings.
    """
    several = a.card.task == "multilabel"
    return compare_logits(a.predict(images), b.predict(images), several=several)


def compare_logits(
    first: NDArray[np.float32], second: NDArray[np.float32], *, several: bool = False
) -> Parity:
    """`parity` of logits float32 ``[n, classes]`` that are known already."""
    answers = first.size if several else len(first)
    difference = np.abs(first.astype(np.float64) - second)
    return Parity(
        images=len(first),
        max_logit_difference=float(difference.max()),
        mean_logit_difference=float(difference.mean()),
        label_flips=round(answers * (1 - same_answers(first, second, several=several))),
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
        ModelError: The network answers by chance; or a logit differs by more than
            `PARITY_TOLERANCE`, in proportion where logits are above 100, and by more than four
            times what float32 costs the network itself or a twentieth of the logits' range.
    """
    expected = parent.predict(images)
    difference = compare_logits(expected, logits).max_logit_difference
    # logits far above the usual 10 or so are rounded in proportion
    allowed = PARITY_TOLERANCE * max(1.0, float(np.abs(expected).max()) / 100)
    if not difference <= allowed:  # seldom: the network is computed twice more
        _check_repeats(parent, expected, images, allowed)
        rounding, span = parent.rounding(images), float(np.ptp(expected))
        allowed = max(allowed, min(ROUNDINGS * rounding, LARGEST_ROUNDING * span))
        if allowed < difference <= ROUNDINGS * rounding:
            raise ModelError(
                f"a network whose logits float32 can hold to {allowed:.3g}",
                f"'{parent.card.name}', where rounding alone moves them by {rounding:.3g} (they "
                f"span {span:.3g})",
                "train it longer or at a lower rate: it multiplies what is rounded away",
            )
    if not difference <= allowed:
        raise ModelError(
            f"{kind} with the logits of '{parent.card.name}' within {allowed:.3g}",
            f"a difference of {difference:.3g}",
            "the network does something that its converter cannot follow",
        )


def check_candidate(candidate: Candidate) -> None:
    """Refuse a classifier whose answers hang on chance or on the batch, or that gives no logits.

    Networks are looked at more closely by `clinipress.models.contract`.

    Raises:
        ModelError: It is one.
    """
    card = candidate.card
    noise = np.random.default_rng(0).random(
        (3, card.input.channels, card.input.height, card.input.width)
    )
    ramp = np.linspace(0, 1, card.input.width)
    # unlike one another, or a mean over the batch is the image's own
    grey = np.stack([noise[0], 0.2 * noise[1], 0.3 * noise[2] + 0.7 * ramp])
    images = (255 * grey).astype(np.uint8)
    together = candidate.predict(images)
    if card.precision == "float32":
        allowed = PARITY_TOLERANCE * float(np.abs(together).max())
    else:
        allowed = SAME_ANSWER * float(np.ptp(together))
    _check_repeats(candidate, together, images, allowed)
    gap = compare_logits(together[:1], candidate.predict(images[:1])).max_logit_difference
    if not gap <= allowed:
        raise ModelError(
            f"'{card.name}' to answer an image whatever its batch",
            f"logits that differ by {gap:.3g} from those of the image alone",
            "export a network that computes over each image by itself",
        )
    if float(together.min()) >= 0 and (np.abs(together.sum(1) - 1) < PARITY_TOLERANCE).all():
        raise ModelError(
            f"logits from '{card.name}'",
            "probabilities: values of 0 and more whose sum is 1",
            "export the network without its softmax",
        )


def _check_repeats(
    candidate: Candidate, answers: NDArray[np.float32], images: NDArray[np.uint8], allowed: float
) -> None:
    gap = compare_logits(answers, candidate.predict(images)).max_logit_difference
    if not gap <= allowed:
        raise ModelError(
            f"one answer of '{candidate.card.name}' to an image",
            f"logits that differ by {gap:.3g} between two looks at the same images",
            "draw nothing outside training: F.dropout takes training=self.training",
        )
