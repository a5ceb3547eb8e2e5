"""Where a network's feature maps are, and how to read them: by forward hooks, nothing is edited."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clinipress.errors import ModelError
from clinipress.models.classifier import Classifier
from clinipress.models.cost import evaluating
from clinipress.models.weights import laid_out

__all__ = ["Stage", "keep_output", "named_stages", "oriented", "read_maps", "stages"]

DEEPEST = 2  # levels of sub-modules looked at: a stage is near the top, its blocks are below


@dataclass(frozen=True)
class Stage:
    """A module whose output is a feature map.

    Attributes:
        name: Its name in the user's network.
        channels: Of the map.
        height: Of the map, for an image of the network's own size.
        width: Likewise.
    """

    name: str
    channels: int
    height: int
    width: int


def keep_output(
    kept: dict[str, torch.Tensor], name: str, _: nn.Module, __: Any, output: Any
) -> None:
    """A forward hook that leaves the output in `kept`; importable, so that it can be pickled."""
    kept[name] = output


@contextmanager
def _hooked(backbone: nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Inside, every forward pass leaves the outputs of the named modules in the mapping."""
    kept: dict[str, torch.Tensor] = {}
    handles = [
        backbone.get_submodule(name).register_forward_hook(
            functools.partial(keep_output, kept, name)
        )
        for name in names
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def oriented(backbone: nn.Module, maps: torch.Tensor) -> torch.Tensor:
    """``[n, c, h, w]``; timm's windowed transformers keep their channels last and say so."""
    last = getattr(backbone, "output_fmt", None) == "NHWC"
    return maps.permute(0, 3, 1, 2) if last else maps


def read_maps(
    classifier: Classifier, names: Sequence[str], images: torch.Tensor
) -> list[torch.Tensor]:
    """Outputs, float ``[n, c, h, w]``, of the named modules of the backbone for uint8 images.

    In eval mode and without gradients; the network is left as it is.
    """
    backbone = classifier.backbone
    images = laid_out(images.to(classifier.shift.device), classifier.layout)
    with evaluating(classifier), torch.no_grad(), _hooked(backbone, names) as kept:
        classifier(images)
    return [oriented(backbone, kept[name]).float() for name in names]


def stages(classifier: Classifier) -> tuple[Stage, ...]:
    """The last module of each resolution, from the first to the last map before the pooling.

    Only modules near the top of the network are looked at: the first convolution of a stage's
    first block still works at the size of the stage before, and must not be taken for its end.
    The network is run once on a black image.

    Raises:
        ModelError: No module near the top gives a map ``[n, c, h, w]``.
    """
    backbone = classifier.backbone
    names = list(_near_the_top(backbone))
    last: dict[tuple[int, int], Stage] = {}
    with evaluating(classifier), torch.no_grad(), _hooked(backbone, names) as kept:
        classifier(_black(classifier).to(classifier.shift.device))
    for name, output in kept.items():  # in the order in which they were run
        if not isinstance(output, torch.Tensor) or output.ndim != 4:
            continue
        _, channels, height, width = oriented(backbone, output).shape
        if height * width > 1:
            last.pop((height, width), None)
            last[height, width] = Stage(name, channels, height, width)
    if not last:
        raise ModelError(
            "a network with feature maps [n, c, h, w] for method 'fitnet' or 'attention'",
            "none near its top",
            "name 'layers' yourself, or choose method 'soft', 'dkd' or 'dist'",
        )
    return tuple(last.values())


def _near_the_top(backbone: nn.Module) -> Iterator[str]:
    """Names of sub-modules to the depth looked at, below wrappers of a single child."""
    root, prefix = backbone, ""
    while len(children := list(root.named_children())) == 1:
        name, root = children[0]
        prefix += f"{name}."
    for name, _ in root.named_modules():
        if name and name.count(".") < DEEPEST:
            yield prefix + name


def named_stages(classifier: Classifier, names: Sequence[str], whose: str) -> list[Stage]:
    """The stages of modules of the backbone that the user named; `whose` network, for the message.

    Raises:
        ModelError: There is no such module, or its output is no feature map.
    """
    known = dict(classifier.backbone.named_modules())
    for name in names:
        if not name or name not in known:
            raise ModelError(f"names of the {whose}'s modules in 'layers'", f"'{name}'")
    selected = []
    for name, maps in zip(names, read_maps(classifier, names, _black(classifier)), strict=True):
        if maps.ndim != 4:
            raise ModelError(
                f"a feature map [n, c, h, w] from the {whose}'s '{name}'", f"{list(maps.shape)}"
            )
        selected.append(Stage(name, *maps.shape[1:]))
    return selected


def _black(classifier: Classifier) -> torch.Tensor:
    spec = classifier.input_spec
    return torch.zeros((1, spec.channels, spec.height, spec.width), dtype=torch.uint8)
