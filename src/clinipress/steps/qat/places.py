"""Where an int8 file rounds activations, in terms of the network it comes from.

The runtime's quantizer decides where a graph is rounded and with which first ranges; training must
round in the same places, and what it learns must find its way back. The two programs are matched by
value: the same images run through the traced network and through its float32 file, and tensors that
are equal are the same tensor. No name or operator has to correspond.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from clinipress.errors import ModelError
from clinipress.formats.matching import equal_values
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.int8 import rounding
from clinipress.formats.onnx.values import prepared_values
from clinipress.formats.ranges import Method
from clinipress.models.classifier import TorchCandidate
from clinipress.steps.qat.network import Place
from clinipress.steps.qat.tracing import is_activation, reads_image, takes_constant, trace

__all__ = ["FileRounding", "find_places", "match"]

PROBES = 4  # images that tensors are matched on
CONSTANT = "a constant"


class FileRounding(NamedTuple):
    """Everything that an int8 file rounds besides the weights of its layers.

    Tensors go by their names in the float32 file, as `quantize.prepare` writes it out.

    Attributes:
        places: Activation -> the node of the traced network that computes it.
        constants: Constant that is added, multiplied or joined -> the nodes that hold its values.
        missed: Tensor of either sort that nothing in the network computes -> what makes it in the
            file. Those are not rounded in training; the file gives them calibrated ranges.
    """

    places: dict[str, Place]
    constants: dict[str, list[str]]
    missed: dict[str, str]


def find_places(
    candidate: TorchCandidate, images: NDArray[np.uint8], method: Method
) -> FileRounding:
    """What the candidate's int8 file would round, activations with calibrated ranges.

    Args:
        candidate: The float network; left as it is.
        images: uint8 ``[n, c, h, w]`` from the training split, un-augmented.
        method: Of calibration.

    Raises:
        ModelError: The network cannot be exported or traced, or less than half of the activations
            are found.
    """
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        path = Path(folder) / "float.onnx"
        export_onnx(candidate, path)
        planned = rounding(path, images, method=method)
        values, clamps, kinds = prepared_values(path, planned.ranges, images[:PROBES])
    was_training = candidate.module.training
    try:
        traced = trace(candidate.module, images.shape[1:])
        equal = _equal_nodes(traced, images[:PROBES], {**values, **planned.constants})
    finally:
        candidate.module.train(was_training)
    nodes = _chosen({name: equal[name] for name in values}, clamps)
    if 2 * len(nodes) < len(planned.ranges):
        raise ModelError(
            "a traced network that computes what its float32 file computes",
            f"{len(nodes)} of {len(planned.ranges)} rounded activations found in it",
            "train without 'qat', and report this as a bug",
        )
    groups = {name: number for number, names in enumerate(planned.shared) for name in names}
    places = {
        name: Place(
            nodes[name],
            *ends,
            fixed=name in planned.fixed,
            limits=_finite(planned.limits.get(name)),
            group=groups.get(name),
        )
        for name, ends in planned.ranges.items()
        if name in nodes
    }
    constants = {name: _held(equal[name]) for name in planned.constants}
    missed = {name: kinds[name] for name in planned.ranges if name not in places}
    missed |= {name: CONSTANT for name, held in constants.items() if not held}
    return FileRounding(places, {name: held for name, held in constants.items() if held}, missed)


def _held(nodes: Iterable[fx.Node]) -> list[str]:
    """Nodes that hold a constant for an operator whose operands the file rounds."""
    return [
        node.name
        for node in nodes
        if not reads_image(node) and any(takes_constant(reader) for reader in node.users)
    ]


def _finite(limits: tuple[float, float] | None) -> tuple[float | None, float | None]:
    """None where there is no limit: a plan is JSON, which has no infinity."""
    low, high = limits or (-math.inf, math.inf)
    return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)


class _Finder(fx.Interpreter):
    """Runs a traced network and notes, for each wanted tensor, the nodes that computed it."""

    def __init__(self, traced: fx.GraphModule, wanted: Mapping[str, NDArray[np.float32]]) -> None:
        super().__init__(traced)
        self.wanted = wanted
        self.equal_nodes: dict[str, list[fx.Node]] = {name: [] for name in wanted}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        made = n.op in {"call_function", "get_attr"}
        if made and isinstance(value, Tensor) and value.is_floating_point():
            for name, wanted in self.wanted.items():
                if value.numel() == wanted.size and equal_values(wanted, value.numpy()):
                    self.equal_nodes[name].append(n)
        return value


def match(
    traced: fx.GraphModule,
    images: NDArray[np.uint8],
    wanted: Mapping[str, NDArray[np.float32]],
    clamps: set[str],
) -> dict[str, str]:
    """The node, no node twice, that computes each tensor of `wanted`, computed from `images`.

    A tensor that no node computes is left out.
    """
    return _chosen(_equal_nodes(traced, images, wanted), clamps)


def _equal_nodes(
    traced: fx.GraphModule, images: NDArray[np.uint8], wanted: Mapping[str, NDArray[np.float32]]
) -> dict[str, list[fx.Node]]:
    finder = _Finder(traced, wanted)
    with torch.no_grad():
        finder.run(torch.from_numpy(np.ascontiguousarray(images)))
    return finder.equal_nodes


def _chosen(equal: Mapping[str, list[fx.Node]], clamps: set[str]) -> dict[str, str]:
    nodes: dict[str, str] = {}
    for name, candidates in equal.items():
        made = [node for node in candidates if node.op == "call_function"]
        free = [node for node in made if node.name not in nodes.values()]
        # a clamp's result may equal its input on a few images, and a dropout's or a copy's always
        right = [node for node in free if is_activation(node) == (name in clamps)] or free
        if right:
            nodes[name] = right[0].name
    return nodes
