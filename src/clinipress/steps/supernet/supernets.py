"""What the steps on supernets share: the parent, images to measure batch norms on, the child."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from clinipress.errors import ModelError
from clinipress.models.classifier import Classifier, TorchCandidate
from clinipress.models.ofa import Architecture, SuperNet
from clinipress.records.candidate import Candidate, InputSpec
from clinipress.steps.fitting import calibration_rows, torch_candidate
from clinipress.steps.step import Context
from clinipress.steps.supernet.shrinking import standalone

__all__ = ["FACTORY", "calibration_batches", "sub_net", "supernet_candidate", "supernet_of"]

FACTORY = "clinipress.models.ofa:ofa_mobilenetv3"  # builds a sub-net again
BATCH = 32


def supernet_candidate(candidate: Candidate | None) -> TorchCandidate:
    """The parent, a supernet.

    Raises:
        ModelError: It is another network.
    """
    supernet = torch_candidate(candidate)
    if not isinstance(supernet.module.backbone, SuperNet):
        raise ModelError(
            "a once-for-all supernet",
            f"'{supernet.spec.name or supernet.spec.factory}'",
            "give the reference the factory clinipress.models.ofa:ofa_supernet",
        )
    return supernet


def supernet_of(module: Classifier) -> SuperNet:
    """The supernet inside a classifier."""
    backbone: Any = module.backbone
    supernet: SuperNet = backbone
    return supernet


def calibration_batches(count: int, spec: InputSpec, seed: int, context: Context) -> list[Tensor]:
    """Un-augmented training images to measure batch norms on, classes in turn: uint8 batches of 32.

    The last batch, if it is not full, is left out, so that all weigh the same; fewer images than 32
    are one batch.
    """
    train = context.data.rows("train", spec)
    chosen = train.index[calibration_rows(train.labels, count, seed)]
    # sorted by rows they would be sorted by classes, and each batch's variance too small
    mixed = np.random.default_rng(seed).permutation(chosen)
    size = min(BATCH, len(mixed))
    cache = context.data.cache(spec)
    starts = range(0, len(mixed) // size * size, size)
    return [torch.from_numpy(cache.take(mixed[start : start + size])) for start in starts]


def sub_net(
    parent: TorchCandidate, architecture: Architecture, calibration: list[Tensor]
) -> TorchCandidate:
    """An extracted sub-net as an ordinary candidate, its batch norms measured again."""
    supernet = supernet_of(parent.module)
    module = standalone(parent.module, architecture, calibration)
    dropout = supernet.dropout_rate
    arguments = architecture.as_arguments() | ({"dropout": dropout} if dropout else {})
    spec = parent.spec.model_copy(update={"name": None, "factory": FACTORY, "arguments": arguments})
    return TorchCandidate(parent.card.model_copy(update={"model": spec}), module)
