"""Mixup and CutMix: pixels, targets and boxes against timm's, losses against mixed targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import beta as beta_distribution
from scipy.stats import kstest
from timm.data.mixup import Mixup, mixup_target, rand_bbox
from timm.loss import SoftTargetCrossEntropy

from clinipress.steps.distill.loss import DistillationLoss
from clinipress.train.fit import Images, fit
from clinipress.train.loader import Loader, Order
from clinipress.train.losses import binary_cross_entropy, cross_entropy, mean_teacher
from clinipress.train.mixing import Mix, Partner, cut_box, draw_mix, mix_images, mixed_loss
from kit.each import each
from kit.training import MemoryStore, options, same_bits, small_net, weights_of

N, K = 7, 4
CASES = [*range(20)]
SHARES = {20: 0.0, 21: 1.0, 22: 0.5}  # degenerate ones, by number


def case(number, k=K, n=N):
    """Logits, labels, partners' labels and a share."""
    random = np.random.default_rng(number)
    logits = torch.from_numpy(random.normal(0, 3, (n, k)))
    labels = torch.from_numpy(random.integers(0, k, n))
    share = SHARES.get(number, float(random.random()))
    return logits, labels, labels.flip(0), share


def mixed(loss, labels, others, share):
    partner = Partner(others, np.arange(len(others)), share)
    return mixed_loss(lambda y, _: loss(y), labels, np.arange(len(labels)), partner)


@each("number", [*CASES, *SHARES])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_cross_entropy_is_timms_of_mixed_targets(number, smoothing):
    logits, labels, others, share = case(number)
    found = mixed(lambda y: cross_entropy(logits, y, smoothing), labels, others, share)
    target = mixup_target(labels, K, share, smoothing).double()
    expected = SoftTargetCrossEntropy()(logits, target)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)  # timm's targets are float32


def test_the_comparison_with_timm_can_fail():
    logits, labels, others, share = case(1)
    swapped = mixed(lambda y: cross_entropy(logits, y), labels, others, 1 - share)
    expected = SoftTargetCrossEntropy()(logits, mixup_target(labels, K, share).double())
    assert float(swapped) != pytest.approx(float(expected), rel=1e-3)


@each("number", CASES)
def test_class_weights_are_those_of_the_mixed_target(number):
    logits, labels, others, share = case(number)
    weights = torch.rand(K, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
    found = mixed(lambda y: cross_entropy(logits, y, 0.1, weights), labels, others, share)
    first, second = (F.one_hot(some, K).double() for some in (labels, others))
    target = share * first + (1 - share) * second
    target = 0.9 * target + 0.1 / K
    expected = F.cross_entropy(logits, target, weight=weights, reduction="none").mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_several_labels_per_image():
    logits, _, _, _ = case(3)
    labels = (torch.arange(N * K).reshape(N, K) % 3 == 0).double()
    found = mixed(lambda y: binary_cross_entropy(logits, y), labels, labels.flip(0), 0.3)
    target = 0.3 * labels + 0.7 * labels.flip(0)
    assert float(found) == pytest.approx(float(binary_cross_entropy(logits, target)), rel=1e-12)


@each("number", CASES)
@pytest.mark.parametrize("teachers", [1, 2])
def test_a_teachers_part_pulls_towards_its_mixed_answers(number, teachers):
    """Same gradient as the mixed targets and the mixed softened probabilities, by hand."""
    logits, labels, others, share = case(number)
    logits = logits.float().requires_grad_()
    random = np.random.default_rng(number + 100)
    tables = [random.normal(0, 3, (1, N, K)).astype(np.float32) for _ in range(teachers)]
    heat, alpha, smoothing = 3.0, 0.6, 0.1
    rows = np.arange(N)
    loss = DistillationLoss(tables, rows, temperature=heat, alpha=alpha, smoothing=smoothing)
    partner = Partner(others, rows[::-1].copy(), share)
    value = mixed_loss(lambda y, r: loss(logits, y, r, 0), labels, rows, partner)
    (found,) = torch.autograd.grad(value, logits)
    answers = torch.from_numpy(np.concatenate(tables))
    soft = (mean_teacher(answers, heat) / heat).softmax(1)
    soft = share * soft + (1 - share) * soft.flip(0)
    hard = mixup_target(labels, K, share, smoothing)
    by_hand = alpha * heat**2 * SoftTargetCrossEntropy()(logits / heat, soft)
    by_hand = by_hand + (1 - alpha) * SoftTargetCrossEntropy()(logits, hard)
    (expected,) = torch.autograd.grad(by_hand, logits)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_without_a_partner_the_loss_is_called_once_and_untouched():
    calls = []

    def loss(labels, rows):
        calls.append(rows)
        return labels.sum()

    labels = torch.arange(3)
    assert mixed_loss(loss, labels, np.arange(3), None) == labels.sum()
    assert len(calls) == 1


@each("number", [*CASES, *SHARES])
def test_blended_pixels_are_timms(number, monkeypatch):
    *_, share = case(number)
    random = np.random.default_rng(number)
    images = torch.from_numpy(random.integers(0, 256, (4, 3, 9, 7), dtype=np.uint8))
    timms = Mixup(mixup_alpha=1.0, num_classes=K)
    monkeypatch.setattr(timms, "_params_per_batch", lambda: (share, False))
    expected, _ = timms(images.float(), torch.arange(4) % K)
    found = mix_images(images, images.flip(0), share, None)
    assert found.dtype is torch.uint8
    assert float((found.float() - expected).abs().max()) <= 0.5 + 1e-4


@each("number", [*CASES, *SHARES])
def test_pasted_pixels_and_share_are_timms(number):
    *_, share = case(number)
    size = (24, 17)
    np.random.seed(number)
    top, bottom, left, right = map(int, rand_bbox((4, 3, *size), share))
    np.random.seed(number)
    y, x = np.random.randint(0, size[0]), np.random.randint(0, size[1])
    box = cut_box(share, y, x, size)
    assert box == (top, bottom, left, right)
    images = torch.randint(0, 256, (2, 1, *size), dtype=torch.uint8)
    found = mix_images(images, images.flip(0), share, box)
    inside = torch.zeros(size, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    assert torch.equal(found, torch.where(inside, images.flip(0), images))


def draws(count, **changes):
    keys = {"mixup": 0.4, "cutmix": None, "seed": 1, "epoch": 2} | changes
    return [draw_mix(np.arange(8), (16, 16), step=step, **keys) for step in range(count)]


def test_shares_follow_the_beta_distribution():
    shares = [mix.share for mix in draws(800)]
    assert kstest(shares, beta_distribution(0.4, 0.4).cdf).pvalue > 1e-3
    assert kstest(shares, beta_distribution(1.0, 1.0).cdf).pvalue < 1e-6  # the check can fail


def test_the_share_of_a_pasted_box_is_its_area():
    for mix in draws(50, mixup=None, cutmix=1.0):
        top, bottom, left, right = mix.box
        assert mix.share == 1 - (bottom - top) * (right - left) / 256
        assert 0 <= mix.share <= 1


def test_with_both_each_batch_takes_one_by_chance():
    cut = sum(mix.box is not None for mix in draws(400, cutmix=1.0))
    assert 150 < cut < 250  # half, within five standard deviations
    assert all(mix.box is None for mix in draws(20))
    assert draws(3, mixup=None) == [None] * 3


def test_pairs_are_a_permutation_drawn_by_seed_epoch_and_step():
    first, second = draws(2)
    again = draws(1)[0]
    assert sorted(first.partners) == list(range(8))
    assert np.array_equal(first.partners, again.partners)
    assert first.share == again.share
    for other in (second, draws(1, seed=2)[0], draws(1, epoch=3)[0]):
        assert other.share != first.share


def test_an_image_alone_is_mixed_with_itself():
    images = torch.randint(0, 256, (1, 1, 5, 5), dtype=torch.uint8)
    assert torch.equal(mix_images(images, images, 0.3, None), images)


def test_the_loader_mixes_the_augmented_images():
    store, rows = MemoryStore(n=12), np.array([4, 1, 9])
    mix = Mix(np.array([7, 4, 1]), 0.25, None)
    keys = {"modality": "generic", "strength": 1.0, "seed": 9, "device": torch.device("cpu")}
    orders = [Order(0, rows, (8, 8), 5, mix), Order(0, rows, (8, 8), 5),
              Order(0, mix.partners, (8, 8), 5)]  # fmt: skip
    with Loader(store, iter(orders), **keys) as loader:
        both, first, second = list(loader)
    assert torch.equal(both.images, mix_images(first.images, second.images, 0.25, None))
    assert torch.equal(both.labels, first.labels)
    assert torch.equal(both.partner.labels, second.labels)
    assert np.array_equal(both.partner.rows, mix.partners)
    assert first.partner is None


def train(work, **changes):
    module = small_net()
    data = Images(MemoryStore(), np.arange(18), np.arange(18, 24))
    outcome = fit(
        module, data, options(epochs=3, **changes), modality="generic", seed=3, work=work,
        numerics="float32-channels-last",
    )  # fmt: skip
    return weights_of(module), outcome


@pytest.mark.parametrize("kind", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_a_mixed_training_repeats_itself_and_is_another(tmp_path, kind):
    first, _ = train(tmp_path / "a", **kind)
    second, _ = train(tmp_path / "b", **kind)
    plain, _ = train(tmp_path / "c")
    assert same_bits(first, second)
    assert not same_bits(first, plain)
