"""From image files to answers, one at a time: the memory needed does not grow with the files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from clinipress.edge.answers import Prediction, answer
from clinipress.edge.bundle import Bundle, load_bundle
from clinipress.edge.inputs import STANDARD_INPUT, expand, is_there, locate
from clinipress.errors import InputError
from clinipress.kinds.image.pixels import READING

__all__ = ["Prediction", "predict", "run_predict"]

ALL_ANSWERED, SOME_REFUSED = 0, 2


def predict(
    bundle: Bundle, sources: Iterable[str | Path], *, stdin: BinaryIO | None = None
) -> Iterator[Prediction]:
    """Classify files, lazily and in order.

    Args:
        bundle: An opened bundle.
        sources: Files ("FILE#3" is the fourth picture of a file with several), folders (every file
            below, hidden ones aside, sorted by name) or "-": standard input, either the bytes of
            one image or a list of paths, one per line.
        stdin: Standard input; None: the process's own.

    Yields:
        One answer per image.

    Raises:
        InputError: Standard input is empty, or a source named here does not exist. The latter is
            said before any image is read; a path from standard input is refused in its place.
    """
    named = [str(source) for source in sources]
    for name in named:
        if name != STANDARD_INPUT and not is_there(locate(name)[0]):
            raise InputError("an image or a folder", f"nothing at '{name:.300}'", "check the path")
    return _answers(bundle, named, stdin)


def _answers(bundle: Bundle, named: list[str], stdin: BinaryIO | None) -> Iterator[Prediction]:
    colourful = bundle.manifest.self_test.colourful
    for name in named:
        for file, source in expand(name, stdin):
            yield answer(bundle.candidate, bundle.card, source, file=file, colourful=colourful)


def run_predict(
    bundle: str | Path,
    sources: Iterable[str | Path],
    *,
    as_json: bool = False,
    write: Callable[[str], object],
    complain: Callable[[str], object] | None = None,
    threads: int | None = 1,
) -> int:
    """The command ``predict``: one line per image, as soon as it is known.

    Args:
        bundle: The bundle's folder.
        sources: As `predict` takes them.
        as_json: Write JSON lines, refused images among them.
        write: Takes each line, without its line end.
        complain: Takes the line of a refused image when not `as_json`, and what must be said of a
            model that was not released; None: standard error.
        threads: CPU threads of the runtime. One by default: with more, the threads of a short run
            mostly wait for each other, and on a busy machine for their turn; None: all cores.

    Returns:
        Exit code: 0 when every image was answered, 2 when some were refused or all.
    """
    complain = complain or _to_standard_error
    opened = load_bundle(bundle, threads=threads)
    if opened.card.synthetic and not as_json:
        complain(f"{opened.card.name} was trained on drawn images: never use it for patients")
    if opened.caution is not None:
        complain(f"{opened.card.name}: {opened.caution}")
    if opened.manifest.reading != READING and not as_json:
        complain(
            "large JPEG files, NIfTI and some DICOM and TIFF are read otherwise than when this "
            "bundle was measured: 'clinipress evaluate' it again, or write it again"
        )
    refused = 0
    for response in predict(opened, sources):
        refused += response.refused is not None
        if as_json:
            write(json.dumps(response.to_dict(), allow_nan=False))
        elif response.refused is None:
            write(response.to_text())
        else:
            complain(response.to_text())
    return SOME_REFUSED if refused else ALL_ANSWERED


def _to_standard_error(line: str) -> None:
    sys.stderr.write(line + "\n")
