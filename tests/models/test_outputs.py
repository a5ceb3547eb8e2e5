"""F14, F18: networks that give something else than logits [n, classes], and give them after all."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import user_nets
from clinipress.errors import ModelError
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.parity import check_candidate
from clinipress.models.classifier import TorchCandidate, new_classifier, notes
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import Card, InputSpec
from clinipress.steps.qat.tracing import trace

nightly = pytest.mark.nightly
SPEC = InputSpec(channels=1, height=16, width=16)
SOFTMAX = ("softmax", "softmax_method", "softmax_functional", "softmax_module", "softmax_reshaped",
           "softmax_spelled_out", "softmax_of_two")  # fmt: skip
SIGMOID = ("one_sigmoid", "one_sigmoid_module", "one_sigmoid_flat")
SEVERAL = {"in_tuple": 0, "in_list": 1, "in_dictionary": "logits", "in_named_tuple": "logits",
           "with_probabilities": 1}  # fmt: skip


def made(name, classes=3, spec=SPEC, **changes):
    torch.manual_seed(0)
    recipe = ModelRecipe(factory=name if ":" in name else f"user_nets:{name}", **changes)
    model, module = new_classifier(recipe, spec, classes, 0.5, 0.25)
    return model, module.eval()


def candidate(name, classes=3, **changes):
    model, module = made(name, classes, **changes)
    names = ("a", "b", "c")[:classes]
    return TorchCandidate(Card(name=name, classes=names, input=SPEC, model=model), module)


def images(count=4):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 1, 16, 16), np.uint8))


def raw(name, module, classes=3):
    """The same weights in the network as the user wrote it, for the same pixels."""
    net = getattr(user_nets, name)(classes, 1).eval()
    net.load_state_dict(module.backbone.state_dict())
    return net((images().float() - module.shift) / module.scale)


@pytest.mark.parametrize("name", SOFTMAX)
@torch.no_grad()
def test_f14_a_softmax_is_undone(name):
    model, module = made(name)
    logits = module(images())
    assert torch.allclose(logits.softmax(1), raw(name, module), atol=1e-6)
    assert model.output.ending == model.output.ending_in_training == "softmax"
    taken_off = name in SOFTMAX[:5]
    assert model.output.taken_off == taken_off
    if taken_off:  # what comes before it, not a logarithm of it
        plain = user_nets.Net(3, 1).eval()
        plain.load_state_dict(
            {key.removeprefix("0."): v for key, v in module.backbone.state_dict().items()}
        )
        pixels = (images().float() - module.shift) / module.scale
        assert torch.equal(logits, plain(pixels))


@torch.no_grad()
def test_f14_a_softmax_of_evaluation_mode_alone():
    model, module = made("softmax_in_evaluation")
    assert (model.output.ending, model.output.ending_in_training) == ("softmax", "")
    frozen = copy.deepcopy(module)
    frozen.backbone.training = True  # the norms stay as they are
    assert torch.equal(module(images()), frozen(images()))


@torch.no_grad()
def test_f14_the_last_softmax_is_taken_off_and_no_other():
    _, module = made("softmax_inside")
    assert torch.allclose(module(images()).softmax(1), raw("softmax_inside", module), atol=1e-6)


@torch.no_grad()
def test_f14_a_probability_of_nought_has_a_logit():
    _, module = made("softmax_of_two")
    module.backbone.head.weight.mul_(1e6)
    assert (raw("softmax_of_two", module) == 0).any()
    assert module(images()).isfinite().all()


@torch.no_grad()
def test_f14_a_logarithm_of_a_softmax_passes():
    model, module = made("log_softmax")
    assert model.output is None
    assert torch.allclose(module(images()), raw("log_softmax", module), atol=1e-6)


@pytest.mark.parametrize("name", ["one_logit", "one_logit_flat", "map_of_one_cell", *SIGMOID])
@torch.no_grad()
def test_f14_one_number_for_two_classes_is_the_second_ones(name):
    model, module = made(name, classes=2)
    answer = raw(name, module, 2).reshape(4, -1)
    probability = answer if "sigmoid" in name else answer.sigmoid()
    logits = module(images())
    assert logits.shape == (4, 2)
    if answer.shape[1] == 1:
        assert torch.allclose(logits.softmax(1)[:, 1:], probability, atol=1e-6)
        recipe = ModelRecipe(factory=f"user_nets:{name}")
        said = " ".join(notes(model, recipe, SPEC, ("normal", "tumor")))
        assert "the logit of 'tumor', the second class of the data, against 'normal'" in said


def test_f14_one_number_answers_two_classes_alone():
    with pytest.raises(ModelError, match=r"3 outputs per image.*\[1, 1\]"):
        made("one_logit", classes=3)
    with pytest.raises(ModelError, match="always 1"):
        made("one_softmax", classes=2)


@torch.no_grad()
def test_f14_a_sigmoid_and_what_it_leaves_are_two_probabilities():
    _, module = made("one_sigmoid_and_rest", classes=2)
    got = module(images()).softmax(1)
    assert torch.allclose(got, raw("one_sigmoid_and_rest", module, 2), atol=1e-6)


@pytest.mark.parametrize(("name", "place"), SEVERAL.items())
@torch.no_grad()
def test_f18_the_logits_among_others(name, place):
    model, module = made(name)
    assert model.output.main == place
    answer = raw(name, module)
    expected = getattr(answer, place, None) if name == "in_named_tuple" else answer[place]
    assert torch.equal(module(images()), expected)
    assert torch.equal(module.train()(images()).isfinite(), torch.ones(4, 3, dtype=torch.bool))


@pytest.mark.parametrize("name", ["two_answers", "ambiguous_in_training"])
def test_f18_which_is_meant_is_asked(name):
    with pytest.raises(ModelError, match=r"one output.*\[2, 3\], \[2, 3\].*as 'logits'"):
        made(name)


def test_f18_no_tensor_at_all():
    with pytest.raises(ModelError, match=r"\[n, 3\].*str"):
        made("nothing_of_use")


@pytest.mark.parametrize(("name", "place"), [("in_training", 1), ("Auxiliary", 0)])
def test_f18_auxiliary_answers_in_training(name, place):
    model, module = made(name)
    assert (model.output.main, model.output.beside) == (place, True)
    assert "auxiliary" in " ".join(notes(model, ModelRecipe(name="x"), SPEC, ("a", "b", "c")))
    logits = module.train()(images())
    logits.sum().backward()
    assert module.backbone.head.weight.grad is not None


def test_f18_torchvisions_networks_with_auxiliary_heads():
    spec = InputSpec(channels=1, height=32, width=32)
    name = "torchvision.models:googlenet"
    model, module = made(name, spec=spec, arguments={"init_weights": False})
    assert (model.output.main, model.in_channels) == ("logits", 3)
    assert module.train()(torch.zeros(2, 1, 32, 32, dtype=torch.uint8)).shape == (2, 3)


def test_f18_hugging_face():
    spec = InputSpec(channels=1, height=32, width=32)
    model, module = made("hugging_face", spec=spec)
    assert model.output.main == "logits"
    assert module(torch.zeros(2, 1, 32, 32, dtype=torch.uint8)).shape == (2, 3)


def test_f18_a_fixed_size_is_told():
    with pytest.raises(ModelError, match="it takes 32 x 32 pixels"):
        made("hugging_face")


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("softmax_in_list", 3),
        ("sigmoid_in_dictionary", 2),
        *(pytest.param(name, 3, marks=nightly) for name in ("softmax_of_two", "map_of_one_cell")),
    ],
)
def test_f14_f18_files_and_training_see_logits(name, classes, tmp_path):
    parent = candidate(name, classes)
    path = tmp_path / "net.onnx"
    file = export_onnx(parent, path)
    check_candidate(file)
    assert np.allclose(file.predict(images().numpy()), parent.predict(images().numpy()), atol=1e-4)
    kinds = [
        str(node.target) for node in trace(copy.deepcopy(parent.module), (1, 16, 16)).graph.nodes
    ]
    ends = [kind for kind in kinds if "softmax" in kind or "sigmoid" in kind]
    assert bool(ends) == (name == "softmax_of_two")
    parent.save(tmp_path / "folder")
    again = TorchCandidate.load(tmp_path / "folder", allow_code=True)
    assert again.digest == parent.digest
    assert np.array_equal(again.predict(images().numpy()), parent.predict(images().numpy()))


def test_the_digest_of_a_network_that_gives_logits_is_as_before():
    fields = made("log_softmax")[0].model_dump()
    assert not {"output", "layout"} & fields.keys()


def test_a_network_keeps_its_names_and_kind():
    _, module = made("softmax")
    assert isinstance(module.backbone, user_nets.Net)
    assert isinstance(module.backbone.get_submodule("body.0.0"), nn.Conv2d)
