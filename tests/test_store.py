import errno
import json
from importlib import metadata
from unittest.mock import Mock

import pytest

import clinipress
from clinipress.errors import InputError, StorageError
from clinipress.records.store import Store, digest_of, read_json, storage, write_atomically


def test_digest_depends_on_content_and_not_on_order():
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    with pytest.raises(ValueError, match="JSON"):
        digest_of(float("nan"))


def test_a_piece_is_made_once(tmp_path):
    store, calls = Store(tmp_path / "run"), []

    def make(folder):
        calls.append(folder)
        (folder / "answer").write_text("42")

    first = store.once("piece", {"a": 1}, make)
    again = Store(tmp_path / "run").once("piece", {"a": 1}, make)
    other = store.once("piece", {"a": 2}, make)
    assert first == again != other
    assert len(calls) == 2
    assert (first / "answer").read_text() == "42"
    assert read_json(first / "inputs.json") == {"a": 1}


def test_a_piece_of_other_versions_is_made_anew_and_that_is_said(tmp_path, monkeypatch):
    calls, heard = [], Mock()
    store = Store(tmp_path / "run", heard)

    def once(kind="piece", inputs=None, **options):
        return store.once(kind, inputs or {"a": 1}, calls.append, **options)

    first, lasting = once(packages=["numpy"]), once("lasting", packages=None)
    heard.say.assert_not_called()
    ours, theirs = clinipress.__version__, metadata.version("numpy")
    monkeypatch.setattr("clinipress.version.__version__", "99.0")
    second = once(packages=["numpy"])
    heard.say.assert_called_once_with(
        f"a finished 'piece' of other versions is left aside: clinipress {ours} then, 99.0 now"
    )
    monkeypatch.setattr(metadata, "version", lambda name: {"numpy": "9.9"}[name])
    third = once(packages=["numpy"])
    assert len({first, second, third}) == 3
    assert f"numpy {theirs} then, 9.9 now" in heard.say.call_args.args[0]
    assert once(packages=["numpy"]) == third
    assert once("lasting", packages=None) == lasting
    assert len(calls) == 4
    heard.reset_mock()
    once(inputs={"a": 2})
    heard.say.assert_not_called()  # nothing of these inputs was there


def test_a_killed_piece_finds_what_it_left_and_its_checkpoints_go_when_it_is_done(tmp_path):
    store = Store(tmp_path / "run")

    def killed(folder):
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "epoch").write_text("3")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.once("piece", {}, killed)
    seen = []
    done = store.once("piece", {}, lambda f: seen.append((f / "checkpoint" / "epoch").read_text()))
    assert seen == ["3"]
    assert not (done / "checkpoint").exists()
    assert list((tmp_path / "run" / "work").iterdir()) == []


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_atomically(path, "old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clinipress.records.store.os.fsync", full)
    with pytest.raises(StorageError, match="full disk"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_storage_translates_only_what_it_knows(tmp_path):
    with pytest.raises(StorageError, match="can be written"), storage("x"):
        raise OSError(errno.EROFS, "Read-only file system", "/there")
    with pytest.raises(FileNotFoundError), storage("x"):
        raise FileNotFoundError(errno.ENOENT, "no")


def test_a_run_folder_cannot_be_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError):
        Store(tmp_path / "run")


def test_read_json(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([1]))
    (tmp_path / "b.json").write_text("{")
    store = Store(tmp_path)
    assert store.read("a.json") == [1]
    for name in ("b.json", "c.json"):
        with pytest.raises(InputError):
            store.read(name)
