"""How often does a loss pass where an image may show 14 findings? Studies with a known truth.

``python benchmarks/findings.py [studies] [processes]``: chest X-rays are made up whose findings are
as frequent as those of the NIH's collection, a patient's images alike. Thresholds come from as many
patients for validation. Every study is judged as clinipress judges one, with either of the figures
that may decide, and is printed as the share of studies that pass where the margin is the true loss
(aim at most 5.5 %; one-sided 2.5 % by design): of the mean area, which all findings lose alike; of
the sensitivities, where the finding that loses most loses just the margin; and of each finding's
area beside the others. "stopped" is the share in which some area's loss is called shown although
each is at its margin. Scores are normal, so that the truth is a formula of the thresholds at hand.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from clinipress.evidence import gate
from clinipress.evidence.calibration import fit_findings
from clinipress.evidence.judged import Declared, judged
from clinipress.evidence.multilabel import judgeable
from clinipress.evidence.scores import Scores
from clinipress.recipe.study import EvidenceRecipe
from clinipress.records.judgement import Judgements
from clinipress.records.result import Rule
from simulation import FALSE_PASS

Floats = NDArray[np.float64]
# shares of images that show each, in the made-up collection as in the real one's 1,000 images
NAMES = (
    "effusion", "infiltration", "atelectasis", "cardiomegaly", "consolidation", "pneumothorax",
    "nodule", "emphysema", "mass", "fibrosis", "edema", "pleural_thickening", "pneumonia", "hernia",
)  # fmt: skip
PERCENT = (17.0, 16.2, 9.5, 8.3, 4.2, 4.0, 3.9, 3.7, 3.5, 3.2, 3.1, 2.9, 0.9, 0.9)
SHARES = {name: percent / 100 for name, percent in zip(NAMES, PERCENT, strict=True)}
ALIKE, SIGNAL, RESAMPLES = 0.4, 1.0, 300
NORMAL = NormalDist()


@dataclass(frozen=True)
class Design:
    """One kind of study.

    Attributes:
        name: What is printed.
        patients: In the test set, and again for validation.
        images: Of each, on average.
        change: What compression adds to each score, in standard deviations.
        unknown: Share of the cells of which nobody knows.
    """

    name: str
    patients: int
    images: int
    change: float = 0.4
    unknown: float = 0.0

    def scores(self, truth_seed: int, part: str) -> tuple[Scores, Scores]:
        """Reference and candidate on patients drawn anew."""
        random = np.random.default_rng([truth_seed, part == "test"])
        sizes = 1 + random.poisson(self.images - 1, self.patients)
        units = np.repeat(np.arange(self.patients), sizes)
        shape = len(units), len(SHARES)

        def noise() -> Floats:
            shared = random.normal(size=(self.patients, shape[1]))[units]
            return np.asarray(ALIKE**0.5 * shared + (1 - ALIKE) ** 0.5 * random.normal(size=shape))

        cuts = [NORMAL.inv_cdf(1 - share) for share in SHARES.values()]
        truth = (noise() >= cuts).astype(np.int64)
        seen = SIGNAL * truth + noise()
        worse = seen + self.change * noise()
        known = np.where(random.random(shape) < self.unknown, -1, truth)
        reference = Scores(
            logits=seen.astype(np.float32), labels=known, units=units,
            keys=tuple(map(str, range(len(units)))), classes=tuple(SHARES),
        )  # fmt: skip
        return reference, replace(reference, logits=worse.astype(np.float32))

    @property
    def lost_area(self) -> float:
        """What every finding loses of its area under the curve."""
        before, after = (SIGNAL / (2 * (1 + x)) ** 0.5 for x in (0.0, self.change**2))
        return NORMAL.cdf(before) - NORMAL.cdf(after)

    def lost_sensitivity(self, reference: Scores, candidate: Scores) -> Floats:
        """What each finding loses of its sensitivity at the thresholds of the two."""
        return _caught(reference, 0.0) - _caught(candidate, self.change)


def _with_thresholds(validation: Scores, test: Scores) -> Scores:
    temperatures, limits = fit_findings(validation.logits, validation.labels)
    return replace(test, temperatures=temperatures, thresholds=limits)


def _caught(scores: Scores, change: float) -> Floats:
    temperatures = np.asarray(scores.temperatures or 1.0)
    chances = np.asarray(scores.thresholds or 0.5)
    cuts = np.broadcast_to(temperatures * np.log(chances / (1 - chances)), len(SHARES))
    spread = (1 + change**2) ** 0.5
    return np.asarray([1 - NORMAL.cdf((cut - SIGNAL) / spread) for cut in cuts])


DESIGNS = (
    Design("65 patients of some 4 images", 65, 4),
    Design("the same, hardly changed", 65, 4, change=0.1),
    Design("the same, a fifth unknown", 65, 4, unknown=0.2),
    Design("400 patients of one image", 400, 1),
    Design("300 patients of some 4 images", 300, 4),
)


def study(design: Design, seed: int) -> Counter[str]:
    """One simulated study: what passed at its margin, and what was asked."""
    parts = zip(design.scores(seed, "validation"), design.scores(seed, "test"), strict=True)
    reference, candidate = (_with_thresholds(validation, test) for validation, test in parts)
    enough = judgeable(reference.labels, reference.units)
    declared = Declared("medium", EvidenceRecipe(), resamples=RESAMPLES, seed=seed)
    area = design.lost_area
    worst = float(design.lost_sensitivity(reference, candidate)[enough].max())
    rules = {
        "mean area": (Rule(metric="auroc_macro", margin=area, primary=True),),
        "worst sensitivity": (Rule(metric="sensitivity[*]", margin=worst, primary=True),),
        "each area": (Rule(metric="auroc[*]", margin=area, primary=True),),
    }
    tally: Counter[str] = Counter(studies=1, judged=int(enough.sum()))
    few = replace(declared, resamples=20)  # only means over findings need more
    for name, asked in rules.items():
        how = declared if name == "mean area" else few
        result = judged(how, asked, reference, candidate, Judgements())
        verdict = result.verdict
        assert verdict is not None
        if name == "mean area":
            change = result.changes["auroc_macro"]
            tally["mean area holds"] = int(change.low <= -area <= change.high)
        tally[f"{name} passes"] = int(verdict.status == "pass")
        tally[f"{name} stopped"] = int(verdict.status == "fail")
        # the findings that too few patients show leave the verdict open: what of the others?
        told = [r.status for r in verdict.reasons if r.kind == "margin"]
        tally[f"{name} of those judged"] = int(bool(told) and set(told) == {"pass"})
    for name, there in zip(SHARES, enough, strict=True):
        if there:
            one = (Rule(metric=f"auroc[{name}]", margin=area, primary=True),)
            alone = gate.judge(one, result.changes)
            tally[f"[{name}] asked"] = 1
            tally[f"[{name}] passes"] = int(alone.status == "pass")
    return tally


def studies(design: Design, seeds: Iterable[int]) -> Counter[str]:
    """The sum of some studies."""
    total: Counter[str] = Counter()
    for seed in seeds:
        total.update(study(design, seed))
    return total


def main(count: int = 1000, processes: int = 2) -> None:
    """Simulate every design and print its row."""
    for design in DESIGNS:
        began = time.perf_counter()
        shares = [range(first, count, processes) for first in range(processes)]
        with ProcessPoolExecutor(processes) as pool:
            total = sum(pool.map(studies, [design] * processes, shares), Counter[str]())
        n, seconds = total["studies"], time.perf_counter() - began
        told, lost = total["judged"] / n, 100 * design.lost_area
        print(f"{design.name}: {n} studies, {told:.1f} findings judged, "
              f"true loss of area {lost:.2f} points, {seconds:.0f} s")  # fmt: skip
        for name in ("mean area", "worst sensitivity", "each area"):
            shown(f"{name} passes", total[f"{name} passes"], n)
            shown(f"{name}, of those judged", total[f"{name} of those judged"], n)
            print(f"  {name} stopped {100 * total[f'{name} stopped'] / n:.1f} %")
        print(f"  mean area's interval holds {100 * total['mean area holds'] / n:.1f} %")
        often = [n for n in SHARES if total[f"[{n}] asked"] >= total["studies"] / 10]
        each = [100 * total[f"[{n}] passes"] / total[f"[{n}] asked"] for n in often]
        print(f"  a finding's own area {min(each):.1f} to {max(each):.1f} % ({len(each)} findings)")
        sys.stdout.flush()


def shown(name: str, passes: int, asked: int) -> None:
    """One share; what misses the aim by more than chance is marked."""
    share = passes / asked
    error = (share * (1 - share) / asked) ** 0.5
    mark = " TOO OFTEN" if share - 2 * error > FALSE_PASS else ""
    print(f"  {name} at the margin {100 * share:.1f} % ({100 * error:.1f}) of {asked}{mark}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
