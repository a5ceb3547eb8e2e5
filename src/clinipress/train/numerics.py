"""Which arithmetic trains fastest here: measured, not assumed, and kept with its reason."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from clinipress.errors import ClinipressError, ModelError, RecipeError
from clinipress.models.classifier import Classifier
from clinipress.models.weights import laid_out
from clinipress.recipe.steps import TrainOptions
from clinipress.train import distributed
from clinipress.train.loader import Images
from clinipress.train.losses import hard_loss

__all__ = [
    "NUMERICS",
    "Numerics",
    "freeze_batch_norm",
    "measure_numerics",
    "named",
    "needs_contiguous",
    "out_of_place",
    "release_memory",
    "threads_set",
    "tune_allocator",
]

PREFERRED, PLAIN = "float32-channels-last", "float32-contiguous"
TIE = 1.03  # within this factor of the fastest the preferred one wins: it repeats best
WARM_UP, ROUNDS, HOPELESS = 1, 5, 1.5


@dataclass(frozen=True)
class Numerics:
    """One way to compute a training step.

    Attributes:
        dtype: Of the automatic mixed precision; None: float32 throughout.
        layout: Memory format of weights and activations.
    """

    dtype: torch.dtype | None
    layout: torch.memory_format

    def prepare(self, module: nn.Module) -> nn.Module:
        """Lay out the module's weights, in place."""
        return module.to(memory_format=self.layout)

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Lay out a batch."""
        return laid_out(images, self.layout)

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """The context of the forward pass."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self.dtype)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Scales the loss, for float16 alone needs it (its gradients underflow)."""
        return torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)


NUMERICS: dict[str, Numerics] = {
    "float32-contiguous": Numerics(None, torch.contiguous_format),
    "float32-channels-last": Numerics(None, torch.channels_last),
    "bfloat16-channels-last": Numerics(torch.bfloat16, torch.channels_last),
    "float16-channels-last": Numerics(torch.float16, torch.channels_last),
}


def named(name: str) -> Numerics:
    """The numerics of that name."""
    if name not in NUMERICS:
        raise RecipeError(f"numerics out of {', '.join(NUMERICS)}", f"'{name}'")
    return NUMERICS[name]


def measure_numerics(
    module: nn.Module,
    images: Images,
    options: TrainOptions,
    *,
    device: torch.device | None = None,
    threads: int | None = None,
) -> tuple[str, str]:
    """Time training steps of each candidate on a copy, and choose the fastest; its name, and why.

    Forward and backward passes at the final size on real pixels, the candidates in turn, so that a
    machine that slows down slows all of them; medians, the first process's in all. Float16 is tried
    on CUDA only. What the network fails in is left out. A name in the options other than "auto" is
    tried on two images and returned, or where it fails the plainest; without a device it is this
    process's accelerator, or the CPU.

    Raises:
        ModelError: The network cannot be trained at all.
    """
    if options.numerics != "auto":
        return _tried(module, images, options.numerics)
    distributed.join()
    device = device or distributed.device()
    share = max(1, options.batch_size // max(options.processes, distributed.world_size()))
    tune_allocator()
    with threads_set(distributed.local_threads(threads)), torch.random.fork_rng(devices=[]):
        times = _measure(module, images, share, device)
        chosen: tuple[str, str] = distributed.from_main(
            choose(times, _setting(images, share, device))
        )
        return chosen


def _tried(module: nn.Module, images: Images, name: str) -> tuple[str, str]:
    """The arithmetic of that name, or the plainest where the network fails in it; and why."""
    pixels, labels = _batch(images, 2, torch.device("cpu"))
    why = "named in the study"
    for each in dict.fromkeys((name, PLAIN)):
        trial = copy.deepcopy(module).cpu().train()
        freeze_batch_norm(trial)
        try:
            if needs_contiguous(module) and named(each).layout is torch.channels_last:
                raise RuntimeError("it cannot be run with channels last in memory")
            with torch.random.fork_rng(devices=[]):
                _step(trial, named(each), pixels, labels)
        except Exception as problem:  # the user's own code
            failed, why = problem, f"the network fails in {name}: {_first_line(problem)}"
        else:
            return each, why
    raise _untrainable(failed)


def needs_contiguous(module: nn.Module) -> bool:
    """Whether there is a network in it that cannot be run with channels last in memory."""
    return any(isinstance(part, Classifier) and part.contiguous for part in module.modules())


def _untrainable(problem: Exception) -> Exception:
    """The refusal of a network that fails in training mode; no memory is not its fault."""
    if isinstance(problem, ClinipressError | MemoryError | torch.OutOfMemoryError):
        return problem
    return ModelError(
        "a network that can be trained",
        f"{type(problem).__name__}: {_first_line(problem)}",
        "what it does in training mode fails: look for 'self.training' in its code",
    )


def _first_line(problem: Exception) -> str:
    return str(problem).strip().split("\n", maxsplit=1)[0][:200]


def choose(milliseconds: dict[str, float], setting: str) -> tuple[str, str]:
    """The fastest by its median, or the preferred one where it ties, and a sentence on why."""
    best = min(milliseconds, key=lambda name: milliseconds[name])
    tie = milliseconds.get(PREFERRED, float("inf")) <= milliseconds[best] * TIE
    chosen = PREFERRED if tie else best
    why = "fastest"
    if chosen != best:
        why = f"within {TIE - 1:.0%} of the fastest, {best}, and the more repeatable"
    order = sorted(milliseconds, key=lambda name: milliseconds[name])
    table = ", ".join(f"{name} {milliseconds[name]:.0f} ms" for name in order)
    return chosen, f"{chosen} is {why}; a training step took: {table} ({setting})"


def _measure(
    module: nn.Module, images: Images, batch: int, device: torch.device
) -> dict[str, float]:
    pixels, labels = _batch(images, batch, device)
    trial = copy.deepcopy(module).to(device).train()
    if len(labels) == 1:
        freeze_batch_norm(trial)
    plain = needs_contiguous(module)
    names = [n for n in NUMERICS if device.type == "cuda" or not n.startswith("float16")]
    names = [n for n in names if not plain or NUMERICS[n].layout is torch.contiguous_format]
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(ROUNDS):
        best = min(measured[0] for measured in times.values()) if number else float("inf")
        for name in list(times):
            if number and times[name][0] > HOPELESS * best:
                continue  # bfloat16 without units for it is ten times slower: once is enough
            numerics = NUMERICS[name]
            numerics.prepare(trial)
            for warm in range(WARM_UP + 1):
                began = time.perf_counter()
                try:
                    _step(trial, numerics, pixels, labels)
                except Exception as problem:  # the user's own code, or no such kernel
                    del times[name]
                    if not times:
                        raise _untrainable(problem) from problem
                    break
                if warm == WARM_UP:
                    times[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def _batch(images: Images, count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    rows = np.sort(images.train[:count])
    pixels = torch.from_numpy(images.cache.take(rows)).to(device)
    return pixels, torch.from_numpy(images.cache.labels[rows]).to(device)


def _step(
    module: nn.Module, numerics: Numerics, pixels: torch.Tensor, labels: torch.Tensor
) -> None:
    """Forward and backward; the optimizer costs every candidate the same and is left out."""
    with numerics.autocast(pixels.device):
        logits = module(numerics.images(pixels))
    hard_loss(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
    module.zero_grad(set_to_none=True)
    if pixels.device.type == "cuda":
        torch.cuda.synchronize(pixels.device)


def _setting(images: Images, batch: int, device: torch.device) -> str:
    _, _, height, width = images.cache.shape
    count = min(batch, len(images.train))
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        where = f"{threads} thread{'s' if threads > 1 else ''}"
    return f"batch {count}, {height}x{width}, {where}"


def freeze_batch_norm(module: nn.Module) -> None:
    """Put batch norms into eval mode: a batch of one image has no statistics to learn from."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


@contextlib.contextmanager
def out_of_place(module: nn.Module) -> Iterator[None]:
    """Inside, activations whose backward pass needs their input leave it alone.

    Written in place, autograd clones that input first: the memory is the same and the copy costs
    5 % of a MobileNetV2 step. (A plain ReLU needs only its output and stays in place.)
    """
    kinds = (nn.Hardtanh, nn.SiLU)  # ReLU6 is a Hardtanh
    changed = [part for part in module.modules() if isinstance(part, kinds) and part.inplace]
    for part in changed:
        part.inplace = False
    try:
        yield
    finally:
        for part in changed:
            part.inplace = True


@contextlib.contextmanager
def threads_set(threads: int | None) -> Iterator[None]:
    """Use `threads` CPU threads inside; None leaves them as they are."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tune_allocator() -> bool:
    """Keep freed activations in the process instead of giving them back to Linux at every step.

    By default glibc maps every large block anew, and the kernel zeroes its pages at every step:
    measured, 0.24 s of a MobileNetV2 step of 1.1 s (batch 32, 128 pixels, one thread), for a peak
    some 5 % higher. It stays for the life of the process; `release_memory` gives back what lies
    unused. Returns False where there is no glibc to tell.
    """
    libc = _glibc()
    if libc is None:
        return False
    trim_threshold, mmap_max = -1, -4  # malloc.h
    return bool(libc.mallopt(mmap_max, 0)) and bool(libc.mallopt(trim_threshold, 2**31 - 1))


def release_memory() -> bool:
    """Give the allocator's unused pages back to Linux; False where there is no glibc to tell."""
    libc = _glibc()
    return libc is not None and bool(libc.malloc_trim(0))


def _glibc() -> ctypes.CDLL | None:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)
