"""What every test shares: where real images are, and quiet, repeatable numerics."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest

# helpers of the tests: importlib mode puts no test folder on the path
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "nets")]

from kit.order import pytest_addoption, pytest_collection_modifyitems  # noqa: E402
from kit.quick import pytest_collection_finish, pytest_runtest_setup  # noqa: E402
from kit.shared import base, shared  # noqa: E402
from kit.skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: E402

__all__ = [
    "pytest_addoption",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_make_collect_report",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
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
    """Manifest of a small SYNTHETIC set, one for all processes of a run: to be read alone."""
    from clinipress.data.drawn.phantom import draw_phantoms

    def draw(folder):
        draw_phantoms(folder, patients=120, seed=1, size=32)

    return shared(base(tmp_path_factory), "phantoms", draw) / "manifest.csv"


@pytest.fixture(scope="session")
def finished(phantoms, tmp_path_factory):
    """A finished small study, run once for all processes: a folder of this one's own, the result.

    A study started in a copy of the folder resumes from its store.
    """
    from clinipress.study.flow import run_study
    from kit.studies import study

    def run(folder):
        result = run_study(study(), phantoms, folder / "run")
        (folder / "result.pickle").write_bytes(pickle.dumps(result))

    made = shared(base(tmp_path_factory), "finished", run)
    own = tmp_path_factory.mktemp("run") / "small"
    shutil.copytree(made / "run", own)
    return own, pickle.loads((made / "result.pickle").read_bytes())
