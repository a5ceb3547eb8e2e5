"""Whether a cut network is the original with the same channels switched off: a check, not a hope.

A dependency graph that misreads a network (a channel shuffle, say) still gives layers whose shapes
fit, but whose weights meet the wrong channels; accuracy is lost and nothing says why. Removing a
channel must do what hiding it from all its readers does, so both are run and compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["cut_equals_hidden", "hidden_from", "mixes_channels"]

IMAGES = 4
# Both sides compute the same sums in another order; batch norms over few values can blow rounding
# up to some 1e-4 of the largest output. Weights that meet wrong channels differ by 0.1 and more.
TOLERANCE = 0.01
SEED = 0
MIXERS = ("norm", "stdconv", "eca", "cbam")
BatchNorm = nn.modules.batchnorm._BatchNorm


def mixes_channels(network: nn.Module) -> bool:
    """Whether a layer's answer for one channel depends on the number of the others.

    Group norms, standardised convolutions and attention across channels do; there, removing is
    not hiding, and `cut_equals_hidden` says nothing. Layer norms do too, but `hidden_from` makes
    them leave the hidden channels out of their statistics.
    """
    kinds = {
        type(module).__name__.lower()
        for module in network.modules()
        if not isinstance(module, BatchNorm | nn.LayerNorm) and _computes(module)
    }
    return any(mixer in kind for mixer in MIXERS for kind in kinds)


def _computes(module: nn.Module) -> bool:
    """Whether it is more than a box: a ``ConvNormAct`` is no norm."""
    own = next(module.parameters(recurse=False), None)
    return (
        own is not None
        or next(module.children(), None) is None
        or "Norm" not in type(module).__name__
    )


def cut_equals_hidden(
    network: nn.Module,
    small: nn.Module,
    hidden: Mapping[str, Tensor],
    channels: int,
    size: tuple[int, int],
) -> bool:
    """Compare outputs on noise, with batch norms on batch statistics so that every layer speaks.

    Before and after the cut, the networks take float32 ``[n, channels, *size]`` and are left as
    they were; `hidden` is as `hidden_from` takes it.
    """
    noise = torch.randn(IMAGES, channels, *size, generator=torch.Generator().manual_seed(SEED))
    masked, kept = _lively(network), _lively(small)
    with torch.inference_mode(), hidden_from(masked, hidden):
        expected, got = masked(noise), kept(noise)
    return bool((expected - got).abs().max() <= TOLERANCE * expected.abs().max())


def _lively(network: nn.Module) -> nn.Module:
    """A copy in which no branch is silent: some recipes start residual branches at zero."""
    lively = copy.deepcopy(network).eval()
    for module in lively.modules():
        if isinstance(module, BatchNorm):
            module.train()
            if module.affine:
                nn.init.ones_(module.weight)
    return lively


@contextmanager
def hidden_from(network: nn.Module, hidden: Mapping[str, Tensor]) -> Iterator[None]:
    """Switch channels off for a while: their readers get zeros, layer norms do not see them.

    Args:
        network: Left as it was.
        hidden: Name of a convolution or linear layer -> int64 numbers of the input channels that
            it is not to see; name of a layer norm -> numbers of the channels to leave out.
    """
    hooks = []
    for name, gone in hidden.items():
        layer = network.get_submodule(name)
        if isinstance(layer, nn.LayerNorm):
            hooks.append(layer.register_forward_hook(_norm_of_the_rest(gone)))
        else:
            hooks.append(layer.register_forward_pre_hook(_hide(gone)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hide(gone: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        dimension = -1 if isinstance(layer, nn.Linear) else 1
        return (inputs[0].index_fill(dimension, gone, 0.0), *inputs[1:])

    return hook


def _norm_of_the_rest(gone: Tensor) -> Callable[..., Tensor]:
    def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # timm's LayerNorm2d keeps the channels second
        dimension = 1 if type(layer).__name__.endswith("2d") else -1
        values = inputs[0].movedim(dimension, -1)
        stay = torch.ones(values.shape[-1], dtype=torch.bool)
        stay[gone] = False
        scale, offset = (p if p is None else p[stay] for p in (layer.weight, layer.bias))
        some = values[..., stay]
        normed = nn.functional.layer_norm(some, some.shape[-1:], scale, offset, layer.eps)
        output_of_rest = torch.zeros_like(values)
        output_of_rest[..., stay] = normed
        return output_of_rest.movedim(-1, dimension)

    return hook
