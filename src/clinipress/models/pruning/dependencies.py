"""Which channels hang together: Torch-Pruning's dependency graph, and heads, as plain data.

The one module that names Torch-Pruning (Fang et al., CVPR 2023, arXiv:2301.12900): it reads a
network's couplings from autograd's graph, `free_groups` tells them as `ChannelGroup`s, and `cut`
removes channels with all that hangs on them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

from clinipress.errors import ModelError
from clinipress.models.cost import Convolution, evaluating
from clinipress.models.pruning.attention import (
    TABLE,
    Opaque,
    cut_heads,
    head_rows,
    heads,
    standing_in,
)
from clinipress.models.pruning.importance import ChannelGroup, Member, is_depthwise

__all__ = ["cannot", "cut", "dependency_graph", "free_groups"]


@contextmanager
def dependency_graph(classifier: nn.Module) -> Iterator[Any]:
    """The dependency graph of the backbone; modes and gradient flags are put back at the end."""
    backbone: nn.Module = classifier.get_submodule("backbone")
    frozen = [name for name, p in backbone.named_parameters() if not p.requires_grad]
    with evaluating(classifier), torch.inference_mode(mode=False), torch.enable_grad():
        backbone.requires_grad_(True)  # the graph is read from autograd's
        try:
            yield _trace(classifier, backbone)
        finally:
            for name in frozen:
                backbone.get_parameter(name).requires_grad_(False)


def _trace(classifier: Any, backbone: nn.Module) -> Any:
    spec = classifier.input_spec
    shape = (1, spec.channels * classifier.repeats, spec.height, spec.width)
    # in a tuple: given a bare tensor, Torch-Pruning would first try its images without a batch
    images = (torch.zeros(shape, device=classifier.shift.device),)
    try:
        with warnings.catch_warnings(), standing_in(backbone) as pruners:
            # what it only warns of (an index map given up half-way) would cut the wrong channels
            warnings.filterwarnings("error", module="torch_pruning")
            return tp.DependencyGraph().build_dependency(
                backbone,
                images,
                customized_pruners=pruners,
                unwrapped_parameters=_feature_maps(backbone),
                verbose=False,
            )
    except ModelError:
        raise
    except Exception as problem:
        raise cannot(problem) from problem


def _feature_maps(backbone: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """Parameters added to whole feature maps ``[1, c, h, w]``, and where their channels are.

    Torch-Pruning would take the last dimension, which is right for tokens and for vectors.
    """
    return [
        (parameter, 1)
        for module in backbone.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name not in ("weight", "bias") and parameter.dim() == 4 and len(parameter) == 1
    ]


def cannot(problem: BaseException | str) -> ModelError:
    """The one line for a network that cannot be pruned, with the reason."""
    reason = str(problem).strip().split("\n", maxsplit=1)[0][:160] or type(problem).__name__
    return ModelError(
        "a network that Torch-Pruning can follow",
        f"one that it cannot ({reason})",
        "distil into a smaller student instead, or protect the part it fails on",
    )


def cut(graph: Any, name: str, is_output: bool, indices: Sequence[int]) -> None:
    """Remove channels of a layer, or whole heads by their rows, with all that hangs on them.

    Raises:
        ModelError: The network has no such layer or channels, or would be left without any.
    """
    attention = _attention_of(graph.model, name)
    if attention is not None:
        cut_heads(attention, indices, name)
    else:
        _group(graph, name, is_output, indices).prune(record_history=False)


def _attention_of(backbone: nn.Module, name: str) -> Any:
    return next((layer for own, layer in heads(backbone) if name == f"{own}.qkv"), None)


def _group(graph: Any, name: str, is_output: bool, indices: Sequence[int]) -> Any:
    modules = dict(graph.model.named_modules())
    layer = modules.get(name)
    if layer is None or layer not in graph.module2node:
        raise ModelError("a pruning record of this network", f"one of '{name}', which it has not")
    pruner = graph.get_pruner_of_module(layer)
    channels = graph.get_out_channels(layer) if is_output else graph.get_in_channels(layer)
    if not indices or min(indices) < 0 or max(indices) >= channels:
        raise ModelError(
            f"a pruning record that fits the {channels} channels of '{name}'",
            f"channel {max(indices, default=-1)}",
        )
    function = pruner.prune_out_channels if is_output else pruner.prune_in_channels
    group = graph.get_pruning_group(layer, function, list(indices))
    if not graph.check_pruning_group(group):
        raise ModelError(
            "a pruning record that leaves channels", f"one that empties what '{name}' feeds"
        )
    return group


def free_groups(graph: Any, protected: set[nn.Module]) -> list[ChannelGroup]:
    """Groups of coupled channels and heads that may shrink, in the order of the network.

    Raises:
        ModelError: The graph cannot be followed.
    """
    try:
        coupled = list(graph.get_all_groups(root_module_types=(Convolution, nn.Linear)))
    except Exception as problem:
        raise cannot(problem) from problem
    tied = _tied(graph.model)
    free = [
        group
        for group in coupled
        if not any(_stays(graph, d, protected) or d.target.module in tied for d, _ in group)
    ]
    names = {part: name for name, part in graph.model.named_modules()}
    names |= {part: name for name, part in graph.model.named_parameters()}
    groups = [_as_group(graph, group, names) for group in free[::-1]]  # it walks from the output
    return groups + _head_groups(graph.model, protected)


def _tied(backbone: nn.Module) -> set[nn.Module]:
    """Layers that share a weight with another one: cut, each would go on with one of its own."""
    owners: dict[int, list[nn.Module]] = {}
    for part in backbone.modules():
        for parameter in part.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(part)
    return {part for several in owners.values() if len(several) > 1 for part in several}


def _stays(graph: Any, dep: Any, protected: set[nn.Module]) -> bool:
    """Whether a removal would reach the network's outputs, or the outputs of a protected layer."""
    if not graph.is_out_channel_pruning_fn(dep.handler):
        return False
    is_last = not dep.target.outputs
    return is_last or dep.target.module in protected


def _as_group(graph: Any, group: Any, names: Mapping[Any, str]) -> ChannelGroup:
    columns_of = group[0].root_idxs
    per_column = _channel_groups(graph, group)
    size = len(columns_of) // per_column
    members: list[Member] = []
    kinds = []
    for item in group:
        layer, is_output = item.dep.target.module, _gives(graph, item.dep)
        kinds.append(f"{type(item.dep.source.module).__name__}>{type(layer).__name__}{is_output}")
        if layer not in names:
            continue  # an operation without weights
        indices = np.asarray(item.idxs, dtype=np.int64)
        columns = np.asarray(item.root_idxs, dtype=np.int64) % size
        pruner = graph.get_pruner_of_module(layer)
        if isinstance(pruner, Opaque):
            for part, gives, own in pruner.touched(layer, indices, outputs=is_output):
                repeated = np.tile(columns, len(own) // len(columns))
                channels = _size(part, gives)
                members.append(Member(names[part], part, gives, own, repeated, channels))
        else:
            count = graph.get_out_channels if is_output else graph.get_in_channels
            channels = count(item.dep.target)
            members.append(Member(names[layer], layer, is_output, indices, columns, channels))
    name = names[group[0].dep.target.module]
    return ChannelGroup(name, size, per_column, 1, tuple(members), " ".join(kinds))


def _size(part: Any, gives: bool) -> int:
    return int(part.weight.shape[0 if gives else 1])


def _gives(graph: Any, dep: Any) -> bool:
    return bool(graph.is_out_channel_pruning_fn(dep.handler))


def _channel_groups(graph: Any, group: Any) -> int:
    """Groups of a grouped convolution or norm among the coupled layers, which must stay equal."""
    largest = 1
    for dep, _ in group:
        layer = dep.target.module
        if not isinstance(layer, nn.Module) or is_depthwise(layer):
            continue
        pruner = graph.get_pruner_of_module(layer)
        is_output = graph.is_out_channel_pruning_fn(dep.handler)
        count = pruner.get_out_channel_groups if is_output else pruner.get_in_channel_groups
        largest = max(largest, count(layer))
    return largest


def _head_groups(backbone: nn.Module, protected: set[nn.Module]) -> list[ChannelGroup]:
    groups = []
    for name, layer in heads(backbone):
        count = int(layer.num_heads)
        if count == 1 or layer.qkv in protected:
            continue
        rows = head_rows(layer)
        block, every = rows.shape[1] // 3, np.arange(count)
        owners = np.repeat(every, block)
        parts = [
            (f"{name}.qkv", layer.qkv, True, rows.ravel(), np.repeat(every, 3 * block)),
            (f"{name}.proj", layer.proj, False, np.arange(count * block), owners),
        ]
        if hasattr(layer, TABLE):
            parts.append((f"{name}.{TABLE}", getattr(layer, TABLE), True, every, every))
        members = [Member(*part, len(part[-1])) for part in parts]
        kind = f"heads of {type(layer).__name__}"
        groups.append(ChannelGroup(f"{name}.qkv", count, 3, block, tuple(members), kind))
    return groups
