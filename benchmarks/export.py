"""Model x precision: milliseconds, megabytes, agreement with float32, what the engine really runs.

    python benchmarks/export.py [--models resnet50 ...] [--size 128] [--seconds 6] [--images 64]

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

from clinipress.evaluate.measure import environment, latency, peak_memory
from clinipress.models.classifier import TorchCandidate, build
from clinipress.records import Card, InputSpec, ModelSpec
from clinipress.runtimes.onnx import OnnxCandidate
from clinipress.steps.export import count_low_precision, export_onnx, parity, to_float16, to_int8

MODELS = ("resnet50", "mobilenetv2_100", "mobilenetv3_small_100", "densenet121")
CLASSES = ("a", "b", "c", "d")


def random_candidate(name: str, size: int) -> TorchCandidate:
    """A network with random weights for grey images of `size` pixels."""
    import torch

    torch.manual_seed(0)
    spec = InputSpec(channels=1, height=size, width=size)
    model = ModelSpec(name=name, num_classes=len(CLASSES), in_channels=1, mean=0.2, std=0.25)
    card = Card(name=name, classes=CLASSES, input=spec, model=model)
    return TorchCandidate(card, build(model, spec).eval())


def smooth_images(count: int, spec: InputSpec) -> NDArray[np.uint8]:
    """Blotches of eight by eight: closer to pictures than noise is."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, spec.channels, 8, 8))
    rows = np.arange(spec.height) * 8 // spec.height
    columns = np.arange(spec.width) * 8 // spec.width
    return coarse[:, :, rows][:, :, :, columns].astype(np.uint8)


def export_all(
    candidate: TorchCandidate, folder: Path, images: NDArray[np.uint8], method: str
) -> dict[str, Path]:
    """The candidate's file in each precision."""
    paths = {name: folder / f"{name}.onnx" for name in ("float32", "float16", "int8")}
    export_onnx(candidate, paths["float32"])
    to_float16(paths["float32"], paths["float16"])
    to_int8(paths["float32"], paths["int8"], images, method=method)  # type: ignore[arg-type]
    return paths


def rows_of(candidate: TorchCandidate, options: argparse.Namespace) -> list[str]:
    """One line per precision."""
    spec = candidate.card.input
    images = smooth_images(2 * options.images, spec)
    with tempfile.TemporaryDirectory() as folder:
        calibration, check = images[: options.images], images[options.images :]
        paths = export_all(candidate, Path(folder), calibration, options.method)
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
            lines.append(
                f"{candidate.card.name:24}{name:9}{times[name][0]}{times[name][1]}"
                f"{path.stat().st_size / 1e6:8.2f}{peak_memory(path) / 1e6:8.1f}{same:8.1%}"
                f"   {counts.get(f'Conv {name}', 0)} of {total} convolutions {name}"
            )
        return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--weights", nargs="*", type=Path, default=[], help="candidate folders")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--method", default="percentile")
    options = parser.parse_args()
    where = environment()
    print(f"{where.cpu}, {where.cores} cores, {' '.join(where.cpu_flags)}")
    print(
        f"{'':33}{'1 thread: ms, p95':>17}{'2 threads: ms, p95':>17}{'MB':>7}{'peak MB':>9}  agree"
    )
    candidates = [TorchCandidate.load(folder) for folder in options.weights]
    names = [] if options.weights else options.models
    for name in names:
        candidates.append(random_candidate(name, options.size))
    for candidate in candidates:
        print("\n".join(rows_of(candidate, options)), flush=True)


if __name__ == "__main__":
    main()
