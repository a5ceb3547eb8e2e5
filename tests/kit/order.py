"""The order of the files, and parts of the suite that can be run alone.

Whole files are handed to the processes of pytest-xdist (`--dist loadfile`), so that what a file
makes once is made once. A file with a test marked `slow` goes first: the longest job begun last
would keep one processor waiting for the other.
"""

from __future__ import annotations

import argparse
import re

import pytest


def part(text: str) -> tuple[int, int]:
    """Number and count of "2/4"."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"expected a part such as 2/4, got '{text}'")
    return int(found[1]), int(found[2])


def chosen(slow: dict[str, bool], number: int = 1, count: int = 1) -> list[str]:
    """Names of the files of a part: slow ones first, dealt like cards.

    Args:
        slow: File -> whether it has a slow test, in the order of collection.
        number: Which part, from 1.
        count: How many parts there are.
    """
    return sorted(slow, key=lambda name: not slow[name])[number - 1 :: count]


def pytest_addoption(parser):
    parser.addoption(
        "--part", type=part, default=(1, 1), metavar="K/N", help="every N-th file, from the K-th"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    files: dict[str, list] = {}
    for item in items:
        files.setdefault(item.nodeid.split("::")[0], []).append(item)
    slow = {
        name: any(item.get_closest_marker("slow") for item in group)
        for name, group in files.items()
    }
    names = chosen(slow, *config.getoption("--part"))
    left = [item for name, group in files.items() if name not in names for item in group]
    if left:
        config.hook.pytest_deselected(items=left)
    items[:] = [item for name in names for item in files[name]]
