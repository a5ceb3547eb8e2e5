"""Which channels hang together: Torch-Pruning's dependency graph, and heads, as plain data.

The one module that names Torch-Pruning (Fang et al., CVPR 2023, arXiv:2301.12900): it reads a
network's couplings from autograd's graph, `free_groups` tells them as `ChannelGroup`s, and `cut`
removes channels with all that hangs on them. What it misreads is not caught here but by running the
cut network (`clinipress.models.pruning.coupling`); what it cannot read at all is left out.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import nn
from torch_pruning.dependency import index_mapping

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


# Channels looked at on the way from layer to layer, some two microseconds each: of a group, and of
# a network's groups together. What lies beyond stays whole; counted, so that every machine agrees.
LARGEST_GROUP = 2_000_000
LONGEST_SEARCH = 20_000_000
SPLIT = tp.ops.OPTYPE.SPLIT


class _LostError(Exception):
    """A group whose channels cannot be followed; its arguments: layers whose outputs it reached."""


class _Split(tp.ops.SplitPruner):  # type: ignore[misc]
    """A split whose pieces are known by number: one may be read by several layers, or by none."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Make each piece smaller by the channels it loses."""
        if layer.pieces is None:
            return layer
        ends = list(accumulate(layer.pieces))
        for index in idxs:
            layer.pieces[next(n for n, end in enumerate(ends) if index < end)] -= 1
        layer.split_sizes = [layer.pieces[number] for number in layer.read]
        return layer

    prune_in_channels = prune_out_channels


class _Graph(tp.DependencyGraph):  # type: ignore[misc]
    """Torch-Pruning's graph, walked so that it ends, and with weights that are tied.

    Its own walk takes a channel along every path there is, which need not end where a network
    slices and concatenates; here each layer's channel is followed once. What comes together again
    (the two factors of a product, the pieces of a split) goes together: `Group.together`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.REGISTERED_PRUNERS[SPLIT] = _Split()
        pruners = [p for p in self.REGISTERED_PRUNERS.values() if p is not None]
        self._in_channel_pruning_fn = {p.prune_in_channels for p in pruners}
        self._out_channel_pruning_fn = {p.prune_out_channels for p in pruners}
        self.steps = 0
        self.lost: set[Any] = set()  # layers whose outputs cannot be followed, nor what meets them
        self.is_built = self.is_mapped = False

    def build_dependency(self, *arguments: Any, **options: Any) -> Any:
        """As the base's, with splits read anew and tied weights coupled."""
        try:
            super().build_dependency(*arguments, **options)
        except Exception:
            if not self.is_built:  # else it failed in an index map, made anew when it is asked for
                raise
        splits = [node for node in self.module2node.values() if node.type == SPLIT]
        for node in splits:
            _read_split(node)
        for node in self.module2node.values():
            if splits and node.type == tp.ops.OPTYPE.CONCAT:
                node.module.concat_sizes = None  # reckoned before the pieces were known
        self._tie()
        return self

    def _build_dependency(self, nodes: Any) -> None:
        super()._build_dependency(nodes)
        self.is_built = True

    def _tie(self) -> None:
        """Layers that hold one weight lose the same channels on both sides."""
        holders = defaultdict(list)
        for node in self.module2node.values():
            weight = getattr(node.module, "weight", None)
            if isinstance(weight, nn.Parameter) and self.get_pruner_of_module(node.module):
                holders[id(weight)].append(node)
        for nodes in holders.values():
            for source, target in ((a, b) for a in nodes for b in nodes if a is not b):
                mine, other = (self.get_pruner_of_module(n.module) for n in (source, target))
                for side in ("prune_out_channels", "prune_in_channels"):
                    functions = getattr(mine, side), getattr(other, side)
                    source.dependencies.append(tp.Dependency(*functions, source, target))

    def _map_indices(self) -> None:
        if self.is_mapped:
            return
        self.is_mapped = True
        update = {
            tp.ops.OPTYPE.CONCAT: index_mapping.update_concat_index_mapping,
            tp.ops.OPTYPE.RESHAPE: index_mapping.update_reshape_index_mapping,
            tp.ops.OPTYPE.UNBIND: index_mapping.update_unbind_index_mapping,
            tp.ops.OPTYPE.EXPAND: index_mapping.update_expand_index_mapping,
            tp.ops.OPTYPE.SLICE: index_mapping.update_slice_index_mapping,
            SPLIT: lambda _, node: _map_split(node),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for node in self.module2node.values():
                if node.type in update:
                    with suppress(Exception):  # without its map a group is lost, or found wrong
                        update[node.type](self, node)

    def get_pruning_group(self, module: Any, pruning_fn: Any, idxs: Sequence[int]) -> Any:
        """The layers and their channels that go with these channels of a layer.

        Raises:
            _LostError: A channel is beyond a layer's own, or there is no end of them.
        """
        if is_depthwise(module):
            pruning_fn = tp.prune_depthwise_conv_out_channels
        self._map_indices()
        root = self.module2node[module]
        first = tp.Dependency(pruning_fn, pruning_fn, root, root)
        start = {index: index for index in idxs}
        reached: dict[Any, tuple[Any, dict[int, int]]] = {(root, pruning_fn): (first, start)}
        hybrid = tp._helpers._HybridIndex
        stack = [(first, [hybrid(idx=i, root_idx=i) for i in idxs])]
        together: set[tuple[int, int]] = set()
        budget = LARGEST_GROUP
        while stack:
            dep, new = stack.pop()
            for follow in dep.target.dependencies:
                if not follow.is_triggered_by(dep.handler):
                    continue
                mapped = new
                for mapping in _in_order(follow.index_mapping):
                    mapped = mapping(mapped)
                if not mapped:
                    continue
                _, known = reached.setdefault((follow.target, follow.handler), (follow, {}))
                fresh = [index for index in mapped if index.idx not in known]
                known |= {index.idx: index.root_idx for index in reversed(fresh)}
                together |= {(known[i.idx], i.root_idx) for i in mapped}
                budget -= len(mapped)
                self.steps += len(mapped)
                if budget < 0 or not self._holds(follow, fresh) or self._is_lost(follow):
                    gives = self.is_out_channel_pruning_fn
                    raise _LostError(*(node.module for node, side in reached if gives(side)))
                if fresh:
                    stack.append((follow, fresh))
        group = tp.Group()
        group._DG, group.together = self, {(a, b) for a, b in together if a != b}
        for dep, known in reached.values():
            item = tp._helpers.GroupItem(dep=dep, idxs=list(known))
            item.root_idxs = list(known.values())
            group._group.append(item)
        return group

    def _holds(self, dep: Any, indices: Sequence[Any]) -> bool:
        """Whether the layer that is reached has these channels."""
        is_output = self.is_out_channel_pruning_fn(dep.handler)
        count = (self.get_out_channels if is_output else self.get_in_channels)(dep.target)
        return all(0 <= index.idx < (count or LARGEST_GROUP) for index in indices)

    def _is_lost(self, dep: Any) -> bool:
        return self.is_out_channel_pruning_fn(dep.handler) and dep.target.module in self.lost

    def groups(self) -> Iterator[Any]:
        """Every group of coupled channels, each named by the layer it is first met at."""
        visited: set[Any] = set()
        for layer in list(self.module2node):
            if not isinstance(layer, Convolution | nn.Linear) or layer in visited:
                continue
            pruner = self.get_pruner_of_module(layer)
            every = range(pruner.get_out_channels(layer))
            try:
                group = self.get_pruning_group(layer, pruner.prune_out_channels, every)
            except _LostError as lost:
                self.lost.update(lost.args)  # from there it would be lost again
                visited |= self.lost
                if self.steps > LONGEST_SEARCH:
                    return
                continue
            gives = self.is_out_channel_pruning_fn
            visited |= {dep.target.module for dep, _ in group if gives(dep.handler)}
            yield group


def _in_order(mappings: Sequence[Any]) -> list[Any]:
    """From a split or a slice into a concatenation; the other way round, what came last first."""
    known = [mapping for mapping in mappings if mapping is not None]
    return known[::-1] if known and known[-1].reverse else known


def _read_split(node: Any) -> None:
    """Sizes of a split's pieces, and which piece each of its readers takes.

    Channels are second, or last in tokens ``[n, places, channels]``.
    """
    split, sizes = node.grad_fn, getattr(node.grad_fn, "_saved_self_sym_sizes", ())
    dimension = getattr(split, "_saved_dim", -1)
    dimension -= 2**64 if dimension > len(sizes) else 0
    node.module.pieces = node.module.split_sizes = node.module.offsets = None
    if dimension % (len(sizes) or 1) not in ({1, 2} if len(sizes) == 3 else {1}):
        return
    pieces = list(getattr(split, "_saved_split_sizes", ()))
    if not pieces:
        whole, size = sizes[dimension], split._saved_split_size
        pieces = [min(size, whole - start) for start in range(0, whole, size)]
    taken = {
        reader: iter([n for other, n in reader.grad_fn.next_functions if other is split])
        for reader in node.outputs
    }
    read = [next(taken[reader], -1) for reader in node.outputs]
    if -1 not in read:
        node.module.pieces, node.module.read = pieces, read
        node.module.split_sizes = [pieces[number] for number in read]


def _map_split(node: Any) -> None:
    if node.module.pieces is None:
        return
    ends = [0, *accumulate(node.module.pieces)]
    pieces = list(pairwise(ends))
    for reader in set(node.outputs):
        read = [n for n, r in zip(node.module.read, node.outputs, strict=True) if r is reader]
        there = [dep for dep in node.dependencies if dep.target is reader]
        back = [dep for dep in reader.dependencies if dep.target is node]
        for number, forth, home in zip(read, there, back, strict=True):
            piece = index_mapping._SplitIndexMapping
            forth.index_mapping[0] = piece(offset=pieces[number], reverse=False)
            home.index_mapping[0] = piece(offset=pieces[number], reverse=True)


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
            _forget_graph(backbone)


def _forget_graph(backbone: nn.Module) -> None:
    """Detach what layers keep of a pass (a bias table that was looked up): it cannot be copied."""
    for module in backbone.modules():
        for kept in (vars(module), *(v for v in vars(module).values() if type(v) is dict)):
            for key, value in kept.items():
                if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                    kept[key] = value.detach()


def _trace(classifier: Any, backbone: nn.Module) -> Any:
    spec = classifier.input_spec
    shape = (1, spec.channels * classifier.repeats, spec.height, spec.width)
    # in a tuple: given a bare tensor, Torch-Pruning would first try its images without a batch
    images = (torch.zeros(shape, device=classifier.shift.device),)
    try:
        with warnings.catch_warnings(), standing_in(backbone) as pruners:
            warnings.filterwarnings("ignore", module="torch_pruning")
            return _Graph().build_dependency(
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
        graph.is_mapped = False


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
    try:
        group = graph.get_pruning_group(layer, function, list(indices))
    except _LostError as problem:
        raise cannot(f"the channels of '{name}' cannot be followed") from problem
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
    names = {part: name for name, part in graph.model.named_modules()}
    names |= {part: name for name, part in graph.model.named_parameters()}
    groups: list[ChannelGroup] = []
    try:
        for coupled in graph.groups():  # it walks from the output
            groups = [*_as_groups(graph, coupled, names, protected), *groups]
    except ModelError:
        raise
    except Exception as problem:
        raise cannot(problem) from problem
    return groups + _head_groups(graph.model, protected)


def _stays(graph: Any, dep: Any, protected: set[nn.Module]) -> bool:
    """Whether a removal would reach the network's outputs, or the outputs of a protected layer."""
    if not graph.is_out_channel_pruning_fn(dep.handler):
        return False
    is_last = not dep.target.outputs
    return is_last or dep.target.module in protected


def _as_groups(
    graph: Any, group: Any, names: Mapping[Any, str], protected: set[nn.Module]
) -> list[ChannelGroup]:
    """The columns of a group, those together that reach the same layers; none that must stay."""
    table = _columns(graph, group)
    if not table:
        return []
    column_of = {root: number for number, column in enumerate(table) for root in column}
    owners = [np.array([column_of[r] for r in item.root_idxs], dtype=np.int64) for item in group]
    counts = np.stack([np.bincount(own, minlength=len(table)) for own in owners], axis=1)
    for item in group:
        shape = getattr(item.dep.target.module, "normalized_shape", (0,))
        if len(shape) > 1:  # a norm with weights for every place: [c, h, w]
            return []
    stays = np.array([_stays(graph, item.dep, protected) for item in group])
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, column in enumerate(table):
        alike.setdefault((len(column), *counts[number].tolist()), []).append(number)
    return [
        _as_group(graph, group, names, owners, np.array(numbers), [table[n] for n in numbers])
        for (_, *reached), numbers in alike.items()
        if not (np.array(reached) > 0)[stays].any()
    ]


def _columns(graph: Any, group: Any) -> list[list[int]]:
    """The root's channels that can only go together.

    A grouped layer loses one channel of each group, a chunking one of each piece; where only some
    of its channels are in this group of coupled ones, there is nothing to choose: no columns.
    """
    owner = {root: root for root in group[0].root_idxs}

    def first(root: int) -> int:
        while owner[root] != root:
            owner[root] = owner[owner[root]]
            root = owner[root]
        return root

    pairs = set(group.together)
    for item in group:
        parts, channels = _equal_parts(graph, item.dep)
        if parts > 1:
            within = channels // parts
            if len(item.idxs) < channels:
                return []
            root_of = dict(zip(item.idxs, item.root_idxs, strict=True))
            pairs |= {(root_of[i], root_of[i % within]) for i in item.idxs}
    for a, b in pairs:
        low, high = sorted((first(a), first(b)))
        owner[high] = low
    columns: dict[int, list[int]] = {}
    for root in sorted(owner):
        columns.setdefault(first(root), []).append(root)
    return list(columns.values())


def _as_group(
    graph: Any,
    group: Any,
    names: Mapping[Any, str],
    owners: Sequence[NDArray[np.int64]],
    numbers: NDArray[np.int64],
    table: Sequence[Sequence[int]],
) -> ChannelGroup:
    """Those columns of a group, counted anew."""
    members: list[Member] = []
    kinds = []
    for item, owner in zip(group, owners, strict=True):
        mine = np.isin(owner, numbers)
        if not mine.any():
            continue
        layer, is_output = item.dep.target.module, _gives(graph, item.dep)
        kinds.append(f"{type(item.dep.source.module).__name__}>{type(layer).__name__}{is_output}")
        if layer not in names:
            continue  # an operation without weights
        indices = np.asarray(item.idxs, dtype=np.int64)[mine]
        columns = np.searchsorted(numbers, owner[mine])
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
    rows = np.array(table, dtype=np.int64)
    return ChannelGroup(name, 1, tuple(members), " ".join(kinds), rows)


def _size(part: Any, gives: bool) -> int:
    return int(part.weight.shape[0 if gives else 1])


def _gives(graph: Any, dep: Any) -> bool:
    return bool(graph.is_out_channel_pruning_fn(dep.handler))


def _equal_parts(graph: Any, dep: Any) -> tuple[int, int]:
    """Groups of a grouped convolution or norm, or pieces of a chunk, and the channels of all."""
    layer, is_output = dep.target.module, _gives(graph, dep)
    if dep.target.type == SPLIT:
        pieces = layer.pieces or [0]
        return (len(pieces) if len(set(pieces)) == 1 else 1), sum(pieces)
    if not isinstance(layer, nn.Module) or is_depthwise(layer):
        return 1, 0
    pruner = graph.get_pruner_of_module(layer)
    if is_output:
        return pruner.get_out_channel_groups(layer), graph.get_out_channels(dep.target) or 0
    return pruner.get_in_channel_groups(layer), graph.get_in_channels(dep.target) or 0


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
        groups.append(ChannelGroup(f"{name}.qkv", block, tuple(members), kind, rows))
    return groups
