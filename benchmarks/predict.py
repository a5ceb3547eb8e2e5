"""Cold start of ``clinipress predict``: a new interpreter, one image, one answer.

    python benchmarks/predict.py                       # builds two bundles with torch, measures
    python benchmarks/predict.py --bundle B --image I  # measures one that is there

The demand is an answer within 1.0 s and 150 MB resident, interpreter included. On a busy machine
the wall time says little: compare the processor time, which counts the work of all threads.

This process stays small on purpose. The kernel starts a child's peak memory at what its parent had
(``ru_maxrss`` survives exec), so a parent with torch in it would report its own memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WALL_LIMIT, MEMORY_LIMIT = 1.0, 150e6  # seconds, bytes
MODELS = ("mobilenetv3_small_050", "mobilenetv2_100")
SET_UP = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from clinipress.edge.bundle import clearest, write_bundle
from clinipress.models.classifier import TorchCandidate
from clinipress.models.classifier import new_classifier
from clinipress.recipe.study import ModelRecipe
from clinipress.records.candidate import Card, InputSpec
from clinipress.formats.onnx.float import export_onnx

name, folder, side = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
spec = InputSpec(channels=1, height=side, width=side)
classes = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")
model, module = new_classifier(ModelRecipe(name=name), spec, len(classes), 0.2, 0.2)
card = Card(name=name, classes=classes, input=spec, model=model)
exported = export_onnx(TorchCandidate(card, module.eval()), folder / f"{name}.onnx")
noise = np.random.default_rng(0).integers(0, 256, (16, 1, side, side), np.uint8)
sample = noise[clearest(exported.predict(noise))]
write_bundle(folder / name, exported.path, exported.card, sample=sample, evidence={})
Image.fromarray(np.random.default_rng(1).integers(0, 256, (512, 512), np.uint8)).save(
    folder / "image.jpg"
)
"""


def measure(command: list[str], repeats: int) -> dict[str, float]:
    """Run a command several times.

    Returns:
        Seconds of wall time (median, best), of processor time (median), and the largest peak
        memory in bytes.

    Raises:
        SystemExit: The command failed.
    """
    walls, processors, peaks = [], [], []
    for _ in range(repeats):
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        walls.append(time.perf_counter() - began)
        if os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit(f"failed: {' '.join(command)}")
        processors.append(usage.ru_utime + usage.ru_stime)
        peaks.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    return {
        "wall": statistics.median(walls),
        "best": min(walls),
        "processor": statistics.median(processors),
        "memory": float(max(peaks)),
    }


def report(name: str, command: list[str], repeats: int) -> bool:
    """Print one line; True when it meets the demand."""
    found = measure(command, repeats)
    good = found["wall"] <= WALL_LIMIT and found["memory"] <= MEMORY_LIMIT
    print(
        f"{name:28s} wall {found['wall']:.2f} s (best {found['best']:.2f}), "
        f"processor {found['processor']:.2f} s, peak {found['memory'] / 1e6:.0f} MB"
    )
    return good


def predict(bundle: Path, image: Path) -> list[str]:
    """The command as a user types it."""
    return [sys.executable, "-m", "clinipress", "predict", str(bundle), str(image)]


def build(name: str, folder: Path, side: int) -> Path:
    """A bundle of a network with random weights, made in a process of its own."""
    subprocess.run([sys.executable, "-c", SET_UP, name, str(folder), str(side)], check=True)
    return folder / name


def main() -> int:
    """Measure; exit code 1 when a demand is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--side", type=int, default=224, help="pixels of the built models' input")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    report("python, nothing imported", [sys.executable, "-c", "pass"], options.repeats)
    report("python, numpy imported", [sys.executable, "-c", "import numpy"], options.repeats)
    if options.bundle:
        image = options.image or options.bundle / "sample.png"
        return (
            0 if report(options.bundle.name, predict(options.bundle, image), options.repeats) else 1
        )
    with tempfile.TemporaryDirectory() as work:
        folder, good = Path(work), True
        for name in MODELS:
            bundle = build(name, folder, options.side)
            command = predict(bundle, folder / "image.jpg")
            good = report(f"{name}, {options.side} px", command, options.repeats) and good
        return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
