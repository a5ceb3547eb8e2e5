"""Do the intervals cover, and does the gate let too much through? Studies with a known truth.

``python benchmarks/simulation.py [studies] [processes]``: of made-up tasks whose true figures are
known from millions of cases, that many small studies are drawn, and each is judged as clinipress
judges. Printed are, per figure, the share of intervals that hold the truth (aim 93.5 to 96.5 %),
and for changes the share of studies that pass a rule whose margin is the true loss (aim at most
5.5 %; the test is one-sided with 2.5 % by design). Figures outside an aim are marked. 2,000 studies
know a share of 5 % to +- 1 point.
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
from clinipress.evidence.evidence import changes, evidence
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
RESAMPLES = 1000
COVERAGE, FALSE_PASS = (0.935, 0.965), 0.055
CALIBRATION = ("ece_equal_mass", "slope", "intercept")  # what the section has beside evidence
RIGHT = {"slope": 1.0, "intercept": 0.0}


@dataclass(frozen=True)
class Design:
    """One kind of study.

    Attributes:
        name: What is printed.
        units: Patients.
        size: Images of each.
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
)
Study = tuple[Floats, Floats, Integers, Integers]


def draw(design: Design, units: int, random: np.random.Generator) -> Study:
    """Logits of reference and candidate ``[n, k]``, labels and units ``[n]``."""
    k, index = len(design.shares), np.repeat(np.arange(units), design.size)
    labels = random.choice(k, units, p=design.shares)[index]

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

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.method,
            self.studies + other.studies,
            self.covered + other.covered,
            self.passed + other.passed,
        )


def judged(name: str, interval: Interval, true: float) -> Tally:
    """One study: is the true figure in the interval, would a loss as large as the margin pass?"""
    name = "ece" if name.startswith("ece") or name.endswith("_error") else name  # all are errors
    sign = -1 if metric_facts(name).higher_is_better else 1
    verdict = gate.judge((Rule(metric=name, margin=sign * true),), {name: interval})
    covered = interval.low <= true <= interval.high
    return Tally(interval.method, 1, int(covered), int(verdict.status == "pass"))


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
    section = calibration_section(
        *(_scores(x, labels, index, design.classes) for x in (reference, candidate)),
        margin=0.02,
        resamples=RESAMPLES,
        seed=seed,
    )
    found |= {name: one for name, one in section.after.items() if name in CALIBRATION}
    differences |= {name: x for name, x in section.changes.items() if name not in differences}
    tallies = {f"  {name}": judged(name, one, known[0][name]) for name, one in found.items()}
    tallies |= {
        f"change {name}": judged(name, x, known[1][name]) for name, x in differences.items()
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


def main(count: int = 2000, processes: int = 2) -> None:
    """Simulate every design and print its table."""
    for design in DESIGNS:
        began, known = time.perf_counter(), truth(design)
        shares = [range(first, count, processes) for first in range(processes)]
        with ProcessPoolExecutor(processes) as pool:
            parts = list(pool.map(studies, [design] * processes, shares, [known] * processes))
        names = dict.fromkeys(name for part in parts for name in part)
        print(f"{design.name}: {count} studies, {time.perf_counter() - began:.0f} s")
        for name in names:
            show(name, sum((part.get(name, Tally()) for part in parts[1:]), parts[0][name]), known)


def show(name: str, tally: Tally, known: Known) -> None:
    """One row; what misses its aim is marked."""
    coverage, passed = tally.covered / tally.studies, tally.passed / tally.studies
    change, metric = name.startswith("change "), name.split()[0 if name.startswith("  ") else 1]
    low, high = COVERAGE
    mark = "below" if coverage < low else "above" if coverage > high else ""
    row = f"  {name:28} {tally.method:18} true {known[change][metric]:7.4f}"
    row += f"  holds {100 * coverage:5.1f} % {mark:5}"
    if change:
        row += f"  passes at the margin {100 * passed:4.1f} %"
        row += " TOO OFTEN" if passed > FALSE_PASS else ""
    print(row)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
