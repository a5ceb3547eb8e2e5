"""Opening any candidate for Score-CAM: its last feature map, and answers to masked images.

A torch network is run through its float32 ONNX file, which answers within rounding and three times
as fast on a CPU; an exported file is run as it is, with its last feature map as a second output.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

from clinipress.errors import ModelError
from clinipress.formats.file import FileCandidate
from clinipress.formats.onnx.features import OnnxNetwork
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.open import engine_facts
from clinipress.models.classifier import TorchCandidate
from clinipress.models.features import TorchNetwork
from clinipress.recipe.formats import FORMATS
from clinipress.records.candidate import Candidate, FeatureNetwork

__all__ = ["feature_network"]


def feature_network(candidate: Candidate, *, threads: int | None = None) -> FeatureNetwork:
    """Open a candidate for Score-CAM.

    Args:
        candidate: A torch network, or a file whose format's row says `features`.
        threads: CPU threads of one call; None: as many as there are cores.

    Raises:
        ModelError: Its feature map cannot be read; the message is fit for "not measured".
    """
    if isinstance(candidate, TorchCandidate):
        return _of_torch(candidate, threads)
    facts = engine_facts(candidate.card.format)
    if facts.features and isinstance(candidate, FileCandidate):
        room = importlib.import_module(f"clinipress.formats.{facts.room}.features")
        network: FeatureNetwork = room.open_features(candidate.path, candidate.card, threads)
        return network
    titles = [row.title for row in FORMATS if row.features]
    readable = " or ".join(f"{'an' if t[0] in 'AEIOU' else 'a'} {t}" for t in titles)
    raise ModelError(
        f"a torch network, {readable} file for Score-CAM",
        f"'{candidate.card.name}' in the format {candidate.card.format}, whose feature map is no "
        "output",
    )


def _of_torch(candidate: TorchCandidate, threads: int | None) -> FeatureNetwork:
    """Through its ONNX file on a CPU; as it is on another device."""
    if candidate.module.shift.device.type != "cpu":
        return TorchNetwork(candidate)
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(candidate, path)
        return OnnxNetwork(path, "float32", threads)
