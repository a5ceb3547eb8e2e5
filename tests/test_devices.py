"""One study for several devices: every toolchain makes its file, every engine gives answers."""

import json
import shutil

import numpy as np
import pytest

from clinipress.edge.bundle import load_bundle
from clinipress.edge.predict import predict
from clinipress.errors import BundleError, RecipeError
from clinipress.formats.file import FILES
from clinipress.formats.open import place_of
from clinipress.records.store import read_result
from clinipress.reporting.page.build import write_report
from clinipress.study.external import evaluate
from clinipress.study.flow import run_study
from kit.studies import BARE, TRAIN, study

CART = {"name": "cart", "like": "raspberry-pi-5", "formats": ["executorch"], "ram_bytes": "1 GB"}
TARGETS = ["cpu-x86", "smartphone", "cortex-m7", "jetson-nano", CART]
EXPORTS = [
    {"format": "onnx", "precision": "int8", "calibration_images": 16},
    {"format": "openvino", "precision": "int8", "calibration_images": 16},
    {"format": "litert", "precision": "int8", "calibration_images": 16},
    {"format": "executorch", "precision": "int8", "calibration_images": 16},
    {"format": "tflite-micro", "calibration_images": 16},
    {"format": "tensorrt", "precision": "float16"},
    {"format": "openvino", "precision": "float16"},
    {"format": "litert", "precision": "float32"},
    {"format": "executorch", "precision": "float32"},
]
GPU = place_of("tensorrt")
ELSEWHERE = ("tflite-micro",) if GPU else ("tflite-micro", "tensorrt")


pytestmark = pytest.mark.slow


def devices(**changes):
    # the reference is smaller than the file limit of a microcontroller: no step is needed
    options = {"steps": [], "exports": EXPORTS, "target": TARGETS, "risk": "low"}
    options["evidence"] = BARE  # of files of any engine: the golden studies
    return study(**options, **changes)


@pytest.fixture(scope="module")
def made(phantoms, tmp_path_factory):
    run = tmp_path_factory.mktemp("devices")
    return run, run_study(devices(), phantoms, run)


def rows(made):
    return {row.name: row for row in made[1].candidates}


def test_every_file_is_made_counted_and_answers_like_its_network(made):
    found = rows(made)
    assert len(found) == 1 + len(EXPORTS)
    for row in found.values():
        assert row.parity.images > 0
        assert row.evidence["validation"]["accuracy"].n
        assert row.file_bytes >= sum(
            (made[0] / row.path).with_name(name).stat().st_size
            for name in FILES[row.format][: 2 if row.format == "openvino" else 1]
        )
        if row.precision == "float32":
            assert row.parity.max_logit_difference <= 1e-3
            assert row.parity.label_flips == 0
        if row.precision == "float16":
            assert row.parity.max_logit_difference <= 1e-2
        if row.precision == "int8":
            low, every = row.history[-1].facts["layers"]["convolutions"]
            assert low == every > 0, row.name
            agree = row.evidence["validation"]["agreement"].value
            assert agree >= 0.9, row.name


def test_what_runs_elsewhere_is_not_timed_here(made):
    for row in rows(made).values():
        timed = row.latency_ms is not None
        assert timed == (row.format not in ELSEWHERE), row.name
        if timed:
            assert row.latency_ms.runtime.split()[0] in (
                *("onnxruntime", "openvino", "executorch", "ai-edge-litert", "litert"),
                "tensorrt",
            )
            assert row.peak_memory_bytes > 0
    micro = next(row for row in rows(made).values() if row.format == "tflite-micro")
    assert micro.peak_memory_bytes == micro.history[-1].facts["arena_bytes"]
    assert micro.peak_memory_bytes < 10**6


def test_each_device_gets_a_bundle_that_opens_and_answers(made):
    run, result = made
    outcomes = {one.name: one for one in result.targets}
    assert list(outcomes) == ["cpu-x86", "smartphone", "cortex-m7", "jetson-nano", "cart"]
    formats = {}
    for name, outcome in outcomes.items():
        assert outcome.bundle == f"bundles/{name}"
        bundle = load_bundle(run / outcome.bundle, threads=1)
        assert bundle.self_test() <= bundle.manifest.self_test.tolerance
        (answer,) = predict(bundle, [run / outcome.bundle / "sample.png"])
        assert answer.label == bundle.manifest.self_test.label
        formats[name] = bundle.card.format
    assert formats["cpu-x86"] in ("onnx", "openvino", "litert", "executorch")
    assert formats["smartphone"] in ("litert", "onnx", "executorch")
    assert (formats["cortex-m7"], formats["jetson-nano"], formats["cart"]) == (
        *("tflite-micro", "tensorrt", "executorch"),
    )
    assert result.bundle == "bundles/cpu-x86"
    nano = outcomes["jetson-nano"]
    assert nano.unknown == (() if GPU else ("memory: not measured", "time: not measured"))
    assert (run / nano.bundle / "build_engine.py").is_file()
    assert (run / "bundles" / "cortex-m7" / "model_data.h").is_file()


def test_the_fastest_file_here_goes_to_this_kind_of_computer(made):
    found = rows(made)
    outcome = made[1].targets[0]
    able = [r for r in found.values() if r.latency_ms and r.verdict and r.verdict.status == "pass"]
    assert any(row.name == outcome.shipped for row in found.values())
    if found[outcome.shipped].verdict.status == "pass":
        limit = 1.05 * min(r.latency_ms.median for r in able if r.precision == "int8")
        assert found[outcome.shipped].latency_ms.median <= limit * 1.0001


def test_a_changed_file_of_several_is_noticed(made, tmp_path):
    run = made[0]
    for name in ("cortex-m7", "jetson-nano"):
        copy = tmp_path / name
        shutil.copytree(run / "bundles" / name, copy)
        second = copy / ("model_data.h" if name == "cortex-m7" else "build_engine.py")
        second.write_text(second.read_text() + "\n")
        with pytest.raises(BundleError, match=second.name):
            load_bundle(copy)


def test_the_report_says_what_was_not_measured(made, tmp_path):
    text = write_report(read_result(made[0]), tmp_path).read_text()
    for words in ("cart", "NVIDIA Jetson Nano 4 GB", "TFLite Micro", "time: not measured"):
        assert words in text
    assert ("the TensorRT engine built of it was not measured" in text) == (not GPU)


def test_a_bundle_of_any_engine_is_evaluated_like_any_other(made, phantoms):
    bundle = made[0] / "bundles" / "cortex-m7"
    found = evaluate(bundle, phantoms, overlap="keep", resamples=100, threads=1)
    assert found["format"] == "tflite-micro"
    assert 0 <= found["evidence"]["accuracy"]["value"] <= 1
    assert np.isfinite(found["evidence"]["accuracy"]["low"])


def test_running_again_changes_nothing(made, phantoms):
    run, first = made
    before = {row.name: row.digest for row in first.candidates}
    again = run_study(devices(), phantoms, run)
    assert {row.name: row.digest for row in again.candidates} == before
    assert json.loads((run / "result.json").read_text())["targets"][0]["name"] == "cpu-x86"


def test_a_network_too_large_for_one_device_is_refused_before_training(phantoms, tmp_path):
    with pytest.raises(RecipeError, match="Cortex-M7"):
        run_study(
            study(
                steps=[],
                exports=EXPORTS,
                target="cortex-m7",
                reference={"model": "resnet50", "train": TRAIN},
            ),
            phantoms,
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
