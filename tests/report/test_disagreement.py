from __future__ import annotations

import re
from collections.abc import Callable

from clinipress.records.result import Result
from kit.judgements import counts, share
from kit.sections import lead, markup, with_part, words

Make = Callable[..., Result]


def test_the_sentence_counts_both_ways(make_study: Make) -> None:
    study = with_part(
        make_study(),
        "disagreement",
        cases=400,
        agreement=share(0.94, 400),
        lost=18,
        gained=4,
        changed=2,
        p_value=0.0043,
    )
    assert lead(markup(study, "disagreement")) == (
        "pruned-int8 answers as the reference does on 94.0% (91.7-96.3) of 400 held-out test "
        "images; 18 answers were right before and wrong now, 4 the other way round, 2 wrong both "
        "times: flips lean to losses (exact McNemar test, p = 0.004)."
    )


def test_flips_that_cancel_out_are_not_called_a_leaning(make_study: Make) -> None:
    study = with_part(make_study(), "disagreement", lost=9, gained=9, p_value=1.0)
    assert "as many lost as gained" in lead(markup(study, "disagreement"))
    study = with_part(make_study(), "disagreement", lost=3, gained=9, p_value=0.15)
    said = lead(markup(study, "disagreement"))
    assert "that flips lean to gains is not shown (exact McNemar test, p = 0.15)" in said
    study = with_part(make_study(), "disagreement", lost=30, gained=2, p_value=1e-7)
    assert "p < 0.001" in lead(markup(study, "disagreement"))


def test_bars_are_as_long_as_the_shares(make_study: Make) -> None:
    by_class = (counts("a", 100, 10, 5), counts("b", 50, 10, 0), counts("none", 0, 0, 0))
    study = with_part(
        make_study(), "disagreement", by_class=by_class, by_confidence=(), by_group=()
    )
    html = markup(study, "disagreement")
    bars = [
        (float(lost), float(gained))
        for lost, gained in re.findall(
            r'class="lost"[^>]* width="([\d.]+)%"[^>]*></rect><rect class="gained"[^>]* '
            r'width="([\d.]+)%"',
            html,
        )
    ]
    # 10 of 100 is half of 10 of 50
    assert bars == [(23.0, 11.5), (46.0, 0.0), (0.0, 0.0)]


def test_the_gallery_keeps_the_order_and_names_the_rest(make_study: Make) -> None:
    study = with_part(make_study(), "disagreement", lost=40)
    html = markup(study, "disagreement")
    cards = re.findall(r'<figure>.*?<b class="kind (\w+)">', html)
    assert cards == ["lost"] * 9 + ["changed"] * 3 + ["gained"] * 8
    text = words(html)
    assert "truth glioma before glioma, 97% after meningioma" in text
    assert "sex female, site A" in text
    assert "31 more flips are counted above and not listed." in text
    assert "no picture was kept" in text


def test_no_flips_at_all(make_study: Make) -> None:
    study = with_part(
        make_study(),
        "disagreement",
        lost=0,
        gained=0,
        changed=0,
        flips=(),
        directions=(),
        by_class=(),
        by_confidence=(),
        by_group=(),
        kappa=None,
    )
    text = words(markup(study, "disagreement"))
    assert "worst first No image." in text
    assert "Agreement beyond chance (kappa) not measured" in text


def test_many_groups_show_those_with_most_flips(make_study: Make) -> None:
    by_group = tuple(counts(f"site: {n}", 100, n % 17, 0) for n in range(20))
    html = markup(with_part(make_study(), "disagreement", by_group=by_group), "disagreement")
    shown, folded = html.split("<summary>8 more, fewer flips</summary>")
    assert shown.index("site: 16<") < shown.index("site: 15<")
    assert "site: 0<" not in shown
    assert "site: 0<" in folded
