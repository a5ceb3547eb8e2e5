"""Values typed on the command line that are more than one word or number."""

from __future__ import annotations

import re

from clinipress.errors import InputError

__all__ = ["numbers", "pixels"]


def pixels(text: str) -> tuple[int, int]:
    """(height, width) of "224" or "192x256".

    Raises:
        InputError: It is neither.

    Example:
        >>> pixels("224"), pixels("192x256")
        ((224, 224), (192, 256))
    """
    match = re.fullmatch(r"\s*([0-9]{1,5})\s*(?:[xX\u00d7]\s*([0-9]{1,5})\s*)?", text)
    if match is None:
        raise InputError("--size 224, or HEIGHTxWIDTH such as 192x256", f"'{text:.40}'")
    return int(match[1]), int(match[2] or match[1])


def numbers(text: str, option: str) -> float | tuple[float, ...]:
    """One number, or three parted by commas.

    Raises:
        InputError: It is neither.

    Example:
        >>> numbers("0.5", "--mean"), numbers("0.485,0.456,0.406", "--mean")
        (0.5, (0.485, 0.456, 0.406))
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise InputError(f"{option} with one number, or three parted by commas", f"'{text:.40}'")
    return values[0] if len(values) == 1 else values
