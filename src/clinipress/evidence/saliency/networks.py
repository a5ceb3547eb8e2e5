"""What Score-CAM needs of a classifier: its last feature map, and answers to masked images.

A torch network is run through its float32 ONNX file, which answers within rounding and three times
as fast on a CPU; an exported file is run as it is, with its last feature map as a second output.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.extras import require
from clinipress.records.result import InputSpec
from clinipress.steps.step import Candidate

if TYPE_CHECKING:
    from clinipress.models.classifier import TorchCandidate

__all__ = ["FeatureNetwork", "OnnxNetwork", "TorchNetwork", "feature_network"]

Floats = NDArray[np.float32]
# Images per call. ResNet-50 at 224 px: 4 or 16 cost the same per image (4 % in float32), and 1 a
# fifth more in int8.
BATCH = 8


class FeatureNetwork(Protocol):
    """A classifier whose last feature map can be read."""

    @property
    def layer(self) -> str:
        """Name of the map in the network."""

    def look(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Logits float32 ``[n, k]`` and feature maps float32 ``[n, c, h, w]`` of images.

        Args:
            images: uint8 ``[n, channels, height, width]``.
        """

    def answer(self, images: Floats) -> Floats:
        """Logits float32 ``[n, k]`` of images in grey levels that need not be whole.

        Args:
            images: float32 ``[n, channels, height, width]`` in [0, 255]; rounded where the network
                takes uint8.
        """


def feature_network(candidate: Candidate, *, threads: int | None = None) -> FeatureNetwork:
    """Open a candidate for Score-CAM.

    Args:
        candidate: A torch network, or an ONNX or OpenVINO file.
        threads: CPU threads of one call; None: as many as there are cores.

    Raises:
        ModelError: Its feature map cannot be read; the message is fit for "not measured".
    """
    from clinipress.formats.onnx.run import OnnxCandidate

    kind = candidate.card.format
    if isinstance(candidate, OnnxCandidate):
        return OnnxNetwork(candidate.path, candidate.card.precision, threads)
    if kind == "openvino":
        from clinipress.formats.file import FileCandidate
        from clinipress.formats.openvino.features import OpenVinoNetwork

        return OpenVinoNetwork(cast(FileCandidate, candidate).path, threads)
    if kind == "pytorch":
        from clinipress.models.classifier import TorchCandidate

        if isinstance(candidate, TorchCandidate):
            return _of_torch(candidate, threads)
    raise ModelError(
        "a torch network, an ONNX or an OpenVINO file for Score-CAM",
        f"'{candidate.card.name}' in the format {kind}, whose feature map is no output",
    )


def _of_torch(candidate: TorchCandidate, threads: int | None) -> FeatureNetwork:
    """Through its ONNX file on a CPU; as it is on another device."""
    from clinipress.formats.onnx.float import export_onnx

    if candidate.module.shift.device.type != "cpu":
        return TorchNetwork(candidate)
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(candidate, path)
        return OnnxNetwork(path, "float32", threads)


class OnnxNetwork:
    """An ONNX file with its last feature map as a second output.

    Args:
        path: The file; read once.
        precision: Of its card.
        threads: CPU threads of one call; None: as many as there are cores.

    Raises:
        ModelError: No feature map can be shown.
    """

    def __init__(self, path: Path, precision: str, threads: int | None = None) -> None:
        from clinipress.formats.onnx.features import show_features
        from clinipress.formats.onnx.run import session

        shown = show_features(path, precision)
        self.layer = shown.tensor
        with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
            file = Path(folder) / "shown.onnx"
            file.write_bytes(shown.content)
            self._session = session(file, threads)
        image = self._session.get_inputs()[0]
        self._image, self._floats = image.name, image.type == "tensor(float)"

    def look(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Logits and feature maps."""
        parts = [self._run(images[s : s + BATCH], None) for s in range(0, len(images), BATCH)]
        logits, maps = (np.concatenate(each) for each in zip(*parts, strict=True))
        return logits, maps

    def answer(self, images: Floats) -> Floats:
        """Logits."""
        parts = [
            self._run(images[s : s + BATCH], ["logits"])[0] for s in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts)

    def _run(self, images: NDArray[Any], outputs: list[str] | None) -> list[Floats]:
        pixels = images if self._floats else np.rint(images)
        taken = pixels.astype(np.float32 if self._floats else np.uint8, copy=False)
        results: list[Floats] = self._session.run(outputs, {self._image: taken})
        return results


class TorchNetwork:
    """A torch network on its own device.

    Args:
        candidate: The network; left as it is.

    Raises:
        ModelError: It has no feature map, or goes on to tokens behind it.
    """

    def __init__(self, candidate: TorchCandidate) -> None:
        from clinipress.models.stages import stages

        self._module = candidate.module
        if hasattr(self._module.backbone, "patch_embed"):
            raise ModelError(
                f"a convolutional network for Score-CAM, not '{candidate.card.name}'",
                "a sequence of tokens: Score-CAM is not measured for transformers",
            )
        last = stages(self._module)[-1]
        sides = self._sides(candidate.card.input)
        if sides is not None and sides != (last.height, last.width):
            raise ModelError(
                f"a feature map of more than one cell before the logits of '{candidate.card.name}'",
                "none: nothing is left to say where the network looks",
                "use larger images",
            )
        self.layer = last.name

    def _sides(self, spec: InputSpec) -> tuple[int, ...] | None:
        """Rows and columns of what timm's networks give to their head; None where that is unknown.

        It tells a map of one cell from the larger one before it, which must not stand for it.
        """
        require("torch", extra="compress")
        import torch

        from clinipress.models.cost import evaluating
        from clinipress.models.stages import oriented

        backbone = self._module.backbone
        if not hasattr(backbone, "forward_features"):
            return None
        channels = spec.channels * self._module.repeats
        black = torch.zeros(
            (1, channels, spec.height, spec.width), device=self._module.shift.device
        )
        with evaluating(self._module), torch.inference_mode():
            maps: torch.Tensor = cast(Any, backbone).forward_features(black)
        return tuple(oriented(backbone, maps).shape[2:]) if maps.ndim == 4 else None

    def look(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Logits and feature maps."""
        require("torch", extra="compress")
        import torch

        from clinipress.models.stages import read_maps

        maps = []
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH]))
            maps.append(read_maps(self._module, [self.layer], batch)[0].cpu().numpy())
        return self.answer(images.astype(np.float32)), np.concatenate(maps)

    def answer(self, images: Floats) -> Floats:
        """Logits."""
        require("torch", extra="compress")
        import torch

        from clinipress.models.cost import evaluating

        logits = []
        with evaluating(self._module), torch.inference_mode():
            for start in range(0, len(images), BATCH):
                batch = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH]))
                batch = batch.to(self._module.shift.device, memory_format=torch.channels_last)
                logits.append(self._module(batch).cpu().numpy())
        return np.concatenate(logits)
