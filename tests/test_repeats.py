"""Several seeds of one study on one split, by its own figures."""

import shutil
import statistics
from types import SimpleNamespace

import pytest

from clinipress.cli.terminal import show_result
from clinipress.edge.bundle import _readme
from clinipress.errors import RecipeError
from clinipress.records.store import read_result
from clinipress.study import summary
from clinipress.study.flow import run_study
from clinipress.study.redraw import left_over_seeds
from clinipress.study.repeats import spread
from kit.studies import BARE, TRAIN, study, tree

SMALL = {"steps": [], "exports": [{"precision": "int8", "calibration_images": 16}]}


@pytest.fixture(scope="module")
def repeated(phantoms, tmp_path_factory):
    run = tmp_path_factory.mktemp("seeds") / "run"
    reference = {"model": {"factory": "tiny_nets:make"}, "train": TRAIN}
    asked = study(**SMALL, reference=reference, evidence=BARE, seeds=[3, 4])
    return run, run_study(asked, phantoms, run)


def test_every_seed_is_trained_on_one_split_and_the_spread_is_that_of_their_figures(repeated):
    run, result = repeated
    runs = [result, *(read_result(run / "seeds" / str(seed)) for seed in (3, 4))]
    assert result.seeds == (0, 3, 4)
    assert len({one.split.digest for one in runs}) == 1
    assert len({one.candidates[0].digest for one in runs}) == 3
    for name, found in result.over_seeds.items():
        rows = [next(r for r in one.candidates if r.name == name) for one in runs]
        values = [row.evidence[found.split]["accuracy"].value for row in rows]
        accuracy = found.evidence["accuracy"]
        assert accuracy.values == tuple(values)
        assert accuracy.mean.value == pytest.approx(statistics.mean(values))
        assert accuracy.deviation == pytest.approx(statistics.stdev(values))
        assert (accuracy.low, accuracy.high) == (min(values), max(values))
    assert set(result.over_seeds) == {row.name for row in result.candidates}
    assert read_result(run) == result


def test_the_report_shows_the_spread(repeated):
    page = (repeated[0] / "report.html").read_text()
    assert "3 seeds" in page


def test_a_candidate_that_one_seed_lacks_has_no_spread(repeated):
    result = repeated[1]
    short = result.model_copy(update={"candidates": result.candidates[:1]})
    assert list(spread([result, short])) == [result.reference]


def test_17_a_seed_that_the_study_names_no_longer_is_left_over_and_unused(
    repeated, phantoms, tmp_path
):
    run = shutil.copytree(repeated[0], tmp_path / "run")
    result = repeated[1]
    said = []
    recipe = result.recipe | {"seeds": [4]}
    fewer = result.model_copy(update={"recipe": recipe})
    assert list(left_over_seeds(fewer.recipe["seeds"], run)) == ["seeds/3"]
    assert left_over_seeds(result.recipe["seeds"], run) == {}
    reference = {"model": {"factory": "tiny_nets:make"}, "train": TRAIN}
    alone = study(**SMALL, reference=reference, evidence=BARE)
    listener = SimpleNamespace(
        say=said.append, start=lambda *_: None, advance=lambda *_: None, finish=lambda *_: None
    )
    again = run_study(alone, phantoms, run, progress=listener)
    assert (again.seeds, again.over_seeds) == ((), {})
    for seed in (3, 4):
        line = f"seeds/{seed} is left over: the study no longer names this seed"
        assert any(text.startswith(line) for text in said)
        assert line in (run / "report.md").read_text()
        assert (run / "seeds" / str(seed) / "result.json").is_file()
    assert "3 seeds" not in (run / "report.html").read_text()


def test_17_a_trial_says_so_on_every_page_and_in_the_bundle(
    phantoms, tmp_path, capsys, monkeypatch
):
    reference = {"model": {"factory": "tiny_nets:make"}, "train": TRAIN}
    data = {**tree()["data"], "sample": 150}
    exports = [{"precision": "float32"}]
    small = study(reference=reference, evidence=BARE, data=data, steps=[], exports=exports)
    run = tmp_path / "run"
    result = run_study(small, phantoms, run)
    line = f"A trial: {result.audit.images} of {result.audit.trial_of:,} images, drawn by class"
    for name in ("model-card.md", "dossier.md", "dossier.json", "report.md"):
        assert line in (run / name).read_text(), name
    # the bundle's own pages, of a candidate that need not be the selected one
    record, given = result.candidates[-1], {}
    card = SimpleNamespace(history=(), name=record.name, classes=result.classes, synthetic=True,
                           format=record.format, intended_use="")  # fmt: skip
    card.model_copy = lambda update: card
    monkeypatch.setattr(summary, "calibrated", lambda *_: card)
    monkeypatch.setattr(summary, "_drawn", lambda *_: None)
    monkeypatch.setattr(summary, "write_bundle", lambda *_, **options: given.update(options))
    piece = SimpleNamespace(name=record.name, file=SimpleNamespace(path=run / record.path))
    bench = SimpleNamespace(study=small, store=SimpleNamespace(folder=run))
    summary._ship(piece, record, run / "bundle", result, bench)
    assert given["evidence"]["trial"].startswith(line)
    assert line in _readme(card, given["evidence"], "")
    show_result(result, run)
    assert line in " ".join(capsys.readouterr().out.splitlines()[-5:])


def test_seeds_must_differ():
    with pytest.raises(RecipeError, match="must all differ"):
        study(seeds=[0])
