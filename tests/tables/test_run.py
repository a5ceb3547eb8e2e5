"""The flow of a table at the smallest scale: drawn images, tiny networks."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from clinipress.errors import ClinipressError, InputError
from clinipress.papers import run as running
from clinipress.papers.grids import Entry, RowPlan
from clinipress.papers.papers import PAPERS
from clinipress.papers.records import Table
from clinipress.papers.run import run_entries, run_table
from kit.studies import TRAIN, study

NET = {"factory": "tiny_nets:make"}
ONE = TRAIN | {"epochs": 1}
QUICK = {"stress": 0, "saliency": 0}


def entries() -> tuple[Entry, ...]:
    """A teacher with its student and control, and one that borrows the teacher."""
    step = {
        "step": "distill", "student": NET, "views": 1, "answers": "mean", "control": True,
        "train": ONE,
    }  # fmt: skip
    reference = {"model": NET | {"arguments": {"width": 24}}, "train": ONE}
    pair = study(
        name="pair", reference=reference, steps=[step], exports=[{"precision": "int8"}],
        evidence=QUICK, bootstrap=100,
    )  # fmt: skip
    again = study(
        name="again", reference={"model": reference["model"]}, steps=[],
        exports=[{"precision": "float16"}], evidence=QUICK, bootstrap=100,
    )  # fmt: skip
    roles = {"teacher": "reference", "student": "distilled", "int8": "distilled-onnx-int8"}
    alone = {"teacher": "reference", "student": "distilled-control"}
    return (
        Entry(
            "densenet121",
            pair,
            (RowPlan("pair", roles, beside="densenet121"), RowPlan("control", alone, control=True)),
            training_accuracy=True,
        ),
        Entry(
            "again",
            again,
            (RowPlan("again", {"teacher": "reference", "int8": "reference-onnx-float16"}),),
            borrows="densenet121",
        ),
    )


@pytest.fixture(scope="module")
def done(phantoms, tmp_path_factory):
    out = tmp_path_factory.mktemp("table")
    table = run_entries(PAPERS["s0"], "small", entries(), phantoms, out)
    return out, table


def test_the_table_has_a_row_for_each_plan(done):
    _, table = done
    assert [row.name for row in table.rows] == ["pair", "DenseNet121 (paper)", "control", "again"]
    assert table.failed == {}
    assert table.synthetic


def test_training_accuracy_and_gap_are_measured(done):
    _, table = done
    pair = table.rows[0].cells
    seen, unseen = pair["teacher: train accuracy"].interval, pair["teacher: validation"].interval
    assert seen.n > unseen.n
    assert pair["teacher: gap, points"].interval.value == pytest.approx(seen.value - unseen.value)


def test_who_borrows_has_the_very_network(done):
    out, table = done
    lent, taken = table.rows[0].cells, table.rows[3].cells
    assert taken["teacher: validation"].interval == lent["teacher: validation"].interval
    results = [json.loads((out / e.key / "result.json").read_text()) for e in entries()]
    first, second = (r["candidates"][0]["evidence"]["validation"]["accuracy"] for r in results)
    assert first == second
    assert results[1]["recipe"]["reference"]["train"] is None


def test_files_hold_the_table(done):
    out, table = done
    assert Table.model_validate_json((out / "table.json").read_text()) == table
    text = (out / "table.md").read_text()
    assert "SYNTHETIC" in text
    assert "77.2 %" in text


def test_a_second_run_trains_nothing(done, phantoms, monkeypatch):
    out, table = done
    monkeypatch.setattr(running, "run_study", lambda *a, **k: pytest.fail("trained again"))
    again = run_entries(PAPERS["s0"], "small", entries(), phantoms, out)
    assert again == table


class KilledError(BaseException):
    """As a signal ends a process."""


def test_a_killed_table_goes_on_with_the_unfinished_study(done, phantoms, monkeypatch, tmp_path):
    out, table = done
    shutil.copytree(out, tmp_path / "t")
    (tmp_path / "t" / "again" / "entry.json").unlink()
    (tmp_path / "t" / "table.json").unlink()
    real, ran = running.run_study, []

    def killed(*a, **k):
        raise KilledError

    monkeypatch.setattr(running, "run_study", killed)
    arguments = (PAPERS["s0"], "small", entries(), phantoms, tmp_path / "t")
    with pytest.raises(KilledError):
        run_entries(*arguments)
    # what was finished before is in the table of the killed run
    partial = Table.model_validate_json((tmp_path / "t" / "table.json").read_text())
    assert partial.rows == table.rows[:3]

    def counted(study, *a, **k):
        ran.append(study.name)
        return real(study, *a, **k)

    monkeypatch.setattr(running, "run_study", counted)
    resumed = run_entries(*arguments)
    assert ran == ["again"]
    assert [row.name for row in resumed.rows] == [row.name for row in table.rows]


def test_other_images_or_another_recipe_are_run_again(done):
    out, _ = done
    folder = out / "densenet121"
    stamp = json.loads((folder / "entry.json").read_text())
    assert running._finished(folder, stamp)
    assert not running._finished(folder, stamp | {"images": "others"})
    assert not running._finished(folder, stamp | {"recipe": {}})


def test_a_study_that_fails_is_named_and_so_is_who_borrows_from_it(phantoms, tmp_path, monkeypatch):
    lender, borrower = entries()

    def fails(study, *a, **k):
        if study.name == "pair":
            raise InputError("room", "none")
        raise AssertionError(study.name)

    monkeypatch.setattr(running, "run_study", fails)
    with pytest.raises(ClinipressError, match="expected room"):
        run_entries(PAPERS["s0"], "small", (lender, borrower), phantoms, tmp_path)
    table = Table.model_validate_json((tmp_path / "table.json").read_text())
    assert "room" in table.failed["densenet121"]
    assert "densenet121" in table.failed["again"]


def test_there_is_no_table_of_another_name(phantoms, tmp_path):
    with pytest.raises(InputError, match="s0, s1, s2, s4"):
        run_table("s3", phantoms, tmp_path)
    with pytest.raises(InputError, match="small, moderate, full"):
        run_table("s0", phantoms, tmp_path, scale="tiny")


def repeatable(table: Table) -> list[tuple[str, dict[str, object]]]:
    """Rows without times and without memory, which no two runs share."""
    return [
        (
            row.name,
            {
                title: cell
                for title, cell in row.cells.items()
                if cell.unit != "ms" and "memory" not in title
            },
        )
        for row in table.rows
    ]


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")  # Ray's own
def test_two_ray_workers_give_the_table_of_a_serial_run(done, phantoms, tmp_path, monkeypatch):
    import ray  # its warnings at import are let through in this test alone

    # a user's own networks must be importable on the workers too
    here = Path(__file__).resolve().parents[1]
    paths = [str(here), str(here / "nets"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    first, borrower = entries()
    other = Entry(
        "resnet50", first.study.model_copy(update={"name": "other", "seed": 7}), first.rows
    )
    serial = run_entries(PAPERS["s0"], "small", (other,), phantoms, tmp_path / "serial")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        table = run_entries(
            PAPERS["s0"], "small", (first, other, borrower), phantoms, tmp_path / "ray", ray="local"
        )
    finally:
        ray.shutdown()
    assert table.failed == {}
    expected = repeatable(done[1])
    assert [pair for pair in expected if pair not in repeatable(table)] == []
    assert [pair for pair in repeatable(serial) if pair not in repeatable(table)] == []
    assert len(table.rows) == len(expected) + 2  # the paper's row stands once
