"""Packages the base install does not bring: named with their extra, never a traceback."""

import ast
import pickle
import sys
from pathlib import Path

import pytest

import clinipress
from clinipress import extras
from clinipress.cli import commands as cli
from clinipress.errors import BrokenExtraError, MissingExtraError
from clinipress.extras import (
    PURPOSES,
    check_installed,
    extra_of_package,
    is_installed,
    missing_extra,
    require,
)
from clinipress.recipe.formats import FORMATS

SOURCE = Path(clinipress.__file__).parent
BASE = {"PIL", "clinipress", "numpy", "onnxruntime", "pydantic", "rich", "typer", "yaml"}
# NVIDIA's own package comes with the board and is no extra: `place` says where it is missing, and
# the script beside a bundle runs where clinipress is not installed
NO_EXTRA = {"tensorrt"}


def test_what_is_installed_is_given_back():
    assert require("scipy.special", extra="compress").expit(0) == 0.5
    check_installed(["scipy"], extra="compress")


def test_what_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.delitem(sys.modules, "scipy.special", raising=False)
    assert not is_installed("scipy")
    with pytest.raises(MissingExtraError, match=r"training.*clinipress\[compress\]") as caught:
        require("scipy.special", extra="compress")
    assert not isinstance(caught.value, BrokenExtraError)
    with pytest.raises(MissingExtraError, match="packages for fitting"):
        require("scipy", extra="compress", what="fitting")
    with pytest.raises(MissingExtraError, match="packages for fitting"):
        check_installed(["numpy", "scipy"], extra="compress", what="fitting")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("import no_such_library", "ModuleNotFoundError"),
        ("raise OSError('libcudart.so: cannot open\\nshared object')", "OSError: libcudart"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "torchvision::nms"),
    ],
)
def test_a_broken_wheel_is_not_said_to_be_missing(tmp_path, monkeypatch, content, said):
    (tmp_path / "broken_wheel").mkdir()
    (tmp_path / "broken_wheel" / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BrokenExtraError, match=said) as caught:
        require("broken_wheel", extra="compress")
    text = str(caught.value)
    assert "\n" not in text
    assert "an installed package 'broken_wheel'" in text
    assert text.endswith("pip install --force-reinstall 'clinipress[compress]'")
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


def test_the_table_of_packages_is_the_metadatas():
    assert extra_of_package("torch_pruning") == "compress"
    assert extra_of_package("pydicom") == "dicom"
    assert extra_of_package("ai_edge_litert") == "litert"
    assert extra_of_package("tflite_micro") == "tflite-micro"
    assert [extra_of_package(name) for name in ("numpy", "clinipress", "pytest")] == [None] * 3
    assert set(extras._extras().values()) >= set(PURPOSES) | {
        row.extra for row in FORMATS if row.extra
    }
    assert not set(extras._extras().values()) & extras.GATHERED


def leave(monkeypatch, capsys, problem):
    def app():
        raise problem

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code, capsys.readouterr().err


def test_the_command_line_has_a_last_net(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    gone = ModuleNotFoundError("No module named 'timm.models'", name="timm.models")
    code, text = leave(monkeypatch, capsys, gone)
    assert code == 2
    assert text.count("\n") == 1
    assert "clinipress[compress]" in text
    ours = ModuleNotFoundError("No module named 'clinipress.typo'", name="clinipress.typo")
    assert missing_extra(ours) is None
    code, text = leave(monkeypatch, capsys, ours)  # a mistake of ours is one line, too
    assert (code, text.count("\n")) == (2, 1)
    assert "clinipress.typo" in text
    assert "--debug" in text


def packages(node: ast.AST) -> set[str]:
    """Top-level packages that one node imports."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return {node.module.split(".")[0]}
    return set()


def required(node: ast.AST) -> str:
    """The package that a call of `require` names; "" for any other node."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
        name = getattr(node.args[0], "value", "")
        return name.split(".")[0] if isinstance(name, str) else ""
    return ""


def unguarded(tree: ast.AST) -> list[str]:
    """Imports inside functions of packages that no `require` before them names."""
    found = []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        nodes = sorted(
            (node for node in ast.walk(function) if hasattr(node, "lineno")),
            key=lambda node: node.lineno,
        )
        seen = BASE | NO_EXTRA | sys.stdlib_module_names
        for node in nodes:
            seen = seen | {required(node)}
            found += [f"{node.lineno}: {package}" for package in packages(node) - seen]
    return found


def test_every_import_inside_a_function_is_guarded():
    guilty = {
        str(path.relative_to(SOURCE)): lines
        for path in sorted(SOURCE.rglob("*.py"))
        if (lines := unguarded(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert guilty == {}


def test_the_checker_of_imports_can_fail():
    body = "def f():\n    import torch\n    require('torch', extra='compress')\n"
    assert unguarded(ast.parse(body)) == ["2: torch"]
    body = "def f():\n    require('torch', extra='compress')\n    from torch import nn\n"
    assert unguarded(ast.parse(body)) == []
    assert unguarded(ast.parse("def f():\n    from scipy.special import bdtr\n"))
