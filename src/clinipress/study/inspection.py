"""The sections for which models run again, for what is shipped: stress, saliency, pictures.

They come last, on the most decisive split that was measured, and choose nothing: the test split is
open by then. What was computed is kept per disturbance and per candidate, so that a run that is
killed goes on there.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clinipress import distributed
from clinipress.data.cache import DECODERS
from clinipress.errors import ModelError
from clinipress.evidence.gate import rules_for
from clinipress.evidence.judged import Declared
from clinipress.evidence.probes import probe_logits, probe_records
from clinipress.evidence.saliency.explained import Explanation, explain, fill_level
from clinipress.evidence.saliency.masks import image_masks
from clinipress.evidence.saliency.section import (
    INDEPENDENT,
    RANDOMIZED,
    REFERENCE,
    SalientImages,
    saliency_section,
)
from clinipress.evidence.stress import Level, disturbed_logits, stress_rows, stress_section
from clinipress.formats.onnx.adopt import FileNetwork, randomized_file
from clinipress.formats.open import TRAINING_PACKAGES, engine_packages
from clinipress.kinds.image.disturb import DISTURBANCES
from clinipress.kinds.image.probes import probe_pictures
from clinipress.kinds.image.refuse import is_colourful
from clinipress.models.randomized import randomized
from clinipress.records.candidate import Candidate, InputSpec, Judged
from clinipress.records.judgement import Judgements, OutOfScopeProbe, Saliency, Stress
from clinipress.records.metrics import least_loss
from clinipress.records.store import write_atomically
from clinipress.stats.metrics import strata
from clinipress.study.choice import Choice, float_candidate
from clinipress.study.feature_networks import feature_network
from clinipress.study.scores import calibrated
from clinipress.study.workbench import Piece, Workbench

__all__ = ["inspect"]

STRENGTHS = (1, 2, 3, 4, 5)
PROBED = 20  # images that are turned into out-of-scope pictures
LONGEST_SIDE = 160  # pixels of a thumbnail
NOT_ASKED = "the study asks for none"
NOT_SHIPPED = "nothing is shipped"


NOBODY_SICK = "no image shows a finding to explain"
NOBODY_ASKED = "no image shows a finding that has a threshold"


def inspect(
    judged: Sequence[Piece[Judged]], choice: Choice, declared: Declared, bench: Workbench
) -> tuple[Piece[Judged], ...]:
    """Every candidate, with the sections of those that are shipped.

    Where nothing is, the maps of the one that came closest: where it looks may tell why it fell.
    """
    split = "test" if choice.finalists else "validation"
    reference, *others = judged
    pictured = [_with_pictures(piece, reference, bench) for piece in others]
    shipped = [piece for piece in pictured if piece.name in choice.selected]
    recipe = declared.recipe
    wanted = shipped and recipe.stress
    stressed = _stress(reference, shipped, split, declared, bench) if wanted else {}
    not_stressed = NOT_ASKED if shipped or not recipe.stress else NOT_SHIPPED
    looked_at = shipped or _closest(pictured, declared)
    done = {}
    for piece in looked_at:
        maps = _saliency(judged, piece, split, bench) if recipe.saliency else NOT_ASKED
        missing = dict(piece.record.judgements[split].not_measured)
        if isinstance(maps, str):
            missing["saliency"] = maps
        if piece.name not in stressed:
            missing["stress"] = not_stressed
        sections = piece.record.judgements[split].model_copy(
            update={
                "stress": stressed.get(piece.name),
                "saliency": maps if isinstance(maps, Saliency) else None,
                "not_measured": missing,
            }
        )
        done[piece.name] = _with_sections(piece, {**piece.record.judgements, split: sections})
    return (reference, *(done.get(piece.name, piece) for piece in pictured))


def _with_sections(piece: Piece[Judged], judgements: dict[str, Judgements]) -> Piece[Judged]:
    return replace(piece, record=piece.record.model_copy(update={"judgements": judgements}))


def _closest(pieces: Sequence[Piece[Judged]], declared: Declared) -> list[Piece[Judged]]:
    """What the report shows where nothing is shipped: the least loss that is not excluded."""
    metric = next(rule for rule in rules_for(declared.risk) if rule.primary).metric
    judged = [piece for piece in pieces if piece.record.control_of is None]
    index = least_loss(
        metric, [piece.record.changes.get("validation", {}).get(metric) for piece in judged]
    )
    return [] if index is None else [judged[index]]


def _stress(
    root: Piece[Judged],
    pieces: Sequence[Piece[Judged]],
    split: str,
    declared: Declared,
    bench: Workbench,
) -> dict[str, Stress]:
    """Candidate -> how it bears worse images, beside the reference."""
    study, scores = bench.study, root.scores[split]
    chosen = stress_rows(scores.labels, scores.units, study.evidence.stress, study.seed)
    keys = tuple(scores.keys[row] for row in chosen)
    files: dict[str, Candidate] = {piece.name: piece.file for piece in (root, *pieces)}
    disturbed: dict[Level, dict[str, NDArray[np.float32]]] = {}
    what = f"{len(DISTURBANCES)} disturbances of {len(keys)} images"
    bench.progress.start(what, len(DISTURBANCES))
    with bench.times.phase("stress"):
        for kind in DISTURBANCES:
            disturbed |= _disturbed(files, keys, kind, root.file.card.input, bench)
            bench.progress.advance(what)
    bench.progress.finish(what)
    probes = _probes([root, *pieces], keys, bench)
    return {
        piece.name: stress_section(
            scores,
            piece.scores[split],
            chosen,
            {level: (by[root.name], by[piece.name]) for level, by in disturbed.items()},
            margin=declared.margin,
            seed=study.seed,
            probes=probes[piece.name],
            resamples=study.bootstrap,
        )
        for piece in pieces
    }


def _probes(
    pieces: Sequence[Piece[Judged]], keys: tuple[str, ...], bench: Workbench
) -> dict[str, tuple[OutOfScopeProbe, ...]]:
    """Candidate -> how sure it is of pictures that are out of scope, beside the first one."""
    if bench.study.data.task == "multilabel":  # an answer about each finding has no one confidence
        return {piece.name: () for piece in pieces}
    study, some = bench.study, keys[:PROBED]
    images = _pixels(pieces[0], some, bench)
    pictures = probe_pictures(images, some, study.seed)
    logits = probe_logits({piece.name: piece.file for piece in pieces}, pictures)
    answers = [(calibrated(piece, study), logits[piece.name]) for piece in pieces]
    colourful = any(is_colourful(image) for image in images)
    return {
        piece.name: probe_records(pictures, answers[0], mine, colourful=colourful)
        for piece, mine in zip(pieces, answers, strict=True)
    }


def _disturbed(
    files: dict[str, Candidate], keys: tuple[str, ...], kind: str, spec: InputSpec, bench: Workbench
) -> dict[Level, dict[str, NDArray[np.float32]]]:
    """Answers to one kind of disturbance at every strength, or those that were kept."""
    inputs = {
        "candidates": {name: file.digest for name, file in files.items()},
        "kind": kind,
        "amounts": DISTURBANCES[kind].amounts,
        "keys": keys,
        "data": bench.data.test_digest,
        "seed": bench.study.seed,
    }

    def make(folder: Path) -> None:
        cache = bench.data.cache(spec)
        index = cache.where(keys)
        answers = {
            f"{strength} {name}": logits
            for strength in STRENGTHS
            for name, logits in disturbed_logits(
                files, lambda at: cache.take(index[at]), keys, kind, strength, bench.study.seed
            ).items()
        }
        buffer = io.BytesIO()
        np.savez(buffer, **answers)  # type: ignore[arg-type]
        write_atomically(folder / "logits.npz", buffer.getvalue())

    packages = (*engine_packages(file.card.format for file in files.values()), *DECODERS)
    folder = bench.store.once("stress", inputs, make, packages=packages)
    with np.load(folder / "logits.npz", allow_pickle=False) as kept:
        return {(kind, s): {name: kept[f"{s} {name}"] for name in files} for s in STRENGTHS}


def _saliency(
    judged: Sequence[Piece[Judged]], piece: Piece[Judged], split: str, bench: Workbench
) -> Saliency | str:
    """Where a candidate looks, beside the reference and two baselines; or why nobody knows."""
    study, root = bench.study, judged[0]
    recipe, spec, scores = study.evidence, root.file.card.input, root.scores[split]
    # what has no threshold is neither called nor missed
    asked = np.where(scores.asked, scores.labels, -1) if scores.several else scores.labels
    labels, cuts = strata(asked), None
    shown = np.flatnonzero(labels >= 0)
    if not len(shown):
        return NOBODY_ASKED if scores.several and (scores.labels == 1).any() else NOBODY_SICK
    if scores.several:  # each image by the rarest finding that it shows
        cuts = scores.cuts * np.asarray(scores.temperatures or 1.0)
    by = np.zeros(len(shown), np.int64) if scores.several else labels[shown]
    chosen = shown[stress_rows(by, scores.units[shown], recipe.saliency, study.seed)]
    keys = tuple(scores.keys[row] for row in chosen)
    masks = image_masks(recipe.masks, recipe.mask_kind, keys, spec) if recipe.masks else None
    images = SalientImages(
        pixels=_pixels(root, keys, bench),
        keys=keys,
        labels=labels[chosen],
        units=scores.units[chosen],
        classes=scores.classes,
        masks=masks,
        several=scores.several,
    )
    answers = labels[chosen] if scores.several else scores.logits[chosen].argmax(axis=1)
    fill = fill_level(root.network)
    try:
        with bench.times.phase("saliency"):
            maps = {
                name: _explained(name, candidate, images, answers, fill, bench, cuts)
                for name, candidate in _beside(judged, piece, images, study.seed).items()
            }
    except ModelError as problem:
        return str(problem)
    return saliency_section(images, maps, piece.name, folder=bench.store.folder, seed=study.seed)


def _beside(
    judged: Sequence[Piece[Judged]], piece: Piece[Judged], images: SalientImages, seed: int
) -> dict[str, Candidate]:
    """Row of the section -> who is asked: reference, student, its file, and the two baselines."""
    named = {other.name: other for other in judged}
    whole = named[float_candidate(piece.record, [other.record for other in judged]).name]
    rows: dict[str, Candidate] = {REFERENCE: judged[0].file}
    if whole.name not in (piece.name, judged[0].name):
        rows[whole.name] = whole.file
    rows[piece.name] = piece.file
    control = piece.record.control or whole.record.control
    if control is not None:
        rows[INDEPENDENT] = named[control].file
    rows[RANDOMIZED] = (
        randomized_file(piece.network, seed)
        if isinstance(piece.network, FileNetwork)
        else randomized(piece.network, images.pixels, seed=seed)
    )
    return rows


def _explained(
    name: str,
    candidate: Candidate,
    images: SalientImages,
    answers: NDArray[np.int64],
    fill: float | NDArray[np.float32],
    bench: Workbench,
    cuts: NDArray[np.float64] | None,
) -> Explanation:
    """Maps of one row, or those that were made before of the same images."""
    study = bench.study
    inputs = {
        "candidate": candidate.digest,
        "answers": answers.tolist(),
        "keys": images.keys,
        "data": bench.data.test_digest,
        "mode": study.evidence.saliency_mode,
        "seed": study.seed,
        **({} if cuts is None else {"cuts": cuts.tolist()}),
    }

    def make(folder: Path) -> None:
        bench.progress.say(f"saliency maps of {name}, {len(images.keys)} images")
        explain(
            candidate,
            feature_network(candidate, threads=study.threads),
            images.pixels,
            answers,
            fill=fill,
            mode=study.evidence.saliency_mode,
            seed=study.seed,
            cuts=cuts,
            progress=bench.progress,
        ).save(folder / "maps.npz")

    packages = (*TRAINING_PACKAGES, *engine_packages([candidate.card.format]), *DECODERS)
    folder = bench.store.once("saliency", inputs, make, packages=packages)
    return Explanation.load(folder / "maps.npz")


def _with_pictures(
    piece: Piece[Judged], reference: Piece[Judged], bench: Workbench
) -> Piece[Judged]:
    """Thumbnails of the flipped images, as the network sees them."""
    judgements = dict(piece.record.judgements)
    for split, sections in piece.record.judgements.items():
        disagreement = sections.disagreement
        if disagreement is None or not disagreement.flips:
            continue
        images = _pixels(reference, [flip.key for flip in disagreement.flips], bench)
        flips = tuple(
            flip.model_copy(update={"picture": _thumbnail(bench.store.folder, flip.key, image)})
            for flip, image in zip(disagreement.flips, images, strict=True)
        )
        update = {"disagreement": disagreement.model_copy(update={"flips": flips})}
        judgements[split] = sections.model_copy(update=update)
    return _with_sections(piece, judgements)


def _pixels(piece: Piece[Judged], keys: Sequence[str], bench: Workbench) -> NDArray[np.uint8]:
    """Decoded images uint8 ``[n, c, h, w]`` at a candidate's input."""
    cache = bench.data.cache(piece.file.card.input)
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
