"""A narrow supernet on drawn images, for the tests of the steps on supernets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clinipress.candidate import Context
from clinipress.data.study import Rows
from clinipress.models.classifier import TorchCandidate
from clinipress.models.zoo import new_classifier
from clinipress.recipe import ModelRecipe, TrainOptions
from clinipress.records import Card, InputSpec

SIDE, WIDTH = 32, 0.25
GREY = InputSpec(channels=1, height=SIDE, width=SIDE)
QUICK = {
    "batch_size": 8,
    "warmup_epochs": 0,
    "numerics": "float32-contiguous",
    "ema_decay": None,
    "augmentation": 0,
    "label_smoothing": 0,
    "weight_decay": 0,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """With more, threads of tiny networks wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Cache:
    """Pixels in memory, classes told apart by brightness."""

    def __init__(self, count=112):
        random = np.random.default_rng(0)
        self.labels = np.arange(count, dtype=np.int64) % 2
        noise = random.integers(0, 60, (count, 1, SIDE, SIDE))
        self.pixels = (noise + 90 * self.labels[:, None, None, None]).astype(np.uint8)
        self.shape = self.pixels.shape

    def take(self, indices):
        return self.pixels[indices]


class Data:
    """What a step asks of a study's data."""

    classes, modality, digest = ("dark", "bright"), "generic", "0" * 64

    def __init__(self):
        self.pixels = Cache()

    def cache(self, spec):
        return self.pixels

    def rows(self, split, spec):
        index = np.arange(64) if split == "train" else np.arange(64, 112)
        keys = tuple(f"{i}" for i in index)
        return Rows(index, self.pixels.labels[index], index, keys)


def options(**changes):
    return TrainOptions(**(QUICK | {"epochs": 1, "learning_rate": 5e-3} | changes))


def candidate(factory="clinipress.models.ofa:ofa_supernet", seed=0, **arguments):
    torch.manual_seed(seed)
    recipe = ModelRecipe(factory=factory, arguments={"width": WIDTH} | arguments)
    spec, module = new_classifier(recipe, GREY, 2, 0.4, 0.2)
    card = Card(name="parent", classes=Data.classes, input=GREY, model=spec)
    return TorchCandidate(card, module.eval())


def context(folder, reference=None, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"data": Data(), "work": folder, "shared": folder, "threads": 1}
    return Context(reference=reference, **(fields | changes))
