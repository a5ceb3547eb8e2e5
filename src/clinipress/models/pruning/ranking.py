"""Which channels to remove so that a wanted share of the cost is gone: arithmetic, no network.

A unit is a set of coupled channels that can only go together (the layers of a residual stream, a
convolution with its norm and its readers). What a layer costs is a product of the shares of its
outputs and of its inputs that are left, so the cost of any choice is known without cutting
anything, and the search for a ratio takes milliseconds.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["CostProbe", "Costs", "Scope", "Unit", "choose", "schedule", "search", "share"]

Scope = Literal["global", "uniform", "isomorphic"]

LARGEST_CUT = 0.9  # of a unit's channels: a layer that is nearly gone cuts the network in two
CLOSE_ENOUGH = 0.005  # of the cost: below it, the ranking is not disturbed for a nearer ratio
TOO_FAR = 0.01  # of the cost: above it, two layers may leave the ranking by a step
LARGEST_REPAIR = 200


@dataclass(frozen=True)
class Unit:
    """Channels that are ranked against each other.

    Attributes:
        name: The layer whose outputs they are.
        scores: float64 ``[n]``, importance of each column of channels, its layers' mean near 1.
        round_to: Kept channels are a multiple of this, unless all are kept.
        kind: Units of equal topology share it; "isomorphic" ranks within it.
        table: int64 ``[n, channels]``, the layer's outputs that make a column; None: one each.
    """

    name: str
    scores: NDArray[np.float64]
    round_to: int = 1
    kind: str = ""
    table: NDArray[np.int64] | None = None

    @property
    def size(self) -> int:
        """Columns."""
        return len(self.scores)

    @property
    def per_column(self) -> int:
        """Channels in a column."""
        return 1 if self.table is None else self.table.shape[1]

    @property
    def channels(self) -> int:
        """Channels in all."""
        return self.size * self.per_column

    @property
    def kept_choices(self) -> list[int]:
        """Columns that may be kept, ascending; at least one rounding step and a tenth of all."""
        step = self.round_to // math.gcd(self.round_to, self.per_column)
        least = max(step, math.ceil(self.size * (1 - LARGEST_CUT) / step - 1e-9) * step)
        return [*range(least, self.size, step), self.size]

    def kept_near(self, wanted: float) -> int:
        """The choice nearest to `wanted` columns; never falls while `wanted` grows."""
        choices = self.kept_choices
        index = bisect.bisect_left(choices, wanted)
        near = choices[max(0, index - 1) : index + 1]
        return min(near, key=lambda kept: abs(kept - wanted))

    def gone(self, kept: int) -> NDArray[np.int64]:
        """Columns to remove so that the `kept` most important stay, least important first."""
        return np.argsort(self.scores, kind="stable")[: self.size - kept]

    def removed(self, kept: int) -> tuple[int, ...]:
        """Channel numbers of the columns that are then gone."""
        columns = self.gone(kept)
        channels = columns if self.table is None else self.table[columns]
        return tuple(sorted(int(channel) for channel in channels.ravel()))


@dataclass(frozen=True)
class Costs:
    """A sum of terms, each a product of what is left of a layer's outputs and of its inputs.

    Attributes:
        base: float64 ``[terms]``, what each term costs now.
        outputs: float64 ``[terms, units]``, share of the term's outputs one column removes.
        inputs: float64 ``[terms, units]``, the same of its inputs.
    """

    base: NDArray[np.float64]
    outputs: NDArray[np.float64]
    inputs: NDArray[np.float64]

    def total(self, removed: NDArray[np.float64]) -> float:
        """Cost once `removed` columns ``[units]`` are gone."""
        left = (1 - self.outputs @ removed) * (1 - self.inputs @ removed)
        return float(self.base @ left)


def share(costs: Costs, units: Sequence[Unit], kept: Sequence[int]) -> float:
    """Share of the cost that is gone, in [0, 1], when each unit keeps `kept` columns."""
    removed = np.array([u.size - k for u, k in zip(units, kept, strict=True)], dtype=np.float64)
    return 1 - costs.total(removed) / costs.total(np.zeros(len(units)))


def choose(costs: Costs, units: Sequence[Unit], ratio: float, scope: Scope) -> list[int]:
    """Columns each unit keeps so that the share of the cost that goes is as near `ratio` as may be.

    The ranking decides; where whole rounding steps overshoot, single steps of single units repair
    the ratio. What cannot be reached is approached: see `share`.

    Args:
        costs: What is counted.
        units: At least one.
        ratio: Share to remove, in (0, 1).
        scope: "global" ranks all columns together; "uniform" takes the same share of every unit;
            "isomorphic" ranks together what has the same topology and takes the same share of
            every topology (Fang et al., ECCV 2024, arXiv:2407.04616).
    """
    plan = _uniform_plan(units) if scope == "uniform" else _ranked_plan(units, scope)
    columns = range(sum(unit.size for unit in units) + 1)
    upper = bisect.bisect_left(columns, ratio, key=lambda n: share(costs, units, plan(n)))
    near = [plan(n) for n in (upper - 1, upper) if n in columns]
    best = min(near, key=lambda kept: abs(share(costs, units, kept) - ratio))
    return _repair(costs, units, best, ratio)


def _ranked_plan(units: Sequence[Unit], scope: Scope) -> Callable[[int], list[int]]:
    """The least important columns go, of the whole network or of every kind of unit alike."""
    kinds = [unit.kind if scope == "isomorphic" else "" for unit in units]
    owners = np.repeat(np.arange(len(units)), [unit.size for unit in units])
    scores = np.concatenate([unit.scores for unit in units])
    order = owners[np.argsort(scores, kind="stable")]
    ranks = [
        order[np.isin(order, [number for number, own in enumerate(kinds) if own == kind])]
        for kind in dict.fromkeys(kinds)
    ]

    def plan(n: int) -> list[int]:
        # with one kind, exactly `n`
        first = [rank[: round(n * len(rank) / len(owners))] for rank in ranks]
        gone = np.bincount(np.concatenate(first), minlength=len(units))
        return [unit.kept_near(unit.size - k) for unit, k in zip(units, gone, strict=True)]

    return plan


def _uniform_plan(units: Sequence[Unit]) -> Callable[[int], list[int]]:
    """Every unit loses the same share, `n` of all columns."""
    columns = sum(unit.size for unit in units)
    return lambda n: [unit.kept_near(unit.size * (1 - n / columns)) for unit in units]


def _repair(costs: Costs, units: Sequence[Unit], kept: list[int], ratio: float) -> list[int]:
    """One rounding step of one unit at a time, while that brings the share nearer to `ratio`.

    Where that ends too far off, a step of one unit and a step of another together.
    """
    best, error = kept, abs(share(costs, units, kept) - ratio)
    for _ in range(LARGEST_REPAIR):
        if error <= CLOSE_ENOUGH:
            break
        trial, trial_error = _nearest(costs, units, _steps(units, best), ratio)
        if trial_error >= error and error > TOO_FAR:
            pairs = (second for first in _steps(units, best) for second in _steps(units, first))
            trial, trial_error = _nearest(costs, units, pairs, ratio)
        if trial_error >= error:
            break
        best, error = trial, trial_error
    return best


def _nearest(
    costs: Costs, units: Sequence[Unit], trials: Iterable[list[int]], ratio: float
) -> tuple[list[int], float]:
    best: list[int] = []
    error = math.inf
    for trial in trials:
        trial_error = abs(share(costs, units, trial) - ratio)
        if trial_error < error:
            best, error = trial, trial_error
    return best, error


def _steps(units: Sequence[Unit], kept: list[int]) -> Iterator[list[int]]:
    """`kept` with one unit moved to its next lower or next higher choice."""
    for number, unit in enumerate(units):
        choices = unit.kept_choices
        now = choices.index(kept[number])
        for other in (now - 1, now + 1):
            if 0 <= other < len(choices):
                yield [*kept[:number], choices[other], *kept[number + 1 :]]


def schedule(ratio: float, rounds: int) -> list[float]:
    """Shares of the first cost that are gone after each round; the last is `ratio` itself.

    Every round takes the same share of what it finds: what remains after round i of n is
    ``(1 - ratio) ** (i / n)``. Taking ``ratio / n`` of what is left each time would fall short:
    five times 6 % are 27 %, not 30 %.

    Example:
        >>> [round(share, 3) for share in schedule(0.36, 2)]
        [0.2, 0.36]
    """
    return [1 - (1 - ratio) ** (i / rounds) for i in range(1, rounds)] + [ratio]


@dataclass(frozen=True)
class CostProbe:
    """One try of `search`: what was asked of the stand-in, and what was measured."""

    counted: float
    measured: float


def search(
    measure: Callable[[float], float],
    wanted: float,
    *,
    within: float,
    tries: int = 8,
    largest: float = 0.97,
) -> tuple[CostProbe, list[CostProbe]]:
    """Find what to ask of a counted cost so that a measured one comes out as wanted.

    The measured share grows with the counted one, from 0 at 0, but not in proportion, and is
    noisy. So the interval that holds the answer is cut where a straight line between its ends
    meets the wanted share, kept off the ends (regula falsi with a floor).

    Args:
        measure: Counted share -> measured share, both in [0, 1).
        wanted: Measured share to find.
        within: Error at which to stop.
        tries: Measurements at most.
        largest: Counted share that is never exceeded.

    Returns:
        The nearest probe, and all of them in order.
    """
    low, high = CostProbe(0.0, 0.0), CostProbe(largest, 1.0)
    probes: list[CostProbe] = []
    counted = min(wanted, largest)
    for _ in range(tries):
        probe = CostProbe(counted, measure(counted))
        probes.append(probe)
        if abs(probe.measured - wanted) <= within:
            break
        low, high = (probe, high) if probe.measured < wanted else (low, probe)
        rise = max(high.measured - low.measured, 1e-9)
        position = min(max((wanted - low.measured) / rise, 0.15), 0.85)
        counted = low.counted + position * (high.counted - low.counted)
    return min(probes, key=lambda probe: abs(probe.measured - wanted)), probes
