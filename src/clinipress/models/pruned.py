"""Channels removed for good: what goes is planned here, kept as plain data, and cut again at will.

A removal reaches every layer coupled to it: norms, residual streams, concatenations, depthwise
convolutions, squeeze-and-excitation, the classifier's inputs. Torch-Pruning's dependency graph
(Fang et al., CVPR 2023, arXiv:2301.12900) knows the couplings; this is the only module that names
it. Heads of attention are cut by `clinipress.models.attention`. The record of a pruning is its root
removals, [layer, outputs?, channel numbers], in the names of the backbone; a fresh network cut by
the record has the shapes of the pruned one.

Batch norms keep the statistics of what is left. Their inputs have changed, so a pruned network
needs its statistics measured again, or its fine-tuning, before it is judged.
"""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import Tensor, nn

from clinipress.errors import ModelError
from clinipress.evaluate.cost import Convolution, evaluating, layer_macs, macs, parameters
from clinipress.models.attention import TABLE, Opaque, cut_heads, head_rows, heads, standing_in
from clinipress.models.coupling import cut_equals_hidden, mixes_channels
from clinipress.models.importance import (
    Batch,
    Criterion,
    Group,
    Member,
    is_depthwise,
    score,
    taylor_scores,
)
from clinipress.models.ranking import Costs, Scope, Unit, choose, share

__all__ = ["History", "Of", "cost", "hidings", "plan_pruning", "prune", "replay", "widths"]

History = tuple[tuple[str, bool, tuple[int, ...]], ...]
Of = Literal["macs", "parameters", "filters"]
Network = TypeVar("Network", bound=nn.Module)

TOLERANCE = 0.02  # of the cost: a plan farther from the ratio is refused


def plan_pruning(
    classifier: nn.Module,
    *,
    ratio: float,
    of: Of = "macs",
    criterion: Criterion = "l2",
    scope: Scope = "global",
    round_to: int = 8,
    protect: Sequence[str] = (),
    seed: int = 0,
    batches: Sequence[Batch] = (),
    keep: Mapping[str, float] | None = None,
) -> History:
    """Decide which channels and heads go; the classifier is left as it is.

    The criteria are those of `clinipress.models.importance.score`. The last layer's outputs always
    stay, and so does a tenth of every layer.

    Args:
        classifier: A `clinipress.models.classifier.Classifier`.
        ratio: Share of the classifier's present cost to remove, in (0, 1).
        of: What the ratio counts: multiply-adds, parameters, or filters (outputs of all
            convolutions and linear layers).
        criterion: How channels are ranked.
        scope: "global" ranks all together; "uniform" removes the same share everywhere;
            "isomorphic" ranks together what has the same topology.
        round_to: Channel counts become multiples of this, or stay. Heads are whole.
        protect: Names of the backbone's modules whose outputs all stay, with all inside them.
        seed: Of the random criterion.
        batches: Training images for the criterion "taylor".
        keep: Channels each layer keeps (`widths` of an earlier plan); then only which ones is
            decided here, and neither `ratio` nor `scope` counts.

    Returns:
        The record, for `prune` and `replay`; what it removes is within two points of `ratio`.

    Raises:
        ModelError: Torch-Pruning cannot follow this network, no module has a protected name, the
            criterion cannot judge it, or the ratio is out of reach.
    """
    network = copy.deepcopy(classifier).cpu().float()
    groups, units = _ranked(network, criterion, round_to, protect, seed, batches)
    if keep is None:
        costs = _costs(network, groups, of)
        kept = choose(costs, units, ratio, scope)
        _check_ratio(share(costs, units, kept), ratio, of)
    else:
        kept = [u.kept_near(keep.get(u.name, u.channels) / u.per_column) for u in units]
    history = _history(units, kept)
    hidden = _hidden(groups, [unit.removed(k) for unit, k in zip(units, kept, strict=True)])
    small = _checked_cut(network, history, hidden)
    if keep is None:
        _check_ratio(1 - cost(small, of) / cost(network, of), ratio, of)
    return history


def widths(classifier: nn.Module, history: History) -> dict[str, int]:
    """Channels that each layer named in a record keeps of those it has in this classifier."""
    backbone = classifier.get_submodule("backbone")
    return {name: _outputs(backbone.get_submodule(name)) - len(gone) for name, _, gone in history}


def cost(classifier: Any, of: Of) -> int:
    """What a ratio counts: multiply-adds of an image, parameters, or filters."""
    if of == "macs":
        return macs(classifier, classifier.input_spec)
    if of == "parameters":
        return parameters(classifier)
    return sum(_outputs(m) for m in classifier.modules() if isinstance(m, Convolution | nn.Linear))


def hidings(
    classifier: nn.Module,
    shares: Sequence[float],
    *,
    criterion: Criterion = "l2",
    protect: Sequence[str] = (),
    seed: int = 0,
    batches: Sequence[Batch] = (),
) -> Iterator[tuple[str, float, dict[str, Tensor]]]:
    """What to hide to see the network without a share of one unit's channels alone.

    Yields:
        Name of the layer, share that is hidden of its channels, and the argument of
        `clinipress.models.coupling.hidden_from` for the classifier's backbone.
    """
    network = copy.deepcopy(classifier).cpu().float()
    groups, units = _ranked(network, criterion, 1, protect, seed, batches)
    for group, unit in zip(groups, units, strict=True):
        for wanted in shares:
            kept = max(1, round(unit.size * (1 - wanted)))
            yield unit.name, 1 - kept / unit.size, _hidden([group], [unit.removed(kept)])


def prune(classifier: Network, history: History) -> Network:
    """A smaller copy with the weights that stay; the classifier is left as it is.

    Raises:
        ModelError: The record does not fit this network.
    """
    return replay(copy.deepcopy(classifier), history)


def replay(classifier: Network, history: History) -> Network:
    """Cut a network as a record says, in place.

    Args:
        classifier: A `Classifier` as it was before the first removal of the record.
        history: Records of one pruning, or of several one after the other.

    Returns:
        The classifier itself, smaller.

    Raises:
        ModelError: The record does not fit this network.
    """
    for records in _rounds(history):
        with _graph(classifier) as graph:
            for name, is_output, indices in records:
                attention = _attention_of(graph.model, name)
                if attention is not None:
                    cut_heads(attention, indices, name)
                else:
                    group = _group(graph, name, is_output, indices)
                    group.prune(record_history=False)
    return classifier


def _attention_of(backbone: nn.Module, name: str) -> Any:
    """The attention whose queries, keys and values this is the name of, or None."""
    return next((layer for own, layer in heads(backbone) if name == f"{own}.qkv"), None)


def _rounds(history: History) -> Iterator[list[tuple[str, bool, tuple[int, ...]]]]:
    """Split where a layer is cut again: that is a later pruning, planned on a graph of its own."""
    current: list[tuple[str, bool, tuple[int, ...]]] = []
    seen: set[tuple[str, bool]] = set()
    for name, is_output, indices in history:
        if (name, is_output) in seen:
            yield current
            current, seen = [], set()
        seen.add((name, is_output))
        current.append((name, is_output, tuple(indices)))
    if current:
        yield current


def _group(graph: Any, name: str, is_output: bool, indices: Sequence[int]) -> Any:
    """The removal of `indices` from a layer with all that hangs on it."""
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


@contextmanager
def _graph(classifier: nn.Module) -> Iterator[Any]:
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
        raise _cannot(problem) from problem


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


def _cannot(problem: BaseException | str) -> ModelError:
    reason = str(problem).strip().split("\n", maxsplit=1)[0][:160] or type(problem).__name__
    return ModelError(
        "a network that Torch-Pruning can follow",
        f"one that it cannot ({reason})",
        "distil into a smaller student instead, or protect the part it fails on",
    )


def _protected(backbone: nn.Module, protect: Sequence[str]) -> set[nn.Module]:
    """The named modules and all inside them."""
    modules = {name: module for name, module in backbone.named_modules() if name}
    for name in protect:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}?" if near else None
            raise ModelError("names of the network's modules in 'protect'", f"'{name}'", hint)
    return {part for name in protect for part in modules[name].modules()}


def _ranked(
    network: nn.Module,
    criterion: Criterion,
    round_to: int,
    protect: Sequence[str],
    seed: int,
    batches: Sequence[Batch],
) -> tuple[list[Group], list[Unit]]:
    """The groups that may shrink and that the criterion can judge, and their columns, ranked."""
    backbone = network.get_submodule("backbone")
    protected = _protected(backbone, protect)
    with _graph(network) as graph:
        found = [*_free_groups(graph, protected), *_head_groups(backbone, protected)]
        if not found:
            raise ModelError("a network with channels to remove", "none that is free to go")
        taylor = taylor_scores(network, found, batches) if criterion == "taylor" else ()
    rated = score(found, criterion, seed, taylor)
    groups, units = [], []
    for group, scores in zip(found, rated, strict=True):
        if scores is not None:
            step = round_to if group.block == 1 else 1
            unit = Unit(group.name, scores, group.per_column, step, group.block, group.kind)
            groups.append(group)
            units.append(unit)
    return groups, units


def _free_groups(graph: Any, protected: set[nn.Module]) -> list[Group]:
    """The graph's groups of coupled channels that may shrink, in the order of the network."""
    try:
        found = list(graph.get_all_groups(root_module_types=(Convolution, nn.Linear)))
    except Exception as problem:
        raise _cannot(problem) from problem
    free = [g for g in found if not any(_stays(graph, dep, protected) for dep, _ in g)]
    names = {part: name for name, part in graph.model.named_modules()}
    names |= {part: name for name, part in graph.model.named_parameters()}
    return [_as_group(graph, group, names) for group in free[::-1]]  # it walks from the output


def _stays(graph: Any, dep: Any, protected: set[nn.Module]) -> bool:
    """Whether a removal would reach the network's outputs, or the outputs of a protected layer."""
    if not graph.is_out_channel_pruning_fn(dep.handler):
        return False
    is_last = not dep.target.outputs
    return is_last or dep.target.module in protected


def _as_group(graph: Any, group: Any, names: Mapping[Any, str]) -> Group:
    """A group of Torch-Pruning's as plain data."""
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
    return Group(name, size, per_column, 1, tuple(members), " ".join(kinds))


def _size(part: Any, gives: bool) -> int:
    return int(part.weight.shape[0 if gives else 1])


def _gives(graph: Any, dep: Any) -> bool:
    return bool(graph.is_out_channel_pruning_fn(dep.handler))


def _channel_groups(graph: Any, group: Any) -> int:
    """Groups of a grouped convolution or norm among the coupled layers, which must stay equal."""
    found = 1
    for dep, _ in group:
        layer = dep.target.module
        if not isinstance(layer, nn.Module) or is_depthwise(layer):
            continue
        pruner = graph.get_pruner_of_module(layer)
        is_output = graph.is_out_channel_pruning_fn(dep.handler)
        count = pruner.get_out_channel_groups if is_output else pruner.get_in_channel_groups
        found = max(found, count(layer))
    return found


def _head_groups(backbone: nn.Module, protected: set[nn.Module]) -> list[Group]:
    """The heads of every attention that may lose some."""
    found = []
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
        found.append(Group(f"{name}.qkv", count, 3, block, tuple(members), kind))
    return found


def _outputs(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def _costs(network: nn.Module, groups: Sequence[Group], of: Of) -> Costs:
    """The cost as a function of the columns removed from each unit."""
    reach: dict[tuple[object, bool], NDArray[np.float64]] = {}
    for place, group in enumerate(groups):
        for member in group.members:
            row = reach.setdefault((member.layer, member.is_output), np.zeros(len(groups)))
            row[place] += len(member.indices) / group.size / member.channels
    none = np.zeros(len(groups))
    terms = TERMS[of](network)
    return Costs(
        base=np.array([base for _, base, _ in terms], dtype=np.float64),
        outputs=np.stack([reach.get((owner, True), none) for owner, _, _ in terms]),
        inputs=np.stack(
            [reach.get((owner, False), none) if reads else none for owner, _, reads in terms]
        ),
    )


Term = tuple[object, int, bool]  # owner, cost now, whether it also shrinks with the inputs


def _mac_terms(network: Any) -> list[Term]:
    spec = network.input_spec
    images = torch.zeros(1, spec.channels, spec.height, spec.width)
    counts = layer_macs(network, images)
    layers = {name: network.get_submodule(name) for name in counts}
    return [(layers[name], count, not is_depthwise(layers[name])) for name, count in counts.items()]


def _parameter_terms(network: nn.Module) -> list[Term]:
    terms: list[Term] = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, Convolution | nn.Linear):
                reads = name == "weight" and not is_depthwise(module)
                terms.append((module, parameter.numel(), reads))
            else:
                # norms go by module, parameters that are no layer's (layer scale) by themselves
                is_norm = name in ("weight", "bias")
                terms.append((module if is_norm else parameter, parameter.numel(), False))
    return terms


def _filter_terms(network: nn.Module) -> list[Term]:
    layers = [m for m in network.modules() if isinstance(m, Convolution | nn.Linear)]
    return [(layer, _outputs(layer), False) for layer in layers]


TERMS = {"macs": _mac_terms, "parameters": _parameter_terms, "filters": _filter_terms}


def _check_ratio(reached: float, ratio: float, of: Of) -> None:
    if abs(reached - ratio) > TOLERANCE:
        raise ModelError(
            f"a share of the {of} that can be removed from this network",
            f"ratio {ratio:g}, where the nearest is {reached:.3f}",
            "change the ratio, lower round_to or protect fewer layers",
        )


def _history(units: Sequence[Unit], kept: Sequence[int]) -> History:
    pairs = zip(units, kept, strict=True)
    return tuple((unit.name, True, unit.removed(k)) for unit, k in pairs if k < unit.size)


def _hidden(groups: Sequence[Group], removed: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """What `hidden_from` takes so that a plan's channels are not seen, numbered as before it."""
    found: dict[str, set[int]] = {}
    for group, channels in zip(groups, removed, strict=True):
        gone = {channel // group.block % group.size for channel in channels}
        seeing = [m for m in group.members if isinstance(m.layer, nn.LayerNorm)]
        for member in [*group.readers(), *seeing] if gone else []:
            pairs = zip(member.indices.tolist(), member.columns.tolist(), strict=True)
            found.setdefault(member.name, set()).update(i for i, c in pairs if c in gone)
    return {name: torch.tensor(sorted(gone)) for name, gone in found.items()}


def _checked_cut(network: Any, history: History, hidden: dict[str, Tensor]) -> Any:
    """Cut a copy and run it: a coupling that was not seen breaks here, not in training."""
    spec = network.input_spec
    try:
        small = prune(network, history)
        macs(small, spec)
    except Exception as problem:
        raise _cannot(problem) from problem
    channels, size = spec.channels * network.repeats, (spec.height, spec.width)
    if not mixes_channels(network) and not cut_equals_hidden(
        network.backbone, small.backbone, hidden, channels, size
    ):
        raise _cannot("the layers it cuts meet other channels than before, as after a shuffle")
    return small
