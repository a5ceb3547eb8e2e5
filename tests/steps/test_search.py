"""The search: limits kept by what is built, resumption, latency, and a child like any other."""

import json
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from clinipress.data.study import Rows, predict_rows
from clinipress.errors import ModelError
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.models.classifier import TorchCandidate
from clinipress.models.cost import macs, parameters
from clinipress.models.ofa import Space
from clinipress.recipe.steps import DistillStep, PruneStep, SearchStep
from clinipress.steps.distill.step import Distill
from clinipress.steps.prune.step import Prune
from clinipress.steps.supernet import search as search_step
from clinipress.steps.supernet.latency import LatencyModel, Stopwatch
from clinipress.steps.supernet.search import Search
from kit.onnx_nets import to_int8
from kit.supernets import GREY, WIDTH, candidate, context, drawn, one_thread, options

__all__ = ["one_thread"]  # a fixture for every test here

ALL = Space(WIDTH)
SIDE = (GREY.height, GREY.width)
MIDDLE = (ALL.smallest().macs(SIDE, 2, 1) + ALL.largest().macs(SIDE, 2, 1)) // 2


def recipe(**changes):
    plain = {"macs": MIDDLE, "population": 4, "generations": 1, "calibration_images": 32}
    return SearchStep(**(plain | changes))


@pytest.fixture(scope="module")
def supernet():
    found = candidate()
    with torch.no_grad():
        found.module.backbone.head.weight.normal_(0, 0.3)
    return found


def found_by(asked, parent, where):
    step = Search(asked)
    plan = json.loads(json.dumps(step.plan(parent, where)))
    return plan, *step.apply(parent, plan, where)


@pytest.fixture(scope="module")
def searched(supernet, tmp_path_factory):
    return found_by(recipe(), supernet, context(tmp_path_factory.mktemp("search")))


@pytest.mark.parametrize(
    "changes", [{}, {"macs": 0}, {"latency_ms": -1}, {"macs": 5, "population": 1}]
)
def test_recipes_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValidationError):
        SearchStep(**changes)


def test_the_child_keeps_the_limit_and_costs_what_is_said(searched):
    plan, child, facts = searched
    assert facts["macs"] == macs(child.module, GREY) <= MIDDLE
    assert facts["parameters"] == parameters(child.module)
    assert 1 < plan["search"]["looked_at"] <= 7
    assert plan["search"]["images"] == 48
    assert facts["recalibrated_on"] == 32


def test_a_limit_on_parameters_is_kept(supernet, tmp_path):
    limit = ALL.smallest().parameters(2, 1) * 11 // 10
    _, child, _ = found_by(recipe(macs=None, parameters=limit), supernet, context(tmp_path))
    assert parameters(child.module) <= limit


def test_a_limit_below_the_smallest_is_refused(supernet, tmp_path):
    with pytest.raises(ModelError, match="smallest"):
        Search(recipe(macs=1000)).plan(supernet, context(tmp_path))


def test_another_network_is_refused(searched, tmp_path):
    with pytest.raises(ModelError, match="supernet"):
        Search(recipe()).plan(searched[1], context(tmp_path))


def test_the_accuracy_is_that_of_the_child(searched, tmp_path):
    """What the search saw of the sub-net is what the sub-net does."""
    plan, child, _ = searched
    data = drawn()
    rows = data.rows("validation", GREY)
    logits = predict_rows(child, data.cache(GREY), rows)
    assert plan["search"]["accuracy"] == float((logits.argmax(1) == rows.labels).mean())


def test_scores_are_accuracy_and_log_likelihood():
    logits = np.asarray([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    right, negative = search_step._scored(logits, np.asarray([0, 1, 1]))
    assert right == 2 / 3
    losses = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), math.log(1 + math.exp(3))]
    assert negative == pytest.approx(-sum(losses) / 3)


def test_the_same_images_for_every_sub_net():
    rows = drawn().rows("validation", GREY)
    some = search_step._some(rows, 10, 0)
    assert len(some.index) == 10
    assert set(some.index) < set(rows.index)
    again = search_step._some(rows, 10, 0)
    assert isinstance(again, Rows)
    assert np.array_equal(some.index, again.index)
    assert search_step._some(rows, None, 0) is rows


def test_a_killed_search_goes_on_and_ends_the_same(supernet, tmp_path, monkeypatch):
    whole = Search(recipe()).plan(supernet, context(tmp_path / "a"))
    real, looked = search_step.predict_rows, []

    def dying(*given):
        looked.append(given)
        if len(looked) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(search_step, "predict_rows", dying)
    with pytest.raises(KeyboardInterrupt):
        Search(recipe()).plan(supernet, context(tmp_path / "b"))
    assert Search(recipe()).plan(supernet, context(tmp_path / "b")) == whole
    assert len(looked) == whole["search"]["looked_at"] + 1  # the two finished ones were kept


def test_another_supernet_does_not_take_the_journal(supernet, tmp_path, monkeypatch):
    Search(recipe()).plan(supernet, context(tmp_path))
    seen = []
    real = search_step.predict_rows
    monkeypatch.setattr(search_step, "predict_rows", lambda *g: seen.append(g) or real(*g))
    Search(recipe()).plan(candidate(seed=7), context(tmp_path))
    assert len(seen) > 1


# ----------------------------------------------------------------------------------- latency


def test_the_model_finds_the_rule_behind_the_times():
    """Times made of a known price per feature are predicted for sub-nets that were not seen."""
    random, prices = np.random.default_rng(0), np.asarray([0.2, 0.03, 0.02, 0.05, 0.4, 0.3, 0.2])
    model = LatencyModel((64, 64))
    drawn = [Space().sample(random) for _ in range(40)]
    model.measured = [(a, float(model.features(a) @ prices)) for a in drawn[:20]]
    for chosen in drawn[20:]:
        assert model.predict(chosen) == pytest.approx(float(model.features(chosen) @ prices), 0.02)
    assert max(abs(error) for error in model.errors()) < 0.01


def test_no_price_is_negative_whatever_the_noise():
    random, model = np.random.default_rng(0), LatencyModel((64, 64))
    model.measured = [(Space().sample(random), random.uniform(1, 2)) for _ in range(16)]
    assert (model._weights() >= 0).all()
    assert model.predict(Space().smallest()) <= model.predict(Space().largest())
    with pytest.raises(ValueError, match="measurement"):
        LatencyModel((64, 64)).predict(Space().smallest())


def test_files_are_timed_in_the_runtime(supernet, tmp_path):
    where = context(tmp_path)
    (found,) = Stopwatch(supernet, 1, where).times([ALL.smallest()])
    assert 0 < found < 1000
    assert not (tmp_path / "latency").exists()


def timed(rule):
    """A stopwatch that makes no files."""

    class Fake:
        def __init__(self, *_):
            pass

        def times(self, chosen):
            return [rule(one) for one in chosen]

    return Fake


def milliseconds(chosen):
    return chosen.macs(SIDE) / 1e6 + 0.1 * len(chosen.blocks())


def test_a_limit_on_latency_is_kept_by_the_measurement(supernet, tmp_path, monkeypatch):
    monkeypatch.setattr(search_step, "Stopwatch", timed(milliseconds))
    limit = (milliseconds(ALL.smallest()) + milliseconds(ALL.largest())) / 2
    plan, child, _ = found_by(recipe(macs=None, latency_ms=limit), supernet, context(tmp_path))
    told = plan["search"]["latency"]
    assert told["chosen_ms"] <= limit
    assert told["measured"] > search_step.MEASURED
    assert isinstance(child, TorchCandidate)


def test_a_prediction_that_was_too_kind_is_not_believed(supernet, tmp_path, monkeypatch):
    """Finalists slower than predicted: the model learns it, and the search says that none fits."""
    calls = []

    def drifting(chosen):
        calls.append(chosen)
        return milliseconds(chosen) * (1 if len(calls) <= search_step.MEASURED else 100)

    monkeypatch.setattr(search_step, "Stopwatch", timed(drifting))
    limit = (milliseconds(ALL.smallest()) + milliseconds(ALL.largest())) / 2
    with pytest.raises(ModelError, match=r" ms|smallest"):
        Search(recipe(macs=None, latency_ms=limit)).plan(supernet, context(tmp_path))


# ------------------------------------------------------- the child is a candidate like any other


def test_it_is_saved_and_loaded(searched, tmp_path):
    _, child, _ = searched
    child.save(tmp_path)
    again = TorchCandidate.load(tmp_path)
    assert again.digest == child.digest
    images = drawn().pixels.take(np.arange(4))
    assert np.array_equal(again.predict(images), child.predict(images))


def test_it_prunes(searched, tmp_path):
    _, child, _ = searched
    step = Prune(PruneStep(ratio=0.3, round_to=1, distill=False, train=None))
    where = context(tmp_path)
    small, _ = step.apply(child, step.plan(child, where), where)
    assert macs(small.module, GREY) == pytest.approx(0.7 * macs(child.module, GREY), rel=0.03)


def test_it_distils(searched, supernet, tmp_path):
    _, child, _ = searched
    step = Distill(DistillStep(views=1, train=options()))
    where = context(tmp_path, reference=supernet)
    taught, facts = step.apply(child, step.plan(child, where), where)
    assert taught.card.model == child.card.model
    assert taught.digest != child.digest
    assert len(facts["epochs"]) == 1


def test_it_exports_and_quantizes(searched, tmp_path):
    _, child, _ = searched
    images = drawn().pixels.take(np.arange(32))
    exported = export_onnx(child, tmp_path / "a.onnx", images=images[:4])
    assert isinstance(exported, OnnxCandidate)
    answers = to_int8(tmp_path / "a.onnx", tmp_path / "b.onnx", images).predict(images)
    assert np.isfinite(answers).all()
    assert answers.std() > 0
    assert (tmp_path / "b.onnx").stat().st_size < (tmp_path / "a.onnx").stat().st_size


def test_a_supernet_is_exported_as_its_largest_network(supernet, tmp_path):
    images = drawn().pixels.take(np.arange(4))
    export_onnx(supernet, tmp_path / "a.onnx", images=images)
    assert (tmp_path / "a.onnx").is_file()


def test_a_pruned_supernet_is_its_largest_network_alone(supernet, tmp_path):
    """Pruning cuts the largest network; sub-nets need all channels and are refused afterwards."""
    step = Prune(PruneStep(ratio=0.3, round_to=1, distill=False, train=None))
    where = context(tmp_path)
    small, _ = step.apply(supernet, step.plan(supernet, where), where)
    assert macs(small.module, GREY) == pytest.approx(0.7 * macs(supernet.module, GREY), rel=0.03)
    with pytest.raises(ModelError, match="width"):
        Search(recipe()).plan(small, where)
