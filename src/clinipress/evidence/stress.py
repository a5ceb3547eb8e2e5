"""Worse images: how much more a candidate loses by them than the reference does.

The work is in three parts, so that it can be stopped and shared out: `stress_rows` says which
images, `disturbed_logits` runs all classifiers on one disturbance at one strength (its answer is
what a caller keeps), and `stress_section` draws the figures and the verdict from those answers
without any model.

The excess of a level is the paired drop on disturbed images minus the paired drop on the same
images undisturbed. A candidate fails when at strength 1, 2 or 3 some excess is shown to reach
`CLASS_MARGIN_FACTOR` times the margin; strengths 4 and 5 are shown and not judged, as there both
may guess. Thirty levels are looked at, so the lower bounds that show a loss hold for all of them
together: ``value - c se`` with c the 97.5 % quantile of ``max (replicate - value) / se`` over the
levels of each shared resample (the single-step maximum of Westfall and Young 1993; Romano and Wolf
2005, JASA 100:94). To pass, every single 95 % interval must end below the limit, which needs no
correction: all must hold (Berger 1982, Technometrics 24:295).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clinipress.data.study import (
    PREDICT_BATCH,
)
from clinipress.errors import DataError, InputError
from clinipress.evidence.gate import CLASS_MARGIN_FACTOR, cases_to_decide
from clinipress.evidence.scores import Scores
from clinipress.kinds.image.disturb import DISTURBANCES, disturb
from clinipress.records.candidate import (
    Candidate,
)
from clinipress.records.judgement import Probe, Stress, StressCurve, StressLevel
from clinipress.records.result import Interval, Verdict
from clinipress.stats.bootstrap import weighted_sums
from clinipress.stats.intervals import (
    effective_size,
    is_clustered,
    percentile_interval,
    proportion,
    resample,
    unit_index,
    z_value,
)
from clinipress.stats.metrics import check_cases, predictions
from clinipress.stats.paired import paired_difference, tango
from clinipress.text import fixed

__all__ = [
    "JUDGED",
    "disturbed_logits",
    "stress_rows",
    "stress_section",
]

Floats = NDArray[np.float64]
Logits = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Level = tuple[str, int]
JUDGED = (1, 2, 3)


def stress_rows(
    labels: NDArray[np.integer], units: NDArray[np.integer], most: int = 200, seed: int = 0
) -> NDArray[np.int64]:
    """Which images to disturb: classes as in the split, as many patients or clusters as possible.

    Args:
        labels: Integer ``[n]``.
        units: Integer ``[n]``; a second image of one is taken only after the first of all others.
        most: Images wanted; all are taken when there are no more.
        seed: Same seed, same images.

    Returns:
        int64 ``[min(n, most)]``, rising row numbers, at least one of each class.

    Raises:
        InputError: `most` is smaller than the number of classes.
    """
    n = len(labels)
    if n <= most:
        return np.arange(n, dtype=np.int64)
    classes, counts = np.unique(labels, return_counts=True)
    if most < len(classes):
        raise InputError(f"at least {len(classes)} images, one of each class", f"{most}")
    given, ideal = np.ones(len(classes)), most * counts / n
    for _ in range(most - len(classes)):
        given[np.argmax(ideal - given)] += 1
    order = np.random.default_rng(seed).permutation(n)
    taken = []
    for label, quota in zip(classes, given, strict=True):
        mine = order[labels[order] == label]
        taken.append(mine[np.argsort(_nth_of_unit(units[mine]), kind="stable")][: int(quota)])
    return np.sort(np.concatenate(taken)).astype(np.int64)


def _nth_of_unit(units: NDArray[np.integer]) -> NDArray[np.int64]:
    """How many images of the same unit stand before each."""
    seen: dict[int, int] = {}
    before = np.empty(len(units), np.int64)
    for row, unit in enumerate(units.tolist()):
        before[row] = seen.get(unit, 0)
        seen[unit] = before[row] + 1
    return before


def disturbed_logits(
    candidates: Mapping[str, Candidate],
    images: Pixels | Callable[[NDArray[np.int64]], Pixels],
    keys: Sequence[str],
    kind: str,
    strength: int,
    seed: int = 0,
) -> dict[str, Logits]:
    """Answers of several classifiers to the same disturbed images, each image disturbed once.

    Args:
        candidates: Name -> classifier; all take the same input.
        images: uint8 ``[n, c, h, w]``, or a function from positions, int64 ``[m]`` in ``[0, n)``,
            to those images.
        keys: n names.
        kind: A name in `clinipress.kinds.image.disturb.DISTURBANCES`.
        strength: 0 (none) to 5.
        seed: Of the disturbance.

    Returns:
        Name -> float32 ``[n, k]``.

    Raises:
        InputError: An unknown kind or strength, or images of another shape.
    """
    take = images if callable(images) else images.__getitem__
    parts: dict[str, list[Logits]] = {name: [] for name in candidates}
    for first in range(0, len(keys), PREDICT_BATCH):
        last = min(first + PREDICT_BATCH, len(keys))
        batch = disturb(take(np.arange(first, last)), keys[first:last], kind, strength, seed)
        for name, candidate in candidates.items():
            parts[name].append(candidate.predict(batch))
    return {name: np.concatenate(batches) for name, batches in parts.items()}


def stress_section(
    reference: Scores,
    candidate: Scores,
    rows: NDArray[np.integer],
    disturbed: Mapping[Level, tuple[NDArray[np.floating], NDArray[np.floating]]],
    *,
    margin: float,
    seed: int = 0,
    probes: Iterable[Probe] = (),
    resamples: int = 2000,
) -> Stress:
    """How both bear worse images, from stored answers.

    Args:
        reference: The reference's answers to the undisturbed split.
        candidate: The candidate's to the same.
        rows: Integer ``[m]``, the images that were disturbed (`stress_rows`).
        disturbed: (kind, strength) -> logits ``[m, k]`` of the reference and of the candidate on
            the disturbed images, in the order of `rows`.
        margin: Largest drop of accuracy that the study allows.
        seed: That the images were disturbed with; also seeds the bootstrap.
        probes: What `clinipress.evidence.probes.probe_records` returned.
        resamples: Of units, stratified, shared by all levels.

    Returns:
        Accuracies with Wilson intervals, paired drops by Tango, and the excess by percentile
        bootstrap, its ends moved out to Tango's where those are further.

    Raises:
        DataError: Answers that do not belong together, or no image.
        InputError: A kind or strength that does not exist.
    """
    if reference.keys != candidate.keys or reference.classes != candidate.classes:
        raise DataError("scores of the same images and classes", "others")
    labels, units = reference.labels[rows], unit_index(reference.units[rows], len(rows))

    def hits(logits: NDArray[np.floating]) -> NDArray[np.bool_]:
        check_cases(logits, labels, reference.classes)
        return np.asarray(predictions(logits) == labels)

    plain = hits(reference.logits[rows]), hits(candidate.logits[rows])
    levels = _in_order(disturbed)
    pairs = [(hits(disturbed[level][0]), hits(disturbed[level][1])) for level in levels]
    extra = [_drop_of_each(pair) - _drop_of_each(plain) for pair in pairs]
    replicates = _replicates(extra, units, labels, resamples, seed)
    excesses = [
        _excess(values, drawn, units) for values, drawn in zip(extra, replicates, strict=True)
    ]
    by_level = {
        level: StressLevel(
            strength=level[1],
            amount=DISTURBANCES[level[0]].amounts[level[1] - 1],
            reference=_sure(proportion(pair[0], units)),
            candidate=_sure(proportion(pair[1], units)),
            drop=_sure(paired_difference(*pair, units)),
            excess=excess,
        )
        for level, pair, excess in zip(levels, pairs, excesses, strict=True)
    }
    judged = [position for position, (_, strength) in enumerate(levels) if strength in JUDGED]
    bounds = _bounds([excesses[position] for position in judged], replicates[judged])
    return Stress(
        images=len(labels),
        seed=seed,
        undisturbed={
            "reference": _sure(proportion(plain[0], units)),
            "candidate": _sure(proportion(plain[1], units)),
        },
        curves=tuple(
            StressCurve(
                kind=kind,
                unit=DISTURBANCES[kind].unit,
                levels=tuple(by_level[level] for level in levels if level[0] == kind),
            )
            for kind in dict.fromkeys(kind for kind, _ in levels)
        ),
        probes=tuple(probes),
        verdict=_verdict(
            {levels[position]: by_level[levels[position]] for position in judged}, bounds, margin
        ),
    )


def _in_order(disturbed: Iterable[Level]) -> list[Level]:
    """Levels as the table of disturbances has them, by rising strength."""
    known = [(kind, strength) for kind in DISTURBANCES for strength in range(1, 6)]
    levels = set(disturbed)
    if strange := levels.difference(known):
        raise InputError("known disturbances at strengths 1 to 5", f"{sorted(strange)[0]}")
    return [level for level in known if level in levels]


def _drop_of_each(pair: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> Floats:
    """Right by the reference minus right by the candidate, image by image."""
    return pair[0].astype(np.float64) - pair[1]


def _sure(interval: Interval | None) -> Interval:
    if interval is None:
        raise DataError("at least one image", "none")
    return interval


def _replicates(
    values: Sequence[Floats],
    units: NDArray[np.int64],
    labels: NDArray[np.int64],
    resamples: int,
    seed: int,
) -> Floats:
    """Means ``[levels, resamples]`` on resamples of units that all levels share."""
    if not values:
        return np.zeros((0, resamples))
    each = (*values, np.ones(len(units)))
    sums = np.stack([np.bincount(units, value) for value in each]).astype(np.float64)
    blocks = [weighted_sums(sums, counts) for counts in resample(units, labels, resamples, seed)]
    drawn = np.concatenate(blocks, axis=1)
    return np.asarray(drawn[:-1] / drawn[-1])


def _excess(values: Floats, drawn: Floats, units: NDArray[np.int64]) -> Interval:
    """Mean with the wider end, on either side, of the bootstrap's interval and of Tango's.

    Resampling a handful of differences, or none, says too little of those that did not turn up.
    Tango's interval is made for values of -1, 0 and 1; the rare 2 (each right where the other is
    wrong, and the other way round once disturbed) counts there as two.
    """
    n, value = len(values), float(values.mean())
    method = "cluster-bootstrap" if is_clustered(units) else "bootstrap"
    interval = _sure(percentile_interval(value, drawn, method=method, n=n))
    lost, gained = float(values[values > 0].sum()), float(-values[values < 0].sum())
    effective = effective_size(values, units)
    # more than one difference per image cannot be told to it: then in units of several
    unit = max(1.0, (lost + gained) / n)
    scale = effective / n / unit
    low, high = tango(lost * scale, gained * scale, effective)
    ends = {"low": min(interval.low, unit * low), "high": max(interval.high, unit * high)}
    return interval.model_copy(update=ends)


def _bounds(excesses: Sequence[Interval], replicates: Floats) -> Floats:
    """Lower bounds ``[levels]`` that hold together with 97.5 % confidence."""
    if not excesses:
        return np.zeros(0)
    values = np.array([excess.value for excess in excesses])
    lows = np.array([excess.low for excess in excesses])
    # the standard error that the single interval's lower end amounts to; 0 for "all gained"
    errors = np.maximum((values - lows) / z_value(0.95), 1e-9)
    largest = ((replicates - values[:, None]) / errors[:, None]).max(axis=0)
    factor = max(float(np.quantile(largest, 0.975)), z_value(0.95))
    return np.asarray(values - factor * errors)


def _verdict(levels: Mapping[Level, StressLevel], bounds: Floats, margin: float) -> Verdict:
    limit = CLASS_MARGIN_FACTOR * margin
    if not levels:
        reason = "Worse images were not measured at strengths 1 to 3: that is never a pass."
        return Verdict(status="inconclusive", reasons=(reason,))
    sure = dict(zip(levels, bounds.tolist(), strict=True))
    failed = sorted((level for level in levels if sure[level] >= limit), key=sure.__getitem__)
    if failed:
        # the surest level of each kind, the surest kind first
        worst = {level[0]: level for level in failed}
        reasons = [
            f"{_figures(level, levels[level], limit)}: shown to reach or exceed it"
            f"{_together(len(levels), sure[level], limit)}."
            for level in sorted(worst.values(), key=sure.__getitem__, reverse=True)
        ]
        return Verdict(status="fail", reasons=tuple(reasons))
    widest = max(levels, key=lambda level: levels[level].excess.high)
    figures = _figures(widest, levels[widest], limit)
    kinds = list(dict.fromkeys(kind for kind, _ in levels))
    unsure = [level for level in levels if levels[level].excess.high >= limit]
    if not unsure:
        others = {1: "", 2: ", and so is the other disturbance"}
        rest = others.get(len(kinds), f", and so are the other {len(kinds) - 1} disturbances")
        reason = f"{figures}: shown to be below it{rest} up to strength {JUDGED[-1]}."
        return Verdict(status="pass", reasons=(reason,))
    names = [DISTURBANCES[kind].title for kind in kinds if kind in dict(unsure)]
    cases = _cases([levels[level].excess for level in unsure], limit)
    advice = f"; about {cases:,} would decide" if cases else ""
    reason = (
        f"{figures}: too few images to tell for {len(names)} of {len(kinds)} disturbances "
        f"({', '.join(names)}){advice}."
    )
    return Verdict(status="inconclusive", reasons=(reason,), cases_needed=cases)


def _cases(excesses: Iterable[Interval], limit: float) -> int | None:
    """Images that would decide on every level; None where that cannot be said of one."""
    needed = [cases_to_decide(excess, limit) for excess in excesses]
    known = [cases for cases in needed if cases is not None]
    return max(known) if len(known) == len(needed) else None


def _figures(level: Level, stress_level: StressLevel, limit: float) -> str:
    """'Noise at strength 3 of 5 took 12.0 points of accuracy more from the candidate than ...'."""
    excess, title = stress_level.excess, DISTURBANCES[level[0]].title
    digits = _digits((excess.value, excess.low, excess.high), limit)
    value, low, high, most = (
        fixed(100 * figure, digits)
        for figure in (abs(excess.value), excess.low, excess.high, limit)
    )
    taken, than = f"{value} points of accuracy more", "than"
    if excess.value <= 0:
        less = f"{value} points of accuracy less", "than"
        taken, than = less if excess.value else ("as much accuracy", "as")
    return (
        f"{title[0].upper()}{title[1:]} at strength {level[1]} of 5 took {taken} from the "
        f"candidate {than} from the reference (95 % interval of the excess {low} to {high}), "
        f"the limit is {most}"
    )


def _together(count: int, bound: float, limit: float) -> str:
    digits = _digits((bound,), limit)
    return (
        f" (at least {fixed(100 * bound, digits)} when all {count} levels are looked at together)"
    )


def _digits(figures: Iterable[float], limit: float) -> int:
    """Fewest decimals of a figure in points at which each stays on its side of the limit."""
    for digits in (1, 2, 3):
        shown = round(100 * limit, digits)
        if all((round(100 * figure, digits) < shown) == (figure < limit) for figure in figures):
            return digits
    return 4
