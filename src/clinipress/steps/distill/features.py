"""Feature distillation: maps read by forward hooks, no network edited, and what is asked of them.

    FitNet              the student's last map, through a 1x1 convolution, is to be the teacher's
    attention transfer  where the student's maps are strong, the teacher's are to be strong

The 1x1 convolution is trained with the student, lives in its checkpoints and is thrown away.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from clinipress.errors import ModelError
from clinipress.models.classifier import Classifier
from clinipress.models.stages import Stage, keep_output, named_stages, oriented, read_maps, stages
from clinipress.records.candidate import InputSpec

__all__ = [
    "FeatureLoss",
    "FeatureMethod",
    "MapSource",
    "Tapped",
    "attention",
    "attention_loss",
    "choose_pairs",
    "hint_loss",
    "read_of_teacher",
]

FeatureMethod = Literal["fitnet", "attention"]
PAIRS = 3  # stage ends compared by attention transfer, from the last one up
TINY = 1e-12


# ------------------------------------------------------------------------------------ the losses


def hint_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared distance of two maps, as a share of the teacher's own square, mean over images.

    FitNets' hint (Romero et al., ICLR 2015, eq. 3), at least 0, of float ``[n, c, h, w]`` behind
    the regressor and a teacher's map, the larger averaged down to the smaller. Deviations: divided
    by the teacher's square, so that 1 means "nothing learned yet" for every teacher and a weight
    keeps its meaning; trained together with the other losses instead of in a stage before them.
    """
    student, teacher = _same_size(student, teacher)
    distance = (student - teacher).square().flatten(1).sum(1)
    return (distance / teacher.square().flatten(1).sum(1).clamp_min(TINY)).mean()


def attention(maps: torch.Tensor) -> torch.Tensor:
    """Where a map is strong: mean over channels of its square, ``[n, 1, h, w]``.

    F_sum^2 of Zagoruyko and Komodakis (ICLR 2017, section 3.1), divided by the channels.
    """
    return maps.square().mean(1, keepdim=True)


def attention_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared distance of two `attention` maps, each of length 1, mean over images; in [0, 2].

    Zagoruyko and Komodakis (ICLR 2017, eq. 2); the larger map is averaged down to the smaller.
    Deviation: squared and summed over places; their equation leaves out the square, their code
    divides by the number of places, and either makes the weight depend on the size of the map.
    """
    student, teacher = _same_size(student, teacher)
    a, b = (
        F.normalize(attention_map.flatten(1), dim=1, eps=TINY)
        for attention_map in (student, teacher)
    )
    return (a - b).square().sum(1).mean()


def _same_size(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return _shrunk(a, size), _shrunk(b, size)


def _shrunk(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    # on CUDA its backward pass, met where the student's map is the larger, may round differently
    return maps if tuple(maps.shape[2:]) == size else F.adaptive_avg_pool2d(maps, size)


# ------------------------------------------------------------------------------ which maps


def choose_pairs(
    method: FeatureMethod,
    student: Classifier,
    teacher: Classifier,
    layers: Sequence[tuple[str, str]] = (),
) -> tuple[tuple[Stage, Stage], ...]:
    """Which maps of the student learn from which of the teacher.

    Args:
        method: "fitnet" pairs the last maps before the pooling; "attention" the last three stage
            ends, counted from the end.
        student: The student.
        teacher: The teacher.
        layers: (student's, teacher's) module names to take instead.

    Returns:
        (student's, teacher's) stages, one pair for "fitnet".

    Raises:
        ModelError: A name is not there or gives no map, or the networks have none.
    """
    if layers:
        mine = named_stages(student, [name for name, _ in layers], "student")
        theirs = named_stages(teacher, [name for _, name in layers], "teacher")
        return tuple(zip(mine, theirs, strict=True))
    ends = stages(student), stages(teacher)
    count = min(1 if method == "fitnet" else PAIRS, *map(len, ends))
    return tuple(zip(*(stage_ends[-count:] for stage_ends in ends), strict=True))


# -------------------------------------------------------------------------------- while training


class Tapped(nn.Module):
    """A student that leaves its maps behind at every training step; trained in its place.

    The regressors are sub-modules, so the training loop optimizes, averages and checkpoints them
    with the student, and a resumed run has them back.

    Args:
        network: The student; not copied, so that it ends with the trained weights.
        layers: Modules of its backbone whose outputs are wanted.
        regressors: (student's channels, teacher's channels) per layer for "fitnet"; None: the maps
            are left as they are.
        seed: Of the regressors' first weights.
    """

    def __init__(
        self,
        network: Classifier,
        layers: Sequence[str],
        regressors: Sequence[tuple[int, int]] | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.layers = tuple(layers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.regressors = nn.ModuleList(
                nn.Conv2d(mine, theirs, 1) for mine, theirs in regressors or ()
            )
        self._kept: dict[str, torch.Tensor] = {}
        self._left: list[torch.Tensor] = []
        self._handles = [
            network.backbone.get_submodule(name).register_forward_hook(
                functools.partial(keep_output, self._kept, name)
            )
            for name in self.layers
        ]

    @property
    def input_spec(self) -> InputSpec:
        """What the images are like."""
        return self.network.input_spec

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The student's logits, float32 ``[n, classes]``; in training mode its maps stay behind."""
        logits: torch.Tensor = self.network(images)
        if self.training:
            missing = [name for name in self.layers if name not in self._kept]
            if missing:
                raise ModelError(
                    f"a feature map from '{missing[0]}'",
                    "none: another module stands in its place",
                    "name a layer that holds others in 'layers'",
                )
            maps = [oriented(self.network.backbone, self._kept[name]) for name in self.layers]
            if self.regressors:
                maps = [
                    turn(feature_map)
                    for turn, feature_map in zip(self.regressors, maps, strict=True)
                ]
            self._left = maps
        self._kept.clear()  # a map holds on to the whole step's memory
        return logits

    def take(self) -> list[torch.Tensor]:
        """The maps of the last step, float32, regressed; they are handed out once."""
        maps, self._left = self._left, []
        return [feature_map.float() for feature_map in maps]

    def release(self) -> Classifier:
        """The student without hooks; the regressors stay behind."""
        for handle in self._handles:
            handle.remove()
        return self.network


class MapSource(Protocol):
    """Where the teacher's maps come from: a table on the disk, or the teacher itself."""

    def __call__(self, rows: NDArray[np.int64], view: int) -> list[torch.Tensor]:
        """One float32 ``[n, c, h, w]`` per layer, of a view of some rows."""


class FeatureLoss:
    """The feature part of a loss, as `DistillationLoss` calls it, of a tapped student run before.

    The teacher gives its maps ("fitnet"), or their attentions.
    """

    def __init__(self, student: Tapped, teacher: MapSource, method: FeatureMethod) -> None:
        self._student, self._teacher, self._method = student, teacher, method

    def __call__(self, rows: NDArray[np.int64], view: int) -> torch.Tensor:
        """Mean over the pairs of layers."""
        mine = self._student.take()
        theirs = [maps.to(mine[0].device) for maps in self._teacher(rows, view)]
        losses = [self._one(a, b) for a, b in zip(mine, theirs, strict=True)]
        return torch.stack(losses).mean()

    def _one(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        if self._method == "fitnet":
            return hint_loss(student, teacher)
        return attention_loss(attention(student), teacher)


def read_of_teacher(
    classifier: Classifier, names: Sequence[str], method: FeatureMethod, images: torch.Tensor
) -> list[torch.Tensor]:
    """What the loss needs of the teacher: its maps, or their attentions, which are far smaller."""
    maps = read_maps(classifier, names, images)
    return maps if method == "fitnet" else [attention(feature_map) for feature_map in maps]
