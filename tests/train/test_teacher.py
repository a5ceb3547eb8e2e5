"""The teacher's cached outputs: the same views as the student's, once, however often killed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from clinipress.errors import DataError
from clinipress.records.candidate import Card, InputSpec
from clinipress.steps.distill import teacher as module
from clinipress.steps.distill.loss import DistillationLoss
from clinipress.steps.distill.teacher import Views, teacher_logits
from clinipress.train.augment import augment, draw
from clinipress.train.fit import Images, fit
from clinipress.train.losses import distillation
from kit.training import MemoryStore, options, plain_net

ROWS = np.array([3, 9, 1, 20, 7, 11, 2])
WHAT = {"modality": "brain-mri", "strength": 1.0, "seed": 4, "count": 3}


def views(cache=None, rows=ROWS, **changes):
    return Views(cache or MemoryStore(), rows, **(WHAT | changes))


class Teacher:
    """A candidate that counts what it is asked."""

    def __init__(self, classes=("a", "b"), fail_at=None, digest="d" * 64):
        spec = InputSpec(channels=1, height=8, width=8)
        self.card = Card(name="teacher", classes=classes, input=spec)
        self.digest, self.calls, self.fail_at = digest, 0, fail_at
        self.net = plain_net()

    def predict(self, images):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        with torch.no_grad():
            return self.net(torch.from_numpy(images)).numpy()


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "MARK_EVERY", 2)


def expected():
    cache, teacher = MemoryStore(), Teacher()
    views = [
        augment(
            torch.from_numpy(cache.take(ROWS)), 8, "brain-mri", 1.0, draw(4, view, ROWS)
        ).numpy()
        for view in range(3)
    ]
    return np.stack([teacher.predict(view) for view in views])


def test_logits_are_those_of_the_views(tmp_path):
    logits = teacher_logits(Teacher(), views(), path=tmp_path / "t.npy")
    assert logits.dtype == np.float32
    assert isinstance(logits, np.memmap)
    np.testing.assert_allclose(logits, expected(), rtol=0, atol=1e-6)
    assert not np.allclose(logits[0], logits[1])


def test_computed_once(tmp_path):
    path = tmp_path / "t.npy"
    teacher_logits(Teacher(), views(), path=path)
    again = Teacher(fail_at=1)
    logits = teacher_logits(again, views(), path=path)
    assert again.calls == 0
    np.testing.assert_allclose(logits, expected(), rtol=0, atol=1e-6)


def test_f1_a_table_that_was_damaged_is_computed_anew(tmp_path):
    path = tmp_path / "t.npy"
    teacher_logits(Teacher(), views(), path=path)
    content = bytearray(path.read_bytes())
    content[-2] ^= 64
    path.write_bytes(content)
    again = Teacher()
    np.testing.assert_allclose(teacher_logits(again, views(), path=path), expected(), atol=1e-6)
    assert again.calls == 12


def test_killed_in_the_middle_goes_on_from_its_mark(tmp_path):
    path = tmp_path / "t.npy"
    with pytest.raises(KeyboardInterrupt):
        teacher_logits(Teacher(fail_at=8), views(), path=path)
    assert json.loads((tmp_path / "t.npy.json").read_text())["done"] == 6
    second = Teacher()
    logits = teacher_logits(second, views(), path=path)
    assert second.calls == 12 - 6
    np.testing.assert_allclose(logits, expected(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("change", [{"seed": 5}, {"strength": 0.5}, {"count": 2}])
def test_other_views_are_computed_anew(tmp_path, change):
    path = tmp_path / "t.npy"
    teacher_logits(Teacher(), views(), path=path)
    second = Teacher()
    logits = teacher_logits(second, views(**change), path=path)
    assert second.calls == 4 * len(logits)


def test_another_teacher_is_asked_anew(tmp_path):
    path = tmp_path / "t.npy"
    teacher_logits(Teacher(), views(), path=path)
    second = Teacher(digest="e" * 64)
    teacher_logits(second, views(), path=path)
    assert second.calls == 12


def test_card_that_does_not_fit_the_outputs_is_refused(tmp_path):
    with pytest.raises(DataError, match="outputs of shape"):
        teacher_logits(Teacher(classes=("a", "b", "c")), views(), path=tmp_path / "t.npy")


def test_loss_finds_rows_and_views(tmp_path):
    table = np.random.default_rng(0).normal(size=(3, 7, 2)).astype(np.float32)
    loss = DistillationLoss(table, ROWS, temperature=4.0, alpha=0.7, smoothing=0.1)
    logits, labels = torch.randn(3, 2), torch.tensor([0, 1, 1])
    found = loss(logits, labels, np.array([20, 3, 2]), 1)
    teacher = torch.from_numpy(table[1, [3, 0, 6]])
    assert torch.equal(found, distillation(logits, labels, teacher, 4.0, 0.7, 0.1))
    with pytest.raises(DataError, match="rows the teacher has seen"):
        loss(logits, labels, np.array([20, 4, 2]), 1)


def test_student_sees_the_teachers_views(tmp_path):
    """A student that is its teacher has no soft loss: same images, rows and views throughout."""
    cache = MemoryStore()
    rows = np.arange(18)
    table = teacher_logits(Teacher(), views(cache, rows), path=tmp_path / "t.npy")
    soft = DistillationLoss(table, rows, temperature=2.0, alpha=1.0)
    losses = []

    def loss(logits, labels, batch, view):
        losses.append(float(soft(logits.detach(), labels, batch, view)))
        return 0 * logits.sum()

    chosen = options(epochs=5, weight_decay=0.0)
    fit(
        plain_net(), Images(cache, rows, np.arange(18, 24)), chosen, modality="brain-mri", seed=4,
        work=tmp_path, numerics="float32-contiguous", loss=loss, views=3,
    )  # fmt: skip
    assert len(losses) == 15
    assert max(losses) < 1e-9
