"""Rounding to 8 bits inside a float network: the integer file's arithmetic, with gradients.

Activations are rounded to 256 levels, affine, one grid per tensor; weights to 255 levels,
symmetric, one grid per output channel: ``scale * (clamp(round(x / scale) + zero, 0, levels) -
zero)`` (Jacob et al., CVPR 2018, arXiv:1712.05877, equations 1 and 12). The grids follow ONNX
Runtime's formulas, so that a file quantized with the same ranges computes on the same grids. The
gradient passes straight through inside the range and is zero outside (Bengio et al., 2013,
arXiv:1308.3432).

Rounding is bound by memory, not by arithmetic. torch's own fake_quantize kernel is scalar on a CPU:
some hundred times slower than a ReLU of the same tensor. Here four vectorised operations run over
pieces that stay in the processor's cache, so a tensor is read and written once; the backward pass
is that of a clamp.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

__all__ = [
    "ACTIVATION_LEVELS",
    "WEIGHT_LEVELS",
    "Grid",
    "fake_quantize",
    "fake_quantize_constant",
    "fake_quantize_weight",
    "grids",
    "round_to_grid",
]

ACTIVATION_LEVELS = 255  # uint8: 0..255
WEIGHT_LEVELS = 127  # int8, symmetric: -127..127
PIECE = 2**18  # float32 values, 1 MB: input and output of a piece stay in the second-level cache


class Grid(NamedTuple):
    """The values an activation can take: ``scale * (q - zero)`` for q in 0..255."""

    scale: float
    zero: int

    @property
    def low(self) -> float:
        """The smallest value."""
        return -self.zero * self.scale

    @property
    def high(self) -> float:
        """The largest value."""
        return (ACTIVATION_LEVELS - self.zero) * self.scale


def grids(ranges: Tensor) -> list[Grid]:
    """Scale and zero point of each range, as ONNX Runtime's `compute_scale_zp` finds them.

    Ranges, float32 ``[n, 2]``, are widened to hold 0, which must be exact. One without extent gets
    scale 1.
    """
    ends = ranges.detach().double().cpu()
    low, high = ends[:, 0].clamp(max=0), ends[:, 1].clamp(min=0)
    scale = (high - low) / ACTIVATION_LEVELS
    flat = scale < torch.finfo(torch.float32).tiny
    scale = torch.where(flat, 1.0, scale)
    zero = torch.where(flat, 0.0, torch.round(-low / scale)).long()
    return [Grid(s, z) for s, z in zip(scale.float().tolist(), zero.tolist(), strict=True)]


def round_to_grid(values: Tensor, grid: Grid) -> Tensor:
    """`values` on the grid, in their own memory layout; no gradient."""
    low, high = -grid.zero, ACTIVATION_LEVELS - grid.zero
    inverse = 1 / grid.scale
    if values.is_cuda or not _dense(values):
        return values.mul(inverse).round_().clamp_(low, high).mul_(grid.scale)
    rounded = torch.empty_like(values)
    lines = [t.as_strided((values.numel(),), (1,)) for t in (values, rounded)]
    given, taken = (torch.split_with_sizes(line, _pieces(len(line))) for line in lines)
    for source, target in zip(given, taken, strict=True):
        torch.mul(source, inverse, out=target)
        target.round_().clamp_(low, high).mul_(grid.scale)
    return rounded


def _pieces(count: int) -> list[int]:
    return [min(PIECE, count - start) for start in range(0, count, PIECE)]


def _dense(values: Tensor) -> bool:
    """True when the values fill their memory without gaps, so that they can be walked as a line."""
    return values.is_contiguous() or (
        values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last)
    )


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: Grid, floor: float | None) -> Tensor:
        half = grid.scale / 2
        # below a ReLU's 0 nothing passes, as in the float network; elsewhere what rounds into the
        # range passes
        ctx.low = grid.low - half if floor is None else max(floor, grid.low - half)
        ctx.high = grid.high + half
        ctx.save_for_backward(values)
        return round_to_grid(values.detach(), grid)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        passed = torch.ops.aten.hardtanh_backward(gradients[0], values, ctx.low, ctx.high)
        return passed, None, None


def fake_quantize(values: Tensor, grid: Grid, floor: float | None = None) -> Tensor:
    """Round float32 of any shape; the gradient is that of a clamp to the grid's range.

    `floor` is the lower bound of an activation function that the rounding stands for (a ReLU's 0).
    """
    rounded: Tensor = _FakeQuantize.apply(values, grid, floor)
    return rounded


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, instead: Tensor) -> Tensor:
        return instead

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def fake_quantize_weight(weight: Tensor) -> Tensor:
    """Round weights ``[out, ...]`` to -127..127 times a scale per output; the gradient passes.

    The scale is the channel's largest magnitude over 127, so nothing is cut off. Since it grows in
    proportion with the channel, folding a batch norm before or after rounding gives the same
    numbers: no correction for the folding is needed, as it is with one scale per tensor
    (Krishnamoorthi, 2018, arXiv:1806.08342, section 3.2.2).
    """
    with torch.no_grad():
        axes = tuple(range(1, weight.ndim))
        scale = weight.abs().amax(axes, keepdim=True) / WEIGHT_LEVELS
        scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)
        rounded = (weight / scale).round_().mul_(scale)
    return cast(Tensor, _StraightThrough.apply(weight, rounded))


def fake_quantize_constant(values: Tensor) -> Tensor:
    """Round values that are added to activations, of any shape, on one grid; the gradient passes.

    The grid has 256 levels from the least to the largest value, as ONNX Runtime gives them.
    """
    (grid,) = grids(torch.stack(torch.aminmax(values.detach()))[None])
    return cast(Tensor, _StraightThrough.apply(values, round_to_grid(values.detach(), grid)))
