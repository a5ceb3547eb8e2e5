"""Counts against the published table and against torch's own flop counter."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from clinipress.models.cost import evaluating, layer_macs, macs, parameters
from clinipress.records.candidate import InputSpec

COLOUR_224 = InputSpec(channels=3, height=224, width=224)


class Raw(nn.Module):
    """Raw pixels for a network that wants floats."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images.float())


def flops_by_torch(module, images):
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module.eval()(images)
    return counter.get_total_flops()


# parameters and multiply-adds for 1000 classes at 224 pixels, as published
@pytest.mark.parametrize(
    ("name", "values", "multiply_adds", "rounding"),
    [
        ("resnet50", 25_557_032, 4.089e9, 5e5),
        ("mobilenetv2_100", 3_504_872, 300.8e6, 5e4),
        ("densenet121", 7_978_856, 2.834e9, 5e5),
        ("mobilenetv3_small_100", 2_542_856, 56.5e6, 5e4),
    ],
)
def test_published_counts(name, values, multiply_adds, rounding):
    module = Raw(timm.create_model(name))
    assert parameters(module) == values
    assert abs(macs(module, COLOUR_224) - multiply_adds) <= rounding


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "convnext_atto", "regnety_002"])
def test_equals_half_of_torchs_flops(name):
    module = Raw(timm.create_model(name, num_classes=3))
    spec = InputSpec(channels=3, height=64, width=64)
    flops = flops_by_torch(module, torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert 2 * macs(module, spec) == flops


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 8, (3, 5), stride=2, groups=2),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, bias=False),
        nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2),
        nn.Sequential(nn.Flatten(), nn.Linear(6 * 16 * 16, 5)),
        nn.Sequential(nn.Flatten(2), nn.Linear(256, 5)),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_layers_equal_half_of_torchs_flops_per_image(layer, batch):
    images = torch.zeros(batch, 6, 16, 16)
    assert 2 * batch * sum(layer_macs(layer, images).values()) == flops_by_torch(layer, images)


def test_layer_called_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, values):
            return self.layer(self.layer(values))

    assert layer_macs(Twice(), torch.zeros(1, 4)) == {"layer": 32}


def test_matrix_products_of_attention_are_not_counted():
    vit = Raw(timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3))
    blocks = vit.network.blocks
    for block in blocks:
        block.attn.fused_attn = False
    spec = InputSpec(channels=3, height=32, width=32)
    flops = flops_by_torch(vit, torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    tokens, width = 5, 192
    attention = len(blocks) * 2 * tokens * tokens * width
    assert macs(vit, spec) == flops // 2 - attention


def test_module_is_left_as_it_was():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    layer_macs(module, torch.ones(1, 1, 8, 8))
    assert [part.training for part in module] == [True, False, True]
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())
    assert not module[0]._forward_hooks


def test_modes_come_back_after_an_error():
    module = nn.Sequential(nn.BatchNorm2d(2).eval(), nn.Dropout())

    def fail():
        with evaluating(module):
            assert not module[1].training
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert (module[0].training, module[1].training) == (False, True)


def test_buffers_are_no_parameters():
    assert parameters(nn.BatchNorm2d(7)) == 14
