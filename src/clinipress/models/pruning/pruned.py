"""Channels removed for good: what goes is planned here, kept as plain data, and cut again at will.

A removal reaches every layer coupled to it: norms, residual streams, concatenations, depthwise
convolutions, squeeze-and-excitation, the classifier's inputs. The couplings are known to
`clinipress.models.pruning.dependencies`, and a plan is tried before it is given: channels whose cut
is not the same as their hiding stay whole (`clinipress.models.pruning.coupling`). The record of a
pruning is its root removals, [layer, outputs?, channel numbers], in the names of the backbone,
whole heads of attention by the rows of their queries, keys and values; a fresh network cut by the
record has the shapes of the pruned one.

Batch norms keep the statistics of what is left. Their inputs have changed, so a pruned network
needs its statistics measured again, or its fine-tuning, before it is judged.
"""

from __future__ import annotations

import copy
import difflib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from clinipress.errors import ModelError
from clinipress.models.cost import macs
from clinipress.models.pruning.cost import Of, cost, costs, outputs
from clinipress.models.pruning.coupling import awake, cut_equals_hidden
from clinipress.models.pruning.dependencies import cannot, cut, dependency_graph, free_groups
from clinipress.models.pruning.importance import (
    Batch,
    ChannelGroup,
    Criterion,
    score,
    taylor_scores,
)
from clinipress.models.pruning.ranking import Scope, Unit, choose, share
from clinipress.models.zoo import first_line

__all__ = ["History", "hidings", "plan_pruning", "prune", "replay", "widths"]

History = tuple[tuple[str, bool, tuple[int, ...]], ...]
Network = TypeVar("Network", bound=nn.Module)

TOLERANCE = 0.02  # of the cost: a plan farther from the ratio is refused
LONGEST_TRIAL = 90.0  # seconds of the processor for finding what cannot be cut
NAMED = 6  # layers in a line


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
    network = _with_plain_weights(copy.deepcopy(classifier).cpu().float())
    groups, units = _ranked(network, criterion, round_to, protect, seed, batches)
    trial, whole = _Trial(network), dict[str, None]()
    while True:
        if keep is None:
            counted = costs(network, groups, of)
            kept = choose(counted, units, ratio, scope)
            _check_ratio(share(counted, units, kept), ratio, of, list(whole))
        else:
            kept = [_kept_as(network, unit, keep) for unit in units]
        fault = trial.fault(groups, units, kept)
        if fault is None:
            break
        wrong = trial.faulty(groups, units, kept)
        whole |= dict.fromkeys(units[number].name for number in sorted(wrong))
        groups = [group for number, group in enumerate(groups) if number not in wrong]
        units = [unit for number, unit in enumerate(units) if number not in wrong]
        if not units:
            raise cannot(fault)
    history = _history(units, kept)
    if keep is None:
        _check_ratio(1 - cost(trial.small, of) / cost(network, of), ratio, of, list(whole))
    return history


def _kept_as(network: nn.Module, unit: Unit, keep: Mapping[str, float]) -> int:
    """Columns of a unit so that its layer keeps its channels of an earlier plan."""
    layer = network.get_submodule("backbone").get_submodule(unit.name)
    return unit.kept_near(unit.size * keep.get(unit.name, outputs(layer)) / outputs(layer))


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
    network = _with_plain_weights(copy.deepcopy(classifier).cpu().float())
    groups, units = _ranked(network, criterion, 1, protect, seed, batches)
    for group, unit in zip(groups, units, strict=True):
        for wanted in shares:
            kept = max(1, round(unit.size * (1 - wanted)))
            yield unit.name, 1 - kept / unit.size, _hidden([group], [unit.gone(kept)])


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
    _with_plain_weights(classifier)
    for records in _rounds(history):
        with dependency_graph(classifier) as graph:
            tied = _tied(graph.model)
            for name, is_output, indices in records:
                cut(graph, name, is_output, indices)
            _tie_again(graph.model, tied)
    return classifier


def _with_plain_weights(network: Network) -> Network:
    """Weights that are computed of others (weight norm, spectral norm) as numbers, in place.

    A filter can only be taken out of what is there. torch's own removal changes a class that
    copies of the layer share.
    """
    for module in list(network.modules()):
        if not is_parametrized(module):
            continue
        layer: Any = module
        with torch.no_grad():
            weights = {name: getattr(layer, name).clone() for name in layer.parametrizations}
        layer.__class__ = type_before_parametrizations(layer)
        del layer.parametrizations
        for name, value in weights.items():
            layer.register_parameter(name, nn.Parameter(value))
    return network


def _tied(backbone: nn.Module) -> list[list[str]]:
    """Names of parameters that are one tensor."""
    names: dict[int, list[str]] = {}
    for name, parameter in backbone.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [same for same in names.values() if len(same) > 1]


def _tie_again(backbone: nn.Module, tied: Sequence[Sequence[str]]) -> None:
    """Make those one tensor again that a cut has written for each layer."""
    for first, *others in tied:
        kept = backbone.get_parameter(first)
        for name in others:
            if not torch.equal(kept, backbone.get_parameter(name)):
                raise cannot(f"'{first}' and '{name}' are one weight, and lose other channels")
            owner, _, own = name.rpartition(".")
            setattr(backbone.get_submodule(owner), own, kept)


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
            units.append(Unit(group.name, scores, step, group.kind, group.table))
            groups.append(group)
    return groups, units


def _check_ratio(reached: float, ratio: float, of: Of, whole: Sequence[str]) -> None:
    if abs(reached - ratio) > TOLERANCE:
        named = ", ".join(whole[:NAMED]) + (", ..." if len(whole) > NAMED else "")
        layers = f" ({named} stay whole: their cuts would change other channels)" if whole else ""
        raise ModelError(
            f"a share of the {of} that can be removed from this network",
            f"ratio {ratio:g}, where the nearest is {reached:.3f}{layers}",
            "change the ratio, lower round_to or protect fewer layers",
        )


def _history(units: Sequence[Unit], kept: Sequence[int]) -> History:
    removed: dict[str, set[int]] = {}
    for unit, k in zip(units, kept, strict=True):
        if k < unit.size:
            removed.setdefault(unit.name, set()).update(unit.removed(k))
    return tuple((name, True, tuple(sorted(gone))) for name, gone in removed.items())


def _hidden(
    groups: Sequence[ChannelGroup], columns: Sequence[NDArray[np.int64]]
) -> dict[str, Tensor]:
    """What `hidden_from` takes so that columns are not seen, numbered as before the cut."""
    hidden: dict[str, set[int]] = {}
    for group, gone in zip(groups, columns, strict=True):
        seeing = [m for m in group.members if isinstance(m.layer, nn.LayerNorm)]
        for member in [*group.readers(), *seeing] if len(gone) else []:
            indices = member.indices[np.isin(member.columns, gone)]
            hidden.setdefault(member.name, set()).update(indices.tolist())
    return {name: torch.tensor(sorted(gone), dtype=torch.long) for name, gone in hidden.items()}


class _Trial:
    """Cuts a network as planned and runs it: what is misread breaks here, not in training."""

    def __init__(self, network: Any) -> None:
        self.network: Any = awake(network)
        self.small: Any = None  # as it was cut last
        self.ends = time.process_time() + LONGEST_TRIAL

    def fault(
        self, groups: Sequence[ChannelGroup], units: Sequence[Unit], kept: Sequence[int]
    ) -> str | None:
        """Why these columns cannot be cut, all together; None: the cut is right."""
        network = self.network
        spec = network.input_spec
        try:
            self.small = prune(network, _history(units, kept))
            macs(self.small, spec)
        except Exception as problem:
            return first_line(problem)
        hidden = _hidden(groups, [unit.gone(k) for unit, k in zip(units, kept, strict=True)])
        channels, size = spec.channels * network.repeats, (spec.height, spec.width)
        if cut_equals_hidden(network.backbone, self.small.backbone, hidden, channels, size):
            return None
        return "the layers it cuts meet other channels than before, as after a shuffle"

    def faulty(
        self, groups: Sequence[ChannelGroup], units: Sequence[Unit], kept: Sequence[int]
    ) -> set[int]:
        """Which units cannot be cut, at least one: found by halving, each tried at least a step."""
        cut = [
            k if k < unit.size or len(unit.kept_choices) == 1 else unit.kept_choices[-2]
            for unit, k in zip(units, kept, strict=True)
        ]
        some = [number for number, unit in enumerate(units) if cut[number] < unit.size]
        return set(self._search(groups, units, cut, some, known=True))

    def _search(
        self,
        groups: Sequence[ChannelGroup],
        units: Sequence[Unit],
        cut: Sequence[int],
        some: list[int],
        *,
        known: bool = False,
    ) -> list[int]:
        if time.process_time() > self.ends:
            raise cannot(f"its cuts are not the same as hiding, and no end in {LONGEST_TRIAL:g} s")
        parts = ([every[number] for number in some] for every in (groups, units, cut))
        if not some or (not known and self.fault(*parts) is None):  # type: ignore[arg-type]
            return []
        if len(some) == 1:
            return some
        half = len(some) // 2
        sides = some[:half], some[half:]
        wrong = [n for side in sides for n in self._search(groups, units, cut, side)]
        return wrong or sides[1]  # each is right alone
