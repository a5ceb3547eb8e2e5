"""Weights of a file into a network: the whole classifier, all but its head, or what it shares."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from torch import Tensor, nn

from clinipress.errors import ModelError
from clinipress.models.parametrized import renamed
from clinipress.models.weights import load_state, read_state

__all__ = ["head_names", "load_checkpoint", "load_pretrained", "take_shared"]

OWN_PREFIX = "backbone."  # of `Classifier`, whose one network it is
OWN_NETS = "clinipress.models."  # their modules may know other layouts of their weights


def load_pretrained(backbone: nn.Module, path: Path, *, or_kin: bool = False) -> tuple[str, ...]:
    """Weights of a backbone whose head may be another: the head is left random.

    Args:
        backbone: The network, changed in place. Its first convolution may take other channels
            than the file's: weights are summed to grey or repeated to colour (as timm does).
        path: safetensors or a weights-only PyTorch file.
        or_kin: The file may be of a network that begins alike: then what is the same is taken
            (`take_shared`).

    Returns:
        Names in the network that the file did not fill: the head's, or all after the first
        difference from its kin.

    Raises:
        ModelError: The file cannot be read, or something other than the head is missing.
    """
    own = backbone.state_dict()
    state = renamed(_filtered(read_state(path), backbone), own)
    heads = head_names(backbone)
    state = {k: v for k, v in state.items() if k in own and _fits(k, v, own, heads)}
    state = _adapt_first_conv(state, own)
    if or_kin and any(tensor.shape != own[name].shape for name, tensor in state.items()):
        return take_shared(backbone, state)
    _refuse_misfits(state, own, path)
    missing = tuple(name for name in own if name not in state and _counts(name))
    lost = [name for name in missing if name not in heads]
    if lost:
        raise ModelError(
            f"the weights of this network in '{path}'",
            f"a file without {len(lost)} of {len(own)} of them, such as '{lost[0]}'",
            "was the file made for another network?",
        )
    load_state(backbone, state, strict=False)
    return missing


def take_shared(backbone: nn.Module, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Weights of a kin, from the first layer to the last that is the same in both, in place.

    What comes after the first difference would read features that it has never seen. Gives the
    names in the network that were not filled.

    Raises:
        ModelError: The first layers differ already.
    """
    own = backbone.state_dict()
    names = [name for name in own if _counts(name)]
    same = list(
        takewhile(lambda name: name in state and state[name].shape == own[name].shape, names)
    )
    if not same:
        raise ModelError("weights of a network that begins as this one", "one of another kind")
    load_state(backbone, {name: state[name] for name in same}, strict=False)
    return tuple(names[len(same) :])


def load_checkpoint(backbone: nn.Module, path: Path) -> None:
    """Load a trained classifier, head included, in place; every name and shape must agree.

    `path` is safetensors or a weights-only PyTorch file; the weights of a candidate of ours too.

    Raises:
        ModelError: The file cannot be read, is of another network, or has other classes.
    """
    own = backbone.state_dict()
    state = renamed(_own_prefix_removed(read_state(path)), own)
    if type(backbone).__module__.startswith(OWN_NETS):
        state = _filtered(state, backbone)
    for name in head_names(backbone):
        if name in state and len(state[name]) != len(own[name]):
            raise ModelError(
                f"a checkpoint of {len(own[name])} classes",
                f"{len(state[name])} classes in '{path}'",
                "give data.classes the classes it was trained on",
            )
    _refuse_misfits(state, own, path)
    missing = [name for name in own if name not in state and _counts(name)]
    extra = [name for name in state if name not in own]
    if missing or extra:
        got = f"one without '{missing[0]}'" if missing else f"one with '{extra[0]}' too"
        raise ModelError(f"a checkpoint of this network at '{path}'", got, "check model.name")
    load_state(backbone, state, strict=False)


def _own_prefix_removed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's own names, in a file that `TorchCandidate.save` wrote."""
    if not all(name.startswith(OWN_PREFIX) for name in state):
        return state
    return {name.removeprefix(OWN_PREFIX): value for name, value in state.items()}


def _filtered(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The renaming and resizing that timm and our own nets do for other layouts, where they do."""
    home = sys.modules.get(type(backbone).__module__)
    convert = getattr(home, "checkpoint_filter_fn", None)
    if convert is None or not type(backbone).__module__.startswith(("timm.", OWN_NETS)):
        return state
    return dict(convert(dict(state), backbone))


def head_names(backbone: nn.Module) -> list[str]:
    """Names of the last layer's tensors: timm says which it is, else the last weight and bias."""
    own = backbone.state_dict()
    get = getattr(backbone, "get_classifier", None)
    heads = get() if callable(get) else None
    parts = heads if isinstance(heads, tuple | list) else (heads,)
    known = {id(t) for part in parts if isinstance(part, nn.Module) for t in part.parameters()}
    names = [name for name, tensor in backbone.named_parameters() if id(tensor) in known]
    if names:
        return names
    last = [name for name, tensor in own.items() if tensor.ndim >= 2][-1:]
    owner = last[0].rpartition(".")[0] if last else ""
    return [name for name in own if name.rpartition(".")[0] == owner]


def _fits(name: str, tensor: Tensor, own: Mapping[str, Tensor], heads: list[str]) -> bool:
    return name not in heads or tensor.shape == own[name].shape


def _counts(name: str) -> bool:
    """Whether a missing tensor matters: batch norms of old files have no batch counter."""
    return not name.endswith("num_batches_tracked")


def _adapt_first_conv(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum or repeat the input channels of convolutions that differ in nothing else."""
    adapted = dict(state)
    for name, tensor in state.items():
        there, here = tuple(tensor.shape), tuple(own[name].shape)
        if len(here) != 4 or there == here or len(there) != 4:
            continue
        if (there[0], *there[2:]) == (here[0], *here[2:]) and {there[1], here[1]} == {1, 3}:
            adapted[name] = (
                tensor.sum(1, keepdim=True) if here[1] == 1 else tensor.repeat(1, 3, 1, 1) / 3
            )
    return adapted


def _refuse_misfits(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if name in own and tensor.shape != own[name].shape:
            raise ModelError(
                f"'{name}' of shape {list(own[name].shape)} in '{path}'",
                f"{list(tensor.shape)}",
                "is it the same network, with the same in_channels?",
            )
