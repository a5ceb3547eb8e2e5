"""F1, F7, F18: networks that do without an optimisation which is safe for most, and odd makers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import user_nets
from clinipress.errors import ModelError
from clinipress.formats.onnx.features import show_features
from clinipress.formats.onnx.float import export_onnx
from clinipress.models.classifier import Classifier, TorchCandidate, new_classifier, notes
from clinipress.models.cost import parameters
from clinipress.models.features import TorchNetwork
from clinipress.models.parametrized import parametrized
from clinipress.models.weights import laid_out
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import Card, InputSpec
from clinipress.steps.qat.network import QuantizedNetwork, Schedule

SPEC = InputSpec(channels=1, height=16, width=16)


def made(name, spec=SPEC, **changes):
    torch.manual_seed(0)
    recipe = ModelRecipe(factory=name if ":" in name else f"user_nets:{name}", **changes)
    model, module = new_classifier(recipe, spec, 3, 0.5, 0.25)
    card = Card(name=name, classes=("a", "b", "c"), input=spec, model=model)
    return TorchCandidate(card, module.eval())


def pictures(count=4, channels=1):
    return np.random.default_rng(0).integers(0, 256, (count, channels, 16, 16), np.uint8)


@pytest.mark.parametrize("name", ["View", "Strides", "ViewInTraining"])
def test_f1_channels_last_is_tried_and_not_assumed(name, tmp_path):
    network = made(name)
    assert network.spec.layout == "contiguous"
    assert network.module.contiguous
    with torch.no_grad():
        expected = network.module(torch.from_numpy(pictures()))
    assert np.allclose(network.predict(pictures()), expected.numpy(), atol=1e-6)
    assert network.rounding(pictures()) < 1e-4
    network.save(tmp_path)
    again = TorchCandidate.load(tmp_path, allow_code=True)
    assert again.module.contiguous
    assert np.array_equal(again.predict(pictures()), network.predict(pictures()))


@pytest.mark.parametrize("name", ["Grid", "KeepsItsMaps", "NoAutocast", "Tied"])
def test_f1_networks_that_can_keep_channels_last(name):
    assert made(name).spec.layout is None


def test_f1_what_a_network_keeps_of_its_first_call_can_be_trained():
    network = made("Grid")
    network.predict(pictures())
    module = copy.deepcopy(network.module).train()
    module(torch.from_numpy(pictures())).sum().backward()


def test_f1_strides_of_one_grey_channel_mean_nothing():
    network, images = made("View"), pictures()
    odd = np.stack([image[0] for image in images])[:, None]
    assert np.array_equal(network.predict(odd), network.predict(images))
    oddest = torch.from_numpy(images).as_strided(images.shape, (256, 1, 16, 1))
    assert laid_out(oddest, torch.contiguous_format).stride() == (256, 256, 16, 1)


def test_f1_weights_know_their_version(tmp_path):
    spec = InputSpec(channels=1, height=32, width=32)
    network = made("torchvision.models:mnasnet0_5", spec)  # refuses weights of an unknown one
    network.save(tmp_path)
    assert TorchCandidate.load(tmp_path).digest == network.digest


def test_f1_layers_that_take_their_shape_from_the_first_image(tmp_path):
    network = made("Lazy")
    network.save(tmp_path)
    again = TorchCandidate.load(tmp_path, allow_code=True)
    assert np.array_equal(again.predict(pictures()), network.predict(pictures()))


def test_f7_a_weight_under_two_names_is_kept_and_counted_once(tmp_path):
    network = made("Tied")
    net = network.module.backbone
    assert parameters(net) == sum({id(p): p.numel() for p in net.parameters()}.values())
    network.save(tmp_path)
    again = TorchCandidate.load(tmp_path, allow_code=True)
    assert again.module.backbone.second.weight is again.module.backbone.first.weight
    assert again.digest == network.digest


@pytest.mark.parametrize("name", ["weight_norm_old", "spectral_norm_old"])
@torch.no_grad()
def test_f18_the_older_norms_of_weights_become_parametrizations(name, tmp_path):
    torch.manual_seed(0)
    plain = getattr(user_nets, name)(3, 1).eval()
    for value in plain.parameters():
        value.add_(0.1 * torch.randn_like(value))
    file = tmp_path / "plain.pt"
    torch.save(plain.state_dict(), file)
    noise = torch.randn(4, 1, 16, 16)
    expected = plain(noise)
    assert torch.allclose(parametrized(copy_of(plain, name))(noise), expected, atol=1e-5)
    network = made(name, checkpoint=str(file))
    assert torch.allclose(network.module.backbone(noise), expected, atol=1e-5)
    copy.deepcopy(network.module)
    with torch.enable_grad():
        network.module.train()(torch.from_numpy(pictures())).sum().backward()
    copy.deepcopy(network.module)


def copy_of(net, name):
    other = getattr(user_nets, name)(3, 1).eval()
    other.load_state_dict(net.state_dict())
    return other


def test_f18_a_network_of_torchvision_by_its_name():
    spec = InputSpec(channels=1, height=32, width=32)
    network = made("torchvision.models:resnet18", spec)
    assert (network.spec.in_channels, network.module.repeats) == (3, 3)
    recipe = ModelRecipe(factory="torchvision.models:resnet18")
    assert "repeated" in " ".join(notes(network.spec, recipe, spec, ("a", "b", "c")))
    colour = made("torchvision.models:resnet18", spec.model_copy(update={"channels": 3}))
    assert colour.module.repeats == 1


@pytest.mark.parametrize("argument", ["weights", "pretrained", "weights_backbone"])
def test_f18_torchvision_fetches_nothing(argument):
    with pytest.raises(ModelError, match=f"'{argument}', by which torchvision fetches"):
        made("torchvision.models:resnet18", arguments={argument: "DEFAULT"})


def test_f18_a_function_that_knows_colour_alone():
    assert made("colour_alone").spec.in_channels == 3
    with pytest.raises(ModelError, match="1 channels"):
        made("colour_alone", in_channels=1)


@pytest.mark.parametrize(
    ("name", "std"),
    [("Normalises", 1.0), ("normalises_by_torchvision", 1.0), ("normalises_grey_levels", 1 / 255)],
)
def test_pixels_are_normalised_once(name, std):
    network = made(name)
    assert (network.spec.mean, network.spec.std) == (0.0, std)
    recipe = ModelRecipe(factory=f"user_nets:{name}")
    assert "takes off a mean itself" in " ".join(notes(network.spec, recipe, SPEC, ("a", "b", "c")))
    own = made(name, mean=0.4, std=0.3)  # the user's word counts
    assert (own.spec.mean, own.spec.std) == (0.5, 0.25)


def test_batch_norms_are_no_normalisation_of_pixels():
    assert made("Tied").spec.mean == 0.5


def test_f18_a_network_without_maps_has_no_score_cam(tmp_path):
    network = made("mlp")
    with pytest.raises(ModelError, match="feature map"):
        TorchNetwork(network)
    path = tmp_path / "net.onnx"
    export_onnx(network, path)
    with pytest.raises(ModelError, match="a feature map of more than one cell before the logits"):
        show_features(path, "float32")


@pytest.mark.parametrize(
    "kind", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout]
)
def test_f18_every_dropout_drops_in_quantization_aware_training(kind):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2), kind(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    network = QuantizedNetwork(Classifier(net, SPEC, 1, 0.5, 0.25), [], Schedule(10, 10))
    images = torch.from_numpy(pictures())
    network.train()
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_a_network_that_no_copy_can_be_made_of():
    net = nn.Conv2d(1, 3, 16)
    net.kept = net(torch.zeros(1, 1, 16, 16))
    from clinipress.models.contract import check_contract

    with pytest.raises(ModelError, match="can be copied"):
        check_contract(net, 1, (16, 16), "a network")
