"""Norms of weights as parametrizations: the older hooks leave a computed tensor in the layer.

Such a tensor is part of autograd's graph, so the layer cannot be copied, and it is computed anew in
evaluation mode too. ``torch.nn.utils.parametrizations`` do the same by the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from clinipress.errors import ModelError

__all__ = ["parametrized", "plain_copy", "renamed"]


def plain_copy(network: nn.Module) -> nn.Module:
    """A float32 copy on the CPU of a network that a caller holds, every weight of which can learn.

    Norms of weights become parametrizations, masks of ``torch.nn.utils.prune`` zeros. Whatever
    hooks or forward passes left in it (features of a layer) is copied as plain numbers.

    Raises:
        ModelError: It is a program or a quantized network, its weights are not there yet, or it
            cannot be copied.
    """
    _check_weights(network)
    memo = {id(tensor): tensor.detach().clone() for tensor in _computed(network)}
    try:
        copied = copy.deepcopy(network, memo)
    except Exception as problem:  # what a user's module does when it is copied
        raise ModelError(
            "a network that can be copied",
            f"{type(problem).__name__}: {str(problem).partition(chr(10))[0][:200]}",
            "save its state_dict() and name the function that builds it",
        ) from problem
    copied = parametrized(copied).cpu().float()
    for part in copied.modules():
        for hook in list(part._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(part, hook._tensor_name)  # type: ignore[no-untyped-call]
    for parameter in copied.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return copied


def _check_weights(network: nn.Module) -> None:
    if isinstance(network, torch.jit.ScriptModule):
        raise ModelError(
            "a torch.nn.Module as Python builds it",
            f"a TorchScript program ('{type(network).__name__}')",
            "give the network that it was made of",
        )
    state = network.state_dict()
    odd = next((name for name, value in state.items() if not isinstance(value, Tensor)), None)
    if odd is not None or any(value.is_quantized for value in state.values()):
        name = odd or next(name for name, value in state.items() if value.is_quantized)
        raise ModelError(
            "a network whose state is tensors of floats",
            f"'{name}', a {type(state[name]).__name__} of a quantized layer or of get_extra_state",
            "give the network as it was before quantization, without extra state",
        )
    for name, value in state.items():
        if is_lazy(value) or value.is_meta:
            raise ModelError(
                "a network that has its weights",
                f"'{name}', which has none yet",
                "run an image through it, or load its weights, before you give it",
            )


def _computed(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """Tensors of autograd's graph that modules, and what they hold in lists, keep: no parameters.

    They cannot be copied as they are.
    """
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            yield value
    elif isinstance(value, nn.Module) and depth == 0:
        for part in value.modules():
            yield from _computed(vars(part), 1)
    elif isinstance(value, dict | list | tuple | set) and depth < 6:
        members = value.values() if isinstance(value, dict) else value
        for member in list(members):
            yield from _computed(member, depth + 1)


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
