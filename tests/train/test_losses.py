"""Losses against numpy in float64, written from the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clinipress.errors import RecipeError
from clinipress.train.losses import (
    MOST_WEIGHT,
    HardLoss,
    balanced_weights,
    binary_soft_targets,
    cross_entropy,
    decoupled,
    distillation,
    hard_loss,
    mean_teacher,
    relational,
    soft_targets,
)

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


# ---------------------------------------------------------------------- distillation by method


def softmax(x):
    return np.exp(log_softmax(x))


def entropies(p, q):
    """Rows of sum p log(p / q)."""
    return (p * np.log(p / q)).sum(1)


def loop_decoupled(student, teacher, labels, beta):
    """TCKD + beta * NCKD, image by image from the paper's equations 1 to 7, at T = 1."""
    total = 0.0
    for z, y, label in zip(student, teacher, labels, strict=True):
        q, p = softmax(z[None])[0], softmax(y[None])[0]
        b_q, b_p = [q[label], 1 - q[label]], [p[label], 1 - p[label]]
        total += sum(p_ * np.log(p_ / q_) for p_, q_ in zip(b_p, b_q, strict=True))
        for j in range(len(z)):
            if j != label:
                hat_p, hat_q = p[j] / (1 - p[label]), q[j] / (1 - q[label])
                total += beta * hat_p * np.log(hat_p / hat_q)
    return total / len(student)


@pytest.mark.parametrize(("temperature", "beta"), [(1.0, 1.0), (4.0, 8.0), (2.0, 0.0)])
def test_decoupled_by_hand(temperature, beta):
    expected = temperature**2 * loop_decoupled(
        LOGITS / temperature, TEACHER / temperature, LABELS, beta
    )
    logits, labels, teacher = tensors(LOGITS, LABELS, TEACHER)
    found = float(decoupled(logits, labels, teacher, temperature, beta))
    assert found == pytest.approx(expected, rel=1e-10)


def test_decoupled_parts_make_up_hintons_divergence():
    """KL = TCKD + (1 - p_target) NCKD, image by image (the paper's equation 5)."""
    for row in range(len(LABELS)):
        one = slice(row, row + 1)
        logits, labels, teacher = tensors(LOGITS[one], LABELS[one], TEACHER[one])
        others = 1 - float(teacher.softmax(1)[0, labels[0]])
        found = float(decoupled(logits, labels, teacher, 1.0, others))
        assert found == pytest.approx(float(soft_targets(logits, teacher, 1.0)), rel=1e-10)


def test_decoupled_with_two_classes_has_no_other_classes():
    logits, labels, teacher = tensors(LOGITS[:, :2], LABELS % 2, TEACHER[:, :2])
    found = decoupled(logits, labels, teacher, 3.0, 8.0)
    torch.testing.assert_close(found, soft_targets(logits, teacher, 3.0))


def test_decoupled_survives_a_teacher_beyond_doubt():
    logits = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    teacher = torch.tensor([[500.0, 0.0, -500.0]])
    loss = decoupled(logits, torch.tensor([0]), teacher, 1.0, 8.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def loop_relational(student, teacher, beta):
    """1 - mean Pearson over rows plus beta times the same over columns, by numpy's corrcoef."""
    rows = [np.corrcoef(a, b)[0, 1] for a, b in zip(student, teacher, strict=True)]
    columns = [np.corrcoef(a, b)[0, 1] for a, b in zip(student.T, teacher.T, strict=True)]
    return 1 - np.mean(rows) + beta * (1 - np.mean(columns))


@pytest.mark.parametrize(("temperature", "beta"), [(1.0, 1.0), (4.0, 2.0)])
def test_relational_by_numpys_correlation(temperature, beta):
    p, q = softmax(TEACHER / temperature), softmax(LOGITS / temperature)
    logits, teacher = tensors(LOGITS, TEACHER)
    found = float(relational(logits, teacher, temperature, beta))
    assert found == pytest.approx(temperature**2 * loop_relational(q, p, beta), rel=1e-9)


def test_relational_forgives_scale_and_shift_of_probabilities():
    """A student half as sure, with the teacher's order kept exactly, has nothing to learn."""
    teacher = torch.from_numpy(softmax(TEACHER))
    student = 0.5 * teacher + 0.5 / 4
    found = relational(student.log(), teacher.log(), 1.0, 1.0)
    assert abs(float(found)) < 1e-12
    assert float(soft_targets(student.log(), teacher.log(), 1.0)) > 0.01


@pytest.mark.parametrize("rows", [1, 3])
def test_relational_is_finite_where_nothing_varies(rows):
    logits = torch.zeros(rows, 3, requires_grad=True)
    loss = relational(logits, torch.randn(rows, 3), 4.0, 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_soft_targets_are_torchs_divergence():
    logits, teacher = tensors(LOGITS, TEACHER)
    expected = torch.nn.KLDivLoss(reduction="batchmean")(
        (logits / 3).log_softmax(1), (teacher / 3).softmax(1)
    )
    torch.testing.assert_close(soft_targets(logits, teacher, 3.0), 9 * expected)


def test_binary_soft_targets_are_bernoulli_divergences():
    logits, teacher = tensors(LOGITS, TEACHER)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(logits=teacher / 2),
        torch.distributions.Bernoulli(logits=logits / 2),
    )
    torch.testing.assert_close(binary_soft_targets(logits, teacher, 2.0), 4 * expected.mean())
    p, q = 1 / (1 + np.exp(-TEACHER / 2)), 1 / (1 + np.exp(-LOGITS / 2))
    by_hand = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert float(binary_soft_targets(logits, teacher, 2.0)) == pytest.approx(4 * by_hand.mean())


def test_the_head_is_told_by_the_labels():
    """Float labels [n, k] are one answer per label; class numbers [n] are one of k."""
    many = RANDOM.integers(0, 2, (7, 4)).astype(float)
    logits, labels, teacher, weights = tensors(LOGITS, many, TEACHER, WEIGHTS)
    target = 0.9 * many + 0.05
    q = 1 / (1 + np.exp(-LOGITS))
    # a weight is of a finding that is there
    entropy = -(WEIGHTS * target * np.log(q) + (1 - target) * np.log(1 - q)).mean()
    hard_part = HardLoss(0.1)(logits, labels, np.arange(7), 0)
    assert float(hard_loss(logits, labels, 0.1, weights)) == pytest.approx(entropy)
    found = distillation(logits, labels, teacher, 2.0, 0.7, 0.1)
    expected = 0.7 * binary_soft_targets(logits, teacher, 2.0) + 0.3 * hard_part
    torch.testing.assert_close(found, expected)
    single = distillation(logits, torch.from_numpy(LABELS), teacher, 2.0, 0.7, 0.1)
    assert not torch.isclose(single, found)
    for method in ("dkd", "dist"):
        with pytest.raises(RecipeError, match="several labels"):
            distillation(logits, labels, teacher, 2.0, 0.7, method=method)


def test_what_is_unknown_adds_nothing_and_pulls_nothing():
    logits = torch.from_numpy(LOGITS).requires_grad_()
    labels = torch.from_numpy(RANDOM.integers(-1, 2, LOGITS.shape))
    assert {-1, 0, 1} <= set(labels.flatten().tolist())
    loss = hard_loss(logits, labels)
    loss.backward()
    q = 1 / (1 + np.exp(-LOGITS))
    truth = labels.numpy()
    by_hand = np.where(truth == 1, -np.log(q), np.where(truth == 0, -np.log(1 - q), 0)).mean()
    assert loss.item() == pytest.approx(by_hand)
    assert torch.equal(logits.grad == 0, labels == -1)
    weights = balanced_weights(np.array([[1, 0], [0, 0], [0, -1], [0, 1]]), 2)
    assert weights.tolist() == [3.0, 2.0]
    rare = np.zeros((100, 1), int)
    rare[0] = 1
    assert balanced_weights(rare, 1).tolist() == [MOST_WEIGHT]


@pytest.mark.parametrize("method", ["soft", "dkd", "dist"])
def test_methods_mix_with_the_labels_and_vanish_at_the_teacher(method):
    logits, labels, teacher = tensors(LOGITS, LABELS, TEACHER)
    options = {"method": method, "beta": 2.0}
    alone = distillation(logits, labels, teacher, 4.0, 1.0, **options)
    mixed = distillation(logits, labels, teacher, 4.0, 0.6, 0.1, share=0.5, **options)
    torch.testing.assert_close(mixed, 0.3 * alone + 0.4 * cross_entropy(logits, labels, 0.1))
    same = distillation(teacher, labels, teacher, 4.0, 1.0, **options)
    assert abs(float(same)) < 1e-10 < float(alone)
    hard_part = distillation(logits, labels, teacher * np.nan, 4.0, 0.0, 0.1, **options)
    assert torch.equal(hard_part, cross_entropy(logits, labels, 0.1))


@pytest.mark.parametrize("multi_label", [False, True])
def test_mean_teacher_averages_softened_probabilities(multi_label):
    several = torch.from_numpy(RANDOM.normal(0, 3, (3, 7, 4)))
    squash = torch.sigmoid if multi_label else (lambda z: z.softmax(-1))
    found = mean_teacher(several, 4.0, multi_label=multi_label)
    torch.testing.assert_close(squash(found / 4), squash(several / 4).mean(0))
    assert torch.equal(mean_teacher(several[:1], 4.0, multi_label=multi_label), several[0])


def test_torchdistill_agrees():
    """The project's referee, where it is installed; it has no DKD."""
    peer = pytest.importorskip("torchdistill.losses.mid_level")
    logits, labels, teacher = tensors(LOGITS, LABELS, TEACHER)
    where = {".": {"output": logits}}, {".": {"output": teacher}}
    keys = {"student_module_path": ".", "student_module_io": "output"}
    keys |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    soft = peer.KDLoss(**keys, temperature=4.0, alpha=0.3)(*where, labels)
    torch.testing.assert_close(distillation(logits, labels, teacher, 4.0, 0.7), soft)
    dist = peer.DISTLoss(**keys, beta=1.0, gamma=2.0, tau=4.0)(*where)
    torch.testing.assert_close(relational(logits, teacher, 4.0, 2.0), dist)
