"""Channels removed for good: what goes is planned here, kept as plain data, and cut again at will.

A removal reaches every layer coupled to it: norms, residual streams, concatenations, depthwise
convolutions, squeeze-and-excitation, the classifier's inputs. Torch-Pruning's dependency graph
(Fang et al., CVPR 2023, arXiv:2301.12900) knows the couplings; this is the only module that names
it. The record of a pruning is its root removals, [layer, outputs?, channel numbers], in the names
of the backbone; a fresh network cut by the record has the shapes of the pruned one.

Batch norms keep the statistics of what is left. Their inputs have changed, so a pruned network
needs its fine-tuning before it is judged.
"""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import Tensor, nn

from clinipress.errors import ModelError
from clinipress.evaluate.cost import Convolution, evaluating, layer_macs, macs, parameters
from clinipress.models.coupling import cut_equals_hidden, mixes_channels
from clinipress.models.ranking import Costs, Unit, choose, share

__all__ = ["History", "plan_pruning", "prune", "replay"]

History = tuple[tuple[str, bool, tuple[int, ...]], ...]
Of = Literal["macs", "parameters"]
Criterion = Literal["l1", "l2", "random"]
Network = TypeVar("Network", bound=nn.Module)

TOLERANCE = 0.02  # of the cost: a plan farther from the ratio is refused


def plan_pruning(
    classifier: nn.Module,
    *,
    ratio: float,
    of: Of = "macs",
    criterion: Criterion = "l2",
    scope: Literal["global", "uniform"] = "global",
    round_to: int = 8,
    protect: Sequence[str] = (),
    seed: int = 0,
) -> History:
    """Decide which channels go; the classifier is left as it is.

    A channel's importance is the mean, over all layers it reaches, of the L1 or squared L2 norm of
    its weights, divided by the mean over its unit, so that layers can be ranked together (Fang et
    al., 2023). The last layer's outputs always stay, and so does a tenth of every layer.

    Args:
        classifier: A `clinipress.models.classifier.Classifier`.
        ratio: Share of the classifier's present MACs or parameters to remove, in (0, 1).
        of: What the ratio counts.
        criterion: "l1", "l2", or "random" (the control).
        scope: "global" ranks all channels together; "uniform" removes the same share everywhere.
        round_to: Channel counts become multiples of this, or stay.
        protect: Names of the backbone's modules whose outputs all stay, with all inside them.
        seed: Of the random criterion.

    Returns:
        The record, for `prune` and `replay`; what it removes is within two points of `ratio`.

    Raises:
        ModelError: Torch-Pruning cannot follow this network, no module has a protected name, or
            the ratio is out of reach.
    """
    network = copy.deepcopy(classifier).cpu().float()
    with _graph(network) as graph:
        groups = _free_groups(graph, _protected(network.get_submodule("backbone"), protect))
        if not groups:
            raise ModelError("a network with channels to remove", "none that is free to go")
        units = _units(graph, groups, criterion, round_to, seed)
        costs = _costs(network, graph, groups, units, of)
        kept = choose(costs, units, ratio, scope)
        _check_ratio(share(costs, units, kept), ratio, of)
        history = tuple(
            (unit.name, True, unit.removed(k))
            for unit, k in zip(units, kept, strict=True)
            if k < unit.size
        )
        hidden = _hidden(graph, groups, units, kept)
    _check_cut(network, history, hidden, ratio, of)
    return history


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
                group = _group(graph, name, is_output, indices)
                group.prune(record_history=False)
    return classifier


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
        with warnings.catch_warnings():
            # what it only warns of (an index map given up half-way) would cut the wrong channels
            warnings.filterwarnings("error", module="torch_pruning")
            return tp.DependencyGraph().build_dependency(backbone, images, verbose=False)
    except Exception as problem:
        raise _cannot(problem) from problem


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


def _free_groups(graph: Any, protected: set[nn.Module]) -> list[Any]:
    """The graph's groups of coupled channels that may shrink, in the order of the network."""
    try:
        groups = list(graph.get_all_groups(root_module_types=(Convolution, nn.Linear)))
    except Exception as problem:
        raise _cannot(problem) from problem
    free = [g for g in groups if not any(_stays(graph, dep, protected) for dep, _ in g)]
    return free[::-1]  # Torch-Pruning walks from the output


def _stays(graph: Any, dep: Any, protected: set[nn.Module]) -> bool:
    """Whether a removal would reach the network's outputs, or the outputs of a protected layer."""
    if not graph.is_out_channel_pruning_fn(dep.handler):
        return False
    is_last = not dep.target.outputs
    return is_last or dep.target.module in protected


def _units(
    graph: Any, groups: Sequence[Any], criterion: Criterion, round_to: int, seed: int
) -> list[Unit]:
    random = np.random.default_rng(seed)
    norm = tp.importance.GroupMagnitudeImportance(p=1 if criterion == "l1" else 2)
    units = []
    for group in groups:
        scores: NDArray[np.float64] = norm(group).double().cpu().numpy()
        columns = _channel_groups(graph, group)
        scores = scores.reshape(columns, -1).mean(axis=0)
        if criterion == "random":
            scores = random.random(len(scores))
        root = group[0].dep.target.module
        units.append(Unit(graph._module2name[root], scores, columns, round_to))
    return units


def _channel_groups(graph: Any, group: Any) -> int:
    """Groups of a grouped convolution or norm among the coupled layers, which must stay equal."""
    found = 1
    for dep, _ in group:
        layer = dep.target.module
        if not isinstance(layer, nn.Module) or _is_depthwise(layer):
            continue
        pruner = graph.get_pruner_of_module(layer)
        is_output = graph.is_out_channel_pruning_fn(dep.handler)
        count = pruner.get_out_channel_groups if is_output else pruner.get_in_channel_groups
        found = max(found, count(layer))
    return found


def _is_depthwise(layer: object) -> bool:
    return isinstance(layer, Convolution) and 1 < layer.groups == layer.out_channels


def _costs(
    network: nn.Module, graph: Any, groups: Sequence[Any], units: Sequence[Unit], of: Of
) -> Costs:
    """The cost as a function of the columns removed from each unit."""
    reach: dict[tuple[object, bool], NDArray[np.float64]] = {}
    for place, (group, unit) in enumerate(zip(groups, units, strict=True)):
        for dep, indices in group:
            is_output = graph.is_out_channel_pruning_fn(dep.handler)
            channels = (graph.get_out_channels if is_output else graph.get_in_channels)(dep.target)
            if channels:
                row = reach.setdefault((dep.target.module, is_output), np.zeros(len(units)))
                row[place] += len(indices) / unit.size / channels
    none = np.zeros(len(units))
    terms = _mac_terms(network) if of == "macs" else _parameter_terms(network)
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
    return [
        (layers[name], count, not _is_depthwise(layers[name])) for name, count in counts.items()
    ]


def _parameter_terms(network: nn.Module) -> list[Term]:
    terms: list[Term] = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, Convolution | nn.Linear):
                reads = name == "weight" and not _is_depthwise(module)
                terms.append((module, parameter.numel(), reads))
            else:
                # norms go by module, parameters that are no layer's (layer scale) by themselves
                is_norm = name in ("weight", "bias")
                terms.append((module if is_norm else parameter, parameter.numel(), False))
    return terms


def _check_ratio(reached: float, ratio: float, of: Of) -> None:
    if abs(reached - ratio) > TOLERANCE:
        raise ModelError(
            f"a share of the {of} that can be removed from this network",
            f"ratio {ratio:g}, where the nearest is {reached:.3f}",
            "change the ratio, lower round_to or protect fewer layers",
        )


def _hidden(
    graph: Any, groups: Sequence[Any], units: Sequence[Unit], kept: Sequence[int]
) -> dict[str, Tensor]:
    """Layer -> the input channels that a plan takes from it, numbered as before the cut."""
    names = {module: name for name, module in graph.model.named_modules()}
    found: dict[str, set[int]] = {}
    for group, unit, k in zip(groups, units, kept, strict=True):
        roots = set(unit.removed(k))
        for item in group:
            layer = item.dep.target.module
            is_reader = not graph.is_out_channel_pruning_fn(item.dep.handler)
            if roots and is_reader and isinstance(layer, Convolution | nn.Linear):
                pairs = zip(item.idxs, item.root_idxs, strict=True)
                gone = {index for index, root in pairs if root in roots}
                found.setdefault(names[layer], set()).update(gone)
    return {name: torch.tensor(sorted(gone)) for name, gone in found.items()}


def _check_cut(
    network: Any, history: History, hidden: dict[str, Tensor], ratio: float, of: Of
) -> None:
    """Cut a copy and run it: a coupling that was not seen breaks here, not in training."""
    spec = network.input_spec
    try:
        small = prune(network, history)
        left = macs(small, spec)
    except Exception as problem:
        raise _cannot(problem) from problem
    if of == "macs":
        reached = 1 - left / macs(network, spec)
    else:
        reached = 1 - parameters(small) / parameters(network)
    _check_ratio(reached, ratio, of)
    channels, size = spec.channels * network.repeats, (spec.height, spec.width)
    if not mixes_channels(network) and not cut_equals_hidden(
        network.backbone, small.backbone, hidden, channels, size
    ):
        raise _cannot("the layers it cuts meet other channels than before, as after a shuffle")
