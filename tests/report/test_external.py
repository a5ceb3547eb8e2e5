from __future__ import annotations

from collections.abc import Callable

from clinipress.records.result import Result
from kit.judgements import with_judgements
from kit.sections import lead, markup, words

Make = Callable[..., Result]


def test_internal_and_external_figures_stand_side_by_side(make_study: Make) -> None:
    study = with_judgements(make_study(), external="external: hospital B")
    html = markup(study, "external")
    assert lead(html) == (
        "pruned-int8, accuracy: 94.0% (91.9-95.5) inside, 86.0% (81.0-91.0) on the external "
        "(hospital B) images (change there -1.1 (-4.1 to +1.9), worse)."
    )
    text = words(html)
    record = next(one for one in study.candidates if one.name == "pruned-int8")
    for split in ("test", "external: hospital B"):
        one = record.evidence[split]["accuracy"]
        assert f"{100 * one.value:.1f}% ({100 * one.low:.1f}-{100 * one.high:.1f})" in text
    assert text.index("Held-out test") < text.index("External (hospital B)")


def test_there_is_no_section_without_images_from_elsewhere(make_study: Make) -> None:
    assert markup(with_judgements(make_study()), "external") == ""
