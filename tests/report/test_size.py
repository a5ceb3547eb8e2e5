"""The report stays small however large the study: the benchmark's study, but fewer cases."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from clinipress.records.judgement import SECTIONS
from clinipress.reporting.drawing.pictures import ALLOWANCE
from clinipress.reporting.page.build import write_report
from kit.pages import Page

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "report_size.py"
LIMIT = 15_000_000


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report_size", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("size") / "run"
    study = benchmark.drawn(240, 4, 3, folder)
    return write_report(study, folder).read_text(encoding="utf-8")


def test_a_study_of_worst_pictures_makes_a_small_file(benchmark: ModuleType, page: str) -> None:
    assert benchmark.LIMIT == LIMIT
    text = re.sub(r'data:image[^"]+', "", page)
    # the pictures have their allowance, a third more as text; the rest hardly grows with cases
    assert 4 * ALLOWANCE / 3 + 2_000_000 < LIMIT
    assert len(page.encode()) - len(text.encode()) < 4 * ALLOWANCE / 3 + 1000
    assert len(text.encode()) < 1_000_000


def test_what_the_evaluation_finds_can_be_shown(page: str) -> None:
    seen = Page(page)
    assert {f"{one}" for one in SECTIONS} <= {a.get("id") for _, a in seen.elements}
    assert seen.text.count("SYNTHETIC")
    assert re.search(r"\b(nan|inf|None)\b", seen.text) is None
    for key in SECTIONS:
        section = re.search(rf'<section id="{key}">.*?</section>', page)
        assert section is not None
        assert 'class="judged"' in section[0]
