"""Attention as pruning sees it: whole heads that can go, and a stand-in while a network is traced.

A dependency graph reads tensors, and inside attention they are split, turned and multiplied with
each other until no channel can be followed. But nothing in there is coupled to the outside except
the channels that come in and go out. So each attention of a known class is one layer to the graph
(`Opaque`), and its heads are cut here: the rows of their queries, keys and values, the columns of
the projection that reads them, their column of a relative position table. The same holds for the
patch merging of Swin (Liu et al., ICCV 2021, arXiv:2103.14030), which stacks four neighbours'
channels behind each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clinipress.errors import ModelError

__all__ = ["Opaque", "Touched", "cut_heads", "head_rows", "heads", "opaque_layers", "standing_in"]

ATTENTION = {
    ("timm.models.visformer", "Attention"),
    ("timm.models.swin_transformer", "WindowAttention"),
    ("timm.layers.attention", "Attention"),
}
MERGING = {("timm.models.swin_transformer", "PatchMerging")}
NEIGHBOURS = 4  # patches that a merging stacks
TABLE = "relative_position_bias_table"  # [offsets, heads]
KNOWN_PARTS = {"qkv", "proj", "q_norm", "k_norm", TABLE}  # norms of one head stay as they are

# (layer inside, whether its outputs shrink, numbers of the channels)
Touched = tuple[nn.Module, bool, NDArray[np.int64]]


def _is(module: nn.Module, kinds: set[tuple[str, str]]) -> bool:
    return (type(module).__module__, type(module).__name__) in kinds


def opaque_layers(network: nn.Module) -> list[tuple[str, Any]]:
    """Layers that a graph must take as one, by name.

    Attention of another build is not among them: it is traced as it stands, and what a trial cut
    shows to be misread there stays whole.
    """
    return [
        (name, module)
        for name, module in network.named_modules()
        if _is(module, MERGING) or (_is(module, ATTENTION) and _has_known_parts(module))
    ]


def _has_known_parts(layer: Any) -> bool:
    parts = {part.split(".")[0] for part, _ in layer.named_parameters()}
    return parts <= KNOWN_PARTS and _rows(layer) == 3 * _columns(layer)


def heads(network: nn.Module) -> list[tuple[str, Any]]:
    """Every attention with heads that can be cut, by name, in the order of the network."""
    return [(name, layer) for name, layer in opaque_layers(network) if _is(layer, ATTENTION)]


def _rows(layer: Any) -> int:
    return int(layer.qkv.weight.shape[0])


def _columns(layer: Any) -> int:
    return int(layer.proj.weight.shape[1])


def head_rows(layer: Any) -> NDArray[np.int64]:
    """int64 ``[heads, 3 * head size]``: the rows of `qkv` that belong to each head.

    All three classes order the rows as (query, key, value), then head, then channel.
    """
    rows = np.arange(_rows(layer), dtype=np.int64).reshape(3, layer.num_heads, -1)
    return rows.transpose(1, 0, 2).reshape(layer.num_heads, -1)


def cut_heads(layer: Any, rows: Sequence[int], name: str) -> None:
    """Remove heads in place, given the rows of `qkv` that go.

    Raises:
        ModelError: The rows are not whole heads, or are all of them.
    """
    table = head_rows(layer)
    gone = [head for head, its in enumerate(table) if int(its[0]) in set(rows)]
    if not gone or sorted(table[gone].ravel().tolist()) != sorted(rows):
        raise ModelError(
            f"a pruning record of whole heads of the {_rows(layer)} channels of '{name}'",
            f"{len(rows)} channels",
        )
    if len(gone) == layer.num_heads:
        raise ModelError("a pruning record that leaves channels", f"one that empties '{name}'")
    columns = np.arange(_columns(layer)).reshape(layer.num_heads, -1)[gone].ravel()
    _cut(layer.qkv, rows, outputs=True)
    _cut(layer.proj, columns, outputs=False)
    if hasattr(layer, TABLE):
        _shrink(layer, TABLE, gone, dimension=1)
    layer.num_heads -= len(gone)
    if hasattr(layer, "attn_dim"):
        layer.attn_dim = _columns(layer)


def _cut(layer: Any, indices: Sequence[int] | NDArray[np.int64], *, outputs: bool) -> None:
    _shrink(layer, "weight", indices, dimension=0 if outputs else 1)
    if outputs and layer.bias is not None:
        _shrink(layer, "bias", indices, dimension=0)
    size = int(layer.weight.shape[0 if outputs else 1])
    side = "out" if outputs else "in"
    kind = "features" if isinstance(layer, nn.Linear) else "channels"
    setattr(layer, f"{side}_{kind}", size)


def _shrink(
    module: Any, name: str, indices: Sequence[int] | NDArray[np.int64], dimension: int
) -> None:
    old = getattr(module, name)
    keep = torch.ones(old.shape[dimension], dtype=torch.bool, device=old.device)
    keep[torch.as_tensor(np.asarray(indices, dtype=np.int64))] = False
    kept = old.detach().index_select(dimension, keep.nonzero().squeeze(1))
    setattr(module, name, nn.Parameter(kept, requires_grad=old.requires_grad))


class Opaque:
    """How the graph asks about and cuts such a layer; the interface is Torch-Pruning's own.

    One instance per class of layers, for the graph tells inputs from outputs by the bound method.
    """

    pruning_dim = 1  # set by the graph, without meaning here

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Take incoming channels away."""
        return self._prune(layer, idxs, outputs=False)

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Take outgoing channels away."""
        return self._prune(layer, idxs, outputs=True)

    def get_in_channels(self, layer: Any) -> int:
        """Channels that come in."""
        if _is(layer, MERGING):
            return int(layer.reduction.in_features) // NEIGHBOURS
        return int(layer.qkv.weight.shape[1])

    def get_out_channels(self, layer: Any) -> int:
        """Channels that go out."""
        last = layer.reduction if _is(layer, MERGING) else layer.proj
        return int(last.weight.shape[0])

    def get_in_channel_groups(self, layer: Any) -> int:
        """Channels are free of each other."""
        return 1

    get_out_channel_groups = get_in_channel_groups

    def touched(self, layer: Any, indices: NDArray[np.int64], *, outputs: bool) -> list[Touched]:
        """The layers inside that lose channels with the layer as a whole."""
        if not _is(layer, MERGING):
            return [(layer.proj, True, indices) if outputs else (layer.qkv, False, indices)]
        if outputs:
            return [(layer.reduction, True, indices)]
        stride = self.get_in_channels(layer)
        stacked = np.concatenate([indices + stride * patch for patch in range(NEIGHBOURS)])
        return [(layer.norm, True, stacked), (layer.reduction, False, stacked)]

    def _prune(self, layer: Any, idxs: Sequence[int], *, outputs: bool) -> Any:
        indices = np.asarray(sorted(idxs), dtype=np.int64)
        for part, is_output, gone in self.touched(layer, indices, outputs=outputs):
            if isinstance(part, nn.LayerNorm):
                for name in ("weight", "bias"):
                    if getattr(part, name) is not None:
                        _shrink(part, name, gone, dimension=0)
                part.normalized_shape = (part.normalized_shape[0] - len(gone),)
            else:
                _cut(part, gone, outputs=is_output)
        return layer


class _StandIn(torch.autograd.Function):
    """One edge of autograd's graph between what a layer takes and what it gives."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, shape: tuple[int, ...]) -> Tensor:
        return images.new_zeros(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("a stand-in is traced, never trained")


@contextmanager
def standing_in(network: nn.Module) -> Iterator[dict[type, Opaque]]:
    """While a network is traced, known attention and merging are one step each.

    Yields:
        Class -> how its layers are cut; empty for a network without any.
    """
    layers = opaque_layers(network)
    pruners = {type(layer): Opaque() for _, layer in layers}
    with ExitStack() as undo:
        for _, layer in layers:
            _replace(undo, layer, "forward", _forward(layer, pruners[type(layer)]))
        for block in network.modules():
            # Swin cuts the image into windows around its attention: not a matter of channels
            if any(
                block.attn is layer for _, layer in layers if hasattr(block, "attn")
            ) and hasattr(block, "_attn"):
                _replace(undo, block, "_attn", block.attn)
        yield pruners


def _forward(layer: Any, pruner: Opaque) -> Any:
    def forward(values: Tensor, *_: Any, **__: Any) -> Tensor:
        shape = list(values.shape)
        if _is(layer, MERGING):  # channels last, half the height and width
            shape = [shape[0], -(-shape[1] // 2), -(-shape[2] // 2), shape[3]]
        channels = 1 if isinstance(getattr(layer, "qkv", None), nn.Conv2d) else -1
        shape[channels] = pruner.get_out_channels(layer)
        given: Tensor = _StandIn.apply(values, tuple(shape))
        return given

    return forward


def _replace(undo: ExitStack, module: nn.Module, name: str, function: Any) -> None:
    # straight into the instance: a module given as an attribute would become a part of it
    module.__dict__[name] = function
    undo.callback(module.__dict__.pop, name, None)
