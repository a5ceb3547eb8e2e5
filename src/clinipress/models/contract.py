"""What a network must be before anything is measured of it: a function of one image, in logits.

An answer that depends on the other images of its batch is another one on the device, which sees one
image at a time; one that is drawn by chance is nobody's; probabilities in place of logits pass
through a second softmax, in training, calibration and on the device, and come out too timid. No
figure shows any of these, so they are looked for before training, and wherever a network is opened.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from clinipress.errors import ModelError

__all__ = ["check_contract"]

SEED, IMAGES = 0, 2
# Of the largest logit. In float64 sums in another order differ by some 1e-12, where a network casts
# to float32 inside by some 1e-7; company and chance are seen at 1e-3 and more.
TOLERANCE = 1e-5
TOLERANCE_FLOAT32 = 1e-3
# Gains that begin at or near zero hide all that lies behind them: layer scale, the last norm of a
# residual branch, a head of zeros. The copy that is looked at gets others.
SILENT, LIVELY = 1e-3, 0.1
# What leaves the values as they are, in autograd's names without "Backward0"
MOVES = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Alias", "Clone", "Expand",
         "Transpose", "Permute", "T", "ToCopy", "Select", "Slice")  # fmt: skip
PROBABILITIES = {"Softmax": "a softmax", "Sigmoid": "a sigmoid", "Hardsigmoid": "a sigmoid"}


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
    try:
        network = copy.deepcopy(backbone).cpu().eval()
    except RuntimeError as problem:
        raise ModelError(
            f"{what} that can be copied",
            str(problem).partition(";")[0].partition("\n")[0],
            "weight norm comes as torch.nn.utils.parametrizations.weight_norm",
        ) from None
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() and parameter.abs().max() < SILENT:
                parameter.copy_(LIVELY * torch.randn(parameter.shape, generator=generator))
    pixels = torch.randn(IMAGES, channels, *size, generator=generator)
    with torch.random.fork_rng(devices=[]):
        try:
            _check(network.double(), pixels.double(), what, TOLERANCE)
        except RuntimeError:  # float32 is written into its code
            _check(network.float(), pixels, what, TOLERANCE_FLOAT32)


def _check(network: nn.Module, pixels: Tensor, what: str, tolerance: float) -> None:
    with torch.no_grad():
        together, again = network(pixels), network(pixels)
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
    end = _last_operation(network, pixels[:1].clone().requires_grad_())
    sums = together.sum(1)
    if not end and float(together.min()) >= 0 and bool(((sums - 1).abs() < 1e-4).all()):
        end = "values of 0 and more whose sum is 1"
    if end:
        raise ModelError(
            f"{what} that gives logits",
            f"probabilities: it ends in {end}",
            "return what comes before it; clinipress makes probabilities of logits by itself",
        )


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


def _last_operation(network: nn.Module, pixels: Tensor) -> str:
    """What makes probabilities of the logits at the network's end; "" where nothing does."""
    with torch.enable_grad():
        step = network(pixels).grad_fn
    while step is not None and _kind(step) in MOVES:
        step = step.next_functions[0][0] if step.next_functions else None
    return PROBABILITIES.get(_kind(step), "") if step is not None else ""


def _kind(step: object) -> str:
    return type(step).__name__.rstrip("0123456789").removesuffix("Backward")
