"""Pruning: channels are removed for good, round by round, and what is left is fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.models.classifier import Classifier, TorchCandidate, build
from clinipress.models.pruning.cost import cost
from clinipress.models.pruning.importance import Batch
from clinipress.models.pruning.pruned import History, plan_pruning, prune, widths
from clinipress.models.pruning.ranking import schedule, search
from clinipress.models.recalibration import recalibrate_batch_norms
from clinipress.recipe.steps import PruneStep, TrainOptions
from clinipress.records.candidate import Candidate
from clinipress.steps.distill.soft_targets import SOFT, recovery_loss, recovery_params
from clinipress.steps.fitting import fit_module, plan_fit, step_seed, torch_candidate
from clinipress.steps.prune.sensitivity import layer_sensitivity
from clinipress.steps.step import Child, Context, Params
from clinipress.steps.timing import FileTimer

__all__ = ["Prune"]

BATCH = 32
TAYLOR_BATCHES = 8
RECALIBRATION_BATCHES = 16
LATENCY_WITHIN = 0.02  # of the parent's latency


class Prune:
    """Remove channels physically, then fine-tune with the reference's soft targets.

    With several rounds, the first cut is planned, and each later one decided on the weights that
    the round before has left: by the same counted rule, so that a repeated run decides the same.
    Where a latency is asked for, it is measured while planning, and the plan holds the widths of
    every round; later rounds only choose which channels. Each round's optimizer starts afresh, and
    its schedule runs over its share of the epochs.
    """

    kind = "prune"
    inherits = True

    def __init__(self, recipe: PruneStep) -> None:
        self.recipe = recipe

    def plan(self, parent: Candidate | None, context: Context) -> Params:
        """Rank the channels and fix which go first; the parent is left as it is."""
        origin, recipe = torch_candidate(parent), self.recipe
        shares = schedule(recipe.ratio, recipe.rounds)
        choice: dict[str, Any] = {"seed": step_seed(context.seed, self.kind), "shares": shares}
        if recipe.of == "latency":
            final, measured = self._fit_latency(origin, context)
            present = widths(origin.module, tuple((name, out, ()) for name, out, _ in final))
            choice |= {"keep": _ways(present, widths(origin.module, final), recipe.rounds)}
            choice |= {"latency": measured}
        first = self._cut(origin.module, choice, 0, context)
        params = self._fit_params(prune(origin.module, first), context)
        params["asked"] = recipe.model_dump(mode="json", exclude={"train"})
        params["choice"] = choice
        params["removed"] = [[module, is_out, list(index)] for module, is_out, index in first]
        return params

    def apply(self, parent: Candidate | None, params: Params, context: Context) -> Child:
        """Cut a copy of the parent and fit what is left, as often as planned."""
        origin = torch_candidate(parent)
        facts: dict[str, Any] = {"before": _costs(origin.module)}
        if self.recipe.sensitivity:
            seed = params["choice"]["seed"]
            batches = self._batches(origin.module, seed, context)
            facts["sensitivity"] = layer_sensitivity(origin, self.recipe, seed, batches, context)
        module, rounds = origin.module, []
        history: History = ()
        for number in range(self.recipe.rounds):
            removed: History = tuple((n, out, tuple(index)) for n, out, index in params["removed"])
            if number:
                removed = self._cut(module, params["choice"], number, context, origin.module)
            module = prune(module, removed)
            history = (*history, *removed)
            rounds.append(_costs(module) | self._recover(module, params, number, context))
        facts |= {"after": _costs(module), "rounds": rounds}
        facts |= {k: v for k, v in rounds[-1].items() if k in FIT_FACTS}
        spec = origin.spec
        spec = spec.model_copy(update={"pruning": (*spec.pruning, *history)})
        rebuilt = build(spec, origin.card.input)  # proves that the record is enough to rebuild it
        rebuilt.load_state_dict(module.state_dict())
        return TorchCandidate(origin.card.model_copy(update={"model": spec}), rebuilt), facts

    def _cut(
        self,
        module: Classifier,
        choice: Mapping[str, Any],
        number: int,
        context: Context,
        origin: Classifier | None = None,
    ) -> History:
        """Which channels go in a round, counted against what the parent cost."""
        recipe, share = self.recipe, choice["shares"][number]
        of = "macs" if recipe.of == "latency" else recipe.of
        left = 1.0 if origin is None else cost(module, of) / cost(origin, of)
        return plan_pruning(
            module,
            ratio=1 - (1 - share) / left,
            of=of,
            criterion=recipe.criterion,
            scope=recipe.scope,
            round_to=recipe.round_to,
            protect=recipe.protect,
            seed=choice["seed"] + number,
            batches=self._batches(module, choice["seed"], context),
            keep=choice["keep"][number] if "keep" in choice else None,
        )

    def _batches(self, module: Classifier, seed: int, context: Context) -> list[Batch]:
        if self.recipe.criterion != "taylor":
            return []
        return _train_batches(module, seed, TAYLOR_BATCHES, context)

    def _fit_params(self, small: Classifier, context: Context) -> dict[str, Any]:
        recipe = self.recipe
        if recipe.train is None:
            return {}
        params = plan_fit(small, recipe.train, context, SOFT if recipe.distill else self.kind)
        return params | recovery_params(recipe, recipe.train.epochs, context)

    def _recover(
        self, module: Classifier, params: dict[str, Any], number: int, context: Context
    ) -> dict[str, Any]:
        recipe, facts = self.recipe, {}
        if recipe.recalibrate_batch_norm or recipe.train is None:
            seed = params["choice"]["seed"]
            batches = _train_batches(module, seed, RECALIBRATION_BATCHES, context)
            norms = recalibrate_batch_norms(module, [images for images, _ in batches])
            facts["recalibrated_batch_norms"] = norms
        if recipe.train is None:
            return facts
        params = _round_params(params, number, recipe.rounds)
        folder = context.work if recipe.rounds == 1 else context.work / f"round-{number + 1}"
        loss, views = recovery_loss(recipe, params, context, module.input_spec)
        own = replace(context, work=folder)
        return facts | fit_module(module, params, own, loss=loss, views=views)

    def _fit_latency(
        self, origin: TorchCandidate, context: Context
    ) -> tuple[History, dict[str, Any]]:
        """The cut whose float32 file takes the asked share less time, and the measurements."""
        recipe = self.recipe
        counted = Prune(recipe.model_copy(update={"of": "macs"}))
        seed = step_seed(context.seed, self.kind)
        plans: dict[float, History] = {}
        with _Stopwatch(origin, recipe.latency_threads, context) as stopwatch:

            def measure(share: float) -> float:
                choice = {"seed": seed, "shares": [share]}
                plans[share] = counted._cut(origin.module, choice, 0, context)
                return stopwatch.share(plans[share])

            best, probes = search(measure, recipe.ratio, within=LATENCY_WITHIN / 2)
            again = stopwatch.share(plans[best.counted])
        saved = (best.measured + again) / 2
        if abs(saved - recipe.ratio) > LATENCY_WITHIN:
            raise ModelError(
                "a share of the latency that can be removed from this network",
                f"ratio {recipe.ratio:g}, where the nearest measured is {saved:.3f}",
                "measure on a quieter machine, lower round_to, or give the ratio in macs",
            )
        return plans[best.counted], {
            "share": saved,
            "measured_twice": [best.measured, again],
            "macs_share": best.counted,
            "threads": recipe.latency_threads,
            "probes": [[probe.counted, probe.measured] for probe in probes],
        }


FIT_FACTS = ("epochs", "best_epoch", "best_validation_accuracy", "data_wait_share")


def _costs(module: Classifier) -> dict[str, int]:
    return {"parameters": cost(module, "parameters"), "macs": cost(module, "macs")} | {
        "filters": cost(module, "filters")
    }


def _ways(
    present: Mapping[str, int], final: Mapping[str, int], rounds: int
) -> list[dict[str, float]]:
    """Channels of each layer after each round: equal ratios from the present to the final ones."""
    return [
        {name: now * (final[name] / now) ** (i / rounds) for name, now in present.items()}
        for i in range(1, rounds)
    ] + [dict(final)]


def _round_params(params: dict[str, Any], number: int, rounds: int) -> dict[str, Any]:
    """The training of one round: its share of the epochs, and views of its own.

    A round begins with its epoch 0 and so would see the first views again; from the second round
    on it has its own seed, and no more views than epochs.
    """
    if rounds == 1:
        return params
    options = TrainOptions.model_validate(params["options"])
    epochs = options.epochs * (number + 1) // rounds - options.epochs * number // rounds
    part = options.model_copy(
        update={"epochs": epochs, "warmup_epochs": options.warmup_epochs * epochs / options.epochs}
    )
    round_params = params | {
        "options": part.model_dump(mode="json"),
        "seed": params["seed"] + number,
    }
    if number and "views" in params:
        round_params["views"] = min(params["views"], epochs)
    return round_params


def _train_batches(module: Classifier, seed: int, count: int, context: Context) -> list[Batch]:
    spec = module.input_spec
    rows: NDArray[np.int64] = context.data.rows("train", spec).index
    size = min(BATCH, len(rows))
    drawn = np.random.default_rng(seed).permutation(rows)
    cache, device = context.data.cache(spec), module.shift.device
    batches = []
    for start in range(0, min(count, len(rows) // size) * size, size):
        chosen = np.sort(drawn[start : start + size])
        images = torch.from_numpy(cache.take(chosen)).to(device)
        batches.append((images, torch.from_numpy(cache.labels[chosen]).to(device)))
    return batches


class _Stopwatch(FileTimer):
    def __enter__(self) -> _Stopwatch:
        self.parent = self.file(self.origin)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def share(self, removed: History) -> float:
        """Share of the parent's latency that a removal saves."""
        module, spec = prune(self.origin.module, removed), self.origin.spec
        spec = spec.model_copy(update={"pruning": (*spec.pruning, *removed)})
        card = self.origin.card.model_copy(update={"model": spec, "name": "cut"})
        return self.saved(self.parent, self.file(TorchCandidate(card, module)))

    def saved(self, parent: OnnxCandidate, child: OnnxCandidate) -> float:
        times = self.medians({"parent": parent, "child": child})
        return 1 - times["child"] / times["parent"]
