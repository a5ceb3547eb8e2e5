"""Columns of a manifest as groups of images: which values are told apart, and which column is none.

The rules, in order. Nothing, "unknown", "nan" and the like are a missing value. A column whose name
holds the word "age" and whose values are numbers (or DICOM ages such as "045Y") is divided into
0-39, 40-59, 60-79 and 80+ years. Other numbers with more than eight different values are divided
at their quartiles, which are those of the split; whole numbers that name an image or a patient are
left out. Everything else is taken by its value, and left out when it has more than twenty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["GroupColumn", "divide"]

Integers = NDArray[np.int64]
MISSING = frozenset(("", "?", "-", "na", "n/a", "nan", "none", "null", "unknown"))
AGE_BANDS = ((40.0, "0-39"), (60.0, "40-59"), (80.0, "60-79"), (np.inf, "80+"))
FEW_NUMBERS = 8  # as many are codes or grades rather than measurements
MOST_VALUES = 20
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


@dataclass(frozen=True)
class GroupColumn:
    """One column as groups.

    Attributes:
        name: As the manifest has it.
        values: Names of the groups, in their own order.
        codes: Group of each image, int64 ``[n]``; -1 where nothing is known.
    """

    name: str
    values: tuple[str, ...]
    codes: Integers

    @property
    def unknown(self) -> int:
        """Images without a value."""
        return int((self.codes < 0).sum())


def divide(
    groups: Mapping[str, Sequence[str]], index: Integers
) -> tuple[tuple[GroupColumn, ...], dict[str, str]]:
    """Divide every column.

    Args:
        groups: Column -> n values, "" where nothing is known.
        index: Unit of each image, int64 ``[n]``.

    Returns:
        The columns that divide the images, and column -> why for those left out.
    """
    columns, left_out = [], {}
    for name, values in groups.items():
        column = _column(name, [str(value).strip() for value in values], index)
        if isinstance(column, GroupColumn):
            columns.append(column)
        else:
            left_out[name] = column
    return tuple(columns), left_out


def _column(name: str, values: Sequence[str], index: Integers) -> GroupColumn | str:
    """The column, or why it is none."""
    known = np.array([value.lower() not in MISSING for value in values], np.bool_)
    if not known.any():
        return "no image has a value"
    age = re.search(r"(?:^|[^a-z])age(?:[^a-z]|$)", name.lower()) is not None
    numbers = _numbers(values, known, age=age)
    if numbers is not None and age:
        return _by_age(name, numbers, known)
    if numbers is not None and len(np.unique(numbers[known])) > FEW_NUMBERS:
        if _names(numbers[known], index[known]):
            return "whole numbers that name each image or patient"
        return _by_quartile(name, numbers, known)
    different = sorted({value for value, there in zip(values, known, strict=True) if there})
    if numbers is not None:
        different.sort(key=float)
    if len(different) > MOST_VALUES:
        return f"{len(different)} different values, more than {MOST_VALUES}"
    code_of = {value: number for number, value in enumerate(different)}
    codes = [code_of[v] if there else -1 for v, there in zip(values, known, strict=True)]
    return GroupColumn(name, tuple(different), np.array(codes, np.int64))


def _numbers(
    values: Sequence[str], known: NDArray[np.bool_], *, age: bool
) -> NDArray[np.float64] | None:
    """float64 ``[n]``, NaN where nothing is known; None when some value is not a number."""
    numbers = np.full(len(values), np.nan)
    for number in np.flatnonzero(known).tolist():
        text, factor = values[number], 1.0
        if age and re.fullmatch(r"\d{1,3}[DWMY]", text):  # DICOM's age string
            text, factor = text[:-1], _YEARS[text[-1]]
        try:
            numbers[number] = float(text) * factor
        except ValueError:
            return None
    return numbers if np.isfinite(numbers[known]).all() else None


def _names(numbers: NDArray[np.float64], index: Integers) -> bool:
    """True for whole numbers of which each belongs to one image, or one unit, and the reverse."""
    if (numbers % 1).any():
        return False
    different = len(np.unique(numbers))
    if different == len(numbers):
        return True
    pairs = len(np.unique(np.stack([numbers, index.astype(np.float64)]), axis=1).T)
    return different == pairs == len(np.unique(index))


def _by_age(name: str, years: NDArray[np.float64], known: NDArray[np.bool_]) -> GroupColumn:
    ends = np.array([end for end, _ in AGE_BANDS])
    band = np.searchsorted(ends, np.where(known, years, 0.0), side="right")
    return _present(name, [title for _, title in AGE_BANDS], np.where(known, band, -1))


def _by_quartile(name: str, numbers: NDArray[np.float64], known: NDArray[np.bool_]) -> GroupColumn:
    """Bands (low, high]; fewer than four where many values are the same."""
    cuts = np.unique(np.quantile(numbers[known], (0.25, 0.5, 0.75)))
    cuts = cuts[cuts < numbers[known].max()]
    band = np.searchsorted(cuts, np.where(known, numbers, 0.0), side="left")
    shown = [f"{cut:.6g}" for cut in cuts]
    if not shown:
        return _present(name, ["all"], np.where(known, 0, -1))
    between = [f"above {low} to {high}" for low, high in pairwise(shown)]
    titles = [f"up to {shown[0]}", *between, f"above {shown[-1]}"]
    return _present(name, titles, np.where(known, band, -1))


def _present(name: str, titles: Sequence[str], codes: Integers) -> GroupColumn:
    """Without the bands in which no image is."""
    used = np.unique(codes[codes >= 0])
    renumbered = np.where(codes < 0, -1, np.searchsorted(used, codes))
    return GroupColumn(name, tuple(titles[i] for i in used), renumbered.astype(np.int64))
