"""A torch network's last feature map, for Score-CAM."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.extras import require
from clinipress.models.classifier import TorchCandidate
from clinipress.records.candidate import BATCH, Floats, InputSpec

__all__ = ["TorchNetwork"]


class TorchNetwork:
    """A torch network on its own device; the candidate is left as it is.

    Raises:
        ModelError: It has no feature map, or goes on to tokens behind it.
    """

    def __init__(self, candidate: TorchCandidate) -> None:
        from clinipress.models.stages import stages

        self._module = candidate.module
        if hasattr(self._module.backbone, "patch_embed"):
            raise ModelError(
                f"a convolutional network for Score-CAM, not '{candidate.card.name}'",
                "a sequence of tokens: Score-CAM is not measured for transformers",
            )
        last = stages(self._module)[-1]
        sides = self._sides(candidate.card.input)
        if sides is not None and sides != (last.height, last.width):
            raise ModelError(
                f"a feature map of more than one cell before the logits of '{candidate.card.name}'",
                "none: nothing is left to say where the network looks",
                "use larger images",
            )
        self.layer = last.name

    def _sides(self, spec: InputSpec) -> tuple[int, ...] | None:
        """Rows and columns of what timm's networks give to their head; None where that is unknown.

        It tells a map of one cell from the larger one before it, which must not stand for it.
        """
        require("torch", extra="compress")
        import torch

        from clinipress.models.cost import evaluating
        from clinipress.models.stages import oriented

        backbone = self._module.backbone
        if not hasattr(backbone, "forward_features"):
            return None
        channels = spec.channels * self._module.repeats
        black = torch.zeros(
            (1, channels, spec.height, spec.width), device=self._module.shift.device
        )
        with evaluating(self._module), torch.no_grad():
            maps: torch.Tensor = cast(Any, backbone).forward_features(black)
        return tuple(oriented(backbone, maps).shape[2:]) if maps.ndim == 4 else None

    def look(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Logits and feature maps."""
        require("torch", extra="compress")
        import torch

        from clinipress.models.stages import read_maps

        maps = []
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH]))
            maps.append(read_maps(self._module, [self.layer], batch)[0].cpu().numpy())
        return self.answer(images.astype(np.float32)), np.concatenate(maps)

    def answer(self, images: Floats) -> Floats:
        """Logits."""
        require("torch", extra="compress")
        import torch

        from clinipress.models.cost import evaluating
        from clinipress.models.weights import laid_out

        logits = []
        with evaluating(self._module), torch.no_grad():
            for start in range(0, len(images), BATCH):
                batch = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH]))
                batch = laid_out(batch.to(self._module.shift.device), self._module.layout)
                logits.append(self._module(batch).cpu().numpy())
        return np.concatenate(logits)
