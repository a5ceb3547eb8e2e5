"""Once-for-all architectures as data: what may be chosen, what is chosen, and what it costs.

The space is that of Cai et al., "Once-for-All" (ICLR 2020, arXiv:1908.09791), over MobileNetV3:
five stages of two to four inverted bottlenecks, each with a kernel of 3, 5 or 7 and an expansion of
3, 4 or 6. The stages' widths, strides and activations are fixed; a supernet holds them all.

No torch: costs are counted here by formula, thousands of times in a search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clinipress.errors import ModelError

__all__ = [
    "DEPTHS",
    "EXPANSIONS",
    "KERNELS",
    "OFA_595",
    "Architecture",
    "BlockShape",
    "Space",
    "Stage",
    "architecture_of",
    "divisible",
]

KERNELS, EXPANSIONS, DEPTHS = (3, 5, 7), (3, 4, 6), (2, 3, 4)
STEM, FIRST, STAGES, LAST, MIX = 16, 16, (24, 40, 80, 112, 160), 960, 1280
STRIDES = (2, 2, 2, 1, 2)
HARD_SWISH = (False, False, True, True, True)
SQUEEZE = (False, True, False, True, True)
REDUCTION = 4  # of squeeze and excitation

Stage = tuple[tuple[int, int], ...]  # (kernel, expansion) of each block


def divisible(value: float) -> int:
    """The nearest multiple of 8, at least 8, and one more where that takes over a tenth away.

    Example:
        >>> divisible(16 * 1.2), divisible(40 * 1.2), divisible(4), divisible(11)
        (24, 48, 8, 16)
    """
    nearest = max(8, int(value + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * value else nearest


@dataclass(frozen=True)
class BlockShape:
    """One inverted bottleneck, or the first block, which expands nothing.

    Attributes:
        taken: Input channels.
        middle: Channels of the depthwise convolution.
        given: Output channels.
        kernel: Of the depthwise convolution.
        stride: Of the depthwise convolution.
        hard_swish: Activation; else ReLU.
        squeeze: Channels of squeeze and excitation's waist; 0: there is none.
        expands: Whether a pointwise convolution leads to the middle.
    """

    taken: int
    middle: int
    given: int
    kernel: int
    stride: int
    hard_swish: bool
    squeeze: int
    expands: bool

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.taken == self.given

    def parameters(self) -> int:
        """Trainable values, batch norms' scales and shifts among them."""
        count = self.middle * (self.kernel**2 + 2) + self.given * (self.middle + 2)
        count += self.middle * (self.taken + 2) if self.expands else 0
        waist = self.squeeze
        return count + (2 * waist * self.middle + waist + self.middle if waist else 0)

    def macs(self, side: tuple[int, int]) -> dict[str, int]:
        """Multiply-adds on an input of `side`: "pointwise", "depthwise3", ..., "squeeze"."""
        area = side[0] * side[1]
        smaller = _strided(side, self.stride)
        after = smaller[0] * smaller[1]
        pointwise = after * self.middle * self.given
        pointwise += area * self.taken * self.middle if self.expands else 0
        return {
            "pointwise": pointwise,
            f"depthwise{self.kernel}": after * self.middle * self.kernel**2,
            "squeeze": 2 * self.squeeze * self.middle,
        }


def _strided(side: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-side[0] // stride), -(-side[1] // stride)


@dataclass(frozen=True)
class Architecture:
    """One network of the space.

    Attributes:
        stages: For each of the five stages (kernel, expansion) of its blocks.
        width: Multiplies all channels; the published supernets have 1.0 and 1.2.
    """

    stages: tuple[Stage, ...]
    width: float = 1.0

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return tuple(len(stage) for stage in self.stages)

    @property
    def stem(self) -> int:
        """Channels of the first convolution."""
        return divisible(STEM * self.width)

    @property
    def last(self) -> int:
        """Channels before the pooling."""
        return divisible(LAST * self.width)

    @property
    def mix(self) -> int:
        """Features after it."""
        return divisible(MIX * self.width)

    def blocks(self) -> list[BlockShape]:
        """The first block and those of the stages, in order."""
        taken, first = self.stem, divisible(FIRST * self.width)
        shapes = [BlockShape(taken, taken, first, 3, 1, False, 0, False)]
        taken = first
        for number, stage in enumerate(self.stages):
            given = divisible(STAGES[number] * self.width)
            for position, (kernel, expansion) in enumerate(stage):
                middle = divisible(round(taken * expansion))
                stride = 1 if position else STRIDES[number]
                waist = divisible(middle // REDUCTION) if SQUEEZE[number] else 0
                swish = HARD_SWISH[number]
                shapes.append(BlockShape(taken, middle, given, kernel, stride, swish, waist, True))
                taken = given
        return shapes

    def places(self) -> list[int]:
        """For each of `blocks` its number in a supernet, whose stages have all blocks."""
        most = max(DEPTHS)
        inner = [1 + s * most + p for s, depth in enumerate(self.depths) for p in range(depth)]
        return [0, *inner]

    def parameters(self, classes: int = 1000, in_channels: int = 3) -> int:
        """Trainable values of the network."""
        count = self.stem * (9 * in_channels + 2)
        blocks = self.blocks()
        count += sum(block.parameters() for block in blocks)
        count += self.last * (blocks[-1].given + 2) + self.last * self.mix
        return count + (self.mix + 1) * classes

    def macs(
        self, side: tuple[int, int] = (224, 224), classes: int = 1000, in_channels: int = 3
    ) -> int:
        """Multiply-adds of convolutions and the head for one image of `side` pixels."""
        return sum(self.macs_by_kind(side, classes, in_channels).values())

    def macs_by_kind(
        self, side: tuple[int, int] = (224, 224), classes: int = 1000, in_channels: int = 3
    ) -> dict[str, int]:
        """The same, by kind of layer: "pointwise", "depthwise3", ..., "squeeze", "ends"."""
        side = _strided(side, 2)
        ends = side[0] * side[1] * 9 * in_channels * self.stem
        totals: dict[str, int] = {}
        blocks = self.blocks()
        for block in blocks:
            for kind, count in block.macs(side).items():
                totals[kind] = totals.get(kind, 0) + count
            side = _strided(side, block.stride)
        ends += side[0] * side[1] * blocks[-1].given * self.last
        ends += self.last * self.mix + self.mix * classes
        return totals | {"ends": ends}

    def as_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `clinipress.models.ofa.ofa_mobilenetv3`, JSON-able."""
        stages = [[list(block) for block in stage] for stage in self.stages]
        return {"stages": stages, "width": self.width}


def architecture_of(stages: Sequence[Sequence[Sequence[int]]], width: float) -> Architecture:
    """An architecture from plain lists, checked.

    Raises:
        ModelError: It is not in the space.
    """
    if not width > 0:
        raise ModelError("a width above 0", f"{width}")
    if len(stages) != len(STAGES):
        raise ModelError(f"{len(STAGES)} stages", f"{len(stages)}")
    for number, stage in enumerate(stages, start=1):
        if not 1 <= len(stage) <= max(DEPTHS):
            raise ModelError(f"1 to {max(DEPTHS)} blocks in stage {number}", f"{len(stage)}")
        for block in stage:
            if len(block) != 2 or block[0] not in KERNELS or block[1] not in EXPANSIONS:
                raise ModelError(
                    f"blocks [kernel of {KERNELS}, expansion of {EXPANSIONS}] in stage {number}",
                    f"{list(block)}",
                )
    plain = tuple(tuple((int(k), int(e)) for k, e in stage) for stage in stages)
    return Architecture(plain, float(width))


# flops@595M of the authors' list: 80.0 % on ImageNet at 236 pixels, the largest there.
OFA_595 = Architecture(
    (
        ((3, 3), (5, 4), (3, 3)),
        ((5, 4), (5, 4), (3, 6), (5, 3)),
        ((7, 6), (5, 6), (3, 3), (5, 4)),
        ((3, 6), (5, 6), (7, 6), (3, 4)),
        ((3, 6), (3, 6), (5, 6), (3, 3)),
    ),
    width=1.2,
)


@dataclass(frozen=True)
class Space:
    """What may be chosen: all of the supernet, or what a phase of its training allows.

    Attributes:
        width: Of the supernet.
        kernels: Of each block.
        expansions: Of each block.
        depths: Of each stage.
    """

    width: float = 1.0
    kernels: tuple[int, ...] = KERNELS
    expansions: tuple[int, ...] = EXPANSIONS
    depths: tuple[int, ...] = DEPTHS

    def largest(self) -> Architecture:
        """Of every choice the largest."""
        return self._uniform(max(self.kernels), max(self.expansions), max(self.depths))

    def smallest(self) -> Architecture:
        """Of every choice the smallest."""
        return self._uniform(min(self.kernels), min(self.expansions), min(self.depths))

    def _uniform(self, kernel: int, expansion: int, depth: int) -> Architecture:
        return Architecture((((kernel, expansion),) * depth,) * len(STAGES), self.width)

    def sample(self, random: np.random.Generator) -> Architecture:
        """Depths, kernels and expansions drawn evenly."""
        depths = [int(random.choice(self.depths)) for _ in STAGES]
        stages = tuple(tuple(self._block(random) for _ in range(depth)) for depth in depths)
        return Architecture(stages, self.width)

    def _block(self, random: np.random.Generator) -> tuple[int, int]:
        return int(random.choice(self.kernels)), int(random.choice(self.expansions))

    def mutated(
        self, parent: Architecture, probability: float, random: np.random.Generator
    ) -> Architecture:
        """Each depth and each block drawn anew with some probability."""
        stages = []
        for stage in parent.stages:
            depth = len(stage)
            if random.random() < probability:
                depth = int(random.choice(self.depths))
            kept = [
                self._block(random) if random.random() < probability else b for b in stage[:depth]
            ]
            kept += [self._block(random) for _ in range(depth - len(kept))]
            stages.append(tuple(kept))
        return Architecture(tuple(stages), self.width)

    def crossed(
        self, first: Architecture, second: Architecture, random: np.random.Generator
    ) -> Architecture:
        """Each stage whole from one of the two."""
        pairs = zip(first.stages, second.stages, strict=True)
        return Architecture(tuple(a if random.random() < 0.5 else b for a, b in pairs), self.width)

    def lessened(self, parent: Architecture, random: np.random.Generator) -> Architecture:
        """One choice, drawn among those that can, one step smaller; the smallest as it is."""
        lesser = list(self._lesser(parent))
        return lesser[int(random.integers(len(lesser)))] if lesser else parent

    def _lesser(self, parent: Architecture) -> Iterator[Architecture]:
        for number, stage in enumerate(parent.stages):
            if len(stage) > min(self.depths):
                depth = max(d for d in self.depths if d < len(stage))
                yield _with_stage(parent, number, stage[:depth])
            for position, (kernel, expansion) in enumerate(stage):
                for smaller in (
                    *((k, expansion) for k in _below(self.kernels, kernel)),
                    *((kernel, e) for e in _below(self.expansions, expansion)),
                ):
                    changed = (*stage[:position], smaller, *stage[position + 1 :])
                    yield _with_stage(parent, number, changed)


def _below(choices: Sequence[int], present: int) -> list[int]:
    return [max(smaller)] if (smaller := [c for c in choices if c < present]) else []


def _with_stage(parent: Architecture, number: int, stage: Stage) -> Architecture:
    stages = (*parent.stages[:number], stage, *parent.stages[number + 1 :])
    return Architecture(stages, parent.width)
