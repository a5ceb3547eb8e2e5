"""Rules are sealed before the test split is opened; what changes afterwards is seen and told."""

import json
import shutil

import pytest

from clinipress.errors import RecipeError
from clinipress.records.result import Result, TestOpening
from clinipress.study.flow import run_study
from clinipress.study.sealing import FILE, openings, rules_of, seal
from kit.studies import study

CLASSES = ("nodule", "normal", "opacity")


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, whose test split was opened once."""
    return shutil.copytree(finished[0], tmp_path / "run")


def rules_now(run, recipe):
    """The rules of a study on the sealed images of a run."""
    result = json.loads((run / "result.json").read_text())
    return rules_of(recipe, CLASSES, result["sealed"]["others"]["test images"])


def changed(result: Result) -> dict[str, tuple[str, str]]:
    return {change.what: (change.before, change.after) for change in result.rule_changes}


def test_a1_rules_are_on_the_disk_before_the_first_opening_which_names_them(finished):
    run, result = finished
    rules = json.loads((run / FILE).read_text())
    (opening,) = openings(run)
    assert opening.rules == rules["digest"] == result.sealed.digest
    assert rules["when"] <= opening.when
    assert result.rule_changes == ()
    assert result.sealed.rules == result.rules
    assert opening.kind == "scoring"


def test_a1_a_wider_limit_after_the_opening_is_at_most_inconclusive(run, phantoms):
    # the trial of the fault: the same folder, the same answers, a level with wider margins
    sealed = json.loads((run / FILE).read_text())
    result = run_study(study(risk="medium"), phantoms, run)
    assert changed(result)["risk"] == ("low (5 points)", "medium (2 points)")
    assert "guards" not in changed(result)
    assert json.loads((run / FILE).read_text()) == sealed
    assert result.sealed.risk == "low"
    judged = [row for row in result.candidates if row.verdict is not None]
    assert all(row.verdict.status != "pass" for row in judged)
    capped = [row for row in judged if "rules changed" in [r.kind for r in row.verdict.reasons]]
    assert capped == judged
    assert openings(run)[-1].rules == rules_now(run, study(risk="medium")).digest


def test_a1_judging_answers_of_before_by_other_rules_is_an_opening(run, phantoms):
    other = study(evidence={"aims": [0.9]})
    result = run_study(other, phantoms, run)
    assert set(changed(result)) == {"aims"}
    scoring, judging = openings(run)
    assert (scoring.kind, judging.kind) == ("scoring", "judging")
    assert judging.rules == rules_now(run, other).digest != scoring.rules
    # again: nothing more is logged, and the change keeps its time
    again = run_study(other, phantoms, run)
    assert len(openings(run)) == 2
    assert again.rule_changes == result.rule_changes
    # back to what was sealed: nothing differs any more, and the log still shows the detour
    back = run_study(study(), phantoms, run)
    assert back.rule_changes == ()
    assert len(back.test_openings) == 2


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"evidence": {"guards": []}}, "guards"),
        ({"evidence": {"prevalence": {"nodule": 0.05}}}, "prevalence"),
        ({"evidence": {"aims": [0.9]}}, "aims"),
        ({"evidence": {"smallest_group": 5}}, "smallest_group"),
        ({"evidence": {"stress": 0}}, "images under stress"),
        ({"bootstrap": 300}, "bootstrap"),
        ({"seed": 3}, "seed"),
        ({"margins": {"accuracy": 0.2}}, "rules"),
        ({"margins": {"sensitivity[nodule]": 0.5}}, "rules"),
        ({"floors": {"accuracy": 0.1}}, "floors"),
    ],
    ids=str,
)
def test_a1_whatever_a_verdict_hangs_on_is_seen(run, changes, what):
    later = seal(rules_now(run, study(**changes)), run)
    assert [change.what for change in later.changes] == [what]
    assert seal(rules_now(run, study()), run).changes == ()


def test_a1_normal_positive_class_map_and_division_are_sealed(run):
    data = study().data
    for update, what in (
        ({"normal": "normal"}, "normal"),
        ({"positive": "nodule"}, "positive"),
        ({"class_map": {"lump": "nodule"}}, "class map"),
        ({"split": data.split.model_copy(update={"seed": 4})}, "division of the images"),
    ):
        other = study().model_copy(update={"data": data.model_copy(update=update)})
        assert [c.what for c in seal(rules_now(run, other), run).changes] == [what]


def test_a1_floors_removed_after_the_opening(run):
    with_floor = rules_now(run, study(floors={"accuracy": 0.9}))
    log = run / "test_openings.jsonl"
    opening = json.loads(log.read_text()) | {"rules": with_floor.digest}
    log.write_text(json.dumps(opening) + "\n")
    for kept in run.glob("objects/test-*/opening.json"):
        kept.write_text(json.dumps(opening))
    (run / FILE).write_text(with_floor.model_dump_json())
    (change,) = seal(rules_now(run, study()), run).changes
    assert (change.what, change.before, change.after) == ("floors", "accuracy 0.9", "none")


def test_a1_before_the_opening_rules_may_be_sealed_again(tmp_path):
    first = seal(rules_of(study(), CLASSES), tmp_path)
    again = seal(rules_of(study(), CLASSES), tmp_path)
    assert again.rules.when == first.rules.when
    other = seal(rules_of(study(risk="medium"), CLASSES), tmp_path)
    assert other.changes == ()
    assert json.loads((tmp_path / FILE).read_text())["risk"] == "medium"


def test_a1_a_study_whose_test_stays_sealed_may_change_its_rules(phantoms, run):
    """SYNTHETIC: the folder of a study that opened nothing."""
    shutil.rmtree(next(run.glob("objects/test-*")))
    (run / "test_openings.jsonl").unlink()
    result = run_study(study(open_test=False, risk="medium"), phantoms, run)
    assert result.rule_changes == ()
    assert result.sealed.risk == "medium"


@pytest.mark.parametrize("edit", ["deleted", "edited", "edited with its digest", "no JSON"])
def test_a1_a_deleted_or_edited_seal_is_noticed(run, edit):
    path, other = run / FILE, rules_now(run, study(risk="medium"))
    if edit == "deleted":
        path.unlink()
    elif edit == "no JSON":
        path.write_text("{")
    else:
        tree = json.loads(path.read_text()) | {"risk": "medium"}
        path.write_text(json.dumps(tree) if edit == "edited" else other.model_dump_json())
    (change,) = seal(other, run).changes
    assert change.what == "seal"
    assert FILE in change.before
    # where the rules of now are the ones that the first opening names, nothing was changed
    same = seal(rules_now(run, study()), run)
    assert same.changes == ()
    assert json.loads(path.read_text())["digest"] == same.sealed.digest


@pytest.mark.parametrize("by_an_earlier_version", [False, True])
def test_a1_a_log_without_an_opening_that_was_made_is_noticed(run, by_an_earlier_version):
    (run / "test_openings.jsonl").unlink()
    if by_an_earlier_version:
        next(run.glob("objects/test-*/opening.json")).unlink()
    (change,) = seal(rules_now(run, study()), run).changes
    assert (change.what, change.after) == ("seal", "one that lacks an opening")


def test_a1_a_run_of_before_has_no_record_of_its_rules(run):
    log = run / "test_openings.jsonl"
    old = json.loads(log.read_text())
    del old["rules"], old["kind"]
    log.write_text(json.dumps(old) + "\n")
    next(run.glob("objects/test-*/opening.json")).unlink()
    (run / FILE).unlink()
    later = seal(rules_now(run, study()), run)
    assert later.sealed is None
    (change,) = later.changes
    assert change.after == "none, as an earlier version writes none"


def test_a1_interrupted_between_opening_and_answers_is_one_opening(run, phantoms, monkeypatch):
    """SYNTHETIC: killed after the opening was logged; the run goes on and logs no other."""
    from clinipress.study.scores import ScoreKeeper

    piece = next(run.glob("objects/test-*"))
    opening = (piece / "opening.json").read_text()
    shutil.rmtree(piece)
    work = run / "work" / piece.name
    work.mkdir()
    (work / "opening.json").write_text(opening)
    before = (run / "test_openings.jsonl").read_text()
    calls = []
    predict = ScoreKeeper._predict
    monkeypatch.setattr(ScoreKeeper, "_predict", lambda *args: (calls.append(1), predict(*args))[1])
    result = run_study(study(), phantoms, run)
    assert calls
    assert (run / "test_openings.jsonl").read_text() == before
    assert len(result.test_openings) == 1
    assert result.rule_changes == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"margins": {"acuracy": 0.1}}, "did you mean 'accuracy'"),
        ({"margins": {"sensitivity[nodul]": 0.1}}, "did you mean 'nodule'"),
        ({"floors": {"sensitivty[nodule]": 0.9}}, "did you mean 'sensitivity[nodule]'"),
        ({"floors": {"specificity": 0.9}}, "'specificity'"),
        ({"floors": {"ece": 0.9}}, "less is"),
        ({"evidence": {"prevalence": {"nodul": 0.1}}}, "did you mean 'nodule'"),
        ({"data": {"normal": "norml"}}, "did you mean 'normal'"),
    ],
    ids=str,
)
def test_a2_names_that_are_not_there_are_refused_before_training(changes, words):
    with pytest.raises(RecipeError) as refusal:
        rules_of(study(**changes), CLASSES)
    assert words in str(refusal.value)


def test_a2_a_misspelt_figure_is_refused_before_images_are_read(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'accuracy'"):
        run_study(study(margins={"acuracy": 0.1}), tmp_path / "nothing", tmp_path / "run")


def test_a2_a_floor_and_a_margin_of_one_class():
    rules = rules_of(
        study(
            margins={"sensitivity[opacity]": 0.02},
            floors={"sensitivity[*]": 0.8, "sensitivity[opacity]": 0.9},
        ),
        CLASSES,
    )
    assert {rule.metric: rule.margin for rule in rules.rules}["sensitivity[opacity]"] == 0.02
    assert rules.floors == {
        "sensitivity[nodule]": 0.8,
        "sensitivity[normal]": 0.8,
        "sensitivity[opacity]": 0.9,
    }


def test_a1_other_test_images_are_other_rules(tmp_path):
    """Images moved out of the test split, or labelled anew."""
    first = seal(rules_of(study(), CLASSES, "150, sha256 aaaa"), tmp_path)
    opening = TestOpening(
        when="2026-01-01", candidates=("a",), reason="r", rules=first.rules.digest
    )
    log = tmp_path / "test_openings.jsonl"
    log.write_text(opening.model_dump_json() + "\n", encoding="utf-8")
    assert seal(rules_of(study(), CLASSES, "150, sha256 aaaa"), tmp_path).changes == ()
    (change,) = seal(rules_of(study(), CLASSES, "132, sha256 bbbb"), tmp_path).changes
    assert (change.what, change.before, change.after) == (
        "test images", "150, sha256 aaaa", "132, sha256 bbbb"
    )  # fmt: skip
