"""The page in a real browser: on a phone, on a desk screen, in the dark, and on paper."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from clinipress.records.result import Result
from clinipress.reporting.page.build import render
from kit.findings import findings_study
from kit.judgements import pictures, with_judgements

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed"),
]
WIDTHS = (320, 390, 760, 1280)
PAPER = 688  # pixels of an A4 page without its margins
READABLE = 4.5  # contrast of text that WCAG 2.1 asks for at level AA
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# a window cannot be narrower than 500 pixels, but a frame can, and media queries go by the frame
FRAME = '<iframe srcdoc="{page}" style="width:{width}px; height:900px; border:0"></iframe>'
WIDE = """page => {
  const closed = page.documentElement.scrollWidth;
  page.querySelectorAll('details').forEach(one => { one.open = true; });
  return [page.defaultView.innerWidth, closed, page.documentElement.scrollWidth];
}"""
# text against the nearest background that is not transparent; shapes and disabled rows apart
PALE = """page => {
  const seen = {}, style = page.defaultView.getComputedStyle.bind(page.defaultView);
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return Array.from(canvas.getImageData(0, 0, 1, 1).data);
  };
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(
    v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  for (const one of page.querySelectorAll('main *, .synthetic *')) {
    const own = [...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || one.closest('title, .heat, .synthetic')) continue;
    let under = one;
    while (under && rgb(style(under).backgroundColor)[3] < 200) under = under.parentElement;
    const a = light(rgb(one.closest('svg') ? style(one).fill : style(one).color));
    const b = light(under ? rgb(style(under).backgroundColor) : [255, 255, 255]);
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const name = one.tagName.toLowerCase() + '.' + (one.getAttribute('class') || '');
    if (!(seen[name] <= ratio)) seen[name] = ratio;
  }
  return seen;
}"""
# on paper nothing scrolls: what is wider than its box is cut off
CUT = """page => [...page.querySelectorAll('main *')].filter(
  one => one.getBoundingClientRect().right > page.documentElement.clientWidth + 1
  && !one.closest('svg')).map(one => one.tagName + '.' + (one.getAttribute('class') || ''))"""


def asked(pages: list[tuple[str, int]], question: str, folder: Path) -> list[Any]:
    """What a script finds in each page, shown in a frame of a width."""
    frames = [FRAME.format(page=escape(page), width=width) for page, width in pages]
    script = (
        f"<script>onload = () => {{ const ask = {question}; document.title = JSON.stringify("
        "[...document.querySelectorAll('iframe')].map(one => ask(one.contentDocument))); }</script>"
    )
    path = folder / "frames.html"
    path.write_text(f"<!DOCTYPE html><title></title><body>{''.join(frames)}{script}</body>")
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [str(BROWSER), *FLAGS, "--dump-dom", profile, path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>(.+?)</title>", done.stdout)
    assert title is not None
    found: list[Any] = json.loads(unescape(title[1]))
    return found


def dark(page: str) -> str:
    """The page as a browser shows it that is asked for dark colours."""
    assert "prefers-color-scheme: dark" in page
    page = page.replace("prefers-color-scheme: dark", "min-width: 1px")
    return page.replace("color-scheme: light dark", "color-scheme: dark")


def printed(page: str) -> str:
    """The page laid out as for paper."""
    assert page.count("@media print") == 1
    return page.replace("@media screen", "@media speech").replace("@media print", "@media screen")


@pytest.fixture(scope="module")
def whole(make_study: Callable[..., Result]) -> str:
    """Every section, with a failed one, a missing one, and a set from elsewhere."""
    study = with_judgements(
        make_study(extra_candidates=6, synthetic=True),
        external="external: hospital B",
        planted="stress",
        missing={"saliency": "the study did not ask for it"},
    )
    return render(study, pictures())


@pytest.mark.parametrize("classes", [4, 20])
def test_nothing_sticks_out(
    make_study: Callable[..., Result], tmp_path: Path, classes: int
) -> None:
    names = tuple(f"a_rather_long_class_name_without_spaces_{n}" for n in range(classes))
    study = make_study(classes=names, extra_candidates=6, synthetic=True)
    study = with_judgements(study, external="external: a hospital with a rather long name")
    page = render(study, pictures(panels=2))
    measured = asked([(page, width) for width in WIDTHS], WIDE, tmp_path)
    assert [frame for frame, _, _ in measured] == list(WIDTHS)
    for width, closed, opened in measured:
        assert closed <= width
        assert opened <= width


def test_the_measurement_can_fail(tmp_path: Path) -> None:
    wide = '<!DOCTYPE html><title></title><body><div style="width:999px">x</div></body>'
    measured = asked([(wide, width) for width in WIDTHS], WIDE, tmp_path)
    assert all(closed >= 999 for _, closed, _ in measured)


def test_text_can_be_read_in_light_and_dark(whole: str, tmp_path: Path) -> None:
    for found in asked([(whole, 1280), (dark(whole), 1280), (dark(whole), 390)], PALE, tmp_path):
        assert len(found) > 40
        pale = {name: ratio for name, ratio in found.items() if ratio < READABLE}
        assert pale == {}


def test_pale_text_is_found(tmp_path: Path) -> None:
    pale = '<!DOCTYPE html><title></title><body><main><p style="color:#999">x</p></main></body>'
    assert asked([(pale, 390)], PALE, tmp_path)[0]["p."] < READABLE


def test_nothing_is_cut_on_paper(whole: str, tmp_path: Path) -> None:
    wide = (
        '<!DOCTYPE html><title></title><body><main><div style="width:999px">x</div></main></body>'
    )
    found = asked([(printed(whole), PAPER), (wide, PAPER)], CUT, tmp_path)
    assert found == [[], ["DIV."]]


def test_the_page_prints(whole: str, tmp_path: Path) -> None:
    page, paper = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(whole, encoding="utf-8")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    subprocess.run(
        [str(BROWSER), *FLAGS, profile, f"--print-to-pdf={paper}", page.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    content = paper.read_bytes()
    pages = re.findall(rb"/Type\s*/Page\b", content)
    # each section begins on a page of its own, the first under the verdict
    assert len(pages) >= whole.count("<section")
    boxes = re.findall(rb"/MediaBox\s*\[0 0 (\d+)[\d.]* (\d+)", content)
    assert {(int(w), int(h)) for w, h in boxes} == {(594, 841)} or boxes[0] == (b"595", b"842")


def test_many_findings_fit_a_phone_and_paper(tmp_path: Path) -> None:
    page = render(findings_study(40, images=90, resamples=10), pictures())
    for width, closed, opened in asked([(page, width) for width in (320, 390)], WIDE, tmp_path):
        assert max(closed, opened) <= width
    assert asked([(printed(page), PAPER)], CUT, tmp_path) == [[]]
