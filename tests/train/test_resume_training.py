"""A training that is killed and started again ends with the bits of one that was not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from clinipress.train import checkpoint
from clinipress.train.checkpoint import read
from clinipress.train.fit import Images, fit
from kit.forked import Forked
from kit.training import Failing, MemoryStore, options, same_bits, small_net, weights_of

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    path = os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE.parent)])
    imports = "import clinipress.train.fit, kit.training, torch._dynamo"  # as its optimizers do
    folder = tmp_path_factory.mktemp("processes")
    with Forked(folder, imports, environment=os.environ | {"PYTHONPATH": path}) as forked:
        yield forked


def start(forked, work, out, kind="plain"):
    return forked.start(str(HERE / "resume_child.py"), work, out, kind)


def epochs_done(work):
    kept = read(work / "checkpoint.safetensors")
    return 0 if kept is None else kept.facts["epoch"]


def kill_after(forked, work, out, epochs, kind):
    """Start, wait until so many epochs are on the disk, kill; the exit code."""
    child = start(forked, work, out, kind)
    deadline = time.monotonic() + 120
    while epochs_done(work) < epochs and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return child.kill()


@pytest.mark.parametrize("kind", ["plain", pytest.param("stages", marks=pytest.mark.nightly)])
def test_killed_training_resumes_to_the_same_bits(forked, tmp_path, kind):
    assert start(forked, tmp_path / "whole", tmp_path / "whole.txt", kind).wait() == 0
    work, out = tmp_path / "killed", tmp_path / "killed.txt"
    for epochs in (2, 5):  # once at the small size, once at the final one; in the middle of stages
        assert kill_after(forked, work, out, epochs, kind) == -signal.SIGKILL
        assert not out.exists()
        assert epochs <= epochs_done(work) < 8
    assert start(forked, work, out, kind).wait() == 0
    assert out.read_text() == (tmp_path / "whole.txt").read_text()


def run(work, loss=None, learning_rate=0.02, **more):
    module = small_net()
    data = Images(MemoryStore(), np.arange(18), np.arange(18, 24))
    chosen = options(epochs=6, learning_rate=learning_rate, **more)
    keys = {"modality": "generic", "seed": 3, "numerics": "float32-channels-last"}
    outcome = fit(module, data, chosen, work=work, loss=loss, **keys)
    return weights_of(module), outcome


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_error_in_the_middle_resumes_to_the_same_bits(tmp_path, optimizer, ema_decay):
    more = {"optimizer": optimizer, "ema_decay": ema_decay}
    whole, expected = run(tmp_path / "whole", Failing(0), **more)
    for at in (5, 4, 8):  # calls of each start: 3 steps make an epoch
        with pytest.raises(RuntimeError, match="injected"):
            run(tmp_path / "broken", Failing(at), **more)
    broken, found = run(tmp_path / "broken", Failing(0), **more)
    assert same_bits(whole, broken)
    assert found.best_epoch == expected.best_epoch
    for a, b in zip(expected.epochs, found.epochs, strict=True):
        for key in ("train_loss", "validation_accuracy", "validation_loss", "learning_rate"):
            assert a[key] == b[key]


def test_finished_training_is_not_repeated(tmp_path):
    whole, expected = run(tmp_path)
    again, outcome = run(tmp_path, Failing(1))
    assert same_bits(whole, again)
    assert outcome == expected


@pytest.mark.parametrize("change", [{"learning_rate": 0.01}, {"batch_size": 9}])
def test_checkpoint_of_another_training_is_not_used(tmp_path, change):
    run(tmp_path / "work")
    found, _ = run(tmp_path / "work", **change)
    fresh, _ = run(tmp_path / "fresh", **change)
    assert same_bits(found, fresh)


def test_kill_between_best_weights_and_checkpoint_resumes_to_the_same_bits(tmp_path, monkeypatch):
    whole, _ = run(tmp_path / "whole")
    work, writes, real = tmp_path / "work", [], checkpoint.write

    def write(path, tensors, facts):
        writes.append(path.name)
        if len(writes) > 3 and path.name.startswith("checkpoint"):
            raise KeyboardInterrupt
        real(path, tensors, facts)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", write)
        with pytest.raises(KeyboardInterrupt):
            run(work)
    assert writes[-2].startswith("best-")
    (work / "best-4.safetensors.part").write_bytes(b"half")
    broken, outcome = run(work)
    assert same_bits(whole, broken)
    names = {p.name for p in work.iterdir()}
    assert names == {"checkpoint.safetensors", f"best-{outcome.best_epoch}.safetensors"}


def test_checkpoint_without_its_best_weights_is_not_used(tmp_path):
    whole, outcome = run(tmp_path / "work")
    (tmp_path / "work" / f"best-{outcome.best_epoch}.safetensors").unlink()
    again, _ = run(tmp_path / "work")
    assert same_bits(whole, again)
