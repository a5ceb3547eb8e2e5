"""One flow in every process: what `torchrun` starts, walks the same steps and meets at each.

Without torchrun (no WORLD_SIZE in the environment, or 1) nothing here imports torch and every
question has the answer of a single process.
"""

from __future__ import annotations

import datetime
import os

from clinipress.extras import require

__all__ = ["agree", "barrier", "is_main", "join", "leave", "rank", "usable_cores", "world_size"]

# a first process may measure or quantize for an hour while the others wait for it
PATIENCE = datetime.timedelta(hours=24)


def usable_cores() -> int:
    """Cores that this process may use: a container or `taskset` may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def world_size() -> int:
    """Number of processes that torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, 0 for the first."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def is_main() -> bool:
    """True in the one process that writes and speaks."""
    return rank() == 0


def join() -> None:
    """Join the process group: NCCL where every process has a GPU, else gloo. Idempotent."""
    if world_size() == 1:
        return
    require("torch", extra="compress")
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)


def leave() -> None:
    """Leave the process group, so that the interpreter ends quietly."""
    if world_size() == 1:
        return
    require("torch", extra="compress")
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def barrier() -> None:
    """Wait until every process is here."""
    agree(True)


def agree(value: bool) -> bool:
    """The first process's answer, in every process."""
    if world_size() == 1:
        return value
    require("torch", extra="compress")
    import torch
    from torch import distributed

    join()
    flag = torch.tensor([int(value)])
    distributed.broadcast(flag, src=0)
    return bool(flag.item())
