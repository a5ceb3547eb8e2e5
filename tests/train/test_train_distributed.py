"""Several processes: the same result as one, and their errors as they are."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import nn

from clinipress.errors import ImageError, StudyError
from clinipress.train import distributed
from clinipress.train.fit import Images, fit
from kit import training as train_kit
from kit.training import MemoryStore, options, plain_net, small_net, weights_of


def run(work, processes, batch=6, module=None):
    """Train; the weights and the outcome."""
    module = plain_net() if module is None else module
    data = Images(MemoryStore(n=30), np.arange(20), np.arange(20, 30))
    chosen = options(epochs=3, batch_size=batch, learning_rate=0.02, processes=processes)
    outcome = fit(
        module, data, chosen, modality="generic", seed=3, work=work,
        numerics="float32-channels-last", threads=2,
    )  # fmt: skip
    return weights_of(module), outcome


def test_two_processes_agree_with_one(tmp_path):
    batch = 5  # one process has an image more than the other
    one, alone = run(tmp_path / "one", 1, batch)
    two, joined = run(tmp_path / "two", 2, batch)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
    for a, b in zip(alone.epochs, joined.epochs, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["validation_loss"] == pytest.approx(b["validation_loss"], rel=1e-4)
        assert a["validation_accuracy"] == b["validation_accuracy"]
    assert joined.best_epoch == alone.best_epoch
    assert not torch.distributed.is_initialized()
    assert "RANK" not in os.environ


@pytest.mark.nightly
def test_two_processes_resume_and_average_batch_statistics(tmp_path):
    first, _ = run(tmp_path, 2, module=small_net())
    again, _ = run(tmp_path, 2, module=small_net())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert float(first["body.1.running_mean"].abs().sum()) > 0


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("ours", ImageError, "expected an image, got a stone: photograph it"),
        ("theirs", StudyError, r"ZeroDivisionError: oops \(fail, line"),
        ("dead", StudyError, r"process 1 ended with 7|process 0"),
    ],
)
def test_errors_of_a_process_reach_the_caller(kind, error, text):
    with pytest.raises(error, match=text):
        distributed.launch(train_kit.fail, (kind,), 2)


def test_sums_means_and_the_first_ones_word():
    ears = train_kit.Ears()
    found = distributed.launch(train_kit.collect, (), 2, ears)
    assert found == (3.0, 0.5, ("rank", 0), 2)
    assert ears.said == ["hello from 0"]


def test_a_loss_that_cannot_be_handed_over_is_refused(tmp_path):
    with pytest.raises(StudyError, match="handed to another process"):
        distributed.launch(train_kit.fail, (lambda: 0,), 2)


def test_alone_everything_is_its_own():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.from_main([1]) == [1]
    assert distributed.sum_(torch.tensor(2.0)).item() == 2
    assert distributed.local_threads(3) == 3
    assert distributed.local_threads(None) is None
    module = plain_net()
    assert distributed.wrap(module) is module
    distributed.barrier()


class NormAct(nn.BatchNorm2d):
    """Like timm's: a norm with its activation inside."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, images):
        return self.act(self.drop(super().forward(images)))


def test_synchronised_norms_hold_the_same_tensors_and_go_away():
    module = nn.Sequential(nn.Conv2d(1, 3, 1), NormAct(3), nn.Sequential(nn.BatchNorm2d(3)))
    before, names = list(module.modules()), list(module.state_dict())
    module.eval()
    images = torch.randn(2, 1, 4, 4)
    expected = module(images)
    with distributed.swapped_batch_norm(module):
        assert isinstance(module[1], nn.SyncBatchNorm)
        assert isinstance(module[2][0], nn.SyncBatchNorm)
        assert list(module.state_dict()) == names
        assert module[1].weight is before[2].weight
        assert torch.equal(module(images), expected)
    assert list(module.modules()) == before


@pytest.mark.nightly
def test_two_processes_agree_with_one_in_stages_with_mixed_images(tmp_path):
    stages = ({"train": "head", "epochs": 2}, {"epochs": 2, "layer_decay": 0.5})
    found = []
    for processes in (1, 2):
        module = plain_net()
        data = Images(MemoryStore(n=30), np.arange(20), np.arange(20, 30))
        chosen = options(
            epochs=4, stages=stages, batch_size=5, learning_rate=0.02, processes=processes,
            mixup=0.4, cutmix=1.0,
        )  # fmt: skip
        outcome = fit(
            module, data, chosen, modality="generic", seed=3, work=tmp_path / str(processes),
            numerics="float32-channels-last", threads=2,
        )  # fmt: skip
        found.append((weights_of(module), outcome))
    (one, alone), (two, joined) = found
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
    for a, b in zip(alone.epochs, joined.epochs, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["stage"] == b["stage"]
