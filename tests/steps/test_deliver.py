"""What every format's export shares: the trial of ranges, the card, the words of a missing part."""

from __future__ import annotations

import json
import sys

import pytest

from clinipress.errors import MissingExtraError
from clinipress.formats import make as delivered
from clinipress.formats.make import apply_export, file_facts, plan_export
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.open import open_file
from clinipress.formats.tensorrt import make as to_tensorrt
from clinipress.recipe.formats import format_facts
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import ModelSpec
from kit.random_nets import candidate_of, pictures


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    candidate = candidate_of("resnet10t", 32)
    path = tmp_path_factory.mktemp("deliver") / "model.onnx"
    return candidate, export_onnx(candidate, path).path


def plan(parent, **options):
    candidate, source = parent
    recipe = ExportRecipe(format="tensorrt", precision="int8", **options)
    images = pictures(24, candidate.card.input)
    return recipe, plan_export(recipe, candidate, source, images, threads=1, seed=0)


def test_the_toolchains_own_ranges_and_ours_are_tried_and_the_better_is_kept(parent, monkeypatch):
    """With ranges of a tenth as "the toolchain's own", ours must win; with ours spoilt, theirs."""
    real = to_tensorrt.plan_tensorrt

    def spoilt(own):
        def made(*arguments, ranges=None, **options):
            found = real(*arguments, ranges=ranges, **options)
            if (ranges is None) == own:
                ends = found["ranges"].items()
                found["ranges"] = {name: [low / 10, high / 10] for name, (low, high) in ends}
            return found

        return made

    for own, winner in ((True, "percentile"), (False, "runtime")):
        monkeypatch.setattr(to_tensorrt, "plan_tensorrt", spoilt(own))
        _, made = plan(parent)
        assert [one["method"] for one in made["trials"]] == ["runtime", "percentile"]
        assert made["ranges"] == winner
        assert json.loads(json.dumps(made)) == made


@pytest.mark.parametrize("kind", ["openvino", "litert"])
def test_the_file_that_was_tried_is_the_one_that_its_plan_gives(
    parent, tmp_path, kind, monkeypatch
):
    candidate, source = parent
    recipe = ExportRecipe(format=kind, precision="int8")
    images = pictures(24, candidate.card.input)
    kept: dict = {}
    made = plan_export(recipe, candidate, source, images, threads=1, seed=0, tried=kept)
    assert len(made["trials"]) == 2
    made = json.loads(json.dumps(made))  # as a study keeps it
    first = format_facts(kind).files[0]
    applied = []

    def apply(folder):
        folder.mkdir()
        apply_export(recipe, candidate, source, folder / first, made, candidate.card, kept)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    real = delivered._call
    monkeypatch.setattr(
        delivered, "_call", lambda r, verb, *rest: applied.append(verb) or real(r, verb, *rest)
    )
    tried = apply(tmp_path / "tried")
    assert applied == []
    again = apply(tmp_path / "again")  # as a run does that goes on after it was killed
    assert applied == ["apply"]
    assert tried == again
    assert set(format_facts(kind).files) <= set(tried)


def test_a_method_by_name_leaves_nothing_to_try(parent):
    for method in ("runtime", "minmax"):
        _, made = plan(parent, calibration_method=method)
        assert (made["ranges"], made["trials"]) == (method, [])


def test_learnt_ranges_are_taken_as_they_are(parent, tmp_path):
    candidate, source = parent
    _, first = plan(parent, calibration_method="minmax")
    learnt = {name: tuple(ends) for name, ends in first["file"]["ranges"].items()}
    spec = candidate.spec.model_copy(update={"ranges": learnt})
    aware = type(candidate)(candidate.card.model_copy(update={"model": spec}), candidate.module)
    assert isinstance(aware.spec, ModelSpec)
    recipe, made = plan((aware, source))
    assert (made["ranges"], made["trials"]) == ("learnt", [])
    assert {n: tuple(e) for n, e in made["file"]["ranges"].items()} == learnt
    target = tmp_path / "model.onnx"
    apply_export(recipe, aware, source, target, made, aware.card)
    card = open_file(target, aware.card.model_copy(update={"format": "tensorrt"}), 1).card
    assert card.format == "tensorrt"
    facts = file_facts(recipe, target, made)
    assert facts["ranges"] == "learnt"
    assert facts["layers"]["convolutions"][0] > 0


@pytest.mark.parametrize("better", ["learnt", "runtime"])
def test_f4_learnt_ranges_without_a_place_are_tried_and_told(parent, monkeypatch, better):
    real = to_tensorrt.plan_tensorrt

    def lossy(*arguments, ranges=None, **options):
        made = real(*arguments, ranges=ranges, **options)
        if (ranges is None) != (better == "runtime"):
            ends = made["ranges"].items()
            made["ranges"] = {name: [low / 10, high / 10] for name, (low, high) in ends}
        return made if ranges is None else made | {"given": 61, "found": 0}

    candidate, source = parent
    _, first = plan(parent, calibration_method="minmax")
    learnt = {name: tuple(ends) for name, ends in first["file"]["ranges"].items()}
    spec = candidate.spec.model_copy(update={"ranges": learnt})
    aware = type(candidate)(candidate.card.model_copy(update={"model": spec}), candidate.module)
    monkeypatch.setattr(to_tensorrt, "plan_tensorrt", lossy)
    _, made = plan((aware, source))
    assert made["ranges"] == better
    assert [trial["method"] for trial in made["trials"]] == ["learnt", "runtime"]
    stand_in = "the others" if better == "learnt" else "all of them"
    assert "of 61 ranges of activations learnt in quantization-aware training, 0" in made["lost"]
    assert f"stand in for {stand_in}" in made["lost"]


def test_f4_ranges_asked_for_by_name_that_have_no_place_are_told(parent, monkeypatch):
    real = to_tensorrt.plan_tensorrt
    few = {"given": 10, "found": 4}
    monkeypatch.setattr(to_tensorrt, "plan_tensorrt", lambda *a, **k: real(*a, **k) | few)
    _, made = plan(parent, calibration_method="minmax")
    assert "of 10 ranges of activations found (minmax), 4 have a place" in made["lost"]
    few["found"] = 5
    assert "lost" not in plan(parent, calibration_method="minmax")[1]


def test_a_missing_toolchain_is_one_line(parent, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    recipe = ExportRecipe(format="openvino", precision="float32")
    with pytest.raises(MissingExtraError, match=r"making openvino files.*clinipress\[openvino\]"):
        plan_export(recipe, *parent, pictures(1, parent[0].card.input), threads=1, seed=0)
