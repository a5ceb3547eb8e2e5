"""Pictures that the records name: read from the run folder, and put into the page as text.

The page holds everything itself, so pictures become ``data:`` addresses. They are the only thing
that can make a report large: what does not fit the allowance is said where it would have stood.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from clinipress.records.judgement import Flip, SaliencyPanel
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.markup import Markup, tag
from clinipress.reporting.view import View

__all__ = [
    "ALLOWANCE",
    "GALLERY",
    "PANELS",
    "embedded",
    "maps_picture",
    "named_pictures",
    "picture",
    "read_files",
    "read_pictures",
]

ALLOWANCE = 8_000_000  # bytes of all pictures together; as text they take a third more
LARGEST = 1_000_000  # bytes of one
GALLERY = 24  # flipped images that are shown, worst first
PANELS = 8  # images whose maps are shown

# how a file begins -> what it is; names say nothing
KINDS = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))
ABSENT = "the picture is not in the run folder, is no PNG or JPEG, or did not fit into the report"


def named_pictures(view: View) -> Iterator[str]:
    """Files of the pictures that the page shows, the most telling first, each once."""
    names: list[str | None] = []
    for flips, panels in _pictured(view):
        names += [flip.picture for flip in flips]
        names += [panel.picture for panel in panels]
    yield from dict.fromkeys(name for name in names if name)


def _pictured(view: View) -> Iterator[tuple[Sequence[Flip], Sequence[SaliencyPanel]]]:
    """What has a picture in each shown split, in the order of the page."""
    for judgements in view.shown_judgements.values():
        flips = judgements.disagreement.flips[:GALLERY] if judgements.disagreement else ()
        yield flips, judgements.saliency.panels[:PANELS] if judgements.saliency else ()


def read_pictures(view: View, folder: Path) -> dict[str, bytes]:
    """The pictures below a run folder that its report shows; see `read_files`."""
    return read_files(named_pictures(view), folder)


def read_files(names: Iterable[str], folder: Path) -> dict[str, bytes]:
    """Pictures below a folder, as far as the allowance goes.

    A file that is missing, too large, no picture, or outside the folder is left out.

    Args:
        names: Files relative to the folder, the most telling first.
        folder: The folder.
    """
    pictures: dict[str, bytes] = {}
    left, root = ALLOWANCE, folder.resolve()
    for name in names:
        data = _read(root, name)
        if data is not None and len(data) <= left:
            pictures[name] = data
            left -= len(data)
    return pictures


def _read(root: Path, name: str) -> bytes | None:
    try:
        path = (root / name).resolve()
        # a record may come from anywhere: no file but those of the run gets into a report
        if not path.is_relative_to(root) or path.stat().st_size > LARGEST:
            return None
        data = path.read_bytes()
    except (OSError, ValueError):
        return None
    return data if _kind(data) is not None else None


def _kind(data: bytes) -> str | None:
    return next((kind for start, kind in KINDS if data.startswith(start)), None)


def embedded(view: View, name: str | None, text: str) -> Markup:
    """A picture, or the words that it is not here.

    Args:
        view: The result and its pictures.
        name: File as the record names it, or None where none was kept.
        text: What is to be seen, for who cannot see it.
    """
    if name is None:
        return tag("p", "no picture was kept", class_="no-picture")
    return picture(view.pictures.get(name), text)


def maps_picture(titles: Sequence[str], picture: Markup, caption: str) -> doc.Figure:
    """Saliency maps side by side: the names of the parts above them, the caption below."""
    heads = tag("div", [tag("span", title) for title in titles], class_="titles")
    return doc.Figure(caption, [heads, picture], ", ".join(titles), "maps-picture", below=True)


def picture(data: bytes | None, text: str) -> Markup:
    """The bytes of a PNG or JPEG as an image; None, or others, as the words that it is not here."""
    kind = _kind(data) if data is not None else None
    if data is None or kind is None:
        return tag("p", ABSENT, class_="no-picture")
    address = f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return tag("img", src=address, alt=text)
