"""HTML from nested calls: what is not already markup is escaped, so no name can break the page."""

from __future__ import annotations

import html
from collections.abc import Iterable

__all__ = ["Child", "Markup", "join", "tag"]

VOID = frozenset({"br", "col", "hr", "img", "meta"})


class Markup(str):
    """Text that is HTML already and must not be escaped again."""

    __slots__ = ()


Child = str | None | Iterable["Child"]


def join(*children: Child) -> Markup:
    """Several pieces as one; plain text is escaped, None is left out, lists are flattened.

    Example:
        >>> join("a < b", None, [Markup("<br>"), "c"])
        'a &lt; b<br>c'
    """
    return Markup("".join(_pieces(children)))


def _pieces(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            yield str(child)
        elif isinstance(child, str):
            yield html.escape(child)
        else:
            yield from _pieces(child)


def tag(
    name: str, /, *children: Child, attributes: dict[str, str] | None = None, **named: str | None
) -> Markup:
    """One element.

    Args:
        name: Element name.
        *children: Text (escaped), markup (kept), None (left out), or lists of these.
        attributes: Attributes whose names are no Python names, such as ``data-label``.
        **named: Attributes; a trailing underscore is dropped, other underscores become hyphens,
            None leaves the attribute out.

    Example:
        >>> tag("td", "<script>", class_="name")
        '<td class="name">&lt;script&gt;</td>'
    """
    plain = {key.rstrip("_").replace("_", "-"): value for key, value in named.items()}
    merged = {**plain, **(attributes or {})}
    written = "".join(
        f' {key}="{html.escape(value)}"' for key, value in merged.items() if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")
