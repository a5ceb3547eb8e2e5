"""Where a candidate answers otherwise than its reference, and whether that leans to the bad side.

Two classifiers of the same accuracy can disagree on every tenth image. A flip is counted by what
it did to the truth (lost, gained, changed) and, class by class, by whether a call was dropped or
added.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clinipress.evidence.columns import GroupColumn, divide
from clinipress.evidence.family import check_pair, check_same_images, combine, identical
from clinipress.evidence.gate import FEWEST_UNITS, IDENTICAL, few_units
from clinipress.evidence.scores import AND, Scores
from clinipress.records.judgement import Direction, Disagreement, Flip, FlipCounts
from clinipress.records.result import Interval, Reason, RiskLevel, Rule, Status, Verdict
from clinipress.reporting.wording.reasons import worded
from clinipress.stats.bootstrap import bootstrap, spread_interval, weighted_sums
from clinipress.stats.intervals import effective_units, proportion, unit_index
from clinipress.stats.metrics import log_softmax, predictions, rates
from clinipress.stats.paired import mcnemar_exact

__all__ = ["AGREEMENT", "disagreement_section", "holm", "mcnemar_by_unit"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# Least share of images with the same answer. 0.95 is the guide's threshold for a quantized model
# (R41, "agreement_rate"); the others are ours, around it.
AGREEMENT: Mapping[RiskLevel, float] = MappingProxyType(
    {"critical": 0.98, "high": 0.97, "medium": 0.95, "low": 0.90}
)
CONFIDENCE_EDGES = (0.0, 0.5, 0.7, 0.9, 0.99, 1.0)
SIGNIFICANT = 0.05
Kind = Literal["lost", "gained", "changed"]


def disagreement_section(
    reference: Scores,
    candidate: Scores,
    *,
    least_agreement: float,
    flips: int = 48,
    resamples: int = 2000,
    seed: int = 0,
) -> Disagreement:
    """Agreement, flips by class, confidence and group, and whether they lean to new misses.

    Agreement has Wilson's interval, kappa a percentile bootstrap over units, both with patients or
    clusters taken into account; tests of asymmetry are `mcnemar_by_unit`. The divergence is
    ``mean sum p log(p / q)`` with p the reference's calibrated probabilities, q the candidate's.

    What is judged: agreement must be shown to be at least `least_agreement`; and new misses must
    not be shown to outnumber new finds (exact test, 5 % over all classes together by Holm's
    method), however few they are: with two classes for the finding alone, else for each class.

    Args:
        reference: The reference's answers.
        candidate: The candidate's on the same images; its `groups` are used.
        least_agreement: Share, such as `AGREEMENT` of the risk level.
        flips: At most so many flipped images are listed, the worst first.
        resamples: Bootstrap resamples.
        seed: Same seed, same interval.

    Raises:
        DataError: Answers that do not belong together.
    """
    findings = reference.classes if candidate.several else ()
    single = (reference, candidate) if findings else None
    if findings:
        check_same_images(reference, candidate)
        reference, candidate = reference.called_pairs(), candidate.called_pairs()
    cases, _, index = check_pair(reference, candidate)
    pair = _Pair.of(reference, candidate, index)
    columns = divide(candidate.groups, index)[0]
    counts = pair.count("all", np.arange(len(pair.labels)))
    directions = tuple(pair.direction(i) for i in range(len(pair.classes)))
    tested = directions if cases.positive is None else (directions[cases.positive],)
    if single:  # of each finding that somebody shows
        tested = tuple(_of_findings(*single))
    adjusted = holm([direction.p_value for direction in tested])
    tested = tuple(
        direction.model_copy(update={"adjusted_p_value": p})
        for direction, p in zip(tested, adjusted, strict=True)
    )
    directions = tested if cases.positive is None or single else directions
    lost, gained = units_changed(pair.was, pair.now, index)
    return Disagreement(
        cases=counts.cases,
        agreement=counts.agreement,
        kappa=_kappa(pair, counts.agreement, resamples, seed),
        divergence=_divergence(reference, candidate),
        lost=counts.lost,
        gained=counts.gained,
        changed=counts.changed,
        p_value=mcnemar_exact(lost, gained),
        directions=directions,
        by_class=tuple(pair.count(name, rows) for name, rows in _by_class(pair) if len(rows)),
        by_confidence=tuple(
            pair.count(name, rows) for name, rows in _by_confidence(pair) if len(rows)
        ),
        by_group=tuple(
            pair.count(f"{column.name}: {value}", np.flatnonzero(column.codes == number))
            for column in columns
            for number, value in enumerate(column.values)
        ),
        flips=_worst(pair, candidate.keys, columns, flips),
        units_lost=lost,
        units_gained=gained,
        verdict=IDENTICAL
        if identical(reference, candidate)
        else _verdict(
            counts, tested, least_agreement, effective_units(index), several=single is not None
        ),
    )


def mcnemar_by_unit(before: NDArray[np.bool_], after: NDArray[np.bool_], index: Integers) -> float:
    """Exact two-sided McNemar test in which a patient or cluster counts once.

    A unit with more cases lost than gained counts as one lost, and the reverse; one with as many
    of either says nothing (the sign test of unit differences). With one case per unit it is
    McNemar's test. Durkalski et al. (2003, Stat Med 22:2417) weigh units by their size instead,
    with a test that is not exact.

    Args:
        before: bool ``[n]``.
        after: bool ``[n]``, on the same cases.
        index: Unit of each case, int64 ``[n]``, numbered from 0.
    """
    return mcnemar_exact(*units_changed(before, after, index))


def units_changed(
    before: NDArray[np.bool_], after: NDArray[np.bool_], index: Integers
) -> tuple[int, int]:
    """Units with more cases lost than gained, and with more gained than lost."""
    net = np.bincount(index, before.astype(np.float64) - after)
    return int((net > 0).sum()), int((net < 0).sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """P values made larger for their number (Holm 1979, Scand J Stat 6:65)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = so_far
    return adjusted


@dataclass(frozen=True)
class _Pair:
    """Answers of both: called int64 ``[n]``, right bool ``[n]``, calibrated confidence ``[n]``."""

    classes: tuple[str, ...]
    labels: Integers
    index: Integers
    before: Integers
    after: Integers
    was: NDArray[np.bool_]
    now: NDArray[np.bool_]
    sure_before: Floats
    sure_after: Floats

    @classmethod
    def of(cls, reference: Scores, candidate: Scores, index: Integers) -> _Pair:
        before, after = predictions(reference.logits), predictions(candidate.logits)
        labels = reference.labels
        return cls(
            reference.classes,
            labels,
            index,
            before,
            after,
            before == labels,
            after == labels,
            reference.probabilities.max(axis=1),
            candidate.probabilities.max(axis=1),
        )

    @property
    def kinds(self) -> dict[Kind, NDArray[np.bool_]]:
        """Which images flipped, by what it did to the truth."""
        flipped = self.before != self.after
        return {
            "lost": self.was & ~self.now,
            "changed": flipped & ~self.was & ~self.now,
            "gained": ~self.was & self.now,
        }

    def count(self, name: str, rows: Integers) -> FlipCounts:
        """Flips among some images, of which there is at least one."""
        kinds = {kind: int(which[rows].sum()) for kind, which in self.kinds.items()}
        same = self.before[rows] == self.after[rows]
        return FlipCounts.model_validate(
            {
                "name": name,
                "cases": len(rows),
                "agreement": proportion(same, self.index[rows]),
                **kinds,
            }
        )

    def direction(self, number: int) -> Direction:
        """Calls of one class that were dropped and added."""
        before, after, mine = self.before == number, self.after == number, self.labels == number
        dropped, added = before & ~after, ~before & after
        changed = units_changed(before[mine], after[mine], self.index[mine])
        return Direction(
            label=self.classes[number],
            to_negative=int(dropped.sum()),
            to_positive=int(added.sum()),
            missed=int((dropped & mine).sum()),
            found=int((added & mine).sum()),
            p_value=mcnemar_exact(*changed),
            units_missed=changed[0],
            units_found=changed[1],
        )


def _of_findings(reference: Scores, candidate: Scores) -> Iterator[Direction]:
    """Which way each of several findings leans."""
    for number in np.flatnonzero(reference.asked).tolist():
        before, after = (s.with_cuts().of_finding(number) for s in (reference, candidate))
        if len(np.unique(before.labels)) == 2:
            index = unit_index(before.units, len(before.labels))
            yield _Pair.of(before, after, index).direction(0)


def _by_class(pair: _Pair) -> Iterator[tuple[str, Integers]]:
    for number, name in enumerate(pair.classes):
        yield name, np.flatnonzero(pair.labels == number)


def _by_confidence(pair: _Pair) -> Iterator[tuple[str, Integers]]:
    """Bands (low, high] of the reference's calibrated confidence."""
    edges = np.asarray(CONFIDENCE_EDGES)
    band = np.searchsorted(edges[1:-1], pair.sure_before, side="left")
    for number in range(len(edges) - 1):
        yield f"{edges[number]:g} to {edges[number + 1]:g}", np.flatnonzero(band == number)


def _divergence(reference: Scores, candidate: Scores) -> float:
    """Mean Kullback-Leibler divergence, nats; from logarithms, which do not underflow."""
    before, after = (
        log_softmax(scores.logits.astype(np.float64) / scores.temperature)
        for scores in (reference, candidate)
    )
    mean = float((np.exp(before) * (before - after)).sum(axis=1).mean())
    return max(mean, 0.0)  # rounding may take it below


def _kappa(pair: _Pair, agreement: Interval, resamples: int, seed: int) -> Interval | None:
    """Cohen's kappa between the two; None where both only ever call one and the same class."""
    k, every, units = len(pair.classes), np.arange(len(pair.labels)), int(pair.index.max()) + 1
    cells = np.zeros((3 * k, len(pair.labels)))
    cells[pair.before, every] = pair.before == pair.after
    cells[k + pair.before, every] = 1
    cells[2 * k + pair.after, every] = 1
    sums = np.stack([np.bincount(pair.index, cell) for cell in cells]).astype(np.float64)

    def kappa(counts: Floats) -> list[dict[str, Floats]]:
        drawn = weighted_sums(sums, counts)
        return [{"kappa": rates(drawn[:k], drawn[k : 2 * k], drawn[2 * k :])["kappa"]}]

    if units < 2:
        return None
    (spreads,) = bootstrap(kappa, pair.index, pair.labels, resamples, seed)
    interval = spread_interval("kappa", spreads["kappa"], pair.index, floor=-1.0)
    if interval is None or interval.low < interval.high:
        return interval
    # no resample differs: the ends of agreement, with chance as it is
    whole = sums.sum(axis=1)
    chance = float(whole[k : 2 * k] @ whole[2 * k :]) / float(whole[k : 2 * k].sum()) ** 2
    ends = [(end - chance) / (1 - chance) for end in (agreement.low, agreement.high)]
    low, high = min(ends[0], interval.value), max(ends[1], interval.value)
    update = {"low": low, "high": high, "method": agreement.method}
    return interval.model_copy(update=update)


def _worst(
    pair: _Pair, keys: Sequence[str], columns: Sequence[GroupColumn], most: int
) -> tuple[Flip, ...]:
    """Lost before changed before gained; among each, sure before and sure now come first.

    Of the columns only the group is told: an exact age or a name is not for a list of pictures.
    """
    surety = pair.sure_before * pair.sure_after
    flips = []
    for kind, which in pair.kinds.items():
        rows = np.flatnonzero(which)
        flips += [(i, kind) for i in rows[np.argsort(-surety[rows], kind="stable")].tolist()]
    return tuple(
        Flip(
            key=keys[i].partition(AND)[0],
            finding=keys[i].partition(AND)[2] or None,
            truth=pair.classes[pair.labels[i]],
            before=pair.classes[pair.before[i]],
            after=pair.classes[pair.after[i]],
            kind=kind,
            confidence_before=float(pair.sure_before[i]),
            confidence_after=float(pair.sure_after[i]),
            groups={
                column.name: column.values[column.codes[i]]
                for column in columns
                if column.codes[i] >= 0
            },
        )
        for i, kind in flips[:most]
    )


def _verdict(
    counts: FlipCounts,
    tested: Sequence[Direction],
    least: float,
    units: float = math.inf,
    *,
    several: bool = False,
) -> Verdict:
    agreement = counts.agreement
    rule = Rule(metric="agreement", margin=least)
    status: Status = "inconclusive"
    more = {"several": True} if several else {}
    few = (few_units(rule, {"agreement": units}),) if units < FEWEST_UNITS else ()
    if not few and agreement.high < least:
        status = "fail"
    elif not few and agreement.low >= least:
        status = "pass"
    reasons = (
        Reason(
            kind="agreement",
            status=status,
            rule="primary",
            metric="agreement",
            interval=agreement,
            limit=least,
            parameters={"images": counts.cases} | more,
        ),
        *few,
        Reason(
            kind="flips",
            parameters={"lost": counts.lost, "gained": counts.gained, "changed": counts.changed},
        ),
    )
    agrees = Verdict(status=status, reasons=worded(reasons))
    return combine([(agrees, True), (_leaning(tested, more), True)])


def _leaning(tested: Sequence[Direction], more: Mapping[str, bool]) -> Verdict:
    """Whether new misses are shown to outnumber new finds; the class that says most."""
    reasons = [
        _direction_reason("new misses", "fail", direction, len(tested), more)
        for direction in tested
        if (direction.adjusted_p_value or 0.0) < SIGNIFICANT and direction.missed > direction.found
    ]
    if reasons:
        return Verdict(status="fail", reasons=worded(reasons))
    if not tested:
        nobody = Reason(kind="nothing to miss", status="inconclusive", rule="primary")
        return Verdict(status="inconclusive", reasons=worded([nobody]))
    most = max(tested, key=lambda direction: direction.missed - direction.found)
    return Verdict(
        status="pass",
        reasons=worded([_direction_reason("no new misses", "pass", most, len(tested), more)]),
    )


def _direction_reason(
    kind: str, status: Status, direction: Direction, classes: int, more: Mapping[str, bool]
) -> Reason:
    return Reason(
        kind=kind,
        status=status,
        rule="primary",
        where=direction.label,
        parameters={
            "missed": direction.missed,
            "found": direction.found,
            "units_missed": direction.units_missed,
            "units_found": direction.units_found,
            "raw_p_value": direction.p_value,
            "p_value": direction.adjusted_p_value,
            "classes": classes,
            **more,
        },
    )
