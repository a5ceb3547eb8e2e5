"""What a page says, as records: HTML (`html`) and Markdown (`markdown`) are both written from them.

In all content a string is text, whatever it holds; `Markup` is a drawing and the only thing that
reaches the page as it is. Markdown leaves drawings out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from clinipress.reporting.drawing.markup import Markup

# "aside" and "line" are lines of their own, of lesser and of equal weight; "badge" is a verdict;
# "link" leads to an address of the page
Kind = Literal[
    "span", "strong", "bold", "word", "code", "emphasis", "aside", "line", "badge", "link"
]


@dataclass(frozen=True)
class Text:
    """A piece of a line with a weight, or a place, of its own."""

    content: Content
    kind: Kind = "span"
    class_: str | None = None
    address: str | None = None


@dataclass(frozen=True)
class Heading:
    """A heading within a section (whose own is of level 2)."""

    content: Content
    class_: str | None = None
    level: int = 3


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `strong` where its class makes it stand out and Markdown has no classes."""

    content: Content
    class_: str | None = None
    strong: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list; an entry may hold further blocks."""

    items: Iterable[Content]
    class_: str | None = None
    ordered: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    pairs: Iterable[tuple[str, Content]]
    class_: str = "facts"


@dataclass(frozen=True)
class Details:
    """Content folded behind its title."""

    title: Content
    content: Content


@dataclass(frozen=True)
class CodeBlock:
    """Lines that are shown as they are."""

    text: str


@dataclass(frozen=True)
class Drawing:
    """A drawing that stands alone, and what Markdown says in its place, if anything."""

    markup: Markup
    words: Content = None


@dataclass(frozen=True)
class Figure:
    """A drawing or picture with its caption."""

    caption: Content
    shown: Content  # what is drawn, or a paragraph that says why nothing is
    words: Content = "(drawn in report.html)"  # behind the caption in Markdown
    class_: str | None = None
    below: bool = False  # the caption stands under it


@dataclass(frozen=True)
class DataCell:
    """A cell of a table."""

    content: Content = None
    class_: str | None = None
    label: str | None = None  # name of its column, which a phone shows beside it
    heads: Literal["col", "row", "rowgroup"] | None = None  # what it is the heading of
    span: int = 1  # columns that it fills
    style: str | None = None  # custom properties for the style sheet
    title: str | None = None  # what is shown to who points at it
    words: str | None = None  # what stands for it in Markdown, where that is not its content


@dataclass(frozen=True)
class DataRow:
    """A row; "group" heads those that follow, "reasons" belong to the row above."""

    cells: Sequence[DataCell]
    class_: str | None = None
    kind: Literal["figures", "group", "reasons"] = "figures"


@dataclass(frozen=True)
class RowGroup:
    """Rows that belong together."""

    rows: Sequence[DataRow]
    class_: str | None = None


@dataclass(frozen=True)
class DataTable:
    """A table; Markdown leaves out columns that hold drawings alone."""

    heads: Sequence[DataCell]  # none where the figures speak for themselves
    groups: Sequence[RowGroup]
    class_: str
    caption: str | None = None
    scroll: bool = True  # by itself, where it is wider than the screen


@dataclass(frozen=True)
class Box:
    """Content that is laid out, or coloured, together."""

    content: Content
    class_: str | None = None


@dataclass(frozen=True)
class Section:
    """A section: its address, heading and opening sentence, what it holds, its name in contents."""

    identity: str
    title: str
    lead: str
    content: Content = None
    short: str | None = None


@dataclass(frozen=True)
class Document:
    """A whole page; its contents are made of its sections."""

    title: str  # of the window
    synthetic: bool  # the images were drawn, which stands above everything
    head: Content
    sections: Sequence[Section]
    footer: str


SYNTHETIC = (
    Text("SYNTHETIC", "strong"),
    " drawn images, no patients: the figures show that the software runs, nothing else",
)

Line = str | Text
Prose = Heading | Paragraph | Bullets | Facts | CodeBlock
Layout = Details | Drawing | Figure | DataTable | Box | Section
Node = Line | Prose | Layout
Content = Node | None | Iterable["Content"]


def flat(content: Content) -> Iterator[Node]:
    """The pieces of content in order, out of all lists, None left out."""
    if isinstance(content, Node):
        yield content
    elif content is not None:
        for part in content:
            yield from flat(part)
