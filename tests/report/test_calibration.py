from __future__ import annotations

import re
from collections.abc import Callable

from clinipress.records.judgement import ReliabilityBin
from clinipress.records.result import Result
from kit.judgements import around, share
from kit.sections import lead, markup, with_part, words

Make = Callable[..., Result]


def bins(*triples: tuple[float, float, int]) -> tuple[ReliabilityBin, ...]:
    """Of (confidence, right answers, images)."""
    return tuple(
        ReliabilityBin(
            low=round(said - 0.05, 3),
            high=round(said + 0.05, 3),
            cases=cases,
            confidence=said if cases else None,
            accuracy=share(right, cases) if cases else None,
        )
        for said, right, cases in triples
    )


def test_the_sentence_says_how_far_off_and_which_way(make_study: Make) -> None:
    study = with_part(
        make_study(),
        "calibration",
        temperature=1.25,
        before={"ece": around(0.08, 0.01)},
        after={"ece": around(0.03, 0.01)},
        bins_after=bins((0.55, 0.5, 100), (0.95, 0.91, 300)),
    )
    # 100 images promise 5 points too much, 300 promise 4: 4.25 on the whole
    assert lead(markup(study, "calibration")) == (
        "After its temperature of 1.25, fitted on the validation images, the stated confidence of "
        "pruned-int8 is off by 3.0 (2.0 to 4.0) points on average (reference 2.7), 8.0 before it; "
        "on the whole it promises 4.2 points too much."
    )


def test_the_diagram_puts_each_bin_in_its_place(make_study: Make) -> None:
    study = with_part(
        make_study(), "calibration", bins=bins((0.95, 0.5, 10)), bins_after=bins((0.55, 0.55, 10))
    )
    html = markup(study, "calibration")
    figure = re.findall(r"<figure>.*?</figure>", html)[1]
    after = re.search(r'<svg x="([\d.]+)%" y="([\d.]+)" class="at"><path class="m shipped"', figure)
    before = re.search(r'<svg x="([\d.]+)%" y="([\d.]+)" class="at"><path class="m before"', figure)
    assert after is not None
    assert before is not None
    diagonal = re.search(r'class="diagonal" x1="([\d.]+)%" x2="([\d.]+)%"', figure)
    assert diagonal is not None
    low, high = float(diagonal[1]), float(diagonal[2])
    # the axis begins a tenth or so below the first bin with images, 0.25 of the reference's
    start = 0.2
    place = low + (high - low) * (0.55 - start) / (1 - start)
    assert abs(float(after[1]) - place) < 0.1
    assert abs(float(after[2]) - (220 - 0.55 * 210)) < 0.5
    assert float(before[1]) > float(after[1])


def test_a_rise_of_an_error_is_shown_as_a_rise(make_study: Make) -> None:
    changes = {"ece": around(0.02, 0.005), "brier": around(-0.01, 0.004)}
    text = words(markup(with_part(make_study(), "calibration", changes=changes), "calibration"))
    assert "+2.0 (+1.5 to +2.5), worse" in text
    assert "-0.010 (-0.014 to -0.006)" in text


def test_nothing_known_reads_not_measured(make_study: Make) -> None:
    html = markup(
        with_part(make_study(), "calibration", before={}, after={}, bins=(), bins_after=()),
        "calibration",
    )
    assert "not measured" in lead(html)
    assert '<p class="empty">not measured</p>' in html
