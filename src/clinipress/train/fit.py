"""The one training loop.

    for every epoch:   batches from (seed, epoch) -> forward, backward, step, average
                       validate on the averaged weights
                       write a checkpoint, atomically
    at the end:        the best epoch's weights go back into the module

A run that is killed and started again ends with the same bits as one that was not: every random
number comes from (seed, epoch, row), and a checkpoint holds everything else. Bits are promised for
one process and the same number of threads; several processes agree within rounding.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from clinipress.errors import DataError, RecipeError, StudyError
from clinipress.progress import SILENT, Progress
from clinipress.recipe.steps import TrainOptions
from clinipress.train import distributed
from clinipress.train.loader import Images, PixelStore
from clinipress.train.loop import Loss, Outcome, Request, Training
from clinipress.train.numerics import (
    measure_numerics,
    out_of_place,
    release_memory,
    threads_set,
    tune_allocator,
)
from clinipress.train.stages import learning_restored
from clinipress.train.state import Journal

__all__ = ["Images", "Loss", "Outcome", "PixelStore", "fit", "measure_numerics"]


def fit(
    module: nn.Module,
    images: Images,
    options: TrainOptions,
    *,
    modality: str,
    seed: int,
    work: Path,
    numerics: str = "auto",
    loss: Loss | None = None,
    views: int | None = None,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Outcome:
    """Train `module` in place, or go on where a killed run stopped.

    Full batches only: the remainder of an epoch is left out, another one every epoch; fewer images
    than a batch make one smaller batch. With one image per process and step, batch norms keep
    their running statistics. The module ends on the device it came on, in eval mode, contiguous,
    with the best epoch's averaged weights.

    With ``options.stages`` the stages follow each other in the same loop: each goes on from the
    last weights of the one before, and the running average goes through all of them. In a stage of
    the head alone the backbone gets no gradients and its batch norms keep their statistics, so its
    forward pass is the pretrained one. A checkpoint resumes in the middle of a stage like any
    other; `patience` ends the stage, not the training, while there is another.

    With several processes (torchrun, or ``options.processes``) the batch is split over them; call
    it in every process with the same arguments. On a CPU the statistics of batch norm are then per
    process (see `clinipress.train.distributed`).

    Args:
        module: uint8 ``[n, c, h, w]`` -> logits ``[n, classes]``; built from a seed, for its
            initial weights identify the training.
        images: Pixels, training rows, validation rows.
        options: The loop's options.
        modality: Of the augmentation.
        seed: Of the data order, the augmentation and dropout.
        work: Folder of this training's checkpoints, one training per folder.
        numerics: A name of `NUMERICS`, or "auto" to measure here.
        loss: ``(logits, labels, rows, view) -> scalar mean``; None: cross-entropy as `options`
            say. Must be picklable when ``options.processes > 1``.
        views: Number of augmented views the epochs go round (epoch e takes e mod views); None: a
            new view every epoch.
        threads: CPU threads over all processes; None leaves them as they are.
        progress: Hears steps, loss and time left.

    Returns:
        What came of it.

    Raises:
        DataError: There is no training or no validation image.
        RecipeError: The options do not fit the images or the processes.
        DivergedError: The loss or a weight became NaN or infinite; the last checkpoint is good.
        StorageError: A checkpoint could not be written; the last one is still there.
        StudyError: Another process died.
    """
    _check(images, options)
    request = Request(images, options, modality, seed, work, numerics, loss, views, threads)
    if options.processes > 1 and distributed.world_size() == 1:
        return _fit_launched(module, request, progress)
    return _fit_here(module, request, progress)


def _check(images: Images, options: TrainOptions) -> None:
    if len(images.train) == 0 or len(images.validation) == 0:
        what = "training" if len(images.train) == 0 else "validation"
        raise DataError(f"{what} images", "none", "give the split more images")
    batch = min(options.batch_size, len(images.train))
    processes = max(options.processes, distributed.world_size())
    if batch < processes:
        raise RecipeError(
            "at least one image per process in a batch",
            f"{batch} images for {processes} processes",
            "raise train.batch_size or lower train.processes",
        )


def _fit_launched(module: nn.Module, request: Request, progress: Progress) -> Outcome:
    """Start the processes, wait, and take over what they left in the work folder."""
    processes = request.options.processes
    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        count = torch.cuda.device_count()
        raise RecipeError(f"at most {count} processes, one per GPU", str(processes))
    if not _finished(module, request):
        share = replace(request, threads=request.threads or torch.get_num_threads())
        distributed.launch(_fit_in_child, (module, share), processes, progress)
    return _fit_here(module, request, SILENT, finished=True)


def _finished(module: nn.Module, request: Request) -> bool:
    journal = Journal.read(request.work)
    if journal is None or not journal.finished:
        return False
    return journal.identity == request.identity(module)


def _fit_in_child(module: nn.Module, request: Request, progress: Progress) -> None:
    _fit_here(module, request, progress)


def _fit_here(
    module: nn.Module, request: Request, progress: Progress, *, finished: bool = False
) -> Outcome:
    """Train in this process, alone or joined to others; leaves global state as it was.

    With `finished` nothing is trained: other processes have, and their result is taken over.
    """
    distributed.join()
    tune_allocator()
    device, home = distributed.device(), next(module.parameters()).device
    devices = [device] if device.type == "cuda" else []
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    threads = distributed.local_threads(request.threads)
    forked = torch.random.fork_rng(devices=devices)
    with threads_set(threads), forked, flags, learning_restored(module):
        try:
            training = Training(module, request, device, progress)
            if finished and not training.state.journal.finished:
                raise StudyError(
                    f"the processes' finished training in '{request.work}'",
                    "another one, or none",
                    "processes must see the same folder",
                )
            with distributed.synchronised(module), out_of_place(module):
                return training.run()
        finally:
            module.zero_grad(set_to_none=True)
            module.to(device=home, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            module.eval()
            release_memory()
