"""NASNet-A-Mobile: counted module by module, and weights in the published layout.

The names, shapes and figures below are those of the PyTorch port in pretrainedmodels 0.7.4
(`nasnetamobile`), read off a built model. With weights of that model, renamed as here, ours gives
its answers to 1e-7 at 224 pixels (batch norms with random statistics); the port itself is not
needed to run these tests.
"""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clinipress.errors import ModelError
from clinipress.models.cost import layer_macs, parameters
from clinipress.models.nets.nasnet import (
    NasNet,
    Pool,
    Separable,
    checkpoint_filter_fn,
    nasnet_a_mobile,
)
from clinipress.models.pretrained import load_checkpoint, load_pretrained

STEM = 928
CELLS = [  # parameters, output shape of a 224 pixel image
    (8_534, (44, 56, 56)),
    (13_948, (88, 28, 28)),
    (33_000, (264, 28, 28)),
    (42_680, (264, 28, 28)),
    (50_424, (264, 28, 28)),
    (50_424, (264, 28, 28)),
    (153_648, (352, 14, 14)),
    (147_312, (528, 14, 14)),
    (170_544, (528, 14, 14)),
    (186_032, (528, 14, 14)),
    (186_032, (528, 14, 14)),
    (555_104, (704, 7, 7)),
    (557_920, (1056, 7, 7)),
    (650_848, (1056, 7, 7)),
    (712_800, (1056, 7, 7)),
    (712_800, (1056, 7, 7)),
]
LAYOUT_TENSORS, LAYOUT_NORMS = 1318, 192  # of the port's state dict; batch counters in it
REDUCING = {1: 28, 6: 14, 11: 7}  # cells that halve an even side, and the side they give


@pytest.fixture(scope="module")
def mobile():
    with torch.device("meta"):  # counted without memory or arithmetic
        return nasnet_a_mobile().eval()


def tiny(seed=0, **arguments):
    """The same wiring with one cell a stage."""
    torch.manual_seed(seed)
    return nasnet_a_mobile(3, cells=1, width=8, stem=8, **arguments).eval()


def test_parameters_of_every_module(mobile):
    assert parameters(mobile) == 5_289_978
    assert parameters(mobile.stem) + parameters(mobile.norm) == STEM
    assert [parameters(cell) for cell in mobile.cells] == [count for count, _ in CELLS]
    assert parameters(mobile.head) == 1_057_000


@pytest.mark.parametrize(("classes", "count"), [(2, 4_235_092), (3, 4_236_149), (4, 4_237_206)])
def test_parameters_with_other_heads(classes, count):
    assert parameters(nasnet_a_mobile(classes)) == count


def test_batch_norm_statistics_are_what_keras_counts_too(mobile):
    assert sum(b.numel() for n, b in mobile.named_buffers() if "running" in n) == 36_738


def test_shapes_and_multiply_adds_at_224_pixels(mobile):
    shapes = []
    hooks = [
        c.register_forward_hook(lambda m, i, o: shapes.append(o[0].shape)) for c in mobile.cells
    ]
    counts = layer_macs(mobile, torch.zeros(2, 3, 224, 224, device="meta"))
    for hook in hooks:
        hook.remove()
    assert [tuple(shape) for shape in shapes] == [shape for _, shape in CELLS]
    assert sum(counts.values()) == 563_638_816  # the paper's table 3 says 564 M
    # The port pads one line at the top and left, computes the first half of every separable
    # convolution of the reducing cells there too, and throws it away.
    thrown_away = 0
    for cell, side in REDUCING.items():
        for name, count in counts.items():
            if name.startswith(f"cells.{cell}.operations") and name.endswith("1"):
                thrown_away += count // side**2 * (2 * side + 1)
    assert sum(counts.values()) + thrown_away == 568_234_858


@pytest.mark.parametrize("size", [(224, 224), (96, 96), (65, 90), (33, 47)])
def test_outputs_are_finite_at_any_size(size):
    with torch.inference_mode():
        found = tiny()(torch.randn(2, 3, *size))
    assert found.shape == (2, 3)
    assert found.isfinite().all()
    assert found.std() > 0


@pytest.mark.parametrize("side", [28, 27])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_strided_padding_is_tensorflows_same(side, kernel):
    """As TensorFlow's documentation has it: the larger part of the padding goes to the end."""
    given = -(-side // 2)
    needed = max((given - 1) * 2 + kernel - side, 0)
    start, end = needed // 2, needed - needed // 2
    layer = Separable(1, 1, kernel, 2)
    seen = []
    layer.depthwise1.register_forward_hook(lambda m, i, o: seen.append(o))
    maps = torch.randn(2, 1, side, side)
    layer(maps)
    padded = nn.functional.pad(maps.relu(), (start, end, start, end))
    expected = nn.functional.conv2d(padded, layer.depthwise1.weight, stride=2)
    torch.testing.assert_close(seen[0], expected)
    if kernel == 3:
        outside = nn.functional.pad(maps, (start, end, start, end), value=-torch.inf)
        assert torch.equal(Pool("max", 2)(maps), nn.functional.max_pool2d(outside, 3, 2))


def published(network: NasNet, cells=4):
    """A state dict of a network of ours in the port's layout, its names written out anew."""
    fits = ["conv_prev_1x1.conv", "conv_prev_1x1.bn"]
    halves = ["path_1.conv", "path_2.conv", "final_path_bn"]
    normal = ["0_left", "0_right", "1_left", "1_right", "4_left"]
    reduces = ["0_left", "0_right", "1_right", "2_right", "4_left"]
    stages = [range(start, start + cells) for start in (0, cells + 2, 2 * (cells + 2))]
    order = [("cell_stem_0", [], reduces), ("cell_stem_1", halves, reduces)]
    for number, stage in enumerate(stages):
        if number:
            order.append((f"reduction_cell_{number - 1}", fits, reduces))
        order += [(f"cell_{n}", fits if n > stage[0] else halves, normal) for n in stage]
    layers = ["conv0.conv", "conv0.bn"]
    for cell, before, branches in order:
        layers += [f"{cell}.{part}" for part in ("conv_1x1.conv", "conv_1x1.bn", *before)]
        for branch in branches:
            layers += [
                f"{cell}.comb_iter_{branch}.{part}"
                for n in (1, 2)
                for part in (
                    f"separable_{n}.depthwise_conv2d",
                    f"separable_{n}.pointwise_conv2d",
                    f"bn_sep_{n}",
                )
            ]
    layers.append("last_linear")
    own = [
        n
        for n, m in network.named_modules()
        if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
    ]
    assert len(own) == len(layers)
    state = network.state_dict()
    return {
        f"{theirs}.{name.rpartition('.')[2]}": tensor
        for theirs, mine in zip(layers, own, strict=True)
        for name, tensor in state.items()
        if name.rpartition(".")[0] == mine
    }


# some of the port's own tensors, from a built model: name -> shape
PUBLISHED = {
    "conv0.conv.weight": (32, 3, 3, 3),
    "cell_stem_0.conv_1x1.conv.weight": (11, 32, 1, 1),
    "cell_stem_0.comb_iter_1_right.separable_1.depthwise_conv2d.weight": (32, 1, 7, 7),
    "cell_stem_0.comb_iter_1_right.separable_1.pointwise_conv2d.weight": (11, 32, 1, 1),
    "cell_stem_0.comb_iter_4_left.separable_2.depthwise_conv2d.weight": (11, 1, 3, 3),
    "cell_stem_1.path_1.conv.weight": (11, 32, 1, 1),
    "cell_stem_1.final_path_bn.running_var": (22,),
    "cell_0.path_2.conv.weight": (22, 44, 1, 1),
    "cell_0.comb_iter_0_left.separable_1.depthwise_conv2d.weight": (44, 1, 5, 5),
    "cell_0.comb_iter_0_right.separable_1.depthwise_conv2d.weight": (44, 1, 3, 3),
    "cell_1.conv_prev_1x1.conv.weight": (44, 88, 1, 1),
    "reduction_cell_0.conv_prev_1x1.bn.bias": (88,),
    "reduction_cell_0.comb_iter_2_right.separable_1.depthwise_conv2d.weight": (88, 1, 5, 5),
    "cell_6.path_1.conv.weight": (44, 264, 1, 1),
    "cell_15.comb_iter_4_left.bn_sep_2.weight": (176,),
    "last_linear.weight": (1000, 1056),
}


def test_layout_is_the_ports(mobile):
    state = published(mobile)
    assert {name: tuple(state[name].shape) for name in PUBLISHED} == PUBLISHED
    counted = [name for name in state if "num_batches" not in name]
    assert (len(state), len(counted)) == (LAYOUT_TENSORS, LAYOUT_TENSORS - LAYOUT_NORMS)


@pytest.mark.parametrize("kind", ["safetensors", "pt", "legacy pt"])
def test_published_weights_are_loaded(tmp_path, kind):
    source, target = tiny(0), tiny(1)
    path = tmp_path / "nasnetamobile.pth"
    state = published(source, cells=1)
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "pt")
    load_checkpoint(target, path)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(target(images), source(images))


def test_published_weights_with_another_head(tmp_path):
    source = tiny(0)
    save_file(published(source, cells=1), tmp_path / "a.safetensors")
    target = nasnet_a_mobile(5, cells=1, width=8, stem=8)
    missing = load_pretrained(target, tmp_path / "a.safetensors")
    assert missing == ("head.weight", "head.bias")
    assert torch.equal(target.cells[0].fit_now.conv.weight, source.cells[0].fit_now.conv.weight)


def test_colour_weights_for_a_grey_network(tmp_path):
    source = tiny(0)
    save_file(published(source, cells=1), tmp_path / "a.safetensors")
    target = nasnet_a_mobile(3, 1, cells=1, width=8, stem=8).eval()
    load_pretrained(target, tmp_path / "a.safetensors")
    grey = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        expected = source(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(target(grey), expected, atol=1e-5, rtol=0)


def test_our_own_names_are_left_as_they_are():
    network = tiny()
    assert list(checkpoint_filter_fn(network.state_dict(), network)) == list(network.state_dict())


def test_a_published_file_with_a_cell_missing_is_refused(tmp_path):
    state = {k: v for k, v in published(tiny(), cells=1).items() if not k.startswith("cell_3.")}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="without"):
        load_pretrained(tiny(), tmp_path / "a.safetensors")


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_published_file_is_not_run(tmp_path):
    torch.save({**published(tiny(), cells=1), "x": Malice(tmp_path / "victim")}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="not run"):
        load_pretrained(tiny(), tmp_path / "a.pth")
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("arguments", [{"width": 6}, {"width": 0}, {"cells": 0}])
def test_widths_that_cannot_be_divided_are_refused(arguments):
    with pytest.raises(ValueError, match="multiple of 4"):
        nasnet_a_mobile(3, **arguments)
