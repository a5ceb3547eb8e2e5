"""NASNet-A (Zoph et al., CVPR 2018, arXiv:1707.07012), written from the paper; 4 @ 1056 is Mobile.

A cell takes the outputs of the two cells before it, brings both to its own width and size, and adds
five pairs of operations; `NORMAL` and `REDUCTION` are the paper's figure 4 as data. Padding is that
of the published weights (TensorFlow's SAME: of an odd sum the larger part at the end), so files of
the PyTorch port of pretrainedmodels give its answers; `checkpoint_filter_fn` knows their names.

Left out of the paper's training: the auxiliary head and ScheduledDropPath.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["NasNet", "checkpoint_filter_fn", "nasnet_a_mobile"]

NOW, BEFORE = -1, -2  # what a cell is given: by the cell before it, and by the one before that
Operation = tuple[str, int]  # what is done, and to what: NOW, BEFORE or the number of a pair
Pair = tuple[Operation, Operation]

NORMAL: tuple[Pair, ...] = (
    (("sep5", NOW), ("sep3", BEFORE)),
    (("sep5", BEFORE), ("sep3", BEFORE)),
    (("avg3", NOW), ("same", BEFORE)),
    (("avg3", BEFORE), ("avg3", BEFORE)),
    (("sep3", NOW), ("same", NOW)),
)
NORMAL_GIVES: tuple[int, ...] = (BEFORE, 0, 1, 2, 3, 4)
REDUCTION: tuple[Pair, ...] = (
    (("sep5", NOW), ("sep7", BEFORE)),
    (("max3", NOW), ("sep7", BEFORE)),
    (("avg3", NOW), ("sep5", BEFORE)),
    (("avg3", 0), ("same", 1)),
    (("sep3", 0), ("max3", NOW)),
)
REDUCTION_GIVES: tuple[int, ...] = (1, 2, 3, 4)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Separable(nn.Module):
    """Twice a depthwise and a pointwise convolution behind a ReLU; the first may halve the size."""

    def __init__(self, taken: int, given: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        # at stride 2 the rest of the padding is put around the map first
        edge = kernel // 2 - (stride - 1)
        self.depthwise1 = nn.Conv2d(taken, taken, kernel, stride, edge, groups=taken, bias=False)
        self.pointwise1 = nn.Conv2d(taken, given, 1, bias=False)
        self.norm1 = _norm(given)
        self.depthwise2 = nn.Conv2d(given, given, kernel, 1, kernel // 2, groups=given, bias=False)
        self.pointwise2 = nn.Conv2d(given, given, 1, bias=False)
        self.norm2 = _norm(given)

    def forward(self, maps: Tensor) -> Tensor:
        """float32 ``[n, taken, h, w]`` -> ``[n, given, ceil(h / stride), ceil(w / stride)]``."""
        maps = functional.relu(maps)
        if self.stride == 2:
            height, width = maps.shape[-2:]
            maps = functional.pad(maps, (width % 2, 1, height % 2, 1))
        maps = self.norm1(self.pointwise1(self.depthwise1(maps)))
        given: Tensor = self.norm2(self.pointwise2(self.depthwise2(functional.relu(maps))))
        return given


class Pool(nn.Module):
    """The largest or the mean of 3 x 3 pixels, those outside the map left out."""

    def __init__(self, kind: str, stride: int) -> None:
        super().__init__()
        self.kind, self.stride = kind, stride

    def forward(self, maps: Tensor) -> Tensor:
        """float32 ``[n, c, h, w]`` -> ``[n, c, ceil(h / stride), ceil(w / stride)]``."""
        # windows of an even side begin at its first pixel, of an odd one before it
        edge = [1 if self.stride == 1 else side % 2 for side in maps.shape[-2:]]
        if self.kind == "max":
            return functional.max_pool2d(maps, 3, self.stride, edge, ceil_mode=True)
        return functional.avg_pool2d(
            maps, 3, self.stride, edge, ceil_mode=True, count_include_pad=False
        )


class Fit(nn.Module):
    """A pointwise convolution to the cell's width."""

    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(taken, given, 1, bias=False)
        self.norm = _norm(given)

    def forward(self, maps: Tensor) -> Tensor:
        """float32 ``[n, taken, h, w]`` -> ``[n, given, h, w]``."""
        given: Tensor = self.norm(self.conv(functional.relu(maps)))
        return given


class Halve(nn.Module):
    """To the cell's width and half the size, the paper's factorized reduction.

    Half of the channels come from every second pixel, half from their lower right neighbours.
    """

    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(taken, given // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(taken, given - given // 2, 1, 2, bias=False)
        self.norm = _norm(given)

    def forward(self, maps: Tensor) -> Tensor:
        """float32 ``[n, taken, h, w]`` -> ``[n, given, ceil(h / 2), ceil(w / 2)]``."""
        maps = functional.relu(maps)
        height, width = maps.shape[-2:]
        # the last pixel of an odd side has no neighbour: zeros stand for it
        neighbours = functional.pad(maps, (0, width % 2, 0, height % 2))[..., 1:, 1:]
        given: Tensor = self.norm(torch.cat([self.even(maps), self.odd(neighbours)], 1))
        return given


def _operation(name: str, taken: int, given: int, stride: int) -> nn.Module:
    kind, size = name[:3], name[3:]
    if kind == "sep":
        return Separable(taken, given, int(size), stride)
    return nn.Identity() if name == "same" else Pool(kind, stride)


class NasNetCell(nn.Module):
    """Five pairs of operations on what the last two cells gave.

    Args:
        now: Channels of the cell before.
        before: Channels of the one before that.
        width: Channels of each operation.
        reduces: Half the size is given, by `REDUCTION`.
        fits: How `before` is brought to this cell: "fit", "halve" or "as it is".
    """

    def __init__(self, now: int, before: int, width: int, reduces: bool, fits: str) -> None:
        super().__init__()
        self.reduces = reduces
        self.pairs = REDUCTION if reduces else NORMAL
        self.gives = REDUCTION_GIVES if reduces else NORMAL_GIVES
        self.channels = width * len(self.gives)
        self.fit_now = Fit(now, width)
        self.fit_before: nn.Module = nn.Identity()
        if fits != "as it is":
            self.fit_before = (Halve if fits == "halve" else Fit)(before, width)
            before = width
        self.operations = nn.ModuleList()
        for name, what in (operation for pair in self.pairs for operation in pair):
            stride = 2 if reduces and what < 0 else 1
            taken = before if what == BEFORE else width
            self.operations.append(_operation(name, taken, width, stride))

    def forward(self, now: Tensor, before: Tensor) -> Tensor:
        """Two float32 ``[n, c, h, w]`` -> ``[n, channels, h, w]``, or half of h and w."""
        known = {NOW: self.fit_now(now), BEFORE: self.fit_before(before)}
        for number, pair in enumerate(self.pairs):
            (_, left), (_, right) = pair
            first, second = self.operations[2 * number], self.operations[2 * number + 1]
            known[number] = first(known[left]) + second(known[right])
        return torch.cat([known[what] for what in self.gives], 1)


class NasNet(nn.Module):
    """NASNet-A: two reducing cells, then three stages of normal cells, the width doubled between.

    Args:
        num_classes: Outputs.
        in_chans: Channels of the images.
        cells: Normal cells in a stage (the paper's N).
        width: Channels of an operation in the first stage, a multiple of 4; the last map has 24
            times as many.
        stem: Channels of the first convolution.
        drop_rate: Dropout before the classifier.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        cells: int = 4,
        width: int = 44,
        stem: int = 32,
        drop_rate: float = 0.5,
    ) -> None:
        super().__init__()
        if cells < 1 or width < 4 or width % 4:
            raise ValueError(
                "NASNet-A takes at least one cell, and a width that is a multiple of 4"
            )
        self.stem = nn.Conv2d(in_chans, stem, 3, 2, bias=False)
        self.norm = _norm(stem)
        self.cells = nn.ModuleList()
        now = before = stem
        for number, (wide, reduces, fits) in enumerate(_plan(cells, width)):
            cell = NasNetCell(now, before, wide, reduces, fits)
            now, before = cell.channels, stem if number == 0 else now
            self.cells.append(cell)
        self.num_features = now
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(now, num_classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Linear:
        """The last layer."""
        return self.head

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float32 ``[n, in_chans, h, w]`` -> logits ``[n, num_classes]``."""
        now = before = self.norm(self.stem(images))
        for cell in self.cells:
            now, before = cell(now, before), now
        features = functional.adaptive_avg_pool2d(functional.relu(now), 1).flatten(1)
        logits: Tensor = self.head(self.drop(features))
        return logits


def _plan(cells: int, width: int) -> Iterator[tuple[int, bool, str]]:
    """Width, whether it reduces and how it fits the cell before the last, of every cell."""
    yield width // 4, True, "as it is"
    yield width // 2, True, "halve"
    for stage in range(3):
        wide = width * 2**stage
        if stage:
            yield wide, True, "fit"
        yield from ((wide, False, "fit" if n else "halve") for n in range(cells))


def nasnet_a_mobile(num_classes: int = 1000, in_chans: int = 3, **arguments: Any) -> NasNet:
    """NASNet-A-Mobile, 4 @ 1056: 5,289,978 parameters with 1,000 classes, made for 224 pixels."""
    return NasNet(num_classes, in_chans, **arguments)


# names in the port of pretrainedmodels -> ours
FITS = {
    "conv_1x1.conv": "fit_now.conv",
    "conv_1x1.bn": "fit_now.norm",
    "conv_prev_1x1.conv": "fit_before.conv",
    "conv_prev_1x1.bn": "fit_before.norm",
    "path_1.conv": "fit_before.even",
    "path_2.conv": "fit_before.odd",
    "final_path_bn": "fit_before.norm",
}
ENDS = {"conv0.conv": "stem", "conv0.bn": "norm", "last_linear": "head"}


def checkpoint_filter_fn(state: Mapping[str, Tensor], network: NasNet) -> dict[str, Tensor]:
    """Our names for the tensors of a file in the layout of pretrainedmodels' ``nasnetamobile``.

    Names that the layout does not have stay: a file with our own is left as it is.
    """
    known = _published_names(network)
    renamed = {}
    for name, tensor in state.items():
        layer, _, what = name.rpartition(".")
        renamed[f"{known[layer]}.{what}" if layer in known else name] = tensor
    return renamed


def _published_names(network: NasNet) -> dict[str, str]:
    """Layer in the port -> layer here.

    The port numbers each stage's normal cells two higher than the last one ended, as though the
    reduction in between were two cells: cell_0 to cell_3, cell_6 to cell_9, cell_12 to cell_15.
    """
    known = dict(ENDS)
    stems = reductions = number = 0
    cells: list[Any] = list(network.cells)
    for position, cell in enumerate(cells):
        ours = f"cells.{position}"
        if position < 2:
            theirs, stems = f"cell_stem_{stems}", stems + 1
        elif cell.reduces:
            theirs, reductions, number = f"reduction_cell_{reductions}", reductions + 1, number + 2
        else:
            theirs, number = f"cell_{number}", number + 1
        known |= {f"{theirs}.{name}": f"{ours}.{own}" for name, own in FITS.items()}
        for index in range(2 * len(cell.pairs)):
            pair, side = divmod(index, 2)
            branch = f"{theirs}.comb_iter_{pair}_{('left', 'right')[side]}"
            for n in (1, 2):
                own = f"{ours}.operations.{index}"
                known[f"{branch}.separable_{n}.depthwise_conv2d"] = f"{own}.depthwise{n}"
                known[f"{branch}.separable_{n}.pointwise_conv2d"] = f"{own}.pointwise{n}"
                known[f"{branch}.bn_sep_{n}"] = f"{own}.norm{n}"
    return known
