"""The float32 LiteRT graph of a network: the one module that names its converter.

raw pixels       uint8 [1, h, w, c] -> normalised -> network -> float32 [1, classes]
grey levels      the same without the normalisation where one scale does it, for integer files
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clinipress.errors import ModelError
from clinipress.extras import require
from clinipress.formats.file import first_line
from clinipress.formats.litert import graph as litert_graph
from clinipress.formats.litert import rewrites as litert_rewrites
from clinipress.formats.litert.run import interpreter, silence
from clinipress.formats.ranges import quiet

if TYPE_CHECKING:
    from clinipress.models.classifier import Classifier, TorchCandidate
from clinipress.formats.parity import check_images, check_logits

__all__ = ["GreyLevels", "float_graph", "levels_of"]

FOLD_TOLERANCE = 1e-4  # of the largest logit: sums in another order
REMEMBERED = 2  # graphs kept: a plan and its file are made of the same one


@dataclass(frozen=True)
class GreyLevels:
    """What the grey levels of an integer file's input stand for: ``scale * (pixel - zero)``.

    Attributes:
        scale: Of one grey level.
        zero: The grey level that is 0, in 0..255.
        exact: The same before it was rounded.
        normalised: Whether this is all of the normalisation; else the graph holds the rest.
    """

    scale: float
    zero: int
    exact: float
    normalised: bool

    def inputs(self, images: NDArray[np.uint8], *, exact: bool = False) -> NDArray[np.float32]:
        """What the float32 graph of an integer file takes: float32 ``[n, h, w, c]``.

        Args:
            images: uint8 ``[n, c, h, w]``.
            exact: Without rounding the zero: what the network itself takes.
        """
        pixels = images.transpose(0, 2, 3, 1).astype(np.float32)
        return (pixels - np.float32(self.exact if exact else self.zero)) * np.float32(self.scale)


def levels_of(module: Classifier) -> GreyLevels:
    """The grid of an integer file's input.

    With one mean and deviation for all channels it is the normalisation itself, its mean rounded
    to a whole grey level as in the 8-bit ONNX file, and a convolution's padding is grey level
    `zero`. Per channel no one grid fits all: pixels then enter as they are, over 255, and a 1x1
    convolution within the graph normalises them, rounding once more.
    """
    shift, scale = module.shift.flatten(), module.scale.flatten()
    if len(shift) == len(scale) == 1 and 0 <= round(float(shift[0])) <= 255:
        return GreyLevels(1 / float(scale[0]), round(float(shift[0])), float(shift[0]), True)
    return GreyLevels(1 / 255, 0, 0.0, False)


class _Network(nn.Module):
    """Channels last in, logits out."""

    shift: Tensor
    scale: Tensor

    def __init__(self, module: Classifier, levels: GreyLevels | None) -> None:
        super().__init__()
        self.backbone = module.backbone
        alike = module.shift.numel() == module.scale.numel() == 1
        # three means for grey make three different channels of one
        self.copies = module.repeats if alike else 1
        self.first: nn.Module = nn.Identity()
        self.normalise: nn.Module = nn.Identity()
        if levels is None:  # before channels come first, or they would be moved there and back
            self.first = _Arithmetic(module.shift.flatten(), module.scale.flatten())
        elif not levels.normalised:
            self.normalise = _convolution(module, levels)

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.normalise(self.first(images.float()).permute(0, 3, 1, 2))
        if self.copies > 1:
            pixels = torch.cat([pixels] * self.copies, 1)
        logits: Tensor = self.backbone(pixels)
        return logits.float()


class _Arithmetic(nn.Module):
    """``(pixels - shift) / scale``, as in `Classifier`; channels last."""

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.shift) / self.scale


def _convolution(module: Classifier, levels: GreyLevels) -> nn.Conv2d:
    """The same as a 1x1 convolution of grey levels: one 8-bit operator, which rounds once."""
    channels, made = module.input_spec.channels, module.input_spec.channels * module.repeats
    shift, scale = (part.double().flatten().expand(made) for part in (module.shift, module.scale))
    convolution = nn.Conv2d(channels, made, 1, groups=channels)
    with torch.no_grad():
        factor = 1 / (scale * levels.scale)
        convolution.weight.copy_(factor.reshape(-1, 1, 1, 1))
        convolution.bias.copy_((levels.zero - shift) / scale)  # type: ignore[union-attr]
    return convolution.requires_grad_(False)


_graphs: dict[tuple[str, bool], bytes] = {}


def float_graph(parent: TorchCandidate, *, levels: bool) -> bytes:
    """The graph as a .tflite file, rewritten by all that helps in float32.

    Args:
        parent: The network; it is copied, not touched.
        levels: The input is float32 ``[1, h, w, c]``, grey levels as `levels_of` has them; else
            uint8 pixels.

    Returns:
        The file's bytes; the same network gives the same ones.

    Raises:
        ModelError: The network cannot be converted, or its graph answers differently.
    """
    key = (parent.digest, levels)
    if key not in _graphs:
        made = _make(parent, levels_of(parent.module) if levels else None)
        while len(_graphs) >= REMEMBERED:
            del _graphs[next(iter(_graphs))]
        _graphs[key] = made
    return _graphs[key]


def _make(parent: TorchCandidate, levels: GreyLevels | None) -> bytes:
    module = copy.deepcopy(parent.module).cpu().eval().to(memory_format=torch.contiguous_format)
    network = _Network(module, levels)
    spec = parent.card.input
    kind = torch.uint8 if levels is None else torch.float32
    example = torch.zeros((1, spec.height, spec.width, spec.channels), dtype=kind)
    if network.copies > 1:
        _fold_grey(network, example)
    model = litert_graph.read(_convert(network, example, parent.card.name))
    litert_rewrites.pad_pools_with_zeros(model)
    litert_rewrites.average_in_place(model)
    litert_rewrites.convolve_affine(model)
    litert_rewrites.nest_concats(model)
    litert_rewrites.flatten_biases(model)
    litert_graph.name_by_place(model)
    content = litert_graph.pack(model)
    _check(parent, content, levels)
    return content


def _convert(network: nn.Module, example: Tensor, name: str) -> bytes:
    folder = tempfile.TemporaryDirectory(prefix="clinipress-")
    # drawing from torch's global generator must not change what comes after
    with folder, silence(), quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        litert_torch = require("litert_torch", extra="litert")
        path = Path(folder.name) / "model.tflite"
        try:
            litert_torch.convert(network.eval(), (example,)).export(str(path))
        except Exception as problem:  # its exceptions share no base but Exception
            raise ModelError(
                f"a network that litert_torch can convert ('{name}')",
                first_line(problem.__cause__ or problem),
                "export it to another format",
            ) from problem
        return path.read_bytes()


def _fold_grey(network: _Network, example: Tensor) -> None:
    """Let the first convolution read one grey channel instead of three copies of it.

    A convolution over equal channels is one over a single channel with the sum of its weights. Left
    alone where the image is read by anything else.
    """
    backbone = network.backbone
    grey = torch.rand((1, 1, *example.shape[1:3]), generator=torch.Generator().manual_seed(0))
    image = grey.repeat(1, network.copies, 1, 1)
    readers: list[nn.Conv2d] = []

    def note(part: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and inputs[0] is image and isinstance(part, nn.Conv2d):
            readers.append(part)

    hooks = [part.register_forward_pre_hook(note) for part in backbone.modules()]
    with torch.no_grad():
        expected = backbone(image)
    for hook in hooks:
        hook.remove()
    if len(readers) != 1 or readers[0].groups != 1:
        return
    convolution, weight = readers[0], readers[0].weight
    summed = weight.detach().double().sum(1, keepdim=True).float()
    convolution.weight, convolution.in_channels = nn.Parameter(summed, requires_grad=False), 1
    try:
        with torch.no_grad():
            difference = float((backbone(grey) - expected).abs().max())
        same = difference <= FOLD_TOLERANCE * (1 + float(expected.abs().max()))
    except RuntimeError:  # something else reads the image as well
        same = False
    if same:
        network.copies = 1
    else:
        convolution.weight, convolution.in_channels = weight, network.copies


def _check(parent: TorchCandidate, content: bytes, levels: GreyLevels | None) -> None:
    images = check_images(parent)
    inputs: Any = images.transpose(0, 2, 3, 1)
    if levels is not None:
        inputs = levels.inputs(images, exact=True)
    engine = interpreter(content, 1)
    logits = np.empty((len(images), len(parent.card.classes)), np.float32)
    for number, image in enumerate(inputs):
        engine.set_tensor(engine.get_input_details()[0]["index"], image[None])
        engine.invoke()
        logits[number] = engine.get_tensor(engine.get_output_details()[0]["index"])[0]
    check_logits(parent, logits, images, "a LiteRT graph")
