from __future__ import annotations

import json
import math
from functools import cache

import numpy as np
import pytest
import sklearn.metrics as referee
from scipy import stats

from clinipress.errors import DataError
from clinipress.evidence.evidence import changes, discordance, evidence
from clinipress.evidence.gate import judge
from clinipress.records.metrics import metric_facts
from clinipress.records.result import Interval, Rule
from clinipress.stats.intervals import resample, unit_index
from clinipress.stats.metrics import point_metrics
from kit.tolerances import ROUNDING, check_close, check_share

CLASSES = ("glioma", "meningioma", "normal")
BOUNDED = ("accuracy", "sensitivity", "precision", "f1", "auroc", "balanced", "agreement")


def task(seed=0, n=120, classes=CLASSES, noise=0.5, sure=2.0):
    """Labels, the reference's logits and a candidate's, much like the reference's."""
    random, k = np.random.default_rng(seed), len(classes)
    labels = np.concatenate([np.arange(k), random.integers(0, k, n - k)])
    reference = random.normal(size=(n, k)) + sure * np.eye(k)[labels]
    return labels, reference, reference + noise * random.normal(size=(n, k))


def check_usable(found: dict[str, Interval]) -> None:
    """Finite, ordered, within the metric's bounds, and JSON holds it."""
    assert found
    for name, interval in found.items():
        assert all(map(math.isfinite, (interval.low, interval.value, interval.high))), name
        assert interval.low <= interval.value <= interval.high, name
        if name.startswith(BOUNDED):
            assert interval.low >= -1, name
            assert interval.high <= 1 + 1e-12, name
    json.loads(json.dumps({k: v.model_dump() for k, v in found.items()}, allow_nan=False))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("classes", [CLASSES, ("healthy", "ill")])
def test_values_are_those_of_the_point_metrics(seed, classes) -> None:
    labels, reference, candidate = task(seed, classes=classes)
    before, after = (point_metrics(x, labels, classes) for x in (reference, candidate))
    found = evidence(candidate, labels, classes, resamples=20)
    check_usable(found)
    expected = after if len(classes) > 2 else without_class_areas(after)
    check_close({k: v.value for k, v in found.items()}, expected, ROUNDING)
    fall = changes(reference, candidate, labels, classes, resamples=20)
    check_usable(fall)
    for name, interval in fall.items():
        assert interval.value == pytest.approx(after[name] - before[name], abs=ROUNDING)
    # precision and F1 of a class may lack width at so few resamples; nothing else may be missing
    assert {"accuracy", "balanced_accuracy", "auroc_macro", "f1_macro", "log_loss"} <= set(fall)


def without_class_areas(found):
    return {name: value for name, value in found.items() if not name.startswith("auroc[")}


def score_by_sklearn(logits, labels, rows) -> dict[str, float]:
    truth, called = labels[rows], logits[rows].argmax(axis=1)
    chances = np.exp(logits[rows])
    chances = chances / chances.sum(axis=1, keepdims=True)
    _, _, f1, _ = referee.precision_recall_fscore_support(
        truth, called, labels=[0, 1, 2], zero_division=0
    )
    return {
        "balanced_accuracy": referee.balanced_accuracy_score(truth, called),
        "f1_macro": f1.mean(),
        "kappa": referee.cohen_kappa_score(truth, called),
        "auroc_macro": referee.roc_auc_score(truth, chances, multi_class="ovr"),
        "log_loss": referee.log_loss(truth, chances),
        "f1[glioma]": f1[0],
    }


def changes_by_sklearn(reference, candidate, labels, columns) -> dict[str, np.ndarray]:
    """Changes of each metric with each case counted as often as each column says."""
    found: dict[str, list[float]] = {}
    for column in columns:
        rows = np.repeat(np.arange(len(labels)), column)
        before, after = (score_by_sklearn(x, labels, rows) for x in (reference, candidate))
        for name, value in before.items():
            found.setdefault(name, []).append(after[name] - value)
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("units", [None, np.repeat(np.arange(24), 5)], ids=["images", "patients"])
def test_bootstrap_is_that_of_scikit_learn_on_the_repeated_cases(units) -> None:
    labels, reference, candidate = task(3)
    index, resamples = unit_index(units, 120), 25
    drawn = [c[index].astype(int) for b in resample(index, labels, resamples, 8) for c in b.T]
    without = [(index != unit).astype(int) for unit in range(index.max() + 1)]
    replicates, jackknife = (
        changes_by_sklearn(reference, candidate, labels, columns) for columns in (drawn, without)
    )
    found = changes(reference, candidate, labels, CLASSES, units=units, resamples=resamples, seed=8)
    assert len(replicates["kappa"]) == resamples
    for name, values in replicates.items():
        m = len(without)
        freedom = min(2 * m / (stats.kurtosis(jackknife[name], fisher=False) - 1), m - 1)
        tail = stats.norm.cdf(stats.t.ppf(0.025, freedom))
        assert 0.005 < tail < 0.0249
        ends = np.quantile(values, [tail, 1 - tail])
        expected = further_out(found[name].value, ends, values, jackknife[name], units)
        interval = found[name]
        if name in ("log_loss", "auroc_macro"):
            assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-9), name
        # a figure of counts is no surer than if no answer had changed
        assert interval.low < expected[0] + 1e-9, name
        assert interval.high > expected[1] - 1e-9, name
        if units is None and name == "f1_macro":
            sizes = [((labels == c).sum() + (reference.argmax(1) == c).sum()) / 2 for c in range(3)]
            n, z2 = 9 / sum(1 / size for size in sizes), stats.norm.ppf(0.975) ** 2
            half = max(interval.value - expected[0], z2 / (n + z2))
            assert interval.value - interval.low == pytest.approx(half, abs=1e-9)


def further_out(value, ends, drawn, without, units) -> np.ndarray:
    """Where units hold several cases: as far out as the jackknife, with a further unit, asks."""
    if units is None:
        return ends
    squares, m = (without - without.mean()) ** 2, len(without)
    further = 1 + 10 / m * squares.max() / squares.sum()
    error = (further * (m - 1) / m * squares.sum()) ** 0.5
    return value + max(error / np.std(drawn), 1) * (ends - value)


def test_same_seed_same_interval_and_another_seed_another() -> None:
    labels, reference, candidate = task(1)
    first, again, other = (
        changes(reference, candidate, labels, CLASSES, resamples=200, seed=s) for s in (1, 1, 2)
    )
    assert first == again
    assert first["auroc_macro"] != other["auroc_macro"]
    assert first["accuracy"] == other["accuracy"]


def test_f_identical_classifiers_have_no_change_and_others_are_not_certain() -> None:
    labels, reference, _ = task(2, n=300)
    found = changes(reference, reference.copy(), labels, CLASSES, resamples=100)
    assert {(x.value, x.low, x.high, x.method) for x in found.values()} == {(0, 0, 0, "identical")}
    # the same answers, but not the same model
    found = changes(reference, reference * 1.0001, labels, CLASSES, resamples=100)
    for name in ("accuracy", "balanced_accuracy", "sensitivity[glioma]", "f1_macro", "kappa"):
        assert found[name].value == 0
        assert found[name].low < 0 < found[name].high, name


def test_exchanging_the_two_turns_the_sign() -> None:
    labels, reference, candidate = task(4)
    there = changes(reference, candidate, labels, CLASSES, resamples=100)
    back = changes(candidate, reference, labels, CLASSES, resamples=100)
    for name in ("accuracy", "sensitivity[normal]", "auroc_macro", "f1_macro", "log_loss"):
        turned = (-back[name].high, -back[name].value, -back[name].low)
        mine = (there[name].low, there[name].value, there[name].high)
        assert mine == pytest.approx(turned, abs=ROUNDING), name


def test_a_worse_candidate_has_a_negative_change_and_a_positive_one_of_log_loss() -> None:
    labels, reference, candidate = task(5, n=600, noise=2.0)
    found = changes(reference, candidate, labels, CLASSES, resamples=200)
    for name in ("accuracy", "balanced_accuracy", "auroc_macro", "f1_macro", "kappa"):
        assert found[name].high < 0, name
    assert found["log_loss"].low > 0


def test_pairing_is_narrower_than_two_intervals() -> None:
    labels, reference, candidate = task(6, n=500, noise=0.2)
    paired = changes(reference, candidate, labels, CLASSES, resamples=300)
    apart = evidence(reference, labels, CLASSES, resamples=300)
    for name in ("accuracy", "balanced_accuracy", "auroc_macro", "f1_macro"):
        width = paired[name].high - paired[name].low
        assert width < 0.7 * (apart[name].high - apart[name].low), name


def test_copies_in_one_unit_add_nothing() -> None:
    labels, reference, candidate = task(7, n=200)
    copies = np.repeat(np.arange(200), 4)
    single = changes(reference, candidate, labels, CLASSES, resamples=300)
    united = changes(
        reference[copies], candidate[copies], labels[copies], CLASSES, units=copies, resamples=300
    )
    blind = changes(reference[copies], candidate[copies], labels[copies], CLASSES, resamples=300)
    for name in ("accuracy", "balanced_accuracy", "auroc_macro", "log_loss"):
        width, with_units, without = (x[name].high - x[name].low for x in (single, united, blind))
        # the shrinkage and t cost the proportions a little; the bootstrap draws the same units
        assert width * 0.99 <= with_units <= width * 1.1, name
        assert without == pytest.approx(width / 2, rel=0.2), name
        assert united[name].value == pytest.approx(single[name].value, abs=ROUNDING)


def test_methods_are_named() -> None:
    labels, reference, candidate = task(8)
    units = np.repeat(np.arange(60), 2)
    alone = evidence(reference, labels, CLASSES, resamples=30)
    assert (alone["accuracy"].method, alone["kappa"].method) == ("wilson", "bootstrap")
    fall = changes(reference, candidate, labels, CLASSES, units=units, resamples=30)
    assert fall["accuracy"].method == "tango-cluster"
    assert fall["kappa"].method == "cluster-bootstrap"
    assert fall["accuracy"].n == 120
    assert fall["sensitivity[glioma]"].n == (labels == 0).sum()


def test_agreement_with_the_reference() -> None:
    labels, reference, candidate = task(9)
    found = evidence(candidate, labels, CLASSES, reference=reference, resamples=20)
    same = (reference.argmax(axis=1) == candidate.argmax(axis=1)).mean()
    assert found["agreement"].value == same
    assert "agreement" not in evidence(candidate, labels, CLASSES, resamples=20)


def test_two_classes_have_sensitivity_and_specificity_of_the_finding() -> None:
    labels, reference, candidate = task(10, classes=("ill", "well"))
    for found in (
        evidence(reference, labels, ("ill", "well"), positive="ill", resamples=20),
        changes(reference, candidate, labels, ("ill", "well"), positive="ill", resamples=20),
    ):
        assert found["sensitivity"] == found["sensitivity[ill]"]
        assert found["specificity"] == found["sensitivity[well]"]


def test_no_error_at_all_still_has_width() -> None:
    labels = np.repeat([0, 1, 2], 20)
    found = evidence(9.0 * np.eye(3)[labels], labels, CLASSES, resamples=50)
    check_usable(found)
    for name in ("accuracy", "balanced_accuracy", "auroc_macro", "f1_macro", "kappa", "f1[normal]"):
        assert found[name].value == found[name].high == 1
        assert 0.7 < found[name].low < 0.95, name
    assert found["balanced_accuracy"].method == "score intervals of the parts"


@pytest.mark.parametrize(
    ("labels", "absent"),
    [
        ([0, 0, 1, 1, 1, 0], ["sensitivity[normal]", "auroc[normal]", "f1[normal]"]),
        ([2, 2, 2, 2, 2, 2], ["auroc_macro", "auroc[normal]", "kappa", "sensitivity[glioma]"]),
        ([1], ["auroc_macro", "log_loss", "sensitivity[glioma]"]),
    ],
    ids=["a class without a case", "one class only", "one case"],
)
def test_what_is_undefined_is_absent(labels, absent) -> None:
    truth = np.array(labels)
    logits = np.eye(3)[truth] * [[1.0, 2.0, 3.0]] + 0.1 * truth[:, None]
    found = evidence(logits, truth, CLASSES, resamples=50)
    fall = changes(logits, np.roll(logits, 1, axis=1), truth, CLASSES, resamples=50)
    for measured in (found, fall):
        check_usable(measured)
        assert not set(absent) & set(measured)
        assert "accuracy" in measured
    points = point_metrics(logits, truth, CLASSES)
    check_close({k: v.value for k, v in found.items()}, {k: points[k] for k in found}, ROUNDING)


def test_a_class_never_predicted_has_no_precision() -> None:
    labels, reference, _ = task(11)
    logits = reference - [0, 0, 30]
    found = evidence(logits, labels, CLASSES, resamples=50)
    check_usable(found)
    assert "precision[normal]" not in found
    assert found["sensitivity[normal]"].value == found["f1[normal]"].value == 0
    assert "precision[normal]" not in changes(reference, logits, labels, CLASSES, resamples=50)


def test_one_patient_proves_nothing() -> None:
    labels, reference, candidate = task(12, n=200, noise=2.0)
    units = np.zeros(200, np.int64)
    fall = changes(reference, candidate, labels, CLASSES, units=units, resamples=50)
    check_usable(fall)
    assert fall["accuracy"].high - fall["accuracy"].low > 1
    assert fall["f1_macro"].high - fall["f1_macro"].low > 1
    assert "brier" not in fall
    found = evidence(candidate, labels, CLASSES, units=units, resamples=50)
    check_usable(found)
    assert found["accuracy"].high - found["accuracy"].low > 0.6
    assert "log_loss" not in found


def patients(random, number, size):
    """Logits of both, labels and units; images of a patient share a third of their noise."""
    units = np.repeat(np.arange(number), size)
    labels = random.integers(0, 3, number)[units]

    def noise() -> np.ndarray:
        own, shared = random.normal(size=(2, len(units), 3))
        return own if size == 1 else (2 / 3) ** 0.5 * own + (1 / 3) ** 0.5 * shared[units]

    reference = noise() + 1.8 * np.eye(3)[labels]
    return reference, reference + 0.7 * noise(), labels, units


@cache
def truth() -> dict[str, Interval]:
    """The changes in so many images that what is left of chance is a twentieth of an interval."""
    return changes(*patients(np.random.default_rng(99), 100_000, 1)[:3], CLASSES, resamples=2)


def simulate(number, size, trials, forget=False) -> dict[str, tuple[int, int]]:
    """Per change: how many studies' intervals hold the truth, and how many pass at the margin."""
    random = np.random.default_rng(size)
    large = truth()
    names = (
        *("accuracy", "balanced_accuracy", "auroc_macro", "f1_macro", "precision[glioma]"),
        *("sensitivity[normal]", "auroc[normal]", "log_loss", "ece"),
    )
    held, passed = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for _ in range(trials):
        reference, candidate, labels, units = patients(random, number, size)
        units = None if forget else units
        found = changes(reference, candidate, labels, CLASSES, units=units, resamples=200)
        for name in names:
            margin = large[name].value
            held[name] += found[name].low <= margin <= found[name].high
            loss = -1 if metric_facts(name).higher_is_better else 1
            rule = Rule(metric=name, margin=loss * margin)
            passed[name] += judge((rule,), found).status == "pass"
    return {name: (held[name], passed[name]) for name in names}


@pytest.mark.parametrize(
    ("number", "size"),
    [
        pytest.param(240, 1, id="images", marks=pytest.mark.nightly),
        pytest.param(80, 4, id="patients"),
    ],
)
def test_changes_cover_and_seldom_pass_at_the_margin(number, size) -> None:
    trials = 300
    for held, passed in simulate(number, size, trials).values():
        check_share(held, trials, at_least=0.935)
        check_share(passed, trials, at_most=0.055)


def test_forgetting_the_patients_is_seen_by_the_simulation() -> None:
    found = simulate(40, 12, 300, forget=True)
    for name in ("balanced_accuracy", "auroc_macro", "log_loss"):
        with pytest.raises(AssertionError):
            check_share(found[name][0], 300, at_least=0.935)


def test_units_must_fit_the_cases() -> None:
    labels, reference, _ = task(13)
    with pytest.raises(DataError, match="one unit for each of the 120 cases"):
        evidence(reference, labels, CLASSES, units=np.zeros(3, int))


def test_discordance_is_offered_beside_the_drops() -> None:
    labels, reference, candidate = task(14)
    right, still = (x.argmax(axis=1) == labels for x in (reference, candidate))
    assert discordance(reference, candidate, labels)["accuracy"] == (right != still).mean()


def test_the_checker_of_intervals_can_fail() -> None:
    good = Interval(value=0.5, low=0.4, high=0.6)
    check_usable({"accuracy": good})
    for update in ({"low": 0.55}, {"high": math.nan}, {"high": math.inf}, {"high": 1.2}):
        with pytest.raises(AssertionError):
            check_usable({"accuracy": good.model_copy(update=update)})
    with pytest.raises(AssertionError):
        check_usable({})
