"""Small stand-ins for the tests of training: pixels in memory and networks of a few weights."""

from __future__ import annotations

import os
import time

import numpy as np
import torch
from torch import nn

from clinipress.errors import ImageError
from clinipress.recipe.steps import TrainOptions
from clinipress.train import distributed

QUICK = {"numerics": "float32-channels-last", "warmup_epochs": 1.0}


class MemoryStore:
    """A pixel store in memory: class k is brighter by 60 k, so that it can be learned."""

    def __init__(self, n=24, channels=1, side=8, classes=2, seed=0):
        random = np.random.default_rng(seed)
        self.labels = np.arange(n, dtype=np.int64) % classes
        noise = random.integers(0, 60, (n, channels, side, side))
        self.pixels = (noise + 60 * self.labels[:, None, None, None]).astype(np.uint8)
        self.shape = self.pixels.shape

    def take(self, indices):
        return self.pixels[indices]


class Scaled(nn.Module):
    """uint8 in, logits out, whatever the body."""

    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, images):
        return self.body(images.float() / 255)


def small_net(seed=0, classes=2, channels=1):
    """Convolution, batch norm, dropout: everything that has state or randomness."""
    torch.manual_seed(seed)
    return Scaled(
        nn.Conv2d(channels, 6, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(24, classes),
    )


def plain_net(seed=0, classes=2):
    """No batch norm, no dropout: several processes must agree with one."""
    torch.manual_seed(seed)
    return Scaled(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, classes),
    )


def options(**changes):
    return TrainOptions(**({"epochs": 4, "batch_size": 6} | QUICK | changes))


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_bits(a, b):
    """True when two state dicts hold the same names and bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Ears:
    """A listener that keeps what it heard; an advance may raise."""

    def __init__(self, raise_at=None, error=KeyboardInterrupt):
        self.done, self.total, self.notes, self.said = 0, 0, [], []
        self._raise_at, self._error = raise_at, error

    def start(self, what, total):
        self.total = total

    def advance(self, what, units=1, note=""):
        self.done += units
        self.notes.append(note)
        if self._raise_at is not None and self.done >= self._raise_at:
            raise self._error

    def finish(self, what, note=""):
        self.notes.append(note)

    def say(self, text):
        self.said.append(text)


class Failing:
    """A loss that fails at its n-th call."""

    def __init__(self, at):
        self.calls, self.at = 0, at

    def __call__(self, logits, labels, rows, view):
        self.calls += 1
        if self.calls == self.at:
            raise RuntimeError("injected")
        return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)


def fail(kind, progress):
    """Run in two processes: the second fails in the way asked for."""
    if distributed.rank() == 1:
        if kind == "ours":
            raise ImageError("an image", "a stone", "photograph it")
        if kind == "theirs":
            raise ZeroDivisionError("oops")
        os._exit(7)
    time.sleep(60)


def collect(progress):
    """Run in two processes: what they find together."""
    progress.say(f"hello from {distributed.rank()}")
    total = distributed.sum_(torch.tensor([float(distributed.rank() + 1)]))
    mean = [torch.tensor([float(distributed.rank())])]
    distributed.average_(mean)
    agreed = distributed.from_main(("rank", distributed.rank()))
    return total.item(), mean[0].item(), agreed, distributed.local_threads(4)
