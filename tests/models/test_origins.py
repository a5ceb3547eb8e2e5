"""What a recipe takes from outside the study, by content."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from clinipress.errors import ModelError
from clinipress.models import origins
from clinipress.models.origins import outside, source_digest
from clinipress.recipe.steps import DistillStep, ModelRecipe

FILES = {
    "origin_nets.py": "import json, torch\nimport origin_blocks\nfrom origin_parts import deep\n",
    "origin_blocks.py": "from origin_parts.deep import x\n",
    "origin_parts/__init__.py": "",
    "origin_parts/deep.py": "import origin_nets\nx = 1\n",
    "origin_alone.py": "x = 1\n",
}


@pytest.fixture
def code(tmp_path, monkeypatch):
    folder = tmp_path / "code"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.mark.parametrize("name", [name for name in FILES if name != "origin_alone.py"])
def test_f1_source_is_the_file_and_all_it_imports(code, name):
    before = source_digest("origin_nets:make")
    (code / name).write_text(FILES[name] + "# other\n")
    assert source_digest("origin_nets:make") != before


def test_f1_source_is_not_what_it_does_not_import_or_where_it_lies(code, tmp_path, monkeypatch):
    before = source_digest("origin_nets:make")
    (code / "origin_alone.py").write_text("x = 2\n")
    assert source_digest("origin_nets:make") == before
    code.rename(tmp_path / "moved")
    monkeypatch.syspath_prepend(tmp_path / "moved")
    assert source_digest("origin_nets:make") == before
    assert "origin_nets" not in sys.modules  # nothing was run


def test_source_of_a_package_that_is_installed_and_of_none(code):
    assert source_digest(None) == ""
    assert source_digest("timm.models:resnet18") != source_digest("origin_nets:make")
    assert source_digest("no_such_module:make") == source_digest("sys:make")
    (code / "origin_nets.py").write_text("this is no Python (\n")
    assert source_digest("origin_nets:make")


def test_f1_source_that_changed_after_it_was_imported_is_refused(code, monkeypatch):
    import origin_alone  # noqa: F401

    monkeypatch.setitem(sys.modules, "origin_alone", sys.modules["origin_alone"])
    before = source_digest("origin_alone:make")
    (code / "origin_alone.py").write_text("x = 2\n")
    with pytest.raises(ModelError, match="start a new process"):
        source_digest("origin_alone:make")
    monkeypatch.delitem(sys.modules, "origin_alone")
    assert source_digest("origin_alone:make") != before


def test_f1_files_of_every_network_of_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.pt", "b.pt"):
        Path(name).write_bytes(name.encode())
    student = ModelRecipe(name="resnet18", pretrained="a.pt", checkpoint="b.pt")
    step = DistillStep(student=student)
    before = outside([step, {"not": "a recipe"}])
    assert set(before) == {"a.pt", "b.pt"}
    Path("b.pt").write_bytes(b"other")
    changed = outside(step)
    assert changed["a.pt"] == before["a.pt"]
    assert changed["b.pt"] != before["b.pt"]
    Path("a.pt").unlink()
    with pytest.raises(ModelError, match=r"nothing at 'a\.pt'"):
        outside(step)
    assert outside(DistillStep(student=ModelRecipe(name="resnet18", pretrained=True))) == {}


def test_17_a_file_is_hashed_once_in_a_run_and_again_when_written_over(tmp_path, monkeypatch):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"one")
    step = DistillStep(student=ModelRecipe(name="resnet18", pretrained=str(path)))
    read = []
    true = origins.sha256_of
    monkeypatch.setattr(origins, "sha256_of", lambda p: read.append(p) or true(p))
    hashed = {}
    first = outside(step, hashed)
    assert outside(step, hashed) == first
    assert len(read) == 1
    path.write_bytes(b"two!")
    assert outside(step, hashed) != first
    os.utime(path, ns=(0, 0))
    outside(step, hashed)
    assert len(read) == 3
    outside(step)  # another run believes none of it
    assert len(read) == 4
