from __future__ import annotations

import re
from collections.abc import Callable

from clinipress.records.judgement import Gap, Subgroup
from clinipress.records.result import Result
from kit.judgements import around, share
from kit.sections import lead, markup, with_part, words

Make = Callable[..., Result]


def group(value: str, cases: int, loss: float, **other: object) -> Subgroup:
    return Subgroup(
        **{
            "column": "sex",
            "value": value,
            "cases": cases,
            "units": cases,
            "too_small": cases < 30,
            "metrics": {"accuracy": share(0.9 - loss, cases)},
            "reference": {"accuracy": share(0.9, cases)},
            "changes": {"accuracy": around(-loss, 0.02)},
            **other,
        }
    )


GAP = Gap(
    column="sex",
    metric="accuracy",
    best="male",
    worst="female",
    candidate=around(0.06, 0.02),
    reference=around(0.02, 0.02),
    change=around(0.04, 0.01),
)


def test_the_sentence_names_group_and_gap(make_study: Make) -> None:
    groups = (group("female", 200, 0.05), group("male", 210, 0.01), group("other", 4, 0.5))
    study = with_part(
        make_study(), "subgroups", columns=("sex",), groups=groups, gaps=(GAP,), unknown={}
    )
    html = markup(study, "subgroups")
    assert lead(html) == (
        "3 groups by sex on the held-out test images, of which 1 has fewer than 30 and is not "
        "judged. The group that lost most is sex: female, whose accuracy fell by 5.0 points (95% "
        "CI -7.0 to -3.0). The gap that widened most, between male and female (sex, "
        "accuracy), grew by 4.0 points (95% CI of the change +3.0 to +5.0)."
    )
    text = words(html)
    assert "reference 2.0 (0.0 to 4.0)" in text
    assert "candidate 6.0 (4.0 to 8.0)" in text
    assert "Known for all images." in text


def test_a_change_that_chance_may_explain_is_called_so(make_study: Make) -> None:
    gap = GAP.model_copy(update={"change": around(0.01, 0.03)})
    study = with_part(make_study(), "subgroups", gaps=(gap,))
    assert "which chance may explain." in lead(markup(study, "subgroups"))
    gap = GAP.model_copy(update={"change": around(-0.01, 0.005)})
    study = with_part(make_study(), "subgroups", gaps=(gap,))
    assert "No gap widened" in lead(markup(study, "subgroups"))


def test_small_groups_are_greyed_and_not_hidden(make_study: Make) -> None:
    groups = (group("few", 9, 0.3), group("many", 99, 0.0))
    study = with_part(make_study(), "subgroups", columns=("sex",), groups=groups, gaps=())
    html = markup(study, "subgroups")
    rows = re.findall(r"<tr(?: class=\"grey\")?><th scope=\"row\">(?:few|many).*?</tr>", html)
    assert ["grey" in one[:20] for one in rows] == [True, False]
    assert "too few: at least 30 are needed" in words(rows[0])
    assert "9 near-duplicate clusters" in words(html)
    assert "No column has two groups that are large enough to compare." in words(html)


def test_no_metadata_is_said(make_study: Make) -> None:
    study = with_part(make_study(), "subgroups", columns=(), groups=(), gaps=())
    assert lead(markup(study, "subgroups")).startswith("No metadata: the data set says nothing")


def test_unknown_values_and_undefined_figures(make_study: Make) -> None:
    bare = group("only", 40, 0.0, metrics={}, reference={}, changes={})
    study = with_part(
        make_study(), "subgroups", columns=("sex",), groups=(bare,), gaps=(), unknown={"sex": 3}
    )
    text = words(markup(study, "subgroups"))
    assert "3 images without a value." in text
    assert "not measured" in text


def test_gaps_that_widened_most_are_in_front(make_study: Make) -> None:
    gaps = tuple(
        GAP.model_copy(update={"column": f"column {n}", "change": around(0.001 * n, 0.01)})
        for n in range(15)
    )
    html = markup(with_part(make_study(), "subgroups", gaps=gaps), "subgroups")
    shown, folded = html.split("3 more gaps that widened less, or narrowed")
    assert shown.index("column 14,") < shown.index("column 13,")
    assert "column 2," not in shown
    assert "column 2," in folded
