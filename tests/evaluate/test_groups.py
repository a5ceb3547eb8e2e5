"""Referee: the evidence of the group's images alone."""

import math
from dataclasses import replace

import numpy as np
import pytest

from clinipress.evidence.evidence import carried_by, evidence
from clinipress.evidence.groups import (
    Answers,
    bootstrap_groups,
    change_interval,
    drawn_interval,
    gap_interval,
    gap_of,
)
from clinipress.stats.bootstrap import BootstrapSpread, expanded_interval
from kit.each import each_seed
from kit.planted import reference
from kit.tolerances import ROUNDING, check_share

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


@each_seed(range(20))
def test_a_group_of_all_images_has_the_intervals_of_evidence(seed):
    scores = reference(seed, n=150, sharp=1 + seed / 10, per_unit=1 + seed % 3)
    scores = replace(scores, temperature=1.0)
    ((found,),) = drawn(scores, {"all": np.arange(150)}, seed).values()
    expected = evidence(
        scores.logits, scores.labels, scores.classes, units=scores.units, resamples=60, seed=seed
    )
    least = carried_by(scores.labels, scores.classes, units=scores.units)
    for name in DRAWN:
        carried = least.get(name, math.inf)
        mine = drawn_interval(name, found[name], scores.units, 0.0, carried)
        theirs = expected[name]
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
        scores.logits[rows], scores.labels[rows], scores.classes, resamples=600, seed=seed
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
    gap = gap_of(
        [BootstrapSpread(v, d, g) for v, d, g in zip((0.2, 0.9, 0.5), draws, left, strict=True)]
    )
    assert gap.value == pytest.approx(0.7)
    np.testing.assert_array_equal(gap.resampled, draws.max(axis=0) - draws.min(axis=0))
    np.testing.assert_array_equal(gap.left_out, left.max(axis=0) - left.min(axis=0))


def test_gap_is_turned_about_itself_below_and_drawn_above():
    # so many equal values left out that t is nearly normal
    spread = BootstrapSpread(0.3, np.linspace(0.2, 0.8, 6001), np.tile([0.29, 0.31], 500))
    found = gap_interval(spread, np.arange(40))
    assert (found.low, found.high) == pytest.approx((0.0, 0.785), abs=2e-3)
    found = gap_interval(
        BootstrapSpread(0.3, np.linspace(0.2, 0.4, 6001), spread.left_out), np.arange(40)
    )
    assert (found.low, found.high) == pytest.approx((0.205, 0.395), abs=2e-3)
    unknown = BootstrapSpread(np.nan, np.full(9, np.nan), np.full(9, np.nan))
    assert gap_interval(unknown, np.arange(9)) is None
    assert change_interval([unknown] * 2, [unknown] * 2, np.arange(9)) is None


def test_change_of_a_gap_is_bounded_by_the_groups_that_move_apart_most():
    random = np.random.default_rng(0)

    def spread(value):
        return BootstrapSpread(
            value, value + 0.05 * random.normal(size=400), value + random.random(50) / 99
        )

    before, after = ([spread(v) for v in values] for values in ((0.9, 0.8, 0.85), (0.9, 0.7, 0.9)))
    found = change_interval(before, after, np.arange(50))
    assert found.value == pytest.approx(0.1)
    ends = []
    for one in range(3):
        for other in range(3):
            apart = (after[one] - before[one]) - (after[other] - before[other])
            ends.append(expanded_interval(apart, method="bootstrap", n=50).high)
    assert found.high == pytest.approx(max(ends))
    same = change_interval(before, before, np.arange(50))
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_a_gap_that_opens_between_equal_groups_is_seldom_called_smaller():
    """Of four equal groups one loses 8 points: the plain percentiles end below that far too often.

    One in forty is what each end may miss.
    """
    low = {"change": 0, "percentiles": 0}
    for seed in range(300):
        random = np.random.default_rng(seed)
        right = random.random((4, 60)) < 0.9
        kept = right & ~((np.arange(4) == 0)[:, None] & (random.random((4, 60)) < 0.08 / 0.9))
        draws = random.multinomial(60, np.full(60, 1 / 60), size=(4, 200)).transpose(0, 2, 1)

        def spreads(hits, draws=draws):
            left = (hits.sum(axis=1, keepdims=True) - hits) / 59
            drawn = np.einsum("gu,gum->gm", hits, draws) / 60
            return [
                BootstrapSpread(h.mean(), d, lo) for h, d, lo in zip(hits, drawn, left, strict=True)
            ]

        before, after = spreads(right), spreads(kept)
        found = change_interval(before, after, np.arange(240))
        plain = expanded_interval(gap_of(after) - gap_of(before), method="", n=240)
        low["change"] += found.high < 0.08
        low["percentiles"] += plain.high < 0.08
    check_share(low["change"], 300, at_most=0.05)
    assert low["percentiles"] > 30
