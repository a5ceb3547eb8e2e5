"""Stages: rates against torch's schedulers, the whole against a plain loop, what rests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clinipress.errors import ModelError
from clinipress.train.fit import Images, fit
from clinipress.train.schedule import epoch_order, learning_rate
from clinipress.train.stages import stage_at, step_costs, training_stages
from kit.training import (
    Ears,
    Failing,
    MemoryStore,
    Scaled,
    options,
    plain_net,
    same_bits,
    small_net,
    weights_of,
)

THREE = (
    {"train": "head", "epochs": 2, "learning_rate": 0.05, "warmup_epochs": 0},
    {"epochs": 3, "learning_rate": 0.02, "layer_decay": 0.5},
    {"epochs": 2, "learning_rate": 0.01, "decay": "exponential", "final_learning_rate": 0.01},
)


def run(work, module=None, loss=None, progress=None, stages=THREE, **changes):
    """Train; the weights and the outcome. 18 images in batches of 6: 3 steps make an epoch."""
    module = small_net() if module is None else module
    data = Images(MemoryStore(), np.arange(18), np.arange(18, 24))
    chosen = options(
        **({"stages": stages} | changes | {"epochs": sum(s["epochs"] for s in stages)})
    )
    more = {} if progress is None else {"progress": progress}
    outcome = fit(
        module, data, chosen, modality="generic", seed=3, work=work, loss=loss,
        numerics="float32-channels-last", **more,
    )  # fmt: skip
    return weights_of(module), outcome


# ---------------------------------------------------------------------------------- the schedule


def test_exponential_decay_is_that_of_torch():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    theirs = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.001 ** (1 / 90))
    for step in range(10, 100):
        optimizer.step()
        theirs.step()
        found = learning_rate(step, 100, 10, 0.5, 0.001, "exponential")
        assert found == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
    assert learning_rate(9, 100, 10, 0.5, 0.001, "exponential") == 0.5


def test_each_stage_has_a_curve_of_its_own():
    chosen = options(epochs=7, stages=THREE, warmup_epochs=1.0)
    stages, steps = training_stages(chosen), 10
    found = [stage_at(stages, epoch).rate(epoch * steps + step, steps)
             for epoch in range(7) for step in range(steps)]  # fmt: skip
    expected = [
        *(learning_rate(s, 20, 0, 0.05, 0.001) for s in range(20)),
        *(learning_rate(s, 30, 10, 0.02, 0.001) for s in range(30)),
        *(learning_rate(s, 20, 10, 0.01, 0.01, "exponential") for s in range(20)),
    ]
    assert found == expected
    assert [stage.layer_decay for stage in stages] == [1.0, 0.5, 1.0]
    assert [stage.part for stage in stages] == ["head", "all", "all"]


def test_a_training_without_stages_is_one_stage_of_all_weights():
    chosen = options(epochs=5, learning_rate=0.3, layer_decay=0.7)
    (only,) = training_stages(chosen)
    assert (only.first, only.epochs, only.part, only.layer_decay) == (0, 5, "all", 0.7)
    assert only.rate(11, 3) == learning_rate(11, 15, 3, 0.3, 0.001)


def test_a_step_of_the_head_costs_a_forward_pass():
    stages = training_stages(options(epochs=7, stages=THREE))
    assert step_costs(stages, [(2, 2)] * 3 + [(4, 4)] * 4) == [4, 4, 12, *[48] * 4]


# ------------------------------------------------------------------------------------ what learns


def net(seed=1):
    """Convolution, batch norm and head, no dropout: a plain loop can follow it."""
    torch.manual_seed(seed)
    return Scaled(
        nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 2),
    )  # fmt: skip


def plain_loop():
    """The three stages written out in plain torch; the mean training loss of every epoch."""
    module, store, losses = net(), MemoryStore(), []
    epoch = 0
    for stage in THREE:
        head = stage.get("train") == "head"
        parameters = module.body[5].parameters() if head else module.parameters()
        optimizer = torch.optim.SGD([{"params": [p]} for p in parameters], momentum=0.9,
                                    lr=1.0, nesterov=True)  # fmt: skip
        shares = [1.0, 1.0] if head else [0.5, 0.5, 0.5, 1.0, 1.0]
        if "layer_decay" not in stage:
            shares = [1.0] * len(shares)
        total, warmup = stage["epochs"] * 3, round(stage.get("warmup_epochs", 1.0) * 3)
        for step in range(total):
            module.train()
            if head:
                module.body[1].eval()
            rate = learning_rate(
                step, total, warmup, stage["learning_rate"],
                stage.get("final_learning_rate", 0.001), stage.get("decay", "cosine"),
            )  # fmt: skip
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = rate * share
            rows = epoch_order(np.arange(18), 6, 3, epoch)[step % 3]
            logits = module(torch.from_numpy(store.take(rows)))
            loss = F.cross_entropy(logits, torch.from_numpy(store.labels[rows]))
            module.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            epoch += (step + 1) % 3 == 0
    return np.reshape(losses, (-1, 3)).mean(1)


PLAIN = {
    "optimizer": "sgd", "augmentation": 0, "label_smoothing": 0.0, "ema_decay": None,
    "gradient_clip": None, "weight_decay": 0.0,
}  # fmt: skip


def test_three_stages_are_three_plain_trainings_in_a_row(tmp_path):
    _, outcome = run(tmp_path / "a", net(), **PLAIN)
    found = [row["train_loss"] for row in outcome.epochs]
    np.testing.assert_allclose(found, plain_loop(), rtol=1e-4)
    ablated = (*THREE[:1], {**THREE[1], "layer_decay": 1.0}, *THREE[2:])
    _, other = run(tmp_path / "b", net(), stages=ablated, **PLAIN)
    assert [row["train_loss"] for row in other.epochs] != pytest.approx(plain_loop(), rel=1e-4)


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_a_frozen_backbone_stays_bit_for_bit_with_its_statistics(tmp_path, ema_decay):
    before = weights_of(small_net())
    head, _ = run(tmp_path / "head", stages=THREE[:1], ema_decay=ema_decay)
    rests = [name for name in before if not name.startswith("body.6")]
    assert all(torch.equal(before[name], head[name]) for name in rests)
    assert not torch.equal(before["body.6.weight"], head["body.6.weight"])
    whole, _ = run(tmp_path / "all", stages=THREE[1:2], ema_decay=ema_decay)
    assert not any(torch.equal(before[name], whole[name]) for name in rests)


def test_what_the_user_froze_stays_frozen_and_the_rest_learns_again(tmp_path):
    module = small_net()
    module.body[0].weight.requires_grad_(False)
    before = weights_of(module)
    after, _ = run(tmp_path, module)
    assert torch.equal(before["body.0.weight"], after["body.0.weight"])
    learns = {name: p.requires_grad for name, p in module.named_parameters()}
    assert learns == {name: name != "body.0.weight" for name in learns}


def test_flags_come_back_after_an_error_in_the_head_stage(tmp_path):
    module = small_net()
    with pytest.raises(RuntimeError, match="injected"):
        run(tmp_path, module, Failing(2))
    assert all(p.requires_grad for p in module.parameters())


def test_a_network_with_nothing_to_learn_is_refused(tmp_path):
    module = small_net().requires_grad_(False)
    with pytest.raises(ModelError, match="weights to train"):
        run(tmp_path, module)


# ------------------------------------------------------------------------------- told and resumed


def test_rows_and_notes_name_the_stage_and_random_weights_are_said(tmp_path):
    ears = Ears()
    _, outcome = run(tmp_path / "a", progress=ears)
    assert [row["stage"] for row in outcome.epochs] == [1, 1, 2, 2, 2, 3, 3]
    assert [row["epoch"] for row in outcome.epochs] == list(range(7))
    assert ears.done == ears.total == 21
    assert ears.said[0] == "stage 1 of 3: the head alone, 2 epochs at 0.05"
    assert "random weights" in ears.said[1]
    assert any(note.startswith("stage 2/3, epoch 3/7") for note in ears.notes)
    plain = Ears()
    _, outcome = run(tmp_path / "b", progress=plain, stages=THREE[1:2])
    assert plain.said == []
    assert not any("stage" in row for row in outcome.epochs)
    assert not any("stage" in note for note in plain.notes)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_stopped_anywhere_it_resumes_to_the_same_bits(tmp_path, optimizer):
    more = {"optimizer": optimizer, "mixup": 0.4}
    whole, expected = run(tmp_path / "whole", loss=Failing(0), **more)
    # two calls a step: in the first stage, at the second's first step, in it, at the third's
    for at in (5, 10, 11, 9, 8):
        with pytest.raises(RuntimeError, match="injected"):
            run(tmp_path / "broken", loss=Failing(at), **more)
    broken, found = run(tmp_path / "broken", loss=Failing(0), **more)
    assert same_bits(whole, broken)
    assert found.best_epoch == expected.best_epoch
    for a, b in zip(expected.epochs, found.epochs, strict=True):
        for key in ("stage", "train_loss", "validation_loss", "learning_rate"):
            assert a[key] == b[key]


def stopped_after(work, epochs):
    """Stop in the middle of the epoch that follows, so that a checkpoint of `epochs` is left."""
    with pytest.raises(RuntimeError, match="injected"):
        run(work, loss=Failing(3 * epochs + 2))


@pytest.mark.parametrize("epochs", range(1, 7))
def test_a_checkpoint_of_every_epoch_resumes_to_the_same_bits(tmp_path, epochs):
    whole, _ = run(tmp_path / "whole", loss=Failing(0))
    stopped_after(tmp_path / "broken", epochs)
    broken, _ = run(tmp_path / "broken", loss=Failing(0))
    assert same_bits(whole, broken)


def test_patience_ends_the_stage_and_not_the_training(tmp_path):
    stages = tuple({**stage, "epochs": 6, "learning_rate": 1e-30} for stage in THREE)
    ears = Ears()
    # no batch norm and no rate: nothing ever improves
    _, outcome = run(tmp_path, plain_net(), stages=stages, patience=2, progress=ears)
    assert [row["epoch"] for row in outcome.epochs] == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    assert [row["stage"] for row in outcome.epochs] == [1] * 3 + [2] * 3 + [3] * 3
    assert ears.done == ears.total
