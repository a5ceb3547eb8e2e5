"""The papers' figures: that they are the papers', and that no note is missing or idle."""

import pytest

from clinipress.papers.columns import COLUMNS, PER_CLASS
from clinipress.papers.grids import grid
from clinipress.papers.papers import PAPERS, Paper
from clinipress.papers.recipes import ImageFacts
from clinipress.stats.intervals import proportion


def referred(paper: Paper) -> set[str]:
    notes = [n for row in paper.rows.values() for cell in row.cells.values() for n in cell.notes]
    return {*notes, *paper.general}


@pytest.mark.parametrize("key", PAPERS)
def test_every_note_that_is_referred_to_exists_and_none_is_idle(key):
    paper = PAPERS[key]
    assert referred(paper) == set(paper.notes)


def missing_columns(paper: Paper, titles: list[str]) -> set[str]:
    return {t for row in paper.rows.values() for t in row.cells if t not in titles}


@pytest.mark.parametrize("key", PAPERS)
def test_every_figure_has_a_column(key):
    titles = [column.title for column in COLUMNS[key]]
    if PER_CLASS in titles:
        titles += ["F1 [meningioma]", "F1 [pituitary]", "F1 [no]"]
    assert missing_columns(PAPERS[key], titles) == set()


def test_the_column_check_can_fail():
    assert missing_columns(PAPERS["s4"], ["file"]) != set()


@pytest.mark.parametrize("key", PAPERS)
def test_every_row_of_a_paper_stands_beside_one_of_ours(key):
    plans = [plan for entry in grid(key, "small", ImageFacts(900)) for plan in entry.rows]
    beside = {plan.beside for plan in plans if plan.beside is not None}
    # teachers of which the abstract says nothing have no row
    assert set(PAPERS[key].rows) <= beside


def test_s1_two_accuracies_differ_by_one_image_of_573():
    before, after = 471 / 573, 472 / 573
    cells = PAPERS["s1"].rows["float32"].cells, PAPERS["s1"].rows["float16"].cells
    printed = [cell["validation accuracy"].text for cell in cells]
    assert printed == [f"{100 * before:.2f} %", f"{100 * after:.2f} %"]
    assert cells[1]["change, points"].text == f"{82.37 - 82.20:+.2f}"
    import numpy as np

    wilson = proportion(np.arange(573) < 472, np.arange(573))
    said = f"{100 * wilson.low:.1f} to {100 * wilson.high:.1f} %"
    assert said in PAPERS["s1"].notes["one image"]


def test_s1_ratio_is_that_of_its_two_files():
    cells = PAPERS["s1"].rows["float32"].cells, PAPERS["s1"].rows["float16"].cells
    sizes = [float(cell["file"].text.split()[0]) for cell in cells]
    ratio = cells[1]["smaller by the paper's accounting"].text
    assert abs(sizes[0] / sizes[1] - float(ratio.rstrip("\u00d7"))) < 0.01


def test_s0_memory_is_divided_by_four():
    assert f"{2465 / 618:.2f}" in PAPERS["s0"].notes["memory"]


@pytest.mark.parametrize(
    ("row", "auc", "smaller"),
    [
        ("ptq", 0.955, 74),
        ("qat", 0.959, 74),
        ("distilled", 0.948, 86),
        ("pruned", 0.957, 50),
        ("both", 0.943, 96),
    ],
)
def test_s4_rows_are_the_guides(row, auc, smaller):
    cells = PAPERS["s4"].rows[row].cells
    assert float(cells["AUC"].text) == auc
    size = float(cells["file"].text.split()[0])
    # the guide rounds its own reductions: 14 of 98 MB is 85.7 %, 25 of 98 is 74.5 %
    assert abs(100 * (1 - size / 98) - smaller) < 1
    change = float(cells["change of AUC"].text.split()[0].replace("\u2212", "-"))
    points, percent = 100 * (auc - 0.962), 100 * (auc - 0.962) / 0.962
    assert min(abs(change - points), abs(change - percent)) < 0.11


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("s0", ("1,252", "3.99", "alpha = 0", "validation", "points")),
        ("s1", ("6.14", "one image", "optimizer", "validation")),
        ("s4", ("neither images nor device",)),
    ],
)
def test_the_traps_are_said(key, words):
    said = " ".join(PAPERS[key].notes.values()).lower()
    assert [word for word in words if word not in said] == []
