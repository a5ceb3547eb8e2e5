"""Drawn images, uint8 ``[count, channels, height, width]``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def smooth(count: int = 24, channels: int = 1, seed: int = 0, side: int = 16) -> NDArray[np.uint8]:
    """Sixteen flat fields each: as different from each other as their mean grey levels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, channels, 4, 4))
    return np.kron(coarse, np.ones((1, 1, side // 4, side // 4), int)).astype(np.uint8)


def noise(count: int, side: int, channels: int = 1, seed: int = 1) -> NDArray[np.uint8]:
    """Every pixel drawn for itself."""
    shape = (count, channels, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
