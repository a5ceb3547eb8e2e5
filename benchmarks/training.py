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
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from clinipress.data.cache import build_cache
from clinipress.data.images import decode
from clinipress.data.sources import Item, read_dataset
from clinipress.models.zoo import new_classifier
from clinipress.recipe import ModelRecipe, TrainOptions
from clinipress.records import InputSpec
from clinipress.train import fit as fitting
from clinipress.train.fit import Images, fit

SIDE, BATCH = 128, 32
MODEL = os.environ.get("CLINIPRESS_BENCHMARK_MODEL", "mobilenetv2_100")
TARGET_RATIO, TARGET_WAIT = 1.35, 0.05
# one block of work: seconds per step and the share of them spent waiting for data
Block = Callable[[], tuple[float, float]]


def some_items(folder: Path, count: int) -> tuple[list[Item], tuple[str, ...]]:
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

    def block() -> tuple[float, float]:
        began, waited = time.perf_counter(), 0.0
        for _ in range(steps):
            asked = time.perf_counter()
            images, labels = next(batches)
            waited += time.perf_counter() - asked
            optimizer.zero_grad()
            loss = F.cross_entropy(module(images), labels, label_smoothing=0.1)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()
        spent = time.perf_counter() - began
        return spent / steps, waited / spent

    return block


def from_files(items: list[Item], classes: tuple[str, ...], steps: int, workers: int) -> Block:
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


def from_memory(items: list[Item], classes: tuple[str, ...], steps: int) -> Block:
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


def ours(items: list[Item], classes: tuple[str, ...], steps: int, *, tuned: bool = True) -> Block:
    """`fit` for two epochs of `steps` steps; the second one counts."""
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
    runs = 0

    def block() -> tuple[float, float]:
        nonlocal runs
        runs += 1
        outcome = fit(
            module, images, options, modality="brain-mri", seed=runs, work=folder / str(runs),
            numerics="float32-channels-last",
        )  # fmt: skip
        row = outcome.epochs[1]
        return row["train_seconds"] / steps, row["wait_seconds"] / row["train_seconds"]

    return block


WAYS: dict[str, Callable[..., Block]] = {
    "files, no worker": lambda *given: from_files(*given, workers=0),
    "files, 2 workers": lambda *given: from_files(*given, workers=2),
    "in memory": from_memory,
    "ours": ours,
    "ours, allocator as it is": lambda *given: ours(*given, tuned=False),
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
) -> dict[str, list[tuple[float, float]]]:
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
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(blocks):
        for way, (_, pipe) in crew.items():
            pipe.send(True)
            found[way].append(pipe.recv())
    for process, pipe in crew.values():
        pipe.send(False)
        process.join()
    return found


def compared(found: dict[str, list[tuple[float, float]]], way: str, other: str) -> float:
    """Median over the blocks of the ratio of two neighbours: `way` over `other`."""
    pairs = zip(found[way], found[other], strict=True)
    return statistics.median(a[0] / b[0] for a, b in pairs)


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
    print(f"{MODEL}, {SIDE} px, batch {BATCH}, {given.threads} threads; medians of blocks")
    for way, values in found.items():
        step = statistics.median(seconds for seconds, _ in values) * 1e3
        wait = statistics.median(share for _, share in values)
        print(f"  {way:26} {step:7.0f} ms per step, {wait:6.1%} of it waiting for data")
    for way in found:
        if way != "ours" and "ours" in found:
            print(f"  ours is {compared(found, way, 'ours'):.2f} times as fast as: {way}")
    if {"ours", "in memory"} <= found.keys():
        wait = statistics.median(share for _, share in found["ours"])
        met = compared(found, "in memory", "ours") >= TARGET_RATIO and wait <= TARGET_WAIT
        print(f"target (x{TARGET_RATIO} over in memory, wait {TARGET_WAIT:.0%}): {met=}")


if __name__ == "__main__":
    main()
