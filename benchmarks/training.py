"""A training step of clinipress beside plain PyTorch loops, interleaved.

    CLINIPRESS_DATA=/path/to/data python benchmarks/training.py [--blocks 4] [--steps 10]

Each way to train lives in a process of its own (an allocator setting in one must not help another)
and they take turns, so that a machine that slows down slows all of them. MobileNetV2 at 128 pixels
on the grey MRI slices of ``brain-mri``, batches of 32. The plain loops are what one writes first:
float32, contiguous layout, AdamW; the one in memory does not even augment. Ours augments,
clips gradients, averages weights and looks at every loss.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from clinipress.data.cache import build_cache
from clinipress.data.sources import ImageItem, read_dataset
from clinipress.kinds.image.read import decode
from clinipress.models.classifier import new_classifier
from clinipress.recipe.steps import ModelRecipe, TrainOptions
from clinipress.records.candidate import InputSpec
from clinipress.train import fit as fitting
from clinipress.train.fit import Images, fit
from clinipress.train.losses import HardLoss

SIDE, BATCH = 128, 32
MODEL = os.environ.get("CLINIPRESS_BENCHMARK_MODEL", "mobilenetv2_100")
TARGET_RATIO, TARGET_WAIT = 1.35, 0.05


@dataclass(frozen=True)
class Cost:
    """Of one training step, the median over a block.

    Attributes:
        wall: Seconds.
        processor: Seconds of processor time of this process, which others on the machine disturb
            less; a DataLoader's workers are not in it.
        wait: Share of the wall time spent waiting for data.
    """

    wall: float
    processor: float
    wait: float


Block = Callable[[], Cost]


class Stamps:
    """Clock readings, one per step; the steps between readings are the medians' sample."""

    def __init__(self) -> None:
        self.readings: list[tuple[float, float]] = []

    def take(self) -> None:
        """Read both clocks."""
        self.readings.append((time.perf_counter(), time.process_time()))

    def cost(self, wait: float) -> Cost:
        """Medians of the differences."""
        steps = np.diff(np.asarray(self.readings), axis=0)
        wall, processor = np.median(steps, axis=0)
        return Cost(float(wall), float(processor), wait)


def some_items(folder: Path, count: int) -> tuple[list[ImageItem], tuple[str, ...]]:
    """About `count` training images, evenly over the classes."""
    dataset = read_dataset(folder / "brain-mri")
    items = [item for item in dataset.items if item.split in (None, "train")]
    stride = max(1, len(items) // count)
    return items[::stride][:count], dataset.classes


def plain_steps(batches: Iterator[tuple[torch.Tensor, torch.Tensor]], steps: int) -> Block:
    """The loop one writes first; `batches` gives float32 ``[n, 1, h, w]`` without end."""
    import timm

    torch.manual_seed(0)
    module = timm.create_model(MODEL, num_classes=4, in_chans=1).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.05)

    def block() -> Cost:
        stamps, began, waited = Stamps(), time.perf_counter(), 0.0
        stamps.take()
        for _ in range(steps):
            asked = time.perf_counter()
            images, labels = next(batches)
            waited += time.perf_counter() - asked
            optimizer.zero_grad()
            loss = F.cross_entropy(module(images), labels, label_smoothing=0.1)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()
            stamps.take()
        return stamps.cost(waited / (time.perf_counter() - began))

    return block


def from_files(items: list[ImageItem], classes: tuple[str, ...], steps: int, workers: int) -> Block:
    """PIL and torchvision's transforms in a DataLoader."""
    from PIL import Image
    from torchvision import transforms

    change = transforms.Compose(
        [
            transforms.Grayscale(),
            transforms.Resize((SIDE, SIDE)),
            transforms.RandomAffine(15, (0.06, 0.06), (0.8, 1.2)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=0.15, contrast=0.3),
            transforms.ToTensor(),
            transforms.Normalize([0.2], [0.2]),
        ]
    )

    class Files(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return len(items)

        def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
            with Image.open(items[number].path) as image:
                pixels: torch.Tensor = change(image)
            return pixels, classes.index(items[number].label)

    loader = torch.utils.data.DataLoader(
        Files(), BATCH, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0, multiprocessing_context="fork" if workers else None,
    )  # fmt: skip

    def endless() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from loader

    return plain_steps(endless(), steps)


def from_memory(items: list[ImageItem], classes: tuple[str, ...], steps: int) -> Block:
    """Everything decoded, resized and normalised beforehand, nothing augmented."""
    spec = InputSpec(channels=1, height=SIDE, width=SIDE)
    pixels = torch.from_numpy(np.stack([decode(item.path, spec) for item in items]))
    images = (pixels.float() / 255 - 0.2) / 0.2
    labels = torch.tensor([classes.index(item.label) for item in items])

    def endless() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            rows = torch.randint(0, len(images), (BATCH,))
            yield images[rows], labels[rows]

    return plain_steps(endless(), steps)


def ours(
    items: list[ImageItem], classes: tuple[str, ...], steps: int, *, tuned: bool = True
) -> Block:
    """`fit` for two epochs of `steps` steps; the second one counts (its views are number 1)."""
    spec = InputSpec(channels=1, height=SIDE, width=SIDE)
    folder = Path(tempfile.mkdtemp())
    cache = build_cache(items, classes, spec, folder / "cache")
    torch.manual_seed(0)
    _, module = new_classifier(ModelRecipe(name=MODEL), spec, len(classes), 0.2, 0.2)
    train = np.arange(len(items))[: BATCH * steps]
    images = Images(cache, train, train[:1])
    options = TrainOptions(epochs=2, batch_size=BATCH, warmup_epochs=0)
    if not tuned:
        vars(fitting)["tune_allocator"] = lambda: False
    hard, runs = HardLoss(0.1), 0

    def block() -> Cost:
        nonlocal runs
        runs, stamps = runs + 1, Stamps()

        def loss(
            logits: torch.Tensor, labels: torch.Tensor, rows: NDArray[np.int64], view: int
        ) -> torch.Tensor:
            if view == 1:
                stamps.take()
            return hard(logits, labels, rows, view)

        outcome = fit(
            module, images, options, modality="brain-mri", seed=runs, work=folder / str(runs),
            numerics="float32-channels-last", loss=loss,
        )  # fmt: skip
        row = outcome.epochs[1]
        return stamps.cost(row["wait_seconds"] / row["train_seconds"])

    return block


WAYS: dict[str, Callable[[list[ImageItem], tuple[str, ...], int], Block]] = {
    "files, no worker": partial(from_files, workers=0),
    "files, 2 workers": partial(from_files, workers=2),
    "in memory": from_memory,
    "ours": ours,
    "ours, allocator as it is": partial(ours, tuned=False),
}


def serve(way: str, folder: Path, steps: int, threads: int, pipe: Connection) -> None:
    """Body of one process: prepare, warm up, then a block for every word."""
    torch.set_num_threads(threads)
    items, classes = some_items(folder, BATCH * steps)
    block = WAYS[way](items, classes, steps)
    block()
    pipe.send(None)
    while pipe.recv():
        pipe.send(block())


def interleaved(
    ways: list[str], folder: Path, blocks: int, steps: int, threads: int
) -> dict[str, list[Cost]]:
    """Every way in turn, `blocks` times."""
    context = multiprocessing.get_context("spawn")
    crew: dict[str, tuple[Any, Connection]] = {}
    for way in ways:
        mine, theirs = context.Pipe()
        process = context.Process(target=serve, args=(way, folder, steps, threads, theirs))
        process.start()
        theirs.close()
        mine.recv()
        crew[way] = (process, mine)
    found: dict[str, list[Cost]] = {way: [] for way in ways}
    for _ in range(blocks):
        for way, (_, pipe) in crew.items():
            pipe.send(True)
            found[way].append(pipe.recv())
    for process, pipe in crew.values():
        pipe.send(False)
        process.join()
    return found


def compared(found: dict[str, list[Cost]], way: str, other: str, clock: str) -> float:
    """Median over the blocks of the ratio of two neighbours: `way` over `other`."""
    pairs = zip(found[way], found[other], strict=True)
    ratios = [float(getattr(a, clock) / getattr(b, clock)) for a, b in pairs]
    return statistics.median(ratios)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    given = parser.parse_args()
    folder = Path(os.environ["CLINIPRESS_DATA"])
    found = interleaved(given.ways, folder, given.blocks, given.steps, given.threads)
    print(f"{MODEL}, {SIDE} px, batch {BATCH}, threads: {given.threads}; medians of blocks")
    for way, costs in found.items():
        wall = statistics.median(cost.wall for cost in costs) * 1e3
        processor = statistics.median(cost.processor for cost in costs) * 1e3
        wait = statistics.median(cost.wait for cost in costs)
        print(
            f"  {way:26} {wall:7.0f} ms a step, {processor:7.0f} ms of processor time, "
            f"{wait:6.1%} waiting for data"
        )
    for way in found:
        if way != "ours" and "ours" in found:
            wall, processor = (compared(found, way, "ours", c) for c in ("wall", "processor"))
            print(f"  ours is {wall:.2f} times as fast ({processor:.2f} by processor): {way}")
    if {"ours", "in memory"} <= found.keys():
        wait = statistics.median(cost.wait for cost in found["ours"])
        met = compared(found, "in memory", "ours", "wall") >= TARGET_RATIO and wait <= TARGET_WAIT
        print(f"target (x{TARGET_RATIO} over in memory, wait {TARGET_WAIT:.0%}): {met=}")


if __name__ == "__main__":
    main()
