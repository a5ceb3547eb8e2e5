"""Checkpoint files: read by the safetensors library, whole or not at all."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from clinipress.errors import StorageError
from clinipress.train.checkpoint import read, write


def tensors():
    torch.manual_seed(0)
    return {
        "conv": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(3.5),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "strided": torch.arange(12.0).reshape(3, 4).T,
        "half": torch.randn(3).to(torch.bfloat16),
    }


def test_the_library_reads_what_is_written(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, tensors(), {"epoch": 3})
    theirs = load_file(path)
    assert theirs.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert theirs[name].dtype == tensor.dtype
        assert torch.equal(theirs[name], tensor)


def test_round_trip_with_facts(tmp_path):
    path = tmp_path / "deep" / "a.safetensors"
    facts = {"epoch": 3, "name": "ä", "rows": [{"loss": 0.1 + 0.2}], "best": None}
    write(path, tensors(), facts)
    kept = read(path)
    assert kept.facts == facts
    assert torch.equal(kept.tensor("conv"), tensors()["conv"])
    target = {"conv": torch.zeros(4, 3, 2, 2)}
    kept.copy_into(target)
    assert torch.equal(target["conv"], tensors()["conv"])


def test_what_is_not_ours_is_no_checkpoint(tmp_path):
    assert read(tmp_path / "none") is None
    torn = tmp_path / "torn"
    write(torn, tensors(), {})
    torn.write_bytes(torn.read_bytes()[:-5])
    assert read(torn) is None
    flipped = tmp_path / "flipped"
    write(flipped, tensors(), {})
    content = bytearray(flipped.read_bytes())
    content[-3] ^= 1  # of the last tensor: sizes and header stay as they were
    flipped.write_bytes(content)
    assert read(flipped) is None
    foreign = tmp_path / "foreign"
    save_file({"x": torch.zeros(2)}, foreign)
    assert read(foreign) is None
    (tmp_path / "empty").touch()
    assert read(tmp_path / "empty") is None


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write(path, {"x": torch.ones(3)}, {"epoch": 1})
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="full disk"):
        write(path, {"x": torch.zeros(3)}, {"epoch": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
