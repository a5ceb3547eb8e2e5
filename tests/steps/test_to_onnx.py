from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from clinipress.errors import ModelError
from clinipress.formats.make import file_facts
from clinipress.formats.onnx import make as to_onnx
from clinipress.formats.onnx.int8 import Int8Plan, apply_int8
from clinipress.formats.onnx.make import GAIN, apply_onnx, plan_onnx
from clinipress.formats.onnx.placement import agreement_images
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.recipe.study import ExportRecipe
from clinipress.stats.metrics import same_answers
from clinipress.study import workbench as workbench_module
from clinipress.study.workbench import Workbench
from kit.onnx_nets import conv_net, pixels, saved

PRECISIONS = ("float16", "int8", "int8-dynamic", "int4-weights", "mixed")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return saved(conv_net(), tmp_path_factory.mktemp("deliver") / "float.onnx")


@pytest.fixture(scope="module")
def plans(source):
    images = pixels(16)
    return {
        precision: plan_onnx(ExportRecipe(precision=precision), source, images, threads=1, seed=0)
        for precision in PRECISIONS
    }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_stored_plan_writes_the_same_file_again(tmp_path, source, plans, precision):
    recipe = ExportRecipe(precision=precision)
    card = OnnxCandidate.load(source).card
    stored = json.loads(json.dumps(plans[precision]))
    apply_onnx(recipe, source, tmp_path / "a.onnx", plans[precision], card)
    apply_onnx(recipe, source, tmp_path / "b.onnx", stored, card)
    first = OnnxCandidate.load(tmp_path / "a.onnx", threads=1)
    assert first.digest == OnnxCandidate.load(tmp_path / "b.onnx").digest
    assert first.card.precision == precision
    assert first.file_bytes > 0
    exact = OnnxCandidate.load(source, threads=1).predict(pixels(32, 1))
    assert np.abs(first.predict(pixels(32, 1)) - exact).mean() < 0.3 * exact.std()


def test_facts_say_what_was_quantized(tmp_path, source, plans):
    card = OnnxCandidate.load(source).card
    facts = {}
    for precision in PRECISIONS:
        recipe, path = ExportRecipe(precision=precision), tmp_path / f"{precision}.onnx"
        apply_onnx(recipe, source, path, plans[precision], card)
        facts[precision] = file_facts(recipe, path, plans[precision])
        json.dumps(facts[precision])
    assert facts["int8"]["layers"]["convolutions"] == [3, 3]
    assert "warning" not in facts["int8"]
    assert facts["int8-dynamic"]["warning"].startswith("0 of 3 convolutions")
    assert facts["mixed"]["placement"]["reason"]
    assert facts["mixed"]["plan"] != facts["int8"]["plan"]


def test_a_run_that_was_killed_finds_its_plan(tmp_path, source, monkeypatch):
    """Timing decides a placement, so a plan must never be made twice."""
    taken = []

    class Cache:
        def take(self, rows):
            taken.append(list(rows))
            return pixels(len(rows))

    study = SimpleNamespace(latency_threads=1, seed=0)
    bench = Workbench(study, None, SimpleNamespace(cache=lambda spec: Cache()))
    parent = SimpleNamespace(card=SimpleNamespace(input=None), spec=SimpleNamespace(ranges=None))
    recipe, rows = ExportRecipe(precision="int8"), np.array([5, 3, 9])
    first = bench._export_plan(parent, recipe, source, tmp_path, rows)
    assert taken == [[3, 5, 9]]

    def never(*args, **kwargs):
        raise AssertionError("planned twice")

    monkeypatch.setattr(workbench_module, "plan_export", never)
    assert bench._export_plan(parent, recipe, source, tmp_path, rows) == first


def test_calibration_rows_come_from_training_alone():
    """By construction: the workbench can draw calibration images from `train` and nothing else."""
    asked = []

    class Data:
        def rows(self, split, spec):
            asked.append(split)
            return SimpleNamespace(labels=np.array([0, 1, 0, 1]), index=np.array([7, 3, 9, 4]))

    bench = Workbench(SimpleNamespace(seed=0), None, Data())
    parent = SimpleNamespace(card=SimpleNamespace(input=None))
    for precision in ("int8", "mixed"):
        params, chosen = bench._export_params(parent, ExportRecipe(precision=precision))
        assert params["calibration_split"] == "train"
        assert set(chosen) <= {7, 3, 9, 4}
    assert set(asked) == {"train"}


def test_the_plan_that_disturbs_least_is_taken(source):
    images = pixels(32)
    made = plan_onnx(ExportRecipe(precision="int8"), source, images, threads=1, seed=0)
    tried = made["trials"]
    assert [one["method"] for one in tried[:3]] == ["percentile", "mse", "minmax"]
    assert [one["equalize"] for one in tried[:4]] == [False, False, False, True]
    assert len(tried) == 5
    assert tried[4]["bias_correction"]
    best = max(tried[:3], key=lambda one: one["decibels"])
    for change, one in (("equalize", tried[3]), ("biases", tried[4])):
        gained = one["decibels"] > best["decibels"] + GAIN
        assert bool(made["int8"][change]) == gained
        best = one if gained else best
    alone = plan_onnx(
        ExportRecipe(precision="int8", calibration_method=best["method"],
                     equalize=best["equalize"], bias_correction=best["bias_correction"]),
        source, images, threads=1, seed=0,
    )  # fmt: skip
    assert len(alone["trials"]) == 1
    assert alone["int8"] == made["int8"]


def test_agreement_of_findings_is_of_each_finding(tmp_path):
    path = saved(conv_net(), tmp_path / "findings.onnx", task="multilabel")
    images = pixels(32)
    recipe = ExportRecipe(precision="mixed", calibration_method="minmax", equalize=False,
                          bias_correction=False, agreement=0.9, slowest=1e6)  # fmt: skip
    made = plan_onnx(recipe, path, images, threads=1, seed=0)
    low = apply_int8(path, tmp_path / "low.onnx", Int8Plan.from_json(made["int8"]))
    looked_at = agreement_images(images, 0)
    exact = OnnxCandidate.load(path, threads=1).predict(looked_at)
    logits = low.predict(looked_at)
    each = same_answers(exact, logits, several=True)
    largest = (exact.argmax(1) == logits.argmax(1)).mean()
    assert abs(each - largest) > 0.005
    assert made["trials"][0]["agreement"] == made["placement"]["trials"][0]["agreement"] == each
    assert "of the answers about findings stay" in made["placement"]["reason"]


def test_what_the_recipe_names_is_not_tried(source):
    recipe = ExportRecipe(
        precision="int8", calibration_method="minmax", equalize=False, bias_correction=True
    )
    made = plan_onnx(recipe, source, pixels(16), threads=1, seed=0)
    assert [one["method"] for one in made["trials"]] == ["minmax"]
    assert made["int8"]["biases"]


def test_learnt_ranges_leave_nothing_to_choose(source):
    images = pixels(16)
    plain = ExportRecipe(precision="int8")
    measured = plan_onnx(plain, source, images, threads=1, seed=0)["int8"]["ranges"]
    learnt = {name: (2 * low - 1, 2 * high + 1) for name, (low, high) in measured.items()}
    made = plan_onnx(plain, source, images, threads=1, seed=0, ranges=learnt)
    assert made["trials"] == []
    assert made["int8"]["ranges"] == learnt
    for changed in ({"equalize": True}, {"smooth": 0.5}):
        recipe = ExportRecipe(precision="int8", **changed)
        with pytest.raises(ModelError, match="an export after 'qat'"):
            plan_onnx(recipe, source, images, threads=1, seed=0, ranges=learnt)


def largest_weight(path):
    graph = onnx.load(path).graph
    arrays = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
    return max(
        int(np.abs(a.astype(int)).max()) for a in arrays if a.dtype == np.int8 and a.ndim > 1
    )


def test_weights_get_seven_bits_where_sums_would_overflow(tmp_path, source, monkeypatch):
    card, images = OnnxCandidate.load(source).card, pixels(16)
    largest = {}
    for asked, machine in ((True, False), (False, True), (None, True), (None, False)):
        monkeypatch.setattr(to_onnx, "overflows_here", lambda machine=machine: machine)
        recipe = ExportRecipe(calibration_method="minmax", reduce_range=asked)
        plan = plan_onnx(recipe, source, images, threads=1, seed=0)
        path = tmp_path / f"{asked}-{machine}.onnx"
        apply_onnx(recipe, source, path, json.loads(json.dumps(plan)), card)
        largest[asked, machine] = largest_weight(path)
        assert file_facts(recipe, path, plan)["reduced_range"] == (largest[asked, machine] <= 64)
    assert largest[True, False] == largest[None, True] <= 64
    assert largest[False, True] == largest[None, False] == 127
