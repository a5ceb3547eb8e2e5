"""Killed in any step and run again, a study ends with the digests of one never killed."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from clinipress.data.drawn.phantom import draw_phantoms
from kit.forked import Forked, Started
from kit.studies import BARE, TRAIN, tree

HERE = Path(__file__).resolve().parent
# where to strike: the kind of piece, and how many seconds after its folder appeared
STRIKES = [
    ("data", 0.1),
    ("train", 0.05),
    ("export", 0.1),
    ("prune", 0.1),
    ("distill", 0.1),
    ("qat", 0.1),
    ("latency", 0.3),
]
# every technique after the other; distillation without a student trains what was pruned
CHAIN = [
    {"step": "prune", "ratio": 0.3, "round_to": 1, "distill": False, "train": TRAIN},
    {"step": "distill", "views": 2, "train": TRAIN},
    {"step": "qat", "views": 2, "calibration_images": 32, "train": TRAIN},
]


IMPORTS = """
import clinipress.study.flow, onnxruntime.quantization, torch._dynamo
from torch.onnx._internal.exporter import _registration
from kit.quick import remember_libraries

remember_libraries()
_registration.ONNXRegistry.from_torchlib()
"""


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    path = os.pathsep.join([str(HERE), str(HERE / "nets"), *sys.path])
    with Forked(folder, IMPORTS, environment=os.environ | {"PYTHONPATH": path}) as forked:
        yield forked


def start(forked: Forked, run: Path, study: Path, data: Path) -> Started:
    arguments = ["run", "--allow-code", study, "--data", data, "--out", run, "--json"]
    return forked.start("clinipress", *arguments)


def finish(forked: Forked, run: Path, study: Path, data: Path) -> dict[str, str]:
    started = start(forked, run, study, data)
    assert started.wait() in (0, 1), started.errors.read_text()
    result = json.loads((run / "result.json").read_text())
    return {c["name"]: c["digest"] for c in result["candidates"]}


def strike(forked: Forked, run: Path, study: Path, data: Path, kind: str, delay: float) -> bool:
    """Start the study, kill it while it makes a piece of this kind; False if it was too quick."""
    started = start(forked, run, study, data)
    while started.poll() is None:
        if any((run / "work").glob(f"{kind}-*")):
            time.sleep(delay)
            return started.kill() == -signal.SIGKILL
        time.sleep(0.01)
    return False


# by day: in the middle of a training, and while a file is made, with one technique
BY_DAY = ("train", "export")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kinds", "steps", "names"),
    [
        pytest.param(BY_DAY, CHAIN[:1], ["pruned"], id="training and export"),
        pytest.param(
            [kind for kind, _ in STRIKES], CHAIN, ["pruned", "distilled", "quantization-aware"],
            id="every step", marks=pytest.mark.nightly,
        ),
    ],
)  # fmt: skip
def test_killed_in_a_step_the_digests_are_the_same(forked, tmp_path, kinds, steps, names):
    data = draw_phantoms(tmp_path / "data", patients=120, seed=1, size=32)
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(tree(steps=steps, evidence=BARE)))
    whole = finish(forked, tmp_path / "whole", study, data)
    broken = tmp_path / "broken"
    delays = dict(STRIKES)
    struck = [kind for kind in kinds if strike(forked, broken, study, data, kind, delays[kind])]
    # of all seven two may be too quick on a fast machine
    assert len(struck) >= min(len(kinds), 5), f"only {struck} were slow enough to be killed"
    assert finish(forked, broken, study, data) == whole
    files = {f"{names[-1]}-onnx-{precision}" for precision in ("float16", "int8")}
    assert set(whole) == {"reference", *names, *files}
    openings = (broken / "test_openings.jsonl").read_text().splitlines()
    assert (
        len(openings)
        == len((tmp_path / "whole" / "test_openings.jsonl").read_text().splitlines())
        == 1
    )


def test_the_striker_can_fail(forked, tmp_path):
    data = draw_phantoms(tmp_path / "data", patients=12, seed=1, size=32)
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(tree(risk="nonsense")))
    assert strike(forked, tmp_path / "run", study, data, "train", 0.0) is False
