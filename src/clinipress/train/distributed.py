"""Several processes that train one network, by the rules of `clinipress.distributed`.

Under ``torchrun`` every process runs the whole flow and meets the others here; without it `launch`
starts processes on this machine, which see the same environment as torchrun's.

On CUDA, batch norm is synchronised over processes. On a CPU it is not: the statistics of a batch
are those of each process's share, and the running averages are averaged over processes after every
epoch. Choose shares that are not tiny.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from clinipress.distributed import PATIENCE, barrier, is_main, join, leave, rank, world_size
from clinipress.errors import ClinipressError, StudyError
from clinipress.progress import SILENT, Progress

__all__ = [
    "average_",
    "barrier",
    "device",
    "from_main",
    "is_main",
    "join",
    "launch",
    "local_threads",
    "rank",
    "sum_",
    "synchronised",
    "world_size",
    "wrap",
]


def device() -> torch.device:
    """This process's accelerator (by ``LOCAL_RANK``), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def local_threads(threads: int | None) -> int | None:
    """This process's share of the threads of all, at least 1; `threads` itself when alone.

    None stands for as many as torch uses in one process.
    """
    if world_size() == 1:
        return threads
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))
    return max(1, (threads or torch.get_num_threads()) // here)


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
        tensor.div_(world_size())


def wrap(module: nn.Module) -> nn.Module:
    """The module as several processes train it; itself when alone.

    Gradients are averaged over processes; batch norm is synchronised on CUDA (see above).
    """
    if not _connected():
        return module
    first = next(module.parameters())
    devices = [first.device.index] if first.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        module,
        device_ids=devices,
        forward_sync_buffers=False,
        gradient_as_bucket_view=False,
        find_unused_parameters=_leaves_some_out(module),
    )


def _leaves_some_out(module: nn.Module) -> bool:
    """Whether a network's auxiliary outputs, and the weights of theirs alone, are not trained."""
    return any(getattr(getattr(part, "output", None), "beside", False) for part in module.modules())


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
    kind = nn.modules.batchnorm._BatchNorm
    norms = {name: part for name, part in module.named_modules() if isinstance(part, kind)}
    for name, part in norms.items():
        _put(module, name, _SyncNorm(part))
    try:
        yield
    finally:
        for name, part in norms.items():
            _put(module, name, part)


def _put(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, part)


class _SyncNorm(nn.SyncBatchNorm):
    """A synchronised stand-in for a batch norm, on the same tensors under the same names.

    timm's norms end in a drop and an activation, which torch's own converter would lose.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        self._parameters.update(norm._parameters)
        self._buffers.update(norm._buffers)
        self._modules.update(norm._modules)
        self.train(norm.training)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normed = super().forward(images)
        for part in self._modules.values():
            normed = normed if part is None else part(normed)
        return normed


def launch(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    processes: int,
    progress: Progress = SILENT,
) -> Any:
    """Run ``function(*arguments, progress)`` in `processes` new processes of this machine.

    Everything crosses by pickling between our own processes: functions must be importable, and a
    loss must be a module's function or an object of a class, not a lambda. Each process gets
    copies: handed over as they are, tensors would be shared, and the processes would train on the
    same memory. They are joined beforehand; what the first returns and reports is handed on.

    Raises:
        ClinipressError: What a process raised on purpose.
        StudyError: A process died or failed otherwise, or an argument cannot be handed over.
    """
    try:
        work = pickle.dumps((function, arguments))
    except (pickle.PicklingError, AttributeError, TypeError) as problem:
        raise StudyError(
            "arguments that can be handed to another process",
            str(problem),
            "use objects of importable classes, or start the processes with torchrun",
        ) from None
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        news: Any = context.Queue()
        meeting = (Path(folder) / "rendezvous").resolve().as_uri()
        crew = [
            context.Process(target=_child, args=(work, number, processes, meeting, news))
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


def _child(work: bytes, number: int, processes: int, rendezvous: str, news: Any) -> None:
    sizes = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    ranks = {"RANK": number, "LOCAL_RANK": number}
    os.environ.update({name: str(value) for name, value in (sizes | ranks).items()})
    try:
        function, arguments = pickle.loads(work)  # our parent's own bytes, never a file's
        _meet(rendezvous)
        result = function(*arguments, _Relay(news) if number == 0 else SILENT)
        if number == 0:
            news.put(("done", result))
        barrier()
    except KeyboardInterrupt:
        return  # the parent got it too and ends the others
    except ClinipressError as problem:
        news.put(("error", problem))
    except Exception as problem:
        where = traceback.extract_tb(problem.__traceback__)[-1]
        text = f"{type(problem).__name__}: {problem} ({where.name}, line {where.lineno})"
        news.put(("error", StudyError("all training processes to finish", text)))
    finally:
        leave()


def _meet(rendezvous: str) -> None:
    """Join the processes that `launch` started; as `join`, but through a file."""
    where = device()
    if where.type == "cuda":
        torch.cuda.set_device(where)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo",
        init_method=rendezvous,
        rank=rank(),
        world_size=world_size(),
        timeout=PATIENCE,
    )


def _listen(crew: list[Any], news: Any, progress: Progress) -> Any:
    """Relay the first process's reports until it is done; raise what went wrong."""
    while True:
        try:
            kind, content = news.get(timeout=0.2)
        except queue.Empty:
            dead = [i for i, process in enumerate(crew) if process.exitcode not in (None, 0)]
            if dead or all(process.exitcode == 0 for process in crew):
                raise _death(crew, dead) from None
            continue
        if kind == "done":
            return content
        if kind == "error":
            raise content
        getattr(progress, kind)(*content)


def _death(crew: list[Any], dead: list[int]) -> StudyError:
    codes = ", ".join(f"process {i} ended with {crew[i].exitcode}" for i in dead)
    return StudyError(
        "all training processes to finish",
        codes or "none that returned a result",
        "run again to resume from the last epoch; if memory ran out, use fewer processes",
    )


def _connected() -> bool:
    return dist.is_available() and dist.is_initialized()
