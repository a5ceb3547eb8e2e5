"""How far training's chance moves the figures: one study trained again from several seeds."""

from __future__ import annotations

from clinipress.records.result import SeedSpread
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.parts import grid, small
from clinipress.reporting.view import View
from clinipress.reporting.wording.lead import change_words
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    figure,
    figure_interval,
    points,
    short_name,
)
from clinipress.reporting.wording.phrases import split_name
from clinipress.text import capital, signed

__all__ = ["seeds_section"]

NOTE = (
    "In brackets the 95 % interval of the mean over seeds, by Student's t: with few seeds it is "
    "wide, and it does not hold the chance of the images, which the intervals of each run do."
)


def seeds_section(view: View) -> doc.Section | None:
    """Mean, range and spread over seeds; None for a study of one seed."""
    seeds, spreads = view.result.seeds, view.result.over_seeds
    if len(seeds) < 2 or not spreads:
        return None
    metric = view.metric
    rows: list[list[doc.Content]] = []
    for name, over in spreads.items():
        change = over.changes.get(metric)
        rows.append(
            [
                name,
                _figure(metric, over.evidence.get(metric)),
                _change(view.metric, change)
                if change
                else "reference"
                if name == view.result.reference
                else NOT_MEASURED,
            ]
        )
    split = split_name(next(iter(spreads.values())).split)
    return doc.Section(
        "seeds",
        "Repeated with other seeds",
        _sentence(view, split),
        [
            grid(
                ["Candidate", f"{capital(short_name(metric))}, {split} images", "Change, points"],
                rows,
                "cards rows",
            ),
            doc.Paragraph(NOTE, "note"),
        ],
    )


def _sentence(view: View, split: str) -> str:
    seeds, subject = view.result.seeds, view.subject
    named = ", ".join(str(seed) for seed in seeds)
    opening = f"The whole study was run with {len(seeds)} seeds ({named}) on one split"
    change = None
    if subject is not None and subject.name in view.result.over_seeds:
        change = view.result.over_seeds[subject.name].changes.get(view.metric)
    if subject is None or change is None or change.deviation is None:
        return f"{opening}; no candidate has figures of every seed to set beside the reference."
    span = f"{signed(100 * change.low, 1)} to {signed(100 * change.high, 1)}"
    return (
        f"{opening}: on the {split} images the change of {subject.name} lay between {span} points "
        f"(standard deviation {points(change.deviation)})."
    )


def _figure(metric: str, spread: SeedSpread | None) -> doc.Content:
    if spread is None or spread.mean is None:
        return NOT_MEASURED
    span = f"{figure(metric, spread.low)} to {figure(metric, spread.high)}"
    return [figure_interval(metric, spread.mean), small(f"seeds from {span}")]


def _change(metric: str, spread: SeedSpread) -> doc.Content:
    if spread.mean is None:
        return NOT_MEASURED
    span = f"{signed(100 * spread.low, 1)} to {signed(100 * spread.high, 1)}"
    return [change_words(metric, spread.mean), small(f"seeds from {span}")]
