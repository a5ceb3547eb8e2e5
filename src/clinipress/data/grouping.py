"""Units that must not be torn apart, and how to deal them out: pure functions on arrays.

A unit is a patient, a cluster of near-duplicates, or both where they overlap. Folds of the
audit's cross-validation and the splits of a study are dealt by the same function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["class_counts", "components", "deal", "merge", "numbered", "shuffled_by_key"]

UNKNOWN = -1


def numbered(values: Sequence[Hashable | None]) -> NDArray[np.int64]:
    """Numbers in the order of first appearance; None becomes -1.

    Example:
        >>> numbered(["b", None, "a", "b"]).tolist()
        [0, -1, 1, 0]
    """
    seen: dict[Hashable, int] = {}
    numbers = (UNKNOWN if v is None else seen.setdefault(v, len(seen)) for v in values)
    return np.fromiter(numbers, dtype=np.int64, count=len(values))


def components(n: int, a: NDArray[np.integer], b: NDArray[np.integer]) -> NDArray[np.int64]:
    """The smallest node, int64 ``[n]``, that each node of an undirected graph is connected with.

    Minimum-label propagation with pointer jumping (Shiloach and Vishkin, 1982): a few array
    passes, where a union-find in Python would take a second per million edges. `a` and `b`, int
    ``[edges]``, are the ends of the edges.
    """
    root = np.arange(n, dtype=np.int64)
    while True:
        low = np.minimum(root[a], root[b])
        joined = root.copy()
        # hooking the roots, not the nodes, is what makes whole trees move at once
        np.minimum.at(joined, root[a], low)
        np.minimum.at(joined, root[b], low)
        while not np.array_equal(joined, joined[joined]):
            joined = joined[joined]
        if np.array_equal(joined, root):
            return root
        root = joined


def merge(*labelings: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 ``[n]``: units in which two items stay together if any labeling puts them together.

    Labelings are int64 ``[n]``; -1 means unknown and links with nothing. Units are numbered in the
    order of first appearance.

    Example:
        >>> merge(np.array([0, 0, 1, -1]), np.array([5, 6, 6, 7])).tolist()
        [0, 0, 0, 1]
    """
    n = len(labelings[0])
    ends: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for labels in labelings:
        known = np.flatnonzero(labels != UNKNOWN)
        _, first, inverse = np.unique(labels[known], return_index=True, return_inverse=True)
        ends.append((known, known[first[inverse]]))
    root = components(n, np.concatenate([e[0] for e in ends]), np.concatenate([e[1] for e in ends]))
    return numbered(root.tolist())


def class_counts(
    units: NDArray[np.int64], labels: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Images of each class in each unit, int64 ``[units, classes]``; both are numbers from 0."""
    size = int(units.max(initial=-1)) + 1
    flat = np.bincount(units * classes + labels, minlength=size * classes)
    return flat.reshape(size, classes).astype(np.int64)


def finding_counts(units: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Images with each finding, and images in all, of each unit: int64 ``[units, k + 1]``.

    Args:
        units: Numbers from 0, int64 ``[n]``.
        labels: int64 ``[n, k]``: 1 present, 0 absent, -1 unknown.
    """
    size = int(units.max(initial=-1)) + 1
    columns = np.concatenate([labels == 1, np.ones((len(labels), 1), np.bool_)], axis=1)
    counts = [np.bincount(units, column, size) for column in columns.T.astype(np.float64)]
    return np.stack(counts, axis=1).astype(np.int64)


def shuffled_by_key(keys: Sequence[str], seed: int) -> NDArray[np.int64]:
    """A seeded order, int64 ``[n]``, that depends on names only, never on how they were listed."""
    marks = [hashlib.sha256(f"{seed}:{key}".encode()).digest() for key in keys]
    return np.asarray(sorted(range(len(keys)), key=marks.__getitem__), dtype=np.int64)


def deal(
    counts: NDArray[np.int64], fractions: Sequence[float], order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Deal units to splits so that each class has its share in each, as near as units allow.

    Greedy, largest unit first: each goes where it lowers the chi-square-like distance
    ``sum (dealt - wanted)^2 / wanted`` most. Large units go first because small ones can still
    even out what they upset; dividing by the wanted number fills all splits at the same pace, so
    that the test split does not end up with single images only. Then each class that misses a
    split gets its smallest unit there, if the giver keeps one.

    Args:
        counts: int64 ``[units, classes]`` images.
        fractions: Share of each split, summing to 1.
        order: int64 ``[units]``; breaks ties between units of one size.

    Returns:
        int64 ``[units]``: number of the split of each unit.
    """
    wanted = np.outer(np.asarray(fractions), counts.sum(axis=0)).astype(np.float64)
    weight = 1.0 / np.maximum(wanted, 1e-9)
    gap = -2.0 * wanted
    result = np.zeros(len(counts), dtype=np.int64)
    sizes = counts.sum(axis=1)
    for unit in order[np.argsort(-sizes[order], kind="stable")]:
        images = counts[unit]
        split = int(np.argmin((weight * images * (gap + images)).sum(axis=1)))
        gap[split] += 2 * images
        result[unit] = split
    _fill_empty(counts, result, len(fractions))
    return result


def _fill_empty(counts: NDArray[np.int64], result: NDArray[np.int64], splits: int) -> None:
    """Give each split a unit of each class, where another split can spare one; in place."""
    sizes = counts.sum(axis=1)
    for label in range(counts.shape[1]):
        for split in range(splits):
            if not (counts[result == split, label]).any():
                owners = np.flatnonzero(counts[:, label]).tolist()
                spare = [unit for unit in owners if _can_leave(counts, result, unit)]
                if spare:
                    # the split with most units of the class gives, and its smallest unit at that
                    held = np.bincount(result[counts[:, label] > 0], minlength=splits)
                    giver = min(spare, key=lambda u: (-held[result[u]], sizes[u]))
                    result[giver] = split


def _can_leave(counts: NDArray[np.int64], result: NDArray[np.int64], unit: int) -> bool:
    left = counts[result == result[unit]].sum(axis=0) - counts[unit]
    return bool((left[counts[unit] > 0] > 0).all())
