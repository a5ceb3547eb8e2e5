"""The training loop: it learns, keeps the best, stops, refuses, and leaves no trace."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import user_nets
from clinipress.errors import DataError, DivergedError, RecipeError, StorageError
from clinipress.train.checkpoint import read
from clinipress.train.fit import Images, fit
from clinipress.train.losses import cross_entropy
from clinipress.train.optimizer import state_tensors
from kit.training import (
    Ears,
    MemoryStore,
    Scaled,
    options,
    plain_net,
    same_bits,
    small_net,
    weights_of,
)


def images(n=24, train=18, **kinds):
    return Images(MemoryStore(n, **kinds), np.arange(train), np.arange(train, n))


def train(work, module=None, data=None, chosen=None, **more):
    module = small_net() if module is None else module
    keys = {"modality": "generic", "seed": 5, "numerics": "float32-channels-last"} | more
    outcome = fit(module, data or images(), chosen or options(), work=work, **keys)
    return module, outcome


def test_it_learns_what_can_be_learned(tmp_path):
    chosen = options(epochs=12, learning_rate=0.03, ema_decay=0.9, augmentation=0.3)
    module, outcome = train(tmp_path, chosen=chosen)
    assert outcome.best_score == 1.0
    assert not module.training
    assert outcome.numerics == "float32-channels-last"
    assert [row["epoch"] for row in outcome.epochs] == list(range(12))
    assert 0 <= outcome.data_wait_share < 1
    store = images().cache
    logits = module(torch.from_numpy(store.pixels))
    assert (logits.argmax(1).numpy() == store.labels).all()


def test_same_arguments_give_the_same_bits(tmp_path):
    one, _ = train(tmp_path / "a")
    two, _ = train(tmp_path / "b")
    other, _ = train(tmp_path / "c", seed=6)
    assert same_bits(weights_of(one), weights_of(two))
    assert not same_bits(weights_of(one), weights_of(other))


@pytest.mark.parametrize("name", ["float32-contiguous", "bfloat16-channels-last"])
def test_every_arithmetic_learns(tmp_path, name):
    chosen = options(epochs=12, learning_rate=0.03, ema_decay=None, augmentation=0.3)
    module, outcome = train(tmp_path, chosen=chosen, numerics=name)
    assert outcome.best_score == 1.0
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in module.parameters())


def test_one_step_is_that_of_plain_torch(tmp_path):
    """No augmentation, no average, no clip: the loop is AdamW on the batch, by hand."""
    data = images()
    chosen = options(
        epochs=1, batch_size=18, ema_decay=None, gradient_clip=None, augmentation=0,
        label_smoothing=0.0, warmup_epochs=0, learning_rate=0.01, weight_decay=0.0,
        final_learning_rate=1.0,
    )  # fmt: skip
    found, _ = train(tmp_path, plain_net(), data, chosen)
    referee = plain_net()
    optimizer = torch.optim.AdamW(referee.parameters(), lr=0.01, weight_decay=0.0)
    pixels = torch.from_numpy(data.cache.pixels[:18])
    F.cross_entropy(referee(pixels), torch.from_numpy(data.cache.labels[:18])).backward()
    optimizer.step()
    for name, value in referee.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-5, atol=1e-6)


class Scripted(nn.Module):
    """Answers validation as a script says, epoch by epoch, whatever its weights."""

    def __init__(self, right):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.right, self.epoch = right, -1

    def train(self, mode=True):
        self.epoch += int(mode)
        return super().train(mode)

    def forward(self, images):
        labels = (images.float().mean((1, 2, 3)) > 60).long()
        logits = F.one_hot(labels, 2).float() * 4 - 2
        if not self.training:
            wrong = torch.arange(len(logits)) >= self.right[self.epoch]
            logits = torch.where(wrong[:, None], -logits, logits)
        return logits + 0 * self.weight.sum()


def test_the_best_epoch_is_kept_and_patience_counts_from_it(tmp_path):
    module = Scripted([2, 5, 5, 3, 4, 4, 4])
    chosen = options(epochs=7, patience=3, ema_decay=None)
    _, outcome = train(tmp_path, module, chosen=chosen)
    assert [round(6 * row["validation_accuracy"]) for row in outcome.epochs] == [2, 5, 5, 3, 4]
    assert outcome.best_epoch == 1
    assert outcome.best_score == 5 / 6


def test_best_weights_are_those_of_the_best_epoch(tmp_path):
    chosen = options(epochs=5, learning_rate=0.02)
    module, outcome = train(tmp_path, chosen=chosen)
    kept = read(tmp_path / f"best-{outcome.best_epoch}.safetensors")
    assert kept.names == module.state_dict().keys()
    assert all(torch.equal(kept.tensor(n), v) for n, v in module.state_dict().items())
    scores = [(r["validation_accuracy"], -r["validation_loss"]) for r in outcome.epochs]
    assert outcome.best_epoch == scores.index(max(scores))
    assert len(list(tmp_path.glob("best-*"))) == 1


def test_only_the_final_size_counts(tmp_path):
    chosen = options(epochs=5, sizes=((8, 0.6), (16, 0.4)), validate_every=2)
    module = Scripted([6, 6, 6, 2, 3])
    _, outcome = train(tmp_path, module, images(side=16), chosen)
    assert [row["size"] for row in outcome.epochs] == [[8, 8]] * 3 + [[16, 16]] * 2
    assert [row["validation_accuracy"] is None for row in outcome.epochs] == [
        True, False, True, False, False,
    ]  # fmt: skip
    assert outcome.best_epoch == 4


def test_nan_loss_stops_at_once_and_spares_the_checkpoint(tmp_path):
    calls = []

    def loss(logits, labels, rows, view):
        calls.append(view)
        value = cross_entropy(logits, labels)
        return value * float("nan") if len(calls) == 8 else value

    with pytest.raises(DivergedError, match=r"a loss of nan in epoch 3, step 2.*learning_rate"):
        train(tmp_path, loss=loss)
    assert len(calls) == 8
    kept = read(tmp_path / "checkpoint.safetensors")
    assert kept.facts["epoch"] == 2
    assert all(torch.isfinite(kept.tensor(name)).all() for name in kept.names)


def test_weights_broken_by_the_last_step_are_not_saved(tmp_path):
    def loss(logits, labels, rows, view):
        value = cross_entropy(logits, labels)
        # at 0 the root is finite and its gradient is not
        return value + (0 * logits.sum()).sqrt() if view == 1 else value

    with pytest.raises(DivergedError, match="a NaN or infinite weight in epoch 2"):
        train(tmp_path, loss=loss, chosen=options(batch_size=18))
    kept = read(tmp_path / "checkpoint.safetensors")
    assert kept.facts["epoch"] == 1
    assert all(torch.isfinite(kept.tensor(name)).all() for name in kept.names)


def test_interrupt_leaves_the_last_epoch_and_no_debris(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, progress=Ears(raise_at=8))
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"checkpoint.safetensors", f"best-{best(tmp_path)}.safetensors"}
    assert read(tmp_path / "checkpoint.safetensors").facts["epoch"] == 2


def best(work: Path):
    return read(work / "checkpoint.safetensors").facts["best_epoch"]


def test_full_disk_is_one_line_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, progress=Ears(raise_at=5))
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="full disk"):
            train(tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    resumed, _ = train(tmp_path)
    whole, _ = train(tmp_path / "whole")
    assert same_bits(weights_of(resumed), weights_of(whole))


def test_progress_adds_up_and_tells_loss_and_time_left(tmp_path):
    ears = Ears()
    train(tmp_path, progress=ears)
    assert ears.done == ears.total == 12
    assert any("epoch 4/4, loss 0." in note and " left" in note for note in ears.notes)
    assert ears.notes[-1].startswith("best epoch")
    again = Ears()
    train(tmp_path, progress=again)
    assert again.done == again.total == 12


def test_global_state_is_left_as_it_was(tmp_path):
    module = small_net()
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    train(tmp_path, module, threads=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("batch", "count"), [(1, 3), (8, 1), (8, 5)])
def test_tiny_batches_do_not_crash_batch_norm(tmp_path, batch, count):
    # 1x1 maps: batch norm would refuse a single value per channel
    torch.manual_seed(0)
    module = Scaled(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    data = Images(MemoryStore(12), np.arange(count), np.arange(6, 12))
    _, outcome = train(tmp_path, module, data, options(batch_size=batch, epochs=2))
    assert np.isfinite([row["train_loss"] for row in outcome.epochs]).all()


def test_class_weights_and_smoothing_reach_the_loss(tmp_path):
    store = MemoryStore(24)
    rows = np.concatenate([np.arange(0, 18, 2), np.arange(1, 7, 2)])  # 9 of class 0, 3 of class 1
    data = Images(store, rows, np.arange(18, 24))
    plain = options(epochs=1, batch_size=12, augmentation=0, label_smoothing=0.0)
    one = plain.model_copy(update={"class_weights": "balanced"})
    module = plain_net()
    with torch.no_grad():
        logits = module(torch.from_numpy(store.take(rows)))
    losses = F.cross_entropy(logits, torch.from_numpy(store.labels[rows]), reduction="none")
    weights = np.where(store.labels[rows] == 0, 12 / 18, 12 / 6)
    _, outcome = train(tmp_path / "b", plain_net(), data, one)
    expected = (losses.numpy() * weights).mean()
    assert outcome.epochs[0]["train_loss"] == pytest.approx(expected, rel=1e-5)
    _, outcome = train(tmp_path / "p", plain_net(), data, plain)
    assert outcome.epochs[0]["train_loss"] == pytest.approx(float(losses.mean()), rel=1e-5)


def test_views_go_round_and_rows_are_the_cache_rows(tmp_path):
    seen = []

    def loss(logits, labels, rows, view):
        seen.append((view, tuple(rows)))
        assert (labels.numpy() == rows % 2).all()
        return cross_entropy(logits, labels)

    train(tmp_path, loss=loss, views=2, chosen=options(batch_size=18, epochs=5))
    assert [view for view, _ in seen] == [0, 1, 0, 1, 0]
    assert all(sorted(rows) == list(range(18)) for _, rows in seen)


def test_auto_numerics_are_measured_once_and_remembered(tmp_path):
    chosen = options(numerics="auto", epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, chosen=chosen, numerics="auto", progress=Ears(raise_at=4))
    first = read(tmp_path / "checkpoint.safetensors").facts
    _, outcome = train(tmp_path, chosen=chosen, numerics="auto")
    assert outcome.numerics == first["numerics"]
    assert outcome.numerics_reason == first["numerics_reason"]
    assert " ms" in outcome.numerics_reason


@pytest.mark.parametrize(("rows", "what"), [((0, 6), "training"), ((6, 0), "validation")])
def test_no_images_are_refused(tmp_path, rows, what):
    data = Images(MemoryStore(12), np.arange(rows[0]), np.arange(6, 6 + rows[1]))
    with pytest.raises(DataError, match=f"expected {what} images, got none"):
        train(tmp_path, data=data)


def test_unknown_numerics_and_too_many_processes_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="numerics out of"):
        train(tmp_path, numerics="float8")
    with pytest.raises(RecipeError, match="one image per process"):
        train(tmp_path, chosen=options(batch_size=2, processes=3))


@pytest.mark.parametrize("decay", [None, 0.9])
def test_f7_tied_weights_train_and_stay_tied(tmp_path, decay):
    torch.manual_seed(0)
    module = Scaled(user_nets.Tied(2, 1))
    net, before = module.body[0], module.body[0].first.weight.detach().clone()
    train(tmp_path, module, chosen=options(epochs=2, ema_decay=decay))
    assert net.second.weight is net.first.weight
    assert net.norm_again.running_mean is net.norm.running_mean
    assert not torch.equal(before, net.first.weight)


def test_f7_a_tied_weight_is_averaged_and_kept_once():
    module = user_nets.Tied(3, 1)
    names = state_tensors(module).keys()
    assert "first.weight" in names
    assert not {"second.weight", "again.weight", "norm_again.running_var"} & names


def test_f1_a_small_network_that_takes_a_view_trains(tmp_path):
    train(tmp_path, Scaled(user_nets.View(2, 1, 8)), numerics="float32-contiguous")
