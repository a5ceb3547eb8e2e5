"""Feature losses against numpy, taps, and a training with regressors that survives a kill."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from clinipress.errors import DataError, ModelError
from clinipress.models.classifier import Classifier, TorchCandidate
from clinipress.models.stages import read_maps
from clinipress.records.candidate import Card, InputSpec, ModelSpec
from clinipress.steps.distill.features import (
    FeatureLoss,
    Tapped,
    attention,
    attention_loss,
    choose_pairs,
    hint_loss,
)
from clinipress.steps.distill.loss import DistillationLoss
from clinipress.steps.distill.teacher import (
    CachedMaps,
    LiveMaps,
    Views,
    teacher_logits,
    teacher_maps,
)
from clinipress.train.fit import Images, fit
from kit.training import MemoryStore, options, same_bits
from tiny_nets import make

RANDOM = np.random.default_rng(8)
SIDE = 16
SPEC = InputSpec(channels=1, height=SIDE, width=SIDE)


def maps(*shape):
    return RANDOM.normal(0, 2, shape)


def network(width, seed=0):
    torch.manual_seed(seed)
    return Classifier(make(2, 1, width), SPEC, 1, 0.3, 0.2)


def candidate(width, seed=1):
    model = ModelSpec(
        factory="tiny_nets:make", arguments={"width": width}, num_classes=2, in_channels=1,
        mean=0.3, std=0.2,
    )  # fmt: skip
    card = Card(name="teacher", classes=("a", "b"), input=SPEC, model=model)
    return TorchCandidate(card, network(width, seed).eval())


# ------------------------------------------------------------------------------------ the losses


def halved(x):
    """Means of squares of 2 x 2 places."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))


def test_hint_by_hand_and_at_two_sizes():
    student, teacher = maps(3, 5, 4, 4), maps(3, 5, 8, 8)
    small = halved(teacher)
    shares = [((s - t) ** 2).sum() / (t**2).sum() for s, t in zip(student, small, strict=True)]
    found = hint_loss(torch.from_numpy(student), torch.from_numpy(teacher))
    assert float(found) == pytest.approx(np.mean(shares))
    swapped = hint_loss(torch.from_numpy(teacher), torch.from_numpy(student))
    shares = [((s - t) ** 2).sum() / (t**2).sum() for s, t in zip(small, student, strict=True)]
    assert float(swapped) == pytest.approx(np.mean(shares))


def test_hint_is_a_share():
    teacher = torch.from_numpy(maps(2, 5, 4, 4))
    assert float(hint_loss(torch.zeros_like(teacher), teacher)) == pytest.approx(1)
    assert float(hint_loss(teacher, teacher)) == 0
    assert torch.isfinite(hint_loss(teacher, torch.zeros_like(teacher)))


def test_attention_by_hand():
    student, teacher = maps(3, 5, 4, 4), maps(3, 9, 8, 8)
    expected = []
    for s, t in zip((student**2).mean(1), halved((teacher**2).mean(1, keepdims=True)), strict=True):
        a, b = s.ravel() / np.linalg.norm(s), t.ravel() / np.linalg.norm(t)
        expected.append(2 - 2 * float(a @ b))  # squared distance of two unit vectors
    found = attention_loss(
        attention(torch.from_numpy(student)), attention(torch.from_numpy(teacher))
    )
    assert float(found) == pytest.approx(np.mean(expected))


def test_attention_looks_at_places_not_at_strength():
    student = torch.from_numpy(maps(2, 5, 4, 4))
    assert float(attention_loss(attention(student), attention(7 * student))) < 1e-12


def test_torchdistill_agrees():
    peer = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = torch.from_numpy(maps(3, 5, 4, 4)), torch.from_numpy(maps(3, 9, 4, 4))
    pair = {"student": {"io": "output", "path": "a"}, "teacher": {"io": "output", "path": "a"}}
    theirs = peer.ATLoss({"pair": pair})({"a": {"output": student}}, {"a": {"output": teacher}})
    ours = attention_loss(attention(student), attention(teacher))
    torch.testing.assert_close(ours, 16 * theirs)  # theirs is a mean over the 16 places


# --------------------------------------------------------------------------------------- the taps


def test_pairs_are_counted_from_the_end():
    student, teacher = network(8), network(12)
    fitnet = choose_pairs("fitnet", student, teacher)
    assert [(a.channels, b.channels, b.height) for a, b in fitnet] == [(16, 24, 4)]
    both = choose_pairs("attention", student, teacher)
    assert [(a.height, b.height) for a, b in both] == [(8, 8), (4, 4)]
    named = choose_pairs("fitnet", student, teacher, [("stem", "block")])
    assert [(a.name, b.name) for a, b in named] == [("stem", "block")]


def test_tapped_is_the_student_and_leaves_its_maps_once():
    student = network(8)
    images = torch.randint(0, 256, (2, 1, SIDE, SIDE), dtype=torch.uint8)
    expected = student.eval()(images)
    tapped = Tapped(student, ["down"], [(16, 24)], seed=3).eval()
    torch.testing.assert_close(tapped(images), expected)
    assert tapped.take() == []  # validation leaves nothing behind
    for part in tapped.train().modules():
        part.training = not isinstance(part, torch.nn.BatchNorm2d)
    tapped(images)
    (found,) = tapped.take()
    (plain,) = read_maps(student, ["down"], images)
    torch.testing.assert_close(found, tapped.regressors[0](plain))
    assert tapped.take() == []
    assert tapped.release() is student
    assert all(not part._forward_hooks for part in student.modules())


def test_regressors_come_from_their_seed_alone():
    torch.manual_seed(1)
    first = Tapped(network(8), ["down"], [(16, 24)], seed=3).regressors[0].weight
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again = Tapped(network(8), ["down"], [(16, 24)], seed=3).regressors[0].weight
    other = Tapped(network(8), ["down"], [(16, 24)], seed=4).regressors[0].weight
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(before, torch.random.get_rng_state())  # the network's own draws


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_taps_its_own_student(how):
    """Launched processes get copies; a hook that filled the original's hands would hand nothing."""
    tapped = how(Tapped(network(8), ["down"], None, seed=3)).train()
    tapped(torch.zeros(2, 1, SIDE, SIDE, dtype=torch.uint8))
    assert [one.shape for one in tapped.take()] == [(2, 16, 4, 4)]


def test_a_replaced_module_is_noticed():
    tapped = Tapped(network(8), ["down"], None, seed=3).train()
    tapped.network.backbone.down = torch.nn.Conv2d(8, 16, 3)
    with pytest.raises(ModelError, match="feature map from 'down'"):
        tapped(torch.zeros(2, 1, SIDE, SIDE, dtype=torch.uint8))


# ----------------------------------------------------------------------------- while it is trained

ROWS = np.arange(18)


def views(cache):
    return Views(cache, ROWS, "generic", 1.0, 3, 2)


@pytest.mark.parametrize(("method", "tolerance"), [("fitnet", 2e-3), ("attention", 1e-6)])
def test_cached_maps_are_the_live_ones(tmp_path, method, tolerance):
    cache, teacher = MemoryStore(side=SIDE), candidate(12)
    channels = (12, 24) if method == "fitnet" else (1, 1)
    shapes = [(channels[0], 8, 8), (channels[1], 4, 4)]
    layers = ["block", "down"]
    table = teacher_maps(
        teacher, layers, method, views(cache), shapes=shapes, path=tmp_path / "maps.npy"
    )
    assert table.dtype == (np.float16 if method == "fitnet" else np.float32)
    some = np.array([5, 0, 17])
    kept = CachedMaps(table, ROWS, shapes)(some, 1)
    live = LiveMaps(teacher, layers, method, views(cache))(some, 1)
    other = LiveMaps(teacher, layers, method, views(cache))(some, 0)
    for a, b, c in zip(kept, live, other, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        assert not torch.allclose(c, b, rtol=0.01)


def test_maps_beyond_float16_are_refused(tmp_path):
    teacher = candidate(12)
    with torch.no_grad():
        teacher.module.backbone.down[1].weight.fill_(1e6)
    with pytest.raises(DataError, match="finite"):
        teacher_maps(
            teacher, ["down"], "fitnet", views(MemoryStore(side=SIDE)), shapes=[(24, 4, 4)],
            path=tmp_path / "maps.npy",
        )  # fmt: skip


class Broken:
    """A source of maps that fails at its n-th call."""

    def __init__(self, source, at):
        self.source, self.left = source, at

    def __call__(self, rows, view):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("injected")
        return self.source(rows, view)


def train(work, method="fitnet", at=0, teacher_seed=1, **changes):
    """One training with a feature part; the student's and the regressors' final weights."""
    cache, teacher = MemoryStore(side=SIDE), candidate(12, teacher_seed)
    tapped = Tapped(network(8), ["down"], [(16, 24)] if method == "fitnet" else None, seed=3)
    source = Broken(LiveMaps(teacher, ["down"], method, views(cache)), at)
    table = teacher_logits(teacher, views(cache), path=work / "logits.npy")
    loss = DistillationLoss(
        table, ROWS, temperature=4.0, alpha=0.7, beta=5.0,
        features=FeatureLoss(tapped, source, method),
    )  # fmt: skip
    data = Images(cache, ROWS, np.arange(18, 24))
    chosen = options(epochs=5, learning_rate=0.02, **changes)
    fit(
        tapped, data, chosen, modality="generic", seed=3, work=work / "checkpoint",
        numerics="float32-channels-last", loss=loss, views=2,
    )  # fmt: skip
    regressors = {k: v.clone() for k, v in tapped.regressors.state_dict().items()}
    return {k: v.clone() for k, v in tapped.release().state_dict().items()}, regressors


def test_killed_and_resumed_ends_with_the_same_bits_regressors_included(tmp_path):
    whole, hints = train(tmp_path / "whole")
    for at in (5, 4):  # 3 steps make an epoch
        with pytest.raises(RuntimeError, match="injected"):
            train(tmp_path / "broken", at=at)
    broken, again = train(tmp_path / "broken")
    assert same_bits(whole, broken)
    assert same_bits(hints, again)
    fresh = Tapped(network(8), ["down"], [(16, 24)], seed=3).regressors.state_dict()
    assert not same_bits(hints, fresh)  # they were trained


@pytest.mark.parametrize("method", ["fitnet", "attention"])
def test_the_maps_teach(tmp_path, method):
    """Another teacher leads to another student."""
    mine, _ = train(tmp_path / "a", method)
    other, _ = train(tmp_path / "b", method, teacher_seed=2)
    assert not same_bits(mine, other)


def test_hint_falls_while_training(tmp_path):
    cache, teacher = MemoryStore(side=SIDE), candidate(12)
    tapped = Tapped(network(8), ["down"], [(16, 24)], seed=3)
    feature = FeatureLoss(tapped, LiveMaps(teacher, ["down"], "fitnet", views(cache)), "fitnet")
    heard = []

    def loss(logits, labels, rows, view):
        value = feature(rows, view)
        heard.append(float(value.detach()))
        return value + 0 * logits.sum()

    fit(
        tapped, Images(cache, ROWS, np.arange(18, 24)), options(epochs=30, learning_rate=0.02),
        modality="generic", seed=3, work=tmp_path, numerics="float32-contiguous", loss=loss,
        views=2,
    )  # fmt: skip
    assert np.mean(heard[-6:]) < 0.5 * np.mean(heard[:6])


@pytest.mark.nightly
def test_two_processes_train_the_regressors_together(tmp_path):
    one, hints = train(tmp_path / "one", processes=1)
    two, again = train(tmp_path / "two", processes=2)
    assert one.keys() == two.keys()
    assert hints.keys() == again.keys()
    fresh = Tapped(network(8), ["down"], [(16, 24)], seed=3).regressors.state_dict()
    assert not same_bits(again, fresh)
