"""The golden studies: what a study says today, kept; whoever reshapes the product leaves it so."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import comparing  # noqa: E402
import studies  # noqa: E402

from clinipress.formats.open import place_of  # noqa: E402

NAMES = tuple(studies.TREES)
# Instruction sets that PyTorch and NumPy can be held to; OpenVINO's are in `make.PINNED`. ONNX
# Runtime and XNNPACK offer no such switch.
LOWERED = {
    "ATEN_CPU_CAPABILITY": "default",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
}

pytestmark = pytest.mark.skipif(
    bool(place_of("tensorrt")), reason="expected where there is no GPU: an engine is measured there"
)


def check(*arguments, **environment):
    """Run `make.py --check`, which needs a process of its own."""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "make.py"), "--check", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[:5000] + found.stderr[-3000:]
    return found.stdout


def test_the_golden_studies_say_what_they_said():
    assert check() == "".join(f"{name}: nothing changed\n" for name in NAMES)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_threads_say_the_same(name):
    assert check(name, "--threads", "2") == f"{name}: nothing changed\n"


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_lesser_processor_says_the_same(name):
    assert check(name, **LOWERED) == f"{name}: nothing changed\n"


# ---- the comparison can fail


@pytest.fixture(scope="module")
def kept():
    """The first study's pages; no test changes them."""
    return comparing.read(HERE / "expected" / NAMES[0])


def changed(kept, change):
    """Differences after `change` was done to a copy of the pages."""
    other = copy.deepcopy(kept)
    change(other)
    return list(comparing.differences(kept, other))


def test_nothing_changed_is_no_difference(kept):
    assert changed(kept, lambda _: None) == []


def test_what_is_kept_is_read_as_it_was_written(kept, tmp_path):
    comparing.write(kept, tmp_path)
    assert comparing.read(tmp_path) == kept


def test_another_verdict_is_noticed(kept):
    def change(pages):
        pages["result.json"]["verdict"]["status"] = "inconclusive"

    (said,) = changed(kept, change)
    assert "/result.json/verdict/status" in said


def test_a_key_that_goes_or_comes_is_noticed(kept):
    assert "keys gone ['limits']" in changed(kept, lambda p: p["result.json"].pop("limits"))[0]
    assert "new ['more']" in changed(kept, lambda p: p["result.json"].update(more=None))[0]


def test_keys_in_another_order_are_noticed(kept):
    def change(pages):
        first = next(iter(pages["result.json"]))
        pages["result.json"][first] = pages["result.json"].pop(first)

    (said,) = changed(kept, change)
    assert "in another order" in said


def test_rows_in_another_order_are_noticed(kept):
    assert changed(kept, lambda p: p["result.json"]["candidates"].reverse())


@pytest.mark.parametrize("page", ["report.md", "dossier.md", "model-card.md"])
def test_another_word_is_noticed(kept, page):
    def change(pages):
        pages[page] = pages[page].replace("sensitivity", "recall", 1)

    (said,) = changed(kept, change)
    assert said.startswith(f"/{page}, line")


def test_a_line_less_is_noticed(kept):
    def change(pages):
        pages["report.md"] = "\n".join(pages["report.md"].split("\n")[:-3])

    assert "lines, found" in changed(kept, change)[0]


def accuracy(pages):
    return pages["result.json"]["candidates"][1]["evidence"]["validation"]["accuracy"]


def test_a_figure_beyond_the_tolerance_is_noticed_and_one_within_it_is_not(kept):
    value = accuracy(kept)["value"]
    least = comparing.FIGURE + comparing.RELATIVE * value
    for share, noticed in ((0.9, 0), (1.1, 1)):
        found = changed(kept, lambda p, by=share: accuracy(p).update(value=value + by * least))
        assert len(found) == noticed
    # one image of 150 that is answered otherwise is beyond it
    assert changed(kept, lambda p: accuracy(p).update(value=value - 1 / 150))


def test_a_sign_and_a_figure_that_is_none_are_noticed(kept):
    assert changed(kept, lambda p: accuracy(p).update(value=-accuracy(p)["value"]))
    assert changed(kept, lambda p: accuracy(p).update(value=None))
    assert changed(kept, lambda p: accuracy(p).update(n=149))


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("fell by 4.9 points", "fell by 5.0 points", True),  # the last digit written
        ("fell by 4.9 points", "fell by 5.1 points", False),
        ("fell by 4.9 points", "fell by -4.9 points", False),
        ("of 150 images", "of 151 images", False),  # a count
        ("56.1 kB", "57.0 kB", True),  # a toolchain's next version
        ("56.1 kB", "59.0 kB", False),
        ("44% of the bytes", "45% of the bytes", True),
        ("44% of the bytes", "46% of the bytes", False),
        ("PASS", "FAIL", False),
    ],
)
def test_numbers_in_texts_have_the_tolerance_of_how_they_are_written(before, after, same):
    assert (not list(comparing.differences(before, after))) == same


def test_days_digests_and_versions_are_not_compared():
    first = "29 November 2026, 06:48 UTC, onnxruntime 1.28.0, 0123456789abcdef"
    second = "2 May 2027, 16:08 UTC, onnxruntime 2.1, fedcba98765432100"
    made = [comparing.normalised_text(text) for text in (first, second)]
    assert made[0] == made[1] == "<day>, onnxruntime <version>, <digest>"


def test_what_is_kept_stays_small():
    kept = [path for path in HERE.rglob("*") if path.is_file() and "__pycache__" not in str(path)]
    assert sum(path.stat().st_size for path in kept) < 5_000_000
