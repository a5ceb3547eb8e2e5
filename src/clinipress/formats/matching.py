"""Which tensor of one engine's graph holds the values of which tensor of another's.

Names of activations differ between toolchains, and so may layouts; what a tensor holds for the same
images does not. Ranges that were learnt or measured for one file find their places in another so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["connected", "equal_values", "match_tensors", "same_values"]

Key = TypeVar("Key", int, str)

# Two engines add up in another order, and one of them may have folded a batch norm: relative to the
# largest value of the tensor.
TOLERANCE = 1e-3


def match_tensors(
    wanted: Mapping[str, NDArray[Any]], candidates: Mapping[str, NDArray[Any]]
) -> dict[str, tuple[str, ...]]:
    """Tensors that hold the same values, whatever their names and layouts.

    Args:
        wanted: Tensor -> values for some images, float ``[n, c, h, w]``, ``[n, c]``, ...
        candidates: Tensor of the other graph -> its values for the same images; ``[n, h, w, c]`` is
            recognised.

    Returns:
        Name in `wanted` -> every name in `candidates` that holds its values, in their order; names
        without a partner are left out. One tensor may be found under several names of `wanted`: a
        clamp that does nothing on these images, a reshape.
    """
    sizes: dict[int, list[str]] = {}
    for name, values in candidates.items():
        sizes.setdefault(values.size, []).append(name)
    pairs = {}
    for name, values in wanted.items():
        same = [
            other for other in sizes.get(values.size, []) if same_values(values, candidates[other])
        ]
        if same:
            pairs[name] = tuple(same)
    return pairs


def same_values(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Equal but for rounding, axes of length one, and channels first or last.

    Example:
        >>> image = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
        >>> same_values(image, image.transpose(0, 2, 3, 1)), same_values(image, image[:, ::-1])
        (True, False)
    """
    return any(equal_values(first, other) for other in _layouts(second))


def equal_values(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Equal but for rounding and axes of length one; what is allowed goes by `first`."""
    if first.size != second.size or _shape(first) != _shape(second):
        return False
    difference = first.reshape(-1).astype(np.float64) - second.reshape(-1)
    allowed = TOLERANCE * float(np.abs(first).max(initial=0)) + 1e-6
    return float(np.abs(difference).max(initial=0)) <= allowed


def connected(pairs: Iterable[tuple[Key, Key]]) -> list[list[Key]]:
    """Groups of all that pairs join, one after the other, in the order of their first mention.

    Example:
        >>> connected([("a", "b"), ("c", "d"), ("a", "d")])
        [['b', 'a', 'd', 'c']]
    """
    owner: dict[Key, Key] = {}

    def root(key: Key) -> Key:
        while owner.setdefault(key, key) != key:
            key = owner[key]
        return key

    for member, other in pairs:
        end = root(other)
        owner[root(member)] = end
    groups: dict[Key, list[Key]] = {}
    for key in owner:
        groups.setdefault(root(key), []).append(key)
    return list(groups.values())


def _shape(values: NDArray[Any]) -> list[int]:
    return [side for side in values.shape if side > 1]


def _layouts(values: NDArray[Any]) -> list[NDArray[Any]]:
    """As it is, and with its last axis as channels second."""
    if values.ndim < 3:
        return [values]
    return [values, np.moveaxis(values, -1, 1)]
