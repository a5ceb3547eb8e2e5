"""A reference that is worth comparing with: floors, chance, the largest class, file facts."""

from dataclasses import replace

import numpy as np
import pytest

from clinipress.evidence import gate
from clinipress.evidence.judged import Declared, figures
from clinipress.evidence.worth import FILES, GUESSING, LARGEST, caps
from clinipress.recipe.study import EvidenceRecipe
from clinipress.records.result import Interval, Verdict
from kit.planted import reference

DECLARED = Declared("medium", EvidenceRecipe(), resamples=100)


def interval(value, low, high, n=500):
    return Interval(value=value, low=low, high=high, n=n)


def answers(n=300, right=0.9, classes=("ill", "well"), share=0.5, seed=0):
    """SYNTHETIC answers of a two-class task: so many right, so large a share of the first class."""
    random = np.random.default_rng(seed)
    labels = (random.random(n) >= share).astype(np.int64)
    called = np.where(random.random(n) < right, labels, 1 - labels)
    logits = np.zeros((n, 2), np.float32)
    logits[np.arange(n), called] = 1 + random.random(n)
    whole = reference(n=n, classes=classes)
    return replace(whole, logits=logits, labels=labels, positive="ill", units=np.arange(n))


def than(scores, baseline=None, accuracy=None, floors=None, risk="medium", **rest):
    found = caps(
        risk, floors or {}, (), scores, figures(DECLARED, scores),
        baseline=baseline or {}, baseline_accuracy=accuracy, **rest,
    )  # fmt: skip
    return {r.kind: r.parameters.get("than") for r in found}


def known(scores, right, seed=1):
    """What file facts give: so many right."""
    random = np.random.default_rng(seed)
    return {key: bool(random.random() < right) for key in scores.keys}


def test_a5_a_good_reference_needs_no_floor():
    scores = answers()
    assert than(scores, known(scores, 0.6)) == {}


@pytest.mark.parametrize("right", [0.5, 0.43], ids=["untrained", "worse than chance"])
def test_a5_a_reference_no_better_than_chance_caps_every_verdict(right):
    found = than(answers(right=right))
    assert set(found["weak reference"]) == {GUESSING, LARGEST}


def test_a5_the_largest_class_alone_is_as_good():
    scores = answers(right=0.9, share=0.92, n=400)
    assert than(scores)["weak reference"] == [LARGEST]


def test_a5_facts_of_the_files_are_as_good_paired_and_unpaired():
    scores = answers(right=0.75)
    assert than(scores, known(scores, 0.75))["weak reference"] == [FILES]
    alone = interval(0.76, 0.72, 0.8)
    assert than(scores, accuracy=alone)["weak reference"] == [FILES]
    # the images themselves decide where they are known
    assert than(scores, known(scores, 0.5), accuracy=alone) == {}
    assert than(scores, accuracy=interval(0.6, 0.55, 0.65)) == {}


def test_a5_patients_with_many_images_prove_less():
    scores = answers(right=0.72, n=240)
    assert than(scores) == {}
    # eight patients, six of whom are answered right in all their images
    right = np.arange(240) // 30 < 6
    logits = np.zeros((240, 2), np.float32)
    logits[np.arange(240), np.where(right, scores.labels, 1 - scores.labels)] = 1
    alone = replace(scores, logits=logits)
    assert than(alone) == {}
    assert LARGEST in than(replace(alone, units=np.arange(240) // 30))["weak reference"]


def test_a5_a_floor_of_all_classes_stands_in_and_one_of_a_class_does_not():
    scores = answers(right=0.5)
    assert than(scores, floors={"accuracy": 0.8}) == {"weak reference": [GUESSING]}
    assert than(scores, floors={"sensitivity[ill]": 0.9})["weak reference"]
    # a floor that whoever names the largest class meets is none
    assert than(answers(right=0.9, share=0.92), floors={"accuracy": 0.8})["weak reference"]


@pytest.mark.parametrize("risk", ["critical", "high", "medium", "low"])
def test_critical_and_high_risk_ask_for_a_floor(risk):
    scores = answers()
    assert ("no floor" in than(scores, risk=risk)) == (risk in ("critical", "high"))
    assert than(scores, risk=risk, floors={"accuracy": 0.6}) == {}
    # a floor that guessing meets is none; one of a class is
    for floor in ({"accuracy": 0.01}, {"auroc_macro": 0.5}, {"kappa": 0.0001}):
        assert ("no floor" in than(scores, risk=risk, floors=floor)) == (
            risk in ("critical", "high")
        )
    assert "no floor" not in than(scores, risk=risk, floors={"sensitivity[ill]": 0.9})


# --------------------------------------------------------------------------------- floors


@pytest.mark.parametrize(
    ("ends", "status"),
    [((0.91, 0.97), "pass"), ((0.9, 0.97), "inconclusive"), ((0.85, 0.95), "inconclusive"),
     ((0.8, 0.9), "inconclusive"), ((0.8, 0.89), "fail")],
)  # fmt: skip
def test_the_lower_end_must_lie_above_the_floor(ends, status):
    figure = interval(np.mean(ends), *ends)
    (reason,) = gate.floored({"sensitivity[ill]": 0.9}, {"sensitivity[ill]": figure})
    assert (reason.status, reason.metric, reason.where) == (status, "sensitivity", "ill")
    passed = gate.judge(gate.rules_for("low")[:1], {"accuracy": interval(0.0, -0.01, 0.01)})
    verdict = gate.settled(passed, [reason], [])
    assert verdict.status == status
    assert "at least 90.0% is required" in verdict.texts[-1]


def test_a_floor_that_was_not_measured_is_never_met():
    for figures_ in ({}, {"accuracy": interval(float("nan"), 0.1, 0.2)}):
        (reason,) = gate.floored({"accuracy": 0.5}, figures_)
        assert reason.status == "inconclusive"
        assert "not measured" in gate.settled(Verdict(status="pass"), [reason], []).texts[0]


def test_a_cap_leaves_a_fail_a_fail_and_the_choice_as_it_was():
    (cap,) = caps(
        "high", {}, (), answers(), figures(DECLARED, answers()),
        baseline={}, baseline_accuracy=None,
    )  # fmt: skip
    rules = gate.rules_for("low")[:1]
    for change, status, by_loss in (
        (interval(0.0, -0.01, 0.01), "inconclusive", "pass"),
        (interval(-0.2, -0.3, -0.1), "fail", "fail"),
        (interval(-0.05, -0.1, 0.0), "inconclusive", "inconclusive"),
    ):
        verdict = gate.settled(gate.judge(rules, {"accuracy": change}), [], [cap])
        assert (verdict.status, gate.loss_status(verdict)) == (status, by_loss)
        assert verdict.cases_needed is None


def test_a_class_of_its_own_margin_leaves_the_rule_for_the_others():
    rules = gate.rules_for("low", {"sensitivity[mel]": 0.01})
    falls = {"accuracy": interval(0.0, -0.01, 0.01),
             "sensitivity[mel]": interval(-0.05, -0.06, -0.04),
             "sensitivity[nv]": interval(-0.05, -0.06, -0.04)}  # fmt: skip
    verdict = gate.judge(rules, falls)
    assert verdict.status == "fail"
    failed = [reason for reason in verdict.reasons if reason.status == "fail"]
    assert [(reason.where, reason.limit) for reason in failed] == [("mel", 0.01)]
    assert gate.judge(gate.rules_for("low"), falls).status == "pass"
    # every class with its own: the rule for each has nothing left to judge
    both = gate.rules_for("low", {"sensitivity[mel]": 0.1, "sensitivity[nv]": 0.1})
    assert len(gate.judge(both, falls).reasons) == len(both) - 1


def test_a_floor_of_a_class_that_few_patients_carry_is_neither_met_nor_missed():
    figure = {"sensitivity[ill]": interval(0.97, 0.95, 0.99)}
    for units, status in ((4.9, "inconclusive"), (5.0, "pass")):
        (reason,) = gate.floored({"sensitivity[ill]": 0.9}, figure, {"sensitivity[ill]": units})
        assert reason.status == status


@pytest.mark.parametrize("floor", [{"accuracy": 0.7}, {"auroc_macro": 0.8}, {"kappa": 0.6}])
def test_a5_no_floor_stands_for_being_better_than_chance(floor):
    """A reference that is wrong nine times in ten, whatever floor the candidate meets."""
    (shown,) = than(answers(right=0.1), floors=floor).values()
    assert "chance" in str(shown)
