"""Small .tflite files made by hand: no converter to wait for."""

from __future__ import annotations

import numpy as np

from clinipress.formats.litert import graph as litert_graph
from clinipress.formats.litert.graph import GraphEditor, schema
from clinipress.formats.litert.make import quantized
from clinipress.records.candidate import Card, InputSpec
from kit.pixels import noise

SIZE = 8
CLASSES = ("a", "b", "c")
SCALE, ZERO = 1 / 64, 51  # of the integer file's input


def card_of(channels=1, **update):
    spec = InputSpec(channels=channels, height=SIZE, width=SIZE)
    made = Card(name="linear", classes=CLASSES, input=spec, format="litert")
    return made.model_copy(update=update)


def weights_of(channels=1, seed=0):
    """float32 ``[size * size * channels, classes]``, for pixels with channels last."""
    shape = (SIZE * SIZE * channels, len(CLASSES))
    return (np.random.default_rng(seed).normal(size=shape) / 100).astype(np.float32)


def pixels(count, channels=1, seed=1):
    return noise(count, SIZE, channels, seed)


def empty_model(shape, kind):
    """One input tensor, no operator."""
    image = schema.TensorT(shape=np.array(shape, np.int32), type=kind, buffer=0, name="image")
    graph = schema.SubGraphT(tensors=[image], inputs=[0], outputs=[], operators=[], name="g")
    return schema.ModelT(version=3, operatorCodes=[], subgraphs=[graph], buffers=[schema.BufferT()])


def finished(model, output):
    graph = model.subgraphs[0]
    graph.outputs = [output]
    side = [schema.TensorMapT(name="image", tensorIndex=0)]
    model.signatureDefs = [
        schema.SignatureDefT(
            inputs=side,
            outputs=[schema.TensorMapT(name="logits", tensorIndex=output)],
            signatureKey="serving_default",
            subgraphIndex=0,
        )
    ]
    litert_graph.name_by_place(model)
    return litert_graph.pack(model)


def linear(channels=1, weights=None, *, cast=True):
    """Bytes of a file: ``logits = pixels @ weights``; float32 pixels in without `cast`."""
    kind = schema.TensorType.UINT8 if cast else schema.TensorType.FLOAT32
    model = empty_model([1, SIZE, SIZE, channels], kind)
    weights = weights_of(channels) if weights is None else weights
    editor, graph, tensor = GraphEditor(model), model.subgraphs[0], 0
    if cast:
        tensor = editor.computed([1, SIZE, SIZE, channels])
        graph.operators.append(editor.operator("CAST", [0], tensor, schema.CastOptionsT()))
    flat, logits = editor.computed([1, len(weights)]), editor.computed([1, weights.shape[1]])
    shape = editor.constant(np.array([1, len(weights)], np.int32))
    options = schema.ReshapeOptionsT(newShape=np.array([1, len(weights)], np.int32))
    graph.operators.append(editor.operator("RESHAPE", [tensor, shape], flat, options))
    inputs = [flat, editor.constant(weights.T), editor.constant(np.zeros(weights.shape[1]))]
    options = schema.FullyConnectedOptionsT()
    graph.operators.append(editor.operator("FULLY_CONNECTED", inputs, logits, options))
    return finished(model, logits)


def integers(channels=1, weights=None):
    """Bytes of an integer file: ``logits = SCALE * (pixels - ZERO) @ weights``, rounded."""
    low = -ZERO * SCALE
    ends = (low, low + 255 * SCALE)
    ranges = {"image": ends, "RESHAPE_0": ends, "logits": (-4.0, 4.0)}
    return quantized(linear(channels, weights, cast=False), ranges)
