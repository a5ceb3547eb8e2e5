"""Networks whose weights stand under odd names, and the images their answers are compared on."""

import torch
from torch import Tensor, nn

from tiny_nets import make

SIDE, CLASSES = 16, 3


def images() -> Tensor:
    """uint8 [4, 1, 16, 16]."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (4, 1, SIDE, SIDE), dtype=torch.uint8, generator=generator)


class Wrapped(nn.Module):
    def __init__(self, name, **options):
        super().__init__()
        self.name = name
        self.add_module(name, make(**options))

    def forward(self, x):
        return getattr(self, self.name)(x)


def wrapped(num_classes, in_chans, name="backbone", width=4):
    return Wrapped(name, num_classes=num_classes, in_chans=in_chans, width=width)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.third.weight = self.second.weight
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        x = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        return self.head(x.mean((2, 3)))


def tied(num_classes, in_chans, width=4):
    return Tied()


def normed(num_classes, in_chans, kind="new", width=4):
    net = make(num_classes, in_chans, width)
    ways = {"old": nn.utils.weight_norm, "new": nn.utils.parametrizations.weight_norm}
    net.head = ways[kind](net.head)
    return net
