"""The reference's softened outputs, computed once per study for all steps that learn from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.candidate import Candidate, Context
from clinipress.errors import ModelError
from clinipress.recipe import TrainOptions
from clinipress.steps.fitting import hard_loss
from clinipress.store import digest_of
from clinipress.train.losses import HardLoss, balanced_weights
from clinipress.train.teacher import DistillationLoss, teacher_logits

__all__ = ["SOFT", "root_teacher", "soft_loss"]

# the seed's name: steps that learn from the teacher share its views, so that its outputs are
# computed once per study
SOFT = "soft-targets"


def root_teacher(context: Context) -> Candidate:
    """The root reference.

    Raises:
        ModelError: It is still being made.
    """
    if context.reference is None:
        raise ModelError("a reference to learn from", "none", "give the study a 'reference'")
    return context.reference


def soft_loss(
    params: dict[str, Any], context: Context
) -> tuple[HardLoss | DistillationLoss, int | None]:
    """Hinton's loss over cached teacher outputs; the control (alpha = 0) needs no teacher.

    The control sees a new view every epoch, which is the stronger training without a teacher.
    """
    spec = root_teacher(context).card.input
    if params["alpha"] == 0:
        return hard_loss(params, context, spec), None
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
    teacher, data = root_teacher(context), context.data
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
