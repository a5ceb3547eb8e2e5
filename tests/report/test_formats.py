from __future__ import annotations

import math

import pytest

from clinipress.records.result import Interval
from clinipress.reporting.wording import numbers as formats


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (28.312044, 3, "28.3"),
        (0.706918, 3, "0.707"),
        (0.0114, 3, "0.0114"),
        (1234.5, 3, "1,230"),
        (99.96, 3, "100"),
        (40.05, 2, "40"),
        (4.55, 2, "4.5"),
        (0.0, 3, "0"),
        (-2.5, 2, "\u22122.5"),
        (math.nan, 3, "not measured"),
        (math.inf, 3, "not measured"),
    ],
)
def test_significant_figures(value: float, digits: int, shown: str) -> None:
    assert formats.significant(value, digits) == shown


def test_points_never_show_a_negative_zero() -> None:
    assert formats.points(-0.0001) == "0.0"
    assert formats.points(0.0) == "0.0"
    assert formats.points(-0.012) == "\u22121.2"


def test_decimals_grow_until_the_interval_and_the_limit_read_differently() -> None:
    near = Interval(value=0.001, low=-0.02004, high=0.01)
    assert formats.change_interval(near, 0.02) == "+0.100 (\u22122.004 to +1.000)"
    far = Interval(value=0.001, low=-0.018, high=0.01)
    assert formats.change_interval(far, 0.02) == "+0.1 (\u22121.8 to +1.0)"
    equal = Interval(value=0.001, low=-0.02, high=0.01)
    assert formats.change_interval(equal, 0.02) == "+0.1 (\u22122.0 to +1.0)"


@pytest.mark.parametrize("end", ["value", "low", "high"])
def test_what_is_not_a_number_was_not_measured(end: str) -> None:
    broken = Interval(value=0.5, low=0.4, high=0.6).model_copy(update={end: math.nan})
    assert formats.figure_interval("accuracy", broken) == "not measured"
    assert formats.points_interval(broken) == "not measured"
    assert formats.change_interval(broken) == "not measured"
    assert formats.figure_interval("accuracy", None) == "not measured"


def test_each_metric_in_its_own_manner() -> None:
    interval = Interval(value=0.9456, low=0.931, high=0.9601)
    assert formats.figure_interval("accuracy", interval) == "94.6% (93.1\u201396.0)"
    assert formats.figure_interval("auroc_macro", interval) == "0.946 (0.931\u20130.960)"
    assert formats.figure_interval("log_loss", interval) == "0.946 (0.931\u20130.960)"
    assert formats.figure("sensitivity[a]", 1.0) == "100.0%"


def test_names_of_metrics() -> None:
    assert formats.metric_name("sensitivity[no tumour]") == "sensitivity for no tumour"
    assert formats.metric_name("sensitivity[*]") == "sensitivity for each class"
    assert formats.metric_class("f1[a[1]]") == "a[1]"
    assert formats.metric_class("accuracy") is None


@pytest.mark.parametrize(
    ("metric", "said"),
    [("accuracy", True), ("auroc_macro", True), ("log_loss", False), ("ece", False)],
)
def test_only_losses_of_shares_are_said_in_points(metric: str, said: bool) -> None:
    assert formats.in_points(metric) is said


def test_sizes_counts_and_times() -> None:
    assert formats.megabytes(28_312_044) == "28.3\u202fMB"
    assert formats.megabytes(None) == "not measured"
    assert formats.milliseconds(None) == "not measured"
    assert formats.milliseconds(3.4) == "3.40\u202fms"
    assert formats.large(6_957_956) == "6.96\u202fM"
    assert formats.large(2_050_000_000) == "2.05\u202fG"
    assert formats.large(812) == "812"
    assert formats.large(None) == "not measured"
    assert formats.counted(1, "image") == "1 image"
    assert formats.counted(12_345, "copy", "copies") == "12,345 copies"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (4.2, "4.2\u202fs"),
        (125, "2\u202fmin"),
        (4320, "1\u202fh 12\u202fmin"),
        (3599, "1\u202fh 0\u202fmin"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert formats.duration(seconds) == shown


def test_a_stamp_that_is_no_time_is_left_as_it_is() -> None:
    assert formats.moment("2026-02-03T10:11:12+00:00") == "3 February 2026, 10:11 UTC"
    assert formats.moment("2026-02-03T10:11:12") == "3 February 2026, 10:11"
    assert formats.moment("yesterday") == "yesterday"
