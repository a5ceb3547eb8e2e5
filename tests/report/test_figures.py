from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest

from clinipress.records.result import Interval
from clinipress.reporting.drawing.figures import (
    Mark,
    Scale,
    heat_table,
    log_ticks,
    nice_ticks,
    rules_style,
    strip,
)
from clinipress.reporting.drawing.plot import Point, pareto, trade_off
from clinipress.reporting.html import html as to_html
from clinipress.reporting.view import Role


def point(number: int, cost: float, gain: float, role: Role = "candidate") -> Point:
    interval = Interval(value=gain, low=gain - 0.01, high=gain + 0.01)
    return Point(number, f"c{number}", cost, interval, role)


def test_a_scale_maps_its_ends_and_its_middle() -> None:
    plain = Scale(-1, 3, 10, 90)
    assert [plain.at(value) for value in (-1, 1, 3, 99, -99)] == [10, 50, 90, 90, 10]
    logarithmic = Scale(1, 100, 0, 100, logarithmic=True)
    assert logarithmic.at(10) == pytest.approx(50)
    assert Scale(2, 2, 0, 100).at(2) == 50


@pytest.mark.parametrize(
    ("low", "high"), [(-0.013, 0.031), (0.0, 1.0), (0.8731, 0.8742), (-3.0, -1.0), (0.0, 1e-9)]
)
def test_ticks_are_inside_evenly_spaced_and_few(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    steps = {round((b - a) / (high - low), 6) for a, b in pairwise(ticks)}
    assert len(steps) == 1


@pytest.mark.parametrize(
    ("low", "high"), [(2.9, 48.0), (0.06, 0.19), (0.01, 0.07), (0.001, 5000.0), (90.0, 130.0)]
)
def test_logarithmic_ticks_are_inside_and_enough(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)


def test_the_front_against_a_search_of_all_pairs() -> None:
    points = [point(n, (37 * n) % 11 + 1, 0.9 + ((53 * n) % 17) / 200) for n in range(12)]

    def beaten(one: Point) -> bool:
        return any(
            other.cost <= one.cost
            and other.gain.value >= one.gain.value
            and (other.cost < one.cost or other.gain.value > one.gain.value)
            for other in points
        )

    assert {one.number for one in pareto(points)} == {
        one.number for one in points if not beaten(one)
    }


def test_a_rejected_point_is_never_on_the_front() -> None:
    good, rejected = point(1, 5.0, 0.9), point(2, 1.0, 0.99, "rejected")
    assert pareto([good, rejected]) == [good]
    assert pareto([rejected]) == []


def test_the_plot_draws_every_point_with_its_role_and_name() -> None:
    roles: tuple[Role, ...] = ("reference", "shipped", "rejected", "candidate")
    points = [point(n, 10.0**n, 0.9 + n / 100, role) for n, role in enumerate(roles)]
    drawn = str(trade_off(points, "ms", "Accuracy against time"))
    for one in points:
        assert drawn.count(f'class="m {one.role}"') == 1
        assert f"<title>{one.number} {one.name}</title>" in drawn
    assert 'aria-label="Accuracy against time"' in drawn


def test_the_more_accurate_point_is_higher_and_the_cheaper_one_further_left() -> None:
    drawn = str(trade_off([point(1, 1, 0.8), point(2, 100, 0.9, "shipped")], "ms", "t"))
    places = re.findall(r'<svg x="([\d.]+)%" y="([\d.]+)" class="at"><path class="m (\w+)"', drawn)
    at = {role: (float(x), float(y)) for x, y, role in places}
    assert at["candidate"][0] < at["shipped"][0]
    assert at["candidate"][1] > at["shipped"][1]


def test_a_plot_needs_two_points_with_both_figures() -> None:
    assert trade_off([point(1, 1, 0.8)], "ms", "t") is None
    broken = point(2, 1, math.nan)
    assert trade_off([point(1, 1, 0.8), broken], "ms", "t") is None


def test_all_points_at_one_place_can_be_drawn() -> None:
    drawn = trade_off([point(1, 1, 1.0), point(2, 1, 1.0)], "ms", "t")
    assert drawn is not None
    assert "nan" not in drawn


def test_a_strip_puts_its_marks_on_the_common_scale() -> None:
    marks = [Mark(Interval(value=0.5, low=0.25, high=0.75), "shipped")]
    drawn = strip(marks, Scale(0, 1, 0, 100))
    assert 'x1="25%" x2="75%"' in drawn
    assert '<svg x="50%"' in drawn


def test_the_limit_is_drawn_where_it_is() -> None:
    scale = Scale(-0.02, 0.08, 0, 100)
    assert rules_style(scale, 0.03) == "--zero:20%;--limit:50%"
    assert rules_style(scale, None) == "--zero:20%"


def test_heat_holds_every_count_and_shades_by_share_of_the_row() -> None:
    drawn = to_html(heat_table([[90, 10], [0, 40]], ("a", "b"), "of this"))
    cells = re.findall(r"<td(.*?)>(\d*)</td>", drawn)
    assert [text for _, text in cells] == ["90", "10", "", "40"]
    shades = [re.search(r"--v:([\d.]+)", attributes) for attributes, _ in cells]
    values = [float(shade[1]) if shade else 0.0 for shade in shades]
    assert values == pytest.approx([0.9, 0.1 + 0.9 * math.sqrt(0.1), 0.0, 1.0], abs=0.006)


def test_long_class_names_get_numbers_as_column_heads() -> None:
    drawn = to_html(heat_table([[1, 0], [0, 1]], ("a class with a long name", "b"), "of this"))
    assert drawn.count("a class with a long name") == 1
    assert '<th scope="col">1</th>' in drawn


def heads_of(*classes: str) -> list[str]:
    """What stands above the columns of a confusion matrix, and before its rows."""
    drawn = to_html(heat_table([[1] * len(classes)] * len(classes), classes, "of this"))
    return re.findall(r"<th[^>]*>([^<]*)</th>", drawn)[1:]


def test_a_column_of_grades_bears_the_grade_and_no_other_number() -> None:
    grades = [*"01234"]
    assert heads_of(*grades) == [*grades, *grades]
    long = ("0 none", "1 doubtful", "2", "3", "4")
    numbers = [f"({n})" for n in range(1, 6)]
    assert heads_of(*long) == [
        *numbers,
        *(f"{n} {name}" for n, name in zip(numbers, long, strict=True)),
    ]
    words = ("none", "mild", "moderate", "severe", "proliferative")
    assert heads_of(*words)[:5] == [*"12345"]
