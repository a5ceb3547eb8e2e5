"""Weights of a file into a network: the whole classifier, all but its head, or what it shares."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clinipress.errors import ModelError
from clinipress.models.cost import evaluating
from clinipress.models.parametrized import renamed
from clinipress.models.weights import WeightFile, counts, load_state, read_weights

__all__ = ["head_names", "load_checkpoint", "load_pretrained", "take_shared", "turn_colours"]

OWN_NETS = "clinipress.models."  # their modules may know other layouts of their weights
# what the names of a network below one of these words may be renamed from
INSIDE = ("", "model.", "net.", "network.", "backbone.", "encoder.")
# efficientnet_pytorch's names of a block's parts, with an expansion and without -> timm's
EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
}  # fmt: skip
PLAIN = EXPANDED | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
        "_fc": "classifier"}  # fmt: skip


def load_pretrained(
    backbone: nn.Module,
    path: Path,
    *,
    or_kin: bool = False,
    key: str | None = None,
    image: tuple[int, int, int] | None = None,
) -> tuple[str, ...]:
    """Weights of a backbone whose head may be another: the head is left random.

    Args:
        backbone: The network, changed in place. Its first convolution may take other channels
            than the file's: weights are summed to grey or repeated to colour (as timm does).
        path: safetensors or a weights-only PyTorch file.
        or_kin: The file may be of a network that begins alike: then what is the same is taken
            (`take_shared`).
        key: The name in the file below which the weights lie, where it holds several sets.
        image: (channels, height, width) of its input, by which the head is found (`head_names`).

    Returns:
        Names in the network that the file did not fill: the head's, or all after the first
        difference from its kin.

    Raises:
        ModelError: The file cannot be read, or something other than the head is missing.
    """
    own, heads = backbone.state_dict(), head_names(backbone, image)
    file = _renamed(read_weights(path), backbone, heads, key)
    state = _filtered(file.weights(own, heads, key, whole=not or_kin), backbone)
    state = {k: v for k, v in state.items() if k in own and _fits(k, v, own, heads)}
    state = _adapt_first_conv(state, own)
    if or_kin and any(tensor.shape != own[name].shape for name, tensor in state.items()):
        return take_shared(backbone, state)
    _refuse_misfits(state, own, path)
    load_state(backbone, state, strict=False)
    return tuple(name for name in own if name not in state and counts(name))


def take_shared(backbone: nn.Module, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Weights of a kin, from the first layer to the last that is the same in both, in place.

    What comes after the first difference would read features that it has never seen. Gives the
    names in the network that were not filled.

    Raises:
        ModelError: The first layers differ already.
    """
    own = backbone.state_dict()
    names = [name for name in own if counts(name)]
    same = list(
        takewhile(lambda name: name in state and state[name].shape == own[name].shape, names)
    )
    if not same:
        raise ModelError("weights of a network that begins as this one", "one of another kind")
    load_state(backbone, {name: state[name] for name in same}, strict=False)
    return tuple(names[len(same) :])


def load_checkpoint(
    backbone: nn.Module,
    path: Path,
    *,
    key: str | None = None,
    image: tuple[int, int, int] | None = None,
) -> None:
    """Load a trained classifier, head included, in place; every name and shape must agree.

    `path` is safetensors or a weights-only PyTorch file; the weights of a candidate of ours too.
    `key` and `image` are as for `load_pretrained`.

    Raises:
        ModelError: The file cannot be read, is of another network, or has other classes.
    """
    own = backbone.state_dict()
    state = _renamed(read_weights(path), backbone, (), key).weights(own, key=key)
    for name in head_names(backbone, image):
        if name in state and len(state[name]) != len(own[name]):
            raise ModelError(
                f"a checkpoint of {len(own[name])} classes",
                f"{len(state[name])} classes in '{path}'",
                "give data.classes the classes it was trained on; to train a head of your own on "
                "it, give the file as model.pretrained",
            )
    _refuse_misfits(state, own, path)
    load_state(backbone, state, strict=False)


def turn_colours(backbone: nn.Module, image: tuple[int, int, int], what: str) -> None:
    """Let a network that takes blue, green, red take red, green, blue instead, in place.

    The weights of its first convolution change places; that this did it is looked at.

    Args:
        backbone: Gives logits.
        image: (3, height, width) of its input.
        what: It, for the message.

    Raises:
        ModelError: Its colours do not go into a convolution alone.
    """
    noise = torch.randn(2, *image, generator=torch.Generator().manual_seed(0))
    convolutions = [
        part
        for part in backbone.modules()
        if isinstance(part, nn.Conv2d) and part.in_channels == image[0] == 3 and part.groups == 1
    ]
    with evaluating(backbone), torch.no_grad():
        wanted = backbone(noise.flip(1))
        for part in convolutions[:1]:
            part.weight = part.weight.flip(1) if _is_computed(part) else _turned(part.weight)
        got = backbone(noise)
    if not float((got - wanted).abs().max()) <= 1e-3 * float(wanted.abs().max()):
        raise ModelError(
            f"{what} whose first convolution takes the colours, for channels: BGR",
            "one that answers otherwise when the weights there change places",
            "turn the colours in the network itself",
        )


def _is_computed(part: nn.Conv2d) -> bool:
    return not isinstance(part.weight, nn.Parameter)  # of a parametrization, which takes it in


def _turned(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.flip(1), requires_grad=weight.requires_grad)


def _renamed(
    file: WeightFile, backbone: nn.Module, heads: tuple[str, ...] | list[str], key: str | None
) -> WeightFile:
    """The file by the network's names, where its own are those of another layout that is known."""
    own = backbone.state_dict()
    if file.fits(own, heads, key):
        return file
    for place in dict.fromkeys((*file.places.values(), "")):
        for inside in INSIDE:
            prefix = (f"{place}." if place else "") + inside
            state = {
                n.removeprefix(prefix): t for n, t in file.tensors.items() if n.startswith(prefix)
            }
            for convert in (_filtered, _norms_renamed, _from_efficientnet_pytorch):
                if not state or (key is not None and not f"{prefix}.".startswith(f"{key}.")):
                    continue
                try:
                    other = WeightFile(file.path, convert(state, backbone))
                except (KeyError, IndexError, AttributeError, RuntimeError, ValueError, TypeError):
                    continue  # no layout that it knows
                if other.fits(own, heads):
                    return WeightFile(
                        file.path, {f"{key}.{n}" if key else n: t for n, t in other.tensors.items()}
                    )
    return file


def _norms_renamed(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    return renamed(state, backbone.state_dict())


def _from_efficientnet_pytorch(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Timm's names in a file of efficientnet_pytorch, which has one row of blocks, not stages."""
    rows = (re.match(r"blocks\.(\d+)\.(\d+)\.", name) for name in backbone.state_dict())
    stages = list(dict.fromkeys(match[0] for match in rows if match))
    renamed = {}
    for name, tensor in state.items():
        if match := re.match(r"_blocks\.(\d+)\.(\w+)\.", name):
            parts = EXPANDED if f"_blocks.{match[1]}._expand_conv.weight" in state else PLAIN
            head = stages[int(match[1])] + parts[match[2]]
            renamed[f"{head}.{name[match.end() :]}"] = tensor
        else:
            first, _, rest = name.partition(".")
            renamed[f"{ENDS[first]}.{rest}"] = tensor
    return renamed


def _filtered(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The renaming and resizing that timm and our own nets do for other layouts, where they do."""
    home = sys.modules.get(type(backbone).__module__)
    convert = getattr(home, "checkpoint_filter_fn", None)
    if convert is None or not type(backbone).__module__.startswith(("timm.", OWN_NETS)):
        return state
    return dict(convert(dict(state), backbone))


def head_names(backbone: nn.Module, image: tuple[int, int, int] | None = None) -> list[str]:
    """Names of the tensors of the last linear map before the logits.

    timm says which layer that is. Of other networks it is traced back from the logits of an image
    of zeros; only where none is given or none goes through, it is the last matrix registered.

    Args:
        backbone: The network.
        image: (channels, height, width) of its input.
    """
    own = backbone.state_dict()
    get = getattr(backbone, "get_classifier", None)
    heads = get() if callable(get) else None
    parts = heads if isinstance(heads, tuple | list) else (heads,)
    known = {id(t) for part in parts if isinstance(part, nn.Module) for t in part.parameters()}
    names = [name for name, tensor in backbone.named_parameters() if id(tensor) in known]
    if not names and image is not None:
        names = _traced_head(backbone, image)
    if names:
        return names
    last = [name for name, tensor in own.items() if tensor.ndim >= 2][-1:]
    owner = last[0].rpartition(".")[0] if last else ""
    return [name for name in own if name.rpartition(".")[0] == owner]


def _traced_head(backbone: nn.Module, image: tuple[int, int, int]) -> list[str]:
    """Names of the parameters that autograd meets first on each way from the logits to the image.

    A way ends at the first operation that takes a matrix; what comes before it on the way (a bias,
    a norm, a scale behind the last matrix) belongs to the head.
    """
    network = copy.deepcopy(backbone).requires_grad_(True)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    pixels = torch.zeros(1, *image, device=device, requires_grad=True)
    try:
        with evaluating(network), torch.enable_grad():
            logits = network(pixels)
    except Exception:  # whatever their code raises, the checks of the whole network say it
        return []
    if not isinstance(logits, Tensor) or logits.grad_fn is None:
        return []
    depends: dict[Any, bool] = {}
    _mark(logits.grad_fn, pixels, depends)
    found: set[int] = set()
    waiting, seen = [logits.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node in seen or not depends[node]:
            continue
        seen.add(node)
        inputs = [step for step, _ in node.next_functions if step is not None]
        leaves = [leaf for step in inputs if not depends[step] for leaf in _leaves(step)]
        found.update(map(id, leaves))
        if not any(leaf.ndim >= 2 for leaf in leaves):
            waiting += [step for step in inputs if depends[step]]
    return [name for name, parameter in network.named_parameters() if id(parameter) in found]


def _mark(last: Any, pixels: Tensor, depends: dict[Any, bool]) -> None:
    """Whether each operation up to `last` depends on the pixels; no recursion, nets are deep."""
    waiting = [last]
    while waiting:
        node = waiting[-1]
        before = [step for step, _ in node.next_functions if step is not None]
        if missing := [step for step in before if step not in depends]:
            waiting += missing
            continue
        waiting.pop()
        own = getattr(node, "variable", None) is pixels
        depends[node] = own or any(depends[step] for step in before)


def _leaves(node: Any) -> Iterator[Tensor]:
    """The parameters that an operation without pixels is made of."""
    if (variable := getattr(node, "variable", None)) is not None:
        yield variable
    for step, _ in node.next_functions:
        if step is not None:
            yield from _leaves(step)


def _fits(name: str, tensor: Tensor, own: Mapping[str, Tensor], heads: list[str]) -> bool:
    return name not in heads or tensor.shape == own[name].shape


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
