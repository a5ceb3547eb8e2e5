"""Model x format x precision: milliseconds, megabytes, agreement; beside each toolchain's default.

    python benchmarks/runtimes.py [--models resnet50 ...] [--size 224] [--threads 2] [--seconds 20]
    python benchmarks/runtimes.py --weights RUN/objects/train-... --pictures FOLDER [--json OUT]

Every file of a model is timed in turn with all others, so the ratios hold on a busy machine. The
rows "default" are each toolchain's own route to int8, as its guide has it, on the same calibration
images: ONNX Runtime's quant_pre_process and quantize_static, nncf.quantize, ai-edge-quantizer's
static recipe, torchao's PT2E with ExecuTorch's XNNPACK quantizer. They are fed what they take, so
their time holds no conversion of pixels. Weights are random unless --weights names a candidate
folder: times and sizes are right, and agreement only says that the arithmetic is sound.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.formats.file import FILES
from clinipress.formats.make import apply_export, file_facts, plan_export
from clinipress.formats.measure import environment, latency
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.formats.open import open_file
from clinipress.formats.parity import parity
from clinipress.formats.ranges import quiet
from clinipress.models.classifier import TorchCandidate
from clinipress.recipe.formats import format_facts
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import Candidate
from export import onnxruntime_default, pictures, random_candidate, smooth_images

MODELS = ("resnet50", "mobilenetv2_100", "densenet121")
FORMATS = ("onnx", "openvino", "litert", "executorch")
# 4-bit weights and dynamic 8 bits are for size and for linear layers; "mixed" is a search
ASIDE = ("mixed",)

Images = NDArray[np.uint8]
Call = Callable[[Images], NDArray[np.float32]]


def normalised(candidate: TorchCandidate, images: Images) -> NDArray[np.float32]:
    """What a toolchain's guide feeds: float32 ``[n, c, h, w]``, normalised outside of the file."""
    spec = candidate.spec
    mean, std = (np.asarray(x, np.float32).reshape(-1, 1, 1) for x in (spec.mean, spec.std))
    return np.ascontiguousarray((images.astype(np.float32) / 255 - mean) / std, np.float32)


def openvino_default(candidate: TorchCandidate, source: Path, images: Images, threads: int) -> Call:
    """nncf.quantize with its defaults on the converted ONNX file."""
    from clinipress.formats.openvino.run import engine

    engine()  # both would send an event to their makers' statistics otherwise
    import nncf
    import openvino

    with quiet():
        model = openvino.convert_model(source)
        made = nncf.quantize(model, nncf.Dataset([image[None] for image in images]))
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads)}
    request = openvino.compile_model(made, "CPU", options).create_infer_request()
    return lambda batch: np.stack([request.infer([one[None]])[0][0].copy() for one in batch])


def litert_default(candidate: TorchCandidate, source: Path, images: Images, threads: int) -> Call:
    """litert_torch.convert, then ai_edge_quantizer's static int8 recipe."""
    import litert_torch
    import torch
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    from clinipress.formats.litert.run import silence

    floats = normalised(candidate, images)
    with silence(), tempfile.TemporaryDirectory() as folder:
        backbone = candidate.module.backbone.cpu().eval()
        example = (torch.from_numpy(floats[:1]),)
        path = Path(folder) / "float.tflite"
        litert_torch.convert(backbone, example).export(str(path))
        made = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        name = next(iter(Interpreter(model_path=str(path)).get_signature_list().items()))
        signature, given = name[0], name[1]["inputs"][0]
        data = {signature: [{given: one[None]} for one in floats]}
        content = bytes(made.quantize(made.calibrate(data)).quantized_model)
    opened = Interpreter(model_content=content, num_threads=threads)
    opened.allocate_tensors()
    into, out = opened.get_input_details()[0], opened.get_output_details()[0]
    scale, zero = into["quantization"]

    def call(batch: Images) -> NDArray[np.float32]:
        levels: NDArray[Any] = batch
        if batch.dtype == np.uint8:
            levels = normalised(candidate, batch)
        if into["dtype"] == np.int8 and levels.dtype != np.int8:
            levels = np.clip(np.round(levels / scale) + zero, -128, 127).astype(np.int8)
        answers = []
        for one in levels:
            opened.set_tensor(into["index"], one[None])
            opened.invoke()
            answers.append(opened.get_tensor(out["index"])[0].astype(np.float32))
        found = np.stack(answers)
        step, shift = out["quantization"]
        return (found - shift) * step if out["dtype"] == np.int8 else found

    # the timed calls get what the file takes
    call.prepare = lambda batch: np.clip(  # type: ignore[attr-defined]
        np.round(normalised(candidate, batch) / scale) + zero, -128, 127
    ).astype(np.int8)
    return call


def executorch_default(
    candidate: TorchCandidate, source: Path, images: Images, threads: int
) -> Call:
    """torch.export, PT2E with the XNNPACK quantizer, lowered; as ExecuTorch's guide has it."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as engine
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings import portable_lib
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    floats = torch.from_numpy(normalised(candidate, images))
    backbone, example = candidate.module.backbone.cpu().eval(), (floats[:1],)
    with quiet(), torch.no_grad():
        program = torch.export.export(backbone, example).module()
        chosen = engine.XNNPACKQuantizer()
        chosen.set_global(engine.get_symmetric_quantization_config(is_per_channel=True))
        prepared = prepare_pt2e(program, chosen)
        for one in floats:
            prepared(one[None])
        converted = convert_pt2e(prepared)
        lowered = to_edge_transform_and_lower(
            torch.export.export(converted, example), partitioner=[XnnpackPartitioner()]
        )
        content = bytes(lowered.to_executorch().buffer)
    opened = portable_lib._load_for_executorch_from_buffer(content)

    def call(batch: Any, content: bytes = content) -> NDArray[np.float32]:
        given = batch  # the program reads `content`, which must live as long
        if isinstance(batch, np.ndarray):
            given = torch.from_numpy(normalised(candidate, batch))
        found = [
            opened.run_method("forward", (one[None].contiguous(),))[0].numpy()[0].copy()
            for one in given
        ]
        return np.stack(found)

    call.prepare = lambda batch: torch.from_numpy(  # type: ignore[attr-defined]
        normalised(candidate, batch)
    )
    return call


def onnx_default(candidate: TorchCandidate, source: Path, images: Images, threads: int) -> Call:
    """ONNX Runtime's own route, opened as its guide opens files."""
    target = source.with_name("default.onnx")
    onnxruntime_default(source, target, images, "MinMax")
    return OnnxCandidate.load(target, threads=threads).predict


DEFAULTS: Mapping[str, Callable[[TorchCandidate, Path, Images, int], Call]] = {
    "onnx": onnx_default,
    "openvino": openvino_default,
    "litert": litert_default,
    "executorch": executorch_default,
}


def wanted(given: argparse.Namespace) -> list[ExportRecipe]:
    """Every format with every precision that is timed."""
    found = []
    for kind in given.formats:
        for precision in sorted(format_facts(kind).precisions):
            if precision not in ASIDE and (not given.precisions or precision in given.precisions):
                found.append(ExportRecipe(format=kind, precision=precision))
    return found


def rows_of(candidate: TorchCandidate, given: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per file, all timed in one go."""
    spec, name = candidate.card.input, candidate.card.name
    count = given.images + given.check
    images = smooth_images(count, spec)
    if given.pictures:
        images = pictures(given.pictures, count, spec)
    calibration, check = images[: given.images], images[given.images :]
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, Candidate | Callable[[Images], Any]] = {}
    inputs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.onnx"
        export_onnx(candidate, source)
        exact = candidate.predict(check)
        for recipe in wanted(given):
            key = f"{recipe.format} {recipe.precision}"
            target = Path(folder) / key.replace(" ", "-") / FILES[recipe.format][0]
            target.parent.mkdir()
            began = time.monotonic()
            try:
                plan = plan_export(
                    recipe, candidate, source, calibration, threads=given.threads, seed=0
                )
                apply_export(recipe, candidate, source, target, plan, candidate.card)
            except Exception as problem:  # a row that says so, not a table that is lost
                rows[key] = {"model": name, "file": key, "error": str(problem)[:200]}
                print(f"{name} {key}: {problem}", flush=True)
                continue
            spent = time.monotonic() - began
            card = candidate.card.model_copy(
                update={"format": recipe.format, "precision": recipe.precision}
            )
            opened = open_file(target, card, given.threads)
            found = parity(candidate, opened, check)
            facts = file_facts(recipe, target, plan)
            rows[key] = {
                "model": name, "file": key, "megabytes": opened.file_bytes / 1e6,
                "largest_difference": found.max_logit_difference,
                "agreement": 1 - found.label_flips / found.images, "layers": facts["layers"],
                "seconds_to_make": spent, "ranges": facts.get("ranges"),
            }  # fmt: skip
            calls[key], inputs[key] = opened, check
        for kind in given.formats if not given.no_defaults else ():
            key = f"{kind} default"
            try:
                call = DEFAULTS[kind](candidate, source, calibration, given.threads)
                found_logits = call(check)
            except Exception as problem:
                rows[key] = {"model": name, "file": key, "error": str(problem)[:200]}
                print(f"{name} {key}: {problem}", flush=True)
                continue
            same = float((found_logits.argmax(1) == exact.argmax(1)).mean())
            rows[key] = {"model": name, "file": key, "agreement": same}
            calls[key] = call
            inputs[key] = getattr(call, "prepare", lambda batch: batch)(check[:1])
        plain = {key: given_ for key, given_ in inputs.items() if isinstance(given_, np.ndarray)}
        odd = {key: given_ for key, given_ in inputs.items() if key not in plain}
        bound = {
            key: (lambda _, call=calls[key], value=value: call(value)) for key, value in odd.items()
        }
        timed = latency(
            {**calls, **bound}, {**plain, **dict.fromkeys(odd, check)}, threads=given.threads,
            repeats=100_000, seconds=given.seconds,
        )  # fmt: skip
    for key, taken in timed.items():
        rows[key] |= {"median_ms": taken.median, "p95_ms": taken.p95, "calls": taken.repeats}
    return list(rows.values())


def line(row: Mapping[str, Any]) -> str:
    """A row for people."""
    if "error" in row:
        return f"{row['model']:18}{row['file']:24}  failed: {row['error']}"
    size = f"{row['megabytes']:8.2f}" if "megabytes" in row else "       -"
    worst = f"{row['largest_difference']:10.2g}" if "largest_difference" in row else "         -"
    kinds = row.get("layers", {})
    layers = ", ".join(f"{low} of {every} {kind}" for kind, (low, every) in kinds.items() if every)
    return (
        f"{row['model']:18}{row['file']:24}{row['median_ms']:8.2f}{row['p95_ms']:8.2f}{size}{worst}"
        f"{row['agreement']:8.1%}  {layers}"
    )


def main() -> None:
    """Print the table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--precisions", nargs="+", default=())
    parser.add_argument("--no-defaults", action="store_true")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--images", type=int, default=64, help="for calibration")
    parser.add_argument("--check", type=int, default=64, help="for agreement")
    parser.add_argument("--weights", type=Path, help="a candidate folder")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    machine = environment()
    print(f"{machine.cpu}, {machine.cores} cores, {', '.join(machine.cpu_flags)}")
    print(f"{given.threads} threads, batch 1, {given.images} calibration and {given.check} others")
    heads = f"{'median':>8}{'p95':>8}{'MB':>8}{'max diff':>10}{'same':>8}  in 8 bits"
    print(f"{'model':18}{'file':24}{heads}")
    made: list[dict[str, Any]] = []
    for name in [str(given.weights)] if given.weights else given.models:
        if given.weights:
            candidate = TorchCandidate.load(given.weights, allow_code=True)
        else:
            candidate = random_candidate(name, given.size)
        rows = rows_of(candidate, given)
        for row in rows:
            print(line(row), flush=True)
        made += rows
        if given.json:
            given.json.write_text(json.dumps({"cpu": machine.model_dump(), "rows": made}, indent=1))


if __name__ == "__main__":
    main()
