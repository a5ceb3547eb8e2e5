"""The step: the ratio of all rounds together, resumed rounds, statistics, latency, sensitivity."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from clinipress.errors import ModelError
from clinipress.models.classifier import TorchCandidate, new_classifier
from clinipress.models.pruning.cost import cost
from clinipress.models.pruning.pruned import prune
from clinipress.models.recalibration import recalibrate_batch_norms
from clinipress.recipe.steps import ModelRecipe, PruneStep, TrainOptions
from clinipress.records.candidate import Card, InputSpec
from clinipress.steps.prune import step as prune_step
from clinipress.steps.prune.step import Prune
from kit import steps as step_kit
from kit.steps import Data

GREY = InputSpec(channels=1, height=16, width=16)
QUICK = TrainOptions(
    epochs=2, batch_size=8, warmup_epochs=0, numerics="float32-contiguous", ema_decay=None
)


def candidate(width=16, seed=0):
    torch.manual_seed(seed)
    recipe = ModelRecipe(factory="tiny_nets:make", arguments={"width": width})
    spec, module = new_classifier(recipe, GREY, 2, 0.4, 0.2)
    card = Card(name="parent", classes=Data.classes, input=GREY, model=spec)
    return TorchCandidate(card, module.eval())


def context(folder, reference=None):
    return step_kit.context(folder, Data(), reference)


def recipe(**changes):
    plain = {"ratio": 0.5, "round_to": 1, "distill": False, "train": QUICK}
    return PruneStep(**(plain | changes))


def run(step, parent, where):
    plan = json.loads(json.dumps(step.plan(parent, where)))  # as the store keeps it
    return plan, *step.apply(parent, plan, where)


def left(child, parent, of):
    return cost(child.module, of) / cost(parent.module, of)


@pytest.mark.parametrize("of", ["macs", "parameters", "filters"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_all_rounds_together_reach_the_ratio(of, rounds, tmp_path):
    parent = candidate(width=64)
    train = QUICK.model_copy(update={"epochs": 3})
    step = Prune(recipe(ratio=0.6, of=of, rounds=rounds, train=train))
    _, child, facts = run(step, parent, context(tmp_path))
    assert abs(left(child, parent, of) - 0.4) < 0.02
    assert len(facts["rounds"]) == rounds
    assert [len(one["epochs"]) for one in facts["rounds"]] == [3 // rounds] * rounds
    assert facts["before"][of] == cost(parent.module, of)
    assert facts["after"][of] == cost(child.module, of)
    counts = [facts["before"][of], *(one[of] for one in facts["rounds"])]
    for before, after in itertools.pairwise(counts):  # equal shares of what is found
        assert after / before == pytest.approx(0.4 ** (1 / rounds), abs=0.03)
    child.save(tmp_path / "saved")
    again = TorchCandidate.load(tmp_path / "saved", allow_code=True)
    images = Data().pixels.pixels
    assert again.digest == child.digest
    assert np.array_equal(again.predict(images), child.predict(images))


@pytest.mark.parametrize("criterion", ["l2", "taylor"])
def test_a_run_killed_between_rounds_ends_with_the_same_digest(criterion, tmp_path, monkeypatch):
    step = Prune(recipe(rounds=2, criterion=criterion, recalibrate_batch_norm=True))
    parent = candidate(width=32)
    _, whole, _ = run(step, parent, context(tmp_path / "whole"))
    where = context(tmp_path / "killed")
    plan = step.plan(parent, where)
    fit_module, calls = prune_step.fit_module, []

    def dying(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit_module(*arguments, **named)

    monkeypatch.setattr(prune_step, "fit_module", dying)
    with pytest.raises(KeyboardInterrupt):
        step.apply(parent, plan, where)
    monkeypatch.setattr(prune_step, "fit_module", fit_module)
    child, facts = step.apply(parent, plan, where)
    assert child.digest == whole.digest
    assert (where.work / "round-1" / "checkpoint").is_dir()
    assert parent.digest == candidate(width=32).digest
    assert len(facts["rounds"]) == 2


def test_rounds_learn_from_the_teacher_with_views_of_their_own(tmp_path):
    reference = candidate(seed=5)
    train = QUICK.model_copy(update={"epochs": 5})
    step = Prune(recipe(distill=True, rounds=2, views=4, train=train))
    plan, child, facts = run(step, candidate(), context(tmp_path, reference))
    assert plan["teacher"] == reference.digest
    shapes = [np.load(path).shape for path in (tmp_path / "teacher").glob("*.npy")]
    assert sorted(shapes) == [(3, 24, 2), (4, 24, 2)]  # the second: as many views as epochs
    assert [len(one["epochs"]) for one in facts["rounds"]] == [2, 3]
    assert child.digest != candidate().digest


def test_rounds_need_an_epoch_each():
    with pytest.raises(ValidationError, match="3 rounds need at least 3 epochs"):
        recipe(rounds=3)
    recipe(rounds=3, train=None)


def test_without_fine_tuning_the_statistics_are_measured_again(tmp_path):
    """The referee: the averages of what really comes into each batch norm, taken by hooks."""
    step = Prune(recipe(train=None, recalibrate_batch_norm=False))
    _, child, facts = run(step, candidate(width=32), context(tmp_path))
    norms = [m for m in child.module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert facts["rounds"][0]["recalibrated_batch_norms"] == len(norms) > 0
    assert "best_validation_accuracy" not in facts
    first = norms[0]
    seen = []
    first.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    pixels = torch.from_numpy(Data().pixels.pixels[:24])  # 24 training images are one batch
    with torch.no_grad():
        child.module.eval()(pixels)
    values = seen[0].transpose(0, 1).flatten(1)
    assert torch.allclose(first.running_mean, values.mean(1), atol=1e-5)
    assert torch.allclose(first.running_var, values.var(1), rtol=1e-4)


def test_recalibration_averages_batches_and_restores_modes():
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2), nn.BatchNorm1d(2))
    network.train()
    network[0].eval()
    batches = [torch.randn(8, 3) + n for n in range(3)]
    weights = copy.deepcopy(network[2].state_dict())
    assert recalibrate_batch_norms(network, batches) == 2
    every = torch.stack(batches)
    assert torch.allclose(network[0].running_mean, every.mean((0, 1)), atol=1e-6)
    assert torch.allclose(network[0].running_var, every.var(1).mean(0), atol=1e-6)
    assert [part.training for part in network] == [False, True, True, True]
    assert network[0].momentum == 0.1
    assert all(torch.equal(weights[k], v) for k, v in network[2].state_dict().items())
    assert recalibrate_batch_norms(nn.Linear(3, 2), batches) == 0


class Clock(prune_step._Stopwatch):
    """Instead of files: latency falls as the root of the parameters."""

    def file(self, candidate):
        return None

    def share(self, removed):
        small = prune(self.origin.module, removed)
        return 1 - (cost(small, "parameters") / cost(self.origin.module, "parameters")) ** 0.5


class Deaf(Clock):
    """Whatever is cut, the time is the same."""

    def share(self, removed):
        return 0.05


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_measured_target_is_met_and_the_plan_holds_it(rounds, tmp_path, monkeypatch):
    monkeypatch.setattr(prune_step, "_Stopwatch", Clock)
    parent = candidate(width=64)
    step = Prune(recipe(of="latency", ratio=0.3, rounds=rounds))
    where = context(tmp_path)
    plan = step.plan(parent, where)
    assert abs(plan["choice"]["latency"]["share"] - 0.3) <= 0.02
    assert not (tmp_path / "latency").exists()
    monkeypatch.setattr(prune_step, "_Stopwatch", None)  # apply does not measure
    child, _ = step.apply(parent, plan, where)
    final = plan["choice"]["keep"][-1]
    for name, channels in final.items():
        layer = child.module.backbone.get_submodule(name)
        assert layer.out_channels == channels
    left = cost(child.module, "parameters") / cost(parent.module, "parameters")
    assert 1 - left**0.5 == pytest.approx(0.3, abs=0.02)
    again, _ = step.apply(parent, plan, dataclasses.replace(where, work=tmp_path / "again"))
    assert again.digest == child.digest


def test_a_latency_out_of_reach_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(prune_step, "_Stopwatch", Deaf)
    step = Prune(recipe(of="latency", ratio=0.5, round_to=1))
    with pytest.raises(ModelError, match="that can be removed from this network"):
        step.plan(candidate(width=64), context(tmp_path))


@pytest.mark.slow
def test_latency_is_really_measured(tmp_path):
    step = Prune(recipe(of="latency", train=None))
    parent = candidate(width=64)
    with prune_step._Stopwatch(parent, 1, context(tmp_path)) as stopwatch:
        assert abs(stopwatch.share(())) < 0.5
        plan = recipe(ratio=0.9)
        cut = Prune(plan)._cut(parent.module, {"seed": 0, "shares": [0.9]}, 0, context(tmp_path))
        assert stopwatch.share(cut) > 0
    assert step.kind == "prune"


def test_sensitivity_is_accuracy_with_the_layer_zeroed(tmp_path):
    """The referee ranks by hand and zeroes what the head reads of the last layer."""
    parent = candidate(width=8)
    where = context(tmp_path)
    _, _, facts = run(Prune(recipe(sensitivity=True, train=None)), parent, where)
    found = facts["sensitivity"]
    images, labels = Data().pixels.pixels[24:], Data().pixels.labels[24:]
    assert found["images"] == 16
    assert found["baseline"] == float((parent.predict(images).argmax(1) == labels).mean())
    assert [row["name"] for row in found["layers"]] == ["block.0", "down.0"]
    last, network = found["layers"][-1], parent.module.backbone
    weights = network.down[0].weight.square().sum((1, 2, 3)) + network.down[1].weight.square()
    order = (weights + network.head.weight.square().sum(0)).argsort()
    assert last["shares"] == [round(16 * s) / 16 for s in np.arange(1, 10) / 10]
    for share, accuracy in zip(last["shares"], last["accuracies"], strict=True):
        twin = candidate(width=8)
        with torch.no_grad():
            twin.module.backbone.head.weight[:, order[: round(16 * share)]] = 0
        assert accuracy == float((twin.predict(images).argmax(1) == labels).mean())
    assert len({*last["accuracies"], found["baseline"]}) > 1
    assert json.loads((tmp_path / "sensitivity.json").read_text()) == found
