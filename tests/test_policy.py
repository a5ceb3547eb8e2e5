"""The risk table, and what it makes of a file's history."""

import itertools

import pytest

from clinipress.errors import DataError
from clinipress.records.candidate import Applied
from clinipress.study import policy
from clinipress.study.budget import check_budget
from clinipress.study.devices import resolve_targets
from clinipress.study.flow import run_study
from clinipress.study.policy import NAMES, POLICIES, bars, next_steps, objection, techniques
from clinipress.study.read import parse_study
from kit.training import Ears

PRUNED = Applied(step="prune", params={"asked": {"ratio": 0.3}})
IN_ROUNDS = Applied(step="prune", params={"asked": {"rounds": 5}})
DISTILLED, AWARE = Applied(step="distill", params={}), Applied(step="qat", params={})
TRAINED, EXPORTED = Applied(step="train", params={}), Applied(step="export", params={})
LEVELS = ("critical", "high", "medium", "low")


@pytest.mark.parametrize(
    ("history", "precision", "expected"),
    [
        ([TRAINED, EXPORTED], "float32", ()),
        ([TRAINED, EXPORTED], "float16", ()),
        ([EXPORTED], "int8", ("post-training",)),
        ([EXPORTED], "int8-dynamic", ("post-training",)),
        ([AWARE, EXPORTED], "int8", ("qat",)),
        ([AWARE, EXPORTED], "mixed", ("qat",)),
        ([DISTILLED, PRUNED, EXPORTED], "int8", ("distill", "prune", "post-training")),
        ([IN_ROUNDS, IN_ROUNDS, AWARE], "int8", ("prune-iterative", "qat")),
        ([DISTILLED], "int4-weights", ("distill", "int4")),
    ],
)
def test_techniques_of_a_history(history, precision, expected):
    assert techniques(history, precision) == expected


@pytest.mark.parametrize(
    ("history", "precision", "levels"),
    [
        ([TRAINED], "float32", LEVELS),
        ([TRAINED], "float16", LEVELS),
        ([AWARE], "int8", LEVELS),
        ([IN_ROUNDS, AWARE], "int8", LEVELS[1:]),
        ([PRUNED, AWARE], "int8", LEVELS[2:]),
        ([DISTILLED, AWARE], "int8", LEVELS[2:]),
        ([TRAINED], "int8", LEVELS[2:]),
        ([DISTILLED], "int4-weights", LEVELS[3:]),
    ],
)
def test_who_may_ship_what(history, precision, levels):
    """The guide's table, level by level (R48)."""
    assert tuple(r for r in LEVELS if objection(r, history, precision) is None) == levels


CUT, ROUNDS = {"step": "prune", "ratio": 0.3}, {"step": "prune", "ratio": 0.3, "rounds": 3}
TAUGHT, LEARNED = {"step": "distill", "student": "resnet18"}, {"step": "qat"}
PLAIN, EIGHT, FOUR = {"precision": "float16"}, {"precision": "int8"}, {"precision": "int4-weights"}


def asked(risk, steps, exports):
    return parse_study(
        {"name": "s", "risk": risk, "reference": {"model": "resnet18"}, "steps": steps}
        | {"exports": exports}
    )


@pytest.mark.parametrize(
    ("risk", "steps", "exports", "fixes"),
    [
        ("high", [CUT, LEARNED], [EIGHT], ["add 'rounds: 2' or more to the step 'prune'"]),
        ("high", [ROUNDS, LEARNED], [EIGHT, PLAIN], []),
        ("high", [ROUNDS], [EIGHT], ["add the step 'qat' before the exports"]),
        ("high", [TAUGHT, LEARNED], [EIGHT], ["leave the step 'distill' out"]),
        ("high", [LEARNED], [EIGHT, FOUR], ["leave the export 'int4-weights' out"]),
        ("critical", [CUT, LEARNED], [EIGHT], ["leave the step 'prune' out"]),
        ("critical", [ROUNDS, LEARNED], [EIGHT], ["leave the step 'prune' out"]),
        (
            "critical", [TAUGHT, CUT], [EIGHT],
            ["leave the step 'distill' out", "leave the step 'prune' out",
             "add the step 'qat' before the exports"],
        ),
        ("medium", [TAUGHT, CUT], [EIGHT], []),
        ("low", [TAUGHT, CUT], [FOUR], []),
    ],
)  # fmt: skip
def test_r1_what_the_policy_bars_is_known_before_training(risk, steps, exports, fixes):
    found = bars(asked(risk, steps, exports))
    assert [fix for _, fix in found] == fixes
    assert all(f"At {risk} risk" in what for what, _ in found)


def test_r1_a_study_says_what_is_barred_before_anything_else(tmp_path):
    heard = Ears()
    with pytest.raises(DataError):  # no images: nothing was trained
        run_study(
            asked("high", [CUT], [PLAIN]), tmp_path / "none", tmp_path / "run", progress=heard
        )
    assert heard.said[0] == (
        "warning: At high risk pruning in one cut is not allowed, whatever is measured, so "
        "'pruned' and all that is made of it cannot be selected: add 'rounds: 2' or more to the "
        "step 'prune'"
    )


def test_an_objection_names_everything_that_is_barred():
    said = objection("critical", [DISTILLED, PRUNED], "int8")
    for name in ("distill", "prune", "post-training"):
        assert NAMES[name] in said
    assert said.startswith("At critical risk ")


def test_a_lower_risk_allows_at_least_as_much():
    for strict, loose in itertools.pairwise(LEVELS):
        assert set(POLICIES[strict].allowed) < set(POLICIES[loose].allowed)
        assert set(POLICIES[loose].allowed) <= set(NAMES)


@pytest.mark.parametrize("risk", LEVELS)
def test_what_is_tried_next_is_allowed_and_ends(risk):
    history, precision, tried = [TRAINED], "int8", []
    while rest := next_steps(risk, history, precision):
        rung = rest[0]
        tried.append(rung)
        if rung == "qat":
            history, precision = [*history, AWARE], "int8"
        else:
            precision = rung
        assert objection(risk, history, precision) is None
        assert len(tried) < 9
    assert tried[-1] == "float16"
    assert "qat" in tried
    assert (tried[0] == "mixed") == (risk in ("medium", "low"))


def test_a_float_file_has_nothing_to_try():
    assert next_steps("medium", [TRAINED], "float16") == ()


def from_level_and_device(risk, target):
    tree = {"name": "short", "risk": risk, "target": target, "reference": {"model": "resnet50"}}
    return parse_study(tree)


@pytest.mark.parametrize("risk", LEVELS)
def test_risk_and_device_are_enough_for_a_study(risk):
    study = from_level_and_device(risk, "cpu-x86")
    kinds = [step.step for step in study.steps]
    precisions = [export.precision for export in study.exports]
    assert kinds == [step["step"] for step in POLICIES[risk].steps]
    assert "int8" in precisions
    assert ("int4-weights" in precisions) == (risk == "low")
    if "qat" in kinds:
        assert kinds[-1] == "qat"  # quantization comes last


def test_a_device_without_int8_gets_none_and_no_training_for_it():
    study = from_level_and_device("high", "jetson-nano")
    assert [step.step for step in study.steps] == ["prune"]
    assert [export.precision for export in study.exports] == ["float16"]


@pytest.mark.parametrize("risk", LEVELS)
def test_a_microcontroller_gets_full_int8_and_where_allowed_a_student_that_fits(risk):
    study = from_level_and_device(risk, "cortex-m7")
    assert [(e.format, e.precision) for e in study.exports] == [("tflite-micro", "int8")]
    students = [step.student for step in study.steps if step.step == "distill"]
    assert bool(students) == (risk in ("medium", "low"))
    if students:
        assert study.steps[-1].step == "qat"
        study = study.model_copy(update={"data": small_input(study, 96)})
        check_budget(study, resolve_targets(study.target))


def small_input(study, side):
    spec = study.data.input.model_copy(update={"height": side, "width": side})
    return study.data.model_copy(update={"input": spec})


def test_the_engines_of_a_device_race_where_they_are_installed(monkeypatch):
    made = [(e.format, e.precision) for e in from_level_and_device("medium", "cpu-x86").exports]
    others = [(kind, "int8") for kind in ("openvino", "litert", "executorch")]
    assert made == [("onnx", "float16"), ("onnx", "int8"), *others]
    monkeypatch.setattr(policy, "installed", lambda kind: kind == "onnx")
    made = [(e.format, e.precision) for e in from_level_and_device("medium", "cpu-x86").exports]
    assert made == [("onnx", "float16"), ("onnx", "int8")]


def test_several_devices_share_steps_that_fit_the_smallest():
    study = from_level_and_device("low", ["cpu-x86", "cortex-m7"])
    formats = {export.format for export in study.exports}
    assert formats == {"onnx", "openvino", "litert", "executorch", "tflite-micro"}
    assert study.steps[0].student.arguments["channels"] == [16, 32, 64, 88]


def test_what_the_user_wrote_is_kept():
    tree = {"name": "own", "target": "cpu-x86", "reference": {"model": "resnet50"}}
    assert parse_study(tree | {"steps": []}).steps == ()
    exports = parse_study(tree | {"exports": [{"precision": "float32"}]}).exports
    assert [export.precision for export in exports] == ["float32"]
