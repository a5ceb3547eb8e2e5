"""How long networks take on this machine as the float32 files they would become."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from clinipress.formats.measure import latency
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.models.classifier import TorchCandidate
from clinipress.steps.step import Context

__all__ = ["FileTimer"]


class FileTimer:
    """Times float32 files in ONNX Runtime, call by call in turn; its files go when it is closed."""

    calls = 100

    def __init__(self, origin: TorchCandidate, threads: int, context: Context) -> None:
        self.origin, self.threads = origin, threads
        self.folder = context.work / "latency"
        spec = origin.card.input
        rows = context.data.rows("validation", spec).index[:1]
        self.image = context.data.cache(spec).take(rows)

    def close(self) -> None:
        """Delete what was exported."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def file(self, candidate: TorchCandidate) -> OnnxCandidate:
        """The candidate's file, opened."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{candidate.digest[:16]}.onnx"
        export_onnx(candidate, path)
        return OnnxCandidate.load(path, threads=self.threads)

    def medians(self, files: Mapping[str, OnnxCandidate]) -> dict[str, float]:
        """Median milliseconds of a call of each."""
        rows = latency(files, self.image, threads=self.threads, repeats=self.calls)
        return {name: rows[name].median for name in files}
