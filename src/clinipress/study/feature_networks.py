"""Opening any candidate for Score-CAM: its last feature map, and answers to masked images.

A torch network is run through its float32 ONNX file, which answers within rounding and three times
as fast on a CPU; an exported file is run as it is, with its last feature map as a second output.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import cast

from clinipress.errors import ModelError
from clinipress.formats.onnx.features import OnnxNetwork
from clinipress.models.classifier import TorchCandidate
from clinipress.models.features import TorchNetwork
from clinipress.records.candidate import (
    Candidate,
    FeatureNetwork,
)

__all__ = ["feature_network"]


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
