"""Exact and near duplicates, found without comparing full images pair by pair.

Exact: the same sha256 of the bytes. Near: a 64-bit difference hash (Krawetz, 2013) at Hamming
distance 6 or less AND a Pearson correlation of the 32x32 grey thumbnails of 0.995 or more. The
hash alone is useless here: in one CT set more than half of the images have another one at distance
2 or less, because bodies look alike; the correlation alone is fooled by a smooth background.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinipress.data.grouping import components, numbered
from clinipress.kinds.image.twins import THUMBNAIL
from clinipress.progress import SILENT, Progress

__all__ = ["Duplicates", "find_duplicates", "normalised"]

LARGEST_DISTANCE = 6
SMALLEST_CORRELATION = 0.995
BLOCK = 2048
FREQUENCIES = 8
# float32 dot products of unit vectors are off by about 1e-6; the exact test follows
ROUNDING = 1e-5


@dataclass(frozen=True)
class Duplicates:
    """Which images are the same, or nearly the same.

    Attributes:
        first: int64 ``[n]``: the first image with the same bytes (itself if it is the first),
            -1 where the image was not readable.
        near: int64 ``[pairs, 2]``: near-duplicates among the first ones, smaller number first.
        correlation: float32 ``[pairs]`` of their thumbnails.
    """

    first: NDArray[np.int64]
    near: NDArray[np.int64]
    correlation: NDArray[np.float32]

    def clusters(self) -> NDArray[np.int64]:
        """Connected components of both relations: int64 ``[n]`` from 0, -1 for unreadable."""
        items = np.flatnonzero(self.first >= 0)
        ends = np.concatenate([np.stack([items, self.first[items]], axis=1), self.near])
        root = components(len(self.first), ends[:, 0], ends[:, 1])
        return numbered([int(r) if f >= 0 else None for r, f in zip(root, self.first, strict=True)])

    def having_duplicate_in(
        self, images: NDArray[np.bool_], others: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Which of `images` are the same as, or near, one of `others` (without them); bool ``[n]``.

        Only direct pairs count, not chains of them.
        """
        known = self.first >= 0
        held = np.zeros(len(self.first), dtype=np.bool_)
        held[self.first[others & known]] = True
        hit = held.copy()
        for here, there in ((0, 1), (1, 0)):
            hit[self.near[held[self.near[:, there]], here]] = True
        result = images & known
        result[result] = hit[self.first[result]]
        return result


def find_duplicates(
    sha256: list[str],
    dhash: NDArray[np.uint64],
    thumbnails: NDArray[np.uint8],
    readable: NDArray[np.bool_],
    *,
    progress: Progress = SILENT,
) -> Duplicates:
    """Find all exact and near duplicates of what is `readable`; nothing is approximate.

    Memory beyond the arguments (sha256 of the bytes, dhash uint64 ``[n]``, thumbnails uint8
    ``[n, 32, 32]``): about 300 bytes per image, 40 MB of blocks and 20 bytes per pair.
    """
    names = [s if r else None for s, r in zip(sha256, readable, strict=True)]
    number = numbered(names)
    known = np.flatnonzero(number >= 0)
    _, positions = np.unique(number[known], return_index=True)
    firsts = known[positions]
    first = np.where(number >= 0, firsts[np.maximum(number, 0)] if len(firsts) else -1, -1)
    pairs, correlation = _near(dhash[firsts], thumbnails[firsts], progress)
    return Duplicates(first.astype(np.int64), firsts[pairs].reshape(-1, 2), correlation)


def _near(
    dhash: NDArray[np.uint64], thumbnails: NDArray[np.uint8], progress: Progress
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """All near-duplicate pairs by blocks of a matrix product, then the exact test of each."""
    task = "near-duplicates"
    short = _shortened(thumbnails)
    near = [np.empty((0, 2), dtype=np.int64)]
    values = [np.empty(0, dtype=np.float32)]
    starts = range(0, len(short), BLOCK)
    progress.start(task, len(starts))
    for i in starts:
        for j in range(i, len(short), BLOCK):
            close = short[i : i + BLOCK] @ short[j : j + BLOCK].T >= SMALLEST_CORRELATION - ROUNDING
            a, b = np.nonzero(np.triu(close, 1) if i == j else close)
            pairs, correlation = _confirmed(np.stack([a + i, b + j], axis=1), dhash, thumbnails)
            near.append(pairs)
            values.append(correlation)
        progress.advance(task)
    progress.finish(task)
    return np.concatenate(near), np.concatenate(values)


def _shortened(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 ``[n, 65]`` whose dot product is never below the thumbnails' correlation.

    The 64 lowest frequencies of the orthonormal cosine transform of the normalised thumbnail, and
    the length of the rest: a.b = low_a.low_b + rest_a.rest_b <= low_a.low_b + |rest_a||rest_b| by
    Cauchy-Schwarz. So nothing is missed, for a sixteenth of the multiplications.
    """
    basis = _cosines()
    result = np.empty((len(thumbnails), FREQUENCIES**2 + 1), dtype=np.float32)
    for start in range(0, len(thumbnails), BLOCK):
        unit = normalised(thumbnails[start : start + BLOCK])
        low = (basis @ unit.reshape(-1, THUMBNAIL, THUMBNAIL) @ basis.T).reshape(len(unit), -1)
        rest = np.square(unit).sum(axis=1) - np.square(low).sum(axis=1)
        result[start : start + BLOCK, :-1] = low
        result[start : start + BLOCK, -1] = np.sqrt(np.maximum(rest, 0))
    return result


def _cosines() -> NDArray[np.float32]:
    """The lowest rows of the orthonormal DCT-II matrix: float32 ``[8, 32]``."""
    k, x = np.arange(FREQUENCIES)[:, None], np.arange(THUMBNAIL)[None]
    basis = np.cos(np.pi * (x + 0.5) * k / THUMBNAIL) * np.sqrt(2 / THUMBNAIL)
    basis[0] /= np.sqrt(2)
    single: NDArray[np.float32] = basis.astype(np.float32)
    return single


def normalised(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rows of mean 0 and length 1, so that a dot product is Pearson's correlation.

    A thumbnail of one single grey has no correlation; its row is 0 and it is near to nothing.
    """
    rows: NDArray[np.float32] = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.maximum(length, 1e-3)
    return rows


def _confirmed(
    pairs: NDArray[np.int64], dhash: NDArray[np.uint64], thumbnails: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    distance = np.bitwise_count(dhash[pairs[:, 0]] ^ dhash[pairs[:, 1]])
    pairs = pairs[distance <= LARGEST_DISTANCE]
    values = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), BLOCK):
        a, b = pairs[start : start + BLOCK].T
        values[start : start + BLOCK] = np.einsum(
            "ij,ij->i", normalised(thumbnails[a]), normalised(thumbnails[b])
        )
    keep = values >= SMALLEST_CORRELATION
    return pairs[keep], values[keep]
