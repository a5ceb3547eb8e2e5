"""Where feature maps are: stage ends by hooks, on networks of the zoo and on a user's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clinipress.errors import ModelError
from clinipress.models.classifier import Classifier, new_classifier
from clinipress.models.stages import Stage, named_stages, read_maps, stages
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import InputSpec
from tiny_nets import make


def tiny(width=8, side=16):
    torch.manual_seed(0)
    spec = InputSpec(channels=1, height=side, width=side)
    return Classifier(make(3, 1, width), spec, 1, 0.2, 0.2)


def zoo(name):
    return new_classifier(
        ModelRecipe(name=name), InputSpec(channels=1, height=64, width=64), 3, 0.2, 0.2
    )[1]


def test_stage_ends_of_a_users_network():
    assert stages(tiny()) == (Stage("block", 8, 8, 8), Stage("down", 16, 4, 4))


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("resnet18", ["act1", "layer1", "layer2", "layer3", "layer4"]),
        ("mobilenetv3_small_100", ["bn1", "blocks.0", "blocks.1", "blocks.3", "blocks"]),
    ],
)
def test_stage_ends_of_the_zoo(name, ends):
    """Not the first convolution of the next stage, though it still works at the old size."""
    assert [stage.name for stage in stages(zoo(name))] == ends


def test_maps_are_those_that_the_head_sees():
    network = zoo("resnet18").eval()
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    (last,) = read_maps(network, ["layer4"], images)
    with torch.no_grad():
        torch.testing.assert_close(network.backbone.fc(last.mean((2, 3))), network(images))
    assert last.shape == (2, 512, 2, 2)


def test_reading_leaves_no_hook_no_mode_and_no_statistics_behind():
    network = tiny().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    read_maps(network, ["down"], torch.zeros(2, 1, 16, 16, dtype=torch.uint8))
    stages(network)
    assert network.training
    assert all(not part._forward_hooks for part in network.modules())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = make(3, 1, 8)

    def forward(self, images):
        return self.inner(images)


def test_wrappers_are_looked_through():
    spec = InputSpec(channels=1, height=16, width=16)
    found = stages(Classifier(Wrapped(), spec, 1, 0.2, 0.2))
    assert [stage.name.split(".")[:2] for stage in found] == [["inner", "block"], ["inner", "down"]]


class Swapped(nn.Module):
    """Channels last, and says so, as timm's windowed transformers do."""

    output_fmt = "NHWC"

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, images):
        return self.head(self.body(self.stem(images).permute(0, 2, 3, 1)).mean((1, 2)))


def test_channels_last_is_turned():
    network = Classifier(Swapped(), InputSpec(channels=1, height=8, width=8), 1, 0.2, 0.2)
    (maps,) = read_maps(network, ["body"], torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert maps.shape == (2, 5, 6, 6)


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.head = nn.Flatten(), nn.Linear(64, 2)

    def forward(self, images):
        return self.head(self.pool(images))


def test_a_network_without_maps_is_refused():
    network = Classifier(Flat(), InputSpec(channels=1, height=8, width=8), 1, 0.2, 0.2)
    with pytest.raises(ModelError, match="feature maps"):
        stages(network)
    with pytest.raises(ModelError, match="from the student's 'head'"):
        named_stages(network, ["head"], "student")
    with pytest.raises(ModelError, match="'layers'"):
        named_stages(network, ["body"], "student")
