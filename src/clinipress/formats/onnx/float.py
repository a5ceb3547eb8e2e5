"""Files for ONNX Runtime out of a network: float32, and float16 from that.

    export_onnx    a torch candidate -> float32 .onnx, normalisation inside, card inside
    to_float16     float32 .onnx -> float16 weights and activations; input and output as before

`quantize` makes 8-bit and 4-bit files of a float32 file.

Each function writes one whole file or none, with bytes that depend on its inputs alone, and says
nothing: the engines' prints and warnings are caught here. What a file is worth is not announced but
measured: `parity` compares it with its parent, `count_low_precision` says what the engine really
runs in low precision, and evaluation treats the file like any other candidate.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.extras import require
from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx.run import INPUT_NAME, OUTPUT_NAME, OnnxCandidate
from clinipress.formats.onnx.write import card_for, write
from clinipress.formats.parity import check_images, check_logits
from clinipress.formats.precision import check_float16
from clinipress.formats.ranges import quiet
from clinipress.records.candidate import Card

if TYPE_CHECKING:
    from clinipress.models.classifier import TorchCandidate

__all__ = ["export_onnx", "halve", "to_float16"]


def export_onnx(
    candidate: TorchCandidate,
    path: Path,
    *,
    card: Card | None = None,
    images: NDArray[np.uint8] | None = None,
) -> OnnxCandidate:
    """Write a torch candidate as float32 ONNX and check the file against it.

    Args:
        candidate: The network; it is copied, not touched.
        path: Where to write.
        card: Card of the file; None: the candidate's, with format and precision set.
        images: uint8 ``[n, c, h, w]`` to check on; None: two images of seeded noise.

    Returns:
        The file, opened with one thread.

    Raises:
        ModelError: The network cannot be exported, or its file answers differently.
        StorageError: The disk is full or cannot be written.
    """
    card = card_for(card or candidate.card, "float32")
    model = _export_graph(candidate)
    onnx_graph.pool_means(model)
    onnx_graph.shorten_normalisation(model)
    onnx_graph.fold_grey_to_rgb(model)
    write(model, path, card)
    exported = OnnxCandidate.load(path, threads=1)
    if images is None:
        images = check_images(candidate)
    try:
        check_logits(candidate, exported.predict(images), images, "an ONNX file")
    except ModelError:
        path.unlink()
        raise
    return exported


def to_float16(source: Path, target: Path, *, card: Card | None = None) -> OnnxCandidate:
    """Halve the weights of a float32 file: float16 weights and activations.

    Input stays uint8, logits stay float32. ONNX Runtime on a CPU without float16 kernels turns
    the weights back into float32 when it loads the file: smaller on disk, not faster.

    Raises:
        ModelError: `source` is not one of our files, or has weights beyond float16.
    """
    parent = OnnxCandidate.load(source, threads=1)
    model = onnx.load(source)
    onnx_graph.convolve_batch_norms(model)
    model = halve(model, source)
    onnx_graph.halve_first_cast(model)
    write(model, target, card_for(card or parent.card, "float16"))
    return OnnxCandidate.load(target, threads=1)


def halve(model: onnx.ModelProto, source: Path) -> onnx.ModelProto:
    """A float32 graph in float16, its input and output as before; `source` is named in errors.

    Raises:
        ModelError: Weights beyond float16.
    """
    float16 = require("onnxconverter_common.float16", extra="compress")
    check_float16(onnx_graph.constants(model.graph).values(), source)
    with warnings.catch_warnings():
        # it warns of each weight below 6e-8 that becomes 0; what that costs, evaluation measures
        warnings.filterwarnings("ignore", module="onnxconverter_common")
        halved: onnx.ModelProto = float16.convert_float_to_float16(
            model, keep_io_types=True, max_finite_val=float(np.finfo(np.float16).max)
        )
    return halved


def _export_graph(candidate: TorchCandidate) -> onnx.ModelProto:
    require("torch", extra="compress")
    import torch

    spec = candidate.card.input
    module = copy.deepcopy(candidate.module).cpu().eval()
    module = module.to(memory_format=torch.contiguous_format)
    # two images: with one, the exporter takes the batch for a constant
    images = torch.zeros((2, spec.channels, spec.height, spec.width), dtype=torch.uint8)
    try:
        with quiet(), warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            program = torch.onnx.export(
                module,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("n", min=1, max=65535)},),
            )
    except torch.onnx.errors.OnnxExporterError as problem:
        raise ModelError(
            f"a network that torch.onnx can export ('{candidate.card.name}')",
            str(problem.__cause__ or problem).strip().splitlines()[0][:200],
            "see the operators that torch.onnx supports",
        ) from problem
    if program is None:  # only without dynamo
        raise ModelError("a graph from torch.onnx", "none", "report this as a bug")
    return program.model_proto
