"""Multinomial logistic regression in numpy: small, exact, and with nothing to tune."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinipress.stats.metrics import log_softmax

__all__ = ["fit_logistic", "standardised"]

RIDGE = 1.0
STEPS = 50
SMALLEST_SHARE = 1e-6
TOLERANCE = 1e-8


def standardised(features: NDArray[np.floating], by: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Columns of mean 0 and deviation 1 over the rows `by`, and a last column of ones.

    Args:
        features: float ``[n, f]``.
        by: bool ``[n]``: the training rows. A column that is constant there becomes 0.

    Returns:
        float64 ``[n, f + 1]``.
    """
    x = features.astype(np.float64)
    deviation = x[by].std(axis=0)
    x = np.where(deviation > 1e-9, (x - x[by].mean(axis=0)) / np.maximum(deviation, 1e-9), 0.0)
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def fit_logistic(
    x: NDArray[np.float64], labels: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    """Weights that minimise cross-entropy plus half the squared weights (not the last column's).

    Newton's method on the full Hessian, the step halved while it does not lower the loss; the
    problem is convex, so it ends at the one minimum, in about eight steps.

    Args:
        x: float64 ``[n, f + 1]``, the last column all ones.
        labels: int64 ``[n]``.
        classes: Number of classes.

    Returns:
        float64 ``[f + 1, classes]``.
    """
    truth = np.eye(classes)[labels]
    penalty = np.full((x.shape[1], 1), RIDGE)
    # a constant added to all classes changes nothing; a trace of penalty keeps the Hessian regular
    penalty[-1] = 1e-6
    weights = np.zeros((x.shape[1], classes))
    loss = _loss(x, truth, weights, penalty)
    for _ in range(STEPS):
        chance = np.exp(log_softmax(x @ weights))
        gradient = x.T @ (chance - truth) + penalty * weights
        step = np.linalg.solve(_hessian(x, chance, penalty), gradient.T.ravel())
        direction = step.reshape(classes, -1).T
        share = 1.0
        while share > SMALLEST_SHARE:
            lower = _loss(x, truth, weights - share * direction, penalty)
            if lower < loss:
                break
            share /= 2
        else:
            return weights
        weights, loss = weights - share * direction, lower
        if np.abs(direction).max() < TOLERANCE:
            return weights
    return weights


def _loss(
    x: NDArray[np.float64],
    truth: NDArray[np.float64],
    weights: NDArray[np.float64],
    penalty: NDArray[np.float64],
) -> float:
    fit = -(truth * log_softmax(x @ weights)).sum()
    return float(fit + (penalty * weights**2).sum() / 2)


def _hessian(
    x: NDArray[np.float64], chance: NDArray[np.float64], penalty: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Second derivatives, class by class: float64 ``[classes (f + 1), classes (f + 1)]``."""
    width, classes = x.shape[1], chance.shape[1]
    result = np.empty((classes, width, classes, width))
    for a in range(classes):
        for b in range(a, classes):
            weight = chance[:, a] * (float(a == b) - chance[:, b])
            block = x.T @ (weight[:, None] * x)
            result[a, :, b] = result[b, :, a] = block
        result[a, :, a] += np.diag(penalty[:, 0])
    return result.reshape(classes * width, classes * width)
