"""Rounding against torch's own kernels and ONNX Runtime's own formulas."""

import numpy as np
import pytest
import torch
from onnxruntime.quantization.quant_utils import compute_scale_zp

from clinipress.steps.qat import rounding as module
from clinipress.steps.qat.rounding import (
    Grid,
    fake_quantize,
    fake_quantize_weight,
    grids,
    round_to_grid,
)

GRIDS = [Grid(0.02, 0), Grid(0.013, 128), Grid(0.5, 255), Grid(1e-3, 17)]


def tensor(*shape, seed=0, layout=torch.contiguous_format):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).mul_(2).contiguous(memory_format=layout)


def referee(values, grid):
    return torch.fake_quantize_per_tensor_affine(values, grid.scale, grid.zero, 0, 255)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_are_those_of_torchs_kernel(grid, layout):
    values = tensor(3, 5, 7, 9, layout=layout)
    found = round_to_grid(values, grid)
    torch.testing.assert_close(found, referee(values, grid), rtol=1e-6, atol=1e-6)
    assert found.stride() == values.stride()
    assert len(found.unique()) <= 256
    other = Grid(grid.scale * 1.1, grid.zero)
    assert not torch.allclose(found, referee(values, other))  # the comparison can fail


def test_pieces_join_without_a_seam(monkeypatch):
    values = tensor(2, 3, 10, 11)
    whole = round_to_grid(values, GRIDS[1])
    monkeypatch.setattr(module, "PIECE", 37)
    assert torch.equal(round_to_grid(values, GRIDS[1]), whole)
    gaps = values[:, :, ::2, 1:]  # not dense: walked by its own strides
    assert torch.equal(round_to_grid(gaps, GRIDS[1]), whole[:, :, ::2, 1:])


@pytest.mark.parametrize("grid", GRIDS)
def test_gradient_is_that_of_torchs_kernel(grid):
    ours, theirs = (tensor(4, 3, 8, 8).requires_grad_() for _ in range(2))
    weight = tensor(4, 3, 8, 8, seed=1)
    (fake_quantize(ours, grid) * weight).sum().backward()
    (referee(theirs, grid) * weight).sum().backward()
    # a value on the very edge of the range may round either way
    assert (ours.grad != theirs.grad).float().mean() < 0.005
    assert ours.grad.count_nonzero() > 0


def test_a_merged_relu_passes_no_gradient_below_zero():
    values = torch.tensor([-1.0, -0.001, 0.001, 1.0, 7.0], requires_grad=True)
    fake_quantize(values, Grid(6 / 255, 0), 0.0).sum().backward()
    assert values.grad.tolist() == [0, 0, 1, 1, 0]
    values.grad = None
    fake_quantize(values, Grid(6 / 255, 0)).sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 6.0), (-1.5, 2.5), (-3.0, -1.0), (0.5, 0.7), (0.0, 0.0), (-1e-3, 9.0)]
)
def test_grids_are_the_runtimes(low, high):
    bottom, top = np.array(0, np.uint8), np.array(255, np.uint8)
    zero, scale = compute_scale_zp(np.float32(low), np.float32(high), bottom, top)
    (found,) = grids(torch.tensor([[low, high]]))
    assert np.float32(found.scale) == np.float32(scale)
    assert found.zero == zero
    if found.scale != 1:
        assert found.low - found.scale / 2 <= min(low, 0)
        assert found.high + found.scale / 2 >= max(high, 0)


@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (8, 1, 5, 5), (4, 10)])
def test_weights_are_rounded_as_the_runtime_rounds_them(shape):
    weight = tensor(*shape)
    weight[1] = 0  # a dead channel
    found = fake_quantize_weight(weight)
    for channel, rounded in zip(weight.numpy(), found.numpy(), strict=True):
        reach = np.abs(channel).max()
        bottom, top = np.array(-127, np.int8), np.array(127, np.int8)
        _, scale = compute_scale_zp(np.float32(-reach), np.float32(reach), bottom, top, True)
        np.testing.assert_allclose(rounded, np.round(channel / scale) * scale, atol=1e-6)
        assert len(np.unique(rounded)) <= 255


def test_weight_gradient_passes_straight_through():
    weight = tensor(4, 3, 3, 3).requires_grad_()
    factor = tensor(4, 3, 3, 3, seed=1)
    (fake_quantize_weight(weight) * factor).sum().backward()
    assert torch.equal(weight.grad, factor)


def test_folding_a_norm_before_or_after_rounding_is_the_same():
    weight, factor = tensor(6, 4, 3, 3), tensor(6, 1, 1, 1, seed=2)
    before, after = fake_quantize_weight(weight * factor), fake_quantize_weight(weight) * factor
    step = (weight * factor).abs().amax((1, 2, 3), keepdim=True) / 127
    # equal but where a weight lies halfway between two levels
    assert ((before - after).abs() < 1e-3 * step).float().mean() > 0.999
