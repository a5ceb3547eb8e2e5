import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import roc_curve

from clinipress.evaluate.calibration import (
    fit_temperature,
    operating_points,
    uncertain_threshold,
)


def make(n=400, k=4, sharp=3.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)).astype(np.float32) * 2
    labels = np.array([rng.choice(k, p=softmax(row)) for row in logits])
    return logits * sharp, labels


@pytest.mark.parametrize("seed", range(5))
def test_temperature_against_scipy(seed):
    logits, labels = make(seed=seed, sharp=0.5 + seed)

    def loss(log_t):
        return -log_softmax(logits.astype(np.float64) / np.exp(log_t), axis=1)[
            np.arange(len(labels)), labels
        ].mean()

    best = np.exp(
        minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8}).x
    )
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=1e-4)


def test_temperature_stays_in_its_range_when_every_answer_is_right():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2] * 5] * 10
    assert fit_temperature(logits, np.array([0, 1, 2] * 5)) == pytest.approx(0.25, rel=1e-3)


def test_threshold_reaches_its_aim():
    logits, labels = make(sharp=1.0, n=2000)
    threshold = uncertain_threshold(logits, labels, aim=0.8)
    top = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    sure = top >= threshold - 1e-12
    assert sure.mean() >= 0.7 - 1e-9
    right = logits.argmax(1) == labels
    assert right[sure].mean() > right.mean()


def test_no_threshold_where_none_is_needed():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2]] * 10
    assert uncertain_threshold(logits, np.array([0, 1, 2])) is None


# ------------------------------------------------------------------ operating points


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_are_those_of_the_roc_curve(seed):
    """Referee: scikit-learn's curve over the same probabilities."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, 200)
    logits = random.normal(size=(200, 3)) + 1.5 * np.eye(3)[labels]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    points = operating_points(shares, labels, ("a", "b", "c"))
    assert [(p.label, p.aim) for p in points] == [
        (name, aim) for name in "abc" for aim in ("sensitivity 0.95", "specificity 0.95")
    ]
    for number in range(3):
        false, true, _ = roc_curve(labels == number, shares[:, number], drop_intermediate=False)
        sensitive, specific = points[2 * number : 2 * number + 2]
        assert sensitive.sensitivity.value >= 0.95
        assert sensitive.specificity.value == pytest.approx(1 - false[true >= 0.95].min())
        assert specific.specificity.value >= 0.95
        assert specific.sensitivity.value == pytest.approx(true[false <= 0.05].max())


def test_ties_and_missing_classes_keep_their_word():
    shares = np.array([[1.0, 0.0]] * 10 + [[0.0, 1.0]] * 10)
    labels = np.repeat([0, 1], 10)
    for point in operating_points(shares, labels, ("a", "b")):
        assert point.threshold <= 1
        assert point.sensitivity.value == 1
        assert point.specificity.value == 1
    assert operating_points(shares, np.zeros(20, int), ("a", "b")) == ()
    flat = np.full((20, 2), 0.5)
    sensitive = operating_points(flat, labels, ("a", "b"))[0]
    assert (sensitive.sensitivity.value, sensitive.specificity.value) == (1, 0)
