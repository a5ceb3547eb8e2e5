from __future__ import annotations

import re
from collections.abc import Callable

from clinipress.records.judgement import OutOfScopeProbe, StressCurve, StressLevel
from clinipress.records.result import Result
from kit.judgements import around, share
from kit.sections import lead, markup, with_part, words

Make = Callable[..., Result]


def curve(kind: str, *losses: float) -> StressCurve:
    levels = tuple(
        StressLevel(
            strength=n,
            amount=2.0 * n,
            reference=share(0.9, 200),
            candidate=share(0.9 - one, 200),
            change=around(-one, 0.02),
            added_change=around(-one, 0.02),
        )
        for n, one in enumerate(losses, start=1)
    )
    return StressCurve(kind=kind, unit="pixels", levels=levels)


PROBE = OutOfScopeProbe(
    name="blank",
    images=20,
    reference_confidence=0.5,
    candidate_confidence=0.6,
    reference_refused=1.0,
    candidate_refused=0.25,
)


def test_the_sentence_names_what_is_shown_to_cost_more(make_study: Make) -> None:
    curves = (curve("jpeg", 0.0, 0.01), curve("blur", 0.01, 0.05), curve("missing", 0.0, 0.03))
    study = with_part(make_study(), "stress", images=200, curves=curves, probes=(PROBE,))
    html = markup(study, "stress")
    assert lead(html) == (
        "On 200 held-out test images disturbed in 3 ways at up to five strengths, pruned-int8 "
        "bears blur and missing region worse than the reference; the largest added loss is 5.0 "
        "points (95% CI -7.0 to -3.0), by blur at strength 2. Of the out-of-scope images "
        "\u201cblank\u201d gets through most: 75% are answered as if there were nothing wrong "
        "(reference 0%)."
    )
    starred = re.findall(r"<figcaption>([\w ]+)<span[^>]*>[^<]*\u2217", html)
    assert starred == ["Blur", "Missing region"]


def test_both_curves_are_on_one_axis(make_study: Make) -> None:
    study = with_part(make_study(), "stress", curves=(curve("blur", 0.0, 0.3),))
    html = markup(study, "stress")
    plot = re.search(r'<svg class="plot".*?</svg></figure>', html)
    assert plot is not None
    drawn = re.findall(r'class="at"><path class="m (\w+)"', plot[0])
    assert drawn == ["reference"] * 3 + ["shipped"] * 3
    heights = [float(y) for y in re.findall(r'y="([\d.]+)" class="at"', plot[0])]
    # the reference stays, the candidate falls: lower on the page is a larger y
    assert heights[2] == heights[1]
    assert heights[5] > heights[4] + 40


def test_nothing_worse_is_said_so(make_study: Make) -> None:
    study = with_part(make_study(), "stress", curves=(curve("noise", 0.0, 0.005),), probes=())
    html = markup(study, "stress")
    assert "no disturbance is shown to cost pruned-int8 more than the reference" in lead(html)
    assert "\u2217" not in html.replace("\u2217 worse", "")
    assert "Out-of-scope images not measured" in words(html)


def test_no_curves(make_study: Make) -> None:
    study = with_part(make_study(), "stress", curves=(), undisturbed={}, probes=())
    assert "the added loss of pruned-int8 was not measured" in lead(markup(study, "stress"))
