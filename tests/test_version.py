"""The public names and the version, which must not drift unnoticed."""

import tomllib
from pathlib import Path

import clinipress

ROOT = Path(__file__).resolve().parents[1]


def test_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == clinipress.__version__
    assert f"## [{clinipress.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_public_names():
    assert sorted(clinipress.__all__) == ["__version__", "compare", "evaluate", "load_bundle", "load_study", "run_study"]
    for name in clinipress.__all__:
        assert getattr(clinipress, name) is not None


def test_the_readme_captions_the_tree_as_it_is():
    text = (ROOT / "README.md").read_text()
    tree = text.split("## The tree", 1)[1].split("```")[1]
    captioned = {line.split()[0].rstrip("/") for line in tree.splitlines()[1:] if line.strip()}
    source = ROOT / "src" / "clinipress"
    there = {p.name for p in source.iterdir() if p.name[0] != "_" and p.suffix in ("", ".py") and p.name != "py.typed"}
    there |= {p.name for p in source.rglob("*.py") if not p.name.startswith("__")}
    assert there - captioned == set()
    assert {c for c in captioned if c.endswith(".py") and not c.startswith("__")} - there == set()
