"""Referee: the evidence of the group's images alone."""

from dataclasses import replace

import numpy as np
import pytest

from clinipress.evaluate.bootstrap import Spread
from clinipress.evaluate.evidence import evidence
from clinipress.evaluate.groups import (
    Answers,
    bootstrap_groups,
    drawn_interval,
    gap_interval,
    gap_of,
)
from planted import reference
from tolerances import ROUNDING

DRAWN = ("balanced_accuracy", "auroc_macro", "ece")


def drawn(scores, groups, seed=0, resamples=60):
    return bootstrap_groups(
        [Answers.of(scores)],
        scores.labels,
        scores.classes,
        scores.units,
        groups,
        resamples=resamples,
        seed=seed,
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_group_of_all_images_has_the_intervals_of_evidence(seed):
    scores = reference(seed, n=150, sharp=1 + seed / 10, per_unit=1 + seed % 3)
    scores = replace(scores, temperature=1.0)
    ((found,),) = drawn(scores, {"all": np.arange(150)}, seed).values()
    expected = evidence(
        scores.logits,
        scores.labels,
        scores.classes,
        units=scores.units,
        resamples=60,
        seed=seed,
    )
    for name in DRAWN:
        mine, theirs = drawn_interval(name, found[name], scores.units, 0.0), expected[name]
        ends = [(one.low, one.value, one.high) for one in (mine, theirs)]
        assert ends[0] == pytest.approx(ends[1], abs=ROUNDING), name
        assert (mine.method, mine.n) == (theirs.method, theirs.n)


@pytest.mark.parametrize("seed", range(3))
def test_a_group_has_about_the_intervals_of_its_images_alone(seed):
    """Other draws, and units left out of a larger whole: near, and never much narrower."""
    scores = replace(reference(seed, n=600, sharp=2.0), temperature=1.0)
    rows = np.flatnonzero(np.array(scores.groups["sex"]) == "female")
    others = np.setdiff1d(np.arange(600), rows)
    (found,) = drawn(scores, {"female": rows, "male": others}, seed, 600)["female"]
    alone = evidence(
        scores.logits[rows],
        scores.labels[rows],
        scores.classes,
        resamples=600,
        seed=seed,
    )
    for name in DRAWN:
        mine, theirs = drawn_interval(name, found[name], scores.units[rows], 0.0), alone[name]
        assert mine.value == pytest.approx(theirs.value, abs=ROUNDING)
        wide = [one.high - one.low for one in (mine, theirs)]
        assert wide[0] == pytest.approx(wide[1], rel=0.2), name


def test_nothing_is_drawn_without_groups_or_from_one_unit():
    scores = reference(n=40)
    assert drawn(scores, {}) == {}
    (found,) = drawn(scores, {"few": np.arange(40)})["few"]
    assert drawn_interval("ece", found["ece"], np.zeros(40, np.int64), 0.0) is None


def test_gap_is_best_minus_worst_of_every_draw():
    random = np.random.default_rng(0)
    draws, left = random.random((3, 99)), random.random((3, 40))
    gap = gap_of([Spread(v, d, g) for v, d, g in zip((0.2, 0.9, 0.5), draws, left, strict=True)])
    assert gap.value == pytest.approx(0.7)
    np.testing.assert_array_equal(gap.resampled, draws.max(axis=0) - draws.min(axis=0))
    np.testing.assert_array_equal(gap.left_out, left.max(axis=0) - left.min(axis=0))


def test_gap_is_turned_about_itself_below_and_drawn_above():
    # forty units of +-1: so many degrees of freedom that t is nearly normal
    spread = Spread(0.3, np.linspace(0.2, 0.8, 6001), np.tile([0.29, 0.31], 500))
    one = gap_interval(spread, np.arange(40), floor=0.0, both=False)
    assert (one.low, one.high) == pytest.approx((0.0, 0.785), abs=2e-3)
    both = gap_interval(spread, np.arange(40), floor=-1.0, both=True)
    assert (both.low, both.high) == pytest.approx((0.6 - 0.785, 0.785), abs=2e-3)
    shifted = Spread(0.3, np.linspace(0.0, 0.31, 6001), spread.left_out)
    both = gap_interval(shifted, np.arange(40), floor=-1.0, both=True)
    assert (both.low, both.high) == pytest.approx((0.00775, 0.6 - 0.00775), abs=2e-3)
    unknown = Spread(np.nan, np.full(9, np.nan), np.full(9, np.nan))
    assert gap_interval(unknown, np.arange(9), floor=0.0, both=False) is None
