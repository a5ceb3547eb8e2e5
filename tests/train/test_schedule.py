"""Schedules: rates against torch's own, sizes, order of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clinipress.errors import RecipeError
from clinipress.train.schedule import epoch_order, epoch_sizes, learning_rate, steps_per_epoch


def test_warm_up_is_linear_and_ends_at_the_peak():
    rates = [learning_rate(s, 100, 10, 0.5, 0.01) for s in range(10)]
    assert rates == pytest.approx([0.05 * (s + 1) for s in range(10)])


def test_cosine_is_that_of_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.005)
    for step in range(10, 100):
        optimizer.step()
        theirs.step()
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(step, 100, 10, 0.5, 0.01) == pytest.approx(expected, rel=1e-6)


def test_last_step_has_the_final_rate():
    assert learning_rate(99, 100, 10, 0.5, 0.01) == pytest.approx(0.005)
    assert learning_rate(0, 1, 0, 0.5, 0.0) == 0


def test_warm_up_longer_than_the_training_stays_below_the_peak():
    assert learning_rate(4, 5, 50, 1.0, 0.0) == 1.0
    assert learning_rate(0, 5, 50, 1.0, 0.0) == 0.2


def test_sizes_follow_their_shares():
    sizes = epoch_sizes(((64, 0.6), (96, 0.2), (128, 0.2)), 10, (128, 128))
    assert sizes == [(64, 64)] * 6 + [(96, 96)] * 2 + [(128, 128)] * 2


def test_shares_may_be_epochs_and_sides_may_differ():
    sizes = epoch_sizes(((32, 1), (64, 3)), 4, (64, 32))
    assert sizes == [(32, 16)] + [(64, 32)] * 3


def test_last_epoch_has_the_final_size_however_few_epochs():
    assert epoch_sizes(((16, 0.9), (32, 0.1)), 2, (32, 32))[-1] == (32, 32)
    assert epoch_sizes((), 3, (9, 8)) == [(9, 8)] * 3


@pytest.mark.parametrize("sizes", [((64, 1.0),), ((4, 0.5), (128, 0.5)), ((64, 0.0), (128, 1.0))])
def test_sizes_that_cannot_be_are_refused(sizes):
    with pytest.raises(RecipeError, match="progressive sizes"):
        epoch_sizes(sizes, 5, (128, 128))


def test_order_is_a_permutation_by_seed_and_epoch():
    rows = np.arange(100, 123)
    batches = epoch_order(rows, 5, 3, 2)
    assert [len(b) for b in batches] == [5] * 4
    flat = np.concatenate(batches)
    assert len(set(flat)) == 20
    assert set(flat) <= set(rows)
    assert np.array_equal(flat, np.concatenate(epoch_order(rows, 5, 3, 2)))
    assert not np.array_equal(flat, np.concatenate(epoch_order(rows, 5, 3, 1)))
    assert not np.array_equal(flat, np.concatenate(epoch_order(rows, 5, 4, 2)))


def test_fewer_images_than_a_batch_make_one_smaller_batch():
    assert steps_per_epoch(3, 8) == 1
    assert [len(b) for b in epoch_order(np.arange(3), 8, 0, 0)] == [3]
