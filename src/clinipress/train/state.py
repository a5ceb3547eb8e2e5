"""Everything a training must remember to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clinipress.recipe.steps import TrainOptions
from clinipress.train import checkpoint
from clinipress.train.layers import frozen_names
from clinipress.train.loader import Images
from clinipress.train.numerics import Numerics
from clinipress.train.optimizer import Average, make_optimizer, state_tensors
from clinipress.train.stages import TrainingStage, stage_at, training_stages

__all__ = ["Journal", "TrainState", "identity"]

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Journal:
    """The JSON part of a checkpoint.

    Attributes:
        identity: Digest of what is trained on what; another one is another training.
        numerics: Name of the arithmetic.
        numerics_reason: Why it was chosen.
        epoch: Epochs finished.
        updates: Updates of the running average.
        best_epoch: Epoch of the best weights, from 0; None before the first.
        best_accuracy: Its validation accuracy.
        best_loss: Its validation cross-entropy.
        epochs: One row of facts per epoch.
        scaler: State of the loss scaler (float16).
        finished: True once nothing is left to do.
    """

    identity: str
    numerics: str
    numerics_reason: str
    epoch: int = 0
    updates: int = 0
    best_epoch: int | None = None
    best_accuracy: float = 0.0
    best_loss: float = 0.0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)
    finished: bool = False

    @classmethod
    def read(cls, work: Path) -> Journal | None:
        """The journal of the checkpoint in `work`, if there is one."""
        kept = checkpoint.read(work / CHECKPOINT)
        return None if kept is None else cls(**kept.facts)

    def improves(self, accuracy: float, loss: float) -> bool:
        """True when a score beats the best: accuracy, ties by lower cross-entropy."""
        if self.best_epoch is None:
            return True
        return (accuracy, -loss) > (self.best_accuracy, -self.best_loss)


def identity(
    module: nn.Module,
    images: Images,
    options: TrainOptions,
    *,
    modality: str,
    seed: int,
    views: int | None,
) -> str:
    """sha256 of everything a training's outcome depends on, save the pixels and the loss.

    The initial weights are part of it: build the module from a seed, or a second run in the same
    folder cannot know that it is the same training.
    """
    digest = hashlib.sha256()
    facts = {
        "options": options.model_dump(mode="json", exclude={"processes"}),
        "modality": modality,
        "seed": seed,
        "views": views,
        "shape": list(images.cache.shape),
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for rows in (images.train, images.validation):
        digest.update(np.ascontiguousarray(rows, dtype=np.int64).tobytes())
        digest.update(np.ascontiguousarray(images.cache.labels[rows]).tobytes())
    for name, tensor in state_tensors(module).items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(checkpoint.raw_bytes(tensor))
    return digest.hexdigest()


class TrainState:
    """Network, optimizer, running average, loss scaler and journal, and their file.

    The module is already on its device and in its layout. The best weights live on the disk
    (``best-EPOCH.safetensors``), not in memory.
    """

    def __init__(
        self,
        module: nn.Module,
        options: TrainOptions,
        numerics: Numerics,
        device: torch.device,
        journal: Journal,
    ) -> None:
        self.module, self.journal, self.device = module, journal, device
        self.options, self.stages = options, training_stages(options)
        self._learning = {name for name, p in module.named_parameters() if p.requires_grad}
        self.begin(self.stages[0])
        self.average = Average(module, options.ema_decay)
        self.scaler = numerics.scaler(device)

    def begin(self, stage: TrainingStage) -> None:
        """Freeze what rests in a stage, and make it an optimizer of its own, without a past.

        Moments of the stage before were gathered at another rate and, of a frozen backbone, not
        at all.
        """
        frozen = frozen_names(self.module) if stage.part == "head" else frozenset()
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name in self._learning and name not in frozen)
        self.optimizer = make_optimizer(self.module, self.options, stage.layer_decay)
        self.stage = stage

    def finite(self) -> bool:
        """True while no weight is NaN or infinite."""
        floats = [p for p in state_tensors(self.module).values() if p.is_floating_point()]
        norms = torch._foreach_norm(floats, ord=float("inf"))
        return bool(torch.isfinite(torch.stack(norms)).all())

    def save(self, work: Path, *, improved: bool) -> None:
        """Write the checkpoint; `improved`: the average becomes the best weights first.

        The checkpoint names its file of best weights and is written after it; older ones are
        deleted last, so that every moment leaves a consistent pair behind.

        Raises:
            StorageError: The disk is full; the last checkpoint is still there.
        """
        if improved:
            checkpoint.write(best_file(work, self.journal), self.average.tensors, {})
        self.journal.updates = self.average.updates
        self.journal.scaler = self.scaler.state_dict()
        done = self.journal.finished  # then only the journal and the best weights are of use
        tensors = {} if done else dict(self._tensors())
        checkpoint.write(work / CHECKPOINT, tensors, asdict(self.journal))
        keep = best_file(work, self.journal)
        # earlier ones, and what a kill left half written
        for old in (*work.glob("best-*"), *work.glob(".best-*.part")):
            if old != keep:
                old.unlink(missing_ok=True)

    def restore(self, work: Path) -> bool:
        """Go on from the checkpoint in `work`, where there is one and it is of this training."""
        kept = self._ours(work)
        if kept is None:
            return False
        self.journal = Journal(**kept.facts)
        if self.journal.finished:
            return True
        kept.copy_into(state_tensors(self.module), "model/")
        if self.average.decay is not None:
            kept.copy_into(self.average.tensors, "average/")
        self.average.updates = self.journal.updates
        if self.journal.scaler:
            self.scaler.load_state_dict(self.journal.scaler)
        stage = stage_at(self.stages, self.journal.epoch)
        if stage != self.stage:
            self.begin(stage)
        if self.journal.epoch > stage.first:  # else the checkpoint's is of the stage before
            self._restore_optimizer(kept)
        return True

    def load_best(self, work: Path) -> None:
        """Put the best weights into the module; without any, the average as it is."""
        target = state_tensors(self.module)
        if self.journal.best_epoch is not None:
            checkpoint.Checkpoint(best_file(work, self.journal)).copy_into(target)
            return
        with torch.no_grad():
            for name, tensor in target.items():
                tensor.copy_(self.average.tensors[name])

    def _ours(self, work: Path) -> checkpoint.Checkpoint | None:
        kept = checkpoint.read(work / CHECKPOINT)
        if kept is None or kept.facts.get("identity") != self.journal.identity:
            return None
        journal = Journal(**kept.facts)
        if journal.numerics != self.journal.numerics:
            return None
        if journal.best_epoch is not None and checkpoint.read(best_file(work, journal)) is None:
            return None
        return kept

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in state_tensors(self.module).items():
            yield f"model/{name}", tensor
        if self.average.decay is not None:
            for name, tensor in self.average.tensors.items():
                yield f"average/{name}", tensor
        for number, parameter in enumerate(self._parameters()):
            for key, value in self.optimizer.state[parameter].items():
                if isinstance(value, torch.Tensor):
                    yield f"optimizer/{number}/{key}", value

    def _restore_optimizer(self, kept: checkpoint.Checkpoint) -> None:
        """Put moments back in the layout of their parameters, as the optimizer made them."""
        parameters = self._parameters()
        for name in sorted(kept.names):
            if not name.startswith("optimizer/"):
                continue
            _, number, key = name.split("/", 2)
            parameter, value = parameters[int(number)], kept.tensor(name)
            if value.shape == parameter.shape:
                value = torch.empty_like(parameter).copy_(value).detach()
            self.optimizer.state[parameter][key] = value.to(self.device)

    def _parameters(self) -> list[torch.Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def best_file(work: Path, journal: Journal) -> Path:
    """Where the best weights of the journal's best epoch are."""
    return work / f"best-{journal.best_epoch}.safetensors"
