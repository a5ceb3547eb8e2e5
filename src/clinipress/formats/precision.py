"""Does a file hold what its precision promises? Sentences from counts, whatever engine counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError

__all__ = ["check_float16", "is_float_layer", "not_quantized", "quantized_layers", "zero_counts"]

# Listed even where there are none, so that a file in which nothing was quantized shows it.
LISTED = ("Conv", "Gemm")


def zero_counts() -> Counter[str]:
    """Where every counter of operators begins: convolutions and Gemm, none in each type."""
    kinds = ("float32", "float16", "int8")
    return Counter({f"{name} {kind}": 0 for name in LISTED for kind in kinds})


def quantized_layers(counts: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Layers that compute in 8 bits (or on packed 4-bit weights), and all there are, by kind.

    Args:
        counts: Operator and type -> number, as the `count_operators` of a format gives them.

    Returns:
        "convolutions", "linear", "recurrent" -> (quantized, all).

    Example:
        >>> quantized_layers({"Conv int8": 3, "Conv float32": 1})["convolutions"]
        (3, 4)
    """

    def tally(*operators: str) -> tuple[int, int]:
        tallies = dict.fromkeys(("low", "all"), 0)
        for key, number in counts.items():
            name, _, kind = key.partition(" ")
            if name in operators:
                tallies["all"] += number
                tallies["low"] += number if kind in ("int8", "int4") else 0
        return tallies["low"], tallies["all"]

    return {
        "convolutions": tally("Conv", "ConvTranspose"),
        "linear": tally("Gemm", "MatMul", "Attention"),
        "recurrent": tally("LSTM", "GRU"),
    }


LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Attention", "LSTM", "GRU"}


def is_float_layer(key: str) -> bool:
    """Whether a counted operator is a layer that computes in float.

    Example:
        >>> [is_float_layer(key) for key in ("Conv float32", "Conv int8", "Add float32")]
        [True, False, False]
    """
    name, _, kind = key.partition(" ")
    return name in LAYERS and kind in ("float32", "float16", "bfloat16")


def not_quantized(
    counts: Mapping[str, int], sizes: Mapping[str, int], precision: str
) -> str | None:
    """One sentence when a file does not hold what its precision promises, else None.

    "int8" and "int8-dynamic" promise arithmetic: more than half of the network's convolutions,
    linear and recurrent layers. "int4-weights" and "mixed" promise bytes: more than half of those
    of the weights.

    Args:
        counts: Operator and type -> number.
        sizes: Bytes of the weights by type.
        precision: What the file is named after.
    """
    if precision in ("int8", "int8-dynamic"):
        layers = quantized_layers(counts)
        done, total = (sum(pair[side] for pair in layers.values()) for side in (0, 1))
        if 2 * done > total:
            return None
        parts = [f"{low} of {every} {kind}" for kind, (low, every) in layers.items() if every]
        return " and ".join(parts) + " quantized"
    if precision in ("int4-weights", "mixed"):
        kinds = ("int4",) if precision == "int4-weights" else ("int4", "int8")
        low = sum(sizes.get(kind, 0) for kind in kinds)
        total = sum(sizes.values())
        if 2 * low > total:
            return None
        return f"{low / max(total, 1):.0%} of the weights' bytes in {' or '.join(kinds)}"
    return None


def check_float16(arrays: Iterable[NDArray[Any]], source: Path) -> None:
    """Refuse weights that float16 would make infinite; engines clamp them without a word.

    Args:
        arrays: A file's constants; those that are no floats are passed over.
        source: The file, for the message.

    Raises:
        ModelError: A weight is beyond float16.
    """
    limit = float(np.finfo(np.float16).max)
    floats = (array for array in arrays if array.dtype.kind == "f")
    largest = max(float(np.abs(array).max(initial=0)) for array in floats)
    if largest > limit:
        raise ModelError(
            f"weights up to {limit:g} in '{source.name}' for float16",
            f"a weight of {largest:g}",
            "export it as float32 or int8",
        )
