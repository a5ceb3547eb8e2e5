"""In CI a test that is skipped is a test that failed, but for the reasons listed here.

A program that is missing from a CI machine would otherwise switch its tests off in silence. The
variable `CI` says that this is one, as every service sets it.
"""

from __future__ import annotations

import os

import pytest

# what a skip says -> why no CI machine can be asked for it
ALLOWED = {
    "no CUDA device": "a GPU",
    "no GPU here with NVIDIA's tensorrt: nothing was measured": "a GPU",
}


def _judged(report):
    """The report; of a skip that nothing excuses, a failure."""
    if not report.skipped or hasattr(report, "wasxfail") or os.environ.get("CI", "") in ("", "0"):
        return report
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = text.removeprefix("Skipped: ")
    if reason not in ALLOWED:
        report.outcome = "failed"
        report.longrepr = (
            f"{report.nodeid} was skipped in CI: {reason}\n"
            "install what it needs (scripts/debian_packages), or list the reason in "
            "tests/kit/skips.py"
        )
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _judged((yield))
