"""Killed in any step and run again, a study ends with the digests of one never killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from clinipress.data.drawn.phantom import draw_phantoms
from kit.studies import TRAIN, tree

HERE = Path(__file__).resolve().parent
# where to strike: the kind of piece, and how many seconds after its folder appeared
STRIKES = [
    ("data", 0.2),
    ("train", 0.6),
    ("export", 0.5),
    ("prune", 0.5),
    ("distill", 0.5),
    ("qat", 0.5),
    ("latency", 0.3),
]
# every technique after the other; distillation without a student trains what was pruned
CHAIN = [
    {"step": "prune", "ratio": 0.3, "round_to": 1, "distill": False, "train": TRAIN},
    {"step": "distill", "views": 2, "train": TRAIN},
    {"step": "qat", "views": 2, "calibration_images": 32, "train": TRAIN},
]


def start(run: Path, study: Path, data: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE / "nets"), *sys.path])}
    command = [
        sys.executable,
        "-m",
        "clinipress",
        "run",
        "--allow-code",
        str(study),
        "--data",
        str(data),
        "--out",
        str(run),
        "--json",
    ]
    with (run.parent / f"{run.name}.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)


def finish(run: Path, study: Path, data: Path) -> dict[str, str]:
    code = start(run, study, data).wait(timeout=600)
    assert code in (0, 1), (run.parent / f"{run.name}.log").read_text()
    result = json.loads((run / "result.json").read_text())
    return {c["name"]: c["digest"] for c in result["candidates"]}


def strike(run: Path, study: Path, data: Path, kind: str, delay: float) -> bool:
    """Start the study, kill it while it makes a piece of this kind; False if it was too quick."""
    process = start(run, study, data)
    try:
        while process.poll() is None:
            if any((run / "work").glob(f"{kind}-*")):
                time.sleep(delay)
                process.send_signal(signal.SIGKILL)
                return process.wait() == -signal.SIGKILL
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    return False


# by day: in the middle of a training, and while a file is made
BY_DAY = ("train", "export")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(BY_DAY, id="training and export"),
        pytest.param([kind for kind, _ in STRIKES], id="every step", marks=pytest.mark.nightly),
    ],
)
def test_killed_in_a_step_the_digests_are_the_same(tmp_path, kinds):
    data = draw_phantoms(tmp_path / "data", patients=120, seed=1, size=32)
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(tree(steps=CHAIN)))
    whole = finish(tmp_path / "whole", study, data)
    broken = tmp_path / "broken"
    delays = dict(STRIKES)
    struck = [kind for kind in kinds if strike(broken, study, data, kind, delays[kind])]
    # of all seven two may be too quick on a fast machine
    assert len(struck) >= min(len(kinds), 5), f"only {struck} were slow enough to be killed"
    assert finish(broken, study, data) == whole
    assert set(whole) == {
        "reference",
        "pruned",
        "distilled",
        "quantization-aware",
        "quantization-aware-onnx-float16",
        "quantization-aware-onnx-int8",
    }
    openings = (broken / "test_openings.jsonl").read_text().splitlines()
    assert (
        len(openings)
        == len((tmp_path / "whole" / "test_openings.jsonl").read_text().splitlines())
        == 1
    )


def test_the_striker_can_fail(tmp_path):
    data = draw_phantoms(tmp_path / "data", patients=12, seed=1, size=32)
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(tree(risk="nonsense")))
    assert strike(tmp_path / "run", study, data, "train", 0.0) is False
