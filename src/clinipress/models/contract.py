"""What a network must be before anything is measured of it: a function of one image, in logits.

An answer that depends on the other images of its batch is another one on the device, which sees one
image at a time; one that is drawn by chance is nobody's; probabilities in place of logits pass
through a second softmax, in training, calibration and on the device, and come out too timid
(`clinipress.models.outputs` undoes what can be undone). No figure shows any of these, so they are
looked for before training, and wherever a network is opened.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clinipress.errors import ModelError
from clinipress.models.outputs import last_operation, lively_copy

__all__ = ["check_contract"]

SEED, IMAGES = 0, 2
# Of the largest logit. In float64 sums in another order differ by some 1e-12, where a network casts
# to float32 inside by some 1e-7; company and chance are seen at 1e-3 and more.
TOLERANCE = 1e-5
TOLERANCE_FLOAT32 = 1e-3


def check_contract(backbone: nn.Module, channels: int, size: tuple[int, int], what: str) -> None:
    """Refuse a network whose answer is not a function of the image alone, or is no logits.

    Args:
        backbone: Takes float ``[n, channels, *size]``, gives ``[n, classes]``; left as it is.
        channels: Of its input.
        size: (height, width).
        what: It, for the message.

    Raises:
        ModelError: It is one.
    """
    network = lively_copy(backbone, what)
    generator = torch.Generator().manual_seed(SEED)
    pixels = torch.randn(IMAGES, channels, *size, generator=generator)
    with torch.random.fork_rng(devices=[]):
        try:
            _check(network.double(), pixels.double(), what, TOLERANCE)
        except RuntimeError:  # float32 is written into its code
            _check(network.float(), pixels, what, TOLERANCE_FLOAT32)


def _check(network: nn.Module, pixels: Tensor, what: str, tolerance: float) -> None:
    with torch.no_grad():
        together, again = network(pixels), network(pixels)
        if not bool(together.isfinite().all()):
            raise ModelError(
                f"{what} that gives finite logits",
                "NaN or infinity for an image of noise",
                "are its weights whole? a variance of a batch norm below 0 gives NaN",
            )
        allowed = tolerance * float(together.abs().max())
        if not float((together - again).abs().max()) <= allowed:
            raise ModelError(
                f"{what} that gives an image one answer",
                f"logits that differ by {float((together - again).abs().max()):.3g} between two "
                "looks at the same images",
                "draw nothing outside training: F.dropout takes training=self.training",
            )
        try:
            alone = torch.cat([network(image[None]) for image in pixels])
        except ValueError as problem:  # a batch norm of one value
            raise _company(network, what, str(problem)) from None
    if not float((together - alone).abs().max()) <= allowed:
        gap = float((together - alone).abs().max())
        raise _company(
            network, what, f"logits that differ by {gap:.3g} from those of the image alone"
        )
    with torch.enable_grad():
        end = last_operation(network(pixels[:1].clone().requires_grad_()))
    end = end or strange_answers(together)
    if end:
        raise ModelError(
            f"{what} that gives logits",
            f"probabilities: it ends in {end}",
            "return what comes before it; clinipress makes probabilities of logits by itself",
        )


def strange_answers(rows: Tensor) -> str:
    """What answers ``[n, classes]`` to noise are if no logits: shares of a whole, or decisions."""
    if rows.shape[1] < 2 or float(rows.min()) < 0:
        return ""
    sums = rows.sum(1)
    whole = float(sums.mean())
    # answers that noise hardly changes, as of random weights, have one sum by themselves
    varied = bool((rows - rows.mean(0)).abs().max() > 1e-3 * whole)
    if whole > 0 and varied and bool(((sums - whole).abs() < 1e-4 * whole).all()):
        return f"values of 0 and more whose sum is {whole:.4g} for each image"
    return ""


def _company(network: nn.Module, what: str, found: str) -> ModelError:
    """The refusal of answers that depend on the batch; a norm that makes them so is named."""
    names = [
        name
        for name, part in network.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None
    ]
    fix = "compute over each image by itself: x.mean((1, 2, 3), keepdim=True), not x.mean()"
    if names:
        fix = (
            f"give batch norms statistics of their own: '{names[0]}' has track_running_stats=False"
        )
    return ModelError(f"{what} whose answer to an image does not depend on its batch", found, fix)
