"""What `bench` measures, and that its figures are of the right kind."""

import json
from pathlib import Path

import pytest
from PIL import Image

from clinipress.cli.terminal import show_bench
from clinipress.edge import bench as module
from clinipress.edge.bench import bench, cold_start, process_peak
from clinipress.edge.bundle import load_bundle
from clinipress.errors import BundleError, InputError, ModelError
from clinipress.records.candidate import Card, Speed
from kit.linear_model import noise


def test_every_figure_is_there_and_is_json(folder: Path, monkeypatch):
    monkeypatch.setattr(module, "COLD_STARTS", 1)
    found = bench(folder, threads=[1, 2], batches=(1, 3), seconds=0.02)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    rows = [(r["threads"], r["batch"], r["preprocessing"]) for r in found["latency_ms"]]
    one = [(1, True), (1, False), (3, False)]
    assert rows == [(threads, *row) for threads in (1, 2) for row in one]
    for row in found["latency_ms"]:
        assert 0 < row["median"] <= row["p95"]
        assert row["repeats"] >= 3
        assert row["runtime"].startswith("onnxruntime ")
    assert found["digest"] == load_bundle(folder).digest
    assert found["file_bytes"] == (folder / "model.onnx").stat().st_size
    assert found["sample_pixels"] == [24, 16]
    assert found["self_test_difference"] == 0
    assert found["environment"]["cpu"]
    assert found["peak_memory_bytes"] is None or found["peak_memory_bytes"] > 10e6
    assert found["model_memory_bytes"] > 0
    for row in found["latency_ms"]:
        assert row["images_per_second"] == pytest.approx(1000 * row["batch"] / row["median"])
    for key in ("load_ms", "self_test_ms"):
        assert 0 < found[key] < found["cold_start_ms"]


def test_reading_the_image_costs_time(card: Card, make_bundle, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(module, "COLD_STARTS", 1)
    with Image.fromarray(noise(card.input)[0]) as small:
        small.resize((900, 600)).save(tmp_path / "large.png")
    found = bench(
        make_bundle(card, sample=tmp_path / "large.png"), threads=[1], batches=[1], seconds=0.1
    )
    assert found["sample_pixels"] == [900, 600]
    with_file, without = found["latency_ms"]
    assert (with_file["preprocessing"], without["preprocessing"]) == (True, False)
    assert with_file["median"] > 3 * without["median"]


def test_a_bundle_that_refuses_its_own_image_is_said(folder: Path, tmp_path: Path):
    with pytest.raises(BundleError, match=r"own image.*nothing at"):
        cold_start(folder, tmp_path / "none.png")


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
    before = process_peak()
    assert before is not None
    held = b"x" * 300_000_000
    del held
    after = process_peak()
    assert after is not None
    assert after >= max(before, 300_000_000)


def test_another_model_is_timed_in_turn(card: Card, make_bundle, folder: Path, monkeypatch):
    monkeypatch.setattr(module, "COLD_STARTS", 1)
    other = make_bundle(card.model_copy(update={"name": "other"}), name="second")
    found = bench(folder, threads=[1], batches=[1], seconds=0.02, against=other)
    assert [row["model"] for row in found["latency_ms"]] == [card.name, "other"] * 2
    assert len({row["repeats"] for row in found["latency_ms"][:2]}) == 1
    mine, theirs = found["latency_ms"][:2]
    speed = Speed.model_validate(mine["speed"])
    assert speed.ratio.low <= speed.ratio.value <= speed.ratio.high
    assert speed.reliable == (not speed.why)
    assert theirs["speed"] is None
    assert mine["processor"] > 0


def test_a10_a_busy_machine_is_told(card: Card, make_bundle, folder: Path, monkeypatch, capsys):
    monkeypatch.setattr(module, "COLD_STARTS", 1)
    monkeypatch.setattr(module, "load", lambda: 3.0)
    other = make_bundle(card.model_copy(update={"name": "other"}), name="second")
    found = bench(folder, threads=[1], batches=[1], seconds=0.02, against=other)
    assert found["busy"].startswith("The machine was too busy to compare times: 3.0 other threads")
    assert not found["latency_ms"][0]["speed"]["reliable"]
    show_bench(found)
    shown = capsys.readouterr().out
    assert "machine busy" in shown
    assert "too busy to compare times" in " ".join(shown.split())
    assert "x (" not in shown  # no ratio
    monkeypatch.setattr(module, "load", lambda: 0.0)
    monkeypatch.setattr(module, "busy", lambda timed, before: "")
    show_bench(bench(folder, threads=[1], batches=[1], seconds=0.02, against=other))
    shown = capsys.readouterr().out
    assert "x (" in shown
    assert "busy" not in shown


def test_a_model_for_other_images_is_not_compared(card: Card, make_bundle, folder, monkeypatch):
    monkeypatch.setattr(module, "COLD_STARTS", 1)
    spec = card.input.model_copy(update={"height": 24})
    other = make_bundle(card.model_copy(update={"input": spec}), name="second")
    with pytest.raises(ModelError, match=r"\[1, 16, 24\].*\[1, 24, 24\]"):
        bench(folder, threads=[1], batches=[1], seconds=0.02, against=other)


def test_a_windowed_bundle_can_be_timed(card: Card, make_bundle):
    spec = card.input.model_copy(update={"window": (-1000.0, 400.0)})
    folder = make_bundle(card.model_copy(update={"input": spec}))
    assert cold_start(folder, folder / "sample.png") > 0
