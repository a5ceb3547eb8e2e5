"""What near-duplicates are found by: thumbnails and difference hashes of images."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

__all__ = ["THUMBNAIL", "difference_hashes", "fine_hashes", "thumbnails_of"]


THUMBNAIL = 32


def thumbnails_of(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean of blocks: uint8 ``[n, h, w]``, sides a multiple of 32 -> uint8 ``[n, 32, 32]``."""
    n, height, width = grey.shape
    blocks = grey.reshape(n, THUMBNAIL, height // THUMBNAIL, THUMBNAIL, width // THUMBNAIL)
    small: NDArray[np.uint8] = np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
    return small


def difference_hashes(grey: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The 64 signs of horizontal differences of an 8x9 reduction (N. Krawetz, 2013).

    Of uint8 ``[n, h, w]``: uint64 ``[n]``; the first row's leftmost difference is the highest bit.
    """
    _, height, width = grey.shape
    small = _area(8, height) @ grey.astype(np.float32) @ _area(9, width).T
    bits = np.packbits((small[:, :, 1:] > small[:, :, :-1]).reshape(len(grey), 64), axis=1)
    hashes: NDArray[np.uint64] = bits.view(">u8")[:, 0].astype(np.uint64)
    return hashes


def fine_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """256 signs of horizontal and 256 of vertical differences, of reductions of 16 to a side.

    Of uint8 ``[n, 32, 32]``: uint64 ``[n, 8]``. No picture can be drawn from them.
    """
    grey = thumbnails.astype(np.float32)
    across = _area(16, THUMBNAIL) @ grey @ _area(17, THUMBNAIL).T
    down = _area(17, THUMBNAIL) @ grey @ _area(16, THUMBNAIL).T
    signs = np.concatenate(
        [
            (across[:, :, 1:] > across[:, :, :-1]).reshape(len(grey), 256),
            (down[:, 1:] > down[:, :-1]).reshape(len(grey), 256),
        ],
        axis=1,
    )
    return np.packbits(signs, axis=1).view(">u8").astype(np.uint64)


@functools.cache
def _area(small: int, large: int) -> NDArray[np.float32]:
    """Area-averaging matrix float32 ``[small, large]``, rows summing to 1."""
    edges = np.linspace(0, large, small + 1)
    pixels = np.arange(large)
    cover = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    share: NDArray[np.float32] = (np.clip(cover, 0, None) * small / large).astype(np.float32)
    return share
