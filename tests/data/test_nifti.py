from __future__ import annotations

import contextlib
import gzip
import itertools
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
    assert nifti.pictures(path) == ({}, [1, 2, 3])
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


ISOTROPIC = np.zeros((8, 10, 6), np.int16)
ISOTROPIC[1:3, 2:9, 1:4] = 500
ISOTROPIC[5, 1:4, 2] = 900
EVERY_ORDER = [
    "".join(axes)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for axes in itertools.product(*order)
]
ACROSS = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}


def reoriented(
    values: np.ndarray, codes: str, spacing: tuple[float, ...] = (1, 1, 1)
) -> nibabel.Nifti1Image:
    """The same anatomy, given in RAS, as another program stores it."""
    image = nibabel.Nifti1Image(values, np.diag([*spacing, 1.0]))
    ornt = nibabel.orientations.axcodes2ornt
    return image.as_reoriented(nibabel.orientations.ornt_transform(ornt("RAS"), ornt(codes)))


def slices_of(data: bytes) -> list[np.ndarray]:
    about = facts(data)
    spec = InputSpec(channels=1, height=max(8, about.height), width=max(8, about.width))
    return [decode(data, spec, index=n)[0] for n in range(about.frames)]


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 5), (4, 1, 1), (1, 3, 1)])
def test_f8_a_volume_gives_the_same_slices_however_it_is_stored(spacing: tuple[float, ...]) -> None:
    """All 48 orders of the axes; a thick stack is cut as it was acquired."""
    plane = ("sagittal", "coronal", "axial")[int(np.argmax(spacing)) if max(spacing) > 1 else 2]
    canonical = ISOTROPIC.transpose(ACROSS[plane])
    expected = [levels(np.rot90(canonical[:, :, n]), 0, 900) for n in range(canonical.shape[2])]
    for codes in EVERY_ORDER:
        data = reoriented(ISOTROPIC, codes, spacing).to_bytes()
        assert facts(data).plane == plane
        assert (facts(data).width, facts(data).height) == canonical.shape[:2]
        if min(canonical.shape[:2]) >= 8:
            np.testing.assert_array_equal(slices_of(data), expected)
    assert len(EVERY_ORDER) == 48


@pytest.mark.parametrize("codes", ["LPS", "PSR", "SPL"])
def test_f8_colour_and_further_axes_are_turned_too(codes: str) -> None:
    """Time stays time; a photograph of each voxel stays whole."""
    moving = np.stack([ISOTROPIC, ISOTROPIC[::-1] * 2], axis=-1).astype(np.int16)
    expected = slices_of(nibabel.Nifti1Image(moving, np.eye(4)).to_bytes())
    np.testing.assert_array_equal(slices_of(reoriented(moving, codes).to_bytes()), expected)
    rgb = np.zeros(ISOTROPIC.shape, [(name, "u1") for name in "RGB"])
    rgb["G"] = ISOTROPIC // 4
    data = reoriented(rgb, codes).to_bytes()
    colour = InputSpec(channels=3, height=10, width=8)
    shown = decode(data, colour, index=2)
    np.testing.assert_array_equal(shown[1], np.rot90(rgb["G"][:, :, 2]))
    assert shown[0].max() == 0


@pytest.mark.parametrize(("codes", "plane"), [("RSA", "coronal"), ("PSR", "sagittal")])
def test_f8_a_single_picture_is_turned_in_its_own_plane(codes: str, plane: str) -> None:
    """Cut anew it would be lines."""
    shape = {"coronal": (8, 1, 6), "sagittal": (1, 10, 6)}[plane]
    values = np.random.default_rng(3).integers(0, 900, shape).astype(np.int16)
    data = reoriented(values, codes).to_bytes()
    assert (facts(data).frames, facts(data).plane) == (1, plane)
    picture = values.transpose(ACROSS[plane])[:, :, 0]
    spec = InputSpec(channels=1, height=8, width=max(picture.shape[0], 8))
    found = decode(data, spec)[0]
    # six rows stand for eight: the corners say which way up it is
    corners = levels(np.rot90(picture), values.min(), values.max())[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.abs(found[[0, 0, -1, -1], [0, -1, 0, -1]] - corners).max() <= 1


def test_f8_an_affine_that_says_nothing_leaves_the_stored_order() -> None:
    image = nibabel.Nifti1Image(ISOTROPIC, np.eye(4))
    image.header["sform_code"], image.header["vox_offset"] = 1, 352
    for spoilt in (np.nan, 0.0):
        for row in ("srow_x", "srow_y", "srow_z"):
            image.header[row] = spoilt
        data = bytes(image.header.binaryblock) + bytes(4) + ISOTROPIC.tobytes(order="F")
        assert facts(data).plane == ""
        expected = levels(np.rot90(ISOTROPIC[:, :, 2]), 0, 900)
        np.testing.assert_array_equal(decode(data, SPEC, index=2)[0], expected)


BRIGHT = np.random.default_rng(0).normal(4000, 1500, (8, 10, 6)).clip(700)


@pytest.mark.parametrize(
    ("values", "low", "high", "believed"),
    [
        (BRIGHT, 0, 255, False),  # left behind by another program
        (BRIGHT, 8000, 90_000, False),  # above all values
        (BRIGHT - 9000, 0, 255, False),
        (np.where(np.arange(6) < 3, 0, BRIGHT * 10), 0, 255, False),  # background only is inside
        (BRIGHT, 0, 900_000, False),  # far too wide: black
        (BRIGHT, 2000, 6000, True),
        (np.where(np.arange(6) < 4, -1000, BRIGHT / 100), 0, 80, True),  # brain window, much air
        (BRIGHT, 0, 65_535, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_f12_a_display_range_is_believed_where_it_fits(
    values: np.ndarray, low: float, high: float, believed: bool, kind: type
) -> None:
    values = values.astype(kind)
    data = written(values, cal_min=low, cal_max=high)
    if not believed:
        low, high = float(values.min()), float(values.max())
    close(decode(data, SPEC, index=4)[0], levels(np.rot90(values[:, :, 4]), low, high))


@pytest.mark.realdata
def test_real_volumes_agree_with_nibabel(realdata: Path) -> None:
    folder = realdata / "readers" / "nifti-dicom-nibabel"
    checked = 0
    for path in sorted([*folder.glob("*.nii"), *folder.glob("*.nii.gz")]):
        if ".dconn." in path.name:  # no pictures, but a matrix
            continue
        with quiet():
            values = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
            header = nibabel.load(path).header
        about = facts(path)
        rest = range(3, values.ndim)
        values = values.transpose(*ACROSS[about.plane or "axial"], *rest)
        pile = values.reshape(*values.shape[:2], -1, order="F")
        spec = InputSpec(
            channels=1, height=max(8, pile.shape[1]), width=max(8, pile.shape[0]), window=(
                float(np.nanmin(pile)), float(np.nanmax(pile))
            )
        )  # fmt: skip
        index = pile.shape[2] // 2
        assert about.frames == pile.shape[2], header
        if (spec.height, spec.width) == (pile.shape[1], pile.shape[0]):
            expected = levels(np.rot90(pile[:, :, index]), *spec.window)
            close(decode(path, spec, index=index)[0], np.nan_to_num(expected))
            checked += 1
    assert checked >= 6
