"""Files of other projects, read as other programs read them, or refused with one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from clinipress.errors import ClinipressError
from clinipress.kinds.image.pixels import quiet
from clinipress.kinds.image.read import decode, facts, reader_of
from clinipress.records.candidate import InputSpec

TABLE = json.loads((Path(__file__).parent / "readings.json").read_text())
WHEEL = Path(pydicom.__file__).parent / "data"
LOSSY = 3  # grey levels by which decoders of JPEG and of YCbCr differ
SPEC = InputSpec(channels=3, height=16, width=16)


def shown(path: Path, index: int) -> np.ndarray:
    """At its own size: uint8 ``[channels, h, w]``."""
    with quiet(), path.open("rb") as stream:
        reader = reader_of(stream)
        assert reader is not None
        levels = reader.read_raster(stream, index, path).grey_or_colour(None)
    return np.moveaxis(levels, 2, 0) if levels.ndim == 3 else levels[None]


def check(root: Path, name: str) -> int:
    """Compare a file with the table, 1 where it was compared; the unknown are read or refused."""
    key = f"{root.name}/{name}"
    problem = ""
    try:
        assert decode(root / name, SPEC).shape == (3, 16, 16)
    except ClinipressError as raised:
        problem = str(raised)
    if problem:
        assert key not in TABLE["shown"], f"{key}: {problem}"
        assert Path(name).name in problem
        assert "\n" not in problem
        return 0
    assert key not in TABLE["refused"], key
    for index, (tool, levels) in TABLE["shown"].get(key, {}).items():
        found = shown(root / name, int(index))
        rows, columns = (np.linspace(0, n - 1, 5).astype(int) for n in found.shape[1:])
        expected = np.frombuffer(bytes.fromhex(levels), np.uint8).reshape(found.shape[0], 5, 5)
        difference = np.abs(found[:, rows][:, :, columns].astype(int) - expected)
        assert difference.max() <= LOSSY, f"{key} {index}: {tool}"
        assert (difference > 1).mean() < 0.2, f"{key} {index}: {tool}"
    return int(key in TABLE["shown"])


def files(root: Path) -> list[str]:
    return [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]


# the files of pydicom's wheel lie under a folder named as the table calls it
@pytest.fixture
def pydicoms(tmp_path: Path) -> Path:
    (tmp_path / "pydicom").symlink_to(WHEEL)
    return tmp_path / "pydicom"


def test_every_file_of_pydicoms_wheel(pydicoms: Path) -> None:
    names = files(pydicoms)
    assert sum(check(pydicoms, name) for name in names) >= 80


@pytest.mark.realdata
def test_every_file_of_the_readers(realdata: Path) -> None:
    """NIfTI volumes and native images are compared where those are tested."""
    root = realdata / "readers"
    names = files(root)
    assert sum(check(root, name) for name in names) >= 30
    for name in names:
        try:
            about = facts(root / name)
        except ClinipressError:
            continue
        for index in {0, about.frames // 2, about.frames - 1} if about.frames > 1 else ():
            decode(root / name, SPEC, index=index)
