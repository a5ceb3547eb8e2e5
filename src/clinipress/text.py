"""Words and numbers as every reader sees them: terminal, pages, cards, reasons.

One word for one verdict, one minus sign, one dash. Needs nothing beyond the standard library.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

__all__ = [
    "DASH",
    "IN_FLOAT",
    "JOINERS",
    "MINUS",
    "STATUS_WORDS",
    "capital",
    "class_words",
    "counted",
    "fixed",
    "joined",
    "not_used",
    "plain",
    "plain_page",
    "sentence",
    "signed",
    "tally",
    "trial_words",
    "true_minus",
    "turned_words",
    "without_steering",
]

# Why a layer of an 8-bit file computes in float.
IN_FLOAT = "the toolchain has no 8-bit kernel or leaves it so for accuracy"
MINUS, DASH = "\u2212", "\u2013"
STATUS_WORDS: Mapping[Literal["pass", "fail", "inconclusive"], str] = {
    "pass": "PASS",
    "fail": "FAIL",
    "inconclusive": "INCONCLUSIVE",
}


def fixed(value: float, decimals: int) -> str:
    """A number with so many decimals, a true minus sign, and no sign on what rounds to zero.

    Example:
        >>> fixed(-1234.56, 1), fixed(-0.04, 1)
        ('\u22121,234.6', '0.0')
    """
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", MINUS)


def true_minus(text: str) -> str:
    """A sentence whose negative numbers have the minus sign that all others have.

    Example:
        >>> true_minus("-0.5 to 1.0 on 2026-02-03"), true_minus("--data, a-1")
        ('\u22120.5 to 1.0 on 2026-02-03', '--data, a-1')
    """
    return re.sub(r"(?<![\w.\u2013-])-(?=\d)", MINUS, text)


def signed(value: float, decimals: int) -> str:
    """The same with a plus before what is above zero."""
    text = fixed(value, decimals)
    return text if text.startswith(MINUS) or not text.strip("0.,") else f"+{text}"


# Joiners that some scripts are written with; nothing else of their kind is let through.
JOINERS = "\u200c\u200d"
_STEERING = frozenset(("Cc", "Cf", "Cs", "Cn", "Zl", "Zp"))
_NOT_PLAIN_ASCII = re.compile(r"[^ -~]")


def without_steering(text: str, instead: Callable[[str], str], keep: str = "") -> str:
    """Text whose characters that could steer a terminal are replaced, but for those to `keep`."""

    def replaced(found: re.Match[str]) -> str:
        steers = found[0] not in JOINERS + keep and unicodedata.category(found[0]) in _STEERING
        return instead(found[0]) if steers else found[0]

    return _NOT_PLAIN_ASCII.sub(replaced, text)


def _question_mark(_: str) -> str:
    return "?"


def plain(text: str) -> str:
    r"""Text that cannot steer a terminal: control and direction characters become "?".

    For names that come with data or from a file: classes, steps, groups, paths. Spaces of every
    width stay, line ends do not.

    Example:
        >>> plain("glioma\x1b[2J"), plain("a\u202eb\nc")
        ('glioma?[2J', 'a?b?c')
    """
    return without_steering(text, _question_mark)


def plain_page(text: str) -> str:
    r"""A page of text that cannot steer a terminal it is shown in; line ends and tabs stay.

    Example:
        >>> plain_page("glioma\x1b[2J\n\u202eb")
        'glioma?[2J\n?b'
    """
    return without_steering(text, _question_mark, keep="\t\n")


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


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """A count with its noun: "1 image", "1,234 images"."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def joined(words: Sequence[str], last: str = "and") -> str:
    """Words in a row: "a", "a and b", "a, b and c"."""
    return f" {last} ".join([*([", ".join(words[:-1])] if len(words) > 1 else []), *words[-1:]])


def turned_words(kinds: Mapping[str, int] | None) -> str:
    """How many of some copies were turned: ", of these 2 mirrored and 1 rotated", or nothing."""
    parts = [f"{count:,} {kind}" for kind, count in (kinds or {}).items()]
    return f", of these {'; '.join(parts)}" if parts else ""


def trial_words(images: int, of: int | None) -> str:
    """That a study had only some of the images, drawn for a trial; "" where it had all."""
    if of is None:
        return ""
    return f"A trial: {images:,} of {of:,} images, drawn by class; not a study of the whole set."


def not_used(things: Iterable[tuple[str, str, str, int]], most: int = 3) -> list[str]:
    """A line for each kind and reason of what was found and left alone.

    Args:
        things: Name, kind (a noun in the singular), reason and count of each.
        most: Names in a line.

    Example:
        >>> not_used([("a.csv", "table", "no column of labels", 1)])
        ["1 table not used: no column of labels ('a.csv')"]
    """
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for name, kind, reason, count in things:
        groups.setdefault((kind, reason), {})[name] = count
    lines = []
    for (kind, reason), counts in groups.items():
        names = ", ".join(f"'{name}'" for name in list(counts)[:most])
        more = ", ..." if len(counts) > most else ""
        lines.append(f"{counted(sum(counts.values()), kind)} not used: {reason} ({names}{more})")
    return lines


def class_words(name: str, noun: str = "class") -> str:
    """A class, or a finding, within a phrase: one whose name is a number says what it is.

    Example:
        >>> class_words("nodule"), class_words("1")
        ('nodule', 'class 1')
    """
    return f"{noun} {name}" if re.fullmatch(r"[-+]?[0-9]+([.,][0-9]+)?", name) else name


def capital(text: str) -> str:
    """The first letter large, the others as they are."""
    return text[:1].upper() + text[1:]
