"""Files whose activations stay in float: dynamic 8 bits, and 4-bit weights.

to_int8_dynamic   linear and recurrent layers alone, ranges of activations found in every call
to_int4           weights in blocks of 4 bits, float32 arithmetic
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from clinipress.errors import ModelError
from clinipress.formats.onnx import packed_weights as onnx_weights
from clinipress.formats.onnx.int8 import prepare_weights
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.formats.onnx.write import card_for, write
from clinipress.formats.ranges import quiet
from clinipress.records.candidate import Card

__all__ = ["to_int4", "to_int8_dynamic"]

DYNAMIC_OPERATORS = ("Gemm", "MatMul", "LSTM", "GRU", "Attention")
INT4_BLOCK = 32


def to_int8_dynamic(source: Path, target: Path, *, card: Card | None = None) -> OnnxCandidate:
    """Quantize linear and recurrent layers, whose activations get their range in every call.

    Convolutions stay in float32: on a convolutional network this quantizes the head and nothing
    else, and `quantized_layers` says so.
    """
    from onnxruntime import quantization

    parent = OnnxCandidate.load(source, threads=1)
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder, quiet():
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(_infer(onnx.load(source)), before)
        quantization.quantize_dynamic(
            before,
            after,
            op_types_to_quantize=list(DYNAMIC_OPERATORS),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )
        model = onnx.load(after)
    write(model, target, card_for(card or parent.card, "int8-dynamic"))
    return OnnxCandidate.load(target, threads=1)


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(model)
    return inferred


def to_int4(
    source: Path, target: Path, *, block: int = INT4_BLOCK, card: Card | None = None
) -> OnnxCandidate:
    """Store weights in 4 bits with a scale per block; arithmetic stays in float32.

    Convolutions and Gemm are unpacked when the file is opened (`onnx_weights`): they get smaller
    files and no speed. Matrix products by constants run on packed weights (MatMulNBits). Depthwise
    convolutions keep 8 bits; `weight_bytes` says what share of the weights is really 4-bit.

    Raises:
        ModelError: `source` is not one of our files, or has no layer to store.
    """
    parent = OnnxCandidate.load(source, threads=1)
    model = prepare_weights(source)
    done = onnx_weights.pack_matmuls(model, block=block)
    done += onnx_weights.store_weights(model, bits=4, block=block)
    if not done:
        raise ModelError(
            f"layers of {onnx_weights.SMALLEST} weights or more in '{source.name}'",
            "none whose weights 4 bits could hold",
            "export it as int8",
        )
    write(model, target, card_for(card or parent.card, "int4-weights"))
    return OnnxCandidate.load(target, threads=1)
