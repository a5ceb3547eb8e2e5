"""What every test shares: where real images are, and quiet, repeatable numerics."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# helpers of the tests: importlib mode puts no test folder on the path
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "nets")]

from kit.order import pytest_addoption, pytest_collection_modifyitems  # noqa: E402
from kit.skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: E402

__all__ = [
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_make_collect_report",
    "pytest_runtest_makereport",
]


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of real images; skipped only where CLINIPRESS_DATA is not set at all."""
    where = os.environ.get("CLINIPRESS_DATA")
    if not where:
        pytest.skip("CLINIPRESS_DATA is not set: no real images on this machine")
    folder = Path(where).resolve()
    if not folder.is_dir():
        pytest.fail(f"CLINIPRESS_DATA names '{where}', which is not a folder")
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """Manifest of a small SYNTHETIC set."""
    from clinipress.data.phantom import draw_phantoms

    return draw_phantoms(tmp_path_factory.mktemp("phantoms"), patients=120, seed=1, size=32)


@pytest.fixture(scope="session")
def finished(phantoms, tmp_path_factory):
    """A finished small study: its folder and its result."""
    from clinipress.pipeline import run_study
    from kit.studies import study

    run = tmp_path_factory.mktemp("run") / "small"
    return run, run_study(study(), phantoms, run)
