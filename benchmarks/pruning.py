"""Pruning beside plain Torch-Pruning: the ratio reached, the latency it buys, the time it takes.

    python benchmarks/pruning.py [--models resnet18 ...] [--ratio 0.5] [--repeats 100]

Random weights: what is compared is how near the asked share of multiply-adds each gets, what the
float32 file then costs in ONNX Runtime, and how long the cut takes; not accuracy. Torch-Pruning is
used as its documentation shows: a global MagnitudePruner with `pruning_ratio`, which counts
channels, and the same once more with the ratio found by bisection until the multiply-adds fit,
which is what a user of it has to do. All files of a model are timed call by call in turn.
"""

from __future__ import annotations

import argparse
import copy
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

from clinipress.formats.measure import latency
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.models.classifier import Classifier, TorchCandidate, new_classifier
from clinipress.models.pruning.cost import cost
from clinipress.models.pruning.pruned import plan_pruning, prune
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import Card, InputSpec

MODELS = (
    "resnet18",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "densenet121",
    "swin_tiny_patch4_window7_224",
)
SPEC = InputSpec(channels=1, height=128, width=128)
CLASSES = ("a", "b", "c")
BISECTIONS = 7
PATIENCE = 120  # seconds for one way: a peer was seen not to end on Swin


def fresh(name: str) -> TorchCandidate:
    """A network with random weights."""
    torch.manual_seed(0)
    spec, module = new_classifier(ModelRecipe(name=name), SPEC, len(CLASSES), 0.4, 0.2)
    return TorchCandidate(Card(name=name, classes=CLASSES, input=SPEC, model=spec), module)


def ours(module: Classifier, ratio: float) -> Classifier:
    """Channels in multiples of eight, as the recipe's default."""
    return prune(module, plan_pruning(module, ratio=ratio, round_to=8))


def plain(module: Classifier, ratio: float) -> Classifier:
    """Torch-Pruning as its README shows, classifier kept."""
    small = copy.deepcopy(module)
    network: Any = small.backbone.eval()
    last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    images = torch.zeros(1, SPEC.channels, SPEC.height, SPEC.width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.MagnitudePruner(
            network,
            images,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            global_pruning=True,
            round_to=8,
            ignored_layers=[last],
        )
        pruner.step()
    return small


def bisected(module: Classifier, ratio: float) -> Classifier:
    """The plain way, again and again until the multiply-adds fit."""
    low, high, whole = 0.0, 1.0, cost(module, "macs")
    best: tuple[float, Classifier] | None = None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        small = plain(module, middle)
        reached = 1 - cost(small, "macs") / whole
        if best is None or abs(reached - ratio) < best[0]:
            best = abs(reached - ratio), small
        low, high = (middle, high) if reached < ratio else (low, middle)
    if best is None:
        raise ValueError("at least one bisection")
    return best[1]


WAYS: dict[str, Callable[[Classifier, float], Classifier]] = {
    "clinipress": ours,
    "Torch-Pruning": plain,
    "Torch-Pruning, bisected": bisected,
}


def row(name: str, ratio: float, repeats: int, folder: Path) -> None:
    """Cut, export, time and print one model."""
    origin = fresh(name)
    whole = cost(origin.module, "macs")
    files = {"whole": file(origin, folder / "whole.onnx")}
    found: dict[str, tuple[float, float] | str] = {}
    for way, cut in WAYS.items():
        began = time.perf_counter()
        try:
            with limited(PATIENCE):
                small = cut(origin.module, ratio)
            took = time.perf_counter() - began
            reached = 1 - cost(small, "macs") / whole
            files[way] = file(TorchCandidate(origin.card, small), folder / f"{len(files)}.onnx")
            found[way] = reached, took
        except Exception as problem:  # a peer may fail in any way; the table says so
            found[way] = f"fails: {type(problem).__name__} {str(problem).splitlines()[0][:70]}"
    image = np.zeros((1, SPEC.channels, SPEC.height, SPEC.width), np.uint8)
    times = latency(files, image, threads=1, repeats=repeats)
    before = times["whole"].median
    print(f"{name}: {whole / 1e6:.0f} M multiply-adds, {before:.2f} ms")
    for way, outcome in found.items():
        if isinstance(outcome, str):
            print(f"  {way:24} {outcome}")
        else:
            reached, took = outcome
            after = times[way].median
            print(
                f"  {way:24} {reached:6.1%} of {ratio:.0%} removed, {after:6.2f} ms "
                f"({before / after:.2f}x), cut in {took:.1f} s"
            )


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def late(*_: object) -> None:
        raise TimeoutError(f"no end in {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def file(candidate: TorchCandidate, path: Path) -> OnnxCandidate:
    """A float32 file, opened with one thread."""
    export_onnx(candidate, path)
    return OnnxCandidate.load(path, threads=1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            row(name, given.ratio, given.repeats, Path(folder))


if __name__ == "__main__":
    main()
