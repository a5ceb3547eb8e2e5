"""From a document to one self-contained HTML file."""

from __future__ import annotations

from importlib.resources import files

from clinipress.reporting import document as doc
from clinipress.reporting.drawing.figures import symbols
from clinipress.reporting.drawing.markup import Child, Markup, join, tag

__all__ = ["html", "skeleton", "write_html"]

# No script runs and nothing is fetched, whatever a class name or a file name may hold.
SECURITY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
ELEMENTS = {
    "strong": "strong",
    "bold": "b",
    "word": "i",
    "code": "code",
    "emphasis": "em",
    "link": "a",
}


def write_html(document: doc.Document) -> str:
    """A document as the text of an HTML file."""
    links = [
        tag("a", section.short or section.title, href=f"#{section.identity}")
        for section in document.sections
    ]
    main = tag(
        "main",
        tag("header", html(document.head)),
        tag("nav", links, aria_label="Contents"),
        html(document.sections),
    )
    return skeleton(document.title, document.synthetic, main, tag("footer", document.footer))


def skeleton(title: str, synthetic: bool, *children: Child) -> str:
    """A whole HTML file that needs nothing from elsewhere.

    Args:
        title: Of the window.
        synthetic: The images were drawn, which stands above everything.
        children: What is in it.
    """
    style = Markup((files("clinipress.reporting.page") / "style.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=SECURITY),
        tag("title", title),
        tag("style", style),
    )
    banner = tag("div", html(doc.SYNTHETIC), class_="synthetic", role="note") if synthetic else None
    body = tag("body", symbols(), banner, *children)
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def html(content: doc.Content) -> Markup:
    """Content as HTML; strings are escaped, drawings kept."""
    return Markup("".join(_written(node) for node in doc.flat(content)))


def _written(node: doc.Node) -> Markup:
    match node:
        case str():
            return join(node)
        case doc.Text(content, kind, class_, address):
            return tag(ELEMENTS.get(kind, "span"), html(content), class_=class_, href=address)
        case doc.Heading(content, class_, level):
            return tag(f"h{level}", html(content), class_=class_)
        case doc.Paragraph(content, class_):
            return tag("p", html(content), class_=class_)
        case doc.Bullets(items, class_, ordered):
            entries = [tag("li", html(item)) for item in items]
            return tag("ol" if ordered else "ul", entries, class_=class_)
        case doc.Facts(pairs, class_):
            rows = [tag("div", tag("dt", name), tag("dd", html(value))) for name, value in pairs]
            return tag("dl", rows, class_=class_)
        case doc.CodeBlock(text):
            return tag("pre", tag("code", text), tabindex="0")
        case _:
            return _laid_out(node)


def _laid_out(node: doc.Layout) -> Markup:
    match node:
        case doc.Details(title, content):
            return tag("details", tag("summary", html(title)), html(content))
        case doc.Drawing(markup):
            return markup
        case doc.Figure():
            parts = [html(node.shown), tag("figcaption", html(node.caption))]
            return tag("figure", parts if node.below else parts[::-1], class_=node.class_)
        case doc.DataTable():
            table = _table(node)
            return tag("div", table, class_="scroll", tabindex="0") if node.scroll else table
        case doc.Box(content, class_):
            return tag("div", html(content), class_=class_)
        case doc.Section():
            head = tag("h2", node.title), tag("p", node.lead, class_="lead")
            return tag("section", head, html(node.content), id=node.identity)


def _table(table: doc.DataTable) -> Markup:
    return tag(
        "table",
        tag("caption", table.caption) if table.caption else None,
        tag("thead", _row(doc.DataRow(table.heads))) if table.heads else None,
        [tag("tbody", map(_row, group.rows), class_=group.class_) for group in table.groups],
        class_=table.class_,
    )


def _row(row: doc.DataRow) -> Markup:
    class_ = "why" if row.kind == "reasons" else row.class_
    return tag("tr", [_cell(cell) for cell in row.cells], class_=class_)


def _cell(cell: doc.DataCell) -> Markup:
    return tag(
        "th" if cell.heads else "td",
        html(cell.content),
        scope=cell.heads,
        colspan=str(cell.span) if cell.span > 1 else None,
        class_=cell.class_,
        style=cell.style,
        title=cell.title,
        attributes={"data-label": cell.label} if cell.label is not None else None,
    )
