"""NIfTI volumes to slices; nibabel does the parsing and is loaded when first used.

A volume ``[x, y, z, ...]`` is a pile of pictures along its last axis; axes beyond the third are
laid end to end, the third running fastest. A picture has x across and y upwards, so that anterior
is up in the usual RAS and LAS orders: ``numpy.rot90(volume[:, :, index])``.
"""

from __future__ import annotations

import gzip
import math
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ImageError
from clinipress.extras import require
from clinipress.kinds.image.pixels import HeaderFacts, Raster, check_size, quiet
from clinipress.kinds.image.unpacking import MAX_BYTES, MAX_PICTURES, length, limit

__all__ = ["pictures", "read_facts", "read_raster", "recognises", "stored_bytes"]


class _Volume(NamedTuple):
    """Values ``[x, y, slices]`` (RGB: and 3), bits, and the display range for all slices."""

    values: NDArray[Any]
    bits: int
    window: tuple[float, float] | None


def recognises(head: bytes) -> bool:
    """True for NIfTI-1 and NIfTI-2, also for a header whose voxels lie in another file."""
    return head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")


def read_facts(stream: BinaryIO, _source: Path | bytes = b"") -> HeaderFacts:
    """Size, channels, bits and number of slices, from the header alone."""
    return _facts(_header(_plain(stream)))


def read_raster(stream: BinaryIO, index: int | None, source: Path | bytes) -> Raster:
    """One slice in the file's unit, with the display range of the whole volume.

    Slices count from 0; None is the middle one. The last volumes read from paths are kept.
    """
    volume, bits, window = _kept(source) if isinstance(source, Path) else _volume(stream)
    count = volume.shape[2]
    index = count // 2 if index is None else index
    if not 0 <= index < count:
        raise ImageError(f"a slice number from 0 to {count - 1}", str(index))
    return Raster(np.rot90(volume[:, :, index]), bits, window)


def stored_bytes(path: Path, index: int) -> bytes:
    """The stored values of one slice, for a digest."""
    with quiet():
        return np.ascontiguousarray(_kept(path)[0][:, :, index]).tobytes()


def pictures(path: Path) -> tuple[None, list[int]]:
    """Numbers of the slices that are not one single value; the header names no patient.

    Empty slices are alike in all volumes and would tie all patients together as duplicates.
    """
    with quiet():
        volume = _kept(path)[0]
    flat = volume.reshape(-1, volume.shape[2], *volume.shape[3:])
    return None, [k for k in range(volume.shape[2]) if (flat[:, k] != flat[:1, k]).any()]


def _kept(path: Path) -> _Volume:
    facts = path.stat()
    return _from_path(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=2)  # slices are asked for one after the other; a volume may be 100 MB
def _from_path(path: Path, _size: int, _time: int) -> _Volume:
    with path.open("rb") as stream:
        return _volume(stream)


def _nibabel() -> Any:
    return require("nibabel", extra="nifti")


def _plain(stream: BinaryIO) -> BinaryIO:
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    return gzip.GzipFile(fileobj=stream) if packed else stream  # type: ignore[return-value]


def _header(stream: BinaryIO) -> Any:
    """The header, unchecked: nibabel's own check writes to the terminal."""
    nibabel = _nibabel()
    head = stream.read(540)
    kind = nibabel.Nifti2Header if head[4:7] in (b"n+2", b"ni2") else nibabel.Nifti1Header
    return kind(head[: kind.sizeof_hdr], check=False)


def _facts(header: Any) -> HeaderFacts:
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) < 2 or min(shape) < 1:
        raise ImageError("a NIfTI volume of two dimensions or more", f"the shape {shape}")
    if math.prod(shape[2:]) > MAX_PICTURES:
        raise ImageError(f"a volume of at most {MAX_PICTURES:,} slices", f"the shape {shape}")
    dtype = header.get_data_dtype()
    return HeaderFacts(
        width=shape[0],
        height=shape[1],
        channels=len(dtype.names) if dtype.names else 1,
        bits=8 if dtype.names else 8 * dtype.itemsize,
        frames=math.prod(shape[2:]),
        format="NIFTI",
    )


def _volume(stream: BinaryIO) -> _Volume:
    packed = length(stream)
    plain = _plain(stream)
    header = _header(plain)
    facts = _facts(header)
    check_size(facts.width, facts.height)
    dtype, offset = header.get_data_dtype(), int(header["vox_offset"])
    size = facts.width * facts.height * facts.frames * dtype.itemsize
    if header["magic"].item()[:2] != b"n+":
        raise ImageError("a NIfTI file with its voxels", "a header without them (.hdr)")
    allowed = MAX_BYTES if plain is stream else min(MAX_BYTES, limit(packed))
    if offset + size > allowed:
        raise ImageError(f"a volume of at most {allowed:,} bytes", f"{size:,}")
    if plain is stream and offset + size > packed:  # said before memory is taken for them
        raise ImageError(f"{size:,} bytes of voxels", f"{max(0, packed - offset):,}")
    plain.seek(offset)
    content = plain.read(size)
    if len(content) < size:
        raise ImageError(f"{size:,} bytes of voxels", f"{len(content):,}")
    volume = np.frombuffer(content, dtype).reshape((facts.width, facts.height, -1), order="F")
    if dtype.names:
        return _Volume(np.stack([volume[name] for name in dtype.names[:3]], axis=-1), 8, None)
    return _scaled(volume, header, facts.bits)


def _scaled(volume: NDArray[Any], header: Any, bits: int) -> _Volume:
    """Apply slope and intercept; the range is cal_min to cal_max, else that of the values."""
    if volume.dtype.kind not in "iuf":
        raise ImageError("a volume of real numbers", f"values of type {volume.dtype}")
    slope, intercept = header.get_slope_inter()
    if slope is not None and (slope, intercept) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):
            volume = volume * np.float32(slope) + np.float32(intercept)
    low, high = float(header["cal_min"]), float(header["cal_max"])
    if -math.inf < low < high < math.inf:
        return _Volume(volume, bits, (low, high))
    if volume.dtype == np.uint8:
        return _Volume(volume, bits, None)
    real = volume[np.isfinite(volume)] if volume.dtype.kind == "f" else volume
    full = (float(real.min()), float(real.max())) if real.size else (0.0, 0.0)
    return _Volume(volume, bits, full)
