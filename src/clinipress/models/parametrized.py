"""Norms of weights as parametrizations: the older hooks leave a computed tensor in the layer.

Such a tensor is part of autograd's graph, so the layer cannot be copied, and it is computed anew in
evaluation mode too. ``torch.nn.utils.parametrizations`` do the same by the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["parametrized", "renamed"]


def parametrized(network: nn.Module) -> nn.Module:
    """The same network, in place, with ``nn.utils.weight_norm`` and ``spectral_norm`` exchanged."""
    for part in list(network.modules()):
        for key, hook in list(part._forward_pre_hooks.items()):
            if isinstance(hook, WeightNorm | SpectralNorm):
                del part._forward_pre_hooks[key]
                _exchange(part, hook)
    return network


def _exchange(part: nn.Module, hook: Any) -> None:
    name = hook.name
    old = {key: _take(part, f"{name}{key}") for key in ("_g", "_v", "_u", "_orig")}
    value = old["_v"] if isinstance(hook, WeightNorm) else old["_orig"]
    part.__dict__.pop(name, None)  # the computed one
    part._buffers.pop(name, None)
    part.register_parameter(name, nn.Parameter(value.detach().clone()))
    if isinstance(hook, WeightNorm):
        parametrizations.weight_norm(part, name, hook.dim)
        norm = getattr(part.parametrizations, name)
        _fill(norm.original0, old["_g"])
        _fill(norm.original1, value)
        return
    for key in list(part._state_dict_hooks):
        if type(part._state_dict_hooks[key]).__module__ == SpectralNorm.__module__:
            del part._state_dict_hooks[key]
    for key in list(part._load_state_dict_pre_hooks):
        held = part._load_state_dict_pre_hooks[key]
        if type(getattr(held, "hook", held)).__module__ == SpectralNorm.__module__:
            del part._load_state_dict_pre_hooks[key]
    parametrizations.spectral_norm(part, name, hook.n_power_iterations, hook.eps, hook.dim)
    norm = getattr(part.parametrizations, name)[0]
    _fill(norm._u, old["_u"])
    _fill(norm._v, old["_v"])


def _take(part: nn.Module, name: str) -> Any:
    for held in (part._parameters, part._buffers):
        if name in held:
            return held.pop(name)
    return None


def _fill(target: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        target.copy_(value)


def renamed(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's names of the older norms as those of a network's parametrizations."""
    names = {}
    for name in own:
        base, parametrization, rest = name.rpartition(".parametrizations.")
        tensor, _, part = rest.partition(".")
        if parametrization:
            layer = f"{base}.{tensor}"
            old = {"original0": "_g", "original1": "_v", "original": "_orig", "0._u": "_u",
                   "0._v": "_v"}  # fmt: skip
            names[layer + old.get(part, f".{part}")] = name
    return {names.get(name, name): value for name, value in state.items()}
