"""The optimizer and the running average of the weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from clinipress.errors import ModelError
from clinipress.recipe.steps import TrainOptions
from clinipress.train.layers import layer_depths

__all__ = ["Average", "make_optimizer", "set_rate", "state_tensors"]

SHARE = "share_of_rate"  # of a parameter group


def make_optimizer(
    module: nn.Module, options: TrainOptions, layer_decay: float = 1.0
) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum 0.9; weight decay only on tensors of 2 or more axes.

    Biases and the scales of norms are left out of the decay, as usual since He et al.,
    arXiv:1812.01187. The fused kernels do one pass over memory instead of one per operation. A
    layer that lies d below the head learns at ``layer_decay ** d`` times the rate (`set_rate`), one
    pair of parameter groups per layer; 1: all alike, in one pair.

    Raises:
        ModelError: Every parameter is frozen.
    """
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not trained:
        raise ModelError("a network with weights to train", "one with all of them frozen")
    depths = layer_depths(module) if layer_decay != 1 else {}
    groups = []
    for depth in sorted({depths.get(name, 0) for name, _ in trained}):
        here = [p for name, p in trained if depths.get(name, 0) == depth]
        share = layer_decay**depth
        groups += [
            {"params": some, "weight_decay": decay, SHARE: share}
            for some, decay in (
                ([p for p in here if p.ndim > 1], options.weight_decay),
                ([p for p in here if p.ndim <= 1], 0.0),
            )
            if some
        ]
    rate = options.learning_rate
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, fused=True)
    return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[SHARE]


def state_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers by name, detached, sharing memory with the module.

    What has several names, as tied weights have, comes under the first.
    """
    named = (*module.named_parameters(), *module.named_buffers())
    first = {name for name, _ in named}
    return {name: v.detach() for name, v in module.state_dict().items() if name in first}


class Average:
    """Exponential moving average of parameters and floating buffers.

    The decay of update t (from 1) is ``min(decay, (1 + t) / (10 + t))``, so that the first steps
    do not drag the random start along (TensorFlow's ExponentialMovingAverage, `num_updates`).
    Integer buffers are copied. Without a decay there is nothing to hold: `tensors` are the
    module's own.
    """

    def __init__(self, module: nn.Module, decay: float | None) -> None:
        self.decay, self.updates = decay, 0
        self._live = state_tensors(module)
        self.tensors = self._live
        if decay is not None:
            self.tensors = {name: value.clone() for name, value in self._live.items()}
        floats = [name for name, value in self._live.items() if value.is_floating_point()]
        self._ours = [self.tensors[name] for name in floats]
        self._theirs = [self._live[name] for name in floats]
        self._copied = [name for name in self._live if name not in set(floats)]

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the module's present weights, after an optimizer step."""
        if self.decay is None:
            return
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._ours, self._theirs, 1 - decay)
        for name in self._copied:
            self.tensors[name].copy_(self._live[name])

    def floating_buffers(self, module: nn.Module) -> Iterator[torch.Tensor]:
        """Floating buffers of the module and, when they are others, of the average."""
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point() and name in self.tensors:
                yield buffer
                if self.decay is not None:
                    yield self.tensors[name]
