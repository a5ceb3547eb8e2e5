"""Small stand-ins for the tests of training: pixels in memory and networks of a few weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from clinipress.recipe import TrainOptions

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
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, classes),
    )


def options(**changes):
    return TrainOptions(**({"epochs": 4, "batch_size": 6} | QUICK | changes))


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_bits(a, b):
    """True when two state dicts hold the same names and bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
