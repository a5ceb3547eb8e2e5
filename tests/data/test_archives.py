"""Archives that are whole, and archives that are traps."""

import stat
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest

from clinipress.data.named import archives
from clinipress.data.named.archives import unpack
from clinipress.errors import DataError


def pack(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_everything_arrives_but_the_noise(tmp_path):
    files = {"a/b/1.png": b"one", "a/2.png": b"two", "__MACOSX/a/._1": b"x", "a/.DS_Store": b"x"}
    out = unpack(pack(tmp_path / "set.zip", files), tmp_path / "set")
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == {"a/b/1.png": b"one", "a/2.png": b"two"}


def test_what_was_unpacked_before_is_left_alone(tmp_path):
    (tmp_path / "set").mkdir()
    assert unpack(tmp_path / "no.zip", tmp_path / "set") == tmp_path / "set"


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "/evil",
        "C:/evil",
        "C:evil",
        "..\\evil",
        "a\\..\\..\\evil",
        "\\evil",
    ],
)
def test_nothing_leaves_the_folder(tmp_path, name):
    home = tmp_path / "home"
    home.mkdir()
    path = pack(home / "set.zip", {"good.png": b"x", name: b"x"})
    with pytest.raises(DataError, match="names inside the folder"):
        unpack(path, home / "set")
    assert [f.name for f in home.iterdir()] == ["set.zip"]
    assert [f.name for f in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFBLK])
def test_links_and_devices_are_refused(tmp_path, kind):
    entry = zipfile.ZipInfo("link.png")
    entry.external_attr = (kind | 0o777) << 16
    path = pack(tmp_path / "set.zip", {"a.png": b"x"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(DataError, match="link or device"):
        unpack(path, tmp_path / "set")


def test_a_bomb_is_refused_before_a_byte_is_written(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(300):
            archive.writestr(f"{number}.png", bytes(2**20))
    assert path.stat().st_size < 2**20  # 300 MiB of nothing
    with pytest.raises(DataError, match="far more than pictures"):
        unpack(path, tmp_path / "bomb")
    assert [f.name for f in tmp_path.iterdir()] == ["bomb.zip"]


def test_a_directory_that_claims_less_than_the_data_holds_is_found_out(tmp_path):
    path = pack(tmp_path / "set.zip", {"a.png": b"x" * 5000})
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"PK\x01\x02") + 24  # the uncompressed size in the central directory
    raw[at : at + 4] = (10).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(DataError, match="undamaged"):
        unpack(path, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_names_that_differ_only_in_case_are_refused(tmp_path):
    path = pack(tmp_path / "set.zip", {"A.png": b"1", "a.png": b"2"})
    with pytest.raises(DataError, match="two of one name"):
        unpack(path, tmp_path / "set")


def test_an_archive_with_password_is_refused(tmp_path):
    path = pack(tmp_path / "set.zip", {"a.png": b"x"})
    raw = bytearray(path.read_bytes())
    raw[raw.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match="password"):
        unpack(path, tmp_path / "set")


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "empty"])
def test_a_damaged_archive_leaves_nothing(tmp_path, damage):
    path = pack(tmp_path / "set.zip", {f"{n}.png": bytes([n]) * 4000 for n in range(9)}, 0)
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 255
    damaged = {"cut": raw[:-200], "text": b"no zip", "empty": b""}.get(damage, raw)
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="undamaged"):
        unpack(path, tmp_path / "set")
    assert [f.name for f in tmp_path.iterdir()] == ["set.zip"]


def test_an_archive_of_nothing(tmp_path):
    with pytest.raises(DataError, match="none"):
        unpack(pack(tmp_path / "set.zip", {}), tmp_path / "set")


def test_more_files_than_any_set_has(tmp_path, monkeypatch):
    path = pack(tmp_path / "set.zip", {f"{n}.png": b"x" for n in range(5)})
    monkeypatch.setattr(archives, "_MOST_FILES", 4)
    with pytest.raises(DataError, match="at most 4 files"):
        unpack(path, tmp_path / "set")


def test_no_room(tmp_path, monkeypatch):
    path = pack(tmp_path / "set.zip", {"a.png": b"x" * 100})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(DataError, match="room for 100 bytes"):
        unpack(path, tmp_path / "set")


KILLED = """
import os, sys
from pathlib import Path
from clinipress.data.named import archives
write = archives._write
def dies(content, member, staging):
    write(content, member, staging)
    if member.filename == "5.png":
        os.kill(os.getpid(), 9)
archives._write = dies
archives.unpack(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_killed_half_way_the_folder_is_not_there_and_comes_whole_afterwards(tmp_path):
    path = pack(tmp_path / "set.zip", {f"{n}.png": bytes([n]) for n in range(9)})
    died = subprocess.run([sys.executable, "-c", KILLED, str(path), str(tmp_path / "set")])
    assert died.returncode == -9
    assert not (tmp_path / "set").exists()
    unpack(path, tmp_path / "set")
    assert len(list((tmp_path / "set").iterdir())) == 9
    assert sorted(f.name for f in tmp_path.iterdir()) == ["set", "set.zip"]
