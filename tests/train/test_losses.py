"""Losses against numpy in float64, written from the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clinipress.train.losses import HardLoss, balanced_weights, cross_entropy, distillation

RANDOM = np.random.default_rng(5)
LOGITS, TEACHER = RANDOM.normal(0, 3, (7, 4)), RANDOM.normal(0, 3, (7, 4))
LABELS = RANDOM.integers(0, 4, 7)
WEIGHTS = np.array([0.5, 1.0, 2.0, 0.25])


def log_softmax(x):
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def hard(smoothing=0.0, weights=None):
    weights = np.ones(4) if weights is None else weights
    target = (1 - smoothing) * np.eye(4)[LABELS] + smoothing / 4
    return -(target * weights * log_softmax(LOGITS)).sum(1).mean()


def tensors(*arrays):
    return [torch.from_numpy(a) for a in arrays]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_by_hand(smoothing, weights):
    logits, labels = tensors(LOGITS, LABELS)
    given = None if weights is None else torch.from_numpy(weights)
    found = float(cross_entropy(logits, labels, smoothing, given))
    assert found == pytest.approx(hard(smoothing, weights), rel=1e-12)


def test_unweighted_cross_entropy_is_torchs():
    logits, labels = tensors(LOGITS, LABELS)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(cross_entropy(logits, labels, 0.2), expected, rtol=0, atol=1e-12)


def test_weighted_mean_of_parts_is_the_mean_of_the_whole():
    logits, labels, weights = tensors(LOGITS, LABELS, WEIGHTS)
    whole = cross_entropy(logits, labels, 0.1, weights)
    a = cross_entropy(logits[:3], labels[:3], 0.1, weights)
    b = cross_entropy(logits[3:], labels[3:], 0.1, weights)
    torch.testing.assert_close((3 * a + 4 * b) / 7, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.5), (4.0, 0.7), (4.0, 1.0)])
def test_distillation_by_hand(temperature, alpha):
    p = np.exp(log_softmax(TEACHER / temperature))
    q = log_softmax(LOGITS / temperature)
    kl = (p * (np.log(p) - q)).sum(1).mean()
    expected = alpha * temperature**2 * kl + (1 - alpha) * hard(0.1)
    logits, labels, teacher = tensors(LOGITS, LABELS, TEACHER)
    found = float(distillation(logits, labels, teacher, temperature, alpha, 0.1))
    assert found == pytest.approx(expected, rel=1e-12)


def test_distillation_with_alpha_zero_is_cross_entropy():
    logits, labels, teacher = tensors(LOGITS, LABELS, TEACHER)
    assert torch.equal(
        distillation(logits, labels, teacher * float("nan"), 4.0, 0.0, 0.1),
        cross_entropy(logits, labels, 0.1),
    )


def test_soft_part_vanishes_with_its_gradient_at_the_teacher():
    logits, labels = tensors(LOGITS, LABELS)
    logits.requires_grad_()
    loss = distillation(logits, labels, logits.detach().clone(), 3.0, 1.0)
    loss.backward()
    assert abs(float(loss.detach())) < 1e-12
    assert float(logits.grad.abs().max()) < 1e-12


def test_balanced_weights_average_one_over_images():
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weights = balanced_weights(labels, 5).numpy()
    assert weights[[2, 4]].tolist() == [0, 0]
    assert weights[labels].mean() == pytest.approx(1, rel=1e-6)
    assert weights[1] / weights[0] == pytest.approx(2)
    assert weights[3] / weights[0] == pytest.approx(6)


def test_hard_loss_balances_by_the_training_labels():
    logits, labels = tensors(LOGITS.astype(np.float32), LABELS)
    train = np.array([0, 0, 0, 1, 2, 3])
    found = HardLoss(0.1, train)(logits, labels, np.arange(7), 0)
    assert torch.equal(found, cross_entropy(logits, labels, 0.1, balanced_weights(train, 4)))
    assert torch.equal(
        HardLoss(0.1)(logits, labels, np.arange(7), 0), cross_entropy(logits, labels, 0.1)
    )
