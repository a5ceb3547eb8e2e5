from __future__ import annotations

from collections.abc import Callable

from clinipress.records.judgement import OperatingRow
from clinipress.records.result import Result
from kit.judgements import around, judgements, said, share
from kit.sections import lead, markup, with_part, words

Make = Callable[..., Result]


def row(label: str, missed: int, **changes: object) -> OperatingRow:
    return OperatingRow(
        **{
            "label": label,
            "aim": "sensitivity 0.95",
            "kept": False,
            "threshold": 0.4,
            "sensitivity": share(1 - missed / 100, 100),
            "specificity": share(0.9, 400),
            "sensitivity_change": around(0.01, 0.02),
            "specificity_change": around(0.01, 0.02),
            "prevalence": 0.25,
            "positives": 100,
            "missed": missed,
            "missed_by_reference": 4,
            **changes,
        }
    )


def test_the_sentence_counts_what_is_missed(make_study: Make) -> None:
    rows = (row("a", 5), row("b", 9), row("a", 6, kept=True), row("b", 11, kept=True))
    html = markup(with_part(make_study(), "operating", rows=rows), "operating")
    assert lead(html) == (
        "With thresholds chosen for 95% sensitivity on the validation images, pruned-int8 misses "
        "14 of 200 positives among the held-out test images, the reference 8; with the reference's "
        "thresholds kept it would miss 17 (weakest for b: sensitivity 91.0% (85.4-96.6))."
    )


def test_missed_images_are_counted_and_listed(make_study: Make) -> None:
    names = tuple(f"missed-{n}.png" for n in range(70))
    rows = (row("a", 5, newly_missed=names), row("a", 6, kept=True, newly_missed=("other.png",)))
    html = markup(with_part(make_study(), "operating", rows=rows), "operating")
    text = words(html)
    assert "5 of 100, 70 new" in text
    assert "a: 71 images" in text
    assert "missed-59.png" in text
    assert "missed-60.png" not in text
    assert "\u2026 and 10 more in the record" in text
    assert "the reference's threshold kept: 1, the surest miss first other.png" in text


def test_the_reference_stands_above_the_candidate(make_study: Make) -> None:
    text = words(markup(with_part(make_study(), "operating"), "operating"))
    root = judgements(make_study().classes, reference=True).operating
    assert root is not None
    first = root.rows[0].sensitivity
    assert f"{100 * first.value:.1f}% ({100 * first.low:.1f}-{100 * first.high:.1f})" in text
    assert "PPV, NPV at 3.0% (declared)" in text


def test_many_classes_show_those_that_may_have_lost_most(make_study: Make) -> None:
    rows = tuple(
        row(f"class {n}", 5, sensitivity_change=around(-0.001 * n, 0.01)) for n in range(12)
    )
    html = markup(with_part(make_study(), "operating", rows=rows), "operating")
    shown, _, folded = html.partition("<summary>4 more classes</summary>")
    assert "class 11" in shown
    assert "class 4" in shown
    assert "class 3" not in shown.replace("weakest for class 3", "")
    assert "class 3" in folded


def test_figures_that_are_not_defined_are_no_numbers(make_study: Make) -> None:
    text = words(markup(with_part(make_study(), "operating", rows=(row("a", 0),)), "operating"))
    assert text.count("not defined") == 2
    assert "Positives that the reference finds and the candidate misses No image." in text
    empty = with_part(make_study(), "operating", rows=(), verdict=said("inconclusive", "operating"))
    assert "No class of the held-out test images could be called" in lead(
        markup(empty, "operating")
    )
