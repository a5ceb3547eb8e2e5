from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

from clinipress.errors import DataError, InputError
from clinipress.evidence.scores import Scores
from clinipress.evidence.stress import JUDGED, disturbed_logits, stress_rows, stress_section
from clinipress.kinds.image.disturb import DISTURBANCES, STRENGTHS, disturb
from clinipress.records.candidate import Card, InputSpec
from kit.each import each_seed
from kit.tolerances import check_share

CLASSES = ("dark", "bright")
SPEC = InputSpec(channels=1, height=24, width=24)


@dataclass
class Threshold:
    """Calls a picture bright when its mean is high; with `nerves` it guesses on grainy ones."""

    nerves: bool = False
    asked: int = 0

    @property
    def card(self):
        return Card(name="threshold", classes=CLASSES, input=SPEC)

    def predict(self, images):
        self.asked += len(images)
        values = images.astype(np.float64)
        score = values.mean(axis=(1, 2, 3)) - 128
        if self.nerves:
            grain = np.median(np.abs(np.diff(values, axis=3)), axis=(1, 2, 3))
            score = np.where(grain > 4, -score, score)
        return np.stack([-score, score], axis=1).astype(np.float32) / 20


def pictures(n=120, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    slope = np.linspace(-20, 20, 24)[None, None, None, :]
    level = np.where(labels == 1, 165, 90)[:, None, None, None] + random.normal(0, 8, (n, 1, 1, 1))
    images = np.rint(np.clip(level + slope + np.zeros((1, 1, 24, 1)), 0, 255)).astype(np.uint8)
    return images, labels.astype(np.int64), tuple(f"picture {i}" for i in range(n))


def scores(logits, labels, units=None, keys=None):
    n = len(labels)
    return Scores(
        logits=logits.astype(np.float32),
        labels=labels,
        units=np.arange(n) if units is None else units,
        keys=keys or tuple(map(str, range(n))),
        classes=CLASSES,
    )


def answers(right, labels):
    """Logits that are right where they should be."""
    logits = np.zeros((len(labels), 2), np.float32)
    logits[np.arange(len(labels)), np.where(right, labels, 1 - labels)] = 1
    return logits


def examine(reference, candidate, margin=0.02, kinds=tuple(DISTURBANCES), strengths=STRENGTHS):
    images, labels, keys = pictures()
    pair = {"reference": reference, "candidate": candidate}
    rows = np.arange(len(labels))
    stored = {}
    for kind in kinds:
        for strength in strengths:
            found = disturbed_logits(pair, images, keys, kind, strength)
            stored[kind, strength] = found["reference"], found["candidate"]
    plain = [scores(one.predict(images), labels, keys=keys) for one in (reference, candidate)]
    return stress_section(*plain, rows, stored, margin=margin)


def test_candidate_that_breaks_on_noise_alone_is_caught_and_named():
    section = examine(Threshold(), Threshold(nerves=True))
    assert section.undisturbed["reference"].value == section.undisturbed["candidate"].value
    assert section.verdict.status == "fail"
    (reason,) = section.verdict.texts
    assert reason.startswith("Noise (strength ")
    assert "of 5) lowered accuracy by" in reason
    assert "points more than in the reference" in reason
    assert "allowed fall 8.0): at or beyond the limit (at least " in reason
    curves = {curve.kind: curve for curve in section.curves}
    assert curves["noise"].levels[2].added_change.high < -0.08
    assert min(level.added_change.value for level in curves["blur"].levels) == 0


def test_equal_candidates_pass_and_every_added_change_is_zero():
    section = examine(Threshold(), Threshold())
    assert section.verdict.status == "pass"
    assert "lowered accuracy as much as in the reference" in section.verdict.texts[0]
    assert sum(len(curve.levels) for curve in section.curves) == 50
    for curve in section.curves:
        for level in curve.levels:
            assert level.added_change.value == 0
            assert level.added_change.low < 0 < level.added_change.high


def test_strengths_4_and_5_are_shown_and_not_judged():
    images, labels, _ = pictures()
    right, wrong = answers(labels >= 0, labels), answers(labels < 0, labels)
    both = scores(right, labels)
    stored = {("noise", s): (right, wrong if s > JUDGED[-1] else right) for s in STRENGTHS}
    section = stress_section(both, both, np.arange(len(images)), stored, margin=0.02)
    assert section.verdict.status == "pass"
    assert section.curves[0].levels[4].added_change.value == -1
    stored["noise", 3] = right, wrong
    section = stress_section(both, both, np.arange(len(images)), stored, margin=0.02)
    assert section.verdict.status == "fail"


def test_loss_that_was_there_before_is_not_added():
    images, labels, _ = pictures()
    reference = answers(labels >= 0, labels)
    candidate = answers(np.arange(len(labels)) >= 30, labels)
    section = stress_section(
        scores(reference, labels),
        scores(candidate, labels),
        np.arange(len(images)),
        {("blur", 2): (reference, candidate)},
        margin=0.02,
    )
    (level,) = section.curves[0].levels
    assert level.change.value == pytest.approx(-0.25)
    assert level.added_change.value == 0
    assert section.verdict.status == "pass"


def test_candidate_that_bears_worse_images_better_passes():
    labels = np.arange(100) % 2
    right, wrong = answers(labels >= 0, labels), answers(labels < 0, labels)
    stored = {("motion", s): (wrong, right) for s in STRENGTHS}
    both = scores(right, labels)
    section = stress_section(both, both, np.arange(100), stored, margin=0.005)
    assert section.curves[0].levels[0].added_change.value == 1
    assert section.verdict.status == "pass"
    assert "by 100.0 points less than in the reference" in section.verdict.texts[0]


@each_seed(range(20))
def test_ends_are_never_inside_tangos(seed):
    labels, units, (_, _, before, after) = random_study(seed)
    right = answers(labels >= 0, labels)
    section = stress_section(
        scores(right, labels, units),
        scores(right, labels, units),
        np.arange(len(labels)),
        {("noise", 1): (answers(before, labels), answers(after, labels))},
        margin=0.02,
    )
    (level,) = section.curves[0].levels
    # nothing was wrong before, so that what is added is the change, whose interval is Tango's
    assert level.added_change.value == pytest.approx(level.change.value, abs=1e-12)
    assert level.added_change.low <= level.change.low + 1e-9
    assert level.added_change.high >= level.change.high - 1e-9


def test_few_images_are_inconclusive_and_say_how_many_would_do():
    labels = np.arange(12) % 2
    reference = answers(labels >= 0, labels)
    both = scores(reference, labels)
    stored = {("jpeg", 1): (reference, reference), ("motion", 1): (reference, reference)}
    verdict = stress_section(both, both, np.arange(12), stored, margin=0.02).verdict
    assert verdict.status == "inconclusive"
    assert (
        "too few images to tell for 2 of 2 disturbances (JPEG compression, motion)"
        in (verdict.texts[0])
    )
    assert verdict.cases_needed is not None
    assert verdict.cases_needed > 12


def test_nothing_judged_is_never_a_pass():
    labels = np.arange(40) % 2
    right = answers(labels >= 0, labels)
    both = scores(right, labels)
    for stored in ({}, {("noise", 5): (right, right)}):
        verdict = stress_section(both, both, np.arange(40), stored, margin=0.02).verdict
        assert verdict.status == "inconclusive"
        assert "cannot pass" in verdict.texts[0]


def random_study(seed, patients=True):
    random = np.random.default_rng(seed)
    n = int(random.integers(40, 160))
    labels = random.integers(0, 2, n)
    units = random.integers(0, n // 3, n) if patients else np.arange(n)
    drawn = [random.random(n) < share for share in random.uniform(0.5, 0.95, 4)]
    return labels, units, drawn


@each_seed(range(20))
def test_figures_are_those_of_numpy_and_scipys_bootstrap(seed):
    labels, units, (before, after, before_worse, after_worse) = random_study(seed, patients=False)
    labels[:] = 0  # one stratum: scipy knows no others
    section = stress_section(
        scores(answers(before, labels), labels, units),
        scores(answers(after, labels), labels, units),
        np.arange(len(labels)),
        {("gamma", 2): (answers(before_worse, labels), answers(after_worse, labels))},
        margin=0.02,
        resamples=4000,
    )
    (level,) = section.curves[0].levels
    assert level.amount == DISTURBANCES["gamma"].amounts[1]
    assert level.reference.value == before_worse.mean()
    assert level.candidate.value == after_worse.mean()
    assert section.undisturbed["reference"].value == before.mean()
    extra = after_worse * 1.0 - before_worse - (after * 1.0 - before)
    assert level.added_change.value == pytest.approx(extra.mean(), abs=1e-12)
    referee = stats.bootstrap(
        (extra,), np.mean, n_resamples=4000, method="percentile", rng=seed
    ).confidence_interval
    # ends of two bootstraps of 4,000: a tenth of a standard error or two, and one image's weight
    tolerance = 0.12 * extra.std() / len(extra) ** 0.5 + 1 / len(extra)
    assert level.added_change.low == pytest.approx(referee.low, abs=tolerance)
    assert level.added_change.high == pytest.approx(referee.high, abs=tolerance)


@pytest.mark.parametrize("seed", range(5))
def test_patients_make_the_interval_wider(seed):
    labels, _, drawn = random_study(seed, patients=False)
    repeated = [np.repeat(answers(right, labels), 4, axis=0) for right in drawn]
    many = np.repeat(labels, 4)

    def width(units):
        section = stress_section(
            scores(repeated[0], many, units),
            scores(repeated[1], many, units),
            np.arange(len(many)),
            {("noise", 1): (repeated[2], repeated[3])},
            margin=0.02,
        )
        added = section.curves[0].levels[0].added_change
        return added.high - added.low, added.method

    alone, grouped = width(np.arange(len(many))), width(np.arange(len(many)) // 4)
    assert grouped[0] == pytest.approx(2 * alone[0], rel=0.15)
    assert (alone[1], grouped[1]) == ("bootstrap", "cluster-bootstrap")


DEGENERATE = {
    "one class": (np.zeros(30, np.int64), np.arange(30)),
    "one unit": (np.arange(30) % 2, np.zeros(30, np.int64)),
    "one image": (np.zeros(1, np.int64), np.zeros(1, np.int64)),
    "two images": (np.arange(2), np.arange(2)),
    "a unit of two classes": (np.arange(30) % 2, np.arange(30) // 2),
}


@pytest.mark.parametrize("name", sorted(DEGENERATE))
@pytest.mark.parametrize("swapped", [False, True])
def test_degenerate_studies_get_wide_finite_intervals(name, swapped):
    labels, units = DEGENERATE[name]
    right, wrong = answers(labels >= 0, labels), answers(labels < 0, labels)
    pair = (right, wrong) if swapped else (right, right)
    section = stress_section(
        scores(right, labels, units),
        scores(right, labels, units),
        np.arange(len(labels)),
        {("noise", s): pair for s in STRENGTHS},
        margin=0.02,
    )
    added = section.curves[0].levels[0].added_change
    assert np.isfinite([added.low, added.value, added.high]).all()
    assert added.value == (-1 if swapped else 0)
    assert added.high > added.value
    assert added.low == -1 if swapped else added.low < 0
    if name in {"one unit", "one image"}:
        assert added.high - added.low > 1
        assert section.verdict.status == "inconclusive"


def test_a_few_differences_are_not_known_better_than_none():
    labels = np.arange(100) % 2
    right = answers(labels >= 0, labels)
    one_gained = answers(np.arange(100) > 0, labels)
    both = scores(right, labels)

    def added(reference):
        stored = {("noise", 1): (reference, right)}
        section = stress_section(both, both, np.arange(100), stored, margin=0.02)
        return section.curves[0].levels[0].added_change

    none, gained = added(right), added(one_gained)
    assert gained.value == 0.01
    assert gained.high - gained.low >= none.high - none.low - 1e-12


def at_the_limit(seed, limit, n=120, levels=9):
    """A study in which every level's true added loss is the limit."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, n)
    right = answers(labels >= 0, labels)
    stored = {}
    for place in range(levels):
        kind, strength = list(DISTURBANCES)[place // 3], 1 + place % 3
        lost = random.random(n) < limit + 0.05
        gained = random.random(n) < 0.05
        reference = answers(~gained, labels)
        stored[kind, strength] = reference, answers(gained | ~lost, labels)
    return scores(right, labels), stored


def test_candidates_at_the_limit_rarely_fail_although_nine_levels_are_looked_at():
    trials, limit = 400, 0.16
    failed = pointwise = 0
    for seed in range(trials):
        both, stored = at_the_limit(seed, limit)
        section = stress_section(
            both, both, np.arange(120), stored, margin=limit / 4, seed=seed, resamples=300
        )
        failed += section.verdict.status == "fail"
        lows = [-level.added_change.high for curve in section.curves for level in curve.levels]
        pointwise += max(lows) >= limit
    # reference gains are lost again half the time, so that the true added loss is a little below
    check_share(failed, trials, at_most=0.025)
    # without the correction the same studies would fail several times as often
    assert pointwise > 3 * max(failed, 1)


def test_answers_that_do_not_belong_together_are_refused():
    labels = np.arange(10) % 2
    right = answers(labels >= 0, labels)
    both, rows = scores(right, labels), np.arange(10)
    other = replace(both, keys=tuple("abcdefghij"))
    broken = np.full((10, 2), np.nan, np.float32)
    for candidate, stored, problem in (
        (other, {}, DataError),
        (both, {("noise", 1): (right[:5], right[:5])}, DataError),
        (both, {("noise", 1): (right, broken)}, DataError),
        (both, {("fog", 1): (right, right)}, InputError),
        (both, {("noise", 9): (right, right)}, InputError),
    ):
        with pytest.raises(problem):
            stress_section(both, candidate, rows, stored, margin=0.02)
    with pytest.raises(DataError):
        stress_section(both, both, np.arange(0), {}, margin=0.02)


def test_disturbed_logits_are_of_the_disturbed_images_however_they_come():
    images, _, keys = pictures(n=70)
    pair = {"a": Threshold(), "b": Threshold(nerves=True)}
    given = disturbed_logits(pair, images, keys, "noise", 4, seed=5)
    taken = disturbed_logits(pair, lambda rows: images[rows], keys, "noise", 4, seed=5)
    worse = disturb(images, keys, "noise", 4, seed=5)
    for name, candidate in pair.items():
        np.testing.assert_array_equal(given[name], candidate.predict(worse))
        np.testing.assert_array_equal(taken[name], given[name])
    assert not np.array_equal(given["a"], given["b"])


@each_seed(range(20))
def test_rows_are_stratified_repeatable_and_spread_over_units(seed):
    random = np.random.default_rng(seed)
    n, k = int(random.integers(150, 900)), int(random.integers(2, 8))
    labels = random.choice(k, n, p=random.dirichlet(np.ones(k)))
    units = random.integers(0, max(n // 3, 1), n)
    most = int(random.integers(20, 140))
    rows = stress_rows(labels, units, most, seed)
    np.testing.assert_array_equal(rows, stress_rows(labels, units, most, seed))
    assert len(np.unique(rows)) == most
    assert (np.diff(rows) > 0).all()
    for label in np.unique(labels):
        mine = labels == label
        quota = int((labels[rows] == label).sum())
        assert 1 <= quota <= mine.sum()
        # the forced one of each rare class is taken from the others' shares
        assert abs(quota - most * mine.mean()) < 1 + k
        # no unit twice before every unit of the class once
        chosen = units[rows][labels[rows] == label]
        assert len(np.unique(chosen)) == min(quota, len(np.unique(units[mine])))
    assert not np.array_equal(rows, stress_rows(labels, units, most, seed + 1))


def test_rows_at_their_limits():
    labels = np.array([0, 0, 0, 1])
    np.testing.assert_array_equal(stress_rows(labels, np.arange(4), 4), np.arange(4))
    assert len(stress_rows(labels[:0], labels[:0])) == 0
    assert 3 in stress_rows(labels, np.arange(4), 2)
    with pytest.raises(InputError, match="at least 2 images"):
        stress_rows(labels, np.arange(4), 1)
