"""Model x precision: milliseconds, megabytes, agreement with float32, what the engine really runs.

    python benchmarks/export.py [--models resnet50 ...] [--size 128] [--seconds 6] [--images 64]
    python benchmarks/export.py --weights RUN/objects/distill-... --pictures FOLDER

The rows "ort" and "ort percentile" are ONNX Runtime's own route with its defaults
(quant_pre_process, then quantize_static with one scale per channel, uint8 activations), on the same
calibration images.

All precisions of a model and thread count are timed in turn, call by call, so the ratios hold
on a busy machine. Weights are random unless --weights names a candidate folder: times and sizes
are right, and agreement only says that the arithmetic is sound.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinipress.formats.measure import environment, latency, peak_memory
from clinipress.formats.onnx.count import count_low_precision
from clinipress.formats.onnx.float import export_onnx, to_float16
from clinipress.formats.onnx.int8 import apply_int8, plan_int8
from clinipress.formats.onnx.placement import agreement_images, choose_placement
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.formats.onnx.weight_only import to_int4, to_int8_dynamic
from clinipress.formats.parity import parity
from clinipress.formats.ranges import Batches, quiet
from clinipress.models.classifier import TorchCandidate, build
from clinipress.records.candidate import Card, InputSpec, ModelSpec

MODELS = ("resnet50", "mobilenetv2_100", "mobilenetv3_small_100", "densenet121")
CLASSES = ("a", "b", "c", "d")


def random_candidate(name: str, size: int) -> TorchCandidate:
    """A network with random weights for grey images of `size` pixels."""
    import torch

    torch.manual_seed(0)
    spec = InputSpec(channels=1, height=size, width=size)
    model = ModelSpec(name=name, num_classes=len(CLASSES), in_channels=1, mean=0.2, std=0.25)
    card = Card(name=name, classes=CLASSES, input=spec, model=model)
    module = build(model, spec)
    for part in module.modules():
        # timm starts the last norm of a block at 0: a converter may drop the whole block for it
        if isinstance(part, torch.nn.BatchNorm2d) and part.running_var is not None:
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return TorchCandidate(card, module.eval())


def smooth_images(count: int, spec: InputSpec) -> NDArray[np.uint8]:
    """Blotches of eight by eight: closer to pictures than noise is."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, spec.channels, 8, 8))
    rows = np.arange(spec.height) * 8 // spec.height
    columns = np.arange(spec.width) * 8 // spec.width
    return coarse[:, :, rows][:, :, :, columns].astype(np.uint8)


def pictures(folder: Path, count: int, spec: InputSpec, seed: int = 0) -> NDArray[np.uint8]:
    """Images of a folder, any depth, decoded as the card says; a seeded draw."""
    from clinipress.kinds.image.read import decode

    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png"))
    chosen = np.random.default_rng(seed).permutation(len(found))[:count]
    return np.stack([decode(found[place], spec) for place in chosen])


def onnxruntime_default(source: Path, target: Path, images: NDArray[np.uint8], method: str) -> None:
    """What a user gets who follows ONNX Runtime's own guide; the card goes in afterwards."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            target,
            Batches(images),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=getattr(quantization.CalibrationMethod, method),
            extra_options={"CalibStridedMinMax": 1},
        )
        model = onnx.load(target)
        card = OnnxCandidate.load(source, threads=1).card.model_copy(update={"precision": "int8"})
        onnx.helper.set_model_props(model, {"clinipress.card": card.model_dump_json()})
        onnx.save(model, target)


def export_all(
    candidate: TorchCandidate, folder: Path, images: NDArray[np.uint8], options: argparse.Namespace
) -> tuple[dict[str, Path], str]:
    """The candidate's file in each precision, and why "mixed" is as it is."""
    rows = ("float32", "float16", "ort", "ort percentile", "int8", "corrected", "dynamic", "int4")
    paths = {name: folder / f"{name.replace(' ', '-')}.onnx" for name in (*rows, "mixed")}
    source = paths["float32"]
    export_onnx(candidate, source)
    to_float16(source, paths["float16"])
    onnxruntime_default(source, paths["ort"], images, "MinMax")
    onnxruntime_default(source, paths["ort percentile"], images, "Percentile")
    apply_int8(source, paths["int8"], plan_int8(source, images, method=options.method))
    to_int8_dynamic(source, paths["dynamic"])
    to_int4(source, paths["int4"])
    plan = plan_int8(source, images, method="mse", equalized=True, bias_correction=True)
    apply_int8(source, paths["corrected"], plan)
    chosen, facts = choose_placement(
        source, plan, agreement_images(images, 0), threads=1, agreement=0.98, time=1.0
    )
    apply_int8(source, paths["mixed"], chosen, precision="mixed")
    return paths, facts["reason"]


def rows_of(candidate: TorchCandidate, options: argparse.Namespace) -> list[str]:
    """One line per precision."""
    spec = candidate.card.input
    count = 2 * options.images
    images = smooth_images(count, spec)
    if options.pictures:
        images = pictures(options.pictures, count, spec)
    with tempfile.TemporaryDirectory() as folder:
        calibration, check = images[: options.images], images[options.images :]
        paths, reason = export_all(candidate, Path(folder), calibration, options)
        times: dict[str, list[str]] = {name: [] for name in paths}
        for threads in (1, 2):
            loaded = {
                name: OnnxCandidate.load(path, threads=threads) for name, path in paths.items()
            }
            found = latency(
                loaded, images, threads=threads, repeats=100_000, seconds=options.seconds
            )
            for name, taken in found.items():
                times[name].append(f"{taken.median:8.2f} {taken.p95:8.2f}")
        lines = []
        for name, path in paths.items():
            file = OnnxCandidate.load(path, threads=2)
            same = 1 - parity(candidate, file, check).label_flips / len(check)
            counts = count_low_precision(path)
            total = sum(number for key, number in counts.items() if key.startswith("Conv "))
            low = counts["Conv int8"] + counts["Conv float16"]
            lines.append(
                f"{candidate.card.name:24}{name:16}{times[name][0]}{times[name][1]}"
                f"{path.stat().st_size / 1e6:8.2f}{peak_memory(path) / 1e6:8.1f}{same:8.1%}"
                f"   {low} of {total} convolutions in low precision"
            )
        return [*lines, f"    mixed: {reason}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--weights", nargs="*", type=Path, default=[], help="candidate folders")
    parser.add_argument("--pictures", type=Path, help="a folder of images; else synthetic blotches")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--method", default="percentile")
    options = parser.parse_args()
    where = environment()
    print(f"{where.cpu}, {where.cores} cores, {' '.join(where.cpu_flags)}")
    print(
        f"{'':40}{'1 thread: ms, p95':>17}{'2 threads: ms, p95':>17}{'MB':>7}{'peak MB':>9}  agree"
    )
    candidates = [TorchCandidate.load(folder, allow_code=True) for folder in options.weights]
    names = [] if options.weights else options.models
    for name in names:
        candidates.append(random_candidate(name, options.size))
    for candidate in candidates:
        print("\n".join(rows_of(candidate, options)), flush=True)


if __name__ == "__main__":
    main()
