"""An ONNX file of others in our own terms: bytes of pixels in, logits out, a card inside.

    uint8 image -> normalised -> channels and axes as the file takes them -> the graph -> logits

so that everything that is done with a float32 ONNX file of ours can be done with it.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clinipress.errors import ModelError
from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx.count import macs, parameters
from clinipress.formats.onnx.foreign import TO_FIRST, TO_LAST, WHOLE, Foreign, serialized
from clinipress.formats.onnx.run import INPUT_NAME, OUTPUT_NAME, OnnxCandidate
from clinipress.formats.onnx.write import write
from clinipress.formats.trials import SCALES
from clinipress.recipe.steps import OnnxRecipe
from clinipress.records.candidate import Card, InputSpec, ModelSpec, PerChannel

__all__ = [
    "FileNetwork",
    "TemporaryFile",
    "adopt",
    "normalisation",
    "randomized_file",
    "write_adopted",
]

SMALLEST = 1e-12  # probability: what rounds to 0 must have a logarithm


class FileNetwork:
    """The network of which there is an ONNX file alone: what needs no network asks it instead.

    Args:
        file: The file as `adopt` made it.
        spec: Its outputs, channels and normalisation.
    """

    def __init__(self, file: OnnxCandidate, spec: ModelSpec) -> None:
        self.file, self.spec = file, spec

    @property
    def card(self) -> Card:
        """What it is."""
        return self.file.card

    @property
    def digest(self) -> str:
        """sha256 of the file, 64 hexadecimal digits."""
        return self.file.digest

    @property
    def parameters(self) -> int:
        """Weights it holds."""
        return parameters(onnx.load(self.file.path))

    @property
    def macs(self) -> int | None:
        """Multiply-adds of one image; None where shapes are not known."""
        return macs(onnx.load(self.file.path))

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw pixels in, logits out, as of every candidate."""
        return self.file.predict(images)

    def save(self, folder: Path) -> None:
        """Copy the file into `folder`, with its card beside it."""
        self.file.save(folder)


class TemporaryFile(OnnxCandidate):
    """A file of others as a candidate; what it was turned into goes with it."""

    @classmethod
    def made(cls, model: onnx.ModelProto, card: Card, threads: int | None) -> TemporaryFile:
        """Write it into a folder of its own and open it."""
        folder = tempfile.mkdtemp(prefix="clinipress-")
        try:
            write_adopted(model, Path(folder) / "model.onnx", card)
            opened = cls.load(Path(folder) / "model.onnx", card, threads)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(opened, shutil.rmtree, folder, ignore_errors=True)
        return opened


def randomized_file(network: FileNetwork, seed: int) -> TemporaryFile:
    """The file with its weights shuffled within each layer, for sanity checks of saliency maps."""
    model = onnx.load(network.file.path)
    random = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim >= 2 and values.dtype == np.float32:
            shuffled = random.permutation(values.reshape(-1)).reshape(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(shuffled, tensor.name))
    card = network.card.model_copy(update={"name": f"{network.card.name}-randomized"})
    return TemporaryFile.made(model, card, network.file.threads)


def normalisation(recipe: OnnxRecipe) -> tuple[PerChannel, PerChannel]:
    """What is taken off pixels in [0, 1], in the file's own order, and what divides the rest."""
    if recipe.mean is not None and recipe.std is not None:
        return recipe.mean, recipe.std
    mean, std = SCALES[recipe.scale or "0..1"]
    return mean, std


def adopt(
    foreign: Foreign, recipe: OnnxRecipe, classes: Sequence[str], spec: InputSpec
) -> onnx.ModelProto:
    """The graph in our own terms.

    Args:
        foreign: The file.
        recipe: What is known of it: nothing is left open (`clinipress.formats.onnx.settle`).
        classes: The order in which logits are wanted.
        spec: The images; one channel is repeated where the file takes three.

    Raises:
        ModelError: Other classes than the file's, or other images.
    """
    own = recipe.classes or tuple(classes)
    several = foreign.task == "multilabel"  # a file may tell more findings than are asked of it
    same = set(classes) <= set(own) if several else sorted(own) == sorted(classes)
    if not same or len(own) != foreign.classes:
        raise ModelError(
            f"the {foreign.classes} classes of '{foreign.name}': {', '.join(own)}",
            ", ".join(classes),
            "name them alike (data.class_map, --class-map)",
        )
    if spec.channels > foreign.channels:
        raise ModelError(
            f"grey images for '{foreign.name}', which takes one channel",
            f"{spec.channels} channels",
            "set data.input.channels: 1",
        )
    model: onnx.ModelProto = onnx.ModelProto.FromString(foreign.model.SerializeToString())
    graph = model.graph
    _rename_all(graph)
    image = f"net/{foreign.image}"
    front = _front(foreign, recipe, spec)
    if foreign.layout == "NHWC":
        _channels_first(graph, image, front)
    _replace(graph, image, front.last)
    graph.initializer.extend(front.tensors)
    onnx_graph.insert_first(graph, front.nodes)
    _logits(graph, foreign, [own.index(name) for name in classes])
    batch = 1 if foreign.single else "n"
    shape = (batch, spec.channels, spec.height, spec.width)
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, shape))
    result = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, (batch, len(classes)))
    graph.output.append(result)
    onnx_graph.drop_unused(graph)
    onnx_graph.drop_identities(graph)
    onnx_graph.turn_channels(model)
    onnx_graph.pool_means(model)
    onnx_graph.shorten_normalisation(model)
    onnx_graph.fold_grey_to_rgb(model)
    return model


def write_adopted(model: onnx.ModelProto, path: Path, card: Card) -> None:
    """Write what `adopt` made, with a card inside.

    Raises:
        ModelError: It is too large for one file, or no valid graph.
        StorageError: The disk is full or cannot be written.
    """
    serialized(model, card.name)
    try:
        write(model, path, card)
    except onnx.checker.ValidationError as problem:
        reason = str(problem).strip().splitlines()[0][:160]
        raise ModelError(f"a valid graph in '{card.name}'", reason, "export it again") from None


def _rename_all(graph: onnx.GraphProto) -> None:
    """Put every name under "net/": ours cannot be among them."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [f"net/{name}" if name else "" for name in names]
    for tensor in graph.initializer:
        tensor.name = f"net/{tensor.name}"
    for item in (*graph.input, *graph.output):
        item.name = f"net/{item.name}"


def _replace(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


class _Chain:
    """Nodes one behind the other, with their constants."""

    def __init__(self, start: str, prefix: str) -> None:
        self.last, self.prefix = start, prefix
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def put(self, operator: str, *others: Any, **attributes: Any) -> None:
        """A node that reads the last one, and others by name or as constants."""
        made, inputs = f"{self.prefix}.{len(self.nodes)}", [self.last]
        for number, other in enumerate(others):
            if not isinstance(other, str):
                name = f"{made}.constant{number}"
                self.tensors.append(numpy_helper.from_array(np.asarray(other), name))
                other = name
            inputs.append(other)
        self.nodes.append(helper.make_node(operator, inputs, [made], **attributes))
        self.last = made

    def normalise(self, mean: NDArray[np.float64], std: NDArray[np.float64]) -> None:
        """Grey levels less the mean, over the deviation; what changes nothing is left out."""
        if mean.any():
            self.put("Sub", (mean * 255).astype(np.float32))
        if (std != 1 / 255).any():
            self.put("Mul", (1 / (std * 255)).astype(np.float32))


def _front(foreign: Foreign, recipe: OnnxRecipe, spec: InputSpec) -> _Chain:
    """From the image to what the file takes, channels first."""
    chain = _Chain(INPUT_NAME, "front")
    mean, std = (np.asarray(value, np.float64) for value in normalisation(recipe))
    numbers, plain = foreign.kind in WHOLE, mean.size == std.size == 1
    if foreign.kind != TensorProto.UINT8:
        chain.put("Cast", to=foreign.kind)
    if plain and not numbers:
        chain.normalise(mean, std)
    if spec.channels < foreign.channels:
        chain.put("Concat", chain.last, chain.last, axis=1)
    elif recipe.channels == "BGR" or recipe.scale == "caffe":
        chain.put("Gather", np.asarray([2, 1, 0]), axis=1)
    if not plain and not numbers:
        chain.normalise(*(v.reshape(-1, 1, 1) if v.size > 1 else v for v in (mean, std)))
    return chain


def _channels_first(graph: onnx.GraphProto, image: str, front: _Chain) -> None:
    """Meet a graph that takes channels last; where it moves them first soon, nobody does."""
    values, last, turned = onnx_graph.constants(graph), image, list[str]()
    while True:
        following = [node for node in graph.node if last in node.input]
        node = following[0] if len(following) == 1 else None
        if node is None or node.op_type not in ("Cast", "Sub", "Add", "Mul", "Div", "Transpose"):
            break
        if node.op_type == "Transpose":
            if onnx_graph.attribute(node, "perm", []) != TO_FIRST:
                break
            for name in turned:
                tensor = numpy_helper.from_array(values[name].reshape(-1, 1, 1), f"{name}.first")
                front.tensors.append(tensor)
                _replace(graph, name, tensor.name)
            _replace(graph, node.output[0], front.last if last == image else last)
            return
        others = [name for name in node.input if name != last]
        if any(name not in values or values[name].size not in (1, 3) for name in others):
            break
        turned += [name for name in others if values[name].size == 3]
        last = node.output[0]
    front.put("Transpose", perm=TO_LAST)


def _logits(graph: onnx.GraphProto, foreign: Foreign, order: list[int]) -> None:
    """From what the file answers to logits ``[n, k]`` in the order asked for."""
    chain = _Chain(f"net/{foreign.output}", "back")
    if len(foreign.shape) != 1:
        chain.put("Flatten", axis=1)
    if foreign.ending == "probabilities":
        if foreign.classes != foreign.outputs:  # of the second class; what is left is of the first
            chain.put("Mul", np.asarray([[-1, 1]], np.float32))
            chain.put("Add", np.asarray([[1, 0]], np.float32))
        shares = chain.last
        chain.put("Max", np.asarray(SMALLEST, np.float32))
        chain.put("Log")
        if foreign.task == "multilabel":  # less that of its absence
            present, chain.last = chain.last, shares
            chain.put("Neg")
            chain.put("Add", np.asarray(1, np.float32))
            chain.put("Max", np.asarray(SMALLEST, np.float32))
            chain.put("Log")
            chain.put("Sub", present)
            chain.put("Neg")
    elif foreign.classes != foreign.outputs:  # their softmax is that logit's sigmoid
        chain.put("Mul", np.asarray([[0, 1]], np.float32))
    if order != list(range(foreign.classes)):
        chain.put("Gather", np.asarray(order), axis=1)
    chain.put("Identity")
    chain.nodes[-1].output[0] = OUTPUT_NAME
    graph.node.extend(chain.nodes)
    graph.initializer.extend(chain.tensors)
