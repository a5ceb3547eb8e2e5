"""What an ONNX file computes inside: the values of its tensors for some images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from clinipress.formats.onnx.int8 import prepare
from clinipress.formats.onnx.run import INPUT_NAME, images_per_call, session

__all__ = ["prepared_values", "tensor_values"]


def prepared_values(
    source: Path, tensors: Iterable[str], images: NDArray[np.uint8]
) -> tuple[dict[str, NDArray[np.float32]], set[str], dict[str, str]]:
    """What `quantize.prepare` makes of a file computes inside.

    Args:
        source: A float32 file.
        tensors: Names; those that no node of the prepared graph computes are left out.
        images: uint8 ``[n, c, h, w]``.

    Returns:
        Tensor -> its values; the results of clamps: where the clamp does nothing, they equal the
        tensor before it; and tensor -> the operator that computes it.
    """
    model = prepare(source)
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    kinds = {name: made.get(name, "the graph's input") for name in tensors}
    clamps = {name for name, kind in made.items() if kind in ("Relu", "Clip")}
    present = [name for name in kinds if name in made]
    return tensor_values(model, present, images), clamps, kinds


def tensor_values(
    model: onnx.ModelProto, tensors: Sequence[str], images: NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    """What a graph computes inside: tensor -> its values; they become outputs of `model`."""
    if not tensors:
        return {}
    given = {output.name for output in model.graph.output}
    inside = [onnx.helper.make_empty_tensor_value_info(name) for name in tensors]
    model.graph.output.extend(info for info in inside if info.name not in given)
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        opened = Path(folder) / "opened.onnx"
        onnx.save(model, opened)
        running = session(opened, 1)
    parts = np.array_split(images, len(images) if images_per_call(running, 2) == 1 else 1)
    rows = [running.run(list(tensors), {INPUT_NAME: np.ascontiguousarray(p)}) for p in parts]
    arrays = rows[0] if len(rows) == 1 else map(np.concatenate, zip(*rows, strict=True))
    return dict(zip(tensors, arrays, strict=True))
