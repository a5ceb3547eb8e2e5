from __future__ import annotations

import contextlib
import gzip
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clinipress.errors import ClinipressError, ImageError
from clinipress.kinds.image.read import decode, facts
from clinipress.records.candidate import InputSpec

GREY = InputSpec(channels=1, height=16, width=16)
COLOUR = InputSpec(channels=3, height=16, width=16)
RANDOM = np.random.default_rng(5)
RGBA = RANDOM.integers(0, 256, (16, 16, 4)).astype(np.uint8)


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def smooth(side: int = 64) -> Image.Image:
    y, x = np.mgrid[:side, :side]
    levels = np.stack([x * 255 // side, y * 255 // side, (x + y) * 127 // side], -1)
    return Image.fromarray(levels.astype(np.uint8))


def test_grey_and_colour_are_taken_as_they_are() -> None:
    rgb = RGBA[..., :3]
    np.testing.assert_array_equal(
        decode(saved(Image.fromarray(rgb)), COLOUR), np.moveaxis(rgb, 2, 0)
    )
    grey = RGBA[..., 0]
    np.testing.assert_array_equal(decode(saved(Image.fromarray(grey)), GREY)[0], grey)


def test_grey_from_colour_is_itu_r_601_luma() -> None:
    rgb = RGBA[..., :3]
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    found = decode(saved(Image.fromarray(rgb)), GREY)[0]
    assert np.abs(found - luma).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparent_pixels_lie_over_black(kind: str) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = decode(saved(Image.fromarray(RGBA), kind, **options), COLOUR)
    expected = RGBA[..., :3] * (RGBA[..., 3:] / 255)
    assert np.abs(found - np.moveaxis(expected, 2, 0)).max() <= 1


def test_grey_with_alpha_lies_over_black() -> None:
    found = decode(saved(Image.fromarray(RGBA[..., :2])), GREY)[0]
    assert np.abs(found - RGBA[..., 0] * (RGBA[..., 1] / 255)).max() <= 1


def test_palette_with_and_without_transparency() -> None:
    picture = Image.fromarray(RGBA[..., :3]).quantize(16)
    plain = np.moveaxis(np.asarray(picture.convert("RGB")), 2, 0)
    np.testing.assert_array_equal(decode(saved(picture), COLOUR), plain)
    found = decode(saved(picture, transparency=0), COLOUR)
    clear = np.asarray(picture) == 0
    assert clear.any()
    np.testing.assert_array_equal(found, np.where(clear, 0, plain))
    half = decode(saved(picture, transparency=bytes([128] * 16)), COLOUR)
    assert np.abs(half - plain * (128 / 255)).max() <= 1


def test_a_transparent_colour_of_grey_and_rgb_files() -> None:
    rgb = np.zeros((16, 16, 3), np.uint8) + np.array([200, 10, 30], np.uint8)
    rgb[:8] = 99
    found = decode(saved(Image.fromarray(rgb), transparency=(200, 10, 30)), COLOUR)
    assert (found[:, :8] == 99).all()
    assert (found[:, 8:] == 0).all()
    grey = decode(saved(Image.fromarray(rgb[..., 0]), transparency=200), GREY)
    assert (grey[0, :8] == 99).all()
    assert (grey[0, 8:] == 0).all()


def test_one_bit_cmyk_and_ycbcr() -> None:
    bits = Image.fromarray((RGBA[..., 0] > 127).astype(np.uint8) * 255).convert("1")
    np.testing.assert_array_equal(decode(saved(bits), GREY)[0], (RGBA[..., 0] > 127) * 255)
    cmyk = Image.fromarray(RGBA[..., :3]).convert("CMYK")
    expected = np.moveaxis(np.asarray(cmyk.convert("RGB")), 2, 0)
    np.testing.assert_array_equal(decode(saved(cmyk, "TIFF"), COLOUR), expected)
    ycbcr = smooth(16).convert("YCbCr")
    expected = np.moveaxis(np.asarray(ycbcr.convert("RGB")), 2, 0)
    np.testing.assert_array_equal(decode(saved(ycbcr, "TIFF"), COLOUR), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_use_the_range_of_the_values(kind: str) -> None:
    values = RANDOM.integers(900, 5000, (16, 16)).astype(np.uint16)
    low, high = int(values.min()), int(values.max())
    data = saved(Image.fromarray(values), kind)
    expected = np.rint((values.astype(np.float64) - low) / (high - low) * 255)
    assert np.abs(decode(data, GREY)[0] - expected).max() <= (1 if kind == "PPM" else 0)
    assert facts(data).bits >= 16


@pytest.mark.parametrize("stored", ["<i4", "<f4", ">u2"])
def test_integer_float_and_big_endian_tiff(stored: str) -> None:
    values = RANDOM.integers(0, 3000, (16, 16)).astype(stored)
    picture = Image.fromarray(values.astype("<u2")) if stored == ">u2" else Image.fromarray(values)
    data = saved(picture, "TIFF", **({"big_endian": True} if stored == ">u2" else {}))
    found = decode(data, GREY.model_copy(update={"window": (500.0, 2000.0)}))[0]
    expected = np.rint(np.clip((values.astype(np.float64) - 500) / 1500, 0, 1) * 255)
    np.testing.assert_array_equal(found, expected)


def test_a_window_maps_grey_and_leaves_colour() -> None:
    spec = {"window": (50.0, 100.0)}
    grey = RGBA[..., 0]
    found = decode(saved(Image.fromarray(grey)), GREY.model_copy(update=spec))[0]
    expected = np.rint(np.clip((grey.astype(float) - 50) / 50, 0, 1) * 255)
    np.testing.assert_array_equal(found, expected)
    colour = saved(Image.fromarray(RGBA[..., :3]))
    np.testing.assert_array_equal(
        decode(colour, COLOUR.model_copy(update=spec)), decode(colour, COLOUR)
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_honoured(orientation: int, kind: str) -> None:
    levels = np.zeros((16, 32), np.uint8)
    levels[:8, :16] = 250  # bright in the first quarter as stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(levels), kind, exif=exif)
    expected = {
        1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)
    }[orientation]  # fmt: skip
    found = decode(data, InputSpec(height=8, width=8))[0].reshape(2, 4, 2, 4).mean((1, 3))
    assert np.unravel_index(found.argmax(), (2, 2)) == expected
    assert (facts(data).width, facts(data).height) == ((16, 32) if orientation > 4 else (32, 16))


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "scan.jpg"
    path.write_bytes(saved(smooth(16), "TIFF"))
    assert facts(path).format == "TIFF"
    np.testing.assert_array_equal(decode(path, COLOUR), np.moveaxis(np.asarray(smooth(16)), 2, 0))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM"])
def test_a_path_and_its_bytes_give_the_same(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(saved(smooth(), kind))
    for spec in (GREY, COLOUR):
        np.testing.assert_array_equal(decode(path, spec), decode(path.read_bytes(), spec))
    assert facts(path) == facts(path.read_bytes())
    assert (facts(path).width, facts(path).height, facts(path).frames) == (64, 64, 1)


def plain(data: bytes, spec: InputSpec) -> np.ndarray:
    """As anybody would read it."""
    picture = Image.open(io.BytesIO(data)).convert("L" if spec.channels == 1 else "RGB")
    resized = np.asarray(picture.resize((spec.width, spec.height), Image.Resampling.BILINEAR))
    return resized[None] if spec.channels == 1 else np.moveaxis(resized, 2, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "JPEG2000", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("side", [17, 63, 256])
def test_networks_f13_pixels_are_those_of_a_plain_reading(kind: str, mode: str, side: int) -> None:
    """Of grey as colour and colour as grey too: a network trained elsewhere sees what it knows."""
    if mode == "CMYK" and kind not in ("JPEG", "TIFF"):
        kind = "JPEG"
    colours = np.random.default_rng(side).integers(0, 256, (side, side, 3)).astype(np.uint8)
    data = saved(Image.fromarray(colours).convert(mode), kind)
    for spec in (GREY, COLOUR):
        np.testing.assert_array_equal(decode(data, spec), plain(data, spec))


def test_a_sketch_stays_close_and_is_never_drafted_below_twice_the_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = saved(smooth(256), "JPEG", quality=95)
    for spec in (GREY, COLOUR):
        difference = decode(data, spec, sketch=True).astype(int) - plain(data, spec)
        assert 0 < np.abs(difference).max() <= 3
    sizes = []
    load = Image.Image.resize

    def spy(self: Image.Image, size: tuple[int, int], *rest: object) -> Image.Image:
        sizes.append(self.size)
        return load(self, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", spy)
    for side in (40, 63, 64, 65, 127, 128, 200, 256):
        decode(saved(smooth(side).convert("L"), "JPEG"), GREY, sketch=True)
    assert sizes == [(n, n) for n in (40, 63, 32, 33, 64, 32, 50, 32)]


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_001, 12_000, 50_000])
def test_a_decompression_bomb_is_refused(side: int) -> None:
    with pytest.raises(ImageError, match="100,000,000 pixels"):
        decode(png_claiming(side, side), GREY)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\x1f\x8b\x08\x00",
        gzip.compress(b"not an image"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
    ids=["empty", "text", "broken gzip", "gzip of text", "a program"],
)
def test_what_is_no_image_is_said_to_be_none(data: bytes) -> None:
    for read in (facts, lambda d: decode(d, GREY)):
        with pytest.raises(ImageError) as problem:
            read(data)
        assert "\n" not in str(problem.value)


def test_a_missing_file_a_folder_and_a_truncated_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no file at"):
        decode(tmp_path / "gone.png", GREY)
    with pytest.raises(ImageError, match=tmp_path.name):
        decode(tmp_path, GREY)
    path = tmp_path / "half.jpg"
    data = saved(smooth(), "JPEG")
    path.write_bytes(data[:-100])
    with pytest.raises(ImageError, match=r"half\.jpg.*truncated"):
        decode(path, GREY)
    assert facts(path).width == 64


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP"])
def test_damaged_bytes_raise_image_errors_only(kind: str) -> None:
    data = saved(smooth(32), kind)
    random = np.random.default_rng(len(data))
    refused = 0
    for turn in range(120):
        broken = bytearray(data[: random.integers(1, len(data))] if turn % 3 == 0 else data)
        for place in random.integers(0, min(len(broken), 400), random.integers(1, 6)):
            broken[place] ^= 1 << int(random.integers(8))
        with contextlib.suppress(ImageError):
            refused += 1
            facts(bytes(broken))
            assert decode(bytes(broken), GREY).shape == (1, 16, 16)
            refused -= 1
    assert refused > 10


def test_the_device_needs_neither_torch_nor_the_readers_of_other_formats() -> None:
    code = (
        "import sys, clinipress.kinds.image.read\n"
        "found = {'torch', 'pydicom', 'nibabel', 'pydantic', 'scipy'} & set(sys.modules)\n"
        "sys.exit(', '.join(found) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.realdata
def test_every_native_image_decodes_like_pillow(realdata: Path) -> None:
    paths = sorted((realdata / "readers" / "native-images").iterdir())
    assert len(paths) > 50
    spec = InputSpec(channels=3, height=64, width=64)
    for path in paths:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            black = Image.new("RGBA", upright.size, "black")
            flat = Image.alpha_composite(black, upright.convert("RGBA")).convert("RGB")
            about = (*upright.size, len(opened.getbands()), opened.format)
        expected = np.asarray(flat.resize((64, 64), Image.Resampling.BILINEAR), int)
        found = decode(path, spec)
        difference = np.abs(found - np.moveaxis(expected, 2, 0))
        assert difference.max() == 0, path.name
        header = facts(path)
        assert (header.width, header.height, header.channels, header.format) == about


@pytest.mark.realdata
@pytest.mark.parametrize("pattern", ["dicom-*/**/*", "nifti-dicom-nibabel/*"])
def test_every_file_of_the_readers_decodes_or_raises_one_line(realdata: Path, pattern: str) -> None:
    paths = [p for p in sorted((realdata / "readers").glob(pattern)) if p.is_file()]
    good = []
    for path in paths:
        problem = None
        try:
            assert decode(path, GREY).shape == (1, 16, 16)
            good.append(path.name)
        except ClinipressError as raised:
            problem = raised
        assert problem is None or isinstance(problem, ImageError)
        assert problem is None or (path.name in str(problem) and "\n" not in str(problem))
    assert len(good) > 10
    assert "MR_truncated.dcm" not in good
