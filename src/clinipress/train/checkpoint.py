"""Checkpoints: tensors and JSON in one safetensors file, written atomically, nothing executable.

The writer streams tensor by tensor, because the library's own `save_file` wants all of them
contiguous at once, which doubles the memory of a channels-last network. The format is documented
at https://github.com/huggingface/safetensors#format; the library reads what is written here.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from clinipress.records.store import storage

__all__ = ["Checkpoint", "raw_bytes", "read", "write"]

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
KEY, SUMS = "clinipress", "clinipress.crc32"


def write(path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able facts to `path`, all or nothing.

    The file is written beside its place, flushed to the disk and then renamed over it: a kill at
    any moment leaves the old file or the new one.

    Raises:
        StorageError: The disk is full or the folder cannot be written; the old file is untouched.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with storage(f"the checkpoint '{path}'"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as stream:
                stream.write(_header(tensors, facts))
                for tensor in tensors.values():
                    stream.write(raw_bytes(tensor))
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def raw_bytes(tensor: torch.Tensor) -> Any:
    """The tensor's bytes in row-major order, as a buffer; copied only if they lie otherwise."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _header(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> bytes:
    sums = {name: zlib.crc32(raw_bytes(tensor)) for name, tensor in tensors.items()}
    about = {KEY: json.dumps(facts), SUMS: json.dumps(sums)}
    entries: dict[str, Any] = {"__metadata__": about}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _opened(path: Path) -> Any:
    return safe_open(str(path), framework="pt")


class Checkpoint:
    """A file that `write` made; tensors are read one at a time when asked for.

    Attributes:
        facts: The JSON part.
        names: Names of the tensors.
    """

    def __init__(self, path: Path) -> None:
        self._file = _opened(path)
        self.facts: dict[str, Any] = json.loads(self._file.metadata()[KEY])
        self.names: frozenset[str] = frozenset(self._file.keys())
        sums = json.loads(self._file.metadata().get(SUMS, "{}"))
        if any(zlib.crc32(raw_bytes(self.tensor(name))) != sums.get(name) for name in self.names):
            raise ValueError("a tensor is not what was written")

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU, contiguous."""
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor

    def copy_into(self, tensors: Mapping[str, torch.Tensor], prefix: str = "") -> None:
        """Fill the tensors given, in place, from those named ``prefix + name``."""
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(self.tensor(prefix + name))


def read(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`; None when there is none, or it is damaged or not one of ours."""
    if not path.is_file():
        return None
    try:
        return Checkpoint(path)
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None
