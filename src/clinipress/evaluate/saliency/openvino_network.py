"""An OpenVINO file with its last feature map as a second output, for Score-CAM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.runtimes.openvino import compiled, read

__all__ = ["OpenVinoNetwork"]

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
        port = _last_map(model, path)
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
        return logits.astype(np.float32), maps.astype(np.float32)


def _last_map(model: Any, path: Path) -> Any:
    """From the logits backwards: the first tensor that still has places."""
    waiting, seen = [model.outputs[0].get_node()], set[str]()
    while waiting:
        node = waiting.pop(0)
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        for port in (each.get_source_output() for each in node.inputs()):
            maker = port.get_node()
            if maker.get_type_name() in ("Constant", "Parameter"):
                continue
            shape = [
                1 if side.is_dynamic else side.get_length() for side in port.get_partial_shape()
            ]
            if len(shape) == 4 and shape[2] * shape[3] > 1:
                return port
            if len(shape) == 3 and shape[1] > 1:
                raise ModelError(
                    f"a feature map with rows and columns before the logits of '{path.name}'",
                    "a sequence of tokens: Score-CAM is not measured for transformers",
                )
            if node.get_type_name() in POOLS:
                break
            waiting.append(maker)
    raise ModelError(
        f"a feature map of more than one cell before the logits of '{path.name}'",
        "none: nothing is left to say where the network looks",
        "use larger images",
    )
