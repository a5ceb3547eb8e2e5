"""From a document to GitHub's Markdown: the same words as the page, without its drawings."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence

from clinipress.reporting import document as doc
from clinipress.reporting.drawing.markup import Markup

__all__ = ["blocks", "bullet_list", "escape", "inline", "table", "write_markdown"]


def write_markdown(document: doc.Document) -> str:
    """A document as the text of a Markdown file."""
    banner = doc.Paragraph(doc.SYNTHETIC) if document.synthetic else None
    footer = doc.Paragraph(document.footer)
    return "\n\n".join(blocks([banner, document.head, document.sections, footer])) + "\n"


def escape(text: str) -> str:
    r"""Text that stays text in GitHub's Markdown, whatever it holds.

    Example:
        >>> print(escape("a|b *c* <d> glioma_tumor [x](y)"))
        a\|b \*c\* &lt;d&gt; glioma_tumor \[x\](y)
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # within a word it means nothing


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of GitHub's Markdown; cells are Markdown already and hold no line ends."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_one_line(cell) for cell in row) + " |" for row in lines)


def bullet_list(items: Iterable[str]) -> str:
    """A list; items are Markdown already."""
    return "\n".join(f"- {_one_line(item)}" for item in items)


def _one_line(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text)


def _start(text: str) -> str:
    """A paragraph that is not taken for a heading, a list or a rule by its first sign."""
    return re.sub(r"^(?:(?=[#+-])|(\d+)(?=[.)](?:\s|$)))", r"\1\\", text)


# ------------------------------------------------------------------------------------------- lines


def inline(content: doc.Content) -> str:
    """Text with its emphasis, on one line; pieces that the page sets apart are set apart."""
    line = ""
    before: str | doc.Text = ""
    for piece in _pieces(content):
        spaced = escape(re.sub(r"[ \n\t]+", " ", piece)) if isinstance(piece, str) else _span(piece)
        if spaced.strip():
            joint = _joint(before, piece, spaced) if line.strip() else ""
            line = (line.rstrip() if joint else line) + joint
            before = piece
        line += spaced
    return line.strip()


def _pieces(content: doc.Content) -> Iterator[str | doc.Text]:
    """Texts without drawings; what follows upon each other is one text, as to a reader."""
    text = ""
    for node in doc.flat(content):
        if isinstance(node, str):
            text += "" if isinstance(node, Markup) else node
            continue
        yield text
        text = ""
        if isinstance(node, doc.Text):
            yield node
    yield text


def _joint(before: str | doc.Text, after: str | doc.Text, text: str) -> str:
    """What stands between two pieces of a line because one has a line, or a box, of its own."""
    kinds = [piece.kind if isinstance(piece, doc.Text) else None for piece in (before, after)]
    if kinds[1] == "aside":
        return " " if text.startswith("(") else ", "
    if "line" in kinds:
        return "<br>"
    if kinds[0] == "badge" or (kinds[1] == "badge" and kinds[0] in (None, "link", "aside")):
        return ": "
    return ", " if all(kind in {"bold", "span", "aside", "badge"} for kind in kinds) else ""


def _span(piece: doc.Text) -> str:
    if piece.kind == "code":
        return f"`{_raw(piece.content).replace('`', ' ')}`"
    text = inline(piece.content)
    sign = {"strong": "**", "bold": "**", "emphasis": "*"}.get(piece.kind, "")
    return f"{sign}{text}{sign}" if text else ""


def _raw(content: doc.Content) -> str:
    texts = (
        _raw(piece.content) if isinstance(piece, doc.Text) else piece for piece in _pieces(content)
    )
    return "".join(texts)


# ------------------------------------------------------------------------------------------ blocks


def blocks(content: doc.Content) -> list[str]:
    """Content as paragraphs, headings, lists and tables, to be joined by empty lines."""
    written: list[str] = []
    loose: list[doc.Content] = []
    for node in (*doc.flat(content), None):
        if isinstance(node, str | doc.Text):
            loose.append(node)
            continue
        text = inline(loose)  # text among blocks becomes a paragraph of its own
        written += [_start(text)] if text else []
        loose = []
        more = [text for text in _written(node) if text.strip()] if node is not None else []
        if more and written and isinstance(node, doc.Figure) and written[-1].startswith("- "):
            written[-1] += "\n" + more.pop(0)  # captions of pictures side by side make one list
        written += more
    return written


def _written(node: doc.Prose | doc.Layout) -> list[str]:
    match node:
        case doc.Heading(content, _, level):
            return [f"{'#' * level} {inline(content)}"]
        case doc.Paragraph(content, _, strong):
            text = inline(content)
            return [f"**{text}**" if text and strong else _start(text)]
        case doc.Bullets(items):
            entries = [text for item in items if (text := _item(item)).strip()]
            return ["\n".join(f"- {text}" for text in entries)]
        case doc.Facts(pairs):
            return [bullet_list(f"{inline(name)}: {inline(value)}" for name, value in pairs)]
        case doc.CodeBlock(text):
            longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            return ["\n".join([fence, text.strip("\n"), fence])]
        case _:
            return _laid_out(node)


def _laid_out(node: doc.Layout) -> list[str]:
    match node:
        case doc.Details(title, content):
            summary = html.escape(re.sub(r"\s+", " ", _raw(title)).strip(), quote=False)
            folded = f"<details>\n<summary>{summary}</summary>"
            return [folded, *blocks(content), "</details>"]
        case doc.Drawing(_, words):
            return blocks(words)
        case doc.Figure():
            text = f"{inline(node.caption)} {inline(node.words)}".strip()
            return [f"- {text}"] if text else []
        case doc.DataTable():
            return _table(node)
        case doc.Box(content):
            return blocks(content)
        case doc.Section():
            return [f"## {inline(node.title)}", *blocks([doc.Paragraph(node.lead), node.content])]


def _item(item: doc.Content) -> str:
    """One entry; further blocks in it are indented under its first line."""
    first, *rest = [*blocks(item), ""]
    lines = "\n".join(text for text in rest if text).splitlines()
    return "\n".join([first, *(f"  {line}" for line in lines)])


def _table(node: doc.DataTable) -> list[str]:
    """A table; columns of drawings are left out, reasons under a row become its last column."""
    rows: list[list[str]] = []
    reasons: dict[int, str] = {}
    for row in (row for group in node.groups for row in group.rows):
        cells = [_cell(cell) for cell in row.cells]
        if row.kind == "reasons":
            reasons[len(rows) - 1] = " ".join(cells).strip()
        elif row.kind == "group":
            rows.append([f"**{text}**" if text else "" for text in cells])
        elif any(cells):
            rows.append(cells)
    heads = [_cell(cell) for cell in node.heads]
    width = max((len(row) for row in [heads, *rows]), default=0)
    heads, *rows = [[*row, *[""] * (width - len(row))] for row in [heads, *rows]]
    kept = [column for column in range(width) if any(row[column] for row in rows)]
    heads, *rows = [[row[column] for column in kept] for row in [heads, *rows]]
    if reasons:
        heads.append("Why")
        rows = [[*row, reasons.get(number, "")] for number, row in enumerate(rows)]
    title = f"**{inline(node.caption)}**" if node.caption else ""
    return [title, table(heads, rows)] if rows else []


def _cell(cell: doc.DataCell) -> str:
    return inline(cell.content) if cell.words is None else cell.words
