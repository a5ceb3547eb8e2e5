"""What every test shares: where real images are, and quiet, repeatable numerics."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# helpers of the tests: importlib mode puts no test folder on the path
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "nets")]


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
