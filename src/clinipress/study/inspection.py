"""The sections for which models run again, for what is shipped: stress, saliency, pictures.

They come last, on the most decisive split that was measured, and choose nothing: the test split is
open by then. What was computed is kept per disturbance and per candidate, so that a run that is
killed goes on there.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clinipress import distributed
from clinipress.data.cache import DECODERS
from clinipress.errors import ModelError
from clinipress.evidence.probes import probe_logits, probe_records
from clinipress.evidence.saliency.explained import (
    Explanation,
    explain,
    fill_level,
)
from clinipress.evidence.saliency.masks import image_masks
from clinipress.evidence.saliency.section import (
    INDEPENDENT,
    RANDOMIZED,
    REFERENCE,
    SalientImages,
    saliency_section,
)
from clinipress.evidence.stress import Level, disturbed_logits, stress_rows, stress_section
from clinipress.formats.open import TRAINING_PACKAGES, engine_packages
from clinipress.kinds.image.disturb import DISTURBANCES
from clinipress.kinds.image.probes import probe_pictures
from clinipress.kinds.image.refuse import is_colourful
from clinipress.models.randomized import (
    randomized,
)
from clinipress.records.candidate import (
    Candidate,
)
from clinipress.records.judgement import Judgements, OutOfScopeProbe, Saliency, Stress
from clinipress.records.metrics import (
    least_loss,
)
from clinipress.records.store import write_atomically
from clinipress.study.choice import Choice
from clinipress.study.feature_networks import feature_network
from clinipress.study.scorecard import Row, Scorecard

__all__ = ["inspect"]

STRENGTHS = (1, 2, 3, 4, 5)
PROBED = 20  # images that are turned into out-of-scope pictures
LONGEST_SIDE = 160  # pixels of a thumbnail
NOT_ASKED = "the study asks for none"
NOT_SHIPPED = "nothing is shipped"


def inspect(card: Scorecard, choice: Choice) -> None:
    """Fill in the sections of every row that is shipped.

    Where nothing is, the maps of the row that came closest: where it looks may tell why it fell.
    """
    split = "test" if choice.finalists else "validation"
    shipped = {one.shipped for one in choice.outcomes} | {choice.shipped}
    rows = [row for row in card.rows[1:] if row.name in shipped]
    for row in card.rows[1:]:
        for name in row.judgements:
            row.judgements[name] = _with_pictures(card, row.judgements[name])
    asked = card.runner.study.evidence
    stressed = _stress(card, rows, split) if rows and asked.stress else {}
    not_stressed = NOT_ASKED if rows or not asked.stress else NOT_SHIPPED
    rows = rows or _closest(card)
    for row in rows:
        missing = dict(row.judgements[split].not_measured)
        looks = _saliency(card, row, split) if asked.saliency else NOT_ASKED
        if isinstance(looks, str):
            missing["saliency"] = looks
        if row.name not in stressed:
            missing["stress"] = not_stressed
        update = {
            "stress": stressed.get(row.name),
            "saliency": looks if isinstance(looks, Saliency) else None,
            "not_measured": missing,
        }
        row.judgements[split] = row.judgements[split].model_copy(update=update)


def _closest(card: Scorecard) -> list[Row]:
    """The row that the report shows where none is shipped: the least loss that is not excluded."""
    metric = next(rule for rule in card.rules if rule.primary).metric
    judged = [row for row in card.rows[1:] if row.to is None]
    index = least_loss(metric, [row.changes.get("validation", {}).get(metric) for row in judged])
    return [] if index is None else [judged[index]]


def _stress(card: Scorecard, rows: Sequence[Row], split: str) -> dict[str, Stress]:
    """Row -> how it bears worse images, beside the reference."""
    runner, root = card.runner, card.reference
    study, scores = runner.study, root.scores[split]
    chosen = stress_rows(scores.labels, scores.units, study.evidence.stress, study.seed)
    keys = tuple(scores.keys[row] for row in chosen)
    files: dict[str, Candidate] = {row.name: row.file for row in (root, *rows)}
    disturbed: dict[Level, dict[str, NDArray[np.float32]]] = {}
    what = f"{len(DISTURBANCES)} disturbances of {len(keys)} images"
    runner.progress.start(what, len(DISTURBANCES))
    with runner.phase("stress"):
        for kind in DISTURBANCES:
            disturbed |= _disturbed(card, files, keys, kind)
            runner.progress.advance(what)
    runner.progress.finish(what)
    probes = _probes(card, [root, *rows], keys)
    found = {}
    for row in rows:
        found[row.name] = stress_section(
            scores,
            row.scores[split],
            chosen,
            {level: (by[root.name], by[row.name]) for level, by in disturbed.items()},
            margin=card.asked.margin,
            seed=study.seed,
            probes=probes[row.name],
            resamples=study.bootstrap,
        )
    return found


def _probes(
    card: Scorecard, rows: Sequence[Row], keys: tuple[str, ...]
) -> dict[str, tuple[OutOfScopeProbe, ...]]:
    """Row -> how sure it is of pictures that are out of scope, beside the first row."""
    some = keys[:PROBED]
    images = _pixels(card, some)
    pictures = probe_pictures(images, some, card.runner.study.seed)
    answers = probe_logits({row.name: row.file for row in rows}, pictures)
    asked = [(card.calibrated(row), answers[row.name]) for row in rows]
    colourful = any(is_colourful(image) for image in images)
    return {
        row.name: probe_records(pictures, asked[0], mine, colourful=colourful)
        for row, mine in zip(rows, asked, strict=True)
    }


def _disturbed(
    card: Scorecard, files: dict[str, Candidate], keys: tuple[str, ...], kind: str
) -> dict[Level, dict[str, NDArray[np.float32]]]:
    """Answers to one kind of disturbance at every strength, or those that were kept."""
    runner = card.runner
    inputs = {
        "candidates": {name: file.digest for name, file in files.items()},
        "kind": kind,
        "amounts": DISTURBANCES[kind].amounts,
        "keys": keys,
        "data": runner.data.digest,
        "seed": runner.study.seed,
    }

    def make(folder: Path) -> None:
        cache = runner.data.cache(card.reference.file.card.input)
        index = cache.where(keys)
        answers = {
            f"{strength} {name}": logits
            for strength in STRENGTHS
            for name, logits in disturbed_logits(
                files, lambda at: cache.take(index[at]), keys, kind, strength, runner.study.seed
            ).items()
        }
        buffer = io.BytesIO()
        np.savez(buffer, **answers)  # type: ignore[arg-type]
        write_atomically(folder / "logits.npz", buffer.getvalue())

    packages = (*engine_packages(file.card.format for file in files.values()), *DECODERS)
    folder = runner.store.once("stress", inputs, make, packages=packages)
    with np.load(folder / "logits.npz", allow_pickle=False) as kept:
        return {(kind, s): {name: kept[f"{s} {name}"] for name in files} for s in STRENGTHS}


def _saliency(card: Scorecard, row: Row, split: str) -> Saliency | str:
    """Where a row looks, beside the reference and two baselines; or why that was not measured."""
    runner, root = card.runner, card.reference
    study, scores = runner.study, root.scores[split]
    chosen = stress_rows(scores.labels, scores.units, study.evidence.saliency, study.seed)
    keys = tuple(scores.keys[at] for at in chosen)
    asked, spec = study.evidence, root.file.card.input
    masks = image_masks(asked.masks, asked.mask_kind, keys, spec) if asked.masks else None
    images = SalientImages(
        pixels=_pixels(card, keys),
        keys=keys,
        labels=scores.labels[chosen],
        units=scores.units[chosen],
        classes=scores.classes,
        masks=masks,
    )
    answers = scores.logits[chosen].argmax(axis=1)
    try:
        with runner.phase("saliency"):
            explained = {
                name: _explained(card, name, candidate, images, answers)
                for name, candidate in _explained_rows(card, row, images).items()
            }
    except ModelError as problem:
        return str(problem)
    return saliency_section(
        images, explained, row.name, folder=runner.store.folder, seed=study.seed
    )


def _explained_rows(card: Scorecard, row: Row, images: SalientImages) -> dict[str, Candidate]:
    """Row of the section -> who is asked: reference, student, its file, and the two baselines."""
    found: dict[str, Candidate] = {REFERENCE: card.reference.file}
    parent = card.network(row)
    if parent is not row and parent is not card.reference:
        found[parent.name] = parent.file
    found[row.name] = row.file
    control = next((one for r in (row, parent) if (one := card.control(r))), None)
    if control is not None:
        found[INDEPENDENT] = control.file
    seed = card.runner.study.seed
    found[RANDOMIZED] = randomized(row.torch, images.pixels, seed=seed)
    return found


def _explained(
    card: Scorecard,
    name: str,
    candidate: Candidate,
    images: SalientImages,
    answers: NDArray[np.int64],
) -> Explanation:
    """Maps of one row, or those that were made before of the same images."""
    runner = card.runner
    asked = runner.study.evidence
    inputs = {
        "candidate": candidate.digest,
        "answers": answers.tolist(),
        "keys": images.keys,
        "data": runner.data.digest,
        "mode": asked.saliency_mode,
        "seed": runner.study.seed,
    }

    def make(folder: Path) -> None:
        runner.progress.say(f"saliency maps of {name}, {len(images.keys)} images")
        explain(
            candidate,
            feature_network(candidate, threads=runner.study.threads),
            images.pixels,
            answers,
            fill=fill_level(card.reference.torch),
            mode=asked.saliency_mode,
            seed=runner.study.seed,
            progress=runner.progress,
        ).save(folder / "maps.npz")

    packages = (*TRAINING_PACKAGES, *engine_packages([candidate.card.format]), *DECODERS)
    folder = runner.store.once("saliency", inputs, make, packages=packages)
    return Explanation.load(folder / "maps.npz")


def _with_pictures(card: Scorecard, found: Judgements) -> Judgements:
    """Thumbnails of the flipped images, as the network sees them."""
    held = found.disagreement
    if held is None or not held.flips:
        return found
    images = _pixels(card, [flip.key for flip in held.flips])
    pictured = tuple(
        flip.model_copy(update={"picture": _thumbnail(card.runner.store.folder, flip.key, image)})
        for flip, image in zip(held.flips, images, strict=True)
    )
    return found.model_copy(update={"disagreement": held.model_copy(update={"flips": pictured})})


def _pixels(card: Scorecard, keys: Sequence[str]) -> NDArray[np.uint8]:
    """Decoded images uint8 ``[n, c, h, w]`` at the reference's input."""
    cache = card.runner.data.cache(card.reference.file.card.input)
    return cache.take(cache.where(keys))


def _thumbnail(run: Path, key: str, image: NDArray[np.uint8]) -> str:
    """Write uint8 ``[c, h, w]`` as a small picture; its path below the run folder.

    Always: one that is there may be of other pixels, or drawn by another version.
    """
    name = f"pictures/{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.png"
    if distributed.is_main():
        pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
        picture = Image.fromarray(pixels)
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        write_atomically(run / name, buffer.getvalue())
    return name
