"""Channels removed for good: what goes is planned here, kept as plain data, and cut again at will.

A removal reaches every layer coupled to it: norms, residual streams, concatenations, depthwise
convolutions, squeeze-and-excitation, the classifier's inputs. The couplings are known to
`clinipress.models.pruning.dependencies`. The record of a pruning is its root removals, [layer,
outputs?, channel numbers], in the names of the backbone, whole heads of attention by the rows of
their queries, keys and values; a fresh network cut by the record has the shapes of the pruned one.

Batch norms keep the statistics of what is left. Their inputs have changed, so a pruned network
needs its statistics measured again, or its fine-tuning, before it is judged.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clinipress.errors import ModelError
from clinipress.models.cost import macs
from clinipress.models.pruning.cost import Of, cost, costs, outputs
from clinipress.models.pruning.coupling import cut_equals_hidden
from clinipress.models.pruning.dependencies import cannot, cut, dependency_graph, free_groups
from clinipress.models.pruning.importance import (
    Batch,
    ChannelGroup,
    Criterion,
    score,
    taylor_scores,
)
from clinipress.models.pruning.ranking import Scope, Unit, choose, share

__all__ = ["History", "hidings", "plan_pruning", "prune", "replay", "widths"]

History = tuple[tuple[str, bool, tuple[int, ...]], ...]
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

    The criteria are those of `clinipress.models.pruning.importance.score`. The last layer's
    outputs always stay, and so does a tenth of every layer.

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
        counted = costs(network, groups, of)
        kept = choose(counted, units, ratio, scope)
        _check_ratio(share(counted, units, kept), ratio, of)
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
    return {name: outputs(backbone.get_submodule(name)) - len(gone) for name, _, gone in history}


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

    Gives the name of the layer, the share that is hidden of its channels, and what
    `clinipress.models.pruning.coupling.hidden_from` takes for the classifier's backbone.
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
    """Cut a `Classifier`, as it was before the first removal, as records say, in place; itself.

    The records are of one pruning, or of several one after the other.

    Raises:
        ModelError: The record does not fit this network.
    """
    for records in _rounds(history):
        with dependency_graph(classifier) as graph:
            for name, is_output, indices in records:
                cut(graph, name, is_output, indices)
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


def _protected(backbone: nn.Module, protect: Sequence[str]) -> set[nn.Module]:
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
) -> tuple[list[ChannelGroup], list[Unit]]:
    """The groups that may shrink and that the criterion can judge, and their columns, ranked."""
    backbone = network.get_submodule("backbone")
    protected = _protected(backbone, protect)
    with dependency_graph(network) as graph:
        free = free_groups(graph, protected)
        if not free:
            raise ModelError("a network with channels to remove", "none that is free to go")
        taylor = taylor_scores(network, free, batches) if criterion == "taylor" else ()
    rated = score(free, criterion, seed, taylor)
    groups, units = [], []
    for group, scores in zip(free, rated, strict=True):
        if scores is not None:
            step = round_to if group.block == 1 else 1
            unit = Unit(group.name, scores, group.per_column, step, group.block, group.kind)
            groups.append(group)
            units.append(unit)
    return groups, units


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


def _hidden(groups: Sequence[ChannelGroup], removed: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """What `hidden_from` takes so that a plan's channels are not seen, numbered as before it."""
    hidden: dict[str, set[int]] = {}
    for group, channels in zip(groups, removed, strict=True):
        gone = {channel // group.block % group.size for channel in channels}
        seeing = [m for m in group.members if isinstance(m.layer, nn.LayerNorm)]
        for member in [*group.readers(), *seeing] if gone else []:
            pairs = zip(member.indices.tolist(), member.columns.tolist(), strict=True)
            hidden.setdefault(member.name, set()).update(i for i, c in pairs if c in gone)
    return {name: torch.tensor(sorted(gone)) for name, gone in hidden.items()}


def _checked_cut(network: Any, history: History, hidden: dict[str, Tensor]) -> Any:
    """Cut a copy and run it: a coupling that was not seen breaks here, not in training."""
    spec = network.input_spec
    try:
        small = prune(network, history)
        macs(small, spec)
    except Exception as problem:
        raise cannot(problem) from problem
    channels, size = spec.channels * network.repeats, (spec.height, spec.width)
    if not cut_equals_hidden(network.backbone, small.backbone, hidden, channels, size):
        raise cannot("the layers it cuts meet other channels than before, as after a shuffle")
    return small
