import contextlib
import errno
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from unittest.mock import Mock

import pytest

import clinipress
from clinipress.errors import InputError, StorageError
from clinipress.records.store import Store, digest_of, locked, read_json, storage, write_atomically


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


HOLD = """
import sys, time
from pathlib import Path
from clinipress.records.store import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holder(folder):
    """Another process that works in the folder."""
    source = str(Path(clinipress.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], env=os.environ | {"PYTHONPATH": source},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("disk", ["with locks", "without locks"])
def test_f7_a_folder_is_worked_in_by_one_process_and_taken_over_when_it_is_gone(
    tmp_path, monkeypatch, disk
):
    if disk == "without locks":  # some network disks

        def refuse(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.flock", refuse)
    run = tmp_path / "run"
    with holder(run) as process:
        with pytest.raises(InputError, match=f"in use by process {process.pid} since"), locked(run):
            pass
        process.kill()  # nothing of its own says that it has ended
        process.wait()
        with locked(run):
            assert json.loads((run / ".lock").read_text())["process"] == os.getpid()
    assert (run / ".lock").read_text() == ""
    with locked(run):
        pass


def test_f7_without_locks_another_computer_is_not_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOLCK, "none")))
    held = {"host": "elsewhere", "process": 1, "since": "2026-01-01"}
    (tmp_path / ".lock").write_text(json.dumps(held))
    with pytest.raises(InputError, match="process 1 since 2026-01-01"), locked(tmp_path):
        pass
    (tmp_path / ".lock").write_text("{")  # damaged: of nobody
    with locked(tmp_path):
        pass


def test_f7_an_error_frees_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass


def test_f7_a_second_run_is_refused_in_one_line(tmp_path):
    from clinipress.study.flow import run_study
    from kit.studies import study

    with locked(tmp_path / "run"), pytest.raises(InputError, match="nothing else is at work"):
        run_study(study(), tmp_path / "data", tmp_path / "run")


def test_f11_what_killed_writers_left_goes_with_the_next_run_and_never_into_a_piece(tmp_path):
    run = tmp_path / "run"
    store = Store(run)

    def make(folder):
        (folder / ".plan.json.123.part").write_text("half")
        (folder / "deep").mkdir()
        (folder / "deep" / ".x.1.part").write_text("half")
        (folder / "plan.json").write_text("whole")

    done = store.once("piece", {}, make)
    names = {path.name for path in done.rglob("*") if path.is_file()}
    assert names == {"plan.json", "inputs.json", "versions.json", "sha256.json"}
    for name in (".result.json.7.part", "scores/.a.npz.8.part"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("half")
    with locked(run):
        pass
    assert not list(run.rglob(".*.part"))


@pytest.mark.parametrize("damage", ["changed", "gone", "cut", "hashes gone", "hashes no JSON"])
def test_f1_a_damaged_piece_is_noticed_and_made_again(tmp_path, damage):
    heard, calls = Mock(), []

    def make(folder):
        calls.append(folder)
        (folder / "deep").mkdir()
        (folder / "deep" / "answer").write_text("42")

    def once():
        return Store(tmp_path / "run", heard).once("piece", {"a": 1}, make)

    done = once()
    assert once() == done
    assert len(calls) == 1
    answer, hashes = done / "deep" / "answer", done / "sha256.json"
    {
        "changed": lambda: answer.write_text("43"),
        "gone": answer.unlink,
        "cut": lambda: answer.write_text(""),
        "hashes gone": hashes.unlink,
        "hashes no JSON": lambda: hashes.write_text("[]"),
    }[damage]()
    assert once() == done
    assert len(calls) == 2
    assert answer.read_text() == "42"
    assert "is not as it was made" in heard.say.call_args.args[0]
