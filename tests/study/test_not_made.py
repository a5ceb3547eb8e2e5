"""A file that its format cannot hold is listed with its reason, and the others are made."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clinipress.errors import ModelError
from clinipress.formats import make
from clinipress.formats.onnx import make as onnx_make
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.formats.open import open_file
from clinipress.recipe.study import ExportRecipe
from clinipress.study.flow import run_study
from kit.onnx_nets import conv_net, pixels, saved
from kit.studies import TRAIN, study


class Listener:
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)

    def __getattr__(self, name):
        return lambda *_, **__: None


def test_f11_a_file_that_cannot_be_made_ends_no_study(tmp_path, phantoms, monkeypatch):
    def give_up(source, target, **_):
        raise RuntimeError("div.cc:262 DIV failed to invoke")

    monkeypatch.setattr(onnx_make, "to_float16", give_up)
    small = study(
        steps=[],
        open_test=False,
        exports=[{"precision": "float16"}, {"precision": "int4-weights"}],
        reference={"model": {"factory": "tiny_nets:make"}, "train": TRAIN | {"epochs": 1}},
    )
    listener = Listener()
    result = run_study(small, phantoms, tmp_path / "run", progress=listener)
    (missing,) = result.not_made
    assert missing.name == "reference-onnx-float16"
    assert "DIV failed to invoke" in missing.reason
    assert "choose another precision or format" in missing.reason
    assert [c.name for c in result.candidates] == ["reference", "reference-onnx-int4-weights"]
    assert any(line.startswith("reference-onnx-float16 was not made: ") for line in listener.lines)
    assert any("reference-onnx-float16 was not made" in line for line in result.limits)
    assert "DIV failed to invoke" in (tmp_path / "run" / "report.html").read_text()
    kept = json.loads((tmp_path / "run" / "result.json").read_text())
    assert kept["not_made"][0]["parent"] == "reference"


def test_f11_what_was_just_made_was_not_cut_short(tmp_path):
    source = saved(conv_net(), tmp_path / "model.onnx")
    card = open_file(source, threads=1).card.model_copy(update={"format": "onnx"})
    source.write_bytes(source.read_bytes()[:2000])
    with pytest.raises(ModelError) as caught:
        make.open_made(source, card, 1, pixels(1))
    assert "choose another precision or format" in str(caught.value)
    assert "copy it again" not in str(caught.value)
    assert str(caught.value).startswith("expected a network that onnx in float32 can hold")


def test_f11_a_file_that_opens_and_gives_up_is_refused_too(tmp_path, monkeypatch):
    source = saved(conv_net(), tmp_path / "model.onnx")
    card = open_file(source, threads=1).card.model_copy(update={"format": "onnx"})
    monkeypatch.setattr(
        "clinipress.formats.onnx.run.OnnxCandidate._run",
        lambda self, images: np.full((len(images), 3), np.nan, np.float32),
    )
    with pytest.raises(ModelError, match="NaN"):
        make.open_made(source, card, 1, pixels(1))


@pytest.mark.parametrize("problem", [TypeError("zeros_like(None)"), ValueError(), KeyError("a")])
def test_f11_whatever_a_toolchain_raises_is_one_line(monkeypatch, problem):
    def give_up(*_, **__):
        raise problem

    monkeypatch.setattr(onnx_make, "count_operators", give_up)
    with pytest.raises(ModelError, match=f"gave up over it \\({type(problem).__name__}"):
        make._call(ExportRecipe(), "count_operators", None)


@pytest.mark.parametrize("noise", [0.0, 100.0])
def test_a_file_far_from_its_network_is_named(tmp_path, phantoms, monkeypatch, noise):
    """Its accuracy against the labels hides it where the network itself is hardly better."""
    predict = OnnxCandidate.predict

    def disturbed(file, images):
        logits = predict(file, images)
        draw = np.random.default_rng(0).normal(size=logits.shape).astype(logits.dtype)
        return logits + noise * draw * (file.card.precision != "float32")

    monkeypatch.setattr(OnnxCandidate, "predict", disturbed)
    small = study(
        steps=[],
        open_test=False,
        exports=[{"precision": "float16"}],
        reference={"model": {"factory": "tiny_nets:make"}, "train": TRAIN | {"epochs": 1}},
    )
    result = run_study(small, phantoms, tmp_path / "run")
    named = [line for line in result.limits if line.startswith("reference-onnx-float16: of ")]
    assert [line.endswith(" otherwise.") for line in named] == [True] * (noise > 0)
