"""No engine reports to its maker: its system calls are watched, and what it leaves in HOME."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clinipress.recipe.formats import FORMATS

HERE = Path(__file__).resolve().parent
# a bare socket reaches nobody: libraries ask the kernel for interfaces through one
NETWORK = "connect,sendto,sendmsg,sendmmsg"
OUTSIDE = re.compile(r"AF_INET6?|AF_PACKET")
MADE_HERE = tuple(row.name for row in FORMATS if row.name not in ("pytorch", "tensorrt"))

# files of the formats named, made by their toolchains and answered; then every engine as it starts
FORMAT_BY_FORMAT = f"""
import sys, time
sys.path[:0] = [{str(HERE)!r}, {str(HERE / "nets")!r}]
from pathlib import Path
import numpy as np
from clinipress.formats.make import apply_export, plan_export
from clinipress.formats.open import import_engine, open_file
from clinipress.recipe.formats import format_facts
from clinipress.recipe.study import ExportRecipe
from kit.candidates import float_file, wrapped
from tiny_nets import make
parent, folder = wrapped(lambda channels: make(3, channels)), Path(sys.argv[1])
source = float_file(parent, folder / "float.onnx").path
images = np.random.default_rng(0).integers(0, 256, (8, 1, 16, 16), np.uint8)
for name in sys.argv[2:]:
    recipe = ExportRecipe(format=name, precision="int8")
    plan = plan_export(recipe, parent, source, images, threads=1, seed=0)
    target = folder / name / format_facts(name).files[0]
    target.parent.mkdir()
    card = parent.card.model_copy(update={{"format": name, "precision": "int8"}})
    apply_export(recipe, parent, source, target, plan, card)
    open_file(target, card, 1).predict(images)
for name in {MADE_HERE!r}:
    import_engine(name)
import timm, huggingface_hub
timm.create_model("test_resnet")
time.sleep(1)  # reporters wait for company
"""
ON_THE_DEVICE = """
import sys, time, clinipress
bundle = clinipress.load_bundle(sys.argv[1])
bundle.classify(sys.argv[2])
time.sleep(1)
"""


def watched(folder: Path, *command: str) -> tuple[list[str], list[str]]:
    """Run a command in an empty home; calls that reach outside, and what it left there."""
    assert shutil.which("strace"), "strace is needed: scripts/debian_packages"
    home, trace = folder / "home", folder / "trace"
    home.mkdir()
    # nothing of this process's: CI and pytest switch some reporters off by themselves
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(HERE.parent / "src"),
    }
    strace = ("strace", "-f", "--seccomp-bpf", "-qq", "-e", f"trace={NETWORK}", "-o", str(trace))
    done = subprocess.run(
        [*strace, *command],
        env=environment, capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    calls = [line for line in trace.read_text().splitlines() if OUTSIDE.search(line)]
    return calls, [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


def test_the_watch_sees_what_reports(tmp_path):
    code = (
        "import socket, pathlib; pathlib.Path.home().joinpath('id').write_text('1');"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'1', ('127.0.0.1', 9))"
    )
    calls, files = watched(tmp_path, sys.executable, "-c", code)
    assert calls
    assert files == ["id"]


@pytest.mark.parametrize(
    "names", [("onnx", "openvino"), pytest.param(MADE_HERE, marks=pytest.mark.nightly)]
)
def test_f2_no_engine_and_no_toolchain_reports(tmp_path, names):
    work = tmp_path / "work"
    work.mkdir()
    assert watched(tmp_path, sys.executable, "-c", FORMAT_BY_FORMAT, str(work), *names) == ([], [])


def test_f2_a_bundle_answers_without_reporting(tmp_path, finished):
    bundle = finished[0] / "bundle"
    image = next(bundle.glob("*.png"))
    command = (sys.executable, "-c", ON_THE_DEVICE, str(bundle), str(image))
    assert watched(tmp_path, *command) == ([], [])


def test_f2_predict_does_not_report(tmp_path, finished):
    bundle = finished[0] / "bundle"
    image = next(bundle.glob("*.png"))
    command = (sys.executable, "-m", "clinipress", "predict", str(bundle), str(image))
    assert watched(tmp_path, *command) == ([], [])


def test_f2_a_user_who_asked_for_reports_gets_none_from_us(monkeypatch):
    code = "import clinipress, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "0"},
    )  # fmt: skip
    assert done.stdout == "1\n"


def test_f2_an_engine_that_was_imported_before_us_is_told_too():
    code = (
        "import onnxruntime, unittest.mock as mock\n"
        "with mock.patch.object(onnxruntime, 'disable_telemetry_events') as off:\n"
        "    from clinipress.formats.onnx.run import engine\n"
        "    engine()\n"
        "print(off.called)"
    )
    environment = os.environ | {
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(HERE.parent / "src"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "True\n"
