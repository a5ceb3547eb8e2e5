"""How long a sub-net's float32 file takes in ONNX Runtime: measured, and predicted from that.

A call's own overhead is as large as a block at 64 pixels, so a table of single blocks would not add
up; whole sub-nets are measured, and a non-negative linear model is fitted to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clinipress.extras import require
from clinipress.models.ofa import Architecture
from clinipress.steps.supernet.supernets import sub_net
from clinipress.steps.timing import FileTimer

__all__ = ["LatencyModel", "Stopwatch"]


@dataclass
class LatencyModel:
    """Milliseconds of a call from what a sub-net consists of, by non-negative least squares.

    Features: one for the call, the blocks, those with squeeze and excitation, and multiply-adds by
    kind of layer. More measurements may be added; the fit is made anew.

    Attributes:
        side: Pixels of the input.
        measured: Sub-nets and their milliseconds.
    """

    side: tuple[int, int]
    measured: list[tuple[Architecture, float]] = field(default_factory=list)

    def features(self, chosen: Architecture) -> NDArray[np.float64]:
        """float64 ``[7]``."""
        kinds = chosen.macs_by_kind(self.side)
        blocks = chosen.blocks()
        macs = [kinds.get(f"depthwise{k}", 0) / 1e6 for k in (3, 5, 7)]
        squeezed = sum(block.squeeze > 0 for block in blocks)
        return np.asarray([1, len(blocks), squeezed, kinds["pointwise"] / 1e6, *macs])

    def predict(self, chosen: Architecture) -> float:
        """Milliseconds.

        Raises:
            ValueError: Nothing was measured.
        """
        if not self.measured:
            raise ValueError("at least one measurement is needed")
        return float(self.features(chosen) @ self._weights())

    def errors(self) -> list[float]:
        """Of each measurement the relative error of the fit."""
        return [self.predict(chosen) / milliseconds - 1 for chosen, milliseconds in self.measured]

    def _weights(self) -> NDArray[np.float64]:
        nnls = require("scipy.optimize", extra="compress").nnls
        rows = np.stack([self.features(chosen) for chosen, _ in self.measured])
        times = np.asarray([milliseconds for _, milliseconds in self.measured])
        # relative errors count alike; a feature's scale must not decide, so columns are scaled
        scale = np.abs(rows).max(0) + 1e-12
        solution, _ = nnls(rows / scale / times[:, None], np.ones(len(rows)))
        return np.asarray(solution / scale, dtype=np.float64)


class Stopwatch(FileTimer):
    """Times the float32 files of sub-nets of `origin`."""

    calls = 60

    def times(self, chosen: Sequence[Architecture]) -> list[float]:
        """Median milliseconds of a call of each."""
        try:
            subnets = [sub_net(self.origin, architecture, []) for architecture in chosen]
            files = {str(number): self.file(subnet) for number, subnet in enumerate(subnets)}
            return list(self.medians(files).values())
        finally:
            self.close()
