"""How the pixels were normalized that a network's weights were trained on, and who says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinipress.models.catalogue import IMAGENET
from clinipress.models.origins import PACKAGE, weights_path
from clinipress.models.packages import PACKAGES
from clinipress.models.zoo import published_statistics
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import PerChannel

__all__ = ["USUAL", "Normalization", "normalization_of"]


@dataclass(frozen=True)
class Normalization:
    """What is taken off pixels in [0, 1] and what the rest is divided by.

    Attributes:
        mean: One number or three.
        std: Likewise.
        source: Who says so, after "of".
    """

    mean: PerChannel
    std: PerChannel
    source: str

    def __str__(self) -> str:
        """The numbers, as a line of a terminal shows them."""
        return f"mean {_shown(self.mean)}, std {_shown(self.std)}"

    def same(self, other: Normalization) -> bool:
        """Whether both mean the same to a quarter of a grey level."""
        pairs = zip(
            (*_three(self.mean), *_three(self.std)),
            (*_three(other.mean), *_three(other.std)),
            strict=True,
        )
        return all(abs(a - b) <= TOLERANCE for a, b in pairs)

    def for_channels(self, channels: int) -> Normalization:
        """For a network of one channel the three numbers' average, as timm sums its filters."""
        if channels == 3:
            return self
        mean, std = (sum(_three(value)) / 3 for value in (self.mean, self.std))
        return Normalization(mean, std, self.source)


# TensorFlow's 127 / 255 and 128 / 255 are written as 0.5: half a grey level
TOLERANCE = 0.6 / 255
# what training scripts normalize by, if not by the training images
USUAL = (
    Normalization(*IMAGENET, "ImageNet"),
    Normalization(0.5, 0.5, "0.5"),
    Normalization(0.0, 1.0, "pixels in [0, 1] as they are"),
)


def normalization_of(recipe: ModelRecipe) -> Normalization | None:
    """That of the weights a recipe names; None where nobody says.

    A package's own; a config.json or preprocessor_config.json beside the file, as the Hugging Face
    hub keeps them; for pretrained weights by name, timm's configuration of the published ones.

    Raises:
        ModelError: The file that the recipe names is not there.
    """
    value = recipe.pretrained or recipe.checkpoint
    if isinstance(value, str):
        package = next(
            (p for p in PACKAGES if value in (PACKAGE + p.name, PACKAGE + p.distribution)), None
        )
        if package is not None:
            return Normalization(package.mean, package.std, f"the package {package.distribution}")
        beside = _beside(weights_path(value))
        if beside is not None:
            return beside
    if recipe.pretrained and recipe.name is not None:
        published = published_statistics(recipe.name)
        if published is not None:
            return Normalization(*published, f"the published weights of {recipe.name}")
    return None


def _beside(path: Path) -> Normalization | None:
    for name in ("config.json", "preprocessor_config.json"):
        try:
            config = json.loads((path.parent / name).read_bytes())
        except (OSError, ValueError):
            continue
        if not isinstance(config, dict):
            continue
        own = config.get("pretrained_cfg")
        for facts, keys in ((own, ("mean", "std")), (config, ("mean", "std")),
                            (config, ("image_mean", "image_std"))):  # fmt: skip
            mean, std = (_numbers(facts, key) for key in keys)
            if mean is not None and std is not None and min(_three(std)) > 0:
                return Normalization(mean, std, f"{name} beside the weights")
    return None


def _numbers(facts: Any, key: str) -> PerChannel | None:
    value = facts.get(key) if isinstance(facts, dict) else None
    values = value if isinstance(value, list) else [value]
    numbers = [float(n) for n in values if isinstance(n, int | float) and 0 <= n <= 1]
    if len(numbers) < len(values):
        return None
    if len(set(numbers)) == 1:
        return numbers[0]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None


def _three(value: PerChannel) -> tuple[float, float, float]:
    return value if isinstance(value, tuple) else (value, value, value)


def _shown(value: PerChannel) -> str:
    numbers = value if isinstance(value, tuple) else (value,)
    return ", ".join(f"{number:.3g}" for number in numbers)
