"""Small ONNX files as other tools write them: a picture's mean colour says its class.

The nearest of three centres of colour wins, so that a file that is read in another way (scale,
order of channels, geometry) is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDE = 16
CENTRES = np.array([[0.7, 0.25, 0.3], [0.25, 0.6, 0.35], [0.3, 0.3, 0.3]])  # of RGB in [0, 1]
CLASSES = ("fibroma", "glioma", "normal")
SHARP = 60.0


def pictures(count: int = 30, seed: int = 0, side: tuple[int, int] = (SIDE, SIDE)) -> Any:
    """uint8 ``[count, 3, h, w]`` and their classes int64 ``[count]``, SYNTHETIC."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(CENTRES)
    tints = random.normal(0, 0.08, (count, 3, 1, 1))
    noise = random.normal(0, 0.08, (count, 3, *side))
    images = CENTRES[labels][:, :, None, None] + tints + noise
    return (255 * images.clip(0, 1)).astype(np.uint8), labels


def folder_of_pictures(
    root: Path, count: int = 60, names: Sequence[str] = CLASSES, seed: int = 0
) -> Path:
    """One folder per class."""
    images, labels = pictures(count, seed)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:03d}.png")
    return root


def findings_of(images: Any) -> Any:
    """int64 ``[n, 3]``: a finding is present where the network's own logit is above its median."""
    logits = expected(images)
    return (logits > np.median(expected(pictures(240)[0]), axis=0)).astype(np.int64)


def manifest_of_findings(root: Path, count: int = 120) -> Path:
    """Pictures in one folder, a column for each finding; each ninth of them is unknown."""
    images, _ = pictures(count)
    rows = ["path,fibroma,glioma,mass lesion"]
    root.mkdir(parents=True, exist_ok=True)
    for number, (image, shown) in enumerate(zip(images, findings_of(images), strict=True)):
        Image.fromarray(image.transpose(1, 2, 0)).save(root / f"{number:03d}.png")
        cells = ["" if number % 9 == c else str(there) for c, there in enumerate(shown)]
        rows.append(f"{number:03d}.png,{','.join(cells)}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def expected(images: Any) -> Any:
    """Logits of the network, by plain numpy."""
    colours = images.mean(axis=(2, 3)) / 255
    return SHARP * (colours @ CENTRES.T - (CENTRES**2).sum(1) / 2)


def _dense(mean: Any, std: Any, bgr: bool, centres: Any) -> tuple[Any, Any]:
    """Weights and biases for (x - mean) / std, in the order of channels that the file takes."""
    mean, std = (np.broadcast_to(np.asarray(v, float), 3) for v in (mean, std))
    weight, bias = SHARP * centres, -SHARP * (centres**2).sum(1) / 2
    weight = weight[:, ::-1] if bgr else weight
    return weight * std, bias + weight @ mean


def _ending(ending: str, stored: list[Any]) -> tuple[list[Any], str]:
    """Nodes behind the scores, and the name of the last."""
    if not ending:
        return [], "scores"
    if ending == "composed":
        stored.append(numpy_helper.from_array(np.array([1]), "axes"))
        nodes = [
            helper.make_node("Exp", ["scores"], ["exp"]),
            helper.make_node("ReduceSum", ["exp", "axes"], ["sum"]),
            helper.make_node("Div", ["exp", "sum"], ["answers"]),
        ]
        return nodes, "answers"
    operator = "Sigmoid" if ending == "one" else ending
    axis = {} if operator == "Sigmoid" else {"axis": 1}
    return [helper.make_node(operator, ["scores"], ["answers"], **axis)], "answers"


def foreign_net(
    path: Path,
    *,
    layout: str = "NCHW",
    mean: Any = 0.0,
    std: Any = 1.0,
    bgr: bool = False,
    ending: str = "",
    kind: int = TensorProto.FLOAT,
    batch: Any = "n",
    size: Any = (SIDE, SIDE),
    order: Sequence[int] = (0, 1, 2),
    names: str | None = None,
    opset: int = 17,
    baked: bool = False,
    shape: bool = True,
    maps: bool = False,
    metadata: dict[str, str] | None = None,
    inputs: Sequence[Any] = (),
    nodes: Sequence[Any] = (),
    tensors: Sequence[Any] = (),
    centres: Any = CENTRES,
    kept: tuple[int, int] = (2, 1),
    grey: bool = False,
) -> Path:
    """Write the file; its preprocessing, layout and ending are the caller's choice."""
    weight, bias = _dense(mean, std, bgr, centres)
    if centres is CENTRES:
        weight, bias = weight[list(order)], bias[list(order)]
    if ending == "one":  # of one class against another
        against, of = kept
        weight, bias = weight[[of]] - weight[[against]], bias[[of]] - bias[[against]]
    one = np.eye(3).reshape(3, 3, 1, 1)
    if grey:
        one = one.sum(1, keepdims=True)
    weights = {
        "conv.w": np.concatenate([one, -one]), "conv.b": np.zeros(6),
        "head.w": np.concatenate([weight, -weight], 1), "head.b": bias,
    }  # fmt: skip
    floats = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    stored = [numpy_helper.from_array(v.astype(floats), k) for k, v in weights.items()]
    stored += tensors
    graph: list[Any] = []
    last = "pixels"
    if kind == TensorProto.UINT8:
        stored.append(numpy_helper.from_array(np.float32(255), "levels"))
        graph += [
            helper.make_node("Cast", [last], ["as_float"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["as_float", "levels"], ["unit"]),
        ]
        last = "unit"
    if layout == "NHWC":
        graph.append(helper.make_node("Transpose", [last], ["first"], perm=[0, 3, 1, 2]))
        last = "first"
    graph += [
        helper.make_node("Conv", [last, "conv.w", "conv.b"], ["conv"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        *nodes,
    ]
    last = "relu" if not nodes else nodes[-1].output[0]
    graph.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    if maps:
        stored = [t for t in stored if t.name != "head.w"]
        wide = weights["head.w"][:, :, None, None].astype(floats)
        stored.append(numpy_helper.from_array(wide, "head.w"))
        graph.append(helper.make_node("Conv", ["pooled", "head.w", "head.b"], ["scores"]))
    else:
        if baked:
            stored.append(numpy_helper.from_array(np.array([1, 6]), "flat.shape"))
            graph.append(helper.make_node("Reshape", ["pooled", "flat.shape"], ["flat"]))
        else:
            graph.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
        gemm = ["flat", "head.w", "head.b"]
        graph.append(helper.make_node("Gemm", gemm, ["scores"], transB=1))
    more, last = _ending(ending, stored)
    graph += more
    height, width = size
    channels = 1 if grey else 3
    sides = (batch, channels, height, width)
    sides = sides if layout == "NCHW" else (batch, height, width, channels)
    count = len(bias)
    result = (batch, count, 1, 1) if maps else (batch, count)
    output_kind = kind if kind == TensorProto.FLOAT16 else TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            graph,
            "theirs",
            [helper.make_tensor_value_info("pixels", kind, sides if shape else None), *inputs],
            [helper.make_tensor_value_info(last, output_kind, result if shape else None)],
            stored,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    facts = dict(metadata or {}) | ({"names": names} if names else {})
    helper.set_model_props(model, facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
