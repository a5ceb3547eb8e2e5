"""Several sub-nets of a supernet in one step of the one training loop.

In training a `Shrinking` answers ``[n, sub-nets, classes]``: the phase's largest and smallest (the
sandwich rule of Yu and Huang, ICCV 2019, arXiv:1903.05134) and some drawn anew for every step; its
loss is the mean over them. In evaluation it answers as the smallest, extracted, its batch norms
measured again: the epoch that is kept is the one in which the sub-net with the fewest weights is
best, for the largest was trained before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clinipress.models.classifier import Classifier
from clinipress.models.ofa import Architecture, Space, SuperNet, extract
from clinipress.models.recalibration import recalibrate_batch_norms
from clinipress.records.candidate import InputSpec
from clinipress.train.loop import EpochLoss, Loss

__all__ = ["Shrinking", "SubnetLoss", "standalone"]


def standalone(
    classifier: Classifier, architecture: Architecture, calibration: Sequence[Tensor]
) -> Classifier:
    """A sub-net as a classifier of its own, its batch norms measured again.

    `calibration` is uint8 batches of un-augmented training images, all of one size; none leave the
    statistics of the largest network.
    """
    backbone = extract(cast(SuperNet, classifier.backbone), architecture)
    spec = classifier.input_spec
    subnet = Classifier(backbone, spec, classifier.repeats * spec.channels, 0.0, 1.0)
    subnet.shift, subnet.scale = classifier.shift.clone(), classifier.scale.clone()
    subnet.eval()
    if len(calibration):
        recalibrate_batch_norms(subnet, calibration)
    return subnet


class Shrinking(nn.Module):
    """A supernet in one phase of its shrinking, as the training loop trains a network.

    Args:
        network: Of a `SuperNet`; not copied, so that it ends with the trained weights.
        space: What the phase allows.
        sampled: Sub-nets drawn for every step.
        sandwich: Also the phase's largest and smallest in every step.
        seed: Of the draws, which depend on (seed, epoch, step) alone.
        calibration: uint8 batches of un-augmented training images.
    """

    def __init__(
        self,
        network: Classifier,
        space: Space,
        *,
        sampled: int,
        sandwich: bool,
        seed: int,
        calibration: Sequence[Tensor],
    ) -> None:
        super().__init__()
        self.network, self.space = network, space
        self._sampled, self._sandwich, self._seed = sampled, sandwich, seed
        self._calibration = tuple(calibration)
        self._epoch, self._step = 0, 0
        self._judge: list[Classifier] = []  # in a list, so that it is no part of this module

    @property
    def input_spec(self) -> InputSpec:
        """What the images are like."""
        return self.network.input_spec

    def begin(self, epoch: int) -> None:
        """Epoch `epoch`, from 0, comes next."""
        self._epoch, self._step = epoch, 0

    def train(self, mode: bool = True) -> Shrinking:
        """Another mode; weights may have changed, so the judge is made anew when it is needed."""
        self._judge.clear()
        super().train(mode)
        return self

    def chosen(self) -> list[Architecture]:
        """The sub-nets of the step that comes."""
        random = np.random.default_rng([self._seed, self._epoch, self._step])
        ends = [self.space.largest(), self.space.smallest()] if self._sandwich else []
        return [*ends, *(self.space.sample(random) for _ in range(self._sampled))]

    def forward(self, images: Tensor) -> Tensor:
        """uint8 ``[n, c, h, w]`` -> logits: ``[n, sub-nets, classes]`` in training.

        In evaluation ``[n, classes]``, of the smallest sub-net with batch norms of its own.
        """
        if not self.training:
            return self._judged(images)
        supernet = cast(SuperNet, self.network.backbone)
        answers = []
        for architecture in self.chosen():
            supernet.activate(architecture)
            answers.append(self.network(images))
        supernet.activate(supernet.architecture)
        self._step += 1
        return torch.stack(answers, dim=1)

    def _judged(self, images: Tensor) -> Tensor:
        if not self._judge:
            device = self.network.shift.device
            batches = [batch.to(device) for batch in self._calibration]
            self._judge.append(standalone(self.network, self.space.smallest(), batches))
        logits: Tensor = self._judge[0](images)
        return logits


class SubnetLoss:
    """The mean over a step's sub-nets of a loss of one network, which hears of the epochs too."""

    def __init__(self, inner: Loss, shrinking: Shrinking) -> None:
        self._inner, self._shrinking = inner, shrinking

    def begin(self, epoch: int) -> None:
        """Called before every epoch."""
        self._shrinking.begin(epoch)
        inner: Any = self._inner
        if isinstance(inner, EpochLoss):
            inner.begin(epoch)

    def __call__(
        self, logits: Tensor, labels: Tensor, rows: NDArray[np.int64], view: int
    ) -> Tensor:
        """Mean loss of a batch, logits float ``[n, sub-nets, classes]``."""
        losses = [
            self._inner(subnet_logits, labels, rows, view) for subnet_logits in logits.unbind(1)
        ]
        return torch.stack(losses).mean()
