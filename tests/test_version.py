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
    assert sorted(clinipress.__all__) == [
        "__version__",
        "compare",
        "compress",
        "evaluate",
        "load_bundle",
        "load_study",
        "run_study",
    ]
    for name in clinipress.__all__:
        assert getattr(clinipress, name) is not None
