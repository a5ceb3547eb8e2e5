"""Images that a device would refuse, found before anything is trained on them.

They go through the very door that `predict` has; a study whose class is mostly refused would end in
a bundle that answers none of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from clinipress.data.sources import ImageItem, decode_item, in_archive, item_facts
from clinipress.errors import DataError, ImageError
from clinipress.kinds.image.accept import accept
from clinipress.kinds.image.read import has_palette
from clinipress.kinds.image.refuse import colour_refusal, is_colourful
from clinipress.progress import SILENT, Progress
from clinipress.records.candidate import InputSpec
from clinipress.records.result import Unreadable
from clinipress.text import counted, joined

__all__ = ["Refusals", "check_refusals", "find_refusals", "refusal_words"]

# What is looked at where no model is known yet: colour, in any case.
_LOOK = InputSpec(channels=3, height=64, width=64)
_MOST = 0.5  # share of a class from which on nothing is trained


@dataclass(frozen=True)
class Refusals:
    """Refused images, sorted by key, and whether the set counts as one in colour."""

    images: tuple[Unreadable, ...] = ()
    colourful: bool = False


def find_refusals(
    items: Sequence[ImageItem],
    spec: InputSpec | None = None,
    *,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Refusals:
    """What a model of that input made from these images would refuse of them.

    A model that takes colour was made with colourful images where most of them are; without `spec`
    a model that suits most is thought of. Images that cannot be read are left to the audit.
    """
    wanted, task = spec or _LOOK, "checking images"
    progress.start(task, len(items))

    seen = []
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for looked in pool.map(lambda item: _look(item, wanted), items):
            seen.append(looked)
            progress.advance(task)
    progress.finish(task)
    known = [colour for reason, _, _, colour in seen if reason is None]
    colourful = 2 * sum(known) > len(known)
    grey_model = wanted.channels == 1 or (spec is None and not colourful)
    reasons = (
        plain or (in_grey if grey_model else in_colour if colourful else None)
        for plain, in_grey, in_colour, _ in seen
    )
    refused = [
        Unreadable(path=item.key, reason=reason)
        for item, reason in zip(items, reasons, strict=True)
        if reason
    ]
    refused.sort(key=lambda image: image.path)
    return Refusals(tuple(refused), colourful and wanted.channels == 3)


def _look(item: ImageItem, spec: InputSpec) -> tuple[str | None, str | None, str | None, bool]:
    """Why it is refused anyhow, by a grey model and by one in colour; whether it is colourful."""
    try:
        pixels = accept(
            item_facts(item),
            item.index,
            lambda wanted: decode_item(item, wanted),
            lambda: not in_archive(item) and has_palette(item.path),
            spec,
            colourful=False,
        )
    except ImageError as problem:
        return problem.got, None, None, False
    if spec.channels == 1:
        return None, None, None, False
    grey, colour = (colour_refusal(pixels, model_sees_colour=sees) for sees in (False, True))
    return None, grey, colour, is_colourful(pixels)


def refusal_words(refused: Sequence[Unreadable], images: int) -> str:
    """A sentence part on refused images, and why; "" for none."""
    if not refused:
        return ""
    reasons = Counter(image.reason.split(" (")[0] for image in refused)
    kinds = joined([f"{number:,} as {reason}" for reason, number in reasons.most_common(4)])
    return (
        f"{counted(len(refused), 'image')} of {images:,} would be refused by the finished model: "
        f"{kinds}; first '{refused[0].path}'"
    )


def check_refusals(
    refused: Sequence[Unreadable], labels: Mapping[str, Collection[str]], noun: str = "class"
) -> None:
    """Stop a study of whose classes, or findings, one would mostly be refused.

    Args:
        refused: The images.
        labels: Image key -> its class, or all that it shows.
        noun: What one of them is called.

    Raises:
        DataError: It would.
    """
    keys = {image.path for image in refused}
    whole = Counter(label for shown in labels.values() for label in shown)
    lost = Counter(label for key, shown in labels.items() if key in keys for label in shown)
    for label, number in lost.most_common():
        if number > _MOST * whole[label]:
            first = next(image for image in refused if label in labels.get(image.path, ()))
            colour = "set data.input.channels to 3, or " if "a colour one" in first.reason else ""
            raise DataError(
                f"images of {noun} '{label}' that the finished model would answer",
                f"{number:,} of {whole[label]:,} that it would refuse, such as '{first.path}': "
                f"{first.reason}",
                f"{colour}correct these images, or take them out",
            )
