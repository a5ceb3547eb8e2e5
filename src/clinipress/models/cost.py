"""What a network costs, counted: multiply-adds and parameters.

Counts compare networks on paper only; how fast a file is on a device is measured
(`clinipress.formats.measure`), never derived from these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clinipress.records.candidate import InputSpec

__all__ = ["evaluating", "layer_macs", "macs", "parameters"]

Convolution = nn.modules.conv._ConvNd
Transposed = nn.modules.conv._ConvTransposeNd


def parameters(module: nn.Module) -> int:
    """Number of trainable values; buffers (batch-norm statistics) are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, input_spec: InputSpec) -> int:
    """Multiply-adds of all convolutions and linear layers for one image of `input_spec`.

    Not counted: attention's matrix products, norms, activations, biases, and convolutions called
    as functions rather than as layers. The module takes uint8 ``[1, channels, height, width]``.
    """
    parameter = next(module.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    shape = (1, input_spec.channels, input_spec.height, input_spec.width)
    return sum(layer_macs(module, torch.zeros(shape, dtype=torch.uint8, device=device)).values())


def layer_macs(module: nn.Module, images: Tensor) -> dict[str, int]:
    """Multiply-adds per image of each convolution and linear layer, by the layer's name.

    The module is run once on a batch of what it takes, in evaluation mode; it is left as it was.
    """
    counts: dict[str, int] = {}

    def count(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # a layer called several times costs several times
        counts[name] = counts.get(name, 0) + _per_call(layer, inputs[0], output) // len(images)

    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, Convolution | nn.Linear)]
    hooks = [
        layer.register_forward_hook(lambda m, i, o, name=name: count(name, m, i, o))
        for name, layer in layers
    ]
    try:
        with evaluating(module), torch.no_grad():
            module(images)
    finally:
        for hook in hooks:
            hook.remove()
    return counts


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every part gets its own mode back, frozen batch norms too."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _per_call(layer: Any, received: Tensor, output: Tensor) -> int:
    """Multiply-adds of one call on the whole batch.

    Each output value of a convolution takes ``in / groups * kernel`` multiply-adds; each input
    value of a transposed one gives ``out / groups * kernel``.
    """
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    values = received if isinstance(layer, Transposed) else output
    return values.numel() * int(layer.weight[0].numel())
