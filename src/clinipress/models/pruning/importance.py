"""How much each channel matters: the criteria by which pruning ranks, each with its source.

Channels that hang together go together, so a score belongs to a column of a group: one channel
with everything it reaches, the channels that a grouped convolution loses at a time, or a head of
attention. A layer of a group is a `Member`; it either gives the group's channels (its outputs are
theirs) or reads them (they come in). All functions read weights and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clinipress.errors import ModelError
from clinipress.models.cost import Convolution, evaluating
from clinipress.models.label_loss import hard_loss

__all__ = ["Batch", "ChannelGroup", "Criterion", "Member", "is_depthwise", "score", "taylor_scores"]

Criterion = Literal["l1", "l2", "taylor", "batch-norm", "fpgm", "random"]
Batch = tuple[Tensor, Tensor]  # uint8 or float images [n, c, h, w], int64 labels [n] or [n, k]
Scores = NDArray[np.float64]
BatchNorm = nn.modules.batchnorm._BatchNorm
# criteria whose scores mean the same in every layer: they are not divided by the group's mean
COMPARABLE = frozenset({"taylor", "batch-norm"})


@dataclass(frozen=True)
class Member:
    """What one layer has of a group's channels.

    Attributes:
        name: The layer's name in the backbone.
        layer: The layer, or a parameter that is no layer's.
        is_output: True when the channels are the layer's outputs, False when it reads them.
        indices: int64 ``[m]``, the layer's own numbers of the channels.
        columns: int64 ``[m]``, which column of the group each belongs to.
        channels: All channels the layer has on that side, coupled ones and others.
    """

    name: str
    layer: Any
    is_output: bool
    indices: NDArray[np.int64]
    columns: NDArray[np.int64]
    channels: int


@dataclass(frozen=True)
class ChannelGroup:
    """Coupled channels.

    Attributes:
        name: The layer whose outputs name the channels; several groups may, with other channels.
        block: Channels that lie side by side in a column (a head's), or 1.
        members: All layers the channels reach.
        kind: Groups of equal topology have equal kinds.
        table: int64 ``[columns, channels of each]``, the layer's outputs that go together: of a
            grouped convolution or norm one of each group.
    """

    name: str
    block: int
    members: tuple[Member, ...]
    kind: str
    table: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Columns."""
        return len(self.table)

    def readers(self) -> list[Member]:
        """Convolutions and linear layers the channels come into."""
        return [m for m in self.members if not m.is_output and _has_filters(m.layer)]

    def givers(self) -> list[Member]:
        """Convolutions and linear layers the channels come out of; depthwise ones only pass on."""
        return [m for m in self.members if m.is_output and _has_filters(m.layer)]


def is_depthwise(layer: object) -> bool:
    """Whether each channel has a convolution of its own."""
    return isinstance(layer, Convolution) and 1 < layer.groups == layer.out_channels


def _has_filters(layer: object) -> bool:
    return isinstance(layer, Convolution | nn.Linear) and not is_depthwise(layer)


def score(
    groups: Sequence[ChannelGroup], criterion: Criterion, seed: int, taylor: Sequence[Scores] = ()
) -> list[Scores | None]:
    """Importance of each column of each group; what goes first is what has least.

    - "l1", "l2": sum over all layers reached of the absolute or squared weights of the channel
      (Li et al., ICLR 2017, arXiv:1608.08710, extended to groups by Fang et al., CVPR 2023,
      arXiv:2301.12900).
    - "taylor": see `taylor_scores`.
    - "batch-norm": mean absolute scale of the channel's batch norms (Liu et al., ICCV 2017,
      arXiv:1708.06519, without its sparsity penalty in training, which must have been at work
      before for the scale to say much). Groups without a batch norm stay whole.
    - "fpgm": sum of the Euclidean distances of a filter to all filters of its layer, the filters
      near the geometric median going first (He et al., CVPR 2019, arXiv:1811.00250, eq. 4);
      summed over the layers that give the channel.
    - "random": the control.

    Scores of "l1", "l2" and "fpgm" depend on a layer's size and are divided by the group's mean, so
    that layers can be ranked together; "taylor" and "batch-norm" are comparable as they are.

    Args:
        groups: What to score.
        criterion: By what.
        seed: Of the random criterion.
        taylor: What `taylor_scores` returned, for that criterion.

    Returns:
        float64 ``[size]`` per group; None for a group the criterion cannot judge.

    Raises:
        ModelError: The criterion can judge no group.
    """
    if criterion == "random":
        random = np.random.default_rng(seed)
        return [random.random(group.size) for group in groups]
    if criterion == "taylor":
        return list(taylor)
    rate: dict[str, Callable[[ChannelGroup], Scores | None]] = {
        "l1": lambda group: _magnitude(group, 1),
        "l2": lambda group: _magnitude(group, 2),
        "batch-norm": _batch_norm_scale,
        "fpgm": _geometric_median,
    }
    scored = [rate[criterion](group) for group in groups]
    if all(scores is None for scores in scored):
        raise ModelError(
            f"a network that the criterion '{criterion}' can judge",
            "one without batch norms after the layers that may be cut",
            "choose criterion: l2 or taylor",
        )
    if criterion in COMPARABLE:
        return scored
    return [None if s is None else s / max(float(s.mean()), 1e-30) for s in scored]


def _filters(member: Member, values: Tensor) -> Tensor:
    """The weights (or their gradients) that a layer holds for each channel, float64 ``[m, k]``."""
    layer, values = member.layer, values.detach().double()
    indices = torch.from_numpy(member.indices).to(values.device)
    groups = getattr(layer, "groups", 1)
    # a transposed convolution keeps its inputs first; where there are groups, the dimension that
    # is not first counts within a group
    first = member.is_output != isinstance(layer, nn.modules.conv._ConvTransposeNd)
    if first:
        return values[indices].flatten(1)
    within = values.shape[1]
    blocks = values.reshape(groups, -1, *values.shape[1:])
    return blocks[indices // within, :, indices % within].flatten(1)


def _by_column(group: ChannelGroup, member: Member, values: Tensor) -> Scores:
    sums: Scores = np.bincount(
        member.columns, weights=values.cpu().numpy(), minlength=group.size
    ).astype(np.float64)
    return sums


def _magnitude(group: ChannelGroup, power: int) -> Scores:
    total = np.zeros(group.size)
    for member in group.members:
        if _has_filters(member.layer):
            weights = _filters(member, member.layer.weight).abs().pow(power).sum(1)
        elif isinstance(member.layer, BatchNorm | nn.LayerNorm) and member.layer.weight is not None:
            scale = member.layer.weight.detach().double()
            weights = scale[torch.from_numpy(member.indices)].abs().pow(power)
        else:
            continue
        total += _by_column(group, member, weights)
    return total


def _batch_norm_scale(group: ChannelGroup) -> Scores | None:
    total, seen = np.zeros(group.size), np.zeros(group.size)
    for member in group.members:
        if isinstance(member.layer, BatchNorm) and member.layer.affine:
            scale = member.layer.weight.detach().double()[torch.from_numpy(member.indices)].abs()
            total += _by_column(group, member, scale)
            seen += np.bincount(member.columns, minlength=group.size)
    if not seen.all():
        return None
    scores: Scores = total / seen
    return scores


def _geometric_median(group: ChannelGroup) -> Scores:
    total = np.zeros(group.size)
    for member in group.givers():
        filters = _filters(member, member.layer.weight)
        order = torch.from_numpy(np.argsort(member.columns, kind="stable"))
        columns = filters[order].reshape(len(np.unique(member.columns)), -1)
        # the plain way: the quick one (by matrix products) loses digits for filters that are alike
        distances = torch.cdist(columns, columns, compute_mode="donot_use_mm_for_euclid_dist")
        total[np.unique(member.columns)] += distances.sum(1).cpu().numpy()
    return total


def taylor_scores(
    network: nn.Module, groups: Sequence[ChannelGroup], batches: Sequence[Batch]
) -> list[Scores]:
    """First-order Taylor importance (Molchanov et al., CVPR 2019, arXiv:1906.10771, eq. 8).

    The loss changes by ``sum(g * w)`` to first order when the weights w of a column vanish. The
    weights summed over are those that read the channel: removing a channel is hiding it from its
    readers, and the sum equals the derivative by a gate on the channel, the paper's own form for
    layers with batch norm. The square is taken per batch and averaged, as in the paper. What a
    missing channel does to a layer norm's statistics is not seen.

    Args:
        network: uint8 ``[n, c, h, w]`` -> logits; gradients are cleared, modes put back. Its
            weights must take gradients.
        groups: Of this very network.
        batches: Images and labels; the loss is their `hard_loss`, in evaluation mode.

    Returns:
        float64 ``[size]`` per group, the squared change of the loss.

    Raises:
        ModelError: There is no batch, or the loss is not finite.
    """
    if not batches:
        raise ModelError("training images for the criterion 'taylor'", "none")
    readers = [group.readers() for group in groups]
    total = [np.zeros(group.size) for group in groups]
    with evaluating(network), torch.inference_mode(mode=False), torch.enable_grad():
        for images, labels in batches:
            network.zero_grad(set_to_none=True)
            loss = hard_loss(network(images), labels)
            if not bool(loss.isfinite()):
                raise ModelError("a finite loss for the criterion 'taylor'", f"{float(loss):g}")
            loss.backward()  # type: ignore[no-untyped-call]
            for number, group in enumerate(groups):
                change = sum(
                    (_by_column(group, m, _change(m)) for m in readers[number]),
                    np.zeros(group.size),
                )
                total[number] += change**2
    network.zero_grad(set_to_none=True)
    return [squares / len(batches) for squares in total]


def _change(member: Member) -> Tensor:
    """Sum of gradient times weight per channel a layer reads, float64 ``[m]``."""
    weight = member.layer.weight
    if weight.grad is None:  # a reader that this loss does not reach
        return torch.zeros(len(member.indices), dtype=torch.float64)
    return _filters(member, weight.detach().double() * weight.grad.double()).sum(1)
