"""Full-integer .tflite files for microcontrollers, with the header that goes into the firmware.

    plan_tflite_micro     ranges as for LiteRT's "int8", and the arena the file needs
    apply_tflite_micro    writes model.tflite and model_data.h beside it

The header holds the file as an aligned C array and what the firmware must know: the arena's size,
the shapes, what a grey level and an output stand for, the classes. The image's own bytes go in,
each less 128.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clinipress.formats.file import FILES
from clinipress.formats.litert import graph as litert_graph
from clinipress.formats.litert.float import float_graph
from clinipress.formats.litert.make import (
    Ranges,
    count_operators,
    float_layers,
    plan_integers,
    quantized,
    weight_bytes,
)
from clinipress.formats.tflite_micro.run import DIGEST_WORD, arena_bytes
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import Card
from clinipress.records.store import write_atomically

if TYPE_CHECKING:
    from clinipress.models.classifier import TorchCandidate

__all__ = [
    "apply_tflite_micro",
    "arena_bytes",
    "count_operators",
    "float_layers",
    "plan_tflite_micro",
    "weight_bytes",
]

BYTES_PER_LINE = 16
HEADER = """\
// A classifier for TensorFlow Lite Micro, written by clinipress: do not edit.
//
// {digest_word} {digest} of the {size} bytes of {file}
//
// Input: int8 [1, {height}, {width}, {channels}], rows from the top, each pixel's grey level or
// red, green, blue in 0..255 less 128.
// Output: int8 [1, {count}], one per class; logit = kOutputScale * (output - kOutputZeroPoint).
#ifndef CLINIPRESS_MODEL_DATA_H_
#define CLINIPRESS_MODEL_DATA_H_

constexpr unsigned int kModelSize = {size};
// The smallest arena in which the interpreter ran on a 64-bit host, with reference kernels.
constexpr unsigned int kArenaSize = {arena};
constexpr int kInputHeight = {height};
constexpr int kInputWidth = {width};
constexpr int kInputChannels = {channels};
constexpr float kInputScale = {input_scale}f;
constexpr int kInputZeroPoint = {input_zero};
constexpr int kClassCount = {count};
constexpr float kOutputScale = {output_scale}f;
constexpr int kOutputZeroPoint = {output_zero};
constexpr const char* kClasses[{count}] = {{{classes}}};

alignas(16) constexpr unsigned char kModelData[{size}] = {{
{content}
}};

#endif  // CLINIPRESS_MODEL_DATA_H_
"""


def plan_tflite_micro(
    recipe: ExportRecipe,
    parent: TorchCandidate,
    source: Path,
    images: NDArray[np.uint8],
    *,
    ranges: Ranges | None = None,
) -> dict[str, Any]:
    """Measure what the file needs: ranges, and the arena.

    Returns:
        "ranges" and "facts" as `to_litert.plan_litert` gives them, with "arena_bytes" among the
        facts, and "arena".

    Raises:
        ModelError: The network cannot be converted, the interpreter has not all of its operators,
            or there are no images to calibrate with.
    """
    graph = float_graph(parent, levels=True)
    plan = plan_integers(parent, source, images, ranges, graph)
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        path = Path(folder) / FILES["tflite-micro"][0]
        path.write_bytes(quantized(graph, plan["ranges"]))
        arena = arena_bytes(path)
    return plan | {"arena": arena, "facts": plan["facts"] | {"arena_bytes": arena}}


def apply_tflite_micro(
    recipe: ExportRecipe,
    parent: TorchCandidate,
    source: Path,
    target: Path,
    plan: Mapping[str, Any],
    card: Card,
) -> None:
    """Write model.tflite and model_data.h; bytes depend on network, plan and classes alone.

    Raises:
        ModelError: The network cannot be converted or quantized.
        StorageError: The disk is full or cannot be written.
    """
    content = quantized(float_graph(parent, levels=True), plan["ranges"])
    # the header last: a file without one is whole, a header without its file is not
    write_atomically(target, content)
    header = target.with_name(FILES["tflite-micro"][1])
    write_atomically(header, _header(content, target.name, int(plan["arena"]), card))


def _header(content: bytes, file: str, arena: int, card: Card) -> str:
    model = litert_graph.read(content)
    graph = model.subgraphs[0]
    image, logits = (graph.tensors[side[0]].quantization for side in (graph.inputs, graph.outputs))
    rows = [content[at : at + BYTES_PER_LINE] for at in range(0, len(content), BYTES_PER_LINE)]
    return HEADER.format(
        digest_word=DIGEST_WORD,
        digest=hashlib.sha256(content).hexdigest(),
        size=len(content),
        file=file,
        arena=arena,
        height=card.input.height,
        width=card.input.width,
        channels=card.input.channels,
        input_scale=_number(image.scale[0]),
        input_zero=int(image.zeroPoint[0]),
        count=len(card.classes),
        output_scale=_number(logits.scale[0]),
        output_zero=int(logits.zeroPoint[0]),
        classes=", ".join(_quoted(name) for name in card.classes),
        content="\n".join("    " + " ".join(f"0x{byte:02x}," for byte in row) for row in rows),
    )


def _number(value: Any) -> str:
    """Nine digits, which name a float32 exactly, and always with a point or an exponent."""
    text = f"{float(value):.9g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _quoted(name: str) -> str:
    """A C string: other bytes than plain ASCII in octal, which ends after three digits."""
    kept = (chr(b) if 32 <= b < 127 and b not in b'"\\?' else f"\\{b:03o}" for b in name.encode())
    return f'"{"".join(kept)}"'
