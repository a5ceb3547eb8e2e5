"""One network of the once-for-all space, and the supernet that holds the weights of all of them.

A supernet is the largest network with layers that can be used in part: of pointwise convolutions
and norms the first channels, of a 7 x 7 kernel its centre turned by a learnt matrix (Cai et al.,
arXiv:1908.09791, section 3.3). Both have the same names, so a sub-net's tensor is the beginning of
the supernet's tensor of that name (`clinipress.models.ofa.extraction`).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from clinipress.errors import ModelError
from clinipress.models.ofa.architecture import (
    OFA_595,
    Architecture,
    BlockShape,
    Space,
    architecture_of,
)

__all__ = [
    "Bottleneck",
    "MobileNet",
    "SuperNet",
    "checkpoint_filter_fn",
    "kernels",
    "ofa_595",
    "ofa_mobilenetv3",
    "ofa_supernet",
    "own_name",
    "part_of",
]

# The layout that the authors of once-for-all publish weights in: a supernet's file keeps the state
# dict under "state_dict", its elastic layers wrapped once more (``conv.conv.weight``,
# ``bn.bn.weight``); a specialised network's does not. Older files call a block's layers
# ``mobile_inverted_conv``, newer ones ``conv``. Facts of the layout, no code, are taken from the
# authors' repository (mit-han-lab/once-for-all, MIT).
PARTS = {"inverted_bottleneck": "expand", "depth_conv": "depthwise", "point_linear": "project"}
ENDS = {
    "first_conv": "stem",
    "final_expand_layer": "final_expand",
    "feature_mix_layer": "feature_mix",
}
LEAVES = {
    "conv.7to5_matrix": "conv.to5",
    "conv.5to3_matrix": "conv.to3",
    "se.fc.reduce.weight": "squeeze.reduce.weight",
    "se.fc.reduce.bias": "squeeze.reduce.bias",
    "se.fc.expand.weight": "squeeze.restore.weight",
    "se.fc.expand.bias": "squeeze.restore.bias",
}
BLOCK = re.compile(r"blocks\.(\d+)\.(?:mobile_inverted_conv|conv)\.(\w+)\.(.+)")


class ElasticPointwise(nn.Conv2d):
    """A 1 x 1 convolution of the first input channels, as many as come, to the first outputs.

    Attributes:
        active: Outputs that are computed.
    """

    def __init__(self, taken: int, given: int, *, bias: bool = False) -> None:
        super().__init__(taken, given, 1, bias=bias)
        self.active = given

    def forward(self, maps: Tensor) -> Tensor:
        """float32 ``[n, c, h, w]`` -> ``[n, active, h, w]``, c at most what it was made for."""
        bias = None if self.bias is None else self.bias[: self.active]
        return functional.conv2d(maps, self.weight[: self.active, : maps.shape[1]], bias)


class ElasticDepthwise(nn.Conv2d):
    """A depthwise convolution of 7 x 7 that can be one of 5 x 5 or 3 x 3.

    A smaller kernel is the centre of the next larger one, its values turned by a matrix that all
    channels share and that is learnt from the identity.

    Attributes:
        active: Kernel, pixels a side.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, channels, 7, stride, 3, groups=channels, bias=False)
        self.to5, self.to3 = nn.Parameter(torch.eye(25)), nn.Parameter(torch.eye(9))
        self.active = 7

    def forward(self, maps: Tensor) -> Tensor:
        """float32 ``[n, c, h, w]`` -> ``[n, c, h / stride, w / stride]``, rounded up."""
        channels, side = maps.shape[1], self.active
        weight = kernels(self.weight[:channels], self.to5, self.to3, side)
        return functional.conv2d(maps, weight, None, self.stride, side // 2, groups=channels)


def kernels(weight: Tensor, to5: Tensor, to3: Tensor, side: int) -> Tensor:
    """Kernels of 3, 5 or 7 pixels, float32 ``[channels, 1, side, side]``, out of those of 7 x 7.

    `to5` ``[25, 25]`` turns the centre's 25 values into a kernel of 5 x 5, `to3` ``[9, 9]`` that
    one's centre into a kernel of 3 x 3.
    """
    for smaller, matrix in ((5, to5), (3, to3)):
        if side > smaller:
            break
        centre = weight[:, :, 1:-1, 1:-1].reshape(-1, smaller**2)
        weight = (centre @ matrix.T).reshape(-1, 1, smaller, smaller)
    return weight


class ElasticNorm(nn.BatchNorm2d):
    """A batch norm of the first channels, as many as come.

    Attributes:
        records: Whether training moves the running statistics: they are the largest network's, and
            another one's must be measured after it is extracted.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.records = True

    def forward(self, maps: Tensor) -> Tensor:
        """float32 ``[n, c, h, w]`` -> the same shape."""
        channels = maps.shape[1]
        if self.records and channels == self.num_features:
            return super().forward(maps)
        weight, bias = self.weight[:channels], self.bias[:channels]
        if self.training:
            return functional.batch_norm(
                maps, None, None, weight, bias, training=True, eps=self.eps
            )
        mean, variance = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        return functional.batch_norm(
            maps, mean[:channels], variance[:channels], weight, bias, eps=self.eps
        )


def _layer(conv: nn.Conv2d, norm: nn.Module, act: nn.Module | None = None) -> nn.Sequential:
    parts = OrderedDict([("conv", conv), ("norm", norm)])
    if act is not None:
        parts["act"] = act
    return nn.Sequential(parts)


class Squeeze(nn.Module):
    """Squeeze and excitation (Hu et al., CVPR 2018), gated by a hard sigmoid as in MobileNetV3."""

    def __init__(self, channels: int, waist: int, *, elastic: bool) -> None:
        super().__init__()
        kind: Any = ElasticPointwise if elastic else _pointwise
        self.reduce = kind(channels, waist, bias=True)
        self.act = nn.ReLU()
        self.restore = kind(waist, channels, bias=True)
        self.gate = nn.Hardsigmoid()

    def forward(self, maps: Tensor) -> Tensor:
        """float32 ``[n, c, h, w]`` -> the same shape, each channel weighed."""
        means = maps.mean((2, 3), keepdim=True)
        weights: Tensor = self.gate(self.restore(self.act(self.reduce(means))))
        return maps * weights


def _pointwise(taken: int, given: int, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(taken, given, 1, bias=bias)


class Bottleneck(nn.Module):
    """Expand, convolve each channel, squeeze and excite, project; the input added where it fits.

    With `elastic` the layers can be used in part; `norm` is the class of the batch norms.
    """

    def __init__(self, shape: BlockShape, *, elastic: bool, norm: type[nn.BatchNorm2d]) -> None:
        super().__init__()
        pointwise: Any = ElasticPointwise if elastic else _pointwise
        act = nn.Hardswish if shape.hard_swish else nn.ReLU
        middle, given = shape.middle, shape.given
        self.expand: nn.Module = nn.Identity()
        if shape.expands:
            self.expand = _layer(pointwise(shape.taken, middle), norm(middle), act())
        depthwise: nn.Conv2d
        if elastic:
            depthwise = ElasticDepthwise(middle, shape.stride)
        else:
            depthwise = nn.Conv2d(
                middle, middle, shape.kernel, shape.stride, shape.kernel // 2,
                groups=middle, bias=False,
            )  # fmt: skip
        self.depthwise = _layer(depthwise, norm(middle), act())
        self.squeeze: nn.Module = nn.Identity()
        if shape.squeeze:
            self.squeeze = Squeeze(middle, shape.squeeze, elastic=elastic)
        self.project = _layer(pointwise(middle, given), norm(given))
        self.residual = shape.residual

    def forward(self, maps: Tensor) -> Tensor:
        """float32 ``[n, taken, h, w]`` -> ``[n, given, h / stride, w / stride]``, rounded up."""
        projected: Tensor = self.project(self.squeeze(self.depthwise(self.expand(maps))))
        return maps + projected if self.residual else projected

    def activate(self, shape: BlockShape) -> None:
        """Use the part of an elastic block that a shape says."""
        cast(ElasticPointwise, self.expand.get_submodule("conv")).active = shape.middle
        cast(ElasticDepthwise, self.depthwise.get_submodule("conv")).active = shape.kernel
        if shape.squeeze:
            cast(ElasticPointwise, self.squeeze.get_submodule("reduce")).active = shape.squeeze
            cast(ElasticPointwise, self.squeeze.get_submodule("restore")).active = shape.middle


class MobileNet(nn.Module):
    """A network of the space: stem, blocks, a wide last layer, pooling, features, dropout, head."""

    elastic = False

    def __init__(
        self, architecture: Architecture, num_classes: int, in_chans: int, dropout: float
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.num_classes, self.in_chans, self.dropout_rate = num_classes, in_chans, dropout
        norm = ElasticNorm if self.elastic else nn.BatchNorm2d
        stem, last, mix = architecture.stem, architecture.last, architecture.mix
        first, *rest = architecture.blocks()
        self.stem = _layer(
            nn.Conv2d(in_chans, stem, 3, 2, 1, bias=False), norm(stem), nn.Hardswish()
        )
        self.blocks = nn.ModuleList(
            [
                Bottleneck(first, elastic=False, norm=norm),
                *(Bottleneck(shape, elastic=self.elastic, norm=norm) for shape in rest),
            ]
        )
        self.final_expand = _layer(_pointwise(rest[-1].given, last), norm(last), nn.Hardswish())
        self.feature_mix = nn.Sequential(
            OrderedDict([("conv", _pointwise(last, mix)), ("act", nn.Hardswish())])
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(mix, num_classes)
        _initialise(self)

    def used_blocks(self) -> Sequence[nn.Module]:
        """The blocks that an image passes."""
        return list(self.blocks)

    def forward_features(self, images: Tensor) -> Tensor:
        """Normalised float32 ``[n, in_chans, h, w]`` -> maps ``[n, last, h / 32, w / 32]``."""
        maps: Tensor = self.stem(images)
        for block in self.used_blocks():
            maps = block(maps)
        features: Tensor = self.final_expand(maps)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float32 ``[n, in_chans, h, w]`` -> logits ``[n, num_classes]``."""
        means = self.forward_features(images).mean((2, 3), keepdim=True)
        logits: Tensor = self.head(self.dropout(self.feature_mix(means).flatten(1)))
        return logits


class SuperNet(MobileNet):
    """The largest network of a width (1.0 and 1.2 are published), any part of which can be used."""

    elastic = True

    def __init__(self, width: float, num_classes: int, in_chans: int, dropout: float) -> None:
        self.space = Space(width)
        super().__init__(self.space.largest(), num_classes, in_chans, dropout)
        self.active = self.architecture

    def activate(self, architecture: Architecture) -> None:
        """Answer as this sub-net from now on; its gradients reach the shared weights."""
        self.active = architecture
        shapes = architecture.blocks()
        for number, shape in list(zip(architecture.places(), shapes, strict=True))[1:]:
            cast(Bottleneck, self.blocks[number]).activate(shape)
        whole = architecture == self.architecture
        for part in self.modules():
            if isinstance(part, ElasticNorm):
                part.records = whole

    def used_blocks(self) -> Sequence[nn.Module]:
        """The blocks that an image passes: of each stage the first ones."""
        return [self.blocks[number] for number in self.active.places()]


def _initialise(network: nn.Module) -> None:
    """Convolutions by their fan-out (He et al., 2015), the head small, norms at one."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.groups > 1:  # fan-out counts all outputs, of which each input reaches one
                nn.init.normal_(part.weight, std=(2 / part.weight[0].numel()) ** 0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.01)
            nn.init.zeros_(part.bias)


def ofa_mobilenetv3(
    num_classes: int = 1000,
    in_chans: int = 3,
    *,
    stages: Sequence[Sequence[Sequence[int]]],
    width: float = 1.0,
    dropout: float = 0.0,
) -> MobileNet:
    """A network of the space by its blocks: for each stage a list of [kernel, expansion].

    Raises:
        ModelError: No such network is in the space.
    """
    return MobileNet(architecture_of(stages, width), num_classes, in_chans, dropout)


def ofa_595(num_classes: int = 1000, in_chans: int = 3, *, dropout: float = 0.2) -> MobileNet:
    """The authors' sub-net of 595 million multiply-adds at 236 pixels, width 1.2."""
    return MobileNet(OFA_595, num_classes, in_chans, dropout)


def ofa_supernet(
    num_classes: int = 1000, in_chans: int = 3, *, width: float = 1.0, dropout: float = 0.0
) -> SuperNet:
    """A supernet; as a candidate of its own it is its largest network."""
    return SuperNet(width, num_classes, in_chans, dropout)


def part_of(state: Mapping[str, Tensor], network: MobileNet) -> dict[str, Tensor]:
    """Of a supernet's state dict the part that is a network's.

    Args:
        state: Tensors by our names; a head of other classes is handed on as it is.
        network: Which part, and of what shapes.

    Raises:
        ModelError: The supernet has another width, or a tensor is missing.
    """
    places = network.architecture.places()
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    heads = ("head.weight", "head.bias", "stem.conv.weight")  # classes and colours may differ
    part = {}
    for name, shape in shapes.items():
        there = _place(name, places)
        if there not in state:
            if name.endswith("num_batches_tracked"):
                continue
            raise ModelError("the weights of a whole supernet", f"a file without '{there}'")
        tensor = state[there]
        if name.endswith("depthwise.conv.weight") and not name.startswith("blocks.0."):
            base = there.removesuffix("weight")
            matrices = (state[base + "to5"].detach(), state[base + "to3"].detach())
            tensor = kernels(tensor[: shape[0]].detach(), *matrices, shape[-1])
        elif name not in heads:
            tensor = tensor[tuple(slice(0, side) for side in shape)]
        if name not in heads and tensor.shape != shape:
            raise ModelError(
                f"the supernet of width {network.architecture.width:g}",
                f"'{there}' of shape {list(state[there].shape)}",
            )
        part[name] = tensor.detach().clone()
    return part


def _place(name: str, places: list[int]) -> str:
    """The supernet's name of a sub-net's tensor: stages have all their blocks there."""
    if not name.startswith("blocks."):
        return name
    _, number, rest = name.split(".", 2)
    return f"blocks.{places[int(number)]}.{rest}"


def own_name(name: str) -> str:
    """Our name of a published tensor; a name that is not one of theirs stays.

    Example:
        >>> own_name("blocks.3.mobile_inverted_conv.inverted_bottleneck.bn.bn.weight")
        'blocks.3.expand.norm.weight'
        >>> own_name("blocks.3.conv.depth_conv.conv.7to5_matrix")
        'blocks.3.depthwise.conv.to5'
    """
    if name.startswith("classifier."):
        return "head." + name.rpartition(".")[2]
    match = BLOCK.fullmatch(name)
    if match is None:
        head, _, leaf = name.partition(".")
        return f"{ENDS[head]}.{_leaf(leaf)}" if head in ENDS else name
    number, part, leaf = match.groups()
    if part not in PARTS:
        return name
    leaf = _leaf(leaf)
    inside = leaf.startswith("squeeze.")
    return f"blocks.{number}.{leaf}" if inside else f"blocks.{number}.{PARTS[part]}.{leaf}"


def _leaf(leaf: str) -> str:
    """Layers wrapped once more are unwrapped; their batch norm is our norm."""
    leaf = leaf.replace("conv.conv.", "conv.").replace("bn.bn.", "bn.")
    return LEAVES.get(leaf, leaf.replace("bn.", "norm."))


def checkpoint_filter_fn(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A published state dict in the names of a network of ours; our own names stay.

    A network that is no supernet takes its part of a supernet's weights. Its batch norms are then
    those of the largest network: measure them again before it is judged.

    Args:
        state: Tensors by name.
        network: A `MobileNet` or `SuperNet`.
    """
    renamed = {own_name(name): tensor for name, tensor in state.items()}
    ours = cast(MobileNet, network)
    if ours.elastic or not any(name.endswith("conv.to5") for name in renamed):
        return renamed
    return part_of(renamed, ours)
