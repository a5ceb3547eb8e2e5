"""Where networks come from: timm by name, or the user's own function; fresh or with weights.

The only module that names timm.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from clinipress.errors import ModelError
from clinipress.evaluate.cost import evaluating
from clinipress.models.weights import read_state
from clinipress.recipe import ModelRecipe
from clinipress.records import InputSpec, ModelSpec, PerChannel

__all__ = [
    "create_backbone",
    "list_models",
    "load_checkpoint",
    "load_pretrained",
    "new_classifier",
]

NAMES_SHOWN = 3
OWN_PREFIX = "backbone."  # of `Classifier`, whose one network it is


def list_models(pattern: str = "") -> list[str]:
    """Model names of timm that contain `pattern`; "*" and "?" stand for any characters."""
    wild = pattern if any(mark in pattern for mark in "*?") else f"*{pattern}*"
    return list(timm.list_models(wild))


def new_classifier(
    recipe: ModelRecipe,
    input_spec: InputSpec,
    num_classes: int,
    mean: PerChannel,
    std: PerChannel,
) -> tuple[ModelSpec, Any]:
    """A classifier as a recipe asks: fresh, from pretrained weights, or from a checkpoint.

    Random weights come from torch's global generator.

    Args:
        recipe: The network and where its weights come from.
        input_spec: What it takes.
        num_classes: Outputs.
        mean: Mean of the training pixels in [0, 1], one or one per channel.
        std: Standard deviation of the training pixels in [0, 1], likewise.

    Returns:
        The spec to build it again, and the `Classifier`.

    Raises:
        ModelError: The network or its weights cannot be had, or do not fit.
    """
    from clinipress.models.classifier import Classifier  # stands on this module

    in_channels = recipe.in_channels or (3 if recipe.pretrained else input_spec.channels)
    spec = ModelSpec(
        name=recipe.name,
        factory=recipe.factory,
        arguments=recipe.arguments,
        num_classes=num_classes,
        in_channels=in_channels,
        mean=mean,
        std=std,
    )
    backbone = create_backbone(
        name=recipe.name,
        factory=recipe.factory,
        arguments=recipe.arguments,
        num_classes=num_classes,
        in_channels=in_channels,
        size=(input_spec.height, input_spec.width),
        from_hub=recipe.pretrained is True,
    )
    if isinstance(recipe.pretrained, str):
        load_pretrained(backbone, Path(recipe.pretrained))
    if recipe.checkpoint is not None:
        load_checkpoint(backbone, Path(recipe.checkpoint))
    module = Classifier(backbone, input_spec, in_channels, mean, std)
    _check_output(module, recipe, num_classes)
    return spec, module


def create_backbone(
    *,
    name: str | None = None,
    factory: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    num_classes: int,
    in_channels: int,
    size: tuple[int, int],
    from_hub: bool = False,
) -> nn.Module:
    """A network that takes normalised float32 ``[n, in_channels, height, width]``.

    Args:
        name: timm model name; or
        factory: the user's own "module:function".
        arguments: Further keyword arguments of the constructor.
        num_classes: Outputs.
        in_channels: Input channels.
        size: (height, width), given as ``img_size`` to timm models of a fixed input size.
        from_hub: Fetch timm's pretrained weights.

    Raises:
        ModelError: No such model or function, or its constructor refuses.
    """
    options = {**(arguments or {}), "num_classes": num_classes, "in_chans": in_channels}
    if factory is not None:
        if from_hub:
            raise ModelError(
                "a timm model for 'pretrained: true'",
                f"the factory '{factory}'",
                "give 'pretrained' the path of a local file",
            )
        return _from_factory(factory, options)
    if name is None:
        raise ModelError("a model name or a factory", "neither")
    if not timm.is_model(name):
        raise _unknown(name)
    return _from_timm(name, options, size, from_hub)


def _unknown(name: str) -> ModelError:
    known = timm.list_models()
    near = difflib.get_close_matches(name.lower(), known, n=NAMES_SHOWN, cutoff=0.5)
    near = near or [k for k in known if name.lower()[:4] in k][:NAMES_SHOWN]
    hint = f"did you mean {', '.join(near)}?" if near else "see 'clinipress models'"
    return ModelError("a timm model name", f"'{name}'", hint)


def _from_timm(
    name: str, options: dict[str, Any], size: tuple[int, int], from_hub: bool
) -> nn.Module:
    facts = timm.get_pretrained_cfg(name, allow_unregistered=True)
    sized = {"img_size": size, **options}  # the user's own img_size wins
    attempts = [sized, options] if getattr(facts, "fixed_input_size", False) else [options]
    try:
        with warnings.catch_warnings():
            # timm tells of renamed models and tags; the model is the same
            warnings.filterwarnings("ignore", module="timm")
            return _first_accepted(name, attempts, from_hub)
    except Exception as problem:
        if from_hub:
            raise ModelError(
                f"pretrained weights of '{name}' from the hub",
                f"{type(problem).__name__}: {_first_line(problem)}",
                "without a network, give 'pretrained' the path of a local file",
            ) from problem
        raise ModelError(
            f"arguments that '{name}' takes",
            f"{type(problem).__name__}: {_first_line(problem)}",
            "check model.arguments and data.input",
        ) from problem


def _first_accepted(name: str, attempts: list[dict[str, Any]], from_hub: bool) -> nn.Module:
    """Some models of a fixed size take ``img_size``, some have it built in."""
    *trials, last = attempts
    for options in trials:
        try:
            return timm.create_model(name, pretrained=from_hub, **options)
        except TypeError as problem:
            if "img_size" not in str(problem):
                raise
    return timm.create_model(name, pretrained=from_hub, **last)


def _from_factory(factory: str, options: dict[str, Any]) -> nn.Module:
    """Call "module:function"; anything it raises becomes one line."""
    with _current_folder_importable():
        function = _find_function(factory)
        try:
            module = function(**options)
        except Exception as problem:
            raise ModelError(
                f"a network from '{factory}'",
                f"{type(problem).__name__}: {_first_line(problem)}",
                f"it is called with {', '.join(options)}",
            ) from problem
    if not isinstance(module, nn.Module):
        raise ModelError(f"a torch.nn.Module from '{factory}'", type(module).__name__)
    return module


def _find_function(factory: str) -> Callable[..., Any]:
    where, colon, what = factory.partition(":")
    if not (where and colon and what):
        raise ModelError("a factory 'module:function'", f"'{factory}'", "for example my_nets:make")
    try:
        found = getattr(importlib.import_module(where), what, None)
    except Exception as problem:
        raise ModelError(
            f"a module '{where}' that can be imported",
            f"{type(problem).__name__}: {_first_line(problem)}",
            "it is looked for in the current folder and among the installed packages",
        ) from problem
    if not callable(found):
        raise ModelError(f"a function '{what}' in '{where}'", f"{found!r}")
    return found  # type: ignore[no-any-return]


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    here = os.getcwd()  # noqa: PTH109  sys.path holds text
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def load_pretrained(backbone: nn.Module, path: Path) -> tuple[str, ...]:
    """Weights of a backbone whose head may be another: the head is left random.

    Args:
        backbone: The network, changed in place. Its first convolution may take other channels
            than the file's: weights are summed to grey or repeated to colour (as timm does).
        path: safetensors or a weights-only PyTorch file.

    Returns:
        Names in the network that the file did not fill: the head's.

    Raises:
        ModelError: The file cannot be read, or something other than the head is missing.
    """
    state = _filtered(read_state(path), backbone)
    own = backbone.state_dict()
    heads = _head_names(backbone, own)
    state = {k: v for k, v in state.items() if k in own and _fits(k, v, own, heads)}
    state = _adapt_first_conv(state, own)
    _refuse_misfits(state, own, path)
    missing = tuple(name for name in own if name not in state and _counts(name))
    lost = [name for name in missing if name not in heads]
    if lost:
        raise ModelError(
            f"the weights of this network in '{path}'",
            f"a file without {len(lost)} of {len(own)} of them, such as '{lost[0]}'",
            "was the file made for another network?",
        )
    backbone.load_state_dict(state, strict=False)
    return missing


def load_checkpoint(backbone: nn.Module, path: Path) -> None:
    """Weights of a trained classifier, head included; every name and shape must agree.

    Args:
        backbone: The network, changed in place.
        path: safetensors or a weights-only PyTorch file; the weights of a candidate of ours too.

    Raises:
        ModelError: The file cannot be read, is of another network, or has other classes.
    """
    state, own = _own_prefix_removed(read_state(path)), backbone.state_dict()
    for name in _head_names(backbone, own):
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
    backbone.load_state_dict(state, strict=False)


def _own_prefix_removed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's own names, in a file that `TorchCandidate.save` wrote."""
    if not all(name.startswith(OWN_PREFIX) for name in state):
        return state
    return {name.removeprefix(OWN_PREFIX): value for name, value in state.items()}


def _filtered(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The renaming and resizing that timm does for a model's older files, where it does."""
    home = sys.modules.get(type(backbone).__module__)
    convert = getattr(home, "checkpoint_filter_fn", None)
    if convert is None or not type(backbone).__module__.startswith("timm."):
        return state
    return dict(convert(dict(state), backbone))


def _head_names(backbone: nn.Module, own: Mapping[str, Tensor]) -> list[str]:
    """Names of the last layer's tensors: timm says which it is, else the last weight and bias."""
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
            if here[1] == 1:
                adapted[name] = adapt_input_conv(1, tensor)
            else:
                adapted[name] = tensor.repeat(1, 3, 1, 1) / 3
    return adapted


def _refuse_misfits(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if name in own and tensor.shape != own[name].shape:
            raise ModelError(
                f"'{name}' of shape {list(own[name].shape)} in '{path}'",
                f"{list(tensor.shape)}",
                "is it the same network, with the same in_channels?",
            )


def _check_output(module: nn.Module, recipe: ModelRecipe, num_classes: int) -> None:
    """One image through the network: sizes and outputs are wrong here rather than in training."""
    spec: InputSpec = module.input_spec  # type: ignore[assignment]
    image = torch.zeros(1, spec.channels, spec.height, spec.width, dtype=torch.uint8)
    what = f"a network '{recipe.name or recipe.factory}' for {spec.height} x {spec.width} pixels"
    try:
        with evaluating(module), torch.inference_mode():
            shape = tuple(module(image).shape)
    except Exception as problem:
        raise ModelError(
            what,
            f"{type(problem).__name__}: {_first_line(problem)}",
            "try another data.input size or in_channels",
        ) from problem
    if shape != (1, num_classes):
        raise ModelError(
            f"{num_classes} outputs per image from '{recipe.name or recipe.factory}'",
            f"the shape {list(shape)}",
        )


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().split("\n", maxsplit=1)[0][:200]
