from pathlib import Path

import pytest
import yaml

from clinipress.errors import InputError, RecipeError
from clinipress.recipe.steps import DistillStep, FineTuneStep, PruneStep, QatStep, TrainOptions
from clinipress.recipe.study import Study
from clinipress.study.external import parse_floors
from clinipress.study.flow import run_study
from clinipress.study.read import load_study, parse_study
from clinipress.study.sealing import check_names

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.yaml"))
SMALL = {"name": "x", "reference": {"model": "resnet18"}}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_valid(path):
    assert load_study(path).name == path.stem


def test_defaults_are_the_guides():
    step = DistillStep(student="mobilenetv2_100")
    assert (step.temperature, step.alpha) == (4.0, 0.7)
    assert PruneStep().ratio == 0.3


@pytest.mark.parametrize(
    ("change", "named", "near"),
    [
        ({"risks": "low"}, "'risks'", "'risk'"),
        (
            {"reference": {"model": "a", "train": {"epoch": 3}}},
            "'reference.train.epoch'",
            "'epochs'",
        ),
        ({"data": {"inputs": {}}}, "'data.inputs'", "'input'"),
        (
            {"steps": [{"step": "distill", "student": "a", "temprature": 1}]},
            "'steps.0.temprature'",
            "'temperature'",
        ),
        (
            {"steps": [{"step": "prune", "train": {"epoks": 1}}]},
            "'steps.0.train.epoks'",
            "'epochs'",
        ),
        ({"exports": [{"precison": "int8"}]}, "'exports.0.precison'", "'precision'"),
    ],
)
def test_a_wrong_key_is_named_with_the_nearest_right_one(change, named, near):
    with pytest.raises(RecipeError) as caught:
        parse_study(SMALL | change)
    assert named in str(caught.value)
    assert f"did you mean {near}" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"risk": "lowest"},
        {"data": {"split": {"fractions": [0.5, 0.2, 0.2]}}},
        {"reference": {"model": {"name": "a", "factory": "b:c"}}},
        {"reference": {"model": "a", "train": None}},
        {"steps": [{"step": "distil", "student": "a"}]},
        {"name": "../up"},
        {"seed": "many"},
    ],
)
def test_wrong_values_are_one_line(change):
    with pytest.raises(RecipeError) as caught:
        parse_study(SMALL | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("floors: {accuracy: 90}", "floors.accuracy.*a share: 0.9, not 90"),
        ('floors: {"sensitivity[x]": 99.5}', "a share: 0.995, not 99.5"),
        ("floors: {accuracy: 90%}", "a share: 0.9, not 90%"),
        ("floors: {accuracy: 0.5%}", "a share: 0.005, not 0.5%"),
        ("margins: {accuracy: 2}", "margins.accuracy.*a share: 0.02, not 2"),
        ("evidence: {aims: [95]}", "evidence.aims.0.*a share: 0.95, not 95"),
        ("evidence: {prevalence: {x: 5}}", "prevalence.x.*a share: 0.05, not 5"),
        ("data: {split: {fractions: [65, 15, 20]}}", "fractions.0.*a share: 0.65, not 65"),
        ("steps: [{step: prune, ratio: 30}]", "ratio.*a share: 0.3, not 30"),
        ("steps: [{step: qat, freeze_ranges: 60}]", "a share: 0.6, not 60"),
        ("steps: [{step: qat, train: {label_smoothing: 10}}]", "a share: 0.1, not 10"),
        ("exports: [{precision: mixed, agreement: 98}]", "agreement.*a share: 0.98, not 98"),
        ("floors: {accuracy: 1}", "less than 1"),
        ("floors: {accuracy: 900}", "less than 1"),
        ("floors: {accuracy: -3}", "greater than 0"),
        ("evidence: {prevalence: {x: 0.7, y: 0.4}}", "prevalence.*sum to 1 at most.* 1.1$"),
    ],
)
def test_r5_a_share_that_is_none_is_told_what_to_write(change, said):
    with pytest.raises(RecipeError, match=said):
        parse_study(SMALL | yaml.safe_load(change))


def test_r5_prevalences_of_classes_that_are_known_not_to_be_there(tmp_path):
    two = SMALL | {"data": {"classes": ["a", "b"]}}
    study = parse_study(two | {"evidence": {"prevalence": {"c": 0.1}}})
    with pytest.raises(RecipeError, match=r"prevalence.*'c'"):
        run_study(study, tmp_path / "nothing-there", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check_names(parse_study(two | {"evidence": {"prevalence": {"a": 0.4, "b": 0.6}}}), ["a", "b"])
    short = parse_study(two | {"evidence": {"prevalence": {"a": 0.4, "b": 0.5}}})
    with pytest.raises(RecipeError, match=r"sum to 1.*0\.9"):
        check_names(short, ["a", "b"])


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("acuracy=90", "did you mean 'accuracy'"),
        ("acuracy=0.9", "did you mean 'accuracy'"),
        ("accuracy=90", "a share: 0.9, not 90"),
        ("accuracy=1", "between 0 and 1"),
        ("accuracy=nan", "between 0 and 1"),
        ("accuracy", "metric=number"),
    ],
)
def test_r5_a_floors_name_is_checked_before_its_number(pair, said):
    with pytest.raises(InputError, match=said):
        parse_floors([pair])


def test_overrides(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"steps": [{"step": "prune"}]}))
    study = load_study(
        path, ("reference.train.epochs=3", "steps.0.ratio=0.5", "risk=low", "data.input.height=64")
    )
    assert study.reference.train is not None
    assert (study.reference.train.epochs, study.risk, study.data.input.height) == (3, "low", 64)
    assert isinstance(study.steps[0], PruneStep)
    assert study.steps[0].ratio == 0.5
    for wrong in ("epochs", "steps.7.ratio=1", "steps.x=1", "=3"):
        with pytest.raises(RecipeError):
            load_study(path, (wrong,))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [1\n", "\x00"])
def test_not_a_study_file(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        load_study(path)
    with pytest.raises(RecipeError, match="no file"):
        load_study(tmp_path / "absent.yaml")


def test_a_study_survives_json():
    study = parse_study(SMALL | {"steps": [{"step": "distill", "student": "a"}, {"step": "prune"}]})
    assert Study.model_validate(study.model_dump(mode="json")) == study


def test_what_is_not_yaml_is_told_by_line_and_column(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("a:\n   b: 1\n  - c: 2\n")
    with pytest.raises(RecipeError, match=r"in line 3, column 3: check the indentation$"):
        load_study(path)
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(RecipeError, match=r"can't decode byte 0xff"):
        load_study(path)


@pytest.mark.parametrize("step", [PruneStep, FineTuneStep, QatStep])
def test_what_is_said_of_a_training_is_laid_over_the_steps_own_defaults(step):
    own = step().train
    said = step(train={"epochs": 40}).train
    assert said == own.model_copy(update={"epochs": 40})
    assert said.learning_rate < DistillStep().train.learning_rate
    assert step.model_validate(said_in_full := step(train={"epochs": 4}).model_dump())
    assert step.model_validate(said_in_full).train.epochs == 4


def test_pruning_without_fine_tuning_stays_without():
    assert PruneStep(train=None).train is None


STAGES = [{"train": "head", "epochs": 3}, {"epochs": 4, "decay": "exponential"}]


def test_epochs_of_stages_are_added_up_and_survive_json():
    study = parse_study(SMALL | {"reference": {"model": "a", "train": {"stages": STAGES}}})
    train = study.reference.train
    assert train is not None
    assert train.epochs == 7
    assert [stage.train for stage in train.stages] == ["head", "all"]
    assert Study.model_validate(study.model_dump(mode="json")) == study
    assert FineTuneStep(train={"stages": STAGES}).train.epochs == 7
    assert TrainOptions(stages=train.stages[:1]).epochs == 3  # a stage left out
    assert TrainOptions(stages=()).epochs == TrainOptions().epochs


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"stages": STAGES, "epochs": 5}, "leave out 'epochs'"),
        ({"stages": [{"train": "head"}]}, "epochs"),
        ({"stages": [3]}, "stages"),
        ({"stages": "three"}, "stages"),
        ({"stages": [{"epochs": "many"}]}, "epochs"),
        ({"stages": [{"epochs": 2, "train": "tail"}]}, "head"),
        ({"decay": "exponential", "final_learning_rate": 0}, "above 0"),
        ({"stages": [{"epochs": 2, "decay": "exponential"}], "final_learning_rate": 0}, "above 0"),
        ({"layer_decay": 0}, "layer_decay"),
        ({"mixup": 0}, "mixup"),
    ],
)
def test_stages_that_cannot_be_are_one_line(train, said):
    with pytest.raises(RecipeError) as caught:
        parse_study(SMALL | {"reference": {"model": "a", "train": train}})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"step": "prune", "rounds": 2, "train": {"stages": STAGES}}, "rounds"),
        ({"step": "distill", "method": "fitnet", "train": {"mixup": 0.2}}, "maps"),
        ({"step": "distill", "method": "attention", "train": {"cutmix": 1}}, "maps"),
    ],
)
def test_schemes_that_do_not_suit_a_step_are_refused(step, said):
    with pytest.raises(RecipeError, match=said):
        parse_study(SMALL | {"steps": [step]})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"order": ["a", "b"]}, "three grades or more"),
        ({"order": ["a", "b", "b"]}, "each once"),
        ({"order": ["a", "b", "c"], "classes": ["a", "b", "d"]}, "must hold all of a, b, d"),
        ({"task": "multilabel", "positive": "a"}, "every finding is a question of its own"),
        ({"task": "multilabel", "order": ["a", "b", "c"]}, "every finding is a question"),
        ({"blank": "absent"}, "are for task: multilabel"),
    ],
)
def test_tasks_that_cannot_be_are_refused(data, words):
    with pytest.raises(RecipeError, match=words):
        parse_study(SMALL | {"data": data})


def test_grades_are_the_order_of_the_logits_where_nothing_else_is():
    study = parse_study(SMALL | {"data": {"order": [0, 1, 2]}})
    assert study.data.classes == study.data.order == ("0", "1", "2")
    other = {"order": ["none", "mild", "severe"], "classes": ["mild", "none", "severe"]}
    assert parse_study(SMALL | {"data": other}).data.classes == ("mild", "none", "severe")


def test_shares_of_several_findings_need_not_be_of_one_whole():
    evidence = {"prevalence": {"a": 0.8, "b": 0.7}}
    with pytest.raises(RecipeError, match="must sum to 1 at most"):
        parse_study(SMALL | {"evidence": evidence})
    several = parse_study(SMALL | {"evidence": evidence, "data": {"task": "multilabel"}})
    assert several.evidence.primary == "auroc_macro"
    with pytest.raises(RecipeError, match=r"'evidence.primary' is for task: multilabel"):
        parse_study(SMALL | {"evidence": {"primary": "worst_sensitivity"}})
