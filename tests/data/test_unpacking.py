"""What a packed file unpacks to, found out before memory is taken for it."""

import gzip
import io
import zlib

import numpy as np
import pytest
from PIL import Image

from clinipress.errors import ImageError
from clinipress.kinds.image import unpacking
from clinipress.kinds.image.unpacking import claim, gunzip, inflated, length, limit

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def encoded(kind, pixels=PIXELS, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def small(monkeypatch):
    """Limits that a test can reach."""
    monkeypatch.setattr(unpacking, "ALWAYS_ALLOWED", 1000)
    monkeypatch.setattr(unpacking, "_CHUNK", 64)


def test_gzip_comes_off_whole():
    content = PIXELS.tobytes()
    stream = gunzip(io.BytesIO(gzip.compress(content)))
    assert stream.read() == content


def test_a_gzip_bomb_is_refused_and_a_dense_file_of_the_same_size_is_not(small):
    with pytest.raises(ImageError, match="goes on"):
        gunzip(io.BytesIO(gzip.compress(bytes(10**6))))
    dense = np.random.default_rng(1).bytes(5000)
    assert gunzip(io.BytesIO(gzip.compress(dense))).read() == dense


def test_deflated_data_are_counted_from_where_the_stream_stands():
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(bytes(70_000)) + packer.flush()
    stream = io.BytesIO(b"head" + packed)
    stream.seek(4)
    assert inflated(stream) == 70_000


def test_a_deflate_bomb_is_refused(small):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    with pytest.raises(ImageError, match="unpacks to at most"):
        inflated(io.BytesIO(packer.compress(bytes(10**6)) + packer.flush()))


def test_the_limit_grows_with_the_file():
    assert limit(0) == unpacking.ALWAYS_ALLOWED
    assert limit(10**9) == unpacking.LARGEST_RATIO * 10**9


def test_length_rewinds():
    stream = io.BytesIO(b"12345")
    stream.read(2)
    assert length(stream) == 5
    assert stream.tell() == 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + bytes(500), "comment": b"x" * 300}),
        ("JPEG2000", {}),
        ("JPEG2000", {"no_jp2": True}),
    ],
)
def test_a_claim_is_the_true_size_of_a_good_picture(kind, options):
    assert claim(encoded(kind, **options)) == (40, 24, 3)
    assert claim(encoded(kind, PIXELS[..., 0], **options)) == (40, 24, 1)


def test_a_thumbnail_inside_does_not_count():
    inside = b"Exif\0\0" + encoded("JPEG", PIXELS[:8, :8])
    assert claim(encoded("JPEG", exif=inside)) == (40, 24, 3)


def test_a_second_larger_frame_behind_the_scan_counts():
    data = encoded("JPEG")
    second = b"\xff\xc0\0\x11\x08" + (60000).to_bytes(2, "big") * 2 + b"\x03" + bytes(9)
    assert claim(data[:-2] + second + data[-2:]) == (60000, 60000, 3)


def test_an_offset_of_jpeg_2000_is_taken_off():
    data = bytearray(encoded("JPEG2000", no_jp2=True))
    data[16:24] = (7).to_bytes(4, "big") + (3).to_bytes(4, "big")
    assert claim(bytes(data)) == (33, 21, 3)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\0\0", encoded("PNG")])
def test_what_claims_nothing(data):
    assert claim(data) is None


def test_no_damage_makes_claim_raise_or_wait():
    random = np.random.default_rng(2)
    for kind in ("JPEG", "JPEG2000"):
        good = encoded(kind)
        for _ in range(300):
            bad = bytearray(good)
            for place in random.integers(0, len(bad), 4):
                bad[place] = random.integers(256)
            claim(bytes(bad[: random.integers(len(bad))]))


def test_a_bounded_stream_asks_for_no_more_than_there_is():
    asked = []

    class Stream(io.BytesIO):
        def read(self, count=-1):
            asked.append(count)
            return super().read(count)

    stream = unpacking.BoundedStream(Stream(b"0123456789"))
    assert stream.read(4) == b"0123"
    assert stream.read(2**40) == b"456789"
    assert stream.read(2**40) == b""
    assert stream.seek(-3, 2) == stream.tell() == 7
    assert stream.read() == b"789"
    assert max(asked) <= 10
