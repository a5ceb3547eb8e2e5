"""F8, F11: whatever happens to a command, it leaves one line and the exit code of its kind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from clinipress.cli import commands as cli
from clinipress.data.named.archives import unpack
from clinipress.errors import DataError, InputError

HERE = Path(__file__).resolve().parent
SOURCE = Path(cli.__file__).resolve().parents[2]
# a command line with commands that end in every way
ENDS = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # else deaf in a background job
import typer
from clinipress.cli import commands

@commands.app.command()
def wait():
    print("ready", flush=True)
    time.sleep(60)

@commands.app.command()
def crash(kind: str):
    if kind == "pass":
        raise typer.Exit(0)
    if kind == "gate":
        raise typer.Exit(1)
    if kind == "memory":
        bytearray(2**60)
    if kind == "thread":
        raise RuntimeError("can't start new thread")
    if kind == "torch":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 TB\\nframe 1")
    if kind == "import":
        raise ImportError("libtorch_cpu.so: failed to map segment from shared object")
    if kind == "deep":
        crash.__wrapped__ = None
        deep = lambda: deep()
        deep()
    if kind == "long":
        raise ValueError("x" * 100_000)
    if kind == "escape":
        raise ValueError("\\x1b[31m red")

@commands.app.command()
def talk(lines: int = 100_000, text: str = "line"):
    for number in range(lines):
        commands._write(f"{text} {number}")

@commands.app.command()
def verdict(status: str):
    progress = commands._progress(False)
    for number in range(20_000):
        progress.say(f"work {number}")
    Judged = type("Judged", (), {"status": status})
    Result = type("Result", (), {"verdict": Judged})
    commands._write_json = lambda _: commands._write("x" * 10**6)
    commands._finish(Result, None, True)

commands.main()
"""


def start(*arguments: object, **options):
    environment = os.environ | {"PYTHONPATH": str(SOURCE)} | options.pop("env", {})
    return subprocess.Popen(
        [sys.executable, "-c", ENDS, *map(str, arguments)],
        env=environment, stderr=subprocess.PIPE, text=True,
        **{"stdout": subprocess.PIPE, **options},
    )  # fmt: skip


def end(*arguments: object, **options) -> tuple[int, list[str]]:
    process = start(*arguments, **options)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors.splitlines()


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["SIGINT", "SIGTERM"],
)
def test_f11_interrupted_it_says_how_to_go_on(number, code, word):
    process = start("wait")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    line = f"clinipress: {word}; run the same command again to go on\n"
    assert (process.returncode, errors) == (code, line)


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("pass", 0, None),
        ("gate", 1, None),
        ("memory", 2, "memory for the work, got MemoryError"),
        ("torch", 2, "memory for the work, got RuntimeError: DefaultCPUAllocator"),
        ("thread", 2, "can't start new thread"),
        ("import", 2, "failed to map segment"),
        ("deep", 2, "RecursionError"),
        ("long", 2, "[...]"),
        ("escape", 2, "?[31m red"),
    ],
)
def test_f8_no_exception_is_taken_for_a_failed_gate(kind, code, said):
    got, errors = end("crash", kind)
    assert got == code
    if said is None:
        assert errors == []
    else:
        (line,) = errors
        assert line.startswith("clinipress: expected")
        assert said in line
        assert len(line) < 2000


def test_f8_where_it_came_from_is_shown_on_demand():
    for arguments, env in ((["--debug"], {}), ([], {"CLINIPRESS_DEBUG": "1"})):
        code, errors = end(*arguments, "crash", "thread", env=env)
        assert code == 2
        assert errors[0] == "Traceback (most recent call last):"
        assert errors[-1].startswith("clinipress: expected the work to go on")
    assert end("--debug", "crash", "gate") == (1, [])


def test_f8_a_reader_that_leaves_ends_nothing():
    with start("talk") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize(("status", "code"), [("pass", 0), ("fail", 1), ("inconclusive", 1)])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_f8_a_verdict_stands_whoever_listens(stream, status, code):
    """Nor does the work end where nobody reads its progress."""
    with start("verdict", status) as process:
        getattr(process, stream).close()
        left = process.stderr.read() if stream == "stdout" else len(process.stdout.read())
    assert process.returncode == code
    assert left == 10**6 + 1 if stream == "stderr" else left.endswith("work 19999\n")


def test_f8_closed_and_full_output():
    shell = f'exec {sys.executable} -c "$ENDS" talk --lines 3'
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "ENDS": ENDS}
    codes = {}
    for name, redirect in (("closed", ">&-"), ("all closed", ">&- 2>&-"), ("full", ">/dev/full")):
        done = subprocess.run(
            ["bash", "-c", f"{shell} {redirect}"], env=environment, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        codes[name] = done.returncode, len(done.stderr.splitlines())
    assert codes == {"closed": (0, 0), "all closed": (0, 0), "full": (2, 1)}


def test_f8_letters_that_the_terminal_has_not():
    process = start("talk", "--lines", 1, "--text", "µ→ü", env={"PYTHONIOENCODING": "ascii"})
    text, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert text == "\\xb5\\u2192\\xfc 0\n"


def test_f8_an_unknown_option_is_2_and_help_is_0():
    assert end("talk", "--nonsense")[0] == 2
    assert end("--help")[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_f8_too_little_address_space_is_one_line(tmp_path):
    """Imports fail there in ways of their own."""
    pytest.importorskip("resource")
    study = tmp_path / "study.yaml"
    study.write_text("name: x\nreference: {model: resnet18}\ndata: {path: nowhere}\n")
    # the limit is set by a process of its own: a fork of this one warns where jax is loaded
    limited = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_AS, (int(1.2e9),) * 2);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    command = ["-m", "clinipress", "run", str(study), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", limited, *command],
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_attack_a_clause_of_100_000_letters_is_cut():
    problem = InputError("a" * 100_000, "b" * 100_000, "c" * 100_000)
    assert len(str(problem)) < 2000
    assert str(problem).endswith("c" * 90)
    assert (problem.expected, problem.got) == ("a" * 100_000, "b" * 100_000)
    assert len(str(InputError("x" * 600, "y"))) > 600


@pytest.mark.parametrize(
    "names", [["a" * 300 + ".png"], ["a", "a/b.png"], ["a/b.png", "a"], ["x/" * 3000 + "y"]],
    ids=["300 letters", "file below a file", "file over a folder", "6,000 letters"],
)  # fmt: skip
def test_attack_zip_names_that_no_folder_can_hold(tmp_path, names):
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for name in names:
            content.writestr(name, b"x")
    with pytest.raises(DataError, match="a folder can hold"):
        unpack(archive, tmp_path / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.zip"]


@pytest.mark.parametrize("reader", ["scores", "set"])
def test_attack_an_npz_that_claims_8_tib(tmp_path, reader):
    from clinipress.data.sources import read_dataset
    from clinipress.evidence.scores import Scores

    path = tmp_path / "x.npz"
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,), }"
    header += b" " * (117 - len(header)) + b"\n"
    array = b"\x93NUMPY\x01\x00" + np.uint16(len(header)).tobytes() + header
    names = ("logits", "labels", "units", "keys", "facts")
    if reader == "set":
        names = ("train_images", "train_labels", "test_images", "test_labels")
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"{name}.npy", array)
    with pytest.raises(DataError):
        Scores.load(path) if reader == "scores" else read_dataset(path)
