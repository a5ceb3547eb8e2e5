"""An OpenVINO file with its last feature map as a second output, for Score-CAM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.formats.openvino.run import compiled, read
from clinipress.records.candidate import Card

__all__ = ["OpenVinoNetwork", "open_features"]

Floats = NDArray[np.float32]
POOLS = ("ReduceMean", "ReduceMax", "AvgPool", "MaxPool", "AdaptiveAvgPool")


class OpenVinoNetwork:
    """An OpenVINO file, one uint8 image a call; a map of an int8 file is what its grid holds.

    Args:
        path: The ``.xml`` file; its ``.bin`` lies beside it.
        threads: CPU threads of one call; None: as many as there are cores.

    Raises:
        ModelError: No feature map can be shown.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        model = read(path)
        port, self._channels_last = _last_map(model, path)
        self.layer = str(port.get_node().get_friendly_name())
        model.add_outputs([port])
        self._request = compiled(model, threads).create_infer_request()

    def look(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Logits and feature maps."""
        parts = [self._run(image) for image in images]
        logits, maps = (np.concatenate(each) for each in zip(*parts, strict=True))
        return logits, maps

    def answer(self, images: Floats) -> Floats:
        """Logits of images rounded to grey levels."""
        return np.concatenate([self._run(image)[0] for image in images])

    def _run(self, image: NDArray[Any]) -> tuple[Floats, Floats]:
        self._request.get_input_tensor().data[:] = np.rint(image)
        self._request.infer(share_outputs=True)
        logits, maps = (self._request.get_output_tensor(i).data for i in (0, 1))
        if self._channels_last:
            maps = maps.transpose(0, 3, 1, 2)
        return logits.astype(np.float32), maps.astype(np.float32)


def open_features(path: Path, card: Card, threads: int | None) -> OpenVinoNetwork:
    """A file with its last feature map as a second output; arguments as of every format."""
    return OpenVinoNetwork(path, threads)


def _last_map(model: Any, path: Path) -> tuple[Any, bool]:
    """From the logits backwards: the first tensor that still has places; are channels its last?

    By the same rules as in `clinipress.formats.onnx.features`.
    """
    waiting, seen = [model.outputs[0].get_node()], set[str]()
    one_cell = False  # pooled from a single cell: only a dense layer may stand before it
    while waiting:
        node = waiting.pop(0)
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        one_cell |= node.get_type_name() in POOLS and _shape(node.inputs()[0])[2:] == [1, 1]
        for port in (each.get_source_output() for each in node.inputs()):
            maker, shape = port.get_node(), _shape(port)
            if maker.get_type_name() in ("Constant", "Parameter"):
                continue
            if len(shape) == 4 and shape[2] * shape[3] > 1 and _is_learnt(maker):
                if one_cell and not _is_dense(node, shape):
                    waiting.clear()
                    break
                return port, _pools_rows_and_columns(node)
            if len(shape) == 3 and shape[1] > 1:
                raise ModelError(
                    f"a feature map with rows and columns before the logits of '{path.name}'",
                    "a sequence of tokens: Score-CAM is not measured for transformers",
                )
            waiting.append(maker)
    raise ModelError(
        f"a feature map of more than one cell before the logits of '{path.name}'",
        "none: nothing is left to say where the network looks",
        "use larger images, or a convolutional network",
    )


def _is_learnt(node: Any) -> bool:
    """Whether a layer with weights stands before a result, which is else the image itself."""
    waiting, seen = [node], set[str]()
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in seen:
            continue
        if any(kind in node.get_type_name() for kind in ("Convolution", "MatMul")):
            return True
        seen.add(node.get_friendly_name())
        waiting += [port.get_source_output().get_node() for port in node.inputs()]
    return False


def _shape(port: Any) -> list[int]:
    """Sides of a tensor; 1 for one that is free."""
    return [1 if side.is_dynamic else side.get_length() for side in port.get_partial_shape()]


def _pools_rows_and_columns(node: Any) -> bool:
    """Whether a pooling is over the second and third axis, as where channels come last (Swin)."""
    if node.get_type_name() not in ("ReduceMean", "ReduceMax"):
        return False
    axes = node.inputs()[1].get_source_output().get_node()
    known = axes.get_type_name() == "Constant"
    return known and sorted(int(axis) % 4 for axis in axes.get_data().reshape(-1)) == [1, 2]


def _is_dense(node: Any, shape: list[int]) -> bool:
    """Whether a convolution sees its whole input at once, as the first of VGG's dense layers."""
    if node.get_type_name() != "Convolution":
        return False
    attributes = node.get_attributes()
    plain = list(attributes["strides"]) == [1, 1] and not any(
        (*attributes["pads_begin"], *attributes["pads_end"])
    )
    return plain and _shape(node.inputs()[1])[2:] == shape[2:]
