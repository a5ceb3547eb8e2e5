"""Several processes, one program: every process calls the same functions with the same arguments.

Under ``torchrun`` (``WORLD_SIZE`` in the environment) every process runs the whole flow; `rank`,
`world`, `is_main` and `barrier` also work in a plain process, where they mean "alone". Without
torchrun, `launch` starts the processes on this machine itself.

On CUDA, batch norm is synchronised over processes. On a CPU it is not: the statistics of a batch
are those of each process's share, and the running averages are averaged over processes after every
epoch. Choose shares that are not tiny.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import tempfile
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from clinipress.errors import ClinipressError, StudyError
from clinipress.progress import SILENT, Progress

__all__ = [
    "average_",
    "barrier",
    "connect",
    "device",
    "from_main",
    "is_main",
    "launch",
    "rank",
    "sum_",
    "synchronised",
    "world",
    "wrap",
]

# A rank may wait while another computes a teacher's outputs or measures; a dead peer is noticed by
# its closed connection, not by this.
PATIENCE = timedelta(hours=24)


def rank() -> int:
    """Number of this process among all, 0 when alone."""
    return dist.get_rank() if _connected() else int(os.environ.get("RANK", "0"))


def world() -> int:
    """Number of processes, 1 when alone."""
    return dist.get_world_size() if _connected() else int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True in the one process that writes files and speaks."""
    return rank() == 0


def device() -> torch.device:
    """This process's accelerator (by ``LOCAL_RANK``), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def connect(rendezvous: Path | None = None, number: int = 0, processes: int = 1) -> None:
    """Join the other processes; nothing when alone or already joined.

    Args:
        rendezvous: A file all processes of this machine see; None reads torchrun's environment.
        number: This process's rank, with `rendezvous`.
        processes: All processes, with `rendezvous`.
    """
    if _connected() or (rendezvous is None and world() == 1):
        return
    where = device()
    if where.type == "cuda":
        torch.cuda.set_device(where)
    backend = "nccl" if where.type == "cuda" else "gloo"
    if rendezvous is None:
        dist.init_process_group(backend, timeout=PATIENCE)
    else:
        method = rendezvous.resolve().as_uri()
        dist.init_process_group(
            backend, init_method=method, rank=number, world_size=processes, timeout=PATIENCE
        )


def barrier() -> None:
    """Wait until every process is here; nothing when alone."""
    connect()
    if _connected():
        dist.barrier()


def sum_(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over processes, in place; the same tensor when alone."""
    if _connected():
        dist.all_reduce(tensor)
    return tensor


def from_main(value: Any) -> Any:
    """The first process's value, in every process; the same value when alone.

    For what each process would measure differently, such as the fastest arithmetic.
    """
    if not _connected():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def average_(tensors: list[torch.Tensor]) -> None:
    """Mean over processes of each floating tensor, in place; nothing when alone."""
    if not _connected():
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor.div_(world())


def wrap(module: nn.Module) -> nn.Module:
    """The module as several processes train it; itself when alone.

    Gradients are averaged over processes; batch norm is synchronised on CUDA (see above).
    """
    if not _connected():
        return module
    first = next(module.parameters())
    devices = [first.device.index] if first.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        module, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=False
    )


@contextlib.contextmanager
def synchronised(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms of the module share their statistics over CUDA processes.

    The replaced layers hold the same tensors as the original ones, which come back at the end.
    """
    if not _connected() or next(module.parameters()).device.type != "cuda":
        yield
        return
    with swapped_batch_norm(module):
        yield


@contextlib.contextmanager
def swapped_batch_norm(module: nn.Module) -> Iterator[None]:
    """Inside, every batch norm of the module is a `SyncBatchNorm`."""
    # timm's own converter, because its norms carry an activation that torch's would drop
    from timm.layers import convert_sync_batchnorm

    kind = nn.modules.batchnorm._BatchNorm
    norms = {name: part for name, part in module.named_modules() if isinstance(part, kind)}
    convert_sync_batchnorm(module)
    try:
        yield
    finally:
        for name, part in norms.items():
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, part)


def launch(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    processes: int,
    progress: Progress = SILENT,
) -> Any:
    """Run ``function(*arguments, progress)`` in `processes` new processes of this machine.

    Everything crosses by pickling between our own processes: functions must be importable, and a
    loss must be a module's function or an object of a class, not a lambda.

    Args:
        function: What each process runs, joined to the others beforehand.
        arguments: Its arguments.
        processes: How many.
        progress: Hears what the first process reports.

    Returns:
        What the first process returned.

    Raises:
        ClinipressError: What a process raised on purpose.
        StudyError: A process died or failed otherwise.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        news: Any = context.Queue()
        meeting = Path(folder) / "rendezvous"
        crew = [
            context.Process(
                target=_child, args=(function, arguments, number, processes, meeting, news)
            )
            for number in range(processes)
        ]
        try:
            for process in crew:
                process.start()
            return _listen(crew, news, progress)
        finally:
            for process in crew:
                if process.is_alive():
                    process.terminate()
                process.join()


class _Relay:
    """A `Progress` that sends what it hears to the parent process."""

    def __init__(self, news: Any) -> None:
        self._news = news

    def start(self, what: str, total: int) -> None:
        self._news.put(("start", (what, total)))

    def advance(self, what: str, units: int = 1, note: str = "") -> None:
        self._news.put(("advance", (what, units, note)))

    def finish(self, what: str, note: str = "") -> None:
        self._news.put(("finish", (what, note)))

    def say(self, text: str) -> None:
        self._news.put(("say", (text,)))


def _child(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    number: int,
    processes: int,
    rendezvous: Path,
    news: Any,
) -> None:
    """Body of a launched process."""
    os.environ["LOCAL_RANK"] = str(number)
    try:
        connect(rendezvous, number, processes)
        result = function(*arguments, _Relay(news) if number == 0 else SILENT)
        if number == 0:
            news.put(("done", result))
        barrier()
    except KeyboardInterrupt:
        return  # the parent got it too and ends the others
    except ClinipressError as problem:
        news.put(("error", problem))
    except Exception as problem:
        trace = traceback.format_exc(limit=-1).strip().replace("\n", " ")
        text = f"{type(problem).__name__}: {problem} ({trace})"
        news.put(("error", StudyError("all training processes to finish", text)))
    finally:
        if _connected():
            dist.destroy_process_group()


def _listen(crew: list[Any], news: Any, progress: Progress) -> Any:
    """Relay the first process's reports until it is done; raise what went wrong."""
    while True:
        try:
            kind, content = news.get(timeout=0.2)
        except queue.Empty:
            dead = [i for i, one in enumerate(crew) if one.exitcode not in (None, 0)]
            if dead or all(one.exitcode == 0 for one in crew):
                raise _death(crew, dead) from None
            continue
        if kind == "done":
            return content
        if kind == "error":
            raise content
        getattr(progress, kind)(*content)


def _death(crew: list[Any], dead: list[int]) -> StudyError:
    """The error for processes that ended without a word."""
    codes = ", ".join(f"process {i} ended with {crew[i].exitcode}" for i in dead)
    return StudyError(
        "all training processes to finish",
        codes or "none that returned a result",
        "run again to resume from the last epoch; if memory ran out, use fewer processes",
    )


def _connected() -> bool:
    """True once this process has joined others."""
    return dist.is_available() and dist.is_initialized()
