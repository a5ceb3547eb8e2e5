from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from clinipress.errors import DataError
from clinipress.evidence.family import (
    check_pair,
    combine,
    joint_confidence,
    judge_family,
    tango_changes,
    widened,
)
from clinipress.records.result import Interval, Rule
from kit.planted import reference, rounded
from kit.tolerances import ROUNDING
from kit.verdicts import verdict_of

RULE = Rule(metric="sensitivity[*]", margin=0.08)


def drop(value, low, high, confidence=0.95):
    """The change of a share, from how much of it is lost."""
    return Interval(value=-value, low=-high, high=-low, confidence=confidence, n=100)


def judged(plain, joint, rule=RULE):
    return judge_family([rule], {"sensitivity[a]": plain}, {"sensitivity[a]": joint}).status


@pytest.mark.parametrize("many", [1, 2, 3, 7, 24, 150])
def test_joint_confidence_is_bonferronis_rounded_up(many):
    """Referee: statsmodels' adjustment of a p value at the edge."""
    found = joint_confidence(many)
    exact = 1 - 0.05 / many
    assert exact <= found < exact + 1e-4
    edge = multipletests([1 - exact] + [1.0] * (many - 1), method="bonferroni")[1][0]
    assert edge == pytest.approx(0.05)


def test_widening_moves_ends_by_the_normal_quantiles():
    wide = widened(drop(-0.1, -0.2, -0.05), 0.99)
    stretch = norm.ppf(0.995) / norm.ppf(0.975)
    assert wide.low == pytest.approx(0.1 - 0.05 * stretch, abs=ROUNDING)
    assert wide.high == pytest.approx(0.1 + 0.1 * stretch, abs=ROUNDING)
    assert wide.confidence == 0.99


def test_a_loss_fails_only_when_shown_jointly_and_passes_by_itself():
    inside, outside = drop(0.01, 0, 0.05), drop(0.2, 0.1, 0.3)
    unsure = drop(0.2, 0.07, 0.33, 0.999)
    assert judged(inside, drop(0.01, -0.1, 0.2, 0.999)) == "pass"
    assert judged(outside, outside) == "fail"
    assert judged(outside, unsure) == "inconclusive"
    assert judged(drop(0.05, 0, 0.1), drop(0.05, -0.1, 0.2, 0.999)) == "inconclusive"


def test_one_bad_comparison_among_many_fails_and_is_the_one_named():
    names = {f"sensitivity[{c}]": drop(0.0, -0.01, 0.01) for c in "abcd"}
    names["sensitivity[c]"] = drop(0.2, 0.1, 0.3)
    verdict = judge_family([RULE], names, names)
    assert verdict.status == "fail"
    assert verdict.texts[0].startswith("Worst of 4 comparisons: Sensitivity for c fell by 20.0")


def test_a_rule_that_is_not_primary_can_fail_and_cannot_hold_up():
    guard = RULE.model_copy(update={"primary": False})
    primary = Rule(metric="accuracy[*]", margin=0.08)
    good, bad, open_ = drop(0, -0.01, 0.01), drop(0.2, 0.1, 0.3), drop(0.05, 0, 0.1)
    for guarded, status in ((good, "pass"), (open_, "pass"), (bad, "fail")):
        found = {"accuracy[x]": good, "sensitivity[a]": guarded}
        assert judge_family([primary, guard], found, found).status == status
    assert judge_family([guard], {}, {}).status == "inconclusive"
    assert judge_family([primary], {}, {}).status == "inconclusive"


def test_combined_verdicts_need_cases_of_every_open_question():
    known = verdict_of("inconclusive", "a", cases_needed=300)
    unknown = verdict_of("inconclusive", "b")
    held = verdict_of("pass", "c")
    assert combine([(known, True), (held, True)]).cases_needed == 300
    assert combine([(known, True), (unknown, True)]).cases_needed is None
    assert combine([(known, False), (held, True)]).status == "pass"
    assert combine([(known, True), (unknown, False), (held, True)]).texts == ("a", "b", "c")


def test_no_false_alarm_from_many_comparisons():
    """30 comparisons of 80 cases with a true loss at the limit: few families fail."""
    random = np.random.default_rng(0)
    failed = {True: 0, False: 0}
    for _ in range(25):
        compared = {}
        for number in range(30):
            lost = random.random(80) < 0.08
            compared[f"sensitivity[{number}]"] = np.ones(80, bool), ~lost, np.arange(80)
        rule = [Rule(metric="sensitivity[*]", margin=0.08)]
        plain, joint = (tango_changes(compared, c) for c in (0.95, joint_confidence(30)))
        failed[True] += judge_family(rule, plain, joint).status == "fail"
        failed[False] += judge_family(rule, plain, plain).status == "fail"
    assert failed[True] <= 4
    assert failed[False] >= 6  # what would happen without the allowance


@pytest.mark.parametrize("what", ["keys", "labels", "units", "classes", "logits"])
def test_answers_to_other_images_are_refused(what):
    scores = reference(n=60)
    other = {
        "keys": scores.keys[::-1],
        "labels": scores.labels[::-1],
        "units": scores.units + 1,
        "classes": ("x", *scores.classes[1:]),
        "logits": np.full_like(scores.logits, np.nan),
    }
    check_pair(scores, rounded(scores))
    with pytest.raises(DataError):
        check_pair(scores, replace(scores, **{what: other[what]}))


def test_an_open_guard_is_a_note_that_says_it_does_not_block():
    guard = RULE.model_copy(update={"primary": False})
    primary = Rule(metric="accuracy[*]", margin=0.08)
    found = {"accuracy[x]": drop(0, -0.01, 0.01), "sensitivity[a]": drop(0.05, 0, 0.1)}
    first, second = judge_family([primary, guard], found, found).reasons
    assert (first.status, first.rule, second.status, second.rule) == (
        "pass", "primary", None, "guard",
    )  # fmt: skip
    assert "(guard, does not block)" in second.text
