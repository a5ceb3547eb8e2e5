"""Multinomial logistic regression in numpy: small, exact, and with nothing to tune."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit_logistic", "logits_of", "standardised"]

RIDGE = 1.0
ITERATIONS = 3000
TOLERANCE = 1e-7


def standardised(
    features: NDArray[np.floating], by: NDArray[np.bool_]
) -> NDArray[np.float64]:
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

    The Hessian of each class is at most ``X'X / 2`` (Boehning, 1992), so one factorised matrix
    gives steps that need no line search; Nesterov momentum with restarts (O'Donoghue and Candes,
    2015) takes them to convergence.

    Args:
        x: float64 ``[n, f + 1]``, the last column all ones.
        labels: int64 ``[n]``.
        classes: Number of classes; one without an example gets a very low logit.

    Returns:
        float64 ``[f + 1, classes]``.
    """
    truth = np.eye(classes)[labels]
    penalty = np.full((x.shape[1], 1), RIDGE)
    penalty[-1] = 1e-9
    inverse = np.linalg.inv(x.T @ x / 2 + np.diag(penalty[:, 0]))
    weights = ahead = np.zeros((x.shape[1], classes))
    speed = 1.0
    for _ in range(ITERATIONS):
        gradient = x.T @ (_softmax(x @ ahead) - truth) + penalty * ahead
        moved = ahead - inverse @ gradient
        step = moved - weights
        if np.abs(step).max() < TOLERANCE:
            return moved
        if (gradient * step).sum() > 0:
            speed = 1.0
        faster = (1 + np.sqrt(1 + 4 * speed**2)) / 2
        ahead = moved + (speed - 1) / faster * step
        weights, speed = moved, faster
    return weights


def logits_of(x: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities: float64 ``[n, classes]``."""
    logits = x @ weights
    return logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - (
        logits.max(1, keepdims=True)
    )


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    normal: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return normal
