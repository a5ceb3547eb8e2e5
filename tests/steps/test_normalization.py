"""The pixels are normalized as the weights say, and what differs from that is said (F5)."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv, save_for_hf
from torch import nn

from clinipress.models.catalogue import IMAGENET
from clinipress.models.normalization import normalization_of
from clinipress.models.pretrained import load_pretrained
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import InputSpec
from clinipress.steps.fitting import fresh_candidate, normalization_lines
from kit.steps import Data

SPEC = InputSpec(channels=1, height=16, width=16)


def candidate(recipe, data=None):
    return fresh_candidate(recipe, data or Data(), SPEC, seed=0, name="reference")


def hub_folder(folder, **config):
    """A timm model as the hub keeps it, whose configuration says `config`."""
    net = timm.create_model("test_resnet", num_classes=2)
    save_for_hf(net, folder, model_config={"num_classes": 2}, safe_serialization=True)
    facts = json.loads((folder / "config.json").read_text())
    facts["pretrained_cfg"].update(config)
    (folder / "config.json").write_text(json.dumps(facts))
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    ("stated", "mean"), [([0.5, 0.5, 0.5], 0.5), ([0.1, 0.2, 0.3], (0.1, 0.2, 0.3))]
)
def test_f5_the_weights_own_statistics_reach_the_card(tmp_path, stated, mean):
    path = hub_folder(tmp_path, mean=stated, std=[0.25, 0.25, 0.25])
    for kind in ("pretrained", "checkpoint"):
        recipe = ModelRecipe(name="test_resnet", in_channels=3, **{kind: str(path)})
        assert (candidate(recipe).spec.mean, candidate(recipe).spec.std) == (mean, 0.25)


@pytest.mark.parametrize(
    ("name", "statistics"),
    [
        ("vit_tiny_patch16_224", ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
        ("resnet50", IMAGENET),
        ("xception", ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
        ("densenet101", IMAGENET),
        ("nasnet_a_mobile", (0.5, 0.5)),
        ("ofa_595", IMAGENET),
        ("densenet32", None),
    ],
)
def test_f5_published_weights_by_name(name, statistics):
    found = normalization_of(ModelRecipe(name=name, pretrained=True))
    assert (found and (found.mean, found.std)) == statistics
    assert normalization_of(ModelRecipe(name=name)) is None


@pytest.mark.parametrize(
    ("facts", "mean"),
    [
        ({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}, 0.5),
        ({"mean": [0.1, 0.2, 0.3], "std": [0.2, 0.2, 0.2]}, (0.1, 0.2, 0.3)),
        ({"mean": "none"}, None),
        ({"mean": [128, 128, 128], "std": [1, 1, 1]}, None),
        ([1], None),
    ],
)
def test_f5_other_configurations_beside_a_file(tmp_path, facts, mean):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts))
    (tmp_path / "config.json").write_text("no json")
    found = normalization_of(ModelRecipe(factory="a:b", checkpoint=str(tmp_path)))
    assert (found.mean if found else None) == mean


def test_f5_a_grey_network_takes_the_average_of_three(tmp_path):
    path = hub_folder(tmp_path, mean=[0.1, 0.2, 0.3], std=[0.2, 0.2, 0.2])
    recipe = ModelRecipe(name="test_resnet", pretrained=str(path), in_channels=1)
    assert candidate(recipe).spec.mean == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_f5_filters_are_summed_and_repeated_as_timm_does(tmp_path, name):
    size = {"img_size": 32} if "vit" in name else {}
    source = timm.create_model(name, num_classes=2, **size)
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    grey = timm.create_model(name, num_classes=2, in_chans=1, **size)
    load_pretrained(grey, tmp_path / "a.safetensors")
    first = next(n for n, t in source.named_parameters() if t.ndim == 4)
    expected = adapt_input_conv(1, source.state_dict()[first])
    torch.testing.assert_close(grey.state_dict()[first], expected)


class Bright(nn.Module):
    """Says whether the mean is above 0: right for pixels of which the middle was taken off."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0], [1.0]]))
            self.head.bias.zero_()

    def forward(self, x):
        return self.head(x.mean((1, 2, 3))[:, None])


def bright_lines(tmp_path, trained=True, **fields):
    torch.save(Bright().state_dict(), tmp_path / "a.pt")
    recipe = ModelRecipe(factory="bright_net:make", checkpoint=str(tmp_path / "a.pt"), **fields)
    data = Data(noise=130)  # on average a quarter of white, and six tenths of it
    return normalization_lines(candidate(recipe, data), recipe, data, trained=trained)


@pytest.fixture(autouse=True)
def bright_net(tmp_path, monkeypatch):
    monkeypatch.setitem(
        __import__("sys").modules, "bright_net",
        type("M", (), {"make": staticmethod(lambda num_classes, in_chans: Bright())}),
    )  # fmt: skip


def test_f5_a_mean_by_hand_that_differs_shows_both_accuracies(tmp_path):
    own = {"image_mean": [0.4] * 3, "image_std": [0.2] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(own))
    first, second = bright_lines(tmp_path, mean=0.8, std=0.2)
    assert "the study file: mean 0.8, std 0.2; that of preprocessor_config.json" in first
    assert "accuracy 50.0% with mean 0.8" in second
    assert "100.0% with mean 0.4, std 0.2" in second
    assert bright_lines(tmp_path, mean=0.8, std=0.2, trained=False) == [first]
    assert bright_lines(tmp_path, mean=0.4, std=0.2) == [
        "normalization of the study file: mean 0.4, std 0.2"
    ]


def test_f5_weights_that_do_not_say_are_tried_with_the_usual_ones(tmp_path):
    (line,) = bright_lines(tmp_path)
    assert line.startswith("normalization of the training images: mean 0.4")
    _, second = bright_lines(tmp_path, mean=0.0, std=1.0)
    assert "accuracy 50.0% with mean 0, std 1" in second
    assert "ImageNet" in second or "(0.5)" in second


def test_f5_networks_without_weights_say_nothing():
    recipe = ModelRecipe(factory="tiny_nets:make")
    assert normalization_lines(candidate(recipe), recipe, Data(), trained=False) == []


def test_f1_a_network_that_takes_views_is_tried_as_it_lies_in_memory(tmp_path, monkeypatch):
    class Views(Bright):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 2, 3)
            self.head = nn.Linear(1, 2)

        def forward(self, x):
            return self.head(self.first(x).view(len(x), -1).mean(1)[:, None])

    monkeypatch.setitem(
        __import__("sys").modules, "bright_net",
        type("M", (), {"make": staticmethod(lambda num_classes, in_chans: Views())}),
    )  # fmt: skip
    torch.manual_seed(0)
    torch.save(Views().state_dict(), tmp_path / "views.pt")
    recipe = ModelRecipe(factory="bright_net:make", checkpoint=str(tmp_path / "views.pt"))
    data = Data(noise=130)
    made = candidate(recipe, data)
    assert made.module.contiguous
    assert normalization_lines(made, recipe, data, trained=True)
