"""The page in a real browser: nothing may stick out sideways, on a phone or a desk screen."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from clinipress.records import Result
from clinipress.report.build import POLICY, render

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed"),
]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--dump-dom",
)
# the report itself runs no script; the copy under test may, to be measured
ASK = (
    "<script>document.title = [innerWidth, document.documentElement.scrollWidth].join(' ');"
    "document.querySelectorAll('details').forEach(one => one.open = true);"
    "document.title += ' ' + document.documentElement.scrollWidth;</script>"
)


def widths(html: str, width: int, folder: Path) -> list[int]:
    """Width of the window, and of the page with its details closed and open."""
    page = folder / "page.html"
    page.write_text(
        html.replace(POLICY.replace("'", "&#x27;"), "").replace("</body>", f"{ASK}</body>")
    )
    done = subprocess.run(
        [
            str(BROWSER),
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},3000",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>([\d ]+)</title>", done.stdout)
    assert title is not None
    return [int(number) for number in title[1].split()]


@pytest.mark.parametrize("width", [390, 760, 1280])
@pytest.mark.parametrize("classes", [4, 20])
def test_nothing_sticks_out(
    make_study: Callable[..., Result], tmp_path: Path, width: int, classes: int
) -> None:
    names = tuple(f"a_rather_long_class_name_without_spaces_{n}" for n in range(classes))
    study = make_study(classes=names, extra_candidates=6, synthetic=True)
    window, closed, opened = widths(render(study), width, tmp_path)
    assert window == width
    assert closed <= width
    assert opened <= width


def test_the_measurement_can_fail(tmp_path: Path) -> None:
    wide = '<!DOCTYPE html><title></title><body><div style="width:999px">x</div></body>'
    assert widths(wide, 390, tmp_path)[1] >= 999
