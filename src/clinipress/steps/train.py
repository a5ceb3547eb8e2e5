"""Torch-side steps that fit weights: train, distil, prune and fine-tune.

All three are the one training loop with another start and another loss. Seeds derive from the
study's seed and the step's name, so a step added before does not change the ones after it.
"""

from __future__ import annotations

import copy
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clinipress.candidate import Candidate, Context
from clinipress.data.study import StudyData, pixel_statistics
from clinipress.errors import ModelError
from clinipress.models.classifier import Classifier, TorchCandidate, build
from clinipress.models.pruned import plan_pruning, prune
from clinipress.models.zoo import new_classifier
from clinipress.recipe import DistillStep, FineTuneStep, ModelRecipe, PruneStep, TrainOptions
from clinipress.records import Card, InputSpec, ModelSpec
from clinipress.store import digest_of
from clinipress.train.fit import Images, fit
from clinipress.train.losses import HardLoss, balanced_weights
from clinipress.train.numerics import measure_numerics
from clinipress.train.teacher import DistillationLoss, teacher_logits

__all__ = ["Distill", "FineTune", "Prune", "fresh_candidate", "step_seed"]

# steps that learn from the teacher share its views, so its outputs are computed once per study
SOFT = "soft-targets"


def step_seed(seed: int, kind: str) -> int:
    """A seed of its own for each kind of step."""
    return (seed * 1_000_003 + zlib.crc32(kind.encode())) % 2**31


def fresh_candidate(
    recipe: ModelRecipe, data: StudyData, input_spec: InputSpec, *, seed: int, name: str
) -> TorchCandidate:
    """A classifier before training: random, pretrained or from a checkpoint, as the recipe says."""
    mean, std = recipe.mean, recipe.std
    if mean is None or std is None:
        mean, std = pixel_statistics(data.cache(input_spec), data.rows("train", input_spec).index)
    torch.manual_seed(seed)
    spec, module = new_classifier(recipe, input_spec, len(data.classes), mean, std)
    return TorchCandidate(_card(name, data, input_spec, spec), module)


def _card(name: str, data: StudyData, input_spec: InputSpec, spec: ModelSpec) -> Card:
    return Card(name=name, classes=data.classes, input=input_spec, model=spec)


class FineTune:
    """Train the parent on labels; the reference's own training is this step on a fresh network."""

    kind = "train"
    inherits = True

    def __init__(self, recipe: FineTuneStep) -> None:
        self.recipe = recipe

    def plan(self, parent: Candidate | None, context: Context) -> dict[str, Any]:
        """Measure the numerics and fix the options."""
        module = _torch(parent).module
        return _plan_fit(module, self.recipe.train, context, self.kind)

    def apply(
        self, parent: Candidate | None, params: dict[str, Any], context: Context
    ) -> tuple[Candidate, dict[str, Any]]:
        """Fit a copy of the parent."""
        origin = _torch(parent)
        module = copy.deepcopy(origin.module)
        loss = _hard_loss(params, context, origin.card.input)
        facts = _fit(module, params, context, loss=loss, views=None)
        return TorchCandidate(origin.card, module), facts


class Distill:
    """Train a student on labels and on the reference's softened outputs (Hinton et al., 2015)."""

    kind = "distill"
    inherits = False  # the student starts from its own weights

    def __init__(self, recipe: DistillStep) -> None:
        self.recipe = recipe

    def plan(self, parent: Candidate | None, context: Context) -> dict[str, Any]:
        """Choose the student's normalisation and numerics; nothing is trained."""
        teacher = _teacher(context)
        student = self._student(context, teacher.card.input)
        soft = self.recipe
        return _plan_fit(student.module, soft.train, context, SOFT) | {
            "student": soft.student.model_dump(mode="json"),
            "teacher": teacher.digest,
            "temperature": soft.temperature,
            "alpha": soft.alpha,
            "views": soft.views,
        }

    def apply(
        self, parent: Candidate | None, params: dict[str, Any], context: Context
    ) -> tuple[Candidate, dict[str, Any]]:
        """Make the teacher's outputs once, then fit the student."""
        student = self._student(context, _teacher(context).card.input)
        loss, views = _soft_loss(params, context)
        facts = _fit(student.module, params, context, loss=loss, views=views)
        return student, facts

    def _student(self, context: Context, input_spec: InputSpec) -> TorchCandidate:
        seed = step_seed(context.seed, self.kind)
        return fresh_candidate(
            self.recipe.student, context.data, input_spec, seed=seed, name="student"
        )


class Prune:
    """Remove channels physically, then fine-tune with the reference's soft targets."""

    kind = "prune"
    inherits = True

    def __init__(self, recipe: PruneStep) -> None:
        self.recipe = recipe

    def plan(self, parent: Candidate | None, context: Context) -> dict[str, Any]:
        """Rank the channels and fix which go; the parent is left as it is."""
        origin = _torch(parent)
        asked = self.recipe
        history = plan_pruning(
            origin.module,
            ratio=asked.ratio,
            of=asked.of,
            criterion=asked.criterion,
            scope=asked.scope,
            round_to=asked.round_to,
            protect=asked.protect,
            seed=step_seed(context.seed, self.kind),
        )
        small = prune(origin.module, history)
        params = _plan_fit(small, asked.train, context, SOFT if asked.distill else self.kind)
        params["asked"] = asked.model_dump(mode="json", exclude={"train"})
        params["removed"] = [[module, is_out, list(index)] for module, is_out, index in history]
        if asked.distill:
            params |= {
                "teacher": _teacher(context).digest,
                "temperature": asked.temperature,
                "alpha": asked.alpha,
                "views": asked.views,
            }
        return params

    def apply(
        self, parent: Candidate | None, params: dict[str, Any], context: Context
    ) -> tuple[Candidate, dict[str, Any]]:
        """Cut a copy of the parent and fit what is left."""
        origin = _torch(parent)
        history = tuple((name, out, tuple(index)) for name, out, index in params["removed"])
        module = prune(origin.module, history)
        spec = _spec(origin)
        spec = spec.model_copy(update={"pruning": (*spec.pruning, *history)})
        loss, views = (
            _soft_loss(params, context)
            if self.recipe.distill
            else (_hard_loss(params, context, origin.card.input), None)
        )
        facts = _fit(module, params, context, loss=loss, views=views)
        rebuilt = build(spec, origin.card.input)  # proves that the record is enough to rebuild it
        rebuilt.load_state_dict(module.state_dict())
        return TorchCandidate(origin.card.model_copy(update={"model": spec}), rebuilt), facts


def _plan_fit(
    module: Classifier, options: TrainOptions, context: Context, kind: str
) -> dict[str, Any]:
    """The part of a plan that every training shares: options, seed, numerics and the reason."""
    data, spec = context.data, module.input_spec
    train = data.rows("train", spec)
    images = Images(data.cache(spec), train.index, data.rows("validation", spec).index)
    numerics, reason = measure_numerics(module, images, options, threads=context.threads)
    return {
        "options": options.model_dump(mode="json"),
        "modality": data.modality,
        "seed": step_seed(context.seed, kind),
        "numerics": numerics,
        "numerics_reason": reason,
    }


def _fit(
    module: Classifier,
    params: dict[str, Any],
    context: Context,
    *,
    loss: HardLoss | DistillationLoss,
    views: int | None,
) -> dict[str, Any]:
    """Fit `module` in place; returns the facts for the history."""
    data, spec = context.data, module.input_spec
    images = Images(
        data.cache(spec), data.rows("train", spec).index, data.rows("validation", spec).index
    )
    outcome = fit(
        module,
        images,
        TrainOptions.model_validate(params["options"]),
        modality=params["modality"],
        seed=params["seed"],
        work=context.work / "checkpoint",
        numerics=params["numerics"],
        loss=loss,
        views=views,
        threads=context.threads,
        progress=context.progress,
    )
    return {
        "epochs": outcome.epochs,
        "best_epoch": outcome.best_epoch,
        "best_validation_accuracy": outcome.best_score,
        "data_wait_share": outcome.data_wait_share,
    }


def _hard_loss(params: dict[str, Any], context: Context, spec: InputSpec) -> HardLoss:
    """Cross-entropy as the options say."""
    options = TrainOptions.model_validate(params["options"])
    labels = context.data.rows("train", spec).labels
    return HardLoss(
        options.label_smoothing, labels if options.class_weights == "balanced" else None
    )


def _soft_loss(
    params: dict[str, Any], context: Context
) -> tuple[HardLoss | DistillationLoss, int | None]:
    """Hinton's loss over cached teacher outputs; the control (alpha = 0) needs no teacher.

    The control sees a new view every epoch, which is the stronger training without a teacher.
    """
    spec = _teacher(context).card.input
    if params["alpha"] == 0:
        return _hard_loss(params, context, spec), None
    options = TrainOptions.model_validate(params["options"])
    train = context.data.rows("train", spec)
    balanced = options.class_weights == "balanced"
    loss = DistillationLoss(
        _teacher_table(params, options, context),
        train.index,
        temperature=params["temperature"],
        alpha=params["alpha"],
        smoothing=options.label_smoothing,
        class_weights=balanced_weights(train.labels, len(context.data.classes))
        if balanced
        else None,
    )
    return loss, params["views"]


def _teacher_table(
    params: dict[str, Any], options: TrainOptions, context: Context
) -> NDArray[np.float32]:
    """float32 ``[views, training images, classes]``, memory-mapped, computed once per study."""
    teacher, data = _teacher(context), context.data
    cache = data.cache(teacher.card.input)
    rows = data.rows("train", teacher.card.input).index
    key = digest_of(
        {
            "teacher": teacher.digest,
            "data": data.digest,
            "seed": params["seed"],
            "views": params["views"],
            "strength": options.augmentation,
            "modality": params["modality"],
        }
    )
    path: Path = context.shared / "teacher" / f"{key[:16]}.npy"
    return teacher_logits(
        teacher,
        cache,
        rows,
        modality=params["modality"],
        strength=options.augmentation,
        seed=params["seed"],
        views=params["views"],
        path=path,
        progress=context.progress,
    )


def _torch(candidate: Candidate | None) -> TorchCandidate:
    if not isinstance(candidate, TorchCandidate):
        raise ModelError("a PyTorch candidate to train on", f"{type(candidate).__name__}")
    return candidate


def _spec(candidate: TorchCandidate) -> ModelSpec:
    if candidate.card.model is None:
        raise ModelError("a card that says how to build the network", "a card without 'model'")
    return candidate.card.model


def _teacher(context: Context) -> Candidate:
    if context.reference is None:
        raise ModelError("a reference to learn from", "none", "give the study a 'reference'")
    return context.reference
