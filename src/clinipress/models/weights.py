"""Weight files, read as data: no file that holds code is ever run.

safetensors cannot hold code. A PyTorch file is a pickle, which can: it is read with torch's
weights-only unpickler, which refuses everything but tensors and plain containers.
"""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from clinipress.errors import ModelError

__all__ = ["laid_out", "load_state", "read_state", "read_tensors", "safetensors_bytes"]

# where training scripts put the weights inside a checkpoint, best first
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
# what wrappers of the network put before each name
PREFIXES = ("module.", "_orig_mod.", "backbone.")


def safetensors_bytes(state: Mapping[str, Tensor], facts: dict[str, str]) -> bytes:
    """A state dict as a safetensors file with `facts` in its header; names may share one tensor."""
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    return safetensors.torch.save(plain, metadata=facts)


def load_state(module: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Load weights as of the module's own version: a file of tensors alone does not say which."""
    versioned = OrderedDict(state)
    versioned._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(versioned, strict=strict)


def laid_out(images: Tensor, layout: torch.memory_format) -> Tensor:
    """Images ``[n, c, h, w]`` in a memory format, whatever the strides of sides of 1.

    Those of one grey channel mean nothing, and yet convolutions take them for channels last.
    """
    images = images.contiguous(memory_format=layout)
    plain = layout is torch.contiguous_format
    return images.reshape(-1).view(images.shape) if plain else images


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header facts of a safetensors file.

    Raises:
        ModelError: No such file, or it is damaged or cut short.
    """
    if not path.is_file():
        raise ModelError("a safetensors file", f"nothing at '{path}'", "check the path")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as problem:
        raise ModelError(
            f"a whole safetensors file at '{path}'",
            f"a damaged one ({problem})",
            "copy or download it again",
        ) from None


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors or PyTorch file, told apart by content.

    A state dict inside a checkpoint (under "state_dict", "model", ...) is found, and the prefixes
    of wrappers ("module.") are taken off.

    Raises:
        ModelError: No such file; damaged; code in it; or no tensors in it.
    """
    if not path.is_file():
        raise ModelError("a file with weights", f"nothing at '{path}'", "check the path")
    if _is_safetensors(path):
        tree: Any = read_tensors(path)[0]
    else:
        tree = _read_torch(path)
    for wrapper in WRAPPERS:
        if isinstance(tree, Mapping) and isinstance(tree.get(wrapper), Mapping):
            tree = tree[wrapper]
    state = _tensors(tree)
    if not state:
        raise ModelError(
            f"a state dict in '{path}'",
            f"{type(tree).__name__} without tensors",
            "save it with torch.save(network.state_dict(), ...) or as safetensors",
        )
    return _without_prefixes(state)


def _is_safetensors(path: Path) -> bool:
    """The header's length in 8 bytes, then JSON; a zip begins with PK, a pickle with 0x80."""
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (len(head) == 9 and head[8:9] == b"{")


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # torch says that old formats and storages will go; the file is only read
            warnings.filterwarnings("ignore", category=UserWarning, module="torch")
            warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        if "Unsupported" in str(problem) or "GLOBAL" in str(problem):
            raise ModelError(
                f"weights alone in '{path}'",
                "a pickle with code or whole objects in it, which is not run",
                "save the network's state_dict() or convert it to safetensors",
            ) from None
        raise _damaged(path, problem) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as problem:
        raise _damaged(path, problem) from None


def _damaged(path: Path, problem: Exception) -> ModelError:
    reason = str(problem).split("\n", maxsplit=1)[0][:120] or type(problem).__name__
    return ModelError(
        f"a safetensors file or a PyTorch checkpoint at '{path}'",
        f"something else, or a damaged one ({reason})",
        "copy or download it again",
    )


def _tensors(tree: Any) -> dict[str, Tensor]:
    if not isinstance(tree, Mapping):
        return {}
    return {str(k): v.detach() for k, v in tree.items() if isinstance(v, Tensor)}


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefixes that every name has; nested wrappers leave several."""
    while prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
