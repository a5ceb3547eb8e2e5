"""Do the intervals cover, and does the gate let too much through? Studies with a known truth.

``python benchmarks/simulation.py [studies] [processes] [first design]``: of made-up tasks whose
true figures are known from millions of cases, that many small studies are drawn, and each is judged
as clinipress judges. Printed are, per figure, the share of intervals that hold the truth (aim 93.5
to 96.5 %, with fewer than 60 patients no upper aim), with its standard error, half their mean
length, and for changes the share of studies that pass a rule whose margin is the true loss (aim at
most 5.5 %; the test is one-sided with 2.5 % by design), and of those that get no verdict since
fewer than five patients carry the figure. Figures more than two standard errors outside an aim are
marked. The calibration section is measured in every fifth study.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clinipress.evidence import gate
from clinipress.evidence.calibration import calibration_section
from clinipress.evidence.evidence import carried_by, changes, evidence
from clinipress.evidence.reliability import CalibrationStatistics
from clinipress.evidence.scores import Scores
from clinipress.records.metrics import metric_facts
from clinipress.records.result import Interval, Rule
from clinipress.stats.metrics import check_cases, point_metrics
from clinipress.stats.paired import paired_difference

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Figures = dict[str, float]
Known = tuple[Figures, Figures]
POPULATION = 2_000_000
RESAMPLES = 500
SECTIONS = 5  # every so many studies, the calibration section, which takes ten times as long
COVERAGE, FALSE_PASS = (0.935, 0.965), 0.055
CALIBRATION = ("ece_equal_mass", "slope", "intercept")  # what the section has beside evidence
RIGHT = {"slope": 1.0, "intercept": 0.0}


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
)
Study = tuple[Floats, Floats, Integers, Integers]


def draw(design: Design, units: int, random: np.random.Generator) -> Study:
    """Logits of reference and candidate ``[n, k]``, labels and units ``[n]``."""
    k, sizes = len(design.shares), np.full(units, design.size)
    if design.spread:
        means = random.lognormal(-(design.spread**2) / 2, design.spread, units) * design.size
        sizes = 1 + random.poisson(np.maximum(means - 1, 0))
    index = np.repeat(np.arange(units), sizes)
    drawn = random.choice(k, len(index) if design.mixed else units, p=design.shares)
    labels = drawn if design.mixed else drawn[index]

    def noise() -> Floats:
        own = random.normal(size=(len(index), k))
        if design.size == 1:
            return own
        shared = random.normal(size=(units, k))[index]
        return np.asarray(design.alike**0.5 * shared + (1 - design.alike) ** 0.5 * own)

    seen = design.signal * np.eye(k)[labels] + noise()
    changed = seen + design.change * noise()
    scale = design.signal * design.sharpness
    offsets = np.log(design.shares)
    return scale * seen + offsets, scale * changed + offsets, labels, index


def truth(design: Design) -> Known:
    """The candidate's figures and the changes, from a population so large that they are known."""
    whole = replace(design, size=1)
    reference, candidate, labels, _ = draw(whole, POPULATION, np.random.default_rng(0))
    before, after = (point_metrics(x, labels, design.classes) for x in (reference, candidate))
    differences = {name: after[name] - before[name] for name in before}
    were, are = (_calibration(x, labels, design.classes) for x in (reference, candidate))
    for name in CALIBRATION:
        if name in RIGHT:
            errors = (abs(one[name] - RIGHT[name]) for one in (were, are))
            differences[f"{name}_error"] = -next(errors) + next(errors)
        else:
            differences[name] = are[name] - were[name]
    return after | are, differences


def _calibration(logits: Floats, labels: Integers, classes: tuple[str, ...]) -> Figures:
    one_unit = np.zeros(len(labels), np.int64)
    measured = CalibrationStatistics.of(check_cases(logits, labels, classes), 1.0, one_unit)
    found = measured.figures(np.ones((1, 1)), np.ones((len(labels), 1)))
    return {name: float(found[name][0]) for name in CALIBRATION}


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
    if seed % SECTIONS == 0:
        section = calibration_section(
            *(_scores(x, labels, index, design.classes) for x in (reference, candidate)),
            margin=0.02,
            resamples=RESAMPLES,
            seed=seed,
        )
        found |= {name: one for name, one in section.after.items() if name in CALIBRATION}
        differences |= {name: x for name, x in section.changes.items() if name not in differences}
    carried = carried_by(labels, design.classes, units=units)
    tallies = {f"  {name}": judged(name, one, known[0][name]) for name, one in found.items()}
    tallies |= {
        f"change {name}": judged(name, x, known[1][name], carried.get(name, carried["accuracy"]))
        for name, x in differences.items()
    }
    if other is not None:
        tallies["change accuracy (Newcombe)"] = judged("accuracy", other, known[1]["accuracy"])
    return tallies


def _scores(logits: Floats, labels: Integers, index: Integers, classes: tuple[str, ...]) -> Scores:
    """With the temperature left at 1: what it mends would hide how well intervals hold."""
    keys = tuple(map(str, range(len(labels))))
    return Scores(
        logits=logits.astype(np.float32), labels=labels, units=index, keys=keys, classes=classes
    )


def studies(design: Design, seeds: Iterable[int], known: Known) -> dict[str, Tally]:
    """Coverage and passes of every figure over some studies."""
    found: dict[str, Tally] = {}
    for seed in seeds:
        for name, tally in study(design, seed, known).items():
            found[name] = tally + found.get(name, Tally())
    return found


def main(count: int = 2000, processes: int = 2, first: int = 0) -> None:
    """Simulate every design and print its table."""
    for design in DESIGNS[first:]:
        began, known = time.perf_counter(), truth(design)
        shares = [range(first, count, processes) for first in range(processes)]
        with ProcessPoolExecutor(processes) as pool:
            parts = list(pool.map(studies, [design] * processes, shares, [known] * processes))
        names = dict.fromkeys(name for part in parts for name in part)
        print(f"{design.name}: {count} studies, {time.perf_counter() - began:.0f} s")
        for name in names:
            whole = sum((part.get(name, Tally()) for part in parts), Tally())
            show(name, replace(whole, method=_method(parts, name)), known, design.units)


def _method(parts: list[dict[str, Tally]], name: str) -> str:
    return next(part[name].method for part in parts if name in part)


def show(name: str, tally: Tally, known: Known, units: int) -> None:
    """One row; what misses its aim by more than chance is marked."""
    coverage, passed = tally.covered / tally.studies, tally.passed / tally.studies
    error, other = ((x * (1 - x) / tally.studies) ** 0.5 for x in (coverage, passed))
    change, metric = name.startswith("change "), name.split()[0 if name.startswith("  ") else 1]
    low, high = COVERAGE
    above = coverage - 2 * error > high and units >= 60
    mark = "BELOW" if coverage + 2 * error < low else "above" if above else ""
    row = f"  {name:28} {tally.method:18} true {known[change][metric]:7.4f}"
    row += f"  half {tally.length / tally.studies / 2:.4f}"
    row += f"  holds {100 * coverage:5.1f} % ({100 * error:.1f}) {mark:5}"
    if change:
        row += f"  passes at the margin {100 * passed:4.1f} % ({100 * other:.1f})"
        row += " TOO OFTEN" if passed - 2 * other > FALSE_PASS else ""
        row += f"  no verdict {100 * tally.silent / tally.studies:.0f} %" if tally.silent else ""
    print(row, flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
