"""A finished study on images from elsewhere, and two sets of scores without any model."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from clinipress.data.drawn.phantom import draw_phantoms
from clinipress.errors import DataError, InputError
from clinipress.evidence.scores import Scores
from clinipress.records.store import read_result
from clinipress.reporting.page.build import write_report
from clinipress.reporting.view import View
from clinipress.reporting.wording.lead import lead
from clinipress.study.external import compare, evaluate, evaluate_run
from clinipress.study.redraw import with_checks
from clinipress.text import STATUS_WORDS


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """SYNTHETIC images of other patients, another class name among them."""
    table = draw_phantoms(tmp_path_factory.mktemp("there"), patients=60, seed=7, size=32)
    table.write_text(table.read_text().replace(",nodule,", ",lump,"))
    return table


@pytest.fixture(scope="module")
def tested(finished, elsewhere, tmp_path_factory):
    run, result = finished
    if result.shipped is None:
        pytest.fail("the small study ships nothing: there is nothing to test elsewhere")
    return run, evaluate_run(run, elsewhere, name="there", class_map="lump=nodule")


def test_what_was_shipped_is_judged_by_the_studys_own_rules(tested, finished):
    test, result = tested[1], finished[1]
    assert list(test.rows) == [result.reference, result.shipped]
    assert test.class_map == {"lump": "nodule"}
    root, mine = test.rows.values()
    assert root.verdict is None
    assert mine.verdict.status in ("pass", "fail", "inconclusive")
    assert mine.evidence["accuracy"].n == test.images
    assert mine.changes["accuracy"].value == pytest.approx(
        mine.evidence["accuracy"].value - root.evidence["accuracy"].value
    )


def test_thresholds_and_temperature_stay_those_of_validation(tested, finished):
    run, test = tested
    name = finished[1].shipped
    there = Scores.load(run / test.rows[name].per_image)
    row = next(r for r in finished[1].candidates if r.name == name)
    at_home = Scores.load(run / row.per_image["validation"])
    assert there.temperature == at_home.temperature
    assert not set(there.keys) & set(at_home.keys) or len(there.keys) != len(at_home.keys)
    section = test.rows[name].judgements.operating
    inside = row.judgements["validation"].operating
    assert [r.threshold for r in section.rows] == [r.threshold for r in inside.rows]


def test_the_report_shows_it_beside_the_internal_figures(tested):
    run, test = tested
    result = with_checks(read_result(run), run)
    for row in result.candidates:
        assert ("external: there" in row.evidence) == (row.name in test.rows)
    page = write_report(result, run).read_text()
    assert '<section id="external"' in page
    assert "external (there)" in page
    assert result.external_tests[0].images == test.images
    (words,) = lead(View(result)).external
    assert words.startswith("there: accuracy ")
    verdict = test.rows[result.shipped].verdict
    assert f": {STATUS_WORDS[verdict.status]}. " in words


def test_a_test_of_other_files_is_refused(tested, tmp_path):
    run, _ = tested
    path = run / "external" / "there.json"
    kept = path.read_text()
    tree = json.loads(kept)
    for row in tree["rows"].values():
        row["digest"] = "0" * 64
    try:
        path.write_text(json.dumps(tree))
        with pytest.raises(InputError, match="evaluate the run again"):
            with_checks(read_result(run), run)
        path.write_text("{}")
        with pytest.raises(InputError, match="external test"):
            with_checks(read_result(run), run)
    finally:
        path.write_text(kept)


def test_foreign_classes_are_refused(finished, elsewhere):
    with pytest.raises(DataError, match="class-map"):
        evaluate_run(finished[0], elsewhere, name="x")


def test_a_run_that_shipped_nothing_has_nothing_to_test(finished, elsewhere, tmp_path):
    tree = json.loads((finished[0] / "result.json").read_text())
    tree |= {"shipped": None, "targets": []}
    (tmp_path / "result.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match="shipped none"):
        evaluate_run(tmp_path, elsewhere)


def test_scores_alone_give_the_same_verdict_as_the_models(finished, phantoms, tmp_path):
    run, result = finished
    paths = [run / row.path for row in result.candidates[:2]]
    kept = [tmp_path / f"{n}.npz" for n in (0, 1)]
    for path, scores in zip(paths, kept, strict=True):
        evaluate(path, phantoms, scores=scores, resamples=100)
    by_models = compare(*paths, phantoms, resamples=100)
    by_scores = compare(*kept, resamples=100)
    assert by_scores["changes"] == by_models["changes"]
    assert by_scores["verdict"] == by_models["verdict"]
    assert by_scores["judgements"] == by_models["judgements"]


def test_scores_of_other_images_are_refused(finished, tmp_path):
    run, result = finished
    first = Scores.load(run / result.candidates[0].per_image["validation"])
    path = tmp_path / "a.npz"
    first.save(path)
    other = Scores(
        first.logits[1:], first.labels[1:], first.units[1:], first.keys[1:], first.classes,
        groups={name: values[1:] for name, values in first.groups.items()},
    )  # fmt: skip
    other.save(tmp_path / "b.npz")
    with pytest.raises(InputError, match="same images"):
        compare(path, tmp_path / "b.npz")
    with pytest.raises(InputError, match=r"\.npz"):
        compare(path, run / result.candidates[0].path)


def test_groups_of_the_manifest_reach_the_scores(finished):
    run, result = finished
    scores = Scores.load(run / result.candidates[0].per_image["validation"])
    assert {"sex", "age", "scanner"} <= set(scores.groups)
    assert set(scores.groups["sex"]) <= {"M", "F"}
    assert np.isfinite(scores.probabilities).all()


@pytest.mark.parametrize("changed", ["rules", "positive", "validation"])
def test_f1_an_external_test_of_the_run_as_it_was_is_not_shown(tested, tmp_path, changed):
    """The files are the same, but not what they were judged by: a stale piece like any other."""
    run = tmp_path / "run"
    shutil.copytree(tested[0], run)
    result = read_result(run)
    assert len(with_checks(result, run).external_tests) == 1
    if changed == "rules":
        rules = [rule.model_copy(update={"margin": rule.margin * 2}) for rule in result.rules]
        result = result.model_copy(update={"rules": tuple(rules)})
    elif changed == "positive":
        data = {**result.recipe["data"], "positive": "normal"}
        result = result.model_copy(update={"recipe": {**result.recipe, "data": data}})
    else:
        path = run / result.candidates[0].per_image["validation"]
        scores = Scores.load(path)
        dataclasses.replace(scores, labels=scores.labels[::-1]).save(path)
    with pytest.raises(InputError, match="other validation images"):
        with_checks(result, run)
