"""timm networks with random weights as candidates, and smooth images for them."""

from __future__ import annotations

import numpy as np
import torch

from clinipress.models.classifier import TorchCandidate, build
from clinipress.records.candidate import Card, InputSpec, ModelSpec

CLASSES = ("a", "b", "c")


def candidate_of(name, side, *, channels=1, in_channels=1, mean=0.2, std=0.25, seed=0, **arguments):
    """A network of timm for square images; batch norms have seen some, so that it is alive."""
    torch.manual_seed(seed)
    spec = InputSpec(channels=channels, height=side, width=side)
    model = ModelSpec(
        name=name, arguments=arguments, num_classes=len(CLASSES), in_channels=in_channels,
        mean=mean, std=std,
    )  # fmt: skip
    module = build(model, spec).train()
    with torch.no_grad():
        for number in range(4):
            module(torch.from_numpy(pictures(16, spec, number)))
    return TorchCandidate(Card(name=name, classes=CLASSES, input=spec, model=model), module.eval())


def pictures(count, spec, seed=0):
    """Blotches of eight by eight, uint8 ``[count, channels, height, width]``."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, spec.channels, 8, 8))
    rows, columns = (np.arange(side) * 8 // side for side in (spec.height, spec.width))
    return coarse[:, :, rows][:, :, :, columns].astype(np.uint8)
