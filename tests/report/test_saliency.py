from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from clinipress.records.result import Result
from kit.judgements import around, saliency
from kit.sections import lead, markup, with_part, words

Make = Callable[..., Result]


def similar(**levels: float) -> dict[str, dict[str, object]]:
    return {name: {"spearman": around(level, 0.05)} for name, level in levels.items()}


@pytest.mark.parametrize(
    ("levels", "reading"),
    [
        (
            {"candidate": 0.9, "independent": 0.6, "randomized": 0.1},
            "it looks where the reference looks, more than a network trained apart does",
        ),
        (
            {"candidate": 0.62, "independent": 0.6, "randomized": 0.1},
            "about as much as two networks trained apart share anyway",
        ),
        (
            {"candidate": 0.4, "independent": 0.6, "randomized": 0.1},
            "less than a network trained apart: it looks elsewhere than the reference",
        ),
        (
            {"candidate": 0.15, "independent": 0.6, "randomized": 0.1},
            "it is not shown to look where the reference looks",
        ),
        ({"candidate": 0.9, "randomized": 0.1}, "more than chance would give"),
        ({"candidate": 0.9}, "what that means cannot be told"),
    ],
)
def test_similarity_is_read_between_its_baselines(
    make_study: Make, levels: dict[str, float], reading: str
) -> None:
    study = with_part(make_study(), "saliency", similarity=similar(**levels))
    said = lead(markup(study, "saliency"))
    assert said.startswith("Score-CAM maps of 60 held-out test images (fast): those of pruned-int8")
    assert said.endswith(f"{reading}.")


def test_every_row_is_a_strip_of_each_metric(make_study: Make) -> None:
    html = markup(with_part(make_study(), "saliency"), "saliency")
    strips = re.search(r'<table class="forest maps">.*?</table>', html)
    assert strips is not None
    shapes = re.findall(r'class="at"><path class="m (\w+)" d="[^"]+"></path></svg></svg></td>',
                        strips[0])  # fmt: skip
    assert shapes == ["shipped", "independent", "randomized"] * 3
    text = words(html)
    assert "0.91 (0.88 to 0.94)" in text
    assert "the candidate with random weights" in text
    assert "computed in the fast mode" in text
    assert "Energy inside the mask" in text


def test_pictures_carry_the_names_of_their_parts(make_study: Make) -> None:
    html = markup(with_part(make_study(), "saliency"), "saliency")
    titles = re.findall(r'<div class="titles">(.*?)</div>', html)
    assert len(titles) == 4
    assert re.findall(r"<span>([^<]+)</span>", titles[0]) == list(
        saliency(("a",), "pass").panels[0].titles
    )


def test_next_to_nothing(make_study: Make) -> None:
    study = with_part(
        make_study(),
        "saliency",
        similarity={},
        faithfulness={},
        inside_mask={},
        panels=(),
        seconds_per_image={},
    )
    html = markup(study, "saliency")
    assert "not measured" in lead(html)
    assert "No picture was kept." in words(html)
