"""From the page to Markdown: what the report says, without a second wording of any of it.

The HTML report is made first, from records, by functions that escape every name; this module reads
that text as a tree and writes it down again as GitHub's Markdown. Drawings are left to the page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from types import MappingProxyType

__all__ = ["Element", "blocks", "bullet_list", "escape", "inline", "parse", "table"]

VOID = frozenset({"br", "col", "hr", "img", "meta"})
# never text: styles, links to sections, shapes and what explains them
SKIPPED = frozenset({"head", "nav", "style", "svg"})
LEGEND = "legend"
# "drawn": a note that explains a drawing; "mark": a shape, whose meaning stands beside it
DRAWN = frozenset({"drawn", LEGEND, "mark", "names", "no-picture"})
WHY = "why"  # a row of reasons for the row above it
STACKED = frozenset({"line", "of-candidate", "of-reference"})  # lines that stand one over the other
HEADINGS: Mapping[str, str] = MappingProxyType({"h1": "#", "h2": "##", "h3": "###", "h4": "####"})
INLINE = frozenset({"a", "b", "br", "code", "em", "i", "img", "small", "span", "strong"})
ASIDES = frozenset({"small", "role", "reason"})  # second lines within a cell


@dataclass
class Element:
    """A piece of the page: its name, its attributes, and text or elements in it."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    @property
    def classes(self) -> frozenset[str]:
        """Its classes."""
        return frozenset(self.attributes.get("class", "").split())

    def elements(self) -> list[Element]:
        """Its children that are elements."""
        return [child for child in self.children if isinstance(child, Element)]

    def find(self, name: str) -> Iterator[Element]:
        """All elements of that name in it, at any depth, in order."""
        for child in self.elements():
            if child.name == name:
                yield child
            yield from child.find(name)

    def is_skipped(self) -> bool:
        """Whether it says nothing in words."""
        return self.name in SKIPPED or bool(self.classes & DRAWN)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("page")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and len(self.open) > 1:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(page: str) -> Element:
    """The tree of a page whose elements are all closed, as `reporting.drawing.markup` writes it."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader.open[0]


def escape(text: str) -> str:
    r"""Text that stays text in GitHub's Markdown, whatever it holds.

    Example:
        >>> print(escape("a|b *c* <d> glioma_tumor [x](y)"))
        a\|b \*c\* &lt;d&gt; glioma_tumor \[x\](y)
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # within a word it means nothing


def _start(text: str) -> str:
    """A paragraph that is not taken for a heading, a list or a rule by its first sign."""
    return re.sub(r"^(?:(?=[#+-])|(\d+)(?=[.)](?:\s|$)))", r"\1\\", text)


def inline(children: Iterable[Element | str]) -> str:
    """Text with its emphasis, on one line; pieces that the page sets apart are told apart."""
    told = ""
    last: Element | str = ""  # the piece before
    for child in children:
        text = escape(re.sub(r"[ \n\t]+", " ", child)) if isinstance(child, str) else _span(child)
        if text.strip():
            apart = _apart(last, child, text) if told.strip() else ""
            told = (told.rstrip() if apart else told) + apart
            last = child
        told += text
    return told


def _apart(last: Element | str, child: Element | str, text: str) -> str:
    """What stands between two pieces of a line because one has a line, or a box, of its own."""
    before = last.classes if isinstance(last, Element) else frozenset[str]()
    after = child.classes if isinstance(child, Element) else frozenset[str]()
    if after & ASIDES:
        return " " if text.startswith("(") else ", "
    if (before | after) & STACKED:
        return "<br>"
    if "badge" in before:
        return ": "
    spans = all(isinstance(one, Element) and one.name in {"b", "span"} for one in (last, child))
    return ", " if spans else ""


def _span(child: Element) -> str:
    """An element within a line."""
    if child.is_skipped():
        return ""
    if child.name == "img":
        told = child.attributes.get("alt", "")
        return f"*{escape(told)} (picture in report.html)*" if told else ""
    if child.name == "br":
        return "<br>"
    if child.name == "code":
        return f"`{_raw(child).replace('`', ' ')}`"
    text = inline(child.children)
    if child.name in {"strong", "b"} and text.strip():
        return f"**{text.strip()}**" + (" " if text.endswith(" ") else "")
    return text


def _raw(element: Element) -> str:
    return "".join(one if isinstance(one, str) else _raw(one) for one in element.children)


# ------------------------------------------------------------------------------------------ blocks


def blocks(element: Element) -> list[str]:
    """An element as paragraphs, headings, lists and tables, to be joined by empty lines."""
    if element.is_skipped():
        return []
    if element.name in HEADINGS:
        return [f"{HEADINGS[element.name]} {inline(element.children).strip()}"]
    writer = WRITERS.get(element.name)
    if "tiles" in element.classes:
        writer = _tiles
    if writer is not None:
        return [text for text in writer(element) if text.strip()]
    return _mixed(element.children)


def _mixed(children: Sequence[Element | str]) -> list[str]:
    """Blocks among loose text: the text becomes paragraphs of its own."""
    found: list[str] = []
    loose: list[Element | str] = []
    for number, child in enumerate([*children, None]):
        if isinstance(child, str) or (child is not None and child.name in INLINE):
            loose.append(child)
            continue
        text = inline(loose).strip()
        found += [_start(text)] if text else []
        loose = []
        if child is not None and LEGEND in child.classes:
            found += _legend(child, children[number + 1 :])
        more = blocks(child) if child is not None else []
        if more and found and child is not None and _is_figure(child) and found[-1][:2] == "- ":
            found[-1] += "\n" + more.pop(0)  # captions of pictures side by side make one list
        found += more
    return found


def _is_figure(child: Element | str) -> bool:
    return isinstance(child, Element) and child.name == "figure"


def _legend(legend: Element, following: Sequence[Element | str]) -> list[str]:
    """What the stacked lines of a table are, where the legend names as many shapes."""
    names = [inline(one.children).strip() for one in legend.elements()]
    for sibling in following:
        cells = list(sibling.find("td")) if isinstance(sibling, Element) else []
        most = max(
            (sum(bool(one.classes & STACKED) for one in c.elements()) for c in cells), default=0
        )
        if most:
            return (
                [f"*In each cell, from above: {'; '.join(names)}.*"] if most == len(names) else []
            )
    return []


def _paragraph(element: Element) -> list[str]:
    text = inline(element.children).strip()
    return [f"**{text}**" if text and "word" in element.classes else _start(text)]


def _list(element: Element) -> list[str]:
    items = [_item(child) for child in element.elements()]
    return ["\n".join(f"- {text}" for text in items if text.strip())]


def _item(element: Element) -> str:
    """One entry; further blocks in it are indented under its first line."""
    first, *rest = [*_mixed(element.children), ""]
    lines = "\n".join(text for text in rest if text).splitlines()
    return "\n".join([first, *(f"  {line}" for line in lines)])


def _facts(element: Element) -> list[str]:
    pairs = [
        (inline(name.children), inline(value.children))
        for name, value in zip(element.find("dt"), element.find("dd"), strict=True)
    ]
    return [bullet_list(f"{name.strip()}: {value.strip()}" for name, value in pairs)]


def _details(element: Element) -> list[str]:
    """Folded here too: GitHub knows the element, and reads Markdown within it."""
    title, *rest = element.elements()
    inner = [text for one in rest for text in blocks(one)]
    summary = re.sub(r"\s+", " ", _raw(title)).strip()
    return [
        f"<details>\n<summary>{html.escape(summary, quote=False)}</summary>",
        *inner,
        "</details>",
    ]


def _figure(element: Element) -> list[str]:
    """A picture by its caption; one that could not be drawn by its reason."""
    caption = next(element.find("figcaption"), None)
    title = inline(caption.children).strip() if caption else ""
    drawn = any(True for _ in element.find("svg"))
    rest = [text for one in element.elements() if one is not caption for text in blocks(one)]
    told = " ".join(["(drawn in report.html)"] if drawn else rest)
    return [f"- {f'{title} {told}'.strip()}"] if title or told else []


def _code(element: Element) -> list[str]:
    text = _raw(element).strip("\n")
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}\n{text}\n{fence}"]


def _tiles(element: Element) -> list[str]:
    """The main figures, one row each."""
    rows = []
    for tile in element.elements():
        said = dict.fromkeys(("title", "value", "detail", "of"), "")
        for one in tile.elements():
            said |= {name: inline(one.children).strip() for name in one.classes & said.keys()}
        joint = " " if said["detail"].startswith("(") else ", "
        mine = joint.join(text for text in (said["value"], said["detail"]) if text)
        rows.append([said["title"], mine, said["of"].removeprefix("reference ")])
    return [table(["", "This model", "Reference"], rows)]


# ------------------------------------------------------------------------------------------ tables


def _table(element: Element) -> list[str]:
    """A table; columns of drawings are left out, reasons under a row become its last column."""
    heads: list[str] = []
    rows: list[list[str]] = []
    whys: dict[int, str] = {}
    nothing = "0" if "heat" in element.classes else ""  # a shade of nothing is a count of none
    for row in element.find("tr"):
        cells = [_cell(one) or nothing for one in row.elements()]
        if any(WHY in one.classes for one in (row, *row.elements())):
            whys[len(rows) - 1] = " ".join(cells).strip()
        elif any("colspan" in one.attributes for one in row.elements()):
            rows.append([f"**{text}**" if text else "" for text in cells])  # heads what follows
        elif not rows and not heads and _in_head(element, row):
            heads = cells
        elif any(cells):
            rows.append(cells)
    width = max((len(row) for row in [heads, *rows]), default=0)
    heads, *rows = [[*row, *[""] * (width - len(row))] for row in [heads, *rows]]
    kept = [number for number in range(width) if any(row[number] for row in rows)]
    heads = [heads[number] for number in kept]
    rows = [[row[number] for number in kept] for row in rows]
    if whys:
        heads.append("Why")
        rows = [[*row, whys.get(number, "")] for number, row in enumerate(rows)]
    caption = next(element.find("caption"), None)
    title = f"**{inline(caption.children).strip()}**" if caption else ""
    return [title, table(heads, rows)] if rows else []


def _in_head(element: Element, row: Element) -> bool:
    return any(one is row for head in element.find("thead") for one in head.find("tr"))


def _cell(element: Element) -> str:
    loose = all(isinstance(one, str) or one.name in INLINE | SKIPPED for one in element.children)
    if loose:
        return inline(element.children).strip()
    return " ".join(_mixed(element.children)).replace("\n", " ").strip()


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of GitHub's Markdown; cells are Markdown already and hold no line ends."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_one_line(cell) for cell in row) + " |" for row in lines)


def _one_line(cell: str) -> str:
    return re.sub(r"\s*\n\s*", " ", cell)


def bullet_list(items: Iterable[str]) -> str:
    """A list; items are Markdown already."""
    return "\n".join(f"- {_one_line(item)}" for item in items)


WRITERS: Mapping[str, Callable[[Element], list[str]]] = MappingProxyType(
    {
        "p": _paragraph,
        "ul": _list,
        "ol": _list,
        "dl": _facts,
        "details": _details,
        "figure": _figure,
        "pre": _code,
        "table": _table,
    }
)
