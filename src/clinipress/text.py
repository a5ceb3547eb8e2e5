"""Words and numbers as every reader sees them: terminal, pages, cards, reasons.

One word for one verdict, one minus sign, one dash. Needs nothing beyond the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping

from clinipress.base_records import Status

__all__ = ["STATUS_WORDS"]

STATUS_WORDS: Mapping[Status, str] = {
    "pass": "PASS",
    "fail": "FAIL",
    "inconclusive": "INCONCLUSIVE",
}
