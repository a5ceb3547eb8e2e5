"""Score-CAM beside pytorch-grad-cam's: time per image, largest difference, rank correlation.

    python benchmarks/saliency.py RUN/objects/train-... --pictures FOLDER [--size 224] [--images 2]
        [--channels 0] [--batches 16 64] [--threads 2] [--json OUT]

Every row does the same images in turn, image by image, so the ratios hold on a busy machine. The
referee runs as its manual has it, at its default batch size of 16 and at those of --batches. With
--channels both sides weigh that many channels alone, evenly spaced, with as much fewer groups, and
all times are multiplied accordingly: a time is that of the masked forward passes, one a channel.
Correlations need a network that was trained (one trained at another size answers well enough at
--size to compare maps), and the full number of channels.

Rows: "exact"; "fast" with the network's own answers to the group's masks; "fast, int8 passes" with
those of its int8 file, which is no row of a study, where reference and int8 file are compared.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray

from clinipress.evidence.saliency.explained import fill_level
from clinipress.evidence.saliency.score_cam import GROUPS, score_cam
from clinipress.evidence.saliency.similarity import spearman
from clinipress.formats.measure import environment
from clinipress.formats.onnx.features import OnnxNetwork
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.int8 import apply_int8, plan_int8
from clinipress.models.classifier import TorchCandidate
from clinipress.models.features import TorchNetwork
from clinipress.records.candidate import FeatureNetwork
from export import pictures

Images = NDArray[np.uint8]
Call = Callable[[Images, NDArray[np.int64]], NDArray[np.float32]]
CALIBRATION = 32


class Some:
    """A network of which only some channels are weighed."""

    def __init__(self, network: FeatureNetwork, channels: NDArray[np.int64]) -> None:
        self.network, self.channels, self.layer = network, channels, network.layer

    def look(self, images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits and some of the maps."""
        logits, maps = self.network.look(images)
        return logits, maps[:, self.channels]

    def answer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits."""
        return self.network.answer(images)


def resized(candidate: TorchCandidate, size: int) -> TorchCandidate:
    """The same convolutions on larger images."""
    spec = candidate.card.input.model_copy(update={"height": size, "width": size})
    candidate.module.input_spec = spec
    return TorchCandidate(candidate.card.model_copy(update={"input": spec}), candidate.module)


def referee(candidate: TorchCandidate, channels: NDArray[np.int64], batch: int) -> Call:
    """pytorch-grad-cam's ScoreCAM on the backbone, which takes normalised images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_grad_cam  # type: ignore[import-untyped]
        from pytorch_grad_cam import score_cam as theirs
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # type: ignore[import-untyped]
    theirs.tqdm = SimpleNamespace(tqdm=lambda each: each)  # their name for it, not the module
    module = candidate.module
    layer = module.backbone.get_submodule(TorchNetwork(candidate).layer)
    camera = pytorch_grad_cam.ScoreCAM(
        module.backbone, [layer], reshape_transform=lambda maps: maps[:, channels]
    )
    camera.batch_size = batch

    def call(images: Images, explained: NDArray[np.int64]) -> NDArray[np.float32]:
        pixels = (torch.from_numpy(images).float() - module.shift) / module.scale
        targets = [ClassifierOutputTarget(int(label)) for label in explained]
        found: NDArray[np.float32] = camera(pixels, targets)
        return found

    return call


def rows(
    candidate: TorchCandidate, folder: Path, images: Images, arguments: argparse.Namespace
) -> dict[str, Call]:
    """Everything that is timed, the referee's default first."""
    export_onnx(candidate, folder / "float32.onnx")
    source = folder / "float32.onnx"
    apply_int8(source, folder / "int8.onnx", plan_int8(source, images))
    exact = OnnxNetwork(folder / "float32.onnx", "float32", arguments.threads)
    rounded = OnnxNetwork(folder / "int8.onnx", "int8", arguments.threads)
    count = exact.look(images[:1])[1].shape[1]
    some = arguments.channels or count
    channels = np.linspace(0, count - 1, some).round().astype(np.int64)
    own, passes, fill = Some(exact, channels), Some(rounded, channels), fill_level(candidate)
    groups = max(1, round(GROUPS * some / count))
    calls = {
        f"pytorch-grad-cam, batch {batch}": referee(candidate, channels, batch)
        for batch in dict.fromkeys((16, *arguments.batches))
    }

    def ours(**options: object) -> Call:
        return lambda x, y: score_cam(own, x, y, fill=fill, **options)  # type: ignore[arg-type]

    arguments.factor = count / some
    print(f"{count} channels, {some} of them weighed; map '{exact.layer}'")
    return calls | {
        "exact": ours(),
        f"fast ({groups} groups)": ours(mode="fast", groups=groups),
        "exact, int8 passes": ours(scored_by=passes),
        f"fast, int8 passes ({groups} groups)": ours(mode="fast", groups=groups, scored_by=passes),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--channels", type=int, default=0)
    parser.add_argument("--batches", type=int, nargs="*", default=[64])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-referee", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    candidate = resized(TorchCandidate.load(arguments.weights, allow_code=True), arguments.size)
    found = pictures(arguments.pictures, CALIBRATION + arguments.images, candidate.card.input)
    calibration, images = found[:CALIBRATION], found[CALIBRATION:]
    explained = candidate.predict(images).argmax(1).astype(np.int64)
    with tempfile.TemporaryDirectory() as folder:
        calls = rows(candidate, Path(folder), calibration, arguments)
        if arguments.without_referee:
            calls = {name: call for name, call in calls.items() if "grad-cam" not in name}
        taken: dict[str, list[float]] = {name: [] for name in calls}
        maps: dict[str, list[NDArray[np.float32]]] = {name: [] for name in calls}
        for row in range(len(images)):
            for name, call in calls.items():
                began = time.perf_counter()
                maps[name].append(call(images[row : row + 1], explained[row : row + 1])[0])
                taken[name].append(time.perf_counter() - began)
    report(taken, maps, arguments)


def report(
    taken: dict[str, list[float]],
    maps: dict[str, list[NDArray[np.float32]]],
    arguments: argparse.Namespace,
) -> None:
    """The table, and the same as JSON."""
    first = next(iter(taken))
    exact = np.stack(maps["exact"])
    best = min((sum(v) for name, v in taken.items() if "grad-cam" in name), default=float("nan"))
    print(f"{environment().cpu}; {arguments.threads} threads, {arguments.size} px")
    print(f"grad-cam {metadata.version('grad-cam')}, torch {torch.__version__}")
    head = f"{'row':36s}{'s/image':>9s}{'ratio':>8s}{'to best':>9s}{'max diff':>10s}"
    print(f"{head}{'Spearman':>10s}{'lowest':>8s}")
    table = {}
    for name, seconds in taken.items():
        mine = np.stack(maps[name])
        alike = spearman(exact.astype(np.float64), mine.astype(np.float64))
        table[name] = {
            "seconds_per_image": float(np.mean(seconds)) * arguments.factor,
            "ratio": sum(taken[first]) / sum(seconds),
            "ratio_to_best": best / sum(seconds),
            "largest_difference": float(np.abs(mine - np.stack(maps[first])).max()),
            "spearman": float(np.nanmean(alike)),
            "lowest_spearman": float(np.nanmin(alike)),
        }
        one = list(table[name].values())
        print(
            f"{name:36s}{one[0]:9.2f}{one[1]:8.2f}{one[2]:9.2f}{one[3]:10.1e}"
            f"{one[4]:10.4f}{one[5]:8.3f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(vars(arguments) | {"rows": table}, default=str))


if __name__ == "__main__":
    main()
