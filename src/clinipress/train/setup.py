"""Threads and determinism of torch, set once where a study begins."""

from __future__ import annotations

import torch

from clinipress.distributed import usable_cores

__all__ = ["prepare"]


def prepare(threads: int | None, seed: int) -> None:
    """Fix the number of threads of this process, torch's seed, and ask for deterministic kernels.

    Sums change in their last bits with the number of threads, so a resumed study must use the
    number it began with: it is part of the recipe, and None means all cores of this machine.
    """
    torch.set_num_threads(threads or usable_cores())
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # deterministic mode would also fill every new tensor, for nothing but debugging
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
