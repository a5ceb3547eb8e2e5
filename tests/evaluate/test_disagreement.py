from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest, entropy
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from clinipress.errors import DataError
from clinipress.evidence.disagreement import (
    AGREEMENT,
    _verdict,
    disagreement_section,
    holm,
    mcnemar_by_unit,
)
from clinipress.evidence.gate import MARGINS
from clinipress.records.judgement import Direction, FlipCounts
from clinipress.records.result import Interval
from clinipress.stats.intervals import wilson
from kit.each import each_seed
from kit.planted import (
    accuracy,
    one_class_falls,
    reference,
    rounded,
    swap,
    with_logits,
    wrong_and_right,
)
from kit.tolerances import ROUNDING


def section(before, after, **options):
    return disagreement_section(
        before, after, **{"least_agreement": 0.95, "resamples": 200} | options
    )


@each_seed(range(20))
def test_figures_against_scikit_learn_scipy_and_statsmodels(seed):
    before = reference(seed, n=300, sharp=2.0)
    after = rounded(before, seed, noise=0.9)
    found = section(before, after)
    was, now = before.logits.argmax(1), after.logits.argmax(1)
    assert found.kappa.value == pytest.approx(cohen_kappa_score(was, now), abs=ROUNDING)
    assert found.kappa.low < found.kappa.value < found.kappa.high
    low, high = wilson((was == now).sum(), 300)
    assert (found.agreement.low, found.agreement.high) == pytest.approx((low, high), abs=ROUNDING)
    chances = [
        softmax(s.logits.astype(np.float64) / s.temperature, axis=1) for s in (before, after)
    ]
    assert found.divergence == pytest.approx(entropy(*chances, axis=1).mean(), abs=1e-9)
    right, still = was == before.labels, now == before.labels
    table = [
        [(right & still).sum(), (right & ~still).sum()],
        [(~right & still).sum(), (~right & ~still).sum()],
    ]
    assert (found.lost, found.gained) == (table[0][1], table[1][0])
    assert found.p_value == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert found.lost + found.gained + found.changed == (was != now).sum()
    for number, one in enumerate(found.directions):
        mine = before.labels == number
        assert one.to_negative == ((was == number) & (now != number)).sum()
        assert one.to_positive == ((was != number) & (now == number)).sum()
        assert one.missed == (mine & (was == number) & (now != number)).sum()
        assert one.found == (mine & (was != number) & (now == number)).sum()
        exact = binomtest(one.missed, one.missed + one.found).pvalue
        assert one.p_value == pytest.approx(exact)
    for rows in (found.by_class, found.by_confidence):
        assert sum(one.cases for one in rows) == 300
        assert sum(one.lost for one in rows) == found.lost
        assert sum(one.changed for one in rows) == found.changed
    for column in ("sex", "age", "site"):
        rows = [one for one in found.by_group if one.name.startswith(f"{column}: ")]
        assert sum(one.gained for one in rows) == found.gained


@each_seed(range(20))
def test_holm_against_statsmodels(seed):
    random = np.random.default_rng(seed)
    values = random.random(random.integers(1, 9)) ** 3
    expected = multipletests(values, method="holm")[1]
    np.testing.assert_allclose(holm(values.tolist()), expected, atol=ROUNDING)


def test_a_patient_counts_once():
    before, after = np.ones(12, bool), np.ones(12, bool)
    after[:6] = False
    alone, patients = np.arange(12), np.repeat([0, 1, 2], [6, 3, 3])
    expected = pytest.approx(binomtest(0, 6).pvalue, rel=1e-12)
    assert mcnemar_by_unit(before, after, alone) == expected
    assert mcnemar_by_unit(before, after, patients) == pytest.approx(1)  # one patient lost
    # as many lost as gained in one patient: it says nothing
    assert mcnemar_by_unit(np.array([True, False]), np.array([False, True]), np.zeros(2, int)) == 1
    assert mcnemar_by_unit(before[:0], after[:0], alone[:0]) == 1


def test_the_worst_flips_come_first():
    before = reference(0, n=600, sharp=2.0)
    after = rounded(before, noise=1.5)
    found = section(before, after, flips=1000).flips
    assert len(found) == (before.logits.argmax(1) != after.logits.argmax(1)).sum()
    order = ["lost", "changed", "gained"]
    assert [one.kind for one in found] == sorted((o.kind for o in found), key=order.index)
    for kind in order:
        sure = [o.confidence_before * o.confidence_after for o in found if o.kind == kind]
        assert sure == sorted(sure, reverse=True)
    for one in found:
        assert (one.before == one.truth) == (one.kind == "lost")
        assert (one.after == one.truth) == (one.kind == "gained")
        assert one.before != one.after
        assert set(one.groups) == {"sex", "age", "site"}
        assert one.groups["age"] in {"0-39", "40-59", "60-79", "80+"}  # never the very age
    assert section(before, after, flips=5).flips == found[:5]


def test_one_of_anything_is_told_in_the_singular():
    before = reference(n=200)
    right, _ = wrong_and_right(before, np.ones(200, bool))
    told = section(before, swap(before, right[:1], (before.labels[right[0]] + 1) % 3))
    said = " ".join(told.verdict.texts)
    assert "1 answer changed: 1 from right to wrong" in said
    assert "1 image is newly missed and 0 newly found" in said
    alone = reference(n=1)
    assert (
        section(alone, with_logits(alone, alone.logits + 1e-3))
        .verdict.texts[0]
        .startswith(
            "The two models give the same answer in 100.0% (95% CI 20.7\u2013100.0) of 1 image;"
        )
    )


def test_names_of_patients_stay_out_of_the_list():
    scores = replace(reference(n=60), groups={"name": tuple(f"patient {i}" for i in range(60))})
    flips = section(scores, rounded(scores, noise=3.0)).flips
    assert flips
    assert all(one.groups == {} for one in flips)


def test_the_same_answers():
    scores = reference(n=400)
    same = with_logits(scores, scores.logits * 1.0001)  # in every answer, not in every digit
    found = section(scores, same, least_agreement=0.98)
    assert (found.flips, found.p_value) == ((), 1)
    assert found.divergence < 1e-7
    assert found.kappa.value == 1
    assert found.kappa.low < 1  # four hundred images do not prove that none ever flips
    assert found.verdict.status == "pass"
    assert "No image of a class is newly missed." in found.verdict.texts


def nearly(scores):
    return with_logits(scores, scores.logits * 1.0001)


def test_degenerate_splits():
    scores = reference(n=60)
    constant = with_logits(scores, np.tile([5.0, 0, 0], (60, 1)))
    found = section(constant, replace(constant))
    assert found.kappa is None  # all agreement is chance
    assert found.agreement.value == 1
    single = reference(n=1)
    assert section(single, nearly(single)).verdict.status == "inconclusive"
    one_class = replace(scores, labels=np.zeros(60, np.int64))
    assert len(section(one_class, rounded(one_class)).by_class) == 1
    patient = replace(scores, units=np.full(60, 9))
    assert section(patient, nearly(patient)).verdict.status == "inconclusive"
    opposite = with_logits(scores, -scores.logits)
    found = section(scores, opposite)
    assert found.verdict.status == "fail"
    assert found.agreement.high < 0.2
    sure = with_logits(scores, 800 * scores.logits)  # probabilities of 0 and 1
    assert np.isfinite(section(sure, replace(sure, logits=-sure.logits)).divergence)
    with pytest.raises(DataError):
        section(scores, reference(n=61))


def test_flips_that_cancel_out_in_accuracy_are_caught():
    """Judgements newly missed, as many of the others newly right: agreement is high enough."""
    before = reference(0, n=2000, classes=("healthy", "ill"), sharp=1.8)
    before = replace(before, positive="ill")
    ill = before.labels == 1
    right, _ = wrong_and_right(before, ill)
    _, wrong = wrong_and_right(before, ~ill)
    lost, gained = right[:25], wrong[:25]
    after = swap(swap(before, lost, 0), gained, 0)
    assert accuracy(after) == accuracy(before)
    found = section(before, after)
    assert found.agreement.low > 0.95
    assert found.p_value == 1
    assert found.verdict.status == "fail"
    assert "biased towards new misses of ill: 25 newly missed, 0 newly found" in " ".join(
        found.verdict.texts
    )
    # the other way about, more findings are found: that is no miss
    _, mistaken = wrong_and_right(before, ill)
    fine, _ = wrong_and_right(before, ~ill)
    better = swap(swap(before, mistaken[:25], 1), fine[:25], 1)
    assert section(before, better).verdict.status == "pass"


def test_a_lean_is_told_from_an_agreement_that_is_merely_open():
    agreement = Interval(value=0.95, low=0.85, high=0.99)
    lean = Direction(label="a", to_negative=14, to_positive=1, missed=14, found=1, p_value=0.001)
    counts = FlipCounts(name="all", cases=60, agreement=agreement, lost=14, gained=1, changed=0)
    verdict = _verdict(counts, [lean], 0.95)
    assert verdict.status == "fail"
    assert [reason.status for reason in verdict.reasons] == ["inconclusive", None, "fail"]
    assert [text.partition(" of ")[0] for text in verdict.deciding] == [
        "Flips are biased towards new misses"
    ]


def test_a_class_that_falls_is_caught():
    before = reference(0)
    found = section(before, one_class_falls(before), least_agreement=0.5)
    assert found.verdict.status == "fail"
    assert "biased towards new misses of effusion" in " ".join(found.verdict.texts)


def test_low_agreement_fails_and_few_cases_leave_it_open():
    before = reference(0)
    noisy = rounded(before, noise=2.0)
    found = section(before, noisy)
    assert found.verdict.status == "fail"
    assert "the whole interval is below it" in found.verdict.texts[0]
    few = reference(0, n=60)
    assert section(few, rounded(few, noise=0.01)).verdict.status == "inconclusive"


@pytest.mark.parametrize("seed", range(4))
def test_an_honest_candidate_passes(seed):
    before = reference(seed)
    assert section(before, rounded(before, seed)).verdict.status == "pass"


def test_leaning_is_seldom_shown_where_there_is_none():
    failed = 0
    for seed in range(60):
        # both are as noisy: neither is the better one
        root = reference(seed, n=300, sharp=1.5)
        before, after = (rounded(root, seed + more, noise=1.0) for more in (0, 1000))
        found = section(before, after, least_agreement=0.1, resamples=1)
        failed += found.verdict.status == "fail"
    assert failed <= 6


def test_every_risk_level_has_its_agreement():
    assert set(AGREEMENT) == set(MARGINS)
    assert AGREEMENT["medium"] == 0.95  # the guide's own
    rising = [AGREEMENT[risk] for risk in ("low", "medium", "high", "critical")]
    assert rising == sorted(set(rising))
