"""The suite itself: skips that CI does not let pass, and parts that leave nothing out."""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit.each import each_seed
from kit.order import chosen, part
from kit.shared import shared
from kit.skips import ALLOWED

HERE = Path(__file__).resolve().parent
SKIPPING = """
import pytest

@pytest.mark.skipif(True, reason="no browser here")
def test_marked(): ...

def test_inside():
    pytest.importorskip("a_module_that_is_not_there")

@pytest.mark.xfail(strict=True, reason="known")
def test_expected():
    assert False

@pytest.mark.skipif(True, reason={allowed!r})
def test_allowed(): ...
"""


def outcome(folder: Path, text: str, ci: str) -> str:
    """What pytest says of a file with the suite's plugin."""
    file = folder / "test_it.py"
    file.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(HERE), "CI": ci}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-rs", "-c", os.devnull, "--rootdir", folder),
        *("-p", "no:cacheprovider", "-p", "no:anyio", "-p", "kit.skips", file),
    ]
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout


def test_in_ci_a_skip_without_an_excuse_fails(tmp_path):
    text = SKIPPING.format(allowed=next(iter(ALLOWED)))
    found = outcome(tmp_path, text, "true")
    # one before its test begins, one inside it
    assert "1 failed, 1 skipped, 1 xfailed" in found, found
    assert "1 error" in found
    assert "was skipped in CI: no browser here" in found
    assert "scripts/debian_packages" in found
    assert "3 skipped, 1 xfailed" in outcome(tmp_path, text, "")


def test_in_ci_a_skipped_file_fails_too(tmp_path):
    text = 'import pytest\npytest.skip("nothing here", allow_module_level=True)\n'
    assert "was skipped in CI: nothing here" in outcome(tmp_path, text, "true")
    assert "1 skipped" in outcome(tmp_path, text, "")


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_the_parts_are_the_whole_and_slow_files_go_first(count):
    slow = {f"test_{number}.py": number % 3 == 2 for number in range(20)}
    parts = [chosen(slow, number, count) for number in range(1, count + 1)]
    assert sorted(name for names in parts for name in names) == sorted(slow)
    for names in parts:
        first = [slow[name] for name in names]
        assert first == sorted(first, reverse=True)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0"])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="such as 2/4"):
        part(text)


def test_what_is_there_is_not_installed_again(tmp_path):
    """With every program there the script asks for nothing, so that it needs no network."""
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexit 99\n")
    for name in ("chromium", "c++", "dpkg-query"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
    for file in tmp_path.iterdir():
        file.chmod(0o755)
    script = HERE.parent / "scripts" / "debian_packages"
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing to install" in done.stdout
    (tmp_path / "dpkg-query").write_text("#!/bin/sh\nexit 1\n")
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 99
    assert "fonts-liberation" in done.stdout


def test_every_seed_is_run_and_the_one_that_fails_is_named():
    seen = []

    @each_seed(range(5))
    def one(seed, more):
        seen.append(seed)
        assert seed + more < 6

    assert list(inspect.signature(one).parameters) == ["more"]
    one(more=1)
    assert seen == [0, 1, 2, 3, 4]
    with pytest.raises(AssertionError) as caught:
        one(more=3)
    assert caught.value.__notes__ == ["with seed = 3"]
    with pytest.raises(ValueError, match="no case"):
        each_seed([])


def test_a_shared_thing_is_made_once_and_never_half(tmp_path):
    def fail(folder):
        (folder / "half").write_text("x")
        raise ZeroDivisionError

    def make(folder):
        (folder / "whole").write_text("x")

    with pytest.raises(ZeroDivisionError):
        shared(tmp_path, "thing", fail)
    made = shared(tmp_path, "thing", make)
    assert [path.name for path in made.iterdir()] == ["whole"]
    assert shared(tmp_path, "thing", fail) == made
