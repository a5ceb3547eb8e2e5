"""A table of text to its cells, in any usual encoding, with any usual mark between cells."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clinipress.errors import DataError

__all__ = ["TABLE_SUFFIXES", "TextTable", "named", "open_quote", "read_header", "read_text"]

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".tab"})
_MARKS = ",;\t|"
_HEAD = 2**16
# the longer mark first: UTF-32's begins with UTF-16's
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORD = re.compile(r"(?:[^\x00-\x7f]|[A-Za-z])+")
_HIGH, _SEVERAL_HIGH = re.compile(r"[^\x00-\x7f]"), re.compile(r"[^\x00-\x7f]{2}")
_QUOTES = "\xab\xbb\u2018\u2019\u201a\u201c\u201d\u201e\u2026\u2013\u2014\u2022\xb0\xb1\xb7\xa0"


@dataclass(frozen=True)
class TextTable:
    """Cells without the blanks around them.

    Attributes:
        path: The file.
        columns: Their names as they are written, "" for none.
        rows: The line that each begins in, from 1, and one cell per column; no blank rows.
        mark: What parts the cells.
        encoding: As which it was read.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    mark: str
    encoding: str

    def column(self, name: str) -> list[str]:
        """All cells of one column."""
        place = self.columns.index(name)
        return [cells[place] for _, cells in self.rows]


def named(columns: Iterable[str], most: int = 8) -> str:
    """Some names in a row, as short as a line can hold them."""
    names = [name if len(name) <= 40 else f"{name[:40]}..." for name in columns if name]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "") or "none"


def read_header(path: Path) -> tuple[str, ...]:
    """Names of the columns, from the beginning of the file; none where it is no text.

    Raises:
        DataError: It cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as problem:
        raise _unreadable(path, problem) from None
    text = head.decode(_encoding(head) or "utf-8", errors="replace")
    lines, mark, quote = _dialect(text)
    if "\0" in "".join(lines[:1]):
        return ()
    try:
        return tuple(
            name.strip() for name in next(csv.reader(lines, delimiter=mark, quotechar=quote), [])
        )
    except csv.Error:
        return ()


def read_text(path: Path) -> TextTable:
    """The whole table.

    Raises:
        DataError: It cannot be opened, is no text in UTF-8, UTF-16 or cp1252, or its quotes or
            rows do not fit together; with the line.
    """
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise _unreadable(path, problem) from None
    text, encoding = _decoded(path, data)
    lines, mark, quote = _dialect(text)
    skipped = len(list(io.StringIO(text, newline=""))) - len(lines)
    reader = csv.reader(lines, delimiter=mark, quotechar=quote, strict=True, skipinitialspace=True)
    names: tuple[str, ...] | None = None
    rows = []
    line = 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if names is None:
                names = tuple(stripped)
            elif any(stripped):
                rows.append((line + skipped, _fitted(path, line + skipped, stripped, names, mark)))
            line = reader.line_num + 1
    except csv.Error as problem:
        if "limit" in str(problem):
            raise DataError(f"a table of short cells at '{path}'", str(problem)) from None
        raise open_quote(path, line + skipped) from None
    names = names or ()
    shown = [name for name in names if name]
    if len({name.casefold() for name in shown}) < len(shown):
        raise DataError(f"columns of different names in '{path}'", named(names))
    return TextTable(path, names, tuple(rows), mark, encoding)


def _unreadable(path: Path, problem: OSError) -> DataError:
    return DataError("a table that can be read", f"'{path}' ({problem.strerror})")


def open_quote(path: Path, line: int) -> DataError:
    """The refusal of a row that a quote runs out of."""
    return DataError(
        f"cells that can be told apart in '{path}'",
        f"a quote that is not closed in the row that begins in line {line}",
        "close it, or write a quote inside a cell twice",
    )


def _encoding(data: bytes) -> str | None:
    """By its byte order mark, or by the zeros that Latin letters leave in UTF-16; None: neither."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return encoding
    head = data[: 2 * (len(data[:4096]) // 2)]
    for name, first in (("utf-16-le", 1), ("utf-16-be", 0)):
        zeros = head[first::2].count(0)
        if head and zeros > 0.4 * len(head) / 2 > 2.5 * head[1 - first :: 2].count(0):
            return name
    return None


def _decoded(path: Path, data: bytes) -> tuple[str, str]:
    known = _encoding(data)
    for encoding in (known,) if known else ("utf-8", "cp1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        if encoding == "cp1252":
            _check_windows_1252(path, text)
        return text, encoding
    raise _other_encoding(path, "bytes that are no text")


def _other_encoding(path: Path, got: str) -> DataError:
    expected = f"a table in UTF-8, UTF-16 or Windows-1252 at '{path}'"
    return DataError(expected, got, "save it as 'CSV UTF-8'")


def _check_windows_1252(path: Path, text: str) -> None:
    """Refuse what Windows-1252 only seems to be: words mostly of accents, or UTF-8 gone wrong.

    Every byte of Windows-1251, GBK, Shift-JIS or EUC-KR is some letter or sign here. European names
    have one such letter among others, rarely two in a row.
    """
    words = [word.strip(_QUOTES) for word in _WORD.findall(text) if not word.isascii()]
    odd = [word for word in words if _is_mostly_accents(word) or _is_utf8(word)]
    if 2 * len(odd) > sum(not word.isascii() for word in words):
        line = next(n for n, row in enumerate(text.splitlines(), 1) if odd[0] in row)
        raise _other_encoding(path, f"another encoding (line {line} would read '{odd[0]:.40}')")


def _is_mostly_accents(word: str) -> bool:
    return bool(_SEVERAL_HIGH.search(word)) and 2 * len(_HIGH.findall(word)) > len(word)


def _is_utf8(word: str) -> bool:
    """UTF-8, which is broken elsewhere in the file."""
    try:
        return not word.isascii() and bool(word.encode("cp1252").decode("utf-8"))
    except UnicodeError:
        return False


def _dialect(text: str) -> tuple[list[str], str, str]:
    """Lines from the names of the columns on, the mark between cells, and the quote."""
    lines = list(io.StringIO(text, newline=""))
    while lines and not lines[0].strip():
        del lines[0]
    first = lines[0].strip() if lines else ""
    if first.casefold().startswith("sep=") and len(first) == 5:  # Excel's
        return lines[1:], first[4], '"'
    quote = "'" if first[:1] == "'" == first[-1:] else '"'
    mark = max(_MARKS, key=lambda mark: len(_first(lines, mark, quote)))
    return lines, mark, quote


def _first(lines: list[str], mark: str, quote: str) -> list[str]:
    try:
        return next(csv.reader(lines, delimiter=mark, quotechar=quote), [])
    except csv.Error:
        return []


def _fitted(
    path: Path, line: int, cells: list[str], columns: tuple[str, ...], mark: str
) -> tuple[str, ...]:
    """As many cells as columns; spreadsheets leave empty ones at the end, or none."""
    if any(cells[len(columns) :]):  # an unquoted comma would shift the label
        raise DataError(
            f"{len(columns)} cells",
            f"{len(cells)} in line {line} of '{path}'",
            f"put texts with '{mark}' in quotes",
        )
    cells += [""] * (len(columns) - len(cells))
    return tuple(cells[: len(columns)])
