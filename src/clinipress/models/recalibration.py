"""Batch norms' statistics measured again: after a cut, a layer's inputs are not what they were.

Re-estimating the statistics alone brings back much of what a cut network seems to have lost (Li et
al., EagleEye, ECCV 2020, arXiv:2007.02491, section 3), and costs a few forward passes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from clinipress.models.cost import evaluating

__all__ = ["recalibrate_batch_norms"]

BatchNorm = nn.modules.batchnorm._BatchNorm


def recalibrate_batch_norms(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace running means and variances by their averages over batches, in place; how many.

    Every batch, of more than one image, weighs the same, so batches should be of one size.
    Everything but the batch norms stays in evaluation mode; no weight changes, and modes come
    back.
    """
    norms = [m for m in network.modules() if isinstance(m, BatchNorm) and m.track_running_stats]
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    with evaluating(network), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average of all batches
            norm.train()
        for images in batches:
            network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return len(norms)
