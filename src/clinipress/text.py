"""Words and numbers as every reader sees them: terminal, pages, cards, reasons.

One word for one verdict, one minus sign, one dash. Needs nothing beyond the standard library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from clinipress.base_records import Status

__all__ = ["STATUS_WORDS", "sentence", "tally"]

STATUS_WORDS: Mapping[Status, str] = {
    "pass": "PASS",
    "fail": "FAIL",
    "inconclusive": "INCONCLUSIVE",
}


def sentence(words: str) -> str:
    """Words with a full stop, unless they bring their own end.

    For what a user wrote: a purpose, the name of a class.

    Example:
        >>> sentence("For triage"), sentence("Not for patients."), sentence("nodule n.o.s.")
        ('For triage.', 'Not for patients.', 'nodule n.o.s.')
    """
    words = words.strip()
    ended = words.rstrip("\"')]\u201d\u2019").endswith((".", "!", "?", "\u2026"))
    return words if ended else f"{words}."


def tally(counts: Iterable[tuple[str, int | str]]) -> str:
    """Names with what belongs to each, which a number at the end of a name must not run into.

    Example:
        >>> tally([("30 to 39", 291), ("40 to 49", 1255)])
        '30 to 39 (291), 40 to 49 (1,255)'
    """
    return ", ".join(
        f"{name} ({value:,})" if isinstance(value, int) else f"{name} ({value})"
        for name, value in counts
    )
