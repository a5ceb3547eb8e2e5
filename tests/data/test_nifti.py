from __future__ import annotations

import contextlib
import gzip
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from clinipress.errors import ImageError, MissingExtraError
from clinipress.kinds.image import nifti
from clinipress.kinds.image.pixels import quiet
from clinipress.kinds.image.read import decode, facts
from clinipress.records.candidate import InputSpec

SPEC = InputSpec(channels=1, height=10, width=8)
VALUES = np.random.default_rng(2).integers(-500, 1500, (8, 10, 5)).astype(np.int16)


def written(values: np.ndarray, kind: type = nibabel.Nifti1Image, **header: float) -> bytes:
    image = kind(values, np.eye(4))
    for name, value in header.items():
        image.header[name] = value
    return image.to_bytes()


def levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("packed", [False, True])
def test_slices_are_turned_upright_and_share_the_volumes_range(kind: type, packed: bool) -> None:
    data = written(VALUES, kind)
    data = gzip.compress(data) if packed else data
    for index in range(5):
        expected = levels(np.rot90(VALUES[:, :, index]), VALUES.min(), VALUES.max())
        close(decode(data, SPEC, index=index)[0], expected)
    np.testing.assert_array_equal(decode(data, SPEC), decode(data, SPEC, index=2))
    header = facts(data)
    assert (header.width, header.height, header.frames, header.bits) == (8, 10, 5, 16)
    assert header.format == "NIFTI"


def test_anterior_is_up_and_left_to_right_is_kept() -> None:
    values = np.zeros((8, 10, 1), np.uint8)
    values[7, 9, 0] = 200  # largest x, largest y
    found = decode(written(values), SPEC)[0]
    assert found[0, 7] == 200


def test_slope_intercept_window_and_display_range() -> None:
    image = nibabel.Nifti1Image(VALUES, np.eye(4))
    image.header.set_slope_inter(0.5, -100)
    data = image.to_bytes()
    # nibabel writes the slope it was given and scales the data back itself
    real = np.asarray(nibabel.Nifti1Image.from_bytes(data).dataobj)[:, :, 1]
    spec = SPEC.model_copy(update={"window": (-200.0, 300.0)})
    close(decode(data, spec, index=1)[0], levels(np.rot90(real), -200, 300))
    shown = written(VALUES, cal_min=0, cal_max=1000)
    close(decode(shown, SPEC, index=1)[0], levels(np.rot90(VALUES[:, :, 1]), 0, 1000))


def test_stored_slope_is_applied() -> None:
    data = bytearray(written(VALUES))
    data[112:120] = np.array([2.0, -30.0], "<f4").tobytes()  # scl_slope, scl_inter
    real = nibabel.Nifti1Image.from_bytes(bytes(data)).get_fdata()
    assert real.max() == VALUES.max() * 2 - 30
    spec = SPEC.model_copy(update={"window": (0.0, 500.0)})
    close(decode(bytes(data), spec, index=0)[0], levels(np.rot90(real[:, :, 0]), 0, 500))


def test_big_endian_eight_bit_and_float() -> None:
    swapped = nibabel.Nifti1Image(VALUES, np.eye(4)).header.as_byteswapped(">")
    data = nibabel.Nifti1Image(VALUES, np.eye(4), swapped).to_bytes()
    np.testing.assert_array_equal(
        decode(data, SPEC, index=3), decode(written(VALUES), SPEC, index=3)
    )
    eight = (VALUES % 200).astype(np.uint8)
    found = decode(written(eight), SPEC, index=0)[0]
    np.testing.assert_array_equal(found, np.rot90(eight[:, :, 0]))
    broken = VALUES.astype(np.float32)
    broken[0, 0] = np.nan
    assert decode(written(broken), SPEC, index=0)[0, 9, 0] == 0


def test_further_axes_are_laid_end_to_end() -> None:
    values = np.stack([VALUES[..., :3], VALUES[..., 1:4] + 7], axis=3)
    data = written(values)
    assert facts(data).frames == 6
    expected = levels(np.rot90(values[:, :, 2, 1]), values.min(), values.max())
    close(decode(data, SPEC, index=5)[0], expected)
    flat = written(VALUES[:, :, 0])
    assert facts(flat).frames == 1
    close(
        decode(flat, SPEC)[0],
        levels(np.rot90(VALUES[:, :, 0]), VALUES[..., 0].min(), VALUES[..., 0].max()),
    )


def test_colour_volumes() -> None:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb = np.random.default_rng(0).integers(0, 256, (8, 10, 2, 3)).astype(np.uint8)
    values = np.ascontiguousarray(rgb).view(kind)[..., 0]
    found = decode(written(values), InputSpec(channels=3, height=10, width=8), index=1)
    np.testing.assert_array_equal(found, np.moveaxis(np.rot90(rgb[:, :, 1]), 2, 0))


def test_a_path_and_its_bytes_give_the_same_and_a_changed_file_is_read_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "volume"
    path.write_bytes(gzip.compress(written(VALUES)))
    np.testing.assert_array_equal(
        decode(path, SPEC, index=1), decode(path.read_bytes(), SPEC, index=1)
    )
    path.write_bytes(gzip.compress(written(VALUES[:, :, ::-1])))
    close(decode(path, SPEC, index=1)[0], decode(written(VALUES), SPEC, index=3)[0].astype(int))


def test_slices_of_a_single_value_are_left_out(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[:, :, 0], values[:, :, 4] = 0, 37
    path = tmp_path / "volume.nii"
    path.write_bytes(written(values))
    assert nifti.pictures(path) == (None, [1, 2, 3])
    assert nifti.stored_bytes(path, 2) == VALUES[:, :, 2].tobytes()


@pytest.mark.parametrize("index", [5, -1])
def test_no_such_slice(index: int) -> None:
    with pytest.raises(ImageError, match="from 0 to 4"):
        decode(written(VALUES), SPEC, index=index)


def test_truncated_huge_and_complex_volumes() -> None:
    data = written(VALUES)
    with pytest.raises(ImageError, match="bytes of voxels"):
        decode(data[:-10], SPEC)
    with pytest.raises(ImageError):
        decode(gzip.compress(data)[:-200], SPEC)
    huge = bytearray(data)
    huge[40:56] = np.array([3, 30000, 30000, 30000, 1, 1, 1, 1], "<i2").tobytes()
    with pytest.raises(ImageError, match="at most"):
        decode(bytes(huge), SPEC)
    with pytest.raises(ImageError, match="real numbers"):
        decode(written(VALUES.astype(np.complex64)), SPEC)


def test_damaged_headers_raise_image_errors_only() -> None:
    data = written(VALUES)
    random = np.random.default_rng(4)
    refused = 0
    for _ in range(200):
        broken = bytearray(data)
        for place in random.integers(0, 344, 4):
            broken[place] ^= 1 << int(random.integers(8))
        with contextlib.suppress(ImageError):
            refused += 1
            facts(bytes(broken))
            assert decode(bytes(broken), SPEC).shape == (1, 10, 8)
            refused -= 1
    assert refused > 10


def test_without_nibabel_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(VALUES)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingExtraError, match=r"reading NIfTI.*clinipress\[nifti\]"):
        decode(data, SPEC)


@pytest.mark.realdata
def test_real_volumes_agree_with_nibabel(realdata: Path) -> None:
    folder = realdata / "readers" / "nifti-dicom-nibabel"
    checked = 0
    for path in sorted([*folder.glob("*.nii"), *folder.glob("*.nii.gz")]):
        with quiet():
            values = nibabel.load(path).get_fdata()
            header = nibabel.load(path).header
        pile = values.reshape(*values.shape[:2], -1, order="F")
        if min(pile.shape[:2]) < 4 or ".dconn." in path.name:  # no pictures, but a matrix
            continue
        spec = InputSpec(
            channels=1, height=max(8, pile.shape[1]), width=max(8, pile.shape[0]), window=(
                float(np.nanmin(pile)), float(np.nanmax(pile))
            )
        )  # fmt: skip
        index = pile.shape[2] // 2
        assert facts(path).frames == pile.shape[2], header
        if (spec.height, spec.width) == (pile.shape[1], pile.shape[0]):
            expected = levels(np.rot90(pile[:, :, index]), *spec.window)
            close(decode(path, spec, index=index)[0], np.nan_to_num(expected))
            checked += 1
    assert checked >= 6
