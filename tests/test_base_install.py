"""Every command and every public name in an environment that holds the base install alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

import clinipress
from clinipress.cli.commands import app
from kit.forked import Forked

pytestmark = pytest.mark.slow
HIDDEN = ("torch", "scipy", "timm", "onnx", "pydicom", "nibabel", "sklearn", "openvino", "h5py")
MOST_BYTES = 250e6
SECONDS = 300


def base_distributions() -> dict[str, metadata.Distribution]:
    """The packages that `pip install clinipress` brings, from those that are installed here."""
    found: dict[str, metadata.Distribution] = {}
    waiting = ["clinipress"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for another system
            continue
        for requirement in found[name].requires or []:
            if "extra ==" not in requirement:
                waiting.append(re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower())
    return found


@dataclass(frozen=True)
class Install:
    """An environment of its own: its folder, and the interpreter in it."""

    folder: Path
    python: Path

    @property
    def packages(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of this process's paths."""
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")
        return {k: v for k, v in os.environ.items() if k not in hidden}

    def call(self, *arguments: object):
        """Run the interpreter."""
        return subprocess.run(
            [self.python, *map(str, arguments)],
            capture_output=True, text=True, check=False, cwd=self.folder, env=self.environment,
            timeout=SECONDS,
        )  # fmt: skip


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Install:
    """A virtual environment without pip, whose packages are links to the base install's own."""
    folder = tmp_path_factory.mktemp("base") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    made = Install(folder, folder / "bin" / "python")
    source = Path(clinipress.__file__).parent
    (made.packages / "clinipress").symlink_to(source, target_is_directory=True)
    for distribution in base_distributions().values():
        tops = {Path(str(file)).parts[0] for file in distribution.files or ()}
        for top in sorted(tops - {"..", "__pycache__", "clinipress"}):
            link = made.packages / top
            if not top.endswith(".pth") and not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))
    return made


@pytest.fixture(scope="session")
def forked(base, tmp_path_factory):
    """Its processes, in which the packages that every command reads have been imported."""
    folder = tmp_path_factory.mktemp("processes")
    imports = "import numpy, onnxruntime, PIL.Image, pydantic, typer, yaml"
    with Forked(folder, imports, python=base.python, environment=base.environment) as forked:
        yield forked


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder of PNG files, one sub-folder per class; SYNTHETIC, none of the finished study's."""
    import csv
    import shutil

    from clinipress.data.drawn.phantom import draw_phantoms

    folder = tmp_path_factory.mktemp("pictures") / "set"
    drawn = draw_phantoms(folder.parent / "drawn", patients=60, seed=7, size=32)
    with drawn.open(newline="") as stream:
        for row in csv.DictReader(stream):
            values = list(row.values())
            image = next(drawn.parent / v for v in values if v.endswith(".png"))
            target = folder / (row.get("label") or row["class"]) / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, target)
    return folder


def problem_of(done: subprocess.CompletedProcess[str], codes: tuple[int, ...]) -> str:
    """What is wrong with how a command ended; "" where nothing is."""
    if "Traceback" in done.stderr or "Error:" in done.stdout:
        return f"a traceback: {done.stderr[-600:]}"
    if done.returncode not in codes:
        return f"exit code {done.returncode}, expected {codes}: {done.stderr[-600:]}"
    if done.returncode == 2 and (done.stderr.count("\n") != 1 or len(done.stderr) < 20):
        return f"not one line: {done.stderr[-600:]}"
    return ""


WORKS, REFUSED = (0, 1), (2,)


def commands(run: Path, pictures: Path, out: Path) -> dict[str, tuple[tuple[int, ...], list]]:
    """Every documented command, with the exit codes that are right where nothing is extra."""
    image = next(pictures.rglob("*.png"))
    a, b = sorted((run / "scores").glob("*-test.npz"))[:2]
    bundle, study = run / "bundle", out / "study.yaml"
    proposed = out / "proposed.yaml"
    study.write_text("name: x\ndata: {modality: chest-ct}\nreference: {model: resnet10t}\n")
    return {
        "--help": (WORKS, ["--help"]),
        "demo": (REFUSED, ["demo", "--out", out / "demo", "--json"]),
        "compress": (REFUSED, ["compress", out / "model.onnx", out]),
        "run": (REFUSED, ["run", study, "--data", pictures, "--json"]),
        "init": (WORKS, ["init", pictures, "--out", proposed]),
        "init --json": (WORKS, ["init", pictures, "--out", proposed, "--force", "--json"]),
        "audit": (WORKS, ["audit", pictures]),
        "audit --json": (WORKS, ["audit", pictures, "--json"]),
        "data": (WORKS, ["data"]),
        "data --json": (WORKS, ["data", "--json"]),
        "evaluate": (WORKS, ["evaluate", bundle, pictures]),
        "evaluate --json": (WORKS, ["evaluate", bundle, pictures, "--json"]),
        "evaluate RUN": (WORKS, ["evaluate", run, pictures, "--json"]),
        "compare": (WORKS, ["compare", a, b]),
        "compare --json": (WORKS, ["compare", a, b, "--risk", "high", "--json"]),
        "compare with images": (WORKS, ["compare", bundle, bundle, pictures, "--json"]),
        "predict": (WORKS, ["predict", bundle, image]),
        "predict --json": (WORKS, ["predict", bundle, pictures, "--json"]),
        "bench": (WORKS, ["bench", bundle, "--seconds", "0.1", "--threads", "1"]),
        "bench --json": (WORKS, ["bench", bundle, "--seconds", "0.1", "--json"]),
        "report": (WORKS, ["report", run]),
        "report --json": (WORKS, ["report", run, "--json"]),
        "models": (WORKS, ["models"]),
        "models --json": (WORKS, ["models", "--json"]),
        "models PATTERN": (REFUSED, ["models", "resnet*"]),
        "models PATTERN --json": (REFUSED, ["models", "resnet*", "--json"]),
        "targets": (WORKS, ["targets"]),
        "targets --json": (WORKS, ["targets", "--json"]),
        "table": (REFUSED, ["table", "s1", "--data", pictures, "--json"]),
    }


@pytest.fixture(scope="session")
def prepared(finished, pictures, tmp_path_factory):
    """A copy of a finished run, which the commands may write to, and the commands."""
    import shutil

    run = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(finished[0], run)
    return commands(run, pictures, tmp_path_factory.mktemp("out"))


def test_the_environment_hides_what_is_extra(base):
    code = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    done = base.call("-c", code, *HIDDEN)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
    assert base.call("-c", code, "numpy", *HIDDEN).stdout.strip() == "['numpy']"


def documented() -> set[str]:
    """Commands that the README and the pages of docs/ show, in code."""
    root = Path(__file__).resolve().parents[1]
    found: set[str] = set()
    for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        found |= set(re.findall(r"`clinipress ([a-z]+)", text))
        for block in text.split("```")[1::2]:
            found |= set(re.findall(r"^clinipress ([a-z]+)", block, re.MULTILINE))
    assert {"run", "compare", "predict"} <= found
    return found


def test_every_command_works_or_says_in_one_line_what_it_needs(forked, prepared, tmp_path):
    problems = {}
    for name, (codes, arguments) in prepared.items():
        done = forked.run("clinipress", *arguments, cwd=tmp_path)
        problem = problem_of(done, codes)
        if not problem and name.endswith("--json") and done.returncode < 2:
            json.loads(done.stdout.splitlines()[0] if "predict" in name else done.stdout)
        if problem:
            problems[name] = problem
    assert problems == {}
    asked = {name.split()[0] for name in prepared} - {"--help"}
    named = {c.name or c.callback.__name__ for c in app.registered_commands}
    assert asked == named
    assert documented() <= named


def test_a_public_set_that_is_not_there_is_told_how_to_get(forked, tmp_path):
    # how to get it is the answer that was asked for: it goes to stdout, with the code of "absent"
    arguments = ["data", "brain-mri", "--out", tmp_path / "brain"]
    done = forked.run("clinipress", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    assert "nothing to use is there" in done.stdout


def test_the_checker_of_commands_can_fail(base):
    crash = base.call("-c", "import torch")
    assert problem_of(crash, (0, 1)).startswith("a traceback")
    quiet = base.call("-c", "raise SystemExit(2)")
    assert problem_of(quiet, (2,)).startswith("not one line")
    assert problem_of(quiet, (0, 1)).startswith("exit code 2")
    assert problem_of(base.call("-c", ""), (0, 1)) == ""


def test_a_study_from_python_names_the_extra(base):
    done = base.call("-c", "from clinipress import run_study")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "MissingExtraError" in last
    assert "clinipress[compress]" in last


def test_the_base_install_stays_small():
    names = base_distributions()
    assert {"numpy", "onnxruntime", "pillow", "pydantic", "typer"} <= set(names)
    sizes = {
        name: sum(file.size or 0 for file in distribution.files or ())
        for name, distribution in names.items()
    }
    assert sum(sizes.values()) < MOST_BYTES, sizes


FACE = """
import json, sys

def wrong(order):
    for name in [name for name in sys.modules if name.split(".")[0] == "clinipress"]:
        del sys.modules[name]
    import clinipress
    space = {}
    for name in order:
        exec(f"from clinipress import {name}", space)
    return [name for name in order if not callable(space[name])]

print(json.dumps([wrong(order) for order in json.load(sys.stdin)]))
"""
FUNCTIONS = [name for name in clinipress.__all__ if name != "__version__"]


@pytest.mark.parametrize(
    "orders",
    [
        # each alone, and of any two each before the other
        pytest.param([[n] for n in FUNCTIONS] + [FUNCTIONS, FUNCTIONS[::-1]], id="pairs"),
        pytest.param(
            [FUNCTIONS[i:] + FUNCTIONS[:i] for i in range(len(FUNCTIONS))],
            id="turns", marks=pytest.mark.nightly,
        ),
    ],
)  # fmt: skip
def test_a_public_name_is_what_it_says_in_any_order(orders):
    done = subprocess.run(
        [sys.executable, "-c", FACE], input=json.dumps(orders), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[]] * len(orders)
