"""Files, folders, numbered pictures, standard input."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinipress.edge.inputs import expand, locate
from clinipress.errors import InputError


def names(name: str, stdin: bytes = b"") -> list[str]:
    return [found for found, _source in expand(name, io.BytesIO(stdin))]


def test_a_file_is_itself_even_when_it_is_not_there():
    assert list(expand("a.png", None)) == [("a.png", Path("a.png"))]


def test_a_folder_is_walked_in_order_without_hidden_files_or_circles(tmp_path: Path):
    for name in ("b/2.png", "b/1.png", "a.png", ".hidden", ".git/x", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "linked.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "dead.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    found = [os.path.relpath(p, tmp_path) for p in names(str(tmp_path))]
    assert found == ["a.png", "b/1.png", "b/2.png", "c.txt", "linked.png"]


def test_f16_linked_folders_are_followed_once(tmp_path: Path):
    for name in ("set/a/1.png", "store/p1/2.png", "store/p2/3.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    for link, target in (("p1", "store/p1"), ("p2", "store/p2"), ("again", "store/p1")):
        (tmp_path / "set" / link).symlink_to(tmp_path / target)
    (tmp_path / "store" / "p2" / "up").symlink_to(tmp_path / "set")
    root = tmp_path / "set"
    found = [os.path.relpath(p, root) for p in names(str(root))]
    assert found == ["a/1.png", "again/2.png", "p2/3.png"]


def test_f26_thumbnails_of_a_disk_station_are_no_images(tmp_path: Path):
    for name in (
        "a/1.png",
        "a/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg",
        "a/Thumbs.db",
        "#recycle/2.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [os.path.relpath(p, tmp_path) for p in names(str(tmp_path))] == ["a/1.png"]


def test_f25_a_list_with_a_byte_order_mark(tmp_path: Path):
    assert names("-", "a.png\r\nü.png\r\n".encode("utf-8-sig")) == ["a.png", "ü.png"]


def test_a_folder_is_walked_lazily(tmp_path: Path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1").write_bytes(b"x")
    walk = expand(str(tmp_path), None)
    next(walk)
    (tmp_path / "b" / "2").write_bytes(b"x")
    assert len(list(walk)) == 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_image_bytes_on_standard_input(kind: str):
    buffer = io.BytesIO()
    levels = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    Image.fromarray(levels).save(buffer, kind)
    assert list(expand("-", io.BytesIO(buffer.getvalue()))) == [("-", buffer.getvalue())]


def test_dicom_bytes_on_standard_input():
    content = b"\0" * 128 + b"DICM" + b"text " * 1000
    assert list(expand("-", io.BytesIO(content))) == [("-", content)]


def test_a_plain_text_image_on_standard_input():
    content = b"P2\n2 2 9\n1 2 3 4\n"
    assert list(expand("-", io.BytesIO(content))) == [("-", content)]


def test_a_list_on_standard_input():
    text = "a.png\r\n\nfolder with blanks/b.png\nübung.png".encode()
    found = list(expand("-", io.BytesIO(text)))
    assert found == [(n, Path(n)) for n in ("a.png", "folder with blanks/b.png", "übung.png")]


def test_a_list_of_names_that_are_no_utf8():
    assert names("-", b"\xfcbung.png\nb.png") == ["\udcfcbung.png", "b.png"]


def test_a_long_list_on_standard_input_survives_every_cut():
    lines = [f"{'ü' * (i % 50)}/{i}.png" for i in range(2000)]  # two-byte letters at every offset
    assert names("-", "\n".join(lines).encode()) == lines


def test_a_list_is_read_as_it_comes():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream, os.fdopen(writer, "wb", buffering=0) as out:
        out.write(b"a.png\n")
        walk = expand("-", stream)
        assert next(walk)[0] == "a.png"  # the writer is still open: no waiting for more
        out.write(b"b.png\n")
        out.close()
        assert [name for name, _ in walk] == ["b.png"]


def test_empty_standard_input_is_an_error():
    with pytest.raises(InputError, match="nothing"):
        names("-")


def test_locate(tmp_path: Path):
    assert locate("v.nii.gz#34") == (Path("v.nii.gz"), 34)
    for plain in ("a.png", "a#b.png", "#3", "a#", "a#-1", "a#1x", "a#٣"):
        assert locate(plain) == (Path(plain), None)
    (tmp_path / "a#1").write_bytes(b"x")
    assert locate(tmp_path / "a#1") == (tmp_path / "a#1", None)
    assert locate(f"{tmp_path / 'a#1'}#2") == (tmp_path / "a#1", 2)
