"""The epochs of one training in one process; `clinipress.train.fit` is the way in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from clinipress.errors import DivergedError
from clinipress.progress import SILENT, Progress
from clinipress.recipe.steps import TrainOptions
from clinipress.stats.metrics import overall_score
from clinipress.train import distributed
from clinipress.train.layers import never_trained
from clinipress.train.loader import Batch, Images, Loader, Order, validation_batches
from clinipress.train.losses import HardLoss, hard_loss
from clinipress.train.mixing import draw_mix, mixed_loss
from clinipress.train.numerics import freeze_batch_norm, measure_numerics, named
from clinipress.train.optimizer import set_rate
from clinipress.train.schedule import epoch_order, epoch_sizes, steps_per_epoch
from clinipress.train.stages import TrainingStage, stage_at, step_costs
from clinipress.train.state import Journal, TrainState, identity

__all__ = ["EpochLoss", "Loss", "Outcome", "Request", "Training"]

Loss = Callable[[torch.Tensor, torch.Tensor, NDArray[np.int64], int], torch.Tensor]


@runtime_checkable
class EpochLoss(Protocol):
    """A loss that changes over the epochs; it is told of each before its first step."""

    def begin(self, epoch: int) -> None:
        """Epoch `epoch`, from 0, comes next; also the first one after a resumption."""


TASK = "training"
CHECK_EVERY = 20  # steps between looks at the loss where looking makes an accelerator wait
VALIDATION_BATCH = 64


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes:
        epochs: One row per epoch: epoch (from 0), size, learning_rate, train_loss,
            validation_accuracy and validation_loss (None where not validated), train_seconds,
            wait_seconds, seconds (with validation); in a training of several stages also stage
            (from 1). Epochs that a stage did without, out of patience, have no row.
        best_epoch: The epoch whose weights are kept, from 0.
        best_score: Its validation accuracy.
        numerics: Name of the arithmetic used.
        numerics_reason: Why.
        data_wait_share: Share of the training time spent waiting for data, first epoch left out.
        seconds: Training and validation, over all runs.
    """

    epochs: list[dict[str, Any]]
    best_epoch: int
    best_score: float
    numerics: str
    numerics_reason: str
    data_wait_share: float
    seconds: float


@dataclass(frozen=True)
class Request:
    """The arguments of `fit`, to be handed on as one."""

    images: Images
    options: TrainOptions
    modality: str
    seed: int
    work: Path
    numerics: str
    loss: Loss | None
    views: int | None
    threads: int | None

    def identity(self, module: nn.Module) -> str:
        """Digest of what this training's outcome depends on, `module` as it begins."""
        return identity(
            module,
            self.images,
            self.options,
            modality=self.modality,
            seed=self.seed,
            views=self.views,
        )


def _diverged(what: str, epoch: int, step: int) -> DivergedError:
    return DivergedError(
        "a finite training loss",
        f"{what} in epoch {epoch + 1}, step {step + 1}",
        "lower train.learning_rate or raise train.warmup_epochs; the last good epoch is kept",
    )


def _clock(seconds: float) -> str:
    """A duration as a person says it: 45s, 3m20s, 2h05m."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest}s"
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Training:
    """One training in one process."""

    def __init__(
        self, module: nn.Module, request: Request, device: torch.device, progress: Progress
    ) -> None:
        self.request, self.device = request, device
        self.images, self.options = request.images, request.options
        self.progress = progress if distributed.is_main() else SILENT
        self.steps = steps_per_epoch(len(self.images.train), self.options.batch_size)
        final = (self.images.cache.shape[2], self.images.cache.shape[3])
        self.sizes = epoch_sizes(self.options.sizes, self.options.epochs, final)
        self.first_final = next(i for i, size in enumerate(self.sizes) if size == final)
        journal = self._journal(module)
        self.numerics = named(journal.numerics)
        self.numerics.prepare(module.to(device))
        self.state = TrainState(module, self.options, self.numerics, device, journal)
        self.resumed = self.state.restore(request.work)
        balanced = self.options.class_weights == "balanced"
        labels = self.images.cache.labels[self.images.train] if balanced else None
        self.loss = request.loss or HardLoss(self.options.label_smoothing, labels)

    def _journal(self, module: nn.Module) -> Journal:
        """A new training's journal; "auto" numerics are measured, or taken from a resumed run."""
        request = self.request
        ours = request.identity(module)
        name, reason = request.numerics, "given"
        if name == "auto":
            earlier = Journal.read(request.work)
            if earlier is not None and earlier.identity == ours:
                name, reason = earlier.numerics, earlier.numerics_reason
            else:
                name, reason = measure_numerics(
                    module, self.images, self.options, device=self.device
                )
        return Journal(identity=ours, numerics=name, numerics_reason=reason)

    def run(self) -> Outcome:
        """All epochs that are left."""
        journal, work = self.state.journal, self.request.work
        total = self.options.epochs * self.steps
        self.progress.start(TASK, total)
        if self.resumed and not journal.finished:
            self.progress.say(f"resumed after epoch {journal.epoch} of {self.options.epochs}")
        self.progress.advance(TASK, journal.epoch * self.steps)
        if not journal.finished:
            self._epochs()
        self.state.load_best(work)
        distributed.barrier()
        several = self.images.cache.labels.ndim == 2
        score = f"AUROC {journal.best_accuracy:.3f}" if several else f"{journal.best_accuracy:.1%}"
        best = f"best epoch {1 + (journal.best_epoch or 0)}: {score}"
        self.progress.finish(TASK, best)
        return self._outcome()

    def _epochs(self) -> None:
        while not self.state.journal.finished:
            stage = stage_at(self.state.stages, self.state.journal.epoch)
            if stage != self.state.stage:
                self.state.begin(stage)
            self._announce(stage)
            self._stage(stage)

    def _announce(self, stage: TrainingStage) -> None:
        """Say which stage begins, where there are several, and what is odd about it."""
        if stage.of > 1:
            self.progress.say(str(stage))
        if stage.part == "head" and not stage.first and never_trained(self.state.module):
            self.progress.say(
                "the backbone that rests has random weights: no pretrained weights were given"
            )

    def _stage(self, stage: TrainingStage) -> None:
        """Train, validate, remember, until its last epoch or out of patience."""
        journal = self.state.journal
        # made anew for each stage, for it must know which parameters have gradients
        parallel = distributed.wrap(self.state.module)
        loader = Loader(
            self.images.cache,
            self._orders(journal.epoch, stage.end),
            modality=self.request.modality,
            strength=self.options.augmentation,
            seed=self.request.seed,
            device=self.device,
        )
        with loader:
            while not journal.finished and journal.epoch < stage.end:
                epoch, began = journal.epoch, time.perf_counter()
                facts = self._train(epoch, parallel, loader)
                accuracy, loss = self._validate(epoch)
                facts |= {"validation_accuracy": accuracy, "validation_loss": loss}
                facts["seconds"] = time.perf_counter() - began
                self._remember(epoch, facts, accuracy, loss)

    def _orders(self, first: int, end: int) -> Iterator[Order]:
        request, number, of = self.request, distributed.rank(), distributed.world_size()
        mixup, cutmix = self.options.mixup, self.options.cutmix
        for epoch in range(first, end):
            view, size = epoch % request.views if request.views else epoch, self.sizes[epoch]
            order = epoch_order(self.images.train, self.options.batch_size, request.seed, epoch)
            for step, rows in enumerate(order):
                mix = draw_mix(
                    rows, size, mixup=mixup, cutmix=cutmix, seed=request.seed, epoch=epoch,
                    step=step,
                )  # fmt: skip
                if mix is not None:
                    mix = replace(mix, partners=np.array_split(mix.partners, of)[number])
                yield Order(epoch, np.array_split(rows, of)[number], size, view, mix)

    def _train(self, epoch: int, parallel: nn.Module, loader: Loader) -> dict[str, Any]:
        self._prepare(epoch)
        began, waited = time.perf_counter(), loader.waited
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        lone = self.device.type == "cpu" and distributed.world_size() == 1
        every = 1 if lone else CHECK_EVERY
        rate = 0.0
        for step in range(self.steps):
            rate = self._set_rate(epoch * self.steps + step)
            total += self._step(parallel, next(loader))
            if (step + 1) % every == 0 or step + 1 == self.steps:
                mean = self._mean_loss(total, epoch, step)
                self._say(epoch, step, mean, began)
        stage = self.state.stage
        named = {"stage": stage.number} if stage.of > 1 else {}
        return named | {
            "epoch": epoch,
            "size": list(self.sizes[epoch]),
            "learning_rate": rate,
            "train_loss": mean,
            "train_seconds": time.perf_counter() - began,
            "wait_seconds": loader.waited - waited,
        }

    def _prepare(self, epoch: int) -> None:
        """Training mode, and dropout's numbers from (seed, epoch, process)."""
        words = [self.request.seed, epoch, distributed.rank()]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]))
        self.state.module.train()
        loss: object = self.loss
        if isinstance(loss, EpochLoss):
            loss.begin(epoch)
        batch = min(self.options.batch_size, len(self.images.train))
        if batch // distributed.world_size() == 1 or self.state.stage.part == "head":
            freeze_batch_norm(self.state.module)

    def _set_rate(self, step: int) -> float:
        rate = self.state.stage.rate(step, self.steps)
        set_rate(self.state.optimizer, rate)
        return rate

    def _step(self, parallel: nn.Module, batch: Batch) -> torch.Tensor:
        """Forward, backward, clip, step, average; this process's part of the batch's mean loss."""
        state, clip = self.state, self.options.gradient_clip
        with self.numerics.autocast(self.device):
            logits = parallel(self.numerics.images(batch.images))
        value = self._loss(logits.float(), batch)
        whole = min(self.options.batch_size, len(self.images.train))
        share = len(batch.rows) / whole  # processes may hold one image more or less
        # gradients are averaged over processes, so the sum of shares needs the factor world
        scaled = state.scaler.scale(value * (share * distributed.world_size()))
        scaled.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            state.scaler.unscale_(state.optimizer)
            torch.nn.utils.clip_grad_norm_(state.module.parameters(), clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.average.update()
        return value.detach() * share

    def _loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        def of(labels: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
            return self.loss(logits, labels, rows, batch.view)

        return mixed_loss(of, batch.labels, batch.rows, batch.partner)

    def _mean_loss(self, total: torch.Tensor, epoch: int, step: int) -> float:
        """Mean loss of the epoch so far, over all processes; DivergedError if it is not finite."""
        mean = float(distributed.sum_(total.clone())) / (step + 1)
        if not math.isfinite(mean):
            raise _diverged(f"a loss of {mean}", epoch, step)
        return mean

    def _say(self, epoch: int, step: int, mean: float, began: float) -> None:
        stride = CHECK_EVERY
        if (step + 1) % stride and step + 1 != self.steps:
            return
        done = stride if (step + 1) % stride == 0 else (step + 1) % stride
        costs = step_costs(self.state.stages, self.sizes)
        pace = (time.perf_counter() - began) / ((step + 1) * costs[epoch])
        left = pace * (sum(costs[epoch:]) * self.steps - (step + 1) * costs[epoch])
        note = f"epoch {epoch + 1}/{self.options.epochs}, loss {mean:.3f}, {_clock(left)} left"
        if self.state.stage.of > 1:
            note = f"stage {self.state.stage.number}/{self.state.stage.of}, {note}"
        self.progress.advance(TASK, done, note)

    def _validate(self, epoch: int) -> tuple[float | None, float | None]:
        """Accuracy and cross-entropy of the averaged weights, float32, on the validation rows."""
        journal = self.state.journal
        distributed.average_(list(self.state.average.floating_buffers(self.state.module)))
        if not self.state.finite():
            raise _diverged("a NaN or infinite weight", epoch, self.steps - 1)
        last = epoch + 1 == self.options.epochs
        early = epoch < self.first_final and (epoch + 1) % self.options.validate_every != 0
        if early and not last:
            return None, None
        rows = self.images.validation[distributed.rank() :: distributed.world_size()]
        accuracy, loss = self._tally(rows, self.sizes[epoch])
        if not math.isfinite(loss):
            raise _diverged(f"a validation loss of {loss}", journal.epoch, self.steps - 1)
        return accuracy, loss

    @torch.no_grad()
    def _tally(self, rows: NDArray[np.int64], size: tuple[int, int]) -> tuple[float, float]:
        """Accuracy, or mean area of the findings, and mean loss; `rows` are this process's."""
        if self.images.cache.labels.ndim == 2:
            return self._areas(rows, size)
        right, entropy = 0.0, 0.0
        for batch in validation_batches(
            self.images.cache, rows, size, VALIDATION_BATCH, self.device
        ):
            logits = self._answers(batch)
            right += float((logits.argmax(1) == batch.labels).sum())
            entropy += float(F.cross_entropy(logits, batch.labels, reduction="sum"))
        sums = torch.tensor([right, entropy], dtype=torch.float64, device=self.device)
        accuracy, loss = (distributed.sum_(sums) / len(self.images.validation)).tolist()
        return accuracy, loss

    def _answers(self, batch: Batch) -> torch.Tensor:
        """Of the averaged weights, float64."""
        module, weights = self.state.module.eval(), self.state.average.tensors
        pixels = self.numerics.images(batch.images)
        logits: torch.Tensor = torch.func.functional_call(module, weights, (pixels,))
        return logits.double()

    def _areas(self, rows: NDArray[np.int64], size: tuple[int, int]) -> tuple[float, float]:
        """No process can tell an area from its own images: they put their answers together."""
        every = self.images.validation
        labels = self.images.cache.labels[every]
        logits = torch.zeros(labels.shape, dtype=torch.float64, device=self.device)
        places = torch.from_numpy(np.flatnonzero(np.isin(every, rows))).to(self.device)
        answers = [
            self._answers(batch)
            for batch in validation_batches(
                self.images.cache, rows, size, VALIDATION_BATCH, self.device
            )
        ]
        if answers:
            logits[places] = torch.cat(answers)
        logits = distributed.sum_(logits)
        loss = float(hard_loss(logits, torch.from_numpy(labels).to(self.device)))
        return overall_score(logits.cpu().numpy(), labels), loss

    def _remember(
        self, epoch: int, facts: dict[str, Any], accuracy: float | None, loss: float | None
    ) -> None:
        journal = self.state.journal
        improved = False
        if accuracy is not None and loss is not None and epoch >= self.first_final:
            improved = journal.improves(accuracy, loss)
            if improved:
                journal.best_epoch, journal.best_accuracy, journal.best_loss = epoch, accuracy, loss
        journal.epochs.append(facts)
        journal.epoch = epoch + 1
        if self._tired(epoch):
            journal.epoch = self.state.stage.end
            self.progress.advance(TASK, (journal.epoch - epoch - 1) * self.steps)
        journal.finished = journal.epoch == self.options.epochs
        if distributed.is_main():
            self.state.save(self.request.work, improved=improved)
        distributed.barrier()

    def _tired(self, epoch: int) -> bool:
        """True when the stage has gone on for as long as allowed without a better score."""
        patience = self.options.patience
        first = max(self.first_final, self.state.stage.first)
        since = epoch - max(self.state.journal.best_epoch or 0, first)
        return patience is not None and epoch >= first and since >= patience

    def _outcome(self) -> Outcome:
        journal = self.state.journal
        rows = journal.epochs[1:] or journal.epochs
        busy = sum(row["train_seconds"] for row in rows)
        return Outcome(
            epochs=journal.epochs,
            best_epoch=journal.best_epoch or 0,
            best_score=journal.best_accuracy,
            numerics=journal.numerics,
            numerics_reason=journal.numerics_reason,
            data_wait_share=sum(row["wait_seconds"] for row in rows) / max(busy, 1e-9),
            seconds=sum(row["seconds"] for row in journal.epochs),
        )
