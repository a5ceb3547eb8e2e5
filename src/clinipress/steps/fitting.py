"""What every torch-side step shares: a fresh network, a plan for the one training loop, the loop.

Seeds derive from the study's seed and the step's name, so a step added before does not change the
ones after it.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clinipress.data.study import StudyData, pixel_statistics
from clinipress.errors import ModelError
from clinipress.models.classifier import Classifier, TorchCandidate, new_classifier, notes
from clinipress.models.normalization import USUAL, Normalization, normalization_of
from clinipress.progress import SILENT, Progress
from clinipress.recipe.steps import ModelRecipe, TrainOptions
from clinipress.records.candidate import Candidate, Card, InputSpec
from clinipress.stats.metrics import overall_score, score_words, strata
from clinipress.steps.distill.features import Tapped
from clinipress.steps.qat.network import QuantizedNetwork
from clinipress.steps.step import Context
from clinipress.train.fit import Images, Loss, fit
from clinipress.train.losses import HardLoss
from clinipress.train.numerics import measure_numerics

__all__ = [
    "calibration_rows",
    "chosen_normalization",
    "fit_module",
    "fresh_candidate",
    "hard_loss",
    "normalization_lines",
    "plan_fit",
    "step_seed",
    "torch_candidate",
]

WORTH_SAYING = 0.05  # of the validation accuracy, that another normalization gives more


def step_seed(seed: int, kind: str) -> int:
    """A seed of its own for each kind of step."""
    return (seed * 1_000_003 + zlib.crc32(kind.encode())) % 2**31


def fresh_candidate(
    recipe: ModelRecipe,
    data: StudyData,
    input_spec: InputSpec,
    *,
    seed: int,
    name: str,
    progress: Progress = SILENT,
) -> TorchCandidate:
    """A classifier before training: random, pretrained or from a checkpoint, as the recipe says.

    What is read differently from how the network gives it is said.
    """
    chosen = chosen_normalization(recipe, data, input_spec)
    torch.manual_seed(seed)
    classes = len(data.classes)
    spec, module = new_classifier(
        recipe, input_spec, classes, chosen.mean, chosen.std, task=data.task
    )
    for sentence in notes(spec, recipe, input_spec, data.classes):
        progress.say(f"{name}: {sentence}")
    return TorchCandidate(
        Card(name=name, classes=data.classes, input=input_spec, model=spec, task=data.task), module
    )


def chosen_normalization(
    recipe: ModelRecipe, data: StudyData, input_spec: InputSpec
) -> Normalization:
    """The recipe's, else that of the weights it names, else the training images'."""
    if recipe.mean is not None and recipe.std is not None:
        return Normalization(recipe.mean, recipe.std, "the study file")
    own = normalization_of(recipe)
    if own is not None:
        return own.for_channels(
            recipe.in_channels or (3 if recipe.pretrained else input_spec.channels)
        )
    rows = data.rows("train", input_spec).index
    return Normalization(*pixel_statistics(data.cache(input_spec), rows), "the training images")


def normalization_lines(
    candidate: TorchCandidate, recipe: ModelRecipe, data: StudyData, *, trained: bool
) -> list[str]:
    """What must be known of a network's normalization before it is trained or measured.

    Args:
        candidate: As `fresh_candidate` made it.
        recipe: What it was made by.
        data: The images; validation is answered where it decides.
        trained: Whether the weights are taken as they are, so that their accuracy tells.
    """
    if not (recipe.pretrained or recipe.checkpoint):
        return []
    chosen = chosen_normalization(recipe, data, candidate.card.input)
    own = normalization_of(recipe)
    channels = candidate.spec.in_channels
    own = own.for_channels(channels) if own is not None else None
    differs = own is not None and not own.same(chosen)
    lines = [f"normalization of {chosen.source}: {chosen}"]
    if differs:
        lines = [f"{lines[0]}; that of {own and own.source} is another: {own}"]
    if not trained:
        return lines if differs else []
    others = [own] if own is not None and differs else []
    if own is None:
        others = [n.for_channels(channels) for n in USUAL]
    rows = data.rows("validation", candidate.card.input)
    images = data.cache(candidate.card.input).take(rows.index)

    def accuracy(normalization: Normalization) -> float:
        module = Classifier(
            candidate.module.backbone, candidate.card.input, channels,
            normalization.mean, normalization.std,
        )  # fmt: skip
        module.contiguous = candidate.module.contiguous
        logits = TorchCandidate(candidate.card, module).predict(images)
        return overall_score(logits, rows.labels)

    here = accuracy(chosen)
    there = {other: accuracy(other) for other in others if not other.same(chosen)}
    best = max(there, key=lambda other: there[other], default=None)
    if best is not None and (differs or there[best] > here + WORTH_SAYING):
        several = data.task == "multilabel"
        lines.append(
            f"on the validation images: {score_words(here, several=several)} with {chosen}, "
            f"{score_words(there[best], several=several)} with {best} ({best.source}): "
            "model.mean and model.std say which it was trained with"
        )
    return lines


def torch_candidate(candidate: Candidate | None) -> TorchCandidate:
    """The parent as one that can be trained; learnt ranges end with the weights they belong to.

    Raises:
        ModelError: It is a file, or there is none.
    """
    if not isinstance(candidate, TorchCandidate):
        raise ModelError("a PyTorch candidate to train on", f"{type(candidate).__name__}")
    if candidate.spec.ranges is None:
        return candidate
    spec = candidate.spec.model_copy(update={"ranges": None})
    return TorchCandidate(candidate.card.model_copy(update={"model": spec}), candidate.module)


def plan_fit(
    module: Classifier, options: TrainOptions, context: Context, kind: str
) -> dict[str, Any]:
    """The part of a plan that every training shares: options, seed, numerics and the reason."""
    data, spec = context.data, module.input_spec
    train = data.rows("train", spec)
    images = Images(data.cache(spec), train.index, data.rows("validation", spec).index)
    numerics, reason = measure_numerics(module, images, options, threads=context.threads)
    grades = [data.classes.index(name) for name in data.order] if options.order_weight else []
    return ({"order": grades} if grades else {}) | {
        "options": options.model_dump(mode="json"),
        "modality": data.modality,
        "seed": step_seed(context.seed, kind),
        "numerics": numerics,
        "numerics_reason": reason,
    }


def fit_module(
    module: Classifier | QuantizedNetwork | Tapped,
    params: dict[str, Any],
    context: Context,
    *,
    loss: Loss,
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


def hard_loss(params: dict[str, Any], context: Context, spec: InputSpec) -> HardLoss:
    """Cross-entropy as the options say."""
    options = TrainOptions.model_validate(params["options"])
    labels = context.data.rows("train", spec).labels
    return HardLoss(
        options.label_smoothing, labels if options.class_weights == "balanced" else None,
        ordinal=options.order_weight, order=params.get("order", ()),
    )  # fmt: skip


def calibration_rows(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Places of training images for range calibration: the classes in turn, drawn by a seed.

    int64 ``[min(count, n)]`` of the labels' n, sorted, without repetition.
    """
    generator = np.random.default_rng(seed)
    labels = strata(labels)
    piles = [list(generator.permutation(np.flatnonzero(labels == c))) for c in np.unique(labels)]
    chosen: list[int] = []
    while len(chosen) < min(count, len(labels)):
        chosen += [int(pile.pop()) for pile in piles if pile][: count - len(chosen)]
    return np.sort(np.asarray(chosen, dtype=np.int64))
