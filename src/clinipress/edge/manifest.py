"""``card.json`` of a bundle: reading it as if an enemy had written it.

Nothing in it is used before its kind, version, shape, digest and file names were checked, in this
order, so that each kind of damage gets its own one-line error.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from clinipress.edge.inputs import is_there
from clinipress.errors import BundleError
from clinipress.formats.file import FILES
from clinipress.records.candidate import Card
from clinipress.records.result import Record
from clinipress.records.store import sha256_of

__all__ = [
    "CARD",
    "KIND",
    "VERSION",
    "Manifest",
    "SelfTest",
    "check_calibration",
    "check_file",
    "digest_of_card",
    "read_card",
    "refuse_unlisted",
]

CARD = "card.json"
KIND, VERSION = "clinipress bundle", "1"
LONGEST_NAME = 100  # letters of a file's name
# what file managers leave in any folder; never opened
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
# Those that are fitted lie between 0.25 and 20; near 0 a probability would be NaN.
COLDEST, HOTTEST = 1e-3, 1e3
CARD_LIMIT = 16 * 2**20  # bytes; a card is a few hundred kilobytes at most


class SelfTest(Record):
    """What the model must answer for the bundle's own image.

    Attributes:
        file: Name of the image in the bundle.
        label: The class it must answer; of several findings those it called where it was written.
        logits: float32 values, one per class, measured where the bundle was written.
        probabilities: The same after `Card.temperature` and softmax.
        tolerance: Largest difference allowed per logit, absolute, in logits.
        colourful: True when the image has clear colour, so that grey images are foreign.
    """

    file: str
    label: str
    logits: tuple[float, ...]
    probabilities: tuple[float, ...]
    tolerance: float = Field(gt=0)
    colourful: bool


class Manifest(Record):
    """``card.json``.

    Attributes:
        files: Name -> sha256 (64 hexadecimal digits) of every other file of the bundle.
        reading: Which way of reading files, `READING`, it was measured with.
        digest: sha256 of this very record without `digest`, as canonical JSON.
    """

    kind: Literal["clinipress bundle"]
    schema_version: Literal["1"]
    clinipress: str
    card: Card
    evidence: dict[str, Any]
    self_test: SelfTest
    files: dict[str, str]
    reading: int = 1
    digest: str


def read_card(folder: Path) -> Manifest:
    """card.json, checked for kind, version, shape and its own digest, in this order."""
    path = folder / CARD
    if not (is_there(folder) and folder.is_dir()):
        got = "a file" if is_there(folder) else "nothing there"
        where = f"a bundle folder at '{folder!s:.300}'"
        raise BundleError(
            where,
            got,
            "pass the folder with card.json; a bare model file goes to 'clinipress evaluate' or "
            "'clinipress bench BUNDLE --against FILE'",
        )
    if not path.is_file() or path.is_symlink():
        raise BundleError(f"card.json in '{folder}'", "none", "pass the folder of a bundle")
    tree = _read_json(path)
    if not isinstance(tree, dict) or tree.get("kind") != KIND:
        raise BundleError(f"the card of a bundle in '{path}'", "something else", None)
    if tree.get("schema_version") != "1":
        raise BundleError(
            "schema_version '1' in card.json",
            f"{tree.get('schema_version')!a:.40}",
            "open it with the clinipress that wrote it, or write it again",
        )
    try:
        manifest = Manifest.model_validate(tree)
    except ValidationError as problem:
        error = problem.errors()[0]
        where = ".".join(str(part) for part in error["loc"])
        raise BundleError(
            f"{where!a:.80} in card.json to fit", error["msg"], "write it again"
        ) from None
    try:
        written = digest_of_card(tree)
    except RecursionError:  # nested just so deeply that it could be read
        raise BundleError("JSON in card.json", "one nested too deeply") from None
    if manifest.digest != written:
        raise BundleError("card.json as it was written", "a changed one", "write the bundle again")
    _check_values(manifest)
    return manifest


def _read_json(path: Path) -> Any:
    """The parsed file; deep nesting and NaN are refused like any other damage."""
    try:
        if path.stat().st_size > CARD_LIMIT:
            raise BundleError("a card.json under 16 MB", f"{path.stat().st_size} bytes")
        return json.loads(path.read_bytes(), parse_constant=_finite, parse_float=_finite)
    except OSError as problem:
        raise BundleError("to read card.json", str(problem)) from None
    except (ValueError, RecursionError) as problem:
        raise BundleError(
            "JSON in card.json", f"{problem}"[:120], "copy the bundle again"
        ) from None


def _finite(text: str) -> float:
    """A number that JSON can hold; "NaN", "Infinity" and 1e999 are not."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text:.20}")
    return number


def _check_values(manifest: Manifest) -> None:
    """Every file is named, no name leads out of the folder, and the numbers can be used."""
    for name in manifest.files:
        if not _is_plain(name):
            raise BundleError("plain file names in card.json", f"{name!a:.60}", "do not use it")
    if manifest.card.format not in FILES:
        known = ", ".join(FILES)
        raise BundleError(f"a format of {known} in card.json", f"{manifest.card.format!a:.40}")
    missing = {*FILES[manifest.card.format], manifest.self_test.file} - set(manifest.files)
    if missing:
        name = f"{sorted(missing)[0]!a:.60}"
        raise BundleError(f"a hash of {name} in card.json", "none", "do not use it")
    card, test = manifest.card, manifest.self_test
    if not len(card.classes) == len(test.logits) == len(test.probabilities):
        raise BundleError(f"{len(card.classes)} logits in card.json", str(len(test.logits)))
    check_calibration(card)


def check_calibration(card: Card) -> None:
    """Temperatures and thresholds that a device can use.

    Raises:
        BundleError: They are of another number, or outside their limits.
    """
    for degree in (card.temperature, *card.temperatures):
        if not COLDEST <= degree <= HOTTEST:
            limits = f"{COLDEST:g} to {HOTTEST:g}"
            raise BundleError(f"a temperature from {limits} in card.json", f"{degree:g}")
    for name, values in (("temperatures", card.temperatures), ("thresholds", card.thresholds)):
        if len(values) not in (0, len(card.classes)):
            raise BundleError(f"{len(card.classes)} {name} in card.json", str(len(values)))
    if any(limit is not None and not 0 < limit < 1 for limit in card.thresholds):
        raise BundleError("thresholds between 0 and 1 in card.json", str(card.thresholds))


def _is_plain(name: str) -> bool:
    """True for the name of a file beside the card, which any system and terminal can bear."""
    if name != Path(name).name or name in {"", ".", "..", CARD} or "\\" in name:
        return False
    return name.isprintable() and len(name) <= LONGEST_NAME


def check_file(folder: Path, name: str, expected: str) -> None:
    """One file against its hash; a link could lead out of the folder and is refused."""
    path = folder / name
    if path.is_symlink() or not path.is_file():
        got = "a link" if path.is_symlink() else "none"
        raise BundleError(f"the file '{name}' in '{folder}'", got, "copy the bundle again")
    try:
        same = sha256_of(path) == expected
    except OSError as problem:
        raise BundleError(f"to read '{name}'", str(problem)) from None
    if not same:
        raise BundleError(f"'{name}' as it was written", "other content", "copy the bundle again")


def refuse_unlisted(folder: Path, manifest: Manifest) -> None:
    """Nothing but what card.json lists: an engine may read weights from a file beside the model."""
    try:
        listed = {CARD, *manifest.files}
        unlisted = {
            path.name
            for path in folder.iterdir()
            if path.name not in listed and not _is_litter(path, listed)
        }
    except OSError as problem:
        raise BundleError(f"to list '{folder}'", str(problem)) from None
    if unlisted:
        raise BundleError(
            f"nothing in '{folder}' but what card.json lists",
            f"{min(unlisted)!a:.80} too",
            "remove what is not the bundle's, or copy the bundle again",
        )


def _is_litter(path: Path, listed: Set[str]) -> bool:
    """A file of the system's own; "._NAME" is what macOS keeps of NAME beside it."""
    known = path.name in _LITTER or path.name.removeprefix("._") in {*listed, *_LITTER}
    return known and path.is_file() and not path.is_symlink()


def digest_of_card(tree: Mapping[str, Any]) -> str:
    """sha256 of everything but "digest", as canonical JSON."""
    rest = {key: value for key, value in tree.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
