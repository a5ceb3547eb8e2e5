"""Verdicts with sentences of a test's own."""

from __future__ import annotations

from clinipress.records.result import Reason, Status, Verdict


def spoken(text: str, status: Status | None = None) -> Reason:
    """A reason of no kind that the product words: it keeps this sentence."""
    return Reason(kind="SYNTHETIC", status=status, text=text)


def verdict_of(status: Status, *texts: str, cases_needed: int | None = None) -> Verdict:
    """A verdict whose reasons say no more than these sentences."""
    reasons = tuple(spoken(text, status) for text in texts)
    return Verdict(status=status, reasons=reasons, cases_needed=cases_needed)
