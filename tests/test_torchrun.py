"""The whole flow under torchrun: two CPU processes walk it together, the first one writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clinipress.data.drawn.phantom import draw_phantoms
from kit.studies import tree

HERE = Path(__file__).resolve().parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "names"),
    [
        pytest.param(1, ["reference", "distilled"], id="one step"),
        pytest.param(
            2, ["reference", "distilled", "pruned"], id="two steps", marks=pytest.mark.nightly
        ),
    ],
)
def test_two_processes_finish_a_study_together(tmp_path, count, names):
    data = draw_phantoms(tmp_path / "data", patients=90, seed=1, size=32)
    study = tmp_path / "study.yaml"
    int8 = {"precision": "int8", "calibration_images": 16}
    study.write_text(yaml.safe_dump(tree(steps=tree()["steps"][:count], exports=[int8])))
    run = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "clinipress", "run", study, "--allow-code", "--data", data, "--out", run),
    ]
    path = os.pathsep.join([str(HERE / "nets"), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=540
    )
    assert (run / "result.json").is_file(), done.stderr[-3000:]
    result = json.loads((run / "result.json").read_text())
    assert [c["name"] for c in result["candidates"]] == [*names, f"{names[-1]}-onnx-int8"]
    assert len((run / "test_openings.jsonl").read_text().splitlines()) == 1
    assert len(result["candidates"][0]["history"][0]["facts"]["epochs"]) == 3
