"""Networks that no figure would be true of: answers of the batch, of chance, and probabilities."""

import numpy as np
import pytest
import torch
from torch import nn

import untrue_nets
from clinipress.edge.load import load_candidate
from clinipress.errors import ModelError
from clinipress.formats.make import apply_export
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.write import card_for
from clinipress.formats.parity import check_candidate, check_images, check_logits
from clinipress.models.classifier import new_classifier
from clinipress.models.contract import check_contract, strange_answers
from clinipress.recipe.steps import ModelRecipe
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import InputSpec
from clinipress.study.flow import run_study
from kit.candidates import wrapped
from kit.studies import study

SPEC = InputSpec(channels=1, height=16, width=16)
BATCH = ("no_statistics", "zero_head", "batch_mean", "sequence", "float32_inside")
CHANCE = ("dropout", "noise")
PROBABILITIES = ("sigmoid", "hard_sigmoid")
TRUE = ("plain", "standardised", "log_softmax", "tanh", "gated")


def made(name):
    return new_classifier(ModelRecipe(factory=f"untrue_nets:{name}"), SPEC, 3, 0.5, 0.25)


def candidate(name, **changes):
    return wrapped(lambda channels: getattr(untrue_nets, name)(3, channels), **changes)


@pytest.mark.parametrize("name", BATCH)
def test_f8_answers_that_depend_on_the_batch(name):
    with pytest.raises(ModelError, match=r"depend on its batch"):
        made(name)


def test_f8_the_norm_is_named():
    with pytest.raises(ModelError, match=r"'body\.0\.1' has track_running_stats=False"):
        made("no_statistics")


@pytest.mark.parametrize("name", CHANCE)
def test_f9_answers_by_chance(name):
    with pytest.raises(ModelError, match=r"one answer.*training=self\.training"):
        made(name)


def test_answers_that_noise_hardly_changes_are_no_probabilities():
    hardly = torch.tensor([0.01, 0.03, 0.02]) + 1e-7 * torch.rand(4, 3)
    assert not strange_answers(hardly)
    assert "sum is 0.06" in strange_answers(0.06 * torch.rand(4, 3).softmax(1))


@pytest.mark.parametrize("name", PROBABILITIES)
def test_f14_probabilities_for_logits(name):
    with pytest.raises(ModelError, match="that gives logits, got probabilities"):
        made(name)


@torch.no_grad()
def test_c9_a_sigmoid_for_each_finding_is_taken_off_and_a_softmax_refused():
    recipe = ModelRecipe(factory="untrue_nets:sigmoid")
    torch.manual_seed(0)
    spec, module = new_classifier(recipe, SPEC, 3, 0.5, 0.25, task="multilabel")
    assert (spec.output.ending, spec.output.ending_in_training) == ("sigmoid", "sigmoid")
    assert spec.output.taken_off
    net = untrue_nets.sigmoid(3, 1).eval()
    net.load_state_dict(module.backbone.state_dict())
    pixels = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    found = module.eval()(pixels).sigmoid()
    assert torch.allclose(found, net((pixels - module.shift) / module.scale), atol=1e-6)
    with pytest.raises(ModelError, match="for task: multilabel, got a softmax over all of them"):
        new_classifier(
            ModelRecipe(factory="untrue_nets:softmax"), SPEC, 3, 0.5, 0.25, task="multilabel"
        )


@pytest.mark.parametrize("name", TRUE)
def test_functions_of_the_image_alone_pass(name):
    state = torch.random.get_rng_state()
    backbone = getattr(untrue_nets, name)(3, 1)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    torch.random.set_rng_state(state)
    check_contract(backbone.train(), 1, (16, 16), "a network")
    assert backbone.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_old_weight_norm_is_told_before_training():
    net = untrue_nets.plain(3, 1)
    with pytest.warns(FutureWarning):
        net.head = nn.utils.weight_norm(net.head)
    net.head(torch.zeros(1, 16))
    with pytest.raises(ModelError, match=r"parametrizations\.weight_norm"):
        check_contract(net, 1, (16, 16), "a network")


@pytest.mark.parametrize("name", ["batch_mean", "dropout", "sigmoid"])
def test_f8_f9_f14_a_student_is_refused_before_the_reference_trains(name, phantoms, tmp_path):
    steps = [{"step": "distill", "student": {"factory": f"untrue_nets:{name}"}}]
    with pytest.raises(ModelError, match=f"untrue_nets:{name}"):
        run_study(study(steps=steps), phantoms, tmp_path / "run")
    assert not list((tmp_path / "run").glob("objects/train-*"))


@pytest.mark.parametrize(("name", "words"), [("batch_mean", "batch"), ("dropout", "one answer"),
                                             ("softmax", "logits")])  # fmt: skip
def test_f8_f9_f14_a_candidate_folder_is_refused_when_opened(name, words, tmp_path):
    net = candidate(name)
    model = net.spec.model_copy(update={"name": None, "factory": f"untrue_nets:{name}"})
    type(net)(net.card.model_copy(update={"model": model}), net.module).save(tmp_path)
    with pytest.raises(ModelError, match=words):
        load_candidate(tmp_path, allow_code=True)


@pytest.mark.parametrize(("name", "words"), [("batch_mean", "whatever its batch"),
                                             ("softmax", "probabilities")])  # fmt: skip
def test_f8_f14_a_file_is_refused_when_opened(name, words, tmp_path):
    path = tmp_path / "net.onnx"
    export_onnx(candidate(name), path)
    with pytest.raises(ModelError, match=words):
        load_candidate(path)


def test_f8_a_file_that_is_true_opens(tmp_path):
    path = tmp_path / "net.onnx"
    export_onnx(candidate("plain"), path)
    check_candidate(load_candidate(path))


def test_f8_grids_found_while_it_runs_are_of_one_image(tmp_path):
    parent, path = candidate("plain"), tmp_path / "small.onnx"
    source = export_onnx(parent, tmp_path / "net.onnx").path
    recipe = ExportRecipe(precision="int8-dynamic")
    card = card_for(parent.card, "int8-dynamic")
    apply_export(recipe, parent, source, path, {}, card)
    file = load_candidate(path)
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 16, 16), np.uint8)
    images[:5] //= 8  # what is bright would set the grid of all
    alone = np.concatenate([file.predict(image[None]) for image in images])
    assert np.array_equal(file.predict(images), alone)


def test_f9_chance_widens_no_tolerance():
    parent = candidate("dropout")
    images = check_images(parent)
    logits = parent.predict(images)
    with pytest.raises(ModelError, match="one answer"):
        check_logits(parent, logits + np.float32(0.1 * np.ptp(logits)), images, "a file")


def test_f9_a_network_that_float32_carries_away_widens_it_only_so_far(monkeypatch):
    parent = candidate("plain")
    images = check_images(parent)
    logits = parent.predict(images)
    monkeypatch.setattr(type(parent), "rounding", lambda *_: float(np.ptp(logits)))
    check_logits(parent, logits + np.float32(0.04 * np.ptp(logits)), images, "a file")
    # the network is at fault, and no converter: it was told otherwise before
    with pytest.raises(ModelError, match=r"logits float32 can hold to .*rounding alone moves them"):
        check_logits(parent, logits + np.float32(0.1 * np.ptp(logits)), images, "a file")
    with pytest.raises(ModelError, match=r"a file with the logits of .*converter cannot follow"):
        check_logits(parent, logits + np.float32(5 * np.ptp(logits)), images, "a file")
