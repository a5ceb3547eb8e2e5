from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as referee
import torch
from scipy import stats
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multilabel_auroc,
    multilabel_exact_match,
    multilabel_hamming_distance,
)

from clinipress.errors import DataError
from clinipress.evidence import gate
from clinipress.evidence.multilabel import (
    check_multilabel,
    multilabel_changes,
    multilabel_evidence,
    sigmoid,
)
from clinipress.records.result import Rule
from clinipress.stats.intervals import resample, unit_index, wilson
from clinipress.stats.paired import tango
from kit.each import each_seed
from kit.tolerances import ROUNDING, check_close, check_share

LABELS = ("effusion", "nodule", "oedema")


def task(seed=0, n=150, k=3, noise=0.6, sure=2.0):
    """Truth bool [n, k], the reference's logits and a candidate's, much like the reference's."""
    random = np.random.default_rng(seed)
    truth = random.random((n, k)) < random.uniform(0.1, 0.6, k)
    truth[0], truth[1] = True, False
    reference = sure * (truth - 0.5) + random.normal(size=(n, k))
    return truth, reference, reference + noise * random.normal(size=(n, k))


def expected_figures(logits, truth, labels) -> dict[str, float]:
    """All figures by scikit-learn and torchmetrics."""
    chances = 1 / (1 + np.exp(-logits))
    called, k = chances >= 0.5, len(labels)
    scores = torch.tensor(logits, dtype=torch.float64)
    known = torch.tensor(truth.astype(np.int64))
    found = {
        "exact_match": float(multilabel_exact_match(scores.sigmoid(), known, k)),
        "hamming_accuracy": 1
        - float(multilabel_hamming_distance(scores.sigmoid(), known, k, average="micro")),
        "auroc_macro": float(multilabel_auroc(scores, known, k)),
        "auroc_micro": referee.roc_auc_score(truth, logits, average="micro"),
    }
    for average in ("macro", "micro"):
        precision, recall, f1, _ = referee.precision_recall_fscore_support(
            truth, called, average=average, zero_division=np.nan
        )
        _, spared, _, _ = referee.precision_recall_fscore_support(
            ~truth, ~called, average=average, zero_division=np.nan
        )
        found |= {
            f"precision_{average}": precision,
            f"sensitivity_{average}": recall,
            f"f1_{average}": f1,
            f"specificity_{average}": spared,
        }
    briers, errors = [], []
    for c, name in enumerate(labels):
        precision, recall, f1, _ = referee.precision_recall_fscore_support(
            truth[:, c], called[:, c], average="binary"
        )
        briers.append(referee.brier_score_loss(truth[:, c], chances[:, c]))
        errors.append(float(binary_calibration_error(scores[:, c].sigmoid(), known[:, c])))
        found |= {
            f"precision[{name}]": precision,
            f"sensitivity[{name}]": recall,
            f"specificity[{name}]": referee.recall_score(~truth[:, c], ~called[:, c]),
            f"f1[{name}]": f1,
            f"auroc[{name}]": referee.roc_auc_score(truth[:, c], logits[:, c]),
            f"brier[{name}]": briers[-1],
            f"ece[{name}]": errors[-1],
        }
    return found | {"brier": np.mean(briers), "ece": np.mean(errors)}


@each_seed(range(20))
def test_values_are_those_of_scikit_learn_and_torchmetrics(seed) -> None:
    truth, reference, candidate = task(seed)
    before, after = (expected_figures(x, truth, LABELS) for x in (reference, candidate))
    found = multilabel_evidence(candidate, truth, LABELS, resamples=20)
    check_close(values(found), after, 1e-7)  # torchmetrics bins in float32
    fall = multilabel_changes(reference, candidate, truth, LABELS, resamples=20)
    check_close(values(fall), {name: after[name] - before[name] for name in before}, 1e-7)
    for interval in (*found.values(), *fall.values()):
        assert -1 <= interval.low <= interval.value <= interval.high <= 1


def values(found) -> dict[str, float]:
    return {name: interval.value for name, interval in found.items()}


@pytest.mark.parametrize("seed", range(3))
def test_the_referee_can_fail(seed) -> None:
    truth, reference, _ = task(seed)
    found = values(multilabel_evidence(reference, truth, LABELS, resamples=5))
    for wrong in (~truth, truth[::-1], np.roll(truth, 1, axis=1)):
        with pytest.raises(AssertionError):
            check_close(found, expected_figures(reference, wrong, LABELS), 1e-7)


def test_intervals_of_single_figures_are_the_textbook_ones() -> None:
    truth, reference, candidate = task(1)
    found = multilabel_evidence(candidate, truth, LABELS, resamples=5)
    fall = multilabel_changes(reference, candidate, truth, LABELS, resamples=5)
    was, now = reference[:, 1] >= 0, candidate[:, 1] >= 0
    ill = truth[:, 1]
    ends = wilson(int((now & ill).sum()), int(ill.sum()))
    one = found["sensitivity[nodule]"]
    assert (one.low, one.high, one.method) == (*ends, "wilson")
    lost, gained = int((was & ~now & ill).sum()), int((~was & now & ill).sum())
    drop = fall["sensitivity[nodule]"]
    assert (drop.low, drop.high) == pytest.approx(tango(gained, lost, ill.sum()), abs=ROUNDING)
    assert fall["auroc[nodule]"].method == found["auroc[nodule]"].method == "delong"
    assert found["hamming_accuracy"].method == "wilson-cluster"
    assert found["f1_macro"].method == "bootstrap"


def few_figures(logits, truth) -> dict[str, float]:
    called = logits >= 0
    return {
        "f1_macro": referee.f1_score(truth, called, average="macro"),
        "auroc_macro": referee.roc_auc_score(truth, logits),
        "brier": ((1 / (1 + np.exp(-logits)) - truth) ** 2).mean(),
        "f1[nodule]": referee.f1_score(truth[:, 1], called[:, 1]),
    }


@pytest.mark.parametrize("units", [None, np.arange(150) // 5], ids=["images", "patients"])
def test_bootstrap_is_that_of_scikit_learn_on_the_repeated_images(units) -> None:
    truth, reference, candidate = task(2)
    index = unit_index(units, 150)
    whole = np.zeros(150, np.int64)
    drawn = [c[index].astype(int) for b in resample(index, whole, 30, 4) for c in b.T]
    without = [(index != unit).astype(int) for unit in range(index.max() + 1)]

    def falls(columns) -> dict[str, np.ndarray]:
        found: dict[str, list[float]] = {}
        for column in columns:
            rows = np.repeat(np.arange(150), column)
            before, after = (few_figures(x[rows], truth[rows]) for x in (reference, candidate))
            for name, value in before.items():
                found.setdefault(name, []).append(after[name] - value)
        return {name: np.array(one) for name, one in found.items()}

    replicates, jackknife = falls(drawn), falls(without)
    fall = multilabel_changes(
        reference, candidate, truth, LABELS, units=units, resamples=30, seed=4
    )
    for name, one in replicates.items():
        m = len(without)
        freedom = min(2 * m / (stats.kurtosis(jackknife[name], fisher=False) - 1), m - 1)
        tail = stats.norm.cdf(stats.t.ppf(0.025, freedom))
        expected = np.quantile(one, [tail, 1 - tail])
        if units is not None:  # few of them: as far out as the jackknife asks
            squares = (jackknife[name] - jackknife[name].mean()) ** 2
            further = 1 + 10 / m * squares.max() / squares.sum()
            error = (further * (m - 1) / m * squares.sum()) ** 0.5
            stretch = max(error / np.std(one), 1)
            expected = fall[name].value + stretch * (expected - fall[name].value)
        assert (fall[name].low, fall[name].high) == pytest.approx(expected, abs=1e-7), name


def test_thresholds_one_or_one_per_label() -> None:
    logits = np.array([[0.0, 2.0], [-0.1, -3.0]])
    truth = np.array([[1, 0], [0, 1]])
    one = check_multilabel(logits, truth, ("a", "b"))
    assert one.called.tolist() == [[True, True], [False, False]]
    two = check_multilabel(logits, truth, ("a", "b"), (0.9, 0.01))
    assert two.called.tolist() == [[False, True], [False, True]]


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0, 0.5, 1]
    assert sigmoid(np.array([1.5])) == pytest.approx(1 / (1 + math.exp(-1.5)), abs=ROUNDING)


ONES = np.ones((12, 2), int)
MIXED = np.arange(48).reshape(24, 2) % 3 == 0  # eight images with each
DEGENERATE = {
    "all right": (6.0 * MIXED - 3, MIXED, None),
    "every image has every label": (np.cos(np.arange(24.0)).reshape(12, 2), ONES, None),
    "no image has any": (np.cos(np.arange(24.0)).reshape(12, 2), 0 * ONES, None),
    "one image": (np.array([[0.3, -0.2]]), np.array([[1, 0]]), None),
    "one label": (np.cos(np.arange(24.0))[:, None], MIXED[:, :1], None),
    "all logits equal": (np.zeros((24, 2)), MIXED, None),
    "one patient": (np.cos(np.arange(48.0)).reshape(24, 2), MIXED, np.zeros(24, int)),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_tasks_have_sane_answers(name) -> None:
    logits, truth, units = DEGENERATE[name]
    labels = LABELS[: truth.shape[1]]
    found = multilabel_evidence(logits, truth, labels, units=units, resamples=30)
    fall = multilabel_changes(logits, logits[::-1], truth, labels, units=units, resamples=30)
    same = multilabel_changes(logits, logits, truth, labels, units=units, resamples=30)
    for interval in (*found.values(), *fall.values(), *same.values()):
        assert all(map(math.isfinite, (interval.low, interval.value, interval.high)))
        assert -1 <= interval.low <= interval.value <= interval.high <= 1
    assert {interval.value for interval in same.values()} == {0.0}
    assert {"exact_match", "hamming_accuracy"} <= set(found) & set(fall) & set(same)
    for family, side in (("sensitivity", truth.any()), ("auroc", truth.any() and not truth.all())):
        assert (f"{family}_micro" in found) == side
    if name == "all right":
        for one in ("sensitivity_macro", "f1_macro", "auroc_macro", "specificity_macro"):
            assert found[one].value == 1
            assert found[one].low < 0.95


@pytest.mark.parametrize(
    ("logits", "truth", "more", "words"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), {}, "truth of 1, 0 and -1"),
        (np.zeros((3, 2)), np.full((3, 2), 2), {}, "truth of 1, 0 and -1"),
        (np.zeros((3, 3)), np.zeros((3, 3)), {}, "logits [n, 2]"),
        (np.zeros((0, 2)), np.zeros((0, 2)), {}, "at least one image"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), {}, "in 3 of 3 rows"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"thresholds": 1.0}, "between 0 and 1"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"thresholds": (0.5,) * 3}, "or 2 of them"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"units": np.zeros(2, int)}, "one unit for each"),
    ],
)
def test_unusable_input_is_refused_in_words(logits, truth, more, words) -> None:
    with pytest.raises(DataError) as caught:
        multilabel_evidence(logits, truth, ("a", "b"), resamples=5, **more)
    assert words in str(caught.value)


def test_the_gate_judges_a_lost_label() -> None:
    truth, reference, _ = task(5, n=900)
    candidate = reference.copy()
    candidate[:, 1] = np.where(truth[:, 1], -1, candidate[:, 1])
    fall = multilabel_changes(reference, candidate, truth, LABELS, resamples=100)
    rules = (
        Rule(metric="auroc_macro", margin=0.5),
        Rule(metric="sensitivity[*]", margin=0.08, primary=False),
    )
    verdict = gate.judge(rules, fall)
    assert verdict.status == "fail"
    assert "Sensitivity for nodule fell" in verdict.texts[1]
    assert gate.judge(
        rules, fall | {"sensitivity[nodule]": fall["sensitivity[oedema]"]}
    ).status == ("pass")


def test_every_figure_has_facts() -> None:
    truth, reference, _ = task(6)
    for name, figure in multilabel_evidence(reference, truth, LABELS, resamples=20).items():
        facts = gate.metric_facts(name)
        assert facts.higher_is_better == (not name.startswith(("brier", "ece"))), name
        assert "_" not in facts.label, name
        assert facts.low <= figure.low <= figure.high <= (facts.high or math.inf), name


def test_bootstrapped_figures_cover() -> None:
    random, trials = np.random.default_rng(0), 300

    def sample(n):
        truth = random.random((n, 3)) < (0.2, 0.4, 0.3)
        reference = 2.2 * (truth - 0.5) + random.normal(size=(n, 3)) - (1.2, 0.4, 0.8)
        return reference, reference + 0.5 * random.normal(size=(n, 3)), truth

    known = multilabel_changes(*sample(100_000), LABELS, resamples=2)
    names = ("f1_macro", "auroc_macro", "brier", "f1[nodule]", "hamming_accuracy", "auroc_micro")
    covered = dict.fromkeys(names, 0)
    for _ in range(trials):
        found = multilabel_changes(*sample(150), LABELS, resamples=150)
        for name in names:
            covered[name] += found[name].low <= known[name].value <= found[name].high
    for hits in covered.values():
        check_share(hits, trials, at_least=0.935)
