"""Rows from results: the right candidate in the right column, nothing made up."""

import math

import numpy as np
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from clinipress.papers.build import build
from clinipress.papers.columns import EntryOutcome, difference
from clinipress.papers.grids import Entry, RowPlan, grid
from clinipress.papers.papers import PAPERS
from clinipress.papers.recipes import ImageFacts
from clinipress.papers.rows import columns_for, rows_of
from clinipress.records.base import Interval
from clinipress.records.judgement import Findings, Saliency, SaliencyPanel
from clinipress.records.result import Verdict
from clinipress.stats.intervals import proportion
from kit.each import each_seed


def outcome_of(drawn, source, number, **changes):
    """A drawn outcome with every candidate that the entry's rows name; accuracies all differ."""
    entry = grid(source, "small", ImageFacts(900))[number]
    names = dict.fromkeys(n for plan in entry.rows for n in plan.of.values())
    names = ["reference", *(name for name in names if name != "reference")]
    records = [
        drawn["record"](name, 0.9 - place / 100, file_bytes=8_000_000 // (place + 1))
        for place, name in enumerate(names)
    ]
    return EntryOutcome(entry, drawn["result"](*records), **changes)


def table_rows(source, *outcomes):
    columns = columns_for(source, outcomes)
    return rows_of(PAPERS[source], outcomes, columns)


def test_s0_puts_each_role_in_its_columns(drawn):
    outcome = outcome_of(drawn, "s0", 0)
    ours, paper, control = table_rows("s0", outcome)
    values = {title: cell.interval.value for title, cell in ours.cells.items() if cell.interval}
    assert values["teacher: validation"] == 0.90
    assert values["student: validation"] == 0.89
    assert values["int8: validation"] == 0.88
    assert control.cells["student: validation"].interval.value == 0.87
    # it has no 8-bit file, and is not compared with itself
    assert control.cells["int8: validation"].printed == "\u2013"
    assert control.cells["student over control, points"].printed == "\u2013"
    assert [row.kind for row in (ours, paper, control)] == ["measured", "paper", "control"]
    assert paper.cells["teacher: validation"].printed == "77.2 %"


def test_the_gap_is_training_minus_validation(drawn):
    seen = Interval(value=0.99, low=0.97, high=1.0)
    outcome = outcome_of(drawn, "s0", 0, training={"reference": seen})
    ours = table_rows("s0", outcome)[0]
    assert ours.cells["teacher: train accuracy"].interval == seen
    assert ours.cells["teacher: gap, points"].interval.value == pytest.approx(0.09)
    # nothing was measured of the student on its training images
    assert "student: gap, points" not in ours.cells


def bernoulli(right, of):
    return proportion(np.arange(of) < right, np.arange(of))


@each_seed(range(20))
def test_the_difference_is_statsmodels_newcombe(seed):
    random = np.random.default_rng(seed)
    n, m = random.integers(5, 400, 2)
    a, b = random.integers(0, n + 1), random.integers(0, m + 1)
    ours = difference(bernoulli(a, n), bernoulli(b, m))
    low, high = confint_proportions_2indep(a, n, b, m, method="newcomb", compare="diff")
    assert ours.low == pytest.approx(low, abs=1e-9)
    assert ours.high == pytest.approx(high, abs=1e-9)


@pytest.mark.parametrize(
    ("a", "n", "b", "m"), [(0, 5, 0, 5), (5, 5, 5, 5), (5, 5, 0, 5), (1, 1, 0, 1), (0, 1, 1, 1)]
)
def test_the_difference_of_extremes_has_ends_in_range(a, n, b, m):
    found = difference(bernoulli(a, n), bernoulli(b, m))
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


def test_s1_has_a_column_for_each_class_and_the_papers_figure_in_the_right_one(drawn):
    rows = table_rows("s1", outcome_of(drawn, "s1", 0))
    paper = next(row for row in rows if row.name.startswith("MobileNetV2, full"))
    printed = {t: c.printed for t, c in paper.cells.items() if t.startswith("F1")}
    assert printed == {
        "F1 meningioma_tumor": "\u2248 0.73",
        "F1 no_tumor": "0.86\u20130.89",
        "F1 pituitary_tumor": "0.86\u20130.89",
    }


def test_the_class_of_no_tumour_is_found_however_it_is_spelt(drawn):
    for name, found in (("notumor", True), ("no_tumor", True), ("meningioma", False)):
        outcome = outcome_of(drawn, "s1", 0)
        result = outcome.result.model_copy(update={"classes": (name, "glioma")})
        rows = table_rows("s1", EntryOutcome(outcome.entry, result))
        paper = next(row for row in rows if row.kind == "paper")
        assert (paper.cells.get(f"F1 {name}") is not None and
                paper.cells[f"F1 {name}"].printed.startswith("0.86")) is found  # fmt: skip


def test_s1_counts_optimizer_state_in_the_papers_accounting_alone(drawn):
    record = drawn["record"]
    result = drawn["result"](
        record("reference", 0.9, file_bytes=9_000_000, parameters=2_000_000),
        record("reference-litert-float32", 0.9, format="litert", file_bytes=8_400_000),
        record("reference-litert-float16", 0.9, format="litert", file_bytes=4_000_000),
    )
    entry = grid("s1", "small", ImageFacts(900))[0]
    rows = {row.name: row for row in table_rows("s1", EntryOutcome(entry, result))}
    half = rows["MobileNetV2, three stages, float16 LiteRT"].cells
    # like with like: the LiteRT file in float32, not the ONNX file
    assert half["smaller"].number == pytest.approx(8.4 / 4.0)
    assert half["smaller by the paper's accounting"].number == pytest.approx(12 * 2.0 / 4.0)
    assert half["smaller by the paper's accounting"].notes == ("optimizer",)


def test_s2_means_over_classes_and_says_no_more_than_was_measured(drawn):
    outcome = outcome_of(drawn, "s2", 0)
    ours = table_rows("s2", outcome)[0]
    assert ours.cells["precision"].interval.value == pytest.approx(np.mean([0.5, 0.6, 0.7, 0.8]))
    assert ours.cells["recall"].interval.value == 0.72
    first = outcome.result.candidates[0]
    figures = dict(first.evidence["validation"])
    del figures["precision[no_tumor]"]  # never called: undefined, so the mean is too
    without = first.model_copy(update={"evidence": {"validation": figures}})
    result = outcome.result.model_copy(
        update={"candidates": (without, *outcome.result.candidates[1:])}
    )
    assert "precision" not in table_rows("s2", EntryOutcome(outcome.entry, result))[0].cells


def test_s2_papers_row_stands_once_below_the_last(drawn):
    rows = table_rows("s2", *(outcome_of(drawn, "s2", n) for n in range(3)))
    places = [place for place, row in enumerate(rows) if row.kind == "paper"]
    assert places == [len(rows) - 2]


def test_s4_reduction_and_changes_are_from_the_reference(drawn):
    outcome = outcome_of(drawn, "s4", 0)
    change = Interval(value=-0.007, low=-0.02, high=0.01)
    reference, int8 = outcome.result.candidates
    int8 = int8.model_copy(update={"changes": {"validation": {"auroc_macro": change}}})
    result = outcome.result.model_copy(update={"candidates": (reference, int8)})
    rows = {row.name: row.cells for row in table_rows("s4", EntryOutcome(outcome.entry, result))}
    ours = rows["ResNet-50, int8 after training"]
    assert rows["ResNet-50, float32"]["change of AUC"].printed == "\u2013"
    assert ours["reduction"].number == pytest.approx(0.5)
    assert ours["change of AUC"].interval == change
    assert "time, GPU" not in ours
    assert rows["PTQ INT8 (guide)"]["time, GPU"].printed == "5 ms"


def test_a_candidate_that_is_not_there_gives_no_row(drawn):
    entry = grid("s4", "small", ImageFacts(900))[0]
    names = [
        row.name
        for row in table_rows(
            "s4", EntryOutcome(entry, drawn["result"](drawn["record"]("reference", 0.8)))
        )
    ]
    assert "ResNet-50, int8 after training" not in names
    assert "ResNet-50, float32" in names


def test_seeds_are_shown_only_on_the_split_they_are_of(drawn):
    outcome = outcome_of(drawn, "s1", 0)
    over = {"reference": drawn["spread"](0.8, 0.9, 0.85)}
    result = outcome.result.model_copy(update={"over_seeds": over})
    first = table_rows("s1", EntryOutcome(outcome.entry, result))[0]
    assert first.cells["validation accuracy"].seeds == (0.8, 0.9, 0.85)
    other = {"reference": over["reference"].model_copy(update={"split": "test"})}
    result = outcome.result.model_copy(update={"over_seeds": other})
    first = table_rows("s1", EntryOutcome(outcome.entry, result))[0]
    assert first.cells["validation accuracy"].seeds == ()


def test_a_gain_over_the_control_that_was_not_measured_is_not_a_dash(drawn):
    outcome = outcome_of(drawn, "s2", 0)
    records = [
        one.model_copy(update={"control": "distilled-control"}) if one.name == "distilled" else one
        for one in outcome.result.candidates
    ]
    result = outcome.result.model_copy(update={"candidates": tuple(records)})
    taught = table_rows("s2", EntryOutcome(outcome.entry, result))[1]
    assert "over control, points" not in taught.cells


def test_a_table_holds_the_notes_it_refers_to_and_the_general_ones(drawn):
    table = build(PAPERS["s0"], "small", [outcome_of(drawn, "s0", 0)], {"vgg16": "no room"})
    assert {"images", "memory", "credit", "validation", *PAPERS["s0"].general} <= set(table.notes)
    assert "kind" not in table.notes  # the rows with +42 % are of studies that are not there
    assert table.failed == {"vgg16": "no room"}


TITLES = ("image", "reference", "distilled", "independent", "randomized")


def test_panels_are_found_below_the_tables_folder(drawn):
    panel = SaliencyPanel(
        key="a", truth="x", explained="x", picture="pictures/a.png", titles=TITLES, similarity=0.5
    )
    seen = Saliency(
        method="Score-CAM", mode="fast", images=1, maps={}, similarity={}, panels=(panel,),
        verdict=Verdict(status="pass"),
    )  # fmt: skip
    plans = (
        RowPlan("teacher", {"row": "reference"}),
        RowPlan("student", {"row": "distilled"}),
        RowPlan("alone", {"row": "distilled-control"}, control=True),
    )
    entry = Entry("one", grid("s2", "small", ImageFacts(900))[0].study, plans)
    found = {"findings": {"test": Findings(saliency=seen)}, "control": "distilled-control"}
    records = [drawn["record"]("reference", 0.9), drawn["record"]("distilled", 0.8, **found)]
    table = build(PAPERS["s2"], "small", [EntryOutcome(entry, drawn["result"](*records))], {})
    (panel,) = table.panels
    assert (panel.entry, panel.picture) == ("one", "one/pictures/a.png")
    # in the words of the rows: "reference" and "independent" mean nothing to a reader of a table
    assert panel.titles == ("image", "teacher", "student", "alone", "random weights")
    assert not any("No Score-CAM panels" in sentence for sentence in table.said)


def test_missing_panels_are_said(drawn):
    table = build(PAPERS["s2"], "small", [outcome_of(drawn, "s2", 0)], {})
    assert any("No Score-CAM panels of vgg19" in sentence for sentence in table.said)
    other = build(PAPERS["s4"], "small", [outcome_of(drawn, "s4", 0)], {})
    assert not any("Score-CAM" in sentence for sentence in other.said)


def test_an_empty_table_can_be_built():
    table = build(PAPERS["s1"], "small", [], {})
    assert table.rows == ()
    assert not any(math.isnan(len(sentence)) for sentence in table.said)
