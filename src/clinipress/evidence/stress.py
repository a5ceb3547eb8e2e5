"""Worse images: how much more a candidate loses by them than the reference does.

The work is in three parts, so that it can be stopped and shared out: `stress_rows` says which
images, `disturbed_logits` runs all classifiers on one disturbance at one strength (its answer is
what a caller keeps), and `stress_section` draws the figures and the verdict from those answers
without any model.

What a level adds is the paired change on disturbed images minus the paired change on the same
images undisturbed; turned, it is a loss. A candidate fails when at strength 1, 2 or 3 some added
loss is shown to reach
`CLASS_MARGIN_FACTOR` times the margin; strengths 4 and 5 are shown and not judged, as there both
may guess. Thirty levels are looked at, so the lower bounds that show a loss hold for all of them
together: ``value - c se`` with c the 97.5 % quantile of ``max (replicate - value) / se`` over the
levels of each shared resample (the single-step maximum of Westfall and Young 1993; Romano and Wolf
2005, JASA 100:94). To pass, every single 95 % interval must end below the limit, which needs no
correction: all must hold (Berger 1982, Technometrics 24:295).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.data.study import PREDICT_BATCH
from clinipress.errors import DataError, InputError
from clinipress.evidence.gate import CLASS_MARGIN_FACTOR, FEWEST_UNITS, cases_to_decide, few_units
from clinipress.evidence.multilabel import judgeable
from clinipress.evidence.scores import Scores
from clinipress.kinds.image.disturb import DISTURBANCES, disturb
from clinipress.records.candidate import Candidate
from clinipress.records.judgement import OutOfScopeProbe, Stress, StressCurve, StressLevel
from clinipress.records.result import Interval, Reason, Rule, Status, Verdict
from clinipress.reporting.wording.reasons import worded
from clinipress.stats.bootstrap import BootstrapSpread, bootstrap, spread_interval, weighted_sums
from clinipress.stats.intervals import (
    effective_size,
    effective_units,
    is_clustered,
    percentile_interval,
    proportion,
    resample,
    unit_index,
    z_value,
)
from clinipress.stats.metrics import (
    RankTable,
    check_cases,
    mean_of_defined,
    predictions,
    rank_table,
    strata,
    weighted_auroc,
)
from clinipress.stats.paired import paired_difference, tango

__all__ = ["JUDGED", "disturbed_logits", "stress_rows", "stress_section"]

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
    labels, n = strata(labels), len(labels)
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
    probes: Iterable[OutOfScopeProbe] = (),
    resamples: int = 2000,
) -> Stress:
    """How both bear worse images, from stored answers.

    Args:
        reference: The reference's answers to the undisturbed split.
        candidate: The candidate's to the same.
        rows: Integer ``[m]``, the images that were disturbed (`stress_rows`).
        disturbed: (kind, strength) -> logits ``[m, k]`` of the reference and of the candidate on
            the disturbed images, in the order of `rows`.
        margin: Largest loss of accuracy that the study allows.
        seed: That the images were disturbed with; also seeds the bootstrap.
        probes: What `clinipress.evidence.probes.probe_records` returned.
        resamples: Of units, stratified, shared by all levels.

    Returns:
        Accuracies with Wilson intervals, paired changes by Tango, and what is added by percentile
        bootstrap, its ends moved out to Tango's where those are further.

    Raises:
        DataError: Answers that do not belong together, or no image.
        InputError: A kind or strength that does not exist.
    """
    if reference.keys != candidate.keys or reference.classes != candidate.classes:
        raise DataError("scores of the same images and classes", "others")
    if reference.several:
        areas = _areas(reference, candidate, rows, disturbed, seed, resamples)
        return _section(areas, len(rows), margin, seed, probes)
    labels, units = reference.labels[rows], unit_index(reference.units[rows], len(rows))

    def hits(logits: NDArray[np.floating]) -> NDArray[np.bool_]:
        check_cases(logits, labels, reference.classes)
        return np.asarray(predictions(logits) == labels)

    plain = hits(reference.logits[rows]), hits(candidate.logits[rows])
    levels = _in_order(disturbed)
    pairs = [(hits(disturbed[level][0]), hits(disturbed[level][1])) for level in levels]
    extra = [_change_of_each(pair) - _change_of_each(plain) for pair in pairs]
    replicates = _replicates(extra, units, labels, resamples, seed)
    added = [
        _added_change(values, drawn, units) for values, drawn in zip(extra, replicates, strict=True)
    ]
    by_level = {
        level: StressLevel(
            strength=level[1],
            amount=DISTURBANCES[level[0]].amounts[level[1] - 1],
            reference=_sure(proportion(pair[0], units)),
            candidate=_sure(proportion(pair[1], units)),
            change=_sure(paired_difference(pair[1], pair[0], units)),
            added_change=change,
        )
        for level, pair, change in zip(levels, pairs, added, strict=True)
    }
    undisturbed = [_sure(proportion(right, units)) for right in plain]
    shares = _Measured("accuracy", undisturbed, by_level, replicates, effective_units(units))
    return _section(shares, len(labels), margin, seed, probes)


@dataclass(frozen=True)
class _Measured:
    """Both classifiers on images as they are, and disturbed.

    Attributes:
        metric: What is measured.
        undisturbed: Of the reference and of the candidate.
        levels: In order.
        replicates: What each level adds to the change, on shared resamples, ``[levels, m]``.
        units: Effective number of units.
    """

    metric: str
    undisturbed: Sequence[Interval]
    levels: Mapping[Level, StressLevel]
    replicates: Floats
    units: float


def _section(
    measured: _Measured, images: int, margin: float, seed: int, probes: Iterable[OutOfScopeProbe]
) -> Stress:
    by_level, levels = measured.levels, list(measured.levels)
    judged = [position for position, (_, strength) in enumerate(levels) if strength in JUDGED]
    losses = [by_level[levels[position]].added_change.turned for position in judged]
    bounds = _bounds(losses, -measured.replicates[judged])
    return Stress(
        images=images,
        seed=seed,
        metric=measured.metric,
        undisturbed=dict(zip(("reference", "candidate"), measured.undisturbed, strict=True)),
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
            {levels[position]: by_level[levels[position]] for position in judged},
            bounds,
            margin,
            measured.units,
            measured.metric,
        ),
    )


def _areas(
    reference: Scores,
    candidate: Scores,
    rows: NDArray[np.integer],
    disturbed: Mapping[Level, tuple[NDArray[np.floating], NDArray[np.floating]]],
    seed: int,
    resamples: int,
) -> _Measured:
    """Of several findings: the mean area of those that enough of these patients show."""
    labels, units = reference.labels[rows], unit_index(reference.units[rows], len(rows))
    findings = np.flatnonzero(judgeable(labels, units))
    levels = _in_order(disturbed)
    answers = [(reference.logits[rows], candidate.logits[rows]), *(disturbed[lv] for lv in levels)]
    if not len(findings):
        raise DataError(
            f"a finding that {FEWEST_UNITS} patients of the images to disturb show",
            f"none among {len(rows)} images",
            "raise evidence.stress, or set it to 0",
        )
    tables = [
        [[(known := np.flatnonzero(labels[:, c] >= 0), rank_table(
            np.asarray(logits[known, c], np.float64), labels[known, c] == 1)) for c in findings]
         for logits in pair]
        for pair in answers
    ]  # fmt: skip

    def measure(counts: Floats) -> list[dict[str, Floats]]:
        weights = counts.astype(np.float32)[units]

        def area(each: Sequence[tuple[NDArray[np.int64], RankTable]]) -> Floats:
            return mean_of_defined(
                np.stack([weighted_auroc(table, weights[known]) for known, table in each])
            )

        figures: dict[str, Floats] = {}
        for number, pair in enumerate(tables):
            before, after = map(area, pair)
            figures |= {f"reference {number}": before, f"candidate {number}": after}
        return [figures]

    (spreads,) = bootstrap(measure, units, np.zeros(len(units), np.int64), resamples, seed)
    before = [spreads[f"reference {n}"] for n in range(len(answers))]
    after = [spreads[f"candidate {n}"] for n in range(len(answers))]
    moved = [b - a for a, b in zip(before, after, strict=True)]
    added = [change - moved[0] for change in moved[1:]]

    def interval(spread: BootstrapSpread, floor: float) -> Interval:
        return _sure(spread_interval("auroc_macro", spread, units, floor))

    by_level = {
        level: StressLevel(
            strength=level[1],
            amount=DISTURBANCES[level[0]].amounts[level[1] - 1],
            reference=interval(before[n], 0.0),
            candidate=interval(after[n], 0.0),
            change=interval(moved[n], -1.0),
            added_change=interval(added[n - 1], -2.0),
        )
        for n, level in enumerate(levels, start=1)
    }
    replicates = np.stack([spread.resampled for spread in added]) if added else np.zeros((0, 1))
    undisturbed = [interval(before[0], 0.0), interval(after[0], 0.0)]
    return _Measured("auroc_macro", undisturbed, by_level, replicates, effective_units(units))


def _in_order(disturbed: Iterable[Level]) -> list[Level]:
    """Levels as the table of disturbances has them, by rising strength."""
    known = [(kind, strength) for kind in DISTURBANCES for strength in range(1, 6)]
    levels = set(disturbed)
    if strange := levels.difference(known):
        raise InputError("known disturbances at strengths 1 to 5", f"{sorted(strange)[0]}")
    return [level for level in known if level in levels]


def _change_of_each(pair: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> Floats:
    """Right by the candidate minus right by the reference, image by image."""
    return pair[1].astype(np.float64) - pair[0]


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


def _added_change(values: Floats, drawn: Floats, units: NDArray[np.int64]) -> Interval:
    """Mean with the wider end, on either side, of the bootstrap's interval and of Tango's.

    Resampling a handful of differences, or none, says too little of those that did not turn up.
    Tango's interval is made for values of -1, 0 and 1; the rare 2 (each right where the other is
    wrong, and the other way round once disturbed) counts there as two.
    """
    n, value = len(values), float(values.mean())
    method = "cluster-bootstrap" if is_clustered(units) else "bootstrap"
    interval = _sure(percentile_interval(value, drawn, method=method, n=n))
    gained, lost = float(values[values > 0].sum()), float(-values[values < 0].sum())
    effective = effective_size(values, units)
    # more than one difference per image cannot be told to it: then in units of several
    unit = max(1.0, (lost + gained) / n)
    scale = effective / n / unit
    low, high = tango(gained * scale, lost * scale, effective)
    ends = {"low": min(interval.low, unit * low), "high": max(interval.high, unit * high)}
    return interval.model_copy(update=ends)


def _bounds(losses: Sequence[Interval], replicates: Floats) -> Floats:
    """Lower bounds ``[levels]`` of losses that hold together with 97.5 % confidence."""
    if not losses:
        return np.zeros(0)
    values = np.array([loss.value for loss in losses])
    lows = np.array([loss.low for loss in losses])
    # the standard error that the single interval's lower end amounts to; 0 for "all gained"
    errors = np.maximum((values - lows) / z_value(0.95), 1e-9)
    largest = ((replicates - values[:, None]) / errors[:, None]).max(axis=0)
    factor = max(float(np.quantile(largest, 0.975)), z_value(0.95))
    return np.asarray(values - factor * errors)


def _verdict(
    levels: Mapping[Level, StressLevel],
    bounds: Floats,
    margin: float,
    units: float,
    metric: str = "accuracy",
) -> Verdict:
    limit = CLASS_MARGIN_FACTOR * margin
    if not levels:
        reason = Reason(kind="stress unmeasured", status="inconclusive", rule="primary")
        return Verdict(status="inconclusive", reasons=worded([reason]))
    if units < FEWEST_UNITS:
        reason = few_units(Rule(metric=metric, margin=limit), {metric: units})
        return Verdict(status="inconclusive", reasons=worded([reason]))
    sure = dict(zip(levels, bounds.tolist(), strict=True))
    losses = {level: measured.added_change.turned for level, measured in levels.items()}
    kinds = list(dict.fromkeys(kind for kind, _ in levels))
    unsure = [level for level in levels if losses[level].high >= limit]

    def reason_of(level: Level, status: Status, **more: Any) -> Reason:
        return Reason(
            kind="stress",
            status=status,
            rule="primary",
            metric=metric,
            where=DISTURBANCES[level[0]].title,
            interval=levels[level].added_change,
            limit=limit,
            parameters={
                "strength": level[1],
                "judged": JUDGED[-1],
                "levels": len(levels),
                "kinds": len(kinds),
                "unsure": [DISTURBANCES[kind].title for kind in kinds if kind in dict(unsure)],
                **more,
            },
        )

    failed = sorted((level for level in levels if sure[level] >= limit), key=sure.__getitem__)
    if failed:
        # the surest level of each kind, the surest kind first
        worst = {level[0]: level for level in failed}
        reasons = [
            reason_of(level, "fail", bound=sure[level])
            for level in sorted(worst.values(), key=sure.__getitem__, reverse=True)
        ]
        return Verdict(status="fail", reasons=worded(reasons))
    widest = max(levels, key=lambda level: losses[level].high)
    status: Status = "inconclusive" if unsure else "pass"
    cases = _cases([losses[level] for level in unsure], limit) if unsure else None
    reason = reason_of(widest, status).model_copy(update={"cases": cases})
    return Verdict(status=status, reasons=worded([reason]), cases_needed=cases)


def _cases(losses: Iterable[Interval], limit: float) -> int | None:
    """Images that would decide on every level; None where that cannot be said of one."""
    needed = [cases_to_decide(loss, limit) for loss in losses]
    known = [cases for cases in needed if cases is not None]
    return max(known) if len(known) == len(needed) else None
