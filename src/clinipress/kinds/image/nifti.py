"""NIfTI volumes to slices; nibabel does the parsing and is loaded when first used.

A volume is turned to its canonical axes, right, anterior and superior, as nibabel's
``as_closest_canonical`` does it, however it was stored: its slices are axial, x across, y upwards
(``numpy.rot90(volume[:, :, index])``). Where the voxels are at least `THICK` times as long along
another axis, or there is one slice only, it is cut as it was acquired, coronal or sagittal, since
slices across thick ones would be strips. Axes beyond the third are laid end to end, the third
running fastest.
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
from clinipress.kinds.image.pixels import (
    PLANES,
    HeaderFacts,
    Raster,
    check_size,
    quiet,
    value_range,
)
from clinipress.kinds.image.unpacking import MAX_BYTES, MAX_PICTURES, length, limit

THICK = 2.0
"""A slice is thick where its voxels are so many times as long across it as within it."""
# A display range is believed where it holds this share of the values, and is not so many times
# narrower than most of them, or wider than all of them.
_LEAST_INSIDE, _NARROWEST, _WIDEST = 0.01, 0.02, 16
_SAMPLE = 1_000_000

__all__ = ["pictures", "read_facts", "read_raster", "recognises", "stored_bytes"]


class _Axes(NamedTuple):
    """Which stored axes run across, upwards and through the slices; which are turned; the plane."""

    order: tuple[int, ...]
    turned: tuple[int, ...]
    plane: str


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


def pictures(path: Path) -> tuple[dict[str, str], list[int]]:
    """Numbers of the slices that are not one single value; the header names no patient.

    Empty slices are alike in all volumes and would tie all patients together as duplicates.
    """
    with quiet():
        volume = _kept(path)[0]
    flat = volume.reshape(-1, volume.shape[2], *volume.shape[3:])
    return {}, [k for k in range(volume.shape[2]) if (flat[:, k] != flat[:1, k]).any()]


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


def _shape(header: Any) -> tuple[int, ...]:
    """Three axes or more."""
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) < 2 or min(shape) < 1:
        raise ImageError("a NIfTI volume of two dimensions or more", f"the shape {shape}")
    if math.prod(shape[2:]) > MAX_PICTURES or max(shape[:2]) > MAX_PICTURES:
        raise ImageError(f"a volume of at most {MAX_PICTURES:,} slices", f"the shape {shape}")
    return shape if len(shape) > 2 else (*shape, 1)


def _axes(header: Any, shape: tuple[int, ...]) -> _Axes:
    """By the header's affine; as stored where that says nothing."""
    with np.errstate(all="ignore"):
        try:
            affine = header.get_best_affine()
            world, directions = _nibabel().orientations.io_orientation(affine).T
        except (ValueError, np.linalg.LinAlgError, _nibabel().spatialimages.HeaderDataError):
            return _Axes((0, 1, 2), (), "")
    if not np.isfinite(world).all():
        return _Axes((0, 1, 2), (), "")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    single = [axis for axis in range(3) if shape[axis] == 1]
    longest = int(np.argmax(lengths))
    if len(single) == 1:
        through = single[0]
    elif lengths[longest] >= THICK * np.delete(lengths, longest).max():
        through = longest
    else:
        through = int(np.argmax(world))
    within = sorted({0, 1, 2} - {through}, key=lambda axis: float(world[axis]))
    order = (*within, through)
    turned = tuple(place for place, axis in enumerate(order) if directions[axis] < 0)
    return _Axes(order, turned, PLANES[int(world[through])])


def _facts(header: Any) -> HeaderFacts:
    shape = _shape(header)
    axes = _axes(header, shape)
    width, height, depth = (shape[axis] for axis in axes.order)
    frames = depth * math.prod(shape[3:])
    if frames > MAX_PICTURES:
        raise ImageError(f"a volume of at most {MAX_PICTURES:,} slices", f"the shape {shape}")
    dtype = header.get_data_dtype()
    return HeaderFacts(
        width=width,
        height=height,
        channels=len(dtype.names) if dtype.names else 1,
        bits=8 if dtype.names else 8 * dtype.itemsize,
        frames=frames,
        format="NIFTI",
        plane=axes.plane,
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
    shape = _shape(header)
    axes = _axes(header, shape)
    volume = np.frombuffer(content, dtype).reshape(shape, order="F")
    volume = np.flip(volume.transpose(*axes.order, *range(3, len(shape))), axes.turned)
    volume = volume.reshape((facts.width, facts.height, -1), order="F")
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
    if -math.inf < low < high < math.inf and _believable(volume, low, high):
        return _Volume(volume, bits, (low, high))
    if volume.dtype == np.uint8:
        return _Volume(volume, bits, None)
    return _Volume(volume, bits, value_range(volume) or (0.0, 0.0))


def _believable(volume: NDArray[Any], low: float, high: float) -> bool:
    """Whether a stated display range fits the values; other programs leave stale ones behind.

    What has the smallest value is background and does not count.
    """
    values = volume.ravel(order="K")[:: max(1, volume.size // _SAMPLE)]
    values = values[np.isfinite(values)].astype(np.float64)
    inner = values[values > values.min(initial=0)]
    if not inner.size:
        return False
    first, last = np.percentile(inner, (1, 99))
    inside = float(np.mean((inner > low) & (inner < high)))
    wide = (high - low) <= _WIDEST * (values.max() - values.min())
    return inside >= _LEAST_INSIDE and (high - low) >= _NARROWEST * (last - first) and bool(wide)
