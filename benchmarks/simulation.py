"""Do the intervals cover, and does the gate let too much through? Studies with a known truth.

``python benchmarks/simulation.py [studies] [processes] [first design] [last design]``: of made-up
tasks whose true figures are known from millions of cases, that many small studies are drawn, and
each is judged as clinipress judges. Printed are, per figure, the share of intervals that hold the
truth (aim 93.5 to 96.5 %, with fewer than 60 patients no upper aim), with its standard error, half
their mean length, and for changes the share of studies that pass a rule whose margin is the true
loss (aim at most 5.5 %; the test is one-sided with 2.5 % by design), and of those that get no
verdict since fewer than five patients carry the figure. Figures more than two standard errors
outside an aim are marked. "(known effect)" is Tango's interval with the design effect of 20,000
patients in place of the study's own: what it holds too often, whole numbers of changed answers do.
The sections that can stop a model are in ``guards.py``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clinipress.evidence import gate
from clinipress.evidence.evidence import carried_by, changes, evidence
from clinipress.records.metrics import metric_facts
from clinipress.records.result import Interval, Rule
from clinipress.stats.intervals import is_clustered
from clinipress.stats.metrics import point_metrics
from clinipress.stats.paired import paired_difference, tango

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Figures = dict[str, float]
Known = tuple[Figures, Figures]
POPULATION, PATIENTS = 2_000_000, 20_000
RESAMPLES = 500
COVERAGE, FALSE_PASS = (0.935, 0.965), 0.055
DESIGN_EFFECT = "design effect"


@dataclass(frozen=True)
class Design:
    """One kind of study.

    Attributes:
        name: What is printed.
        units: Patients.
        size: Images of each, on average.
        spread: Standard deviation of the logarithm of that number: 0, all alike; 1, some patients
            have ten times as many as others.
        mixed: Each image has a class of its own, as the beats of one ECG have.
        alike: Correlation of the images of a patient, of answers and of what compression changes.
        shares: Of the classes; a patient's images are all of one class.
        signal: How far the classes' logits stand apart, in standard deviations.
        change: What compression adds to each logit, in standard deviations.
        sharpness: Logits are multiplied by it; 1 is a calibrated classifier.
        uneven: Standard deviation of the logarithm of what `change` is multiplied by, patient by
            patient; 0: all are changed alike.
        sites: How many times as much compression changes the images of every second patient.
    """

    name: str
    units: int
    size: int = 1
    alike: float = 0.0
    spread: float = 0.0
    mixed: bool = False
    shares: tuple[float, ...] = (0.5, 0.3, 0.2)
    signal: float = 2.0
    change: float = 0.4
    sharpness: float = 1.5
    uneven: float = 0.0
    sites: float = 1.0

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple("abcdefg"[: len(self.shares)])


DESIGNS = (
    Design("three classes, 400 images", 400),
    Design("two classes, 300 images, 60 ill", 300, shares=(0.8, 0.2)),
    Design("three classes, 80 patients of 5 images", 80, 5, 0.4),
    Design("two classes, 10 patients of some 20 images", 10, 20, 0.4, 0.5, True, (0.6, 0.4)),
    Design("22 patients of some 40 beats, 5 % rare", 22, 40, 0.4, 0.5, True, (0.8, 0.15, 0.05)),
    Design(
        *("the same 22, where hardly an answer changes", 22, 40, 0.4, 0.5, True),
        *((0.8, 0.15, 0.05), 2.0, 0.02),
    ),
    Design("three classes, 60 patients of some 5 images", 60, 5, 0.4, 0.6),
    Design("the same 60, where much changes", 60, 5, 0.4, 0.6, change=1.0),
    Design("the same, 200 patients", 200, 5, 0.4, 0.6),
    Design("the same 60, changed unlike each other", 60, 5, 0.4, 0.6, uneven=0.7),
    Design(
        *("22 patients of some 40 beats, changed unlike each other", 22, 40, 0.4, 0.5, True),
        *((0.8, 0.15, 0.05),),
        uneven=0.7,
    ),
)
Study = tuple[Floats, Floats, Integers, Integers]
Noise = Callable[[], Floats]


def cases(
    design: Design, units: int, random: np.random.Generator
) -> tuple[Integers, Integers, Noise]:
    """Labels and units ``[n]``, and what draws noise ``[n, k]``, alike within a unit."""
    k, sizes = len(design.shares), np.full(units, design.size)
    if design.spread:
        means = random.lognormal(-(design.spread**2) / 2, design.spread, units) * design.size
        sizes = 1 + random.poisson(np.maximum(means - 1, 0))
    index = np.repeat(np.arange(units), sizes)
    drawn = random.choice(k, len(index) if design.mixed else units, p=design.shares)

    def noise() -> Floats:
        own = random.normal(size=(len(index), k))
        if design.size == 1:
            return own
        shared = random.normal(size=(units, k))[index]
        return np.asarray(design.alike**0.5 * shared + (1 - design.alike) ** 0.5 * own)

    return drawn if design.mixed else drawn[index], index, noise


def amounts(design: Design, index: Integers, random: np.random.Generator) -> Floats:
    """What noise is multiplied by where compression adds it, ``[n, 1]``."""
    units, spread = int(index.max()) + 1, design.uneven
    each = random.lognormal(-(spread**2) / 2, spread, units) if spread else np.ones(units)
    each *= np.where(np.arange(units) % 2, design.sites, 1)
    return np.asarray(design.change * each[index, None])


def draw(design: Design, units: int, random: np.random.Generator) -> Study:
    """Logits of reference and candidate ``[n, k]``, labels and units ``[n]``."""
    labels, index, noise = cases(design, units, random)
    seen = design.signal * np.eye(len(design.shares))[labels] + noise()
    changed = seen + amounts(design, index, random) * noise()
    return scaled(design, seen), scaled(design, changed), labels, index


def scaled(design: Design, seen: Floats) -> Floats:
    """Logits from what a classifier sees of each class."""
    return design.signal * design.sharpness * seen + np.log(design.shares)


def truth(design: Design) -> Known:
    """The candidate's figures and the changes, from a population so large that they are known.

    Among the figures is `DESIGN_EFFECT`, of the change of accuracy.
    """
    whole = replace(design, size=1)
    reference, candidate, labels, _ = draw(whole, POPULATION, np.random.default_rng(0))
    before, after = (point_metrics(x, labels, design.classes) for x in (reference, candidate))
    differences = {name: after[name] - before[name] for name in before}
    apart, index = _right_apart(*draw(design, PATIENTS, np.random.default_rng(1)))
    sums = np.bincount(index, apart - differences["accuracy"])
    effect = float((sums @ sums) / len(apart) / apart.var())
    return after | {DESIGN_EFFECT: effect}, differences


def _right_apart(
    reference: Floats, candidate: Floats, labels: Integers, index: Integers
) -> tuple[Integers, Integers]:
    """Right by the candidate minus right by the reference, and units, each ``[n]``."""
    right, still = ((x.argmax(axis=1) == labels).astype(np.int64) for x in (reference, candidate))
    return still - right, index


@dataclass
class Tally:
    """What became of one figure in all studies."""

    method: str = ""
    studies: int = 0
    covered: int = 0
    passed: int = 0
    length: float = 0.0
    silent: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.method,
            self.studies + other.studies,
            self.covered + other.covered,
            self.passed + other.passed,
            self.length + other.length,
            self.silent + other.silent,
        )


def judged(name: str, interval: Interval, true: float, units: float = 99.0) -> Tally:
    """One study: is the true figure in the interval, would a loss as large as the margin pass?"""
    name = "ece" if name.startswith("ece") or name.endswith("_error") else name  # all are errors
    sign = -1 if metric_facts(name).higher_is_better else 1
    rule = Rule(metric=name, margin=sign * true)
    verdict = gate.judge((rule,), {name: interval}, units={name: units})
    covered = interval.low <= true <= interval.high
    silent = verdict.reasons[0].kind == "few units"
    passed, length = int(verdict.status == "pass"), interval.high - interval.low
    return Tally(interval.method, 1, int(covered), passed, length, int(silent))


def study(design: Design, seed: int, known: Known) -> dict[str, Tally]:
    """One simulated study: evidence of the candidate, and changes."""
    reference, candidate, labels, index = draw(design, design.units, np.random.default_rng(seed))
    units = index if design.size > 1 else None
    found = evidence(candidate, labels, design.classes, units=units, resamples=RESAMPLES, seed=seed)
    differences = changes(
        reference, candidate, labels, design.classes, units=units, resamples=RESAMPLES, seed=seed
    )
    right, still = (x.argmax(axis=1) == labels for x in (reference, candidate))
    other = paired_difference(still, right, index, method="newcombe")
    carried = carried_by(labels, design.classes, units=units)
    tallies = {f"  {name}": judged(name, one, known[0][name]) for name, one in found.items()}
    tallies |= {
        f"change {name}": judged(name, x, known[1][name], carried.get(name, carried["accuracy"]))
        for name, x in differences.items()
    }
    if other is not None:
        tallies["change accuracy (Newcombe)"] = judged("accuracy", other, known[1]["accuracy"])
    apart = still.astype(np.int64) - right
    if is_clustered(index):
        n, effective = len(apart), len(apart) / max(known[0][DESIGN_EFFECT], 1.0)
        more, fewer = (effective * np.count_nonzero(apart == x) / n for x in (1, -1))
        low, high = tango(more, fewer, effective)
        whole = Interval(value=apart.mean(), low=low, high=high, method="tango", n=n)
        tallies["change accuracy (known effect)"] = judged("accuracy", whole, known[1]["accuracy"])
    return tallies


def studies(design: Design, seeds: Iterable[int], known: Known) -> dict[str, Tally]:
    """Coverage and passes of every figure over some studies."""
    found: dict[str, Tally] = {}
    for seed in seeds:
        for name, tally in study(design, seed, known).items():
            found[name] = tally + found.get(name, Tally())
    return found


def main(count: int = 2000, processes: int = 2, first: int = 0, last: int = len(DESIGNS)) -> None:
    """Simulate every design and print its table."""
    for design in DESIGNS[first:last]:
        began, known = time.perf_counter(), truth(design)
        shares = [range(first, count, processes) for first in range(processes)]
        with ProcessPoolExecutor(processes) as pool:
            parts = list(pool.map(studies, [design] * processes, shares, [known] * processes))
        names = dict.fromkeys(name for part in parts for name in part)
        print(f"{design.name}: {count} studies, {time.perf_counter() - began:.0f} s")
        for name in names:
            whole = sum((part.get(name, Tally()) for part in parts), Tally())
            change, metric = name.startswith("change "), name.split()[-1 if name[0] == " " else 1]
            method = _method(parts, name)
            show(name, replace(whole, method=method), known[change][metric], design, change=change)


def _method(parts: list[dict[str, Tally]], name: str) -> str:
    return next(part[name].method for part in parts if name in part)


def show(name: str, tally: Tally, true: float, design: Design, *, change: bool) -> None:
    """One row; what misses its aim by more than chance is marked."""
    coverage, passed = tally.covered / tally.studies, tally.passed / tally.studies
    error, other = ((x * (1 - x) / tally.studies) ** 0.5 for x in (coverage, passed))
    low, high = COVERAGE
    above = coverage - 2 * error > high and design.units >= 60
    mark = "BELOW" if coverage + 2 * error < low else "above" if above else ""
    row = f"  {name:34} {tally.method:18} true {true:7.4f}"
    row += f"  half {tally.length / tally.studies / 2:.4f}"
    row += f"  holds {100 * coverage:5.1f} % ({100 * error:.1f}) {mark:5}"
    if change:
        row += f"  passes at the margin {100 * passed:4.1f} % ({100 * other:.1f})"
        row += " TOO OFTEN" if passed - 2 * other > FALSE_PASS else ""
        row += f"  no verdict {100 * tally.silent / tally.studies:.0f} %" if tally.silent else ""
    print(row, flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
