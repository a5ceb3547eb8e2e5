"""A step of distillation with the teacher's outputs cached, beside a plain step of the student.

    CLINIPRESS_DATA=/path/to/data python benchmarks/distillation.py [--blocks 4] [--steps 8]

The same student, images, views and options; only the loss differs, in blocks that take turns. The
cost of the teacher itself, paid once per view, is printed beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clinipress.data.cache import Cache, build_cache
from clinipress.models.classifier import TorchCandidate
from clinipress.models.zoo import new_classifier
from clinipress.recipe import ModelRecipe, TrainOptions
from clinipress.records import Card, InputSpec
from clinipress.train.fit import Images, Loss, fit
from clinipress.train.losses import HardLoss
from clinipress.train.teacher import DistillationLoss, teacher_logits
from training import BATCH, SIDE, Cost, Stamps, some_items

TEACHER, STUDENT = "resnet18", "mobilenetv3_small_100"
VIEWS, STRENGTH, MODALITY = 2, 1.0, "brain-mri"
TARGET = 1.15
SPEC = InputSpec(channels=1, height=SIDE, width=SIDE)


def candidate(name: str, classes: tuple[str, ...]) -> TorchCandidate:
    """A fresh network; what it has learned does not change what it costs."""
    torch.manual_seed(0)
    spec, module = new_classifier(ModelRecipe(name=name), SPEC, len(classes), 0.2, 0.2)
    card = Card(name=name, classes=classes, input=SPEC, model=spec)
    return TorchCandidate(card, module)


def block(
    student: TorchCandidate, cache: Cache, rows: NDArray[np.int64], loss: Loss, seed: int
) -> Cost:
    """Two epochs; the second one counts (its views are number 1)."""
    stamps = Stamps()

    def stamped(
        logits: torch.Tensor, labels: torch.Tensor, some: NDArray[np.int64], view: int
    ) -> torch.Tensor:
        if view == 1:
            stamps.take()
        return loss(logits, labels, some, view)

    options = TrainOptions(epochs=2, batch_size=BATCH, warmup_epochs=0)
    with tempfile.TemporaryDirectory() as work:
        outcome = fit(
            student.module, Images(cache, rows, rows[:1]), options, modality=MODALITY, seed=seed,
            work=Path(work), numerics="float32-channels-last", loss=stamped, views=VIEWS,
        )  # fmt: skip
    row = outcome.epochs[1]
    return stamps.cost(row["wait_seconds"] / row["train_seconds"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    items, classes = some_items(Path(os.environ["CLINIPRESS_DATA"]), BATCH * given.steps)
    with tempfile.TemporaryDirectory() as folder:
        cache = build_cache(items, classes, SPEC, Path(folder) / "cache")
        rows = np.arange(len(items))[: BATCH * given.steps]
        teacher, student = candidate(TEACHER, classes), candidate(STUDENT, classes)
        began = time.perf_counter()
        table = teacher_logits(
            teacher, cache, rows, modality=MODALITY, strength=STRENGTH, seed=0, views=VIEWS,
            path=Path(folder) / "teacher.npy",
        )  # fmt: skip
        once = (time.perf_counter() - began) / VIEWS / given.steps * 1e3
        soft = DistillationLoss(table, rows, temperature=4.0, alpha=0.7, smoothing=0.1)
        losses: dict[str, Loss] = {"plain": HardLoss(0.1), "distilled": soft}
        for loss in losses.values():
            block(student, cache, rows, loss, 0)  # warm up
        found: dict[str, list[Cost]] = {name: [] for name in losses}
        for number in range(given.blocks):
            for name, loss in losses.items():
                found[name].append(block(student, cache, rows, loss, number))
    report(found, once, given.threads)


def report(found: dict[str, list[Cost]], once: float, threads: int) -> None:
    """Print the medians and the ratio of neighbours."""
    print(f"{STUDENT} from {TEACHER}, {SIDE} px, batch {BATCH}, threads: {threads}")
    for name, costs in found.items():
        print(f"  {name:10} {statistics.median(cost.wall for cost in costs) * 1e3:6.0f} ms a step")
    print(f"  the teacher, once per view: {once:.0f} ms a batch")
    pairs = list(zip(found["distilled"], found["plain"], strict=True))
    ratio = statistics.median(a.wall / b.wall for a, b in pairs)
    processor = statistics.median(a.processor / b.processor for a, b in pairs)
    met = ratio <= TARGET
    print(
        f"  distilled / plain: {ratio:.3f} ({processor:.3f} by processor); at most {TARGET}: {met=}"
    )


if __name__ == "__main__":
    main()
