"""Where networks come from: by name, or the user's own function; fresh or with weights.

A name is one of `clinipress.models.catalogue` or one of timm's.

The only module that names timm.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib
import inspect
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from clinipress.errors import ModelError
from clinipress.models.catalogue import HUB, NamedModel, model_named, named_models
from clinipress.models.cost import evaluating
from clinipress.models.parametrized import parametrized
from clinipress.models.pretrained import take_shared
from clinipress.recipe.code import check_arguments, check_code, check_function
from clinipress.records.candidate import PerChannel

__all__ = [
    "GIVEN",
    "catalogued",
    "channels_taken",
    "create_backbone",
    "first_line",
    "given",
    "list_models",
    "network_named_by",
    "own_normalisation",
    "published_statistics",
]

NAMES_SHOWN = 3
GIVEN = "given"
# networks that a caller in this process holds, by what stands for their factory
_NETWORKS: ContextVar[Mapping[str, nn.Module]] = ContextVar("networks")
# of the names of a mean and a std that a network takes off pixels by itself
OWN_PREFIXES = ("", "_", "pixel_", "image_", "img_", "norm_", "input_")
# arguments of timm's that open files: its older releases unpickle whatever such a file holds
READ_BY_TIMM = frozenset(
    (
        "cache_dir",
        "checkpoint_path",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_strict",
    )
)


def list_models(pattern: str = "") -> list[str]:
    """Names of ours, then timm's, that contain `pattern`; "*" and "?" stand for any characters."""
    wild = pattern if any(mark in pattern for mark in "*?") else f"*{pattern}*"
    return list(dict.fromkeys([*(m.name for m in named_models(pattern)), *timm.list_models(wild)]))


def catalogued(name: str | None) -> NamedModel | None:
    """The model of the catalogue that a name means; timm's names mean timm's."""
    entry = model_named(name) if name is not None else None
    if entry is None or (name != entry.name and timm.is_model(str(name))):
        return None
    return entry


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
        name: A name of the catalogue, or timm's; or
        factory: the user's own "module:function".
        arguments: Further keyword arguments of the constructor.
        num_classes: Outputs.
        in_channels: Input channels.
        size: (height, width), given as ``img_size`` to timm models of a fixed input size.
        from_hub: Fetch published weights.

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
        return _from_factory(factory, options, size)
    if name is None:
        raise ModelError("a model name or a factory", "neither")
    named = catalogued(name)
    if named is not None:
        return _from_catalogue(named, options, size, from_hub)
    if not timm.is_model(name):
        raise _unknown(name)
    if foreign := sorted(READ_BY_TIMM & options.keys()):
        raise ModelError(
            "arguments of the network itself",
            f"'{foreign[0]}', by which timm reads a file",
            "give the file as model.pretrained or model.checkpoint",
        )
    return _from_timm(name, options, size, from_hub)


@contextmanager
def given(network: nn.Module) -> Iterator[str]:
    """Let a network be built from an object that this process holds; what names it as a factory.

    The name follows its structure and its source, so that a study in the same folder goes on with
    the same network only. Its weights are those of the object until a checkpoint replaces them.
    """
    shapes = [(name, list(value.shape)) for name, value in network.state_dict().items()]
    parts = [repr(network), repr(shapes), *sorted(_sources(network))]
    factory = f"{GIVEN}:{hashlib.sha256(''.join(parts).encode()).hexdigest()[:16]}"
    token = _NETWORKS.set({**_NETWORKS.get({}), factory: network})
    try:
        yield factory
    finally:
        _NETWORKS.reset(token)


def _sources(network: nn.Module) -> set[str]:
    """Source of every class in a network, where there is one to read."""
    sources = set()
    for kind in {type(module) for module in network.modules()}:
        try:
            sources.add(inspect.getsource(kind))
        except (OSError, TypeError):  # typed at a prompt
            sources.add(kind.__qualname__)
    return sources


def _copied(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network).cpu().float()
    except Exception as problem:  # what a user's module does when it is copied
        raise ModelError(
            "a network that can be copied",
            f"{type(problem).__name__}: {first_line(problem)}",
            "save its state_dict() and name the function that builds it",
        ) from problem


def published_statistics(name: str) -> tuple[PerChannel, PerChannel] | None:
    """Mean and standard deviation of the pixels that a name's published weights were trained on.

    None where the catalogue and timm know of none.
    """
    named = catalogued(name)
    if named is not None and named.statistics is not None:
        return named.statistics
    if named is not None and not named.pretrained.startswith(HUB):
        return None
    origin = name if named is None else named.starts_from or named.origin
    facts = timm.get_pretrained_cfg(origin) if timm.is_model(origin) else None
    if facts is None or not facts.has_weights:
        return None
    return cast(PerChannel, tuple(facts.mean)), cast(PerChannel, tuple(facts.std))


def network_named_by(path: Path) -> str | None:
    """Of which of timm's networks a file of weights is.

    As config.json beside it says, else the longest that the file's own name begins with.
    """
    try:
        config = json.loads((path.parent / "config.json").read_bytes())
        stated = str(config["architecture"])
    except (OSError, ValueError, KeyError, TypeError):
        stated = path.stem
    words = [word for word in re.split(r"[-.\s]", stated) if word]
    pieces = words[0].split("_") if words else []
    names = ("_".join(pieces[:end]) for end in range(len(pieces), 0, -1))
    return next((name for name in names if timm.is_model(name)), None)


def _from_catalogue(
    named: NamedModel, options: dict[str, Any], size: tuple[int, int], from_hub: bool
) -> nn.Module:
    """A network of the catalogue, with weights from the hub where there are any."""
    options = {**named.arguments, **options}
    if from_hub and named.pretrained != HUB and named.starts_from is None:
        raise ModelError(
            f"a model with weights on the hub, for 'pretrained: true' of '{named.name}'",
            f"one without ({named.pretrained})",
            "give 'pretrained' the path of a local file, or leave it out",
        )
    if ":" in named.origin:
        return _from_factory(named.origin, options, size)
    backbone = _from_timm(named.origin, options, size, from_hub and named.starts_from is None)
    if from_hub and named.starts_from is not None:
        kin = _from_timm(named.starts_from, {"in_chans": options["in_chans"]}, size, from_hub)
        take_shared(backbone, kin.state_dict())
    return backbone


def _unknown(name: str) -> ModelError:
    known = list_models()
    near = difflib.get_close_matches(name.lower(), known, n=NAMES_SHOWN, cutoff=0.5)
    near = near or [k for k in known if name.lower()[:4] in k][:NAMES_SHOWN]
    hint = f"did you mean {', '.join(near)}?" if near else "see 'clinipress models'"
    return ModelError("a model name, ours or timm's", f"'{name}'", hint)


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
                f"{type(problem).__name__}: {first_line(problem)}",
                "without a network, give 'pretrained' the path of a local file",
            ) from problem
        raise ModelError(
            f"arguments that '{name}' takes",
            f"{type(problem).__name__}: {first_line(problem)}",
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


def _from_factory(factory: str, options: dict[str, Any], size: tuple[int, int]) -> nn.Module:
    """Call "module:function", which somebody permitted; anything it raises becomes one line."""
    held = _NETWORKS.get({})
    if factory in held:
        return _copied(held[factory])
    if factory.startswith(f"{GIVEN}:"):
        raise ModelError(
            "the network that was given as an object",
            f"'{factory}', which this process does not hold",
            "call clinipress.compress with the same network again",
        )
    check_code([factory], "a study", True)
    with _current_folder_importable():
        function = _find_function(factory)
        check_arguments(factory, options)
        try:
            module = _called(function, options)
            if isinstance(module, nn.Module):
                _shape_lazy_layers(module, options["in_chans"], size)
        except Exception as problem:
            raise ModelError(
                f"a network from '{factory}'",
                f"{type(problem).__name__}: {first_line(problem)}",
                f"it is called with {', '.join(options)}",
            ) from problem
    if not isinstance(module, nn.Module):
        raise ModelError(f"a torch.nn.Module from '{factory}'", type(module).__name__)
    return parametrized(module)


def _called(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Networks of torchvision, and of others who know colour alone, take no ``in_chans``."""
    try:
        return function(**options)
    except TypeError as problem:
        if "in_chans" not in str(problem):
            raise
        return function(**{key: value for key, value in options.items() if key != "in_chans"})


def channels_taken(backbone: nn.Module) -> int | None:
    """Channels of its first convolution, the one that a grey or a colour image can be for."""
    first = next((m for m in backbone.modules() if isinstance(m, nn.Conv2d)), None)
    return first.in_channels if first is not None and first.in_channels in (1, 3) else None


def own_normalisation(backbone: nn.Module, channels: int) -> float | None:
    """By what pixels in [0, 1] are divided for a network that takes off a mean itself.

    A module with a mean and a std that read as those of pixels, one or one per channel: buffers of
    its own, or torchvision's ``Normalize``.

    Returns:
        1; 1/255 where its mean is in grey levels; None where it has none.
    """
    for part in backbone.modules():
        named = {**vars(part), **dict(part.named_buffers(recurse=False))}
        named |= dict(part.named_parameters(recurse=False))
        for prefix in OWN_PREFIXES:
            mean, std = (_numbers(named.get(f"{prefix}{word}")) for word in ("mean", "std"))
            if not mean or not std or {len(mean), len(std)} - {1, channels}:
                continue
            for scale in (1.0, 255.0):
                if all(0 < v < scale for v in mean) and all(0.02 * scale < v <= scale for v in std):
                    return 1 / scale
    return None


def _numbers(value: Any) -> list[float]:
    if isinstance(value, torch.Tensor):
        return [float(v) for v in value.flatten()[:4]]
    numbers = value if isinstance(value, tuple | list) else [value]
    return [float(v) for v in numbers if isinstance(v, float | int)]


def _shape_lazy_layers(module: nn.Module, channels: int, size: tuple[int, int]) -> None:
    """Let layers that take their shapes from the first image (``nn.LazyLinear``) see one."""
    if any(is_lazy(value) for value in (*module.parameters(), *module.buffers())):
        channels = channels_taken(module) or channels
        with evaluating(module), torch.no_grad():
            module(torch.zeros(1, channels, *size))


def _find_function(factory: str) -> Callable[..., Any]:
    where, colon, what = factory.partition(":")
    if not (where and colon and what):
        raise ModelError("a factory 'module:function'", f"'{factory}'", "for example my_nets:make")
    try:
        function = getattr(importlib.import_module(where), what, None)
    except Exception as problem:
        raise ModelError(
            f"a module '{where}' that can be imported",
            f"{type(problem).__name__}: {first_line(problem)}",
            "it is looked for in the current folder and among the installed packages",
        ) from problem
    if not callable(function):
        raise ModelError(f"a function '{what}' in '{where}'", f"{function!r}")
    check_function(factory, function)
    return function  # type: ignore[no-any-return]


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    here = os.getcwd()  # noqa: PTH109  sys.path holds text
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def first_line(problem: BaseException) -> str:
    """The first line of what another library says, at most 200 characters."""
    return str(problem).strip().split("\n", maxsplit=1)[0][:200]
