"""The public names and the version, which must not drift unnoticed."""

import runpy
import tomllib
from pathlib import Path

import clinipress

ROOT = Path(__file__).resolve().parents[1]


def test_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == clinipress.__version__
    assert f"## [{clinipress.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_public_names():
    assert sorted(clinipress.__all__) == [
        "__version__",
        "compare",
        "evaluate",
        "load_bundle",
        "load_study",
        "run_study",
    ]
    for name in clinipress.__all__:
        assert getattr(clinipress, name) is not None


def test_the_readme_captions_the_tree_as_it_is():
    tree = runpy.run_path(str(ROOT / "scripts" / "tree.py"))["tree"]()
    assert f"```\n{tree}```\n" in (ROOT / "README.md").read_text(), "run scripts/tree.py --write"
    assert "pipeline.py" in tree
