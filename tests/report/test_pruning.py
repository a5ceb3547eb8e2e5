"""The section on pruning: costs from the records alone, and the sensitivity curves."""

from __future__ import annotations

import re

from clinipress.records.candidate import Applied
from clinipress.reporting.html import html as to_html
from clinipress.reporting.page.build import render
from clinipress.reporting.page.pruning import pruning_section, sensitivity_plot
from clinipress.reporting.view import View

LAYERS = [
    {"name": "stem", "shares": [0.1, 0.5, 0.9], "accuracies": [0.8, 0.4, 0.3]},
    {"name": "<late>", "shares": [0.1, 0.5, 0.9], "accuracies": [0.9, 0.9, 0.8]},
]


def pruned_study(make_study, **facts):
    """A study whose second candidate is pruned from the reference, with known figures."""
    result = make_study()
    first, second = result.candidates[:2]
    step = Applied(
        step="prune",
        params={"asked": {"ratio": 0.5, "of": "macs", "criterion": "taylor", "rounds": 2}},
        facts={
            "before": {"parameters": 8_000_000, "macs": 400_000_000},
            "after": {"parameters": 2_000_000, "macs": 100_000_000},
            **facts,
        },
    )
    parent = first.model_copy(update={"file_bytes": 40_000_000})
    child = second.model_copy(
        update={
            "parent": parent.name,
            "precision": "float32",
            "history": (*first.history, step),
            "file_bytes": 10_000_000,
        }
    )
    return View(result.model_copy(update={"candidates": (parent, child)}))


def words(markup):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", str(markup))).replace("\u202f", " ")


def test_costs_before_and_after_come_from_the_records(make_study):
    text = words(to_html(pruning_section(pruned_study(make_study))))
    for expected in ("8.00 M", "2.00 M", "400 M", "100 M", "40.0 MB", "10.0 MB", "75.0%"):
        assert expected.replace(" ", "") in re.sub(r"[\s\u00a0]", "", text), (expected, text)
    assert "criterion taylor" in text
    assert "2 rounds" in text
    assert "bears" not in text


def test_no_pruning_no_section(make_study):
    view = pruned_study(make_study)
    plain = tuple(c.model_copy(update={"history": ()}) for c in view.result.candidates)
    assert pruning_section(View(view.result.model_copy(update={"candidates": plain}))) is None


def test_sensitivity_is_plotted_and_names_the_delicate_layer(make_study):
    facts = {"sensitivity": {"images": 64, "seed": 1, "baseline": 0.92, "layers": LAYERS}}
    rounds = [
        {"parameters": 4_000_000, "macs": 200_000_000, "best_validation_accuracy": 0.91},
        {"parameters": 2_000_000, "macs": 100_000_000},
    ]
    page = render(pruned_study(make_study, rounds=rounds, **facts).result)
    assert "Most delicate: stem" in page
    assert "64 images" in page
    assert "&lt;late&gt;" in page
    assert "<late>" not in page
    assert "Round by round (2)" in page


def test_curves_begin_at_the_baseline_and_fall_with_the_accuracy():
    page = str(sensitivity_plot(LAYERS, 0.92))
    lines = re.findall(
        r'<g><title>(.*?)</title><line class="(.*?)" x1="(.*?)%" x2="(.*?)%" '
        r'y1="(.*?)" y2="(.*?)">',
        page,
    )
    assert len(lines) == 6
    stem = [row for row in lines if row[0] == "stem"]
    assert {row[1] for row in stem} == {"whisker shipped"}  # the most delicate, drawn last
    assert lines[-1][0] == "stem"
    heights = [float(stem[0][4]), *(float(row[5]) for row in stem)]
    assert heights == sorted(heights)
    assert heights[0] < heights[-1]  # pixels count from the top
    begins = {float(row[4]) for row in lines if float(row[2]) == 14.0}
    assert len(begins) == 1
