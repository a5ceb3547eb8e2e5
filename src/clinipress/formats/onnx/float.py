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

import contextlib
import copy
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    import torch
    from torch import nn

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
        model = _translated(module, images, strict=False)
        if _fixed_batch(model):
            # len() of a tensor is a number to Python, and a size only to who reads the code
            with contextlib.suppress(torch._dynamo.exc.TorchDynamoException):
                model = _translated(module, images, strict=True)
    except torch.onnx.errors.OnnxExporterError as problem:
        raise ModelError(
            f"a network that torch.onnx can export ('{candidate.card.name}')",
            str(problem.__cause__ or problem).strip().splitlines()[0][:200],
            "see the operators that torch.onnx supports",
        ) from problem
    if _fixed_batch(model):
        raise ModelError(
            f"a network for any number of images at once ('{candidate.card.name}')",
            "one whose graph is made for as many as it was traced with",
            "take sizes from x.shape, and do not turn them into numbers with int() or len()",
        )
    return model


def _translated(module: nn.Module, images: torch.Tensor, *, strict: bool) -> onnx.ModelProto:
    """The graph by torch.onnx; strict: of the network's code, not of what it calls."""
    require("torch", extra="compress")
    import torch

    sizes = ({0: torch.export.Dim("n", min=1, max=65535)},)
    with quiet(), warnings.catch_warnings(), torch.no_grad(), _attention_in_four_dimensions():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        source: Any = module
        if strict:
            source = torch.export.export(module, (images,), dynamic_shapes=sizes, strict=True)
        program = torch.onnx.export(
            source,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=sizes,
        )
    if program is None:  # only without dynamo
        raise ModelError("a graph from torch.onnx", "none", "report this as a bug")
    return program.model_proto


def _fixed_batch(model: onnx.ModelProto) -> bool:
    return bool(model.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value"))


def _attention_in_four_dimensions() -> AbstractContextManager[object]:
    """Torch's fused attention with its leading dimensions in one, wherever they are not two.

    torch.onnx translates it with four dimensions only; networks that attend within blocks of an
    image have five (NesT), attention without heads has three.
    """
    require("torch", extra="compress")
    from torch.nn.functional import scaled_dot_product_attention
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            options = kwargs or {}
            parts, rest = args[:3], args[3:]
            if function is not scaled_dot_product_attention or len(parts) < 3:
                return function(*args, **options)
            mask = rest[0] if rest else options.get("attn_mask")
            if parts[0].ndim == 4 or (mask is not None and mask.ndim > 2):
                return function(*args, **options)
            flat = [part.reshape(-1, 1, *part.shape[-2:]) for part in parts]
            attended = function(*flat, *rest, **options)
            return attended.reshape(*parts[0].shape[:-1], parts[2].shape[-1])

    return Mode()
