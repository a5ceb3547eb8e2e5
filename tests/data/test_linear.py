"""What is read of a file, and how often."""

from __future__ import annotations

import io
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinipress.data.audit.fingerprints import read_all
from clinipress.data.sources import read_dataset
from kit.dicoms import EIGHT, made, written

CINE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "cine.py"))
FRAMES = 60


@pytest.mark.nightly
@pytest.mark.parametrize("way", CINE["WAYS"])
def test_f20_a_cine_costs_no_more_than_its_frames_as_files(way: str, tmp_path: Path) -> None:
    single, one = CINE["ratio"](way, 500, tmp_path)
    assert one <= CINE["AIM"] * single


class Counted(io.FileIO):
    """A file that counts the bytes that are read of it."""

    read_bytes = 0

    def read(self, count: int | None = -1, /) -> bytes:
        content = super().read(-1 if count is None else count) or b""
        Counted.read_bytes += len(content)
        return content

    def readall(self) -> bytes:
        content = super().readall()
        Counted.read_bytes += len(content)
        return content


def whole(path: Path) -> bytes:
    with Counted(path) as stream:
        return stream.read()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    """Every binary file is opened so; unbuffered, as no reading ahead is to be counted."""
    Counted.read_bytes = 0
    monkeypatch.setattr(Path, "open", lambda path, mode="r", *_args, **_more: Counted(path))
    monkeypatch.setattr(Path, "read_bytes", whole)
    return Counted


def test_f20_a_frame_reads_its_own_bytes(tmp_path: Path, counted: type[Counted]) -> None:
    """Listing and the audit's reading take each frame once, and hash the file once."""
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        frames = np.random.default_rng(1).integers(0, 4096, (FRAMES, 32, 32)).astype("u2")
        data = written(made(frames))
        with io.FileIO(tmp_path / label / "cine.dcm", "wb") as file:
            file.write(data)
    readings = read_all(read_dataset(tmp_path), threads=1)
    assert readings.readable.sum() == 2 * FRAMES
    assert counted.read_bytes < 2 * 5 * len(data)


@pytest.mark.parametrize("name", ["clip.mp4", "slide.svs", "pile.tar", "noise.png", "none"])
def test_f21_no_file_is_read_whole_before_its_kind_is_known(
    name: str, tmp_path: Path, counted: type[Counted]
) -> None:
    """Of a gigabyte of nothing, and of one behind a header of too many pixels."""
    head = {"clip.mp4": b"\0\0\0\x18ftypisom", "slide.svs": b"II*\0\x10\0\0\0"}.get(name, b"")
    good = io.BytesIO()
    Image.fromarray(EIGHT).save(good, "PNG")
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for file, content, size in ((name, head, 2**30), ("good.png", good.getvalue(), None)):
            with io.FileIO(tmp_path / label / file, "wb") as stream:
                stream.write(content)
                stream.truncate(size)
    readings = read_all(read_dataset(tmp_path), threads=1)
    assert readings.readable.sum() == 2
    assert counted.read_bytes < 2**20
