"""Weights in the layout that the authors of once-for-all publish them in.

A supernet's file keeps the state dict under "state_dict", its elastic layers wrapped once more
(``conv.conv.weight``, ``bn.bn.weight``); a specialised network's does not. Older files call a
block's layers ``mobile_inverted_conv``, newer ones ``conv``. Facts of the layout, no code, are
taken from the authors' repository (mit-han-lab/once-for-all, MIT).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from clinipress.models.ofa.network import MobileNet

__all__ = ["checkpoint_filter_fn", "own_name"]

PARTS = {"inverted_bottleneck": "expand", "depth_conv": "depthwise", "point_linear": "project"}
ENDS = {
    "first_conv": "stem",
    "final_expand_layer": "final_expand",
    "feature_mix_layer": "feature_mix",
}
LEAVES = {
    "conv.7to5_matrix": "conv.to5",
    "conv.5to3_matrix": "conv.to3",
    "se.fc.reduce.weight": "squeeze.reduce.weight",
    "se.fc.reduce.bias": "squeeze.reduce.bias",
    "se.fc.expand.weight": "squeeze.restore.weight",
    "se.fc.expand.bias": "squeeze.restore.bias",
}
BLOCK = re.compile(r"blocks\.(\d+)\.(?:mobile_inverted_conv|conv)\.(\w+)\.(.+)")


def own_name(name: str) -> str:
    """Our name of a published tensor; a name that is not one of theirs stays.

    Example:
        >>> own_name("blocks.3.mobile_inverted_conv.inverted_bottleneck.bn.bn.weight")
        'blocks.3.expand.norm.weight'
        >>> own_name("blocks.3.conv.depth_conv.conv.7to5_matrix")
        'blocks.3.depthwise.conv.to5'
    """
    if name.startswith("classifier."):
        return "head." + name.rpartition(".")[2]
    match = BLOCK.fullmatch(name)
    if match is None:
        head, _, leaf = name.partition(".")
        return f"{ENDS[head]}.{_leaf(leaf)}" if head in ENDS else name
    number, part, leaf = match.groups()
    if part not in PARTS:
        return name
    leaf = _leaf(leaf)
    inside = leaf.startswith("squeeze.")
    return f"blocks.{number}.{leaf}" if inside else f"blocks.{number}.{PARTS[part]}.{leaf}"


def _leaf(leaf: str) -> str:
    """Layers wrapped once more are unwrapped; their batch norm is our norm."""
    leaf = leaf.replace("conv.conv.", "conv.").replace("bn.bn.", "bn.")
    return LEAVES.get(leaf, leaf.replace("bn.", "norm."))


def checkpoint_filter_fn(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A published state dict in the names of a network of ours; our own names stay.

    A network that is no supernet takes its part of a supernet's weights. Its batch norms are then
    those of the largest network: measure them again before it is judged.
    """
    from clinipress.models.ofa import extraction

    renamed = {own_name(name): tensor for name, tensor in state.items()}
    ours: MobileNet = network  # type: ignore[assignment]
    if ours.elastic or not any(name.endswith("conv.to5") for name in renamed):
        return renamed
    return extraction.part_of(renamed, ours)
