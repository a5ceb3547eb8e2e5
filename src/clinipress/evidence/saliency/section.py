"""The section on saliency: whether a candidate still looks where the reference looks.

No similarity means anything by itself: the method draws something for any network. So the
candidate's is set against the same network with random weights and, where the study has one, a
network trained apart from the reference (Adebayo et al. 2018; Arun et al. 2021).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import DataError
from clinipress.evidence.saliency.explained import Explanation
from clinipress.evidence.saliency.faithfulness import FAITHFULNESS, energy_inside
from clinipress.evidence.saliency.panels import write_panel
from clinipress.evidence.saliency.similarity import RANGES, UNKNOWN, mean_interval, similarities
from clinipress.records.judgement import Saliency, SaliencyPanel
from clinipress.records.result import Interval, Reason, Status, Verdict
from clinipress.reporting.wording.reasons import worded

__all__ = ["INDEPENDENT", "RANDOMIZED", "REFERENCE", "SalientImages", "saliency_section"]

REFERENCE, INDEPENDENT, RANDOMIZED = "reference", "independent", "randomized"
FEWEST = 8  # images that both get right: with fewer, all are compared
PANELS = 6
_LIMITS = dict.fromkeys(FAITHFULNESS, (0.0, 1.0))
_WHAT = {
    REFERENCE: "the reference",
    INDEPENDENT: "a network trained apart from the reference",
    RANDOMIZED: "the candidate with random weights",
}


@dataclass(frozen=True)
class SalientImages:
    """The images whose maps were made, in one order.

    Attributes:
        pixels: uint8 ``[n, channels, h, w]``.
        keys: n names.
        labels: int64 ``[n]``.
        units: int64 ``[n]``, patient or cluster.
        classes: Names of the classes.
        several: They may show several findings; a label is the rarest that an image shows.
        masks: bool ``[n, h, w]`` of what should be looked at (False throughout: not known), or
            None where the set has no masks.
    """

    pixels: NDArray[np.uint8]
    keys: tuple[str, ...]
    labels: NDArray[np.int64]
    units: NDArray[np.int64]
    classes: tuple[str, ...]
    masks: NDArray[np.bool_] | None = None
    several: bool = False


def saliency_section(
    images: SalientImages,
    explained: Mapping[str, Explanation],
    candidate: str,
    *,
    folder: Path | None = None,
    below: str = "saliency",
    seed: int = 0,
) -> Saliency:
    """Similarity with its baselines, faithfulness, energy in masks, pictures, and a verdict.

    The maps explain the reference's answer. Similarity is counted on the images that reference and
    candidate both get right, for every row on the same ones; with fewer than eight of these, on
    all. Faithfulness is counted on all images.

    Verdict, by Spearman's correlation with the reference's maps: "fail" where the upper end of the
    candidate's interval is not above that of the randomized network's; "pass" where its lower end
    is above that upper end, and not below the lower end of the network trained apart where there is
    one; else "inconclusive".

    Args:
        images: What was explained.
        explained: By row: "reference", the candidate's name and, where there are, "independent" and
            "randomized"; any other row, such as the network that the candidate is the file of, is
            shown beside them and not judged.
        candidate: Name of the candidate's row.
        folder: The run folder; None: no pictures are drawn.
        below: Folder of the pictures below it.
        seed: Of the bootstrap.

    Raises:
        DataError: Maps are missing or are not of these images.
        StorageError: A picture cannot be written.
    """
    _check(images, explained, candidate)
    reference, mine = explained[REFERENCE], explained[candidate]
    right = (reference.answers == images.labels) & (mine.answers == images.labels)
    chosen = right if right.sum() >= FEWEST else np.ones(len(right), np.bool_)
    which = (
        f"{int(right.sum())} of {len(right)} images that both get right"
        if chosen is right
        else f"all {len(right)} images, of which both get {int(right.sum())} right"
    )
    others = [row for row in explained if row not in (REFERENCE, candidate, *_WHAT)]
    rows = [row for row in (*others, candidate, INDEPENDENT, RANDOMIZED) if row in explained]
    each = {row: similarities(reference.maps, explained[row].maps) for row in rows}

    def interval(values: NDArray[np.float64], limits: tuple[float, float]) -> Interval | None:
        return mean_interval(values, images.units, images.labels, limits=limits, seed=seed)

    similarity = {
        row: _known({m: interval(np.where(chosen, v, np.nan), RANGES[m]) for m, v in by.items()})
        for row, by in each.items()
    }
    everyone = [REFERENCE, *rows]
    faithful = {
        row: _known(
            {m: interval(getattr(explained[row].faithful, m), _LIMITS[m]) for m in FAITHFULNESS}
        )
        for row in everyone
    }
    inside = {
        row: interval(energy_inside(explained[row].maps, images.masks), (0.0, 1.0))
        for row in everyone
        if images.masks is not None
    }
    panels = _panels(images, explained, rows, each[candidate]["spearman"], chosen, folder, below)
    return Saliency(
        method="Score-CAM",
        mode="exact" if all(explained[row].mode == "exact" for row in everyone) else "fast",
        images=int(chosen.sum()),
        maps={
            row: _described(row, candidate, explained[row], which, images.several)
            for row in everyone
        },
        similarity=similarity,
        faithfulness=faithful,
        inside_mask=_known(inside),
        seconds_per_image={row: explained[row].seconds for row in everyone},
        panels=panels,
        verdict=_verdict({row: by.get("spearman") for row, by in similarity.items()}, candidate),
    )


def _check(images: SalientImages, explained: Mapping[str, Explanation], candidate: str) -> None:
    """Every map is of these images, and explains the same class in every row."""
    if missing := [row for row in (REFERENCE, candidate) if row not in explained]:
        raise DataError(f"maps of '{missing[0]}'", f"maps of {', '.join(sorted(explained))}")
    shape = (len(images.labels), *images.pixels.shape[2:])
    expected = explained[REFERENCE].explained
    for row, explanation in explained.items():
        if explanation.maps.shape != shape or not np.array_equal(explanation.explained, expected):
            raise DataError(
                f"maps {list(shape)} of '{row}' that explain the reference's answers",
                f"{list(explanation.maps.shape)}, of other answers or images",
                "make them again",
            )


def _known(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: figure for name, figure in figures.items() if figure is not None}


def _described(
    row: str, candidate: str, explanation: Explanation, which: str, several: bool
) -> str:
    what = _WHAT.get(row, "the candidate" if row == candidate else "the network it is the file of")
    compared = "" if row == REFERENCE else f"; compared on {which}"
    shown = "the rarest finding that each image shows"
    of = shown if several else "the class that the reference answers"
    return f"{what}, its map '{explanation.layer}', for {of}{compared}"


def _verdict(similarity: Mapping[str, Interval | None], candidate: str) -> Verdict:
    mine, random = similarity.get(candidate), similarity.get(RANDOMIZED)
    apart = similarity.get(INDEPENDENT)
    if mine is None or random is None:
        kind = "no maps" if mine is None else "no baseline"
        missing = Reason(kind=kind, status="inconclusive", rule="primary")
        return Verdict(status="inconclusive", reasons=worded([missing]))
    kind, status, against = _compared(mine, random, apart)
    reasons = (
        Reason(
            kind="similarity",
            metric="spearman",
            where=candidate,
            interval=mine,
            parameters={"randomized": random.model_dump()},
        ),
        Reason(kind=kind, status=status, rule="primary", metric="spearman", interval=against),
    )
    return Verdict(status=status, reasons=worded(reasons))


def _compared(
    mine: Interval, random: Interval, apart: Interval | None
) -> tuple[str, Status, Interval | None]:
    """Kind of the reason, what it shows, and the figure of the network trained apart it names."""
    if UNKNOWN in (mine.method, random.method):
        return "one unit", "inconclusive", None
    if mine.high <= random.high:
        return "by chance", "fail", None
    if mine.low <= random.high:
        return "overlap", "inconclusive", None
    if apart is not None and mine.low < apart.low:
        return "looks elsewhere", "inconclusive", apart
    return "looks alike", "pass", apart


def _panels(
    images: SalientImages,
    explained: Mapping[str, Explanation],
    rows: Sequence[str],
    similarity: NDArray[np.float64],
    chosen: NDArray[np.bool_],
    folder: Path | None,
    below: str,
) -> tuple[SaliencyPanel, ...]:
    """Pictures from the least to the most similar, in equal steps: no choice of the best."""
    order = np.argsort(similarity, kind="stable")
    order = order[(np.isfinite(similarity) & chosen)[order]]
    if folder is None or not len(order):
        return ()
    spread = np.linspace(0, len(order) - 1, min(PANELS, len(order))).round().astype(int)
    shown = [REFERENCE, *rows]
    panels = []
    for row in order[spread]:
        key = images.keys[row]
        name = hashlib.sha256("\n".join((*rows, key)).encode()).hexdigest()[:20]
        picture = f"{below}/{name}.jpg"
        maps = [explained[name_of_row].maps[row] for name_of_row in shown]
        write_panel(folder / picture, images.pixels[row], maps)
        panels.append(
            SaliencyPanel(
                key=key,
                truth=images.classes[images.labels[row]],
                explained=images.classes[explained[REFERENCE].explained[row]],
                picture=picture,
                titles=("image", *shown),
                similarity=float(similarity[row]),
            )
        )
    return tuple(panels)
