"""Devices, files and checks on other processors, as the report shows them."""

from __future__ import annotations

import json

import pytest

from clinipress.records.result import DeviceCheck, TargetOutcome
from clinipress.reporting.html import html as to_html
from clinipress.reporting.page.build import render
from clinipress.reporting.page.devices import devices_section
from clinipress.reporting.view import View
from clinipress.study.redraw import with_checks

PI = {"name": "raspberry-pi-5", "title": "Raspberry Pi 5, 8 GB", "runtime": "ONNX Runtime"}
NANO = {"name": "jetson-nano", "title": "NVIDIA Jetson Nano 4 GB", "runtime": "TensorRT"}
CHECK = {
    "kind": "clinipress arm check",
    "version": "1",
    "bundle_sha256": "a" * 64,
    "cpu": "cortex-a76",
    "emulator": "qemu 10.0.2",
    "system": "Debian trixie, Python 3.13",
    "runtime_here": "onnxruntime 1.31.1",
    "runtime_arm": "onnxruntime 1.31.1",
    "images": 100,
    "refused": 0,
    "labels_equal": 100,
    "logits_bit_equal": 97,
    "largest_logit_difference": 0.0123,
    "passed": True,
    "sentence": "All 100 classes are the same.",
}


@pytest.fixture
def result(make_study):
    return make_study()


def test_each_device_has_a_row_and_what_nobody_measured_is_said(result):
    targets = (
        TargetOutcome(
            **PI, shipped="pruned-int8", bundle="bundles/pi", formats_not_tried=("litert",)
        ),
        TargetOutcome(**NANO, shipped="pruned-float16", unknown=("time: not measured",)),
        TargetOutcome(name="cart", title="Our cart", runtime="x", shipped=None),
    )
    page = to_html(devices_section(View(result.model_copy(update={"targets": targets}))))
    assert "Raspberry Pi 5, 8 GB" in page
    assert "bundles/pi" in page
    assert "LiteRT would run there too and was not made" in page
    assert "NVIDIA Jetson Nano 4 GB: time: not measured on the device." in page
    assert "Nothing was selected for Our cart." in page


def test_every_file_is_set_against_its_network(result):
    page = to_html(devices_section(View(result)))
    files = [one for one in result.candidates if one.parity is not None]
    assert len(files) > 1
    for one in files:
        assert one.name in page
        assert f"{one.parity.label_flips} of {one.parity.images:,} images changed class" in page


def test_a_check_on_another_processor_is_a_row(result):
    check = DeviceCheck.model_validate(CHECK)
    page = render(result.model_copy(update={"device_checks": (check,)}))
    for text in ("cortex-a76", "100 of 100", "97 of 100", "0.012", CHECK["sentence"]):
        assert text in page


def test_checks_are_read_from_the_run_folder(result, tmp_path, monkeypatch):
    from clinipress.study import redraw as checks

    class Manifest:
        digest = "a" * 64

    monkeypatch.setattr(checks, "read_card", lambda folder: Manifest)
    result = result.model_copy(update={"bundle": "bundle"})
    assert with_checks(result, tmp_path) == result
    (tmp_path / "arm_check.json").write_text(json.dumps(CHECK))
    assert with_checks(result, tmp_path).device_checks[0].logits_bit_equal == 97
    (tmp_path / "arm_check.json").write_text(json.dumps({**CHECK, "bundle_sha256": "b" * 64}))
    checked = with_checks(result, tmp_path)
    assert not checked.device_checks
    assert "bbbbbbbbbbbb" in checked.set_aside["arm_check.json"]
    (tmp_path / "arm_check.json").write_text(json.dumps({"cpu": "x"}))
    checked = with_checks(result, tmp_path)
    assert "one without 'bundle_sha256'" in checked.set_aside["arm_check.json"]
