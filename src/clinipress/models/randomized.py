"""A network with its knowledge shuffled away: the baseline of a sanity check of saliency maps."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from clinipress.extras import require
from clinipress.models.classifier import TorchCandidate

__all__ = ["RANDOM_BATCH", "randomized"]


RANDOM_BATCH = 32


def randomized(
    candidate: TorchCandidate, images: NDArray[np.uint8], *, seed: int = 0, share: float = 1.0
) -> TorchCandidate:
    """A copy of the network with its knowledge shuffled away (Adebayo et al. 2018, section 3.1).

    Cascading randomization of a `share` of the layers from the logits downwards; 1 reaches the
    first layer. Weights are not drawn anew but shuffled within their tensor, so that each layer
    keeps its scale, and batch norms are measured again on two or more images, uint8 ``[m,
    channels, h, w]``: a fresh ResNet begins as an almost empty function (its last norms are 0),
    which would make the baseline too easy to beat.
    """
    require("torch", extra="compress")
    import torch

    from clinipress.models.recalibration import recalibrate_batch_norms

    module = copy.deepcopy(candidate.module)
    random = torch.Generator().manual_seed(seed)
    layers = [m for m in module.modules() if list(m.parameters(recurse=False))]
    with torch.no_grad():
        for layer in layers[round(len(layers) * (1 - share)) :]:
            for weights in layer.parameters(recurse=False):
                order = torch.randperm(weights.numel(), generator=random).to(weights.device)
                weights.copy_(weights.reshape(-1)[order].reshape(weights.shape))
    parts = np.array_split(images, max(1, len(images) // RANDOM_BATCH))
    device = module.shift.device
    recalibrate_batch_norms(module, [torch.from_numpy(part.copy()).to(device) for part in parts])
    card = candidate.card.model_copy(update={"name": f"{candidate.card.name}-randomized"})
    return TorchCandidate(card, module)
