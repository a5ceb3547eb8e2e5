"""What is made once per run of the suite, whichever process needs it first."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def base(factory: pytest.TempPathFactory) -> Path:
    """The folder of this run of the suite, one for all processes of pytest-xdist."""
    root = factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


def shared(root: Path, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is filled once; read it, and copy what is to be changed.

    Args:
        root: Where the shared things of this run stand.
        name: Of the thing; equal names mean equal content.
        make: Fills the folder. What it leaves when it fails is thrown away.
    """
    folder = root / "shared" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed, also by a kill
        if not folder.is_dir():
            part = folder.with_name(f"{name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            make(part)
            part.rename(folder)
    return folder
