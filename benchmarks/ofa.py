"""Once-for-all against training alone: a supernet, its searched sub-net, the same network alone.

    python benchmarks/ofa.py DATA OUT [--size 64] [--macs 20] [--seed 0] [--full 8] [--shrink 12]
                             [--tune 4] [--population 12] [--generations 3] [--part 1.0] [--uniform]

On one set (brain-mri), one split by near-duplicate cluster, grey images of `--size` pixels:

- supernet: the w1.0 supernet's largest network, trained for `--full` epochs, then shrunk for
  `--shrink` epochs in five phases;
- searched: the sub-net that a search under `--macs` million multiply-adds takes from it, before and
  after `--tune` epochs of its own, with the supernet's largest network as its teacher;
- alone: the same architecture from random weights, for as many epochs as the searched one's weights
  have seen in all (full + shrink + tune), without a teacher;
- uniform, with `--uniform`: the largest sub-net within the limit that has one choice for every
  block, alone, for the same epochs: what one takes without a search.

Choices are made on validation images. The test split is opened once, after everything is trained,
with paired 95 % intervals by cluster; the opening is logged in OUT. Every piece is kept in OUT, and
a run that is killed goes on where it stopped; teacher, sub-nets and training share one seed.
`--part` trains on a share of the training images, for slow machines, and is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from clinipress.data.study import Rows, StudyData, open_study_data, predict_rows
from clinipress.evidence.evidence import changes, evidence
from clinipress.evidence.scores import Scores
from clinipress.models.classifier import TorchCandidate
from clinipress.models.cost import macs, parameters
from clinipress.models.ofa import Architecture
from clinipress.recipe.steps import DistillStep, FineTuneStep, ModelRecipe, SearchStep, ShrinkStep
from clinipress.recipe.study import DataRecipe
from clinipress.records.candidate import InputSpec
from clinipress.records.store import Store, write_atomically
from clinipress.steps.distill.step import Distill
from clinipress.steps.fitting import fresh_candidate, step_seed
from clinipress.steps.step import Context, Step, run
from clinipress.steps.supernet.search import Search
from clinipress.steps.supernet.shrink import Shrink
from clinipress.steps.supernet.supernets import FACTORY
from clinipress.steps.train import FineTune
from clinipress.train.setup import prepare

SUPERNET = "clinipress.models.ofa:ofa_supernet"
NUMERICS = "float32-channels-last"  # named, so that no run depends on what was fastest when


class Part(StudyData):
    """A study's images with a share of the training rows, drawn once by class."""

    share = 1.0

    def rows(self, name: Any, spec: InputSpec) -> Rows:
        """The rows of a split; of the training split the share."""
        found = super().rows(name, spec)
        if name != "train" or self.share >= 1:
            return found
        random, kept = np.random.default_rng(0), []
        for label in np.unique(found.labels):
            mine = random.permutation(np.flatnonzero(found.labels == label))
            kept += mine[: round(self.share * len(mine))].tolist()
        at = np.sort(np.asarray(kept))
        keys = tuple(found.keys[int(i)] for i in at)
        return Rows(found.index[at], found.labels[at], found.units[at], keys)


class Bench:
    """One run: its data, its folder, and steps that are made once."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.spec = InputSpec(channels=1, height=asked.size, width=asked.size)
        recipe = DataRecipe(modality="brain-mri", input=self.spec)
        found = open_study_data(asked.data, recipe, Store(asked.out), seed=0, threads=asked.threads)
        fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
        self.data = Part(**fields)
        self.data.share = asked.part

    def context(self, name: str, reference: TorchCandidate | None = None) -> Context:
        """What a step may use."""
        work, shared = self.asked.out / name / "work", self.asked.out / "shared"
        work.mkdir(parents=True, exist_ok=True)
        return Context(
            data=self.data, reference=reference, work=work, shared=shared, seed=self.asked.seed,
            threads=self.asked.threads, root=reference,
        )  # fmt: skip

    def fresh(self, factory: str, arguments: dict[str, Any]) -> TorchCandidate:
        """A network with random weights."""
        recipe = ModelRecipe(factory=factory, arguments=arguments)
        seed = step_seed(self.asked.seed, "reference")
        return fresh_candidate(recipe, self.data, self.spec, seed=seed, name="fresh")

    def made(
        self, name: str, step: Step, parent: TorchCandidate, reference: TorchCandidate | None = None
    ) -> TorchCandidate:
        """A step's child, kept in OUT."""
        folder = self.asked.out / name
        if not (folder / "done.json").is_file():
            began, context = time.monotonic(), self.context(name, reference)
            plan_file = folder / "plan.json"
            if not plan_file.is_file():
                write_atomically(plan_file, json.dumps(step.plan(parent, context)))
            params = json.loads(plan_file.read_text(encoding="utf-8"))
            applied, child = run(step, parent, params, context)
            child.save(folder)
            seconds = time.monotonic() - began
            facts = {"seconds": seconds, "facts": applied.facts}
            write_atomically(folder / "done.json", json.dumps(facts))
            print(f"{name}: {seconds:.0f} s", flush=True)
        return TorchCandidate.load(folder)

    def options(self, epochs: int, rate: float) -> dict[str, Any]:
        """Of the training loop; the warm-up is short where the training is."""
        return {
            "epochs": epochs,
            "learning_rate": rate,
            "warmup_epochs": min(1.0, epochs / 4),
            "numerics": NUMERICS,
        }

    def alone(self, name: str, chosen: Architecture, epochs: int) -> TorchCandidate:
        """An architecture from random weights on labels."""
        step = FineTune(FineTuneStep(train=self.options(epochs, 1e-3)))
        return self.made(name, step, self.fresh(FACTORY, chosen.as_arguments()))

    def scores(self, found: TorchCandidate, rows: Rows) -> Scores:
        """Its answers."""
        logits = predict_rows(found, self.data.cache(self.spec), rows)
        return Scores(logits, rows.labels, rows.units, rows.keys, self.data.classes)


def uniform(limit: int, side: tuple[int, int], classes: int) -> Architecture:
    """The sub-net with one choice for all blocks that comes nearest to the limit from below."""
    choices = itertools.product((3, 5, 7), (3, 4, 6), (2, 3, 4))
    found = [Architecture((((k, e),) * d,) * 5) for k, e, d in choices]
    fitting = [one for one in found if one.macs(side, classes, 1) <= limit]
    return max(fitting, key=lambda one: one.macs(side, classes, 1))


def main() -> None:
    """Make every piece, then open the test split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--macs", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", type=int, default=8)
    parser.add_argument("--shrink", type=int, default=12)
    parser.add_argument("--tune", type=int, default=4)
    parser.add_argument("--population", type=int, default=12)
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--part", type=float, default=1.0)
    parser.add_argument("--uniform", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    prepare(asked.threads, asked.seed)
    bench = Bench(asked)
    limit, side = round(asked.macs * 1e6), (asked.size, asked.size)
    full = bench.made(
        "largest",
        FineTune(FineTuneStep(train=bench.options(asked.full, 1e-3))),
        bench.fresh(SUPERNET, {}),
    )
    shrink = ShrinkStep(train=bench.options(asked.shrink, 1e-3))
    supernet = bench.made("supernet", Shrink(shrink), full)
    search = SearchStep(macs=limit, population=asked.population, generations=asked.generations)
    searched = bench.made("searched", Search(search), supernet)
    chosen = Architecture(
        tuple(tuple((k, e) for k, e in stage) for stage in searched.spec.arguments["stages"])
    )
    tuning = DistillStep(
        answers="mean", views=4, temperature=2, alpha=0.5,
        train=bench.options(asked.tune, 5e-4),
    )  # fmt: skip
    epochs = asked.full + asked.shrink + asked.tune
    rows = {
        "largest": full,
        "supernet, its largest": supernet,
        "searched": searched,
        "searched, tuned": bench.made("tuned", Distill(tuning), searched, full),
        "alone": bench.alone("alone", chosen, epochs),
    }
    if asked.uniform:
        plain = uniform(limit, side, len(bench.data.classes))
        rows["uniform, alone"] = bench.alone("uniform", plain, epochs)
    report(bench, rows)


def report(bench: Bench, rows: dict[str, TorchCandidate]) -> None:
    """Print the table: cost, validation, and the test split, paired with training alone."""
    train = bench.data.rows("train", bench.spec)
    validation = bench.data.rows("validation", bench.spec)
    test = bench.data.open_test(bench.spec, tuple(rows), "benchmarks/ofa.py, all trained")
    asked = bench.asked
    print(f"brain-mri, {asked.size} px, seed {asked.seed}, train {len(train.index)} "
          f"(part {asked.part:g}), validation {len(validation.index)}, test {len(test.index)}; "
          f"epochs {asked.full} + {asked.shrink} + {asked.tune}")  # fmt: skip
    baseline = bench.scores(rows["alone"], test)
    for name, found in rows.items():
        checked, sealed = bench.scores(found, validation), bench.scores(found, test)
        told = [_interval(*_evidence(one)) for one in (checked, sealed)]
        line = f"{name:22} {macs(found.module, bench.spec) / 1e6:6.2f} M multiply-adds, "
        line += f"{parameters(found.module) / 1e6:5.2f} M parameters, validation {told[0]}, "
        line += f"test {told[1]}"
        if name != "alone":
            gain = changes(baseline.logits, sealed.logits, test.labels, bench.data.classes,
                           units=test.units)["accuracy"]  # fmt: skip
            line += f", over alone {_interval(gain.value, gain.low, gain.high, '+.1f')}"
        print(line, flush=True)


def _evidence(scores: Scores) -> tuple[float, float, float]:
    found = evidence(scores.logits, scores.labels, scores.classes, units=scores.units)["accuracy"]
    return found.value, found.low, found.high


def _interval(value: float, low: float, high: float, how: str = ".1f") -> str:
    return f"{100 * value:{how}} ({100 * low:{how}} to {100 * high:{how}})"


if __name__ == "__main__":
    main()
