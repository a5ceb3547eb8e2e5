"""The loss as the loop calls it: several teachers, a warm-up, feature maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clinipress.errors import DataError
from clinipress.steps.distill.loss import DistillationLoss
from clinipress.train.fit import Images, fit
from clinipress.train.losses import cross_entropy, distillation
from kit.training import MemoryStore, options, plain_net

RANDOM = np.random.default_rng(2)
ROWS = np.array([3, 9, 1, 20])
SOME = np.array([20, 3])
LOGITS, LABELS = torch.randn(2, 3, generator=torch.manual_seed(0)), torch.tensor([2, 0])


def table():
    return RANDOM.normal(0, 3, (2, 4, 3)).astype(np.float32)


def test_several_teachers_speak_with_the_mean_of_their_softened_probabilities():
    tables = [table(), table()]
    loss = DistillationLoss(tables, ROWS, temperature=4.0, alpha=1.0)
    chosen = [torch.from_numpy(one[1, [3, 0]]) for one in tables]
    mean = torch.stack([(one / 4).softmax(1) for one in chosen]).mean(0)
    log = F.log_softmax(LOGITS / 4, dim=1)
    expected = 16 * (mean * (mean.log() - log)).sum(1).mean()
    torch.testing.assert_close(loss(LOGITS, LABELS, SOME, 1), expected)


def test_several_labels_per_image_need_no_other_loss():
    one, many = table(), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    loss = DistillationLoss(one, ROWS, temperature=2.0, alpha=0.6, smoothing=0.1)
    teacher = torch.from_numpy(one[0, [3, 0]])
    expected = distillation(LOGITS, many, teacher, 2.0, 0.6, 0.1)
    torch.testing.assert_close(loss(LOGITS, many, SOME, 0), expected)


@pytest.mark.parametrize(("method", "shares"), [("dkd", [0.5, 1.0, 1.0]), ("dist", [1.0] * 3)])
def test_only_dkd_is_warmed_up(method, shares):
    one = table()
    keys = {"temperature": 4.0, "alpha": 0.5, "method": method, "beta": 8.0}
    loss = DistillationLoss(one, ROWS, warmup=2.0, **keys)
    teacher = torch.from_numpy(one[0, [3, 0]])
    full = distillation(LOGITS, LABELS, teacher, 4.0, 1.0, method=method, beta=8.0)
    for epoch, share in enumerate(shares):
        loss.begin(epoch)
        expected = 0.5 * share * full + 0.5 * cross_entropy(LOGITS, LABELS)
        torch.testing.assert_close(loss(LOGITS, LABELS, SOME, 0), expected)


def test_features_are_added_to_the_teachers_part():
    one, asked = table(), []

    def features(rows, view):
        asked.append((rows.tolist(), view))
        return torch.tensor(2.0)

    keys = {"temperature": 4.0, "alpha": 0.7}
    plain = DistillationLoss(one, ROWS, **keys)(LOGITS, LABELS, SOME, 1)
    both = DistillationLoss(one, ROWS, beta=5.0, features=features, **keys)
    torch.testing.assert_close(both(LOGITS, LABELS, SOME, 1), plain + 0.7 * 5 * 2)
    assert asked == [([20, 3], 1)]


def test_rows_beyond_the_table_are_refused():
    loss = DistillationLoss(table(), ROWS, temperature=4.0, alpha=0.7)
    for rows in ([20, 21], [20, 2]):
        with pytest.raises(DataError, match="rows the teacher has seen"):
            loss(LOGITS, LABELS, np.array(rows), 0)


class Listening:
    """A loss that notes the epochs it is told of; fails at its n-th call."""

    def __init__(self, at=0):
        self.epochs, self.left = [], at

    def begin(self, epoch):
        self.epochs.append(epoch)

    def __call__(self, logits, labels, rows, view):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("injected")
        return F.cross_entropy(logits, labels)


def test_the_loop_tells_a_loss_of_every_epoch_also_after_a_resumption(tmp_path):
    data = Images(MemoryStore(), np.arange(18), np.arange(18, 24))

    def train(loss):
        fit(
            plain_net(), data, options(epochs=4), modality="generic", seed=3, work=tmp_path,
            numerics="float32-contiguous", loss=loss,
        )  # fmt: skip
        return loss.epochs

    broken = Listening(at=8)  # 3 steps make an epoch
    with pytest.raises(RuntimeError, match="injected"):
        train(broken)
    assert broken.epochs == [0, 1, 2]
    assert train(Listening()) == [2, 3]
