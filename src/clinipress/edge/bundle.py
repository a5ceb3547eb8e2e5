"""A bundle: the one folder that goes to the device, and checks itself when it is opened.

    BUNDLE/
      model.onnx   the classifier; raw uint8 pixels in, logits out (model.tflite, model.xml with
                   model.bin, model.pte: by the format in card.json)
      card.json    what it is, what was measured, and the sha256 of every other file
      sample.png   one image, so that the device can prove that it computes what we computed
      LICENSE      the licence of the model
      README.txt   a few lines for whoever finds the folder
      fingerprints.npz   how the study's images are known again in a set that is called external:
                   digests and signs of brightness differences, no picture and no name

The hashes guard against damage and mix-ups. They are not a signature: whoever can rewrite card.json
can make a bundle that opens, so a bundle needs a trusted way to the device, or its `digest` one.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from clinipress.edge.answers import Prediction, answer
from clinipress.edge.inputs import Source
from clinipress.edge.manifest import (
    CARD,
    KIND,
    VERSION,
    Manifest,
    SelfTest,
    check_calibration,
    check_file,
    digest_of_card,
    read_card,
    refuse_unlisted,
)
from clinipress.errors import BundleError, ImageError, MissingExtraError, ModelError, StorageError
from clinipress.formats.file import FILES, FileCandidate
from clinipress.formats.open import open_file, package_of
from clinipress.kinds.image.pixels import READING
from clinipress.kinds.image.read import decode, facts
from clinipress.kinds.image.refuse import is_colourful
from clinipress.recipe.formats import format_facts
from clinipress.records.candidate import Card, InputSpec
from clinipress.records.store import sha256_of
from clinipress.text import STATUS_WORDS, plain_page, sentence
from clinipress.version import __version__

__all__ = ["Bundle", "caution", "clearest", "load_bundle", "open_bundle", "write_bundle"]

SAMPLE, LICENCE, README = "sample.png", "LICENSE", "README.txt"
FINGERPRINTS = "fingerprints.npz"
# int8 kernels round differently on other processors: one hundredth of the spread of the logits
TOLERANCE = 1e-2
PICTURES = frozenset({"BMP", "JPEG", "PNG"})
NO_LICENCE = "No licence was given with this model: ask its makers before you use it or pass it on."


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: Its folder.
        manifest: The content of card.json.
        candidate: The classifier, loaded.
    """

    path: Path
    manifest: Manifest
    candidate: FileCandidate

    @property
    def card(self) -> Card:
        """What the classifier is and takes."""
        return self.manifest.card

    @property
    def caution(self) -> str | None:
        """What must be said of a model that was selected and not released; None where it was."""
        return caution(self.manifest.evidence)

    @property
    def digest(self) -> str:
        """sha256, 64 hexadecimal digits, of the whole bundle: card.json names all other files."""
        return self.manifest.digest

    def classify(self, source: Source) -> Prediction:
        """Classify one image.

        Args:
            source: A path, the bytes of an image file, or uint8 pixels: ``[height, width]`` grey,
                ``[height, width, 3]`` RGB of any size, or exactly `card.input`'s
                ``[channels, height, width]``.

        Returns:
            The answer; `Prediction.refused` says why when the image is not the right kind.
        """
        return answer(
            self.candidate, self.card, source, colourful=self.manifest.self_test.colourful
        )

    def self_test(self) -> float:
        """Classify the bundle's own image and compare with what was measured at writing.

        Returns:
            The largest difference of a logit, at most `SelfTest.tolerance`.

        Raises:
            BundleError: The model answers something else on this machine.
        """
        test = self.manifest.self_test
        logits = _sample_logits(self.candidate, self.card, self.path / test.file)
        difference = float(np.max(np.abs(logits - np.asarray(test.logits, np.float64))))
        # of several findings, each logit says enough: the answer may lie on a threshold
        several = self.card.task == "multilabel"
        label = test.label if several else self.card.classes[int(np.argmax(logits))]
        if not difference <= test.tolerance or label != test.label:  # NaN fails as well
            raise BundleError(
                f"'{test.label}' and logits within {test.tolerance:.3g} for {test.file}",
                f"'{label}' and a difference of {difference:.3g} on this machine",
                "do not use this bundle here; export the model for this processor",
            )
        return difference


def caution(evidence: Mapping[str, Any]) -> str | None:
    """What must be said of a model that is not known to have passed; None where it is.

    Args:
        evidence: Of a bundle's card, from which nothing is taken on trust.
    """
    verdict = evidence.get("verdict")
    status = verdict.get("status") if isinstance(verdict, Mapping) else None
    if status == "pass":
        return None
    if verdict is None:
        return (
            "NOT RELEASED: card.json holds no verdict; this model is not shown to be safe to use."
        )
    words = {str(name): text for name, text in STATUS_WORDS.items() if name != "pass"}
    word = words.get(status, "unknown") if isinstance(status, str) else "unknown"
    return (
        f"NOT RELEASED: this model was selected, but the verdict of its study is {word}; it is not "
        "shown to be safe to use. card.json says why."
    )


def write_bundle(
    folder: Path,
    model_path: Path,
    card: Card,
    *,
    sample: NDArray[np.uint8] | Path,
    evidence: Mapping[str, Any],
    sample_note: str = "",
    licence: str | None = None,
    tolerance: float | None = None,
    fingerprints: bytes | None = None,
    replace: bool = False,
) -> Path:
    """Write a bundle: all of it or nothing.

    Args:
        folder: Where; a bundle that is there is replaced once the new one is whole, anything else
            is left alone.
        model_path: The model file; of a format with several, the first, the others beside it.
        card: Its card; its format says which files there are and which engine runs them.
        sample: An image for the self-test. It travels with the model, so it must be one that may be
            given away. uint8 ``[channels, height, width]`` as `card.input` says, or an image file.
            Stored as PNG without metadata: an 8-bit picture in its own size, so that reading and
            resizing are tested too, anything else (DICOM, a windowed input) as the model sees it.
        evidence: A JSON-able summary of what was measured.
        sample_note: What the sample is, for README.txt: "SYNTHETIC: drawn", ...
        licence: Text of the model's licence; None: a file that says that none was given.
        tolerance: Of the self-test, in logits; None: one hundredth of the sample's logit range.
        fingerprints: Of the study's images (`clinipress.data.audit.overlap.Seen.anonymous`); None:
            what the model has seen cannot be told.
        replace: Whatever is there: the folder is the writer's own.

    Returns:
        `folder`.

    Raises:
        BundleError: The folder holds something else, the model does not fit the card, or it cannot
            make up its mind about the sample.
        ImageError: The sample file cannot be read.
        StorageError: The folder cannot be written.
    """
    folder = Path(folder).absolute()
    if card.format not in FILES:
        raise BundleError(
            f"a card of format {', '.join(FILES)}", f"'{card.format}'", "export the model first"
        )
    check_calibration(card)
    parts = [model_path, *(model_path.parent / name for name in FILES[card.format][1:])]
    for part in parts:
        if not part.is_file():
            raise BundleError("a model file for the bundle", f"nothing at '{part}'")
    if not replace:
        _refuse_foreign(folder)
    work = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.part"
    try:
        work.mkdir(parents=True)
        for part, name in zip(parts, FILES[card.format], strict=True):
            shutil.copyfile(part, work / name)
        (work / SAMPLE).write_bytes(_sample_png(sample, card))
        (work / LICENCE).write_text((licence or NO_LICENCE).rstrip() + "\n", encoding="utf-8")
        (work / README).write_text(
            plain_page(_readme(card, evidence, sample_note)), encoding="utf-8"
        )
        if fingerprints is not None:
            (work / FINGERPRINTS).write_bytes(fingerprints)
        test = _measure(work, card, tolerance)
        _write_card(work, card, evidence, test)
        read_card(work)
        _replace(folder, work)
    except OSError as problem:
        raise StorageError(f"to write the bundle '{folder}'", str(problem)) from problem
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def clearest(logits: NDArray[np.floating]) -> int:
    """Row with the clearest answer, the best sample for a self-test.

    Args:
        logits: Float ``[n, classes]``.

    Returns:
        The row whose best two logits are furthest apart, measured in the spread of that row; of
        equals, as all are with two classes, the one with the widest spread.
    """
    ordered = np.sort(np.asarray(logits, np.float64), axis=1)
    spread = np.maximum(ordered[:, -1] - ordered[:, 0], np.finfo(np.float64).tiny)
    apart = np.round((ordered[:, -1] - ordered[:, -2]) / spread, 6)
    return int(np.lexsort((-spread, -apart))[0])


def open_bundle(folder: str | Path, *, threads: int | None = None) -> Bundle:
    """Open a bundle and check every hash, without the self-test; files without one are refused.

    Args:
        folder: The bundle.
        threads: CPU threads of the runtime; None: the runtime's own choice.

    Raises:
        BundleError: It is incomplete, changed, or not a bundle.
    """
    folder = Path(folder)
    manifest = read_card(folder)
    for name, expected in manifest.files.items():
        check_file(folder, name, expected)
    refuse_unlisted(folder, manifest)
    return Bundle(
        folder,
        manifest,
        _load_model(folder / FILES[manifest.card.format][0], manifest.card, threads),
    )


def load_bundle(folder: str | Path, *, threads: int | None = None) -> Bundle:
    """Open a bundle, check every hash, then let it classify its own sample image.

    Args:
        folder: The bundle.
        threads: CPU threads of the runtime; None: the runtime's own choice.

    Raises:
        BundleError: It is incomplete, changed, not a bundle, or answers wrongly on this machine.
    """
    bundle = open_bundle(folder, threads=threads)
    bundle.self_test()
    return bundle


def _load_model(path: Path, card: Card, threads: int | None) -> FileCandidate:
    """The model, with errors in the bundle's own words."""
    try:
        return open_file(path, card, threads)
    except ModelError as problem:
        raise BundleError(problem.expected, problem.got, "this model is not the card's") from None


def _as_stored(card: Card) -> InputSpec:
    """The card's input without a window: the sample's grey levels are windowed already."""
    return card.input.model_copy(update={"window": None})


def _sample_logits(candidate: FileCandidate, card: Card, path: Path) -> NDArray[np.float64]:
    """Logits of the sample, one per class."""
    try:
        logits = candidate.predict(decode(path, _as_stored(card))[None])
    except (ImageError, MissingExtraError, ModelError) as problem:
        raise BundleError(problem.expected, problem.got) from None
    if logits.shape != (1, len(card.classes)):
        raise BundleError(
            f"one logit for each of {len(card.classes)} classes",
            f"the shape {list(logits.shape)}",
            "this model is not the card's",
        )
    return np.asarray(logits[0], np.float64)


def _measure(work: Path, card: Card, tolerance: float | None) -> SelfTest:
    """What the model in `work` answers for the sample there."""
    candidate = _load_model(work / FILES[card.format][0], card, 1)
    logits = _sample_logits(candidate, card, work / SAMPLE)
    spread = float(np.ptp(logits))
    allowed = TOLERANCE * spread if tolerance is None else tolerance
    several = card.task == "multilabel"
    first, second = np.sort(logits)[::-1][:2] if not several else (np.inf, logits.max())
    if not first - second > 2 * allowed:  # NaN is refused as well
        raise BundleError(
            f"a sample whose best two logits are more than {2 * allowed:.3g} apart",
            f"{first:.4g} and {second:.4g}",
            "pass an image the model is surer of, such as the one `clearest` finds",
        )
    stored = _as_stored(card)
    colourful = card.input.channels == 3 and is_colourful(decode(work / SAMPLE, stored))
    as_stored = card.model_copy(update={"input": stored})
    response = answer(candidate, as_stored, work / SAMPLE, colourful=colourful)
    if response.label is None:
        raise BundleError("a sample that the bundle would not refuse", response.refused or "none")
    return SelfTest(
        file=SAMPLE,
        label=response.label,
        logits=tuple(logits.tolist()),
        probabilities=tuple(response.probabilities.values()),
        tolerance=allowed,
        colourful=colourful,
    )


def _sample_png(sample: NDArray[np.uint8] | Path, card: Card) -> bytes:
    """The sample as PNG without metadata: names and dates of patients hide in headers."""
    if isinstance(sample, np.ndarray):
        expected = (card.input.channels, card.input.height, card.input.width)
        if sample.shape != expected or sample.dtype != np.uint8:
            raise BundleError(
                f"a sample of uint8 {list(expected)}", f"{sample.dtype} {list(sample.shape)}"
            )
        return _png(sample)
    if card.input.window is None and facts(sample).format in PICTURES:
        with Image.open(sample, formats=sorted(PICTURES)) as image:
            if image.mode in {"L", "RGB"} and "transparency" not in image.info:
                upright = np.asarray(ImageOps.exif_transpose(image), np.uint8)
                return _png(np.atleast_3d(upright).transpose(2, 0, 1))
    return _png(decode(sample, card.input))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG bytes of uint8 ``[1 or 3, h, w]``."""
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _readme(card: Card, evidence: Mapping[str, Any], sample_note: str) -> str:
    """A few lines for whoever finds the folder."""
    not_released = caution(evidence)
    note = format_facts(card.format).bundle_note
    lines = [
        *((not_released, "") if not_released else ()),
        f"{card.name}: an image classifier made by clinipress {__version__}.",
        sentence(f"Classes: {', '.join(card.classes)}"),
        sentence(f"Intended use: {card.intended_use.strip() or 'not stated'}"),
    ]
    if trial := evidence.get("trial"):
        lines.append(str(trial))
    if card.synthetic:
        lines.append("Trained on drawn images: for demonstration only, never for patients.")
    lines += [
        "",
        f"    pip install '{package_of(card.format)}'",
        "    clinipress predict THIS_FOLDER IMAGE",
        *(("", *note) if note else ()),
        "",
        *([sentence(f"{SAMPLE}, for the self-test: {sample_note}")] if sample_note else []),
        "card.json says what it takes, what was measured of it and the sha256 of every file here.",
        "Not a medical device. Do not edit these files: a changed bundle does not open.",
        "",
    ]
    return "\n".join(lines)


def _write_card(work: Path, card: Card, evidence: Mapping[str, Any], test: SelfTest) -> None:
    """card.json, last of all, since it holds the hashes of the others."""
    tree: dict[str, Any] = {
        "kind": KIND,
        "schema_version": VERSION,
        "clinipress": __version__,
        "reading": READING,
        "card": card.model_dump(mode="json"),
        "evidence": dict(evidence),
        "self_test": test.model_dump(mode="json"),
        "files": {
            name: sha256_of(work / name)
            for name in (*FILES[card.format], SAMPLE, LICENCE, README, FINGERPRINTS)
            if (work / name).is_file()
        },
    }
    try:
        tree["digest"] = digest_of_card(tree)
        text = json.dumps(tree, indent=1, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise BundleError("evidence that JSON can hold", str(problem)) from None
    (work / CARD).write_text(text + "\n", encoding="utf-8")


def _refuse_foreign(folder: Path) -> None:
    """Only nothing, an empty folder or an untouched bundle may be written over."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise BundleError(f"a folder to write at '{folder}'", "a file or a link")
    names = {entry.name for entry in folder.iterdir()}
    if not names:
        return
    ours = {name for names in FILES.values() for name in names}
    foreign = names - {CARD, SAMPLE, LICENCE, README, FINGERPRINTS} - ours
    if foreign or CARD not in names:
        what = f"'{sorted(foreign)[0]}'" if foreign else "no card.json"
        raise BundleError(
            f"an empty folder or a bundle at '{folder}'", f"a folder with {what}", "choose another"
        )
    read_card(folder)


def _replace(folder: Path, work: Path) -> None:
    """Put `work` in the place of `folder`; a rename cannot replace a folder that is not empty."""
    if not folder.exists():
        work.rename(folder)
        return
    old = work.with_suffix(".old")
    folder.rename(old)
    try:
        work.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)
