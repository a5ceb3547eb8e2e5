"""Drawn images in memory, as a step finds them in a study: for the tests of the steps."""

from __future__ import annotations

import numpy as np

from clinipress.data.study import Rows
from clinipress.steps.step import Context


class Cache:
    """Pixels in memory, classes told apart by brightness."""

    def __init__(self, count, side, noise):
        random = np.random.default_rng(0)
        self.labels = np.arange(count, dtype=np.int64) % 2
        noisy = random.integers(0, noise, (count, 1, side, side))
        self.pixels = (noisy + 90 * self.labels[:, None, None, None]).astype(np.uint8)
        self.shape = self.pixels.shape

    def take(self, indices):
        return self.pixels[indices]


class Data:
    """What a step asks of a study's data; the first `training` images are trained on."""

    classes, modality, digest = ("dark", "bright"), "generic", "0" * 64
    task = "multiclass"

    def __init__(self, count=40, training=24, side=16, noise=90):
        self.pixels = Cache(count, side, noise)
        self.training = training

    def cache(self, spec):
        return self.pixels

    def rows(self, split, spec):
        whole = np.arange(len(self.pixels.labels))
        index = whole[: self.training] if split == "train" else whole[self.training :]
        keys = tuple(f"{i}" for i in index)
        return Rows(index, self.pixels.labels[index], index, keys)


class FindingsCache(Cache):
    """Two findings, together or alone, a brightness each; of every fifth image one is unknown."""

    def __init__(self, count, side, noise):
        super().__init__(count, side, noise)
        every = np.arange(count)
        self.labels = np.stack([every % 2, every // 2 % 2], axis=1).astype(np.int64)
        pixels = np.random.default_rng(1).integers(0, noise, self.shape)
        pixels[..., : side // 2] += 90 * self.labels[:, :1, None, None]
        pixels[..., side // 2 :] += 90 * self.labels[:, 1:, None, None]
        self.pixels = pixels.astype(np.uint8)
        self.labels[::5, 0] = -1


class FindingsData(Data):
    """The same of images that may show any of two findings."""

    classes, task = ("left", "right"), "multilabel"

    def __init__(self, count=40, training=24, side=16, noise=90):
        super().__init__(count, training, side, noise)
        self.pixels = FindingsCache(count, side, noise)


def context(folder, data, reference=None, **changes):
    """Where a step works, for a test's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"data": data, "work": folder, "shared": folder, "threads": 1}
    return Context(reference=reference, **(fields | changes))
