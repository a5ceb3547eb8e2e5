"""Several seeds of one study on one split, by its own figures."""

import statistics

import pytest

from clinipress.errors import RecipeError
from clinipress.records.store import read_result
from clinipress.study.flow import run_study
from clinipress.study.repeats import spread
from kit.studies import TRAIN, study

SMALL = {"steps": [], "exports": [{"precision": "int8", "calibration_images": 16}]}
QUICK = {"stress": 0, "saliency": 0}


@pytest.fixture(scope="module")
def repeated(phantoms, tmp_path_factory):
    run = tmp_path_factory.mktemp("seeds") / "run"
    reference = {"model": {"factory": "tiny_nets:make"}, "train": TRAIN}
    asked = study(**SMALL, reference=reference, evidence=QUICK, seeds=[3, 4])
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


def test_seeds_must_differ():
    with pytest.raises(RecipeError, match="must all differ"):
        study(seeds=[0])
