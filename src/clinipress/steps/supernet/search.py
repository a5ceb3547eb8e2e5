"""The sub-net of a supernet that answers best within what a device allows.

An evolutionary search (as in Cai et al., arXiv:1908.09791, section 3.4) over depths, kernels and
expansions. Every sub-net that is looked at is extracted, its batch norms are
measured again on training images, and it answers validation images: at the sizes of this project
that takes a second or two, so no predictor of accuracy stands between. Deviation: the resolution is
the study's own and is not searched.

Multiply-adds and parameters are counted by formula. Latency is that of the float32 file in ONNX
Runtime: predicted during the search from sub-nets that are measured before it, and measured on each
finalist; only a finalist whose measured latency is within the limit is taken.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.data.study import Rows, predict_rows
from clinipress.errors import ModelError
from clinipress.models.classifier import TorchCandidate
from clinipress.models.ofa import Architecture, Space
from clinipress.models.ofa.architecture import architecture_of
from clinipress.models.ofa.evolution import Evolution, Score, evolve
from clinipress.recipe.steps import SearchStep
from clinipress.records.candidate import Candidate
from clinipress.records.store import digest_of, write_atomically
from clinipress.stats.metrics import log_softmax, overall_score, score_words
from clinipress.steps.fitting import step_seed
from clinipress.steps.step import Child, Context, Params
from clinipress.steps.supernet.latency import LatencyModel, Stopwatch
from clinipress.steps.supernet.supernets import (
    calibration_batches,
    sub_net,
    supernet_candidate,
    supernet_of,
)

__all__ = ["Search"]

MEASURED = 16  # sub-nets whose files are timed before a search under a latency limit
ROUNDS = 3
TASK = "search"


class _Journal:
    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.facts: dict[str, Any] = {"identity": identity, "scores": {}, "latency": []}
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept.get("identity") == identity:
                self.facts = kept

    def save(self) -> None:
        write_atomically(self.path, json.dumps(self.facts))


def _name(chosen: Architecture) -> str:
    return json.dumps(chosen.as_arguments())


def _named(name: str) -> Architecture:
    return architecture_of(**json.loads(name))


class Search:
    """Find and extract a sub-net; the child is a plain network with the supernet's weights."""

    kind = "search"
    inherits = True

    def __init__(self, recipe: SearchStep) -> None:
        self.recipe = recipe

    def plan(self, parent: Candidate | None, context: Context) -> Params:
        """Search; what was looked at before a kill is read back.

        Raises:
            ModelError: The parent is no supernet, or no sub-net is within the limits.
        """
        origin, recipe = supernet_candidate(parent), self.recipe
        seed = step_seed(context.seed, self.kind)
        what = {
            "parent": origin.digest,
            "asked": recipe.model_dump(mode="json"),
            "seed": seed,
            "data": context.data.digest,
        }
        journal = _Journal(context.work / "search.json", digest_of(what))
        search = _Search(origin, recipe, context, seed, journal)
        chosen, facts = search.run()
        return {
            "asked": recipe.model_dump(mode="json"),
            "seed": seed,
            "architecture": chosen.as_arguments(),
            "search": facts,
        }

    def apply(self, parent: Candidate | None, params: Params, context: Context) -> Child:
        """Extract the sub-net and measure its batch norms again."""
        origin = supernet_candidate(parent)
        chosen = architecture_of(**params["architecture"])
        spec = origin.card.input
        count = params["asked"]["calibration_images"]
        batches = calibration_batches(count, spec, params["seed"], context)
        child = sub_net(origin, chosen, batches)
        return child, {
            "depths": list(chosen.depths),
            "recalibrated_on": sum(len(batch) for batch in batches),
        } | _costs(chosen, origin)


def _costs(chosen: Architecture, origin: TorchCandidate) -> dict[str, int]:
    spec, classes = origin.card.input, origin.spec.num_classes
    side, channels = (spec.height, spec.width), origin.spec.in_channels
    return {
        "macs": chosen.macs(side, classes, channels),
        "parameters": chosen.parameters(classes, channels),
    }


class _Search:
    def __init__(
        self,
        origin: TorchCandidate,
        recipe: SearchStep,
        context: Context,
        seed: int,
        journal: _Journal,
    ) -> None:
        self.origin, self.recipe, self.context = origin, recipe, context
        self.seed, self.journal = seed, journal
        spec = origin.card.input
        self.space = Space(supernet_of(origin.module).space.width)
        self.calibration = calibration_batches(recipe.calibration_images, spec, seed, context)
        self.rows = _some(context.data.rows("validation", spec), recipe.images, seed)
        self.clock = LatencyModel((spec.height, spec.width))
        self.clock.measured = [(_named(n), ms) for n, ms in journal.facts["latency"]]

    def run(self) -> tuple[Architecture, dict[str, Any]]:
        if self.recipe.latency_ms is not None and len(self.clock.measured) < MEASURED:
            random = np.random.default_rng(self.seed)
            ends = [self.space.smallest(), self.space.largest()]
            drawn = [self.space.sample(random) for _ in range(MEASURED - len(ends))]
            self._measure([*ends, *drawn])
        for _ in range(ROUNDS if self.recipe.latency_ms is not None else 1):
            evolution = self._evolved()
            chosen = self._taken(evolution)
            if chosen is not None:
                return chosen, self._facts(evolution, chosen)
        raise ModelError(
            f"a sub-net measured within {self.recipe.latency_ms:g} ms",
            "none among the finalists of three rounds",
            "raise latency_ms, or measure on a quieter machine",
        )

    def _evolved(self) -> Evolution:
        recipe, progress = self.recipe, self.context.progress
        progress.start(TASK, recipe.population * (recipe.generations + 1))
        evolution = evolve(
            self.space, self._score, self._fits,
            population=recipe.population, generations=recipe.generations, parents=recipe.parents,
            mutation=recipe.mutation, seed=self.seed,
        )  # fmt: skip
        words = score_words(evolution.best[-1][0], several=self.rows.labels.ndim == 2)
        progress.finish(TASK, f"{words} on validation")
        return evolution

    def _fits(self, chosen: Architecture) -> bool:
        recipe, costs = self.recipe, _costs(chosen, self.origin)
        if recipe.macs is not None and costs["macs"] > recipe.macs:
            return False
        if recipe.parameters is not None and costs["parameters"] > recipe.parameters:
            return False
        return recipe.latency_ms is None or self.clock.predict(chosen) <= recipe.latency_ms

    def _score(self, chosen: Architecture) -> Score:
        """Accuracy on validation images, batch norms measured again; from the journal if there."""
        name, scores = _name(chosen), self.journal.facts["scores"]
        if name not in scores:
            small = sub_net(self.origin, chosen, self.calibration)
            logits = predict_rows(
                small, self.context.data.cache(self.origin.card.input), self.rows
            ).astype(np.float64)
            scores[name] = _scored(logits, self.rows.labels)
            self.journal.save()
        self.context.progress.advance(TASK, 1)
        accuracy, negative = scores[name]
        return accuracy, negative

    def _measure(self, chosen: Sequence[Architecture]) -> list[float]:
        clock = Stopwatch(self.origin, self.recipe.latency_threads, self.context)
        times = clock.times(chosen)
        self.clock.measured += list(zip(chosen, times, strict=True))
        self.journal.facts["latency"] = [[_name(a), ms] for a, ms in self.clock.measured]
        self.journal.save()
        return times

    def _taken(self, evolution: Evolution) -> Architecture | None:
        """The best; under a latency limit the best finalist that was measured to keep it."""
        limit = self.recipe.latency_ms
        if limit is None:
            return evolution.ranked[0][0]
        fitting = [chosen for chosen, _ in evolution.ranked if self._fits(chosen)]
        finalists = fitting[: self.recipe.finalists]
        times = self._measure(finalists)
        for chosen, milliseconds in zip(finalists, times, strict=True):
            if milliseconds <= limit:
                return chosen
        return None

    def _facts(self, evolution: Evolution, chosen: Architecture) -> dict[str, Any]:
        scores = dict(evolution.ranked)
        facts: dict[str, Any] = {
            "looked_at": len(evolution.ranked),
            "images": len(self.rows.index),
            "calibration_images": sum(len(batch) for batch in self.calibration),
            "accuracy": scores[chosen][0],
            "best_by_generation": [list(score) for score in evolution.best],
        }
        if self.clock.measured:
            facts["latency"] = {
                "chosen_ms": [ms for a, ms in self.clock.measured if a == chosen][-1],
                "measured": len(self.clock.measured),
                "largest_error_of_the_fit": max(abs(e) for e in self.clock.errors()),
                "threads": self.recipe.latency_threads,
            }
        return facts


def _scored(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> list[float]:
    """The overall score, and the mean log likelihood, of findings of what is known."""
    right = overall_score(logits, labels)
    if labels.ndim == 2:
        surprise = np.logaddexp(0, np.where(labels == 1, -logits, logits))
        return [right, -float(surprise[labels >= 0].mean())]
    return [right, float(log_softmax(logits)[np.arange(len(labels)), labels].mean())]


def _some(rows: Rows, count: int | None, seed: int) -> Rows:
    """The same validation images for every sub-net, drawn once."""
    if count is None or count >= len(rows.index):
        return rows
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows.index))[:count])
    keys = tuple(rows.keys[int(i)] for i in chosen)
    return Rows(rows.index[chosen], rows.labels[chosen], rows.units[chosen], keys)
