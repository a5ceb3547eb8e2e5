from __future__ import annotations

import re

from clinipress.records.result import Interval
from clinipress.reporting.drawing.forest import ForestRow, forest, marks
from clinipress.reporting.html import html as to_html


def interval(low: float, high: float) -> Interval:
    return Interval(value=(low + high) / 2, low=low, high=high)


def test_what_cannot_be_drawn_is_no_mark() -> None:
    broken = Interval(value=0.1, low=float("-inf"), high=1)
    assert marks(("shipped", None), ("kept", broken)) == []
    assert [mark.role for mark in marks(("kept", interval(0, 1)))] == ["kept"]


def test_all_rows_share_one_scale() -> None:
    rows = [
        ForestRow("a", marks(("shipped", interval(-0.1, 0.1))), "x"),
        ForestRow("b", marks(("shipped", interval(0.2, 0.4))), "y", grey=True),
    ]
    html = to_html(forest(rows))
    ends = [
        (float(low), float(high))
        for low, high in re.findall(r'whisker shipped" x1="([\d.]+)%" x2="([\d.]+)%"', html)
    ]
    # as wide as each other, and the second begins past the first
    assert abs((ends[0][1] - ends[0][0]) - (ends[1][1] - ends[1][0])) < 0.1
    assert ends[1][0] > ends[0][1]
    assert html.count('<tr class="grey">') == 1
    assert "--limit" not in html


def test_a_limit_is_part_of_the_scale() -> None:
    html = to_html(forest([ForestRow("a", marks(("shipped", interval(-0.001, 0.001))), "x", 0.02)]))
    limit = re.search(r"--limit:([\d.]+)%", html)
    assert limit is not None
    assert 60 < float(limit[1]) < 90


def test_nothing_at_all_can_be_drawn() -> None:
    assert "<table" in to_html(forest([ForestRow("a", [], "not measured")]))
