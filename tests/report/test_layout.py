"""The page in a real browser: nothing may stick out sideways, on a phone or a desk screen."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from html import escape
from pathlib import Path

import pytest

from clinipress.records import Result
from clinipress.report.build import render

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed"),
]
WIDTHS = (320, 390, 760, 1280)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--dump-dom",
)
# a window cannot be narrower than 500 pixels, but a frame can, and media queries go by the frame
FRAME = '<iframe srcdoc="{page}" style="width:{width}px; height:900px; border:0"></iframe>'
ASK = """<script>onload = () => {
  const found = [];
  for (const frame of document.querySelectorAll('iframe')) {
    const page = frame.contentDocument;
    found.push(frame.contentWindow.innerWidth, page.documentElement.scrollWidth);
    page.querySelectorAll('details').forEach(one => { one.open = true; });
    found.push(page.documentElement.scrollWidth);
  }
  document.title = found.join(' ');
};</script>"""


def widths(page: str, folder: Path) -> list[list[int]]:
    """For each width: the frame's, the page's with its details closed, and with them open."""
    frames = [FRAME.format(page=escape(page), width=width) for width in WIDTHS]
    path = folder / "frames.html"
    path.write_text(f"<!DOCTYPE html><title></title><body>{''.join(frames)}{ASK}</body>")
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [str(BROWSER), *FLAGS, profile, path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>([\d ]+)</title>", done.stdout)
    assert title is not None
    numbers = [int(number) for number in title[1].split()]
    return [numbers[start : start + 3] for start in range(0, len(numbers), 3)]


@pytest.mark.parametrize("classes", [4, 20])
def test_nothing_sticks_out(
    make_study: Callable[..., Result], tmp_path: Path, classes: int
) -> None:
    names = tuple(f"a_rather_long_class_name_without_spaces_{n}" for n in range(classes))
    study = make_study(classes=names, extra_candidates=6, synthetic=True)
    measured = widths(render(study), tmp_path)
    assert [frame for frame, _, _ in measured] == list(WIDTHS)
    for width, closed, opened in measured:
        assert closed <= width
        assert opened <= width


def test_the_measurement_can_fail(tmp_path: Path) -> None:
    wide = '<!DOCTYPE html><title></title><body><div style="width:999px">x</div></body>'
    measured = widths(wide, tmp_path)
    assert all(closed >= 999 for _, closed, _ in measured)
