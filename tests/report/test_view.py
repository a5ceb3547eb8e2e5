from __future__ import annotations

from collections.abc import Callable

from clinipress.records.candidate import Speed
from clinipress.records.result import Interval, Result
from clinipress.reporting.page.candidates import candidates_section
from clinipress.reporting.view import View


def test_the_reference_comes_first_whatever_the_order(make_study: Callable[..., Result]) -> None:
    study = make_study()
    turned = study.model_copy(update={"candidates": study.candidates[::-1]})
    assert View(turned).candidates[0].name == "reference"
    assert len(View(turned).compressed) == 5


def test_roles(make_study: Callable[..., Result]) -> None:
    view = View(make_study())
    roles = {record.name: view.role(record) for record in view.candidates}
    assert roles == {
        "reference": "reference",
        "distilled": "candidate",
        "pruned": "candidate",
        "pruned-float16": "candidate",
        "pruned-int8": "shipped",
        "pruned-int8-minmax": "rejected",
    }


def test_ratios_only_between_like_and_like(make_study: Callable[..., Result]) -> None:
    study = make_study()
    view = View(study)
    shipped = view.shipped
    assert shipped is not None
    assert view.size_ratio(shipped) == 28_312_044 / 706_918
    # with the reading of the file where all were timed so, else the network alone
    assert view.speed_ratio(shipped) == (2 * 41.2) / (2 * 3.43)
    timing = shipped.latency_with_preprocessing_ms
    assert timing is not None
    for wrong in (timing.model_copy(update={"threads": 4}), None):
        other = shipped.model_copy(update={"latency_with_preprocessing_ms": wrong})
        assert view.speed_ratio(other) is None
    bare = [
        one.model_copy(update={"latency_with_preprocessing_ms": None}) for one in study.candidates
    ]
    alone = View(study.model_copy(update={"candidates": tuple(bare)}))
    assert alone.shipped is not None
    assert alone.speed_ratio(alone.shipped) == 41.2 / 3.43


def test_a10_ratio_is_that_of_paired_turns_and_none_where_the_machine_was_busy(
    make_study: Callable[..., Result],
) -> None:
    study = make_study()
    speed = Speed(ratio=Interval(value=9.0, low=8.5, high=9.6))
    believed = [one.model_copy(update={"speed": speed}) for one in study.candidates]
    view = View(study.model_copy(update={"candidates": tuple(believed)}))
    assert view.shipped is not None
    assert view.speed_ratio(view.shipped) == 9.0
    assert view.too_busy == ""
    page = repr(candidates_section(view))
    assert "95% CI 8.5 to 9.6" in page
    noisy = speed.model_copy(update={"reliable": False, "why": "The machine was too busy."})
    busy = [one.model_copy(update={"speed": noisy}) for one in study.candidates]
    view = View(study.model_copy(update={"candidates": tuple(busy)}))
    assert view.shipped is not None
    assert view.speed_ratio(view.shipped) is None
    page = repr(candidates_section(view))
    assert "The machine was too busy." in page
    assert "faster" not in page.replace("How many times faster is the median", "")
    assert "CI 8.5" not in page


def test_without_a_shipped_one_the_closest_is_compared(make_study: Callable[..., Result]) -> None:
    study = make_study().model_copy(update={"shipped": None})
    view = View(study)
    lower = {
        r.name: r.changes["test" if "test" in r.changes else "validation"] for r in view.compressed
    }
    assert view.subject is not None
    assert view.subject.name == max(lower, key=lambda name: lower[name]["accuracy"].low)


def test_a_rule_for_each_class_becomes_one_per_class(make_study: Callable[..., Result]) -> None:
    margins = View(make_study(classes=("a", "b"))).margins
    assert margins["sensitivity[a]"] == margins["sensitivity[b]"] == 0.08
    assert "sensitivity[*]" not in margins


def test_the_plot_takes_the_split_on_which_most_were_measured(
    make_study: Callable[..., Result],
) -> None:
    view = View(make_study())
    assert view.plotted_split == "validation"
    assert view.compared_split == "test"
