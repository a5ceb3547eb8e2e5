from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from clinipress.errors import ImageError
from clinipress.kinds.image.pixels import (
    Raster,
    check_size,
    inner_size,
    model_input,
    quiet,
    to_uint8,
)
from clinipress.records.candidate import InputSpec


def by_hand(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The window's formula in 64 bits, one value after the other."""
    return np.array(
        [round(min(max((float(v) - low) / (high - low), 0.0), 1.0) * 255) for v in values.ravel()]
    ).reshape(values.shape)


@pytest.mark.parametrize("kind", ["int16", "uint16", "int32", "float32", "float64", "uint8"])
def test_window_formula(kind: str) -> None:
    low, high = (-1000.0, 400.0) if kind not in ("uint8", "uint16") else (20.0, 200.0)
    values = np.random.default_rng(0).integers(0, 255, (9, 7)).astype(kind)
    if kind not in ("uint8", "uint16"):
        values = (values.astype(np.float64) * 12 - 1500).astype(kind)
    found = to_uint8(values, 16, (low, high))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, by_hand(values, low, high))
    assert found.min() == 0
    assert found.max() == 255


def test_full_range_without_a_window() -> None:
    values = np.array([[100, 300], [1100, 2100]], np.uint16)
    np.testing.assert_array_equal(to_uint8(values, 16), by_hand(values, 100, 2100))


def test_few_bits_are_scaled_by_their_nominal_range_and_eight_are_kept() -> None:
    np.testing.assert_array_equal(to_uint8(np.array([[0, 1]], np.uint8), 1), [[0, 255]])
    np.testing.assert_array_equal(to_uint8(np.array([[0, 3]], np.uint8), 4), [[0, 51]])
    np.testing.assert_array_equal(to_uint8(np.array([[7, 90]], np.uint8), 8), [[7, 90]])


def test_a_window_without_width_is_a_threshold_and_a_constant_is_black() -> None:
    assert to_uint8(np.array([[4, 5, 6]], np.int16), 16, (5, 5)).tolist() == [[0, 0, 255]]
    assert to_uint8(np.full((2, 2), 700, np.uint16), 16).max() == 0


def test_not_a_number_is_black_and_infinity_is_clipped() -> None:
    values = np.array([[np.nan, -np.inf, 0, 1, np.inf]], np.float32)
    assert to_uint8(values, 32).tolist() == [[0, 0, 0, 255, 255]]
    assert to_uint8(np.full((1, 2), np.nan, np.float32), 32).tolist() == [[0, 0]]


def test_large_integers_keep_their_differences() -> None:
    values = np.array([[2**31 - 3, 2**31 - 2, 2**31 - 1]], np.int64)  # one value in float32
    assert to_uint8(values, 32).tolist() == [[0, 128, 255]]


def test_the_callers_window_beats_the_files_and_its_display() -> None:
    values = np.array([[0, 50, 100]], np.int16)
    display = np.array([[9, 9, 9]], np.uint8)
    raster = Raster(values, 16, window=(0, 50), display=display, inverted=True)
    assert raster.grey_or_colour(None).tolist() == [[246, 246, 246]]
    assert raster.grey_or_colour((0, 100)).tolist() == [[255, 127, 0]]
    assert Raster(values, 16, window=(0, 50)).grey_or_colour(None).tolist() == [[0, 255, 255]]


def test_pad_keeps_the_shape_and_centres_on_black() -> None:
    spec = InputSpec(channels=1, height=16, width=16, fit="pad")
    found = model_input(Image.new("L", (40, 20), 200), spec)
    assert inner_size((40, 20), spec) == (16, 8)
    assert found.shape == (1, 16, 16)
    assert (found[0, 4:12] == 200).all()
    assert (found[0, :4] == 0).all()
    assert (found[0, 12:] == 0).all()


def test_stretch_is_pillows_bilinear() -> None:
    levels = np.random.default_rng(1).integers(0, 256, (30, 21, 3)).astype(np.uint8)
    picture = Image.fromarray(levels)
    found = model_input(picture, InputSpec(channels=3, height=9, width=12))
    expected = np.asarray(picture.resize((12, 9), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(found, expected)
    assert found.flags.c_contiguous


def test_grey_for_three_channels_is_repeated() -> None:
    found = model_input(Image.new("L", (8, 8), 77), InputSpec(channels=3, height=8, width=8))
    assert found.shape == (3, 8, 8)
    assert (found == 77).all()


def test_sizes_that_are_refused() -> None:
    check_size(10_000, 10_000)
    for width, height in [(0, 5), (10_001, 10_000)]:
        with pytest.raises(ImageError):
            check_size(width, height)


def test_quiet_silences_image_libraries_only_and_takes_it_back() -> None:
    before = list(warnings.filters)
    with quiet(), quiet():
        warnings.warn_explicit("x", UserWarning, "f.py", 1, module="PIL.TiffImagePlugin")
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn_explicit("ours", UserWarning, "f.py", 1, module="clinipress.data")
    assert warnings.filters == before
    with pytest.raises(UserWarning, match="x"):
        warnings.warn_explicit("x", UserWarning, "f.py", 1, module="PIL.TiffImagePlugin")


def test_quiet_holds_for_all_threads_until_the_last_leaves() -> None:
    before = list(warnings.filters)
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with quiet():
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=stay)
    thread.start()
    assert inside.wait(5)
    with quiet():
        pass
    warnings.warn_explicit("x", UserWarning, "f.py", 1, module="pydicom.filereader")
    leave.set()
    thread.join()
    assert warnings.filters == before


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_widest_ranges_keep_their_middle(kind: type) -> None:
    """Their width itself is too large for the type."""
    largest = float(np.finfo(kind).max)
    values = np.array([[-largest, 0, largest / 2, largest, np.inf, np.nan]], kind)
    assert to_uint8(values, 8 * np.dtype(kind).itemsize).tolist() == [[0, 128, 191, 255, 255, 0]]


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 64), (31, 500), (50, 40)])
@pytest.mark.parametrize("share", [None, 0.875])
def test_f13_crop_is_the_resize_and_center_crop_of_torchvision(size, share):
    from torchvision import transforms

    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    spec = InputSpec(channels=1, height=56, width=56, fit="crop", crop_share=share)
    theirs = transforms.Compose(
        [transforms.Resize(64 if share else 56), transforms.CenterCrop(56)]
    )(picture)
    assert np.array_equal(model_input(picture, spec)[0], np.asarray(theirs))


def test_f13_crop_of_a_strip_too_long_and_of_an_input_that_is_no_square():
    spec = InputSpec(channels=1, height=224, width=224, fit="crop")
    with pytest.raises(ImageError, match="at most"):
        model_input(Image.new("L", (500_000, 10)), spec)
    wide = InputSpec(channels=3, height=20, width=40, fit="crop")
    assert model_input(Image.new("RGB", (90, 90)), wide).shape == (3, 20, 40)


def test_f13_cards_without_a_crop_are_written_as_before():
    assert "crop_share" not in InputSpec().model_dump()
    assert InputSpec(fit="crop", crop_share=0.875).model_dump()["crop_share"] == 0.875
    with pytest.raises(ValueError, match="crop_share"):
        InputSpec(crop_share=0.9)
