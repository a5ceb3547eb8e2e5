"""A sub-net out of a supernet, as a plain network of its own."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from clinipress.errors import ModelError
from clinipress.models.ofa.architecture import REDUCTION, Architecture, divisible
from clinipress.models.ofa.network import Bottleneck, MobileNet, SuperNet, part_of

__all__ = ["extract", "sort_by_importance"]


def extract(supernet: SuperNet, architecture: Architecture) -> MobileNet:
    """A plain network with the weights that a sub-net uses, copied; the supernet is left as it is.

    It answers as the supernet does in this architecture, running statistics of its batch norms
    included: these are the largest network's, so measure them again
    (`clinipress.models.recalibration`) before it is judged.

    Raises:
        ModelError: The architecture is of another width.
    """
    if architecture.width != supernet.space.width:
        raise ModelError(
            f"a sub-net of width {supernet.space.width:g}", f"one of width {architecture.width:g}"
        )
    with torch.random.fork_rng(devices=[]):  # building draws weights that are replaced below
        network = MobileNet(
            architecture, supernet.num_classes, supernet.in_chans, supernet.dropout_rate
        )
    network.load_state_dict(part_of(supernet.state_dict(), network))
    network.to(supernet.head.weight.device)
    return network.train(supernet.training)


def sort_by_importance(supernet: SuperNet, kept: int | None = None) -> None:
    """Bring the middle channels of every block into the order of their importance, in place.

    A channel's importance is the sum of the absolute weights by which the projection reads it (Cai
    et al., section 3.3), so a smaller expansion begins with the channels that matter most. The
    largest network answers as before; so does any sub-net of expansion `kept`.

    Args:
        supernet: Any.
        kept: The largest expansion that sub-nets were trained with besides the full one: its
            channels stay first, and only those after them move. None: all move.
    """
    for block, shape in zip(supernet.blocks, supernet.architecture.blocks(), strict=True):
        if shape.expands:
            first = 0 if kept is None else divisible(round(shape.taken * kept))
            _sort_block(cast(Bottleneck, block), first)


def _sort_block(block: Bottleneck, first: int) -> None:
    """Permute the middle channels of all layers that have them; those before `first` stay."""
    project = _conv(block.project, "conv")
    order = _order(project.weight, first)
    _take(block.expand, order)
    _take(block.depthwise, order)
    with torch.no_grad():
        project.weight.copy_(project.weight[:, order])
        if not isinstance(block.squeeze, nn.Identity):
            reduce, restore = (_conv(block.squeeze, name) for name in ("reduce", "restore"))
            reduce.weight.copy_(reduce.weight[:, order])
            for tensor in (restore.weight, cast(Tensor, restore.bias)):
                tensor.copy_(tensor[order])
            _sort_waist(reduce, restore, divisible(first // REDUCTION) if first else 0)


def _take(layer: nn.Module, order: Tensor) -> None:
    """Permute a layer's outputs: the convolution's, and all of its norm."""
    conv, norm = layer.get_submodule("conv"), layer.get_submodule("norm")
    tensors = [conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var]
    with torch.no_grad():
        for tensor in cast(list[Tensor], tensors):
            tensor.copy_(tensor[order])


def _sort_waist(reduce: nn.Conv2d, restore: nn.Conv2d, first: int) -> None:
    """The same for the waist of squeeze and excitation, read by `restore`."""
    order = _order(restore.weight, first)
    for tensor in (reduce.weight, cast(Tensor, reduce.bias)):
        tensor.copy_(tensor[order])
    restore.weight.copy_(restore.weight[:, order])


def _conv(layer: nn.Module, name: str) -> nn.Conv2d:
    return cast(nn.Conv2d, layer.get_submodule(name))


def _order(reader: Tensor, first: int) -> Tensor:
    """Inputs of a 1 x 1 convolution by the sum of the absolute weights that read them."""
    importance = reader.detach().abs().sum((0, 2, 3))
    tail = torch.argsort(importance[first:], descending=True, stable=True) + first
    return torch.cat([torch.arange(first, device=tail.device), tail])
