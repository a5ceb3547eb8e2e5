"""What a ratio of pruning counts, now and as a function of what is removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clinipress.models.cost import Convolution, layer_macs, macs, parameters
from clinipress.models.pruning.importance import ChannelGroup, is_depthwise
from clinipress.models.pruning.ranking import Costs

__all__ = ["Of", "cost", "costs", "outputs"]

Of = Literal["macs", "parameters", "filters"]


def cost(classifier: Any, of: Of) -> int:
    """What a ratio counts: multiply-adds of an image, parameters, or filters."""
    if of == "macs":
        return macs(classifier, classifier.input_spec)
    if of == "parameters":
        return parameters(classifier)
    return sum(outputs(m) for m in classifier.modules() if isinstance(m, Convolution | nn.Linear))


def outputs(layer: Any) -> int:
    """Output channels of a convolution, output features of a linear layer."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def costs(network: nn.Module, groups: Sequence[ChannelGroup], of: Of) -> Costs:
    """The cost as a function of the columns removed from each unit."""
    reach: dict[tuple[object, bool], NDArray[np.float64]] = {}
    for number, group in enumerate(groups):
        for member in group.members:
            row = reach.setdefault((member.layer, member.is_output), np.zeros(len(groups)))
            row[number] += len(member.indices) / group.size / member.channels
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
    return [(layer, outputs(layer), False) for layer in layers]


TERMS: dict[str, Callable[[Any], list[Term]]] = {
    "macs": _mac_terms,
    "parameters": _parameter_terms,
    "filters": _filter_terms,
}
