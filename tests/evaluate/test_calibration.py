import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from clinipress.evaluate.calibration import fit_temperature, uncertain_threshold


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
