"""The section on quantization: what is said comes from the records alone."""

from __future__ import annotations

import re

from clinipress.records.candidate import Applied
from clinipress.reporting.html import html as to_html
from clinipress.reporting.page.build import render
from clinipress.reporting.page.quantization import quantization_section
from clinipress.reporting.view import View

TRIALS = [
    {"method": "mse", "equalize": False, "bias_correction": False, "decibels": 23.456,
     "agreement": 0.985},
    {"method": "mse", "equalize": True, "bias_correction": False, "decibels": 21.0,
     "agreement": 0.97},
]  # fmt: skip
PLACEMENT = {
    "groups": [["a"], ["b"], ["c"]],
    "taken": [0, 2],
    "reason": "the best that agrees.",
    "trials": [
        {"low": [0, 1, 2], "agreement": 0.9, "decibels": 9.0, "time": 0.7, "file_bytes": 1_000_000}
    ],
}


def study(make_study, precision="int8", before=(), params=None, **facts):
    """A study whose second candidate was quantized with these facts."""
    result = make_study()
    first, second = result.candidates[:2]
    step = Applied(step="export", params=params or {"calibration_images": 200}, facts=facts)
    child = second.model_copy(update={"precision": precision, "history": (*before, step)})
    plain = first.model_copy(update={"precision": "float32"})
    return View(result.model_copy(update={"candidates": (plain, child)}))


def words(markup):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", str(markup))).replace("\u202f", " ")


def test_layers_and_ranges_are_said(make_study):
    view = study(make_study, layers={"convolutions": [20, 21], "linear layers": [0, 0]})
    text = words(to_html(quantization_section(view)))
    assert "In int8 arithmetic: 20 of 21 convolutions." in text
    assert "200 un-augmented training images" in text
    assert "not what the file is named after" not in text
    assert "had no say" not in text


def test_quantized_by_name_only_is_said(make_study):
    warning = "0 of 21 convolutions quantized"
    view = study(
        make_study, "int8-dynamic", params={"precision": "int8-dynamic"}, warning=warning,
        layers={"convolutions": [0, 21]},
    )  # fmt: skip
    text = words(to_html(quantization_section(view)))
    assert f"not what the file is named after: {warning}" in text
    assert "No calibration" in text


def test_learnt_ranges_are_said(make_study):
    view = study(make_study, before=(Applied(step="qat", params={}),), layers={})
    assert "learnt in quantization-aware training" in words(to_html(quantization_section(view)))


def test_images_left_out_are_named_and_escaped(make_study):
    text = to_html(quantization_section(study(make_study, left_out=["a.png", "<b>.png"])))
    assert "2 calibration images" in text.replace("\u202f", " ").replace("\u00a0", " ")
    assert "a.png, &lt;b&gt;.png" in text


def test_trials_and_placement_are_tables(make_study):
    view = study(make_study, "mixed", trials=TRIALS, placement=PLACEMENT)
    text = words(to_html(quantization_section(view)))
    for expected in ("23.5 dB", "98.5", "2 of 3 groups", "the best that agrees.", "3 of 3", "0.70"):
        assert expected in text, expected


def test_no_low_precision_no_section(make_study):
    view = study(make_study, "float16")
    assert quantization_section(view) is None
    assert 'id="quantization"' in render(study(make_study, layers={}).result)
