"""A step of distillation beside a plain step of the same student, and beside two peers.

    CLINIPRESS_DATA=/path/to/data python benchmarks/distillation.py [--blocks 4] [--steps 8]

The same student, images and batch for all; blocks take turns, so that a machine that slows down
slows all of them. Ours: soft targets, a FitNet hint and attention transfer, with the teacher's
answers cached; what the teacher itself costs, once per view, is printed beside them. Peers: our
own loop with the teacher in it, which is what one writes first, and torchdistill's box (install
`torchdistill` to measure it), which runs the teacher at every step too. The peer trains on ready
float32 images without augmentation, averaging or clipping, in a process whose allocator is tuned
by ours: its own ratio is flattered, not ours.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clinipress.data.cache import Cache, build_cache
from clinipress.models.classifier import TorchCandidate, new_classifier
from clinipress.recipe.steps import ModelRecipe, TrainOptions
from clinipress.records.candidate import Card, InputSpec
from clinipress.steps.distill.features import FeatureLoss, FeatureMethod, Tapped, choose_pairs
from clinipress.steps.distill.loss import DistillationLoss
from clinipress.steps.distill.teacher import CachedMaps, Views, teacher_logits, teacher_maps
from clinipress.train.fit import Images, Loss, fit
from clinipress.train.losses import HardLoss, distillation
from training import BATCH, SIDE, Cost, Stamps, some_items

TEACHER, STUDENT = "resnet18", "mobilenetv3_small_100"
VIEWS, STRENGTH, MODALITY = 2, 1.0, "brain-mri"
EPOCHS, CACHED_VIEWS = 50, 8  # of the default recipe, to share out the teacher's own time
TARGET = 1.15
SPEC = InputSpec(channels=1, height=SIDE, width=SIDE)
SOFT: dict[str, Any] = {"temperature": 4.0, "alpha": 0.7, "smoothing": 0.1}
Block = Callable[[], Cost]


def candidate(name: str, classes: tuple[str, ...]) -> TorchCandidate:
    """A fresh network; what it has learned does not change what it costs."""
    torch.manual_seed(0)
    spec, module = new_classifier(ModelRecipe(name=name), SPEC, len(classes), 0.2, 0.2)
    card = Card(name=name, classes=classes, input=SPEC, model=spec)
    return TorchCandidate(card, module.eval())


class InTheLoop:
    """Distillation with the teacher run at every step."""

    def __init__(self, teacher: TorchCandidate, views: Views) -> None:
        self._teacher, self._views = teacher, views

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, rows: NDArray[np.int64], view: int
    ) -> torch.Tensor:
        """Mean loss of a batch; the teacher looks at the same view."""
        answers = self._teacher.predict(self._views.images(rows, view).numpy())
        return distillation(logits, labels, torch.from_numpy(answers), **SOFT)


def ours(module: torch.nn.Module, cache: Cache, rows: NDArray[np.int64], loss: Loss) -> Cost:
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
            module, Images(cache, rows, rows[:1]), options, modality=MODALITY, seed=0,
            work=Path(work), numerics="float32-channels-last", loss=stamped, views=VIEWS,
        )  # fmt: skip
    row = outcome.epochs[1]
    return stamps.cost(row["wait_seconds"] / row["train_seconds"])


def with_maps(
    method: FeatureMethod,
    teacher: TorchCandidate,
    student: TorchCandidate,
    views: Views,
    table: NDArray[np.float32],
    folder: Path,
) -> Block:
    """A block of soft targets and one feature method, maps cached."""
    pairs = choose_pairs(method, student.module, teacher.module)
    layers = [theirs.name for _, theirs in pairs]
    shapes = [
        (theirs.channels if method == "fitnet" else 1, theirs.height, theirs.width)
        for _, theirs in pairs
    ]
    maps = teacher_maps(
        teacher, layers, method, views, shapes=shapes, path=folder / f"{method}.npy"
    )

    def block() -> Cost:
        sides = [(mine.channels, theirs.channels) for mine, theirs in pairs]
        tapped = Tapped(
            student.module, [mine.name for mine, _ in pairs],
            sides if method == "fitnet" else None, seed=0,
        )  # fmt: skip
        features = FeatureLoss(tapped, CachedMaps(maps, views.rows, shapes), method)
        loss = DistillationLoss(table, views.rows, beta=5.0, features=features, **SOFT)
        try:
            return ours(tapped, views.cache, views.rows, loss)  # type: ignore[arg-type]
        finally:
            tapped.release()

    return block


def torchdistill_block(
    teacher: TorchCandidate, student: TorchCandidate, views: Views
) -> Block | str:
    """The peer's box on ready images, or why it is not measured."""
    try:
        box_of = importlib.import_module("torchdistill.core.distillation").DistillationBox
        loss_of = importlib.import_module("torchdistill.losses.mid_level").KDLoss
    except ImportError as problem:
        return f"{problem} (pip install torchdistill)"
    pixels = torch.cat([views.images(some, 1) for some in np.array_split(views.rows, 8)])
    labels = torch.from_numpy(views.cache.labels[views.rows])
    data = torch.utils.data.TensorDataset(pixels.float(), labels)
    where = {"student_module_path": ".", "student_module_io": "output"}
    where |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    loss = loss_of(**where, temperature=4.0, alpha=0.3, label_smoothing=0.1)
    config: dict[str, Any] = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "images",
            "sampler": {"class_or_func": torch.utils.data.RandomSampler, "kwargs": {}},
            "kwargs": {"batch_size": BATCH, "num_workers": 0, "drop_last": True},
        },
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-3, "weight_decay": 0.05}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}},
        },
    }
    device = torch.device("cpu")
    box = box_of(
        teacher.module.eval(), student.module, {"images": data}, config, device, None, False, 1.0
    )

    def block() -> Cost:
        stamps, began, waited = Stamps(), time.perf_counter(), 0.0
        box.pre_epoch_process(epoch=0)
        stamps.take()
        asked = time.perf_counter()
        for images, targets, supplement in box.train_data_loader:
            waited += time.perf_counter() - asked
            value = box.forward_process(images, targets, supplement)
            box.post_forward_process(loss=value)
            value.item()
            stamps.take()
            asked = time.perf_counter()
        return stamps.cost(waited / (time.perf_counter() - began))

    return block


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    items, classes = some_items(Path(os.environ["CLINIPRESS_DATA"]), BATCH * given.steps)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = build_cache(items, classes, SPEC, folder / "cache")
        rows = np.arange(len(items))[: BATCH * given.steps]
        views = Views(cache, rows, MODALITY, STRENGTH, 0, VIEWS)
        teacher, student = candidate(TEACHER, classes), candidate(STUDENT, classes)
        began = time.perf_counter()
        table = teacher_logits(teacher, views, path=folder / "teacher.npy")
        once = (time.perf_counter() - began) / VIEWS / given.steps
        soft = DistillationLoss(table, rows, **SOFT)
        module = student.module
        blocks: dict[str, Block | str] = {
            "plain": partial(ours, module, cache, rows, HardLoss(0.1)),
            "soft targets": partial(ours, module, cache, rows, soft),
            "fitnet": with_maps("fitnet", teacher, student, views, table, folder),
            "attention": with_maps("attention", teacher, student, views, table, folder),
            "teacher in the loop": partial(ours, module, cache, rows, InTheLoop(teacher, views)),
            "torchdistill": torchdistill_block(teacher, candidate(STUDENT, classes), views),
        }
        found = take_turns(blocks, given.blocks)
    report(found, blocks, once, given.threads)


def take_turns(blocks: dict[str, Block | str], rounds: int) -> dict[str, list[Cost]]:
    """Every block once to warm up, then `rounds` times in turn."""
    ready = {name: block for name, block in blocks.items() if not isinstance(block, str)}
    for block in ready.values():
        block()
    found: dict[str, list[Cost]] = {name: [] for name in ready}
    for _ in range(rounds):
        for name, block in ready.items():
            found[name].append(block())
    return found


def ratio(found: dict[str, list[Cost]], name: str, clock: str) -> float:
    """Median over rounds of a block's step beside the plain one of the same round."""
    pairs = zip(found[name], found["plain"], strict=True)
    return float(statistics.median(getattr(a, clock) / getattr(b, clock) for a, b in pairs))


def report(
    found: dict[str, list[Cost]], blocks: dict[str, Block | str], once: float, threads: int
) -> None:
    """Print medians and ratios; the teacher's own time shared out over the default recipe."""
    print(f"{STUDENT} from {TEACHER}, {SIDE} px, batch {BATCH}, threads: {threads}")
    for name, block in blocks.items():
        if isinstance(block, str):
            print(f"  {name:20} not measured: {block}")
            continue
        wall = statistics.median(cost.wall for cost in found[name]) * 1e3
        beside = f"{ratio(found, name, 'wall'):.3f}x plain by the clock"
        print(f"  {name:20} {wall:6.0f} ms a step, {beside}, "
              f"{ratio(found, name, 'processor'):.3f}x by processor")  # fmt: skip
    plain = statistics.median(cost.wall for cost in found["plain"])
    step = ratio(found, "soft targets", "wall")
    whole = step + once * CACHED_VIEWS / EPOCHS / plain
    print(f"  the teacher, once per view: {once * 1e3:.0f} ms a batch")
    print(f"  an epoch of {EPOCHS} with {CACHED_VIEWS} views, the teacher's share in it: "
          f"{whole:.3f}x plain")  # fmt: skip
    met = step <= TARGET and whole <= TARGET
    print(f"  soft targets over plain: {step:.3f} a step; at most {TARGET}, the teacher's share "
          f"included: {met=}")  # fmt: skip


if __name__ == "__main__":
    main()
