"""What `bench` measures, and that its figures are of the right kind."""

import json
import time
from pathlib import Path

import pytest

from clinipress.edge import bench as module
from clinipress.edge.bench import bench, cpu_flags, cpu_model, peak_memory
from clinipress.edge.bundle import load_bundle
from clinipress.errors import BundleError, InputError


def test_every_figure_is_there_and_is_json(folder: Path, monkeypatch):
    monkeypatch.setattr(module, "COLD_STARTS", 1)
    found = bench(folder, threads=[1, 2], batches=(1, 3), seconds=0.02)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    rows = [(r["threads"], r["batch"], r["preprocessing"]) for r in found["latency_ms"]]
    one = [(1, True), (1, False), (3, False)]
    assert rows == [(threads, *row) for threads in (1, 2) for row in one]
    for row in found["latency_ms"]:
        assert 0 < row["median"] <= row["p95"]
        assert row["repeats"] >= 10
        assert row["runtime"].startswith("onnxruntime ")
    assert found["digest"] == load_bundle(folder).digest
    assert found["file_bytes"] == (folder / "model.onnx").stat().st_size
    assert found["sample_pixels"] == [24, 16]
    assert found["self_test_difference"] == 0
    for key in ("load_ms", "self_test_ms"):
        assert 0 < found[key] < found["cold_start_ms"]


def test_times_are_milliseconds_of_the_call():
    slow = module._latency(lambda: time.sleep(0.005), 1, 1, 0.05, preprocessing=False)
    assert 5 <= slow.median < 15
    assert slow.repeats >= 10


@pytest.mark.parametrize(
    "options", [{"threads": [0]}, {"threads": []}, {"batches": [0]}, {"seconds": 0}]
)
def test_wrong_counts_are_said(folder: Path, options: dict):
    with pytest.raises(InputError, match="at least 1"):
        bench(folder, **options)


def test_a_changed_bundle_is_not_measured(folder: Path):
    (folder / "LICENSE").write_text("mine")
    with pytest.raises(BundleError, match="LICENSE"):
        bench(folder, seconds=0.01)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux tells the peak memory")
def test_peak_memory_sees_an_allocation_that_is_gone_again():
    before = peak_memory()
    assert before is not None
    held = b"x" * 300_000_000
    del held
    after = peak_memory()
    assert after is not None
    assert after >= max(before, 300_000_000)


def test_the_processor_is_named():
    assert cpu_model()
    assert cpu_flags() == tuple(sorted(cpu_flags()))


def test_arm_calls_its_flags_features(monkeypatch):
    told = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd asimddp\nModel\t: Pi 5\n"
    monkeypatch.setattr(module, "_cpu_text", lambda: told)
    assert cpu_flags() == ("asimd", "asimddp", "fp")
    assert cpu_model() == "Pi 5"
    monkeypatch.setattr(module, "_cpu_text", lambda: "")
    assert cpu_flags() == ()
    assert cpu_model()
