"""Networks of a test's own as candidates, with statistics as after training, and their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.models.classifier import Classifier, TorchCandidate
from clinipress.records.candidate import Card, InputSpec, ModelSpec

SIZE = 16
CLASSES = ("a", "b", "c")
# a whole number of grey levels, so that zero is a byte, and one that is none
INTEGER_MEAN, ODD_MEAN = 51 / 255, 0.2345
PER_CHANNEL = (0.485, 0.456, 0.406)


def settle(module: nn.Module, *, affine: bool = True) -> None:
    """Give batch norms statistics as after training, so that none is the identity.

    Args:
        module: Changed in place; draws from torch's generator.
        affine: Whether weights and biases are drawn as well.
    """
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2)
            if affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.3)


def wrapped(
    net: Callable[[int], nn.Module],
    channels: int = 1,
    in_channels: int = 1,
    mean: Any = INTEGER_MEAN,
    *,
    std: float = 0.25,
    seed: int = 0,
    size: int = SIZE,
    classes: tuple[str, ...] = CLASSES,
    name: str = "net",
    affine: bool = True,
    **spec: Any,
) -> TorchCandidate:
    """A candidate around ``net(in_channels)``, drawn with a seed.

    Args:
        net: Makes the network; it is called after the seed is set.
        channels: Of the images.
        in_channels: Of the network; grey images are repeated for three.
        mean: Of the normalisation, in [0, 1]; one number or one per channel.
        std: Likewise, one number.
        seed: Of weights and statistics.
        size: Height and width of the images.
        classes: Names of the classes.
        name: In the specification and so in the digest, by which graphs are remembered.
        affine: Passed to `settle`.
        spec: Further fields of the specification.
    """
    torch.manual_seed(seed)
    image = InputSpec(channels=channels, height=size, width=size)
    module = Classifier(net(in_channels), image, in_channels, mean, std)
    settle(module, affine=affine)
    model = ModelSpec(
        name=name, num_classes=len(classes), in_channels=in_channels, mean=mean, std=std, **spec
    )
    card = Card(name=name, classes=classes, input=image, model=model)
    return TorchCandidate(card, module.eval())


_FILES: dict[tuple[Any, ...], bytes] = {}


def float_file(candidate: TorchCandidate, path: Path) -> OnnxCandidate:
    """The float32 ONNX file of a candidate at `path`: exported once, then copied.

    Not for tests of the export itself. Networks are the same when their code, their weights and
    their layers' settings are.
    """
    module = candidate.module
    key = (type(module.backbone), candidate.digest, candidate.card.name, repr(module))
    if key not in _FILES:
        found = export_onnx(candidate, path)
        _FILES[key] = path.read_bytes()
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_FILES[key])
    return OnnxCandidate.load(path)
