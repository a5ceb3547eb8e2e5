"""Which engine opens which file, and what is said where an engine is missing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clinipress.errors import MissingExtraError, ModelError
from clinipress.formats import open as engines
from clinipress.formats.file import FileCandidate
from clinipress.formats.open import (
    check_toolchains,
    format_of,
    import_engine,
    installed,
    open_file,
    package_of,
)
from clinipress.recipe.formats import FORMATS
from clinipress.records.candidate import Card, InputSpec
from kit.onnx_nets import conv_net, pixels, saved


def test_every_row_states_what_making_and_running_need():
    for row in FORMATS:
        assert row.title, row.name
        assert row.files, row.name
        assert row.precisions, row.name
        assert row.engine, row.name


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_the_room_of_a_format_holds_what_its_row_promises(row):
    run = importlib.import_module(f"clinipress.formats.{row.room}.run")
    assert issubclass(run.ENGINE, FileCandidate)
    make = importlib.import_module(f"clinipress.formats.{row.room}.make")
    for verb in ("plan", "apply"):
        assert callable(getattr(make, f"{verb}_{row.room}"))
    assert callable(make.count_operators)
    assert callable(make.weight_bytes)
    if row.features:
        features = importlib.import_module(f"clinipress.formats.{row.room}.features")
        assert callable(features.open_features)


def test_a_suffix_names_the_engine(tmp_path):
    path = saved(conv_net(), tmp_path / "model.onnx")
    opened = open_file(path, threads=1)
    assert opened.runtime.startswith("onnxruntime ")
    assert opened.predict(pixels(2)).shape == (2, 3)
    with pytest.raises(ModelError, match=r"model\.onnx, model\.pte, model\.tflite, model\.xml"):
        format_of(Path("model.pt"))


def test_an_unknown_format_on_a_card_is_refused(tmp_path):
    path = saved(conv_net(), tmp_path / "model.onnx")
    card = Card(name="x", classes=("a", "b", "c"), input=InputSpec(height=16, width=16))
    with pytest.raises(ModelError, match="'pytorch'"):
        open_file(path, card)


def missing(monkeypatch, package):
    """As if a package were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        engines.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == package else real(name, *rest),
    )


def test_a_toolchain_that_is_not_installed_is_said_before_the_work(monkeypatch):
    check_toolchains(row.name for row in FORMATS)
    missing(monkeypatch, "nncf")
    assert not installed("openvino")
    assert installed("litert")
    check_toolchains(["onnx", "litert"])
    with pytest.raises(MissingExtraError, match=r"clinipress\[openvino\]"):
        check_toolchains(["onnx", "openvino"])


def test_an_engine_that_is_not_installed_is_one_line(tmp_path, monkeypatch):
    missing(monkeypatch, "openvino")
    card = Card(
        name="x", classes=("a", "b"), input=InputSpec(), format="openvino", precision="int8"
    )
    with pytest.raises(MissingExtraError, match=r"running openvino files.*clinipress\[openvino\]"):
        open_file(tmp_path / "model.xml", card)


def test_what_pip_needs_on_the_device():
    assert package_of("onnx") == "clinipress"
    assert package_of("tflite-micro") == "clinipress[tflite-micro]"
    import_engine("onnx")


def test_no_engine_writes_into_the_home_folder_when_it_is_imported(tmp_path):
    """OpenVINO's statistics keep a client number there, and send it."""
    code = (
        "from clinipress.formats.open import import_engine\n"
        "from clinipress.recipe.formats import FORMATS\n"
        "[import_engine(row.name) for row in FORMATS]"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert not (tmp_path / "intel").exists()
