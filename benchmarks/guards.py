"""Do the sections that can stop a model keep what they promise? Studies with a known truth.

``python benchmarks/guards.py FILE [studies] [first design] [last design]``: the tasks of
``simulation.py``, with a site at every second patient where compression changes answers twice as
much. Each study has as many patients for validation, from which thresholds come, and a reference, a
candidate, and a second one that is its equal. Printed are, for every comparison of operating
points, calibration, subgroups, disagreement and stress, the columns of ``simulation.py``; for each
section how often its verdict is "pass" where the limit is the largest true loss (aim at most 5.5
%), how often "fail" there, and, of every fourth study, how often it stops the second candidate
beside the first, its equal, at the margin of critical risk. FILE keeps what was done, so that a
second start goes on. Last comes a row for the table of README.md.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from clinipress.evidence.calibration import calibration_section, thresholds
from clinipress.evidence.disagreement import disagreement_section
from clinipress.evidence.gate import CLASS_MARGIN_FACTOR, MARGINS
from clinipress.evidence.operating import operating_section
from clinipress.evidence.reliability import CalibrationStatistics
from clinipress.evidence.scores import Scores
from clinipress.evidence.stress import JUDGED, stress_rows, stress_section
from clinipress.evidence.subgroups import subgroups_section
from clinipress.kinds.image.disturb import DISTURBANCES
from clinipress.records.result import Interval, Verdict
from clinipress.stats.intervals import effective_units
from clinipress.stats.metrics import check_cases, point_metrics, predictions, softmax
from simulation import (
    DESIGNS,
    Design,
    Figures,
    Floats,
    Integers,
    Tally,
    amounts,
    cases,
    judged,
    scaled,
    show,
)

POPULATION, RESAMPLES, AIM = 1_000_000, 400, 0.95
CHUNK, EVERY = 50, 4
SITES = ("a", "b")
KIND = next(iter(DISTURBANCES))  # only a name: answers are made worse, and no picture
OTHER = {"sensitivity": "specificity", "specificity": "sensitivity"}
JUDGED_METRICS = MappingProxyType(
    {
        "operating": ("sensitivity", "specificity"),
        "calibration": ("ece", "ece_equal_mass"),
        "subgroups": ("accuracy", "sensitivity", "auroc_macro"),
        "disagreement": ("agreement",),
        "stress": ("accuracy",),
    }
)
RIGHT = MappingProxyType({"slope": 1.0, "intercept": 0.0})
MODELS = ("reference", "candidate", "equal")


@dataclass(frozen=True)
class Answers:
    """What the three say of the same images.

    Attributes:
        logits: Of each model, float64 ``[n, k]``.
        worse: (strength, model) -> the same on worse images.
        labels: ``[n]``.
        index: Patient of each image ``[n]``.
    """

    logits: dict[str, Floats]
    worse: dict[tuple[int, str], Floats]
    labels: Integers
    index: Integers

    @classmethod
    def draw(cls, design: Design, units: int, random: np.random.Generator) -> Answers:
        """The candidates are the reference's own view, each with a change of its own."""
        labels, index, noise = cases(design, units, random)
        seen = design.signal * np.eye(len(design.shares))[labels] + noise()
        more = amounts(design, index, random)
        views = {"reference": seen} | {name: seen + more * noise() for name in MODELS[1:]}
        worse = {}
        for strength in JUDGED:
            dim = seen + 0.3 * strength * noise()
            worse[strength, "reference"] = dim
            for name in MODELS[1:]:
                worse[strength, name] = dim + (1 + 0.2 * strength) * more * noise()
        return cls(
            {name: scaled(design, view) for name, view in views.items()},
            {level: scaled(design, view) for level, view in worse.items()},
            labels,
            index,
        )

    def scores(self, name: str, design: Design) -> Scores:
        """With the temperature left at 1: what it mends would hide how well intervals hold."""
        return Scores(
            logits=self.logits[name].astype(np.float32),
            labels=self.labels,
            units=self.index,
            keys=tuple(map(str, range(len(self.labels)))),
            classes=design.classes,
            positive=finding(design),
            groups={"site": tuple(SITES[i % 2] for i in self.index.tolist())},
        )


def finding(design: Design) -> str | None:
    """The last of two classes."""
    return design.classes[1] if len(design.classes) == 2 else None


def truth(design: Design) -> Figures:
    """Changes of the candidate, and a few of its figures, from a population that tells them."""
    whole = replace(design, size=1)
    drawn = Answers.draw(whole, POPULATION, np.random.default_rng(0))
    models = [drawn.logits[name] for name in MODELS[:2]]
    chances = [softmax(x.astype(np.float32)) for x in models]
    hits = [predictions(x) == drawn.labels for x in models]
    known: Figures = {"agreement": float(np.mean(predictions(models[0]) == predictions(models[1])))}
    for number, name in enumerate(design.classes):
        if finding(design) not in (None, name):
            continue
        mine = drawn.labels == number
        cuts = [thresholds(x[mine, number], x[~mine, number], AIM) for x in chances]
        for what in ("sensitivity", "specificity"):  # at the threshold for the other
            fixed, side = OTHER[what], mine if what == "sensitivity" else ~mine
            called = [x[side, number] >= cut[fixed] for x, cut in zip(chances, cuts, strict=True)]
            change = float(called[1].mean() - called[0].mean())
            known[f"{what}[{name} at {fixed}]"] = change if side is mine else -change
    groups = []
    for site in range(len(SITES)):
        rows = drawn.index % 2 == site
        before, after = (point_metrics(x[rows], drawn.labels[rows], design.classes) for x in models)
        groups.append((before, after))
        known |= {f"{name}[site {SITES[site]}]": after[name] - before[name] for name in after}
    for name in groups[0][0]:
        was, now = (abs(groups[0][side][name] - groups[1][side][name]) for side in (0, 1))
        known[f"{name}[gap]"] = now - was
    were, are = (_calibration(x, drawn.labels, design) for x in models)
    for name, figure in are.items():
        right = RIGHT.get(name, 0.0)
        known[f"{name}[after]"] = figure
        known[_error(name)] = abs(figure - right) - abs(were[name] - right)
    plain = hits[1].mean() - hits[0].mean()
    for strength in JUDGED:
        still = [predictions(drawn.worse[strength, m]) == drawn.labels for m in MODELS[:2]]
        known[f"accuracy[strength {strength}]"] = float(still[1].mean() - still[0].mean() - plain)
    return known


def _calibration(logits: Floats, labels: Integers, design: Design) -> Figures:
    one_unit = np.zeros(len(labels), np.int64)
    checked = check_cases(logits, labels, design.classes, finding(design))
    measured = CalibrationStatistics.of(checked, 1.0, one_unit)
    figures = measured.figures(np.ones((1, 1)), np.ones((len(labels), 1)))
    return {name: float(values[0]) for name, values in figures.items()}


def _error(name: str) -> str:
    return f"{name}_error" if name in RIGHT else name


@dataclass
class Stops:
    """What became of a section in all studies."""

    studies: int = 0
    passed: int = 0
    failed: int = 0
    equal: int = 0
    stopped: int = 0

    def __add__(self, other: Stops) -> Stops:
        """Both together."""
        mine, others = asdict(self), asdict(other)
        return Stops(**{name: mine[name] + others[name] for name in mine})


Compared = tuple[str, Interval, float]  # name, change, effective units that carry it


def sections(
    design: Design,
    pair: tuple[str, str],
    drawn: tuple[Answers, Answers],
    margins: Figures,
    seed: int,
) -> tuple[dict[str, Verdict], list[Compared], list[tuple[str, Interval]]]:
    """Verdict of each section on two models, the changes it judges, and figures beside them."""
    (known, found), (reference, candidate) = (
        (each.scores(pair[0], design), each.scores(pair[1], design)) for each in drawn
    )
    answers = drawn[1]
    labels, index = answers.labels, answers.index
    rows = stress_rows(labels, index, seed=seed)
    worse = {
        (KIND, strength): (
            answers.worse[strength, pair[0]][rows],
            answers.worse[strength, pair[1]][rows],
        )
        for strength in JUDGED
    }
    operating = operating_section(
        known, found, reference, candidate, aims=(AIM,), margin=margins["operating"], seed=seed
    )
    calibration = calibration_section(
        reference, candidate, margin=margins["calibration"], resamples=RESAMPLES, seed=seed
    )
    groups = subgroups_section(
        reference, candidate, margin=margins["subgroups"], resamples=RESAMPLES, seed=seed
    )
    flips = disagreement_section(
        reference,
        candidate,
        least_agreement=margins["disagreement"],
        resamples=RESAMPLES,
        seed=seed,
    )
    stress = stress_section(
        reference, candidate, rows, worse, margin=margins["stress"], resamples=RESAMPLES, seed=seed
    )
    compared: list[Compared] = []
    for row in (row for row in operating.rows if not row.kept):
        fixed = row.aim.partition(" ")[0]
        change = getattr(row, f"{OTHER[fixed]}_change")
        mine = labels == design.classes.index(row.label)
        units = effective_units(index[mine if fixed == "specificity" else ~mine])
        compared.append((f"{OTHER[fixed]}[{row.label} at {fixed}]", change, units))
    units = effective_units(index)
    compared += [(name, change, units) for name, change in calibration.changes.items()]
    for group in (group for group in groups.groups if not group.too_small):
        for name, change in group.changes.items():
            mine = index % 2 == SITES.index(group.value)
            if name.startswith("sensitivity"):
                mine &= labels == design.classes.index(name[-2])
            compared.append((f"{name}[site {group.value}]", change, effective_units(index[mine])))
    compared += [(f"{gap.metric}[gap]", gap.change, units) for gap in groups.gaps]
    compared.append(("agreement", flips.agreement, units))
    for level in stress.curves[0].levels:
        carried = effective_units(index[rows])
        compared.append((f"accuracy[strength {level.strength}]", level.added_change, carried))
    sections = {
        "operating": operating.verdict,
        "calibration": calibration.verdict,
        "subgroups": groups.verdict,
        "disagreement": flips.verdict,
        "stress": stress.verdict,
    }
    return sections, compared, [(f"{n}[after]", x) for n, x in calibration.after.items()]


def limits(known: Figures) -> Figures:
    """Margin of each section whose limit is the largest true loss that has to be excluded."""
    worst = {
        "operating": max(-x for name, x in known.items() if " at " in name),
        "subgroups": max(
            known["accuracy[gap]"], *(-known[f"accuracy[site {site}]"] for site in SITES)
        ),
        "stress": max(-known[f"accuracy[strength {strength}]"] for strength in JUDGED),
    }
    margins = {name: loss / CLASS_MARGIN_FACTOR for name, loss in worst.items()}
    return margins | {"calibration": known["ece"], "disagreement": known["agreement"]}


def study(design: Design, seed: int, known: Figures) -> tuple[dict[str, Tally], dict[str, Stops]]:
    """One study: every comparison, and every section."""
    random = np.random.default_rng(seed)
    validation = Answers.draw(design, design.units, random)
    drawn = validation, Answers.draw(design, design.units, random)
    margins = limits(known)
    before, after, other = MODELS
    verdicts, compared, figures = sections(design, (before, after), drawn, margins, seed)
    narrow = dict.fromkeys(margins, MARGINS["critical"]) | {"disagreement": 0.0}
    equal: dict[str, Verdict] = {}
    if seed % EVERY == 0:
        equal, _, _ = sections(design, (after, other), drawn, narrow, seed)
    tallies = {name: judged(name, interval, known[name]) for name, interval in figures}
    for name, change, units in compared:
        # a gap is better smaller, as an error is
        metric = "ece" if name.endswith("[gap]") or name == "ece" else name.partition("[")[0]
        metric = "accuracy" if metric == "agreement" else metric
        tallies[f"change {name}"] = judged(metric, change, known[name], units)
    stops = {
        name: Stops(
            1,
            int(verdict.status == "pass"),
            int(verdict.status == "fail"),
            int(name in equal),
            int(name in equal and equal[name].status == "fail"),
        )
        for name, verdict in verdicts.items()
    }
    return tallies, stops


def kept(file: Path) -> Iterator[dict[str, Any]]:
    """Chunks of studies that were done, a JSON line each."""
    if file.exists():
        yield from map(json.loads, file.read_text("utf-8").splitlines())


def main(file: str, count: int = 2000, first: int = 0, last: int = len(DESIGNS)) -> None:
    """Simulate the designs that are asked for, and print their tables."""
    path = Path(file)
    for plain in DESIGNS[first:last]:
        design, began = replace(plain, sites=2.0), time.perf_counter()
        known = truth(design)
        tallies: dict[str, Tally] = {}
        stops: dict[str, Stops] = {}
        done = {chunk["first"]: chunk for chunk in kept(path) if chunk["design"] == design.name}
        for start in range(0, count, CHUNK):
            chunk = done.get(start) or _chunk(design, start, known, path)
            for name, values in chunk["tallies"].items():
                tallies[name] = Tally(**values) + tallies.get(name, Tally())
            for name, values in chunk["sections"].items():
                stops[name] = Stops(**values) + stops.get(name, Stops())
        print(f"{design.name}: {count} studies, {time.perf_counter() - began:.0f} s")
        for name, tally in tallies.items():
            change = name.startswith("change ")
            show(name, tally, known[name.removeprefix("change ")], design, change=change)
        for name, stop in stops.items():
            print(f"  section {name:26} margin {limits(known)[name]:.4f}", end="")
            for what in ("passed", "failed", "stopped"):
                n = stop.equal if what == "stopped" else stop.studies
                share = getattr(stop, what) / n
                error = (share * (1 - share) / n) ** 0.5
                print(f"  {what} {100 * share:4.1f} % ({100 * error:.1f})", end="")
            print(flush=True)
        print(_row(design, tallies, stops), flush=True)


def _row(design: Design, tallies: dict[str, Tally], stops: dict[str, Stops]) -> str:
    """The design in the table of README.md: of each section, what it judges, then the whole."""
    cells = []
    for section, stop in stops.items():
        judged_ones = [
            tally
            for name, tally in tallies.items()
            if name.startswith("change ")
            and _section(name) == section
            and name.split()[1].partition("[")[0] in JUDGED_METRICS[section]
            and tally.silent < tally.studies
        ]
        passed = max((100 * x.passed / x.studies for x in judged_ones), default=0.0)
        holds = [100 * x.covered / x.studies for x in judged_ones] or [100.0]
        whole = f"{100 * stop.passed / stop.studies:.1f}, {100 * stop.stopped / stop.equal:.1f}"
        cells.append(f"{passed:.1f}; {min(holds):.1f} to {max(holds):.1f}; {whole}")
    studies = next(iter(stops.values())).studies
    return f"| {design.name} | {studies} | {' | '.join(cells)} |"


def _section(name: str) -> str:
    marks = {" at ": "operating", "[strength": "stress", "agreement": "disagreement"}
    marks |= {"[site": "subgroups", "[gap]": "subgroups"}
    return next((section for mark, section in marks.items() if mark in name), "calibration")


def _chunk(design: Design, start: int, known: Figures, path: Path) -> dict[str, Any]:
    tallies: dict[str, Tally] = {}
    stops: dict[str, Stops] = {}
    for seed in range(start, start + CHUNK):
        found, stopped = study(design, seed, known)
        for name, tally in found.items():
            tallies[name] = tally + tallies.get(name, Tally())
        for name, stop in stopped.items():
            stops[name] = stop + stops.get(name, Stops())
    chunk = {
        "design": design.name,
        "first": start,
        "tallies": {name: asdict(tally) for name, tally in tallies.items()},
        "sections": {name: asdict(stop) for name, stop in stops.items()},
    }
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(chunk) + "\n")
    return chunk


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
