"""Teachers and their answers, computed once per study for all steps that learn from them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress import distributed
from clinipress.data.cache import DECODERS
from clinipress.edge.load import load_candidate
from clinipress.errors import ModelError
from clinipress.formats.file import digest_of_files
from clinipress.formats.onnx.foreign import is_ours, own_files
from clinipress.formats.open import TRAINING_PACKAGES
from clinipress.formats.trials import trial_lines
from clinipress.models.classifier import Classifier, TorchCandidate
from clinipress.recipe.steps import DistillStep, OnnxRecipe, PruneStep, QatStep, TrainOptions
from clinipress.records.candidate import Candidate, InputSpec
from clinipress.records.store import digest_of, versions
from clinipress.steps.adopt import adopt_file, adopted_input, load_adopted
from clinipress.steps.distill.features import (
    FeatureLoss,
    FeatureMethod,
    MapSource,
    Tapped,
    choose_pairs,
)
from clinipress.steps.distill.loss import DistillationLoss
from clinipress.steps.distill.teacher import (
    CachedMaps,
    LiveMaps,
    Views,
    finished,
    maps_width,
    teacher_logits,
    teacher_maps,
)
from clinipress.steps.fitting import hard_loss
from clinipress.steps.step import Context
from clinipress.train.losses import HardLoss, balanced_weights

__all__ = [
    "SOFT",
    "feature_loss",
    "find_teachers",
    "outside_teachers",
    "plan_maps",
    "recovery_loss",
    "recovery_params",
    "root_teacher",
    "soft_loss",
]

# the seed's name: steps that learn from the teacher share its views, so that its outputs are
# computed once per study
SOFT = "soft-targets"
LARGEST_TABLE = 2 * 2**30  # bytes of feature maps kept on the disk; above it the teacher runs live


def root_teacher(context: Context) -> Candidate:
    """The root reference.

    Raises:
        ModelError: It is still being made.
    """
    if context.reference is None:
        raise ModelError("a reference to learn from", "none", "give the study a 'reference'")
    return context.reference


def outside_teachers(recipe: Any, code: Collection[str] = ()) -> list[str]:
    """Digests of the teachers a recipe names; none where it learns from the study's reference.

    Raises:
        ModelError: One of them is no classifier that can be run.
    """
    digests = []
    for named in (recipe.teachers if isinstance(recipe, DistillStep) else None) or ():
        file = _foreign(named)
        if file is None:
            digests.append(load_candidate(Path(str(named)), allow_code=code).digest)
        else:  # what it leaves open, the training images settle
            facts = file.model_dump(mode="json", exclude={"file"})
            files = digest_of_files(own_files(Path(file.file)))
            digests.append(digest_of({"files": files, "facts": facts}))
    return digests


def _foreign(named: Any) -> OnnxRecipe | None:
    """A teacher that is an ONNX file which others made."""
    if isinstance(named, OnnxRecipe | dict):
        return OnnxRecipe.model_validate(named)
    path = Path(named)
    other = path.suffix == ".onnx" and path.is_file() and not is_ours(path)
    return OnnxRecipe(file=str(path)) if other else None


def _teacher(named: Any, context: Context) -> Candidate:
    recipe = _foreign(named)
    if recipe is None:
        return load_candidate(Path(named), context.threads, allow_code=context.code)
    files = digest_of_files(own_files(Path(recipe.file)))
    facts = [recipe.model_dump(mode="json", exclude={"file"}), files, context.data.digest]
    folder = context.shared / "cache" / f"teacher-{digest_of(facts)[:16]}"
    if not (folder / "spec.json").is_file() and distributed.is_main():
        trials = adopt_file(
            recipe, context.data, adopted_input(recipe, InputSpec(), context.data.task), folder,
            name=Path(recipe.file).stem, seed=context.seed, threads=context.threads, precise=False,
        )  # fmt: skip
        for line in trial_lines(trials):
            context.progress.say(f"teacher '{Path(recipe.file).name}', {line}")
    distributed.barrier()
    return load_adopted(folder, context.threads).file


def find_teachers(paths: Sequence[Any] | None, context: Context) -> list[Candidate]:
    """The teachers (folders, .onnx files, bundles; else the reference), fit for these classes.

    Raises:
        ModelError: One cannot be loaded, or its outputs are other classes.
    """
    if paths is None:
        return [root_teacher(context)]
    teachers = [_teacher(path, context) for path in paths]
    classes, task = context.data.classes, context.data.task
    for path, teacher in zip(paths, teachers, strict=True):
        if teacher.card.task != task:
            raise ModelError(
                f"a teacher of task: {task}, as the data are",
                f"one of task: {teacher.card.task} from '{path}'",
                "choose another teacher",
            )
        if teacher.card.classes != classes:
            raise ModelError(
                f"a teacher of the classes {', '.join(classes)}, in this order",
                f"{', '.join(teacher.card.classes)} from '{path}'",
                "set data.classes to the teacher's order, or choose another teacher",
            )
    return teachers


def soft_loss(
    params: dict[str, Any], context: Context, features: FeatureLoss | None = None
) -> tuple[HardLoss | DistillationLoss, int | None]:
    """The loss over cached teacher outputs, and the views to go round (None: a new one each epoch).

    The control (alpha = 0) needs no teacher. It sees a new view every epoch, which is the stronger
    training without a teacher. The plan holds temperature, alpha, views, options, and where the
    step has them method, beta and teachers (else Hinton's loss and the root reference).
    """
    spec = root_teacher(context).card.input
    if params["alpha"] == 0:
        return hard_loss(params, context, spec), None
    options = TrainOptions.model_validate(params["options"])
    train = context.data.rows("train", spec)
    balanced = options.class_weights == "balanced"
    method = params.get("method", "soft")
    tables = [_logits_table(teacher, params, context) for teacher in _planned(params, context)]
    mean = params.get("answers") == "mean"
    if mean:  # the answers to one image's views are averaged as those of several teachers are
        tables = [view[None] for table in tables for view in table]
    loss = DistillationLoss(
        tables,
        train.index,
        temperature=params["temperature"],
        alpha=params["alpha"],
        method=method if method in ("dkd", "dist") else "soft",
        beta=params.get("beta", 1.0),
        features=features,
        warmup=options.warmup_epochs,
        smoothing=options.label_smoothing,
        class_weights=balanced_weights(train.labels, len(context.data.classes))
        if balanced
        else None,
        ordinal=options.order_weight,
        order=params.get("order", ()),
    )
    return loss, None if mean else params["views"]


def recovery_params(recipe: PruneStep | QatStep, epochs: int, context: Context) -> dict[str, Any]:
    """The part of a plan that `recovery_loss` reads; {} where labels alone are learned from."""
    if not recipe.distill:
        return {}
    return {
        "teacher": root_teacher(context).digest,
        "temperature": recipe.temperature,
        "alpha": recipe.alpha,
        "views": min(recipe.views, epochs),
    }


def recovery_loss(
    recipe: PruneStep | QatStep, params: dict[str, Any], context: Context, spec: InputSpec
) -> tuple[HardLoss | DistillationLoss, int | None]:
    """The loss of a step that brings a changed network back, and its views as in `soft_loss`."""
    if recipe.distill:
        return soft_loss(params, context)
    return hard_loss(params, context, spec), None


def _planned(params: dict[str, Any], context: Context) -> list[Candidate]:
    """The teachers of a plan, the same as when it was made."""
    planned = params.get("teachers")
    if planned is None:
        return [root_teacher(context)]
    paths = [entry["path"] for entry in planned]
    teachers = find_teachers(None if paths == [None] else paths, context)
    for entry, teacher in zip(planned, teachers, strict=True):
        if teacher.digest != entry["digest"]:
            raise ModelError(
                f"the teacher '{entry['path']}' as it was when the step was planned",
                "a file that was changed since",
                "put it back, or start the run in another folder",
            )
    return teachers


def _views(teacher: Candidate, params: dict[str, Any], context: Context) -> Views:
    spec = teacher.card.input
    return Views(
        cache=context.data.cache(spec),
        rows=context.data.rows("train", spec).index,
        modality=params["modality"],
        strength=params["options"]["augmentation"],
        seed=params["seed"],
        count=params["views"],
    )


def _table_path(what: dict[str, Any], params: dict[str, Any], context: Context) -> Path:
    """Where a table lies: under everything it depends on, so that steps share it.

    The views of a smaller table are the first ones of a larger: one that is finished serves both.
    """
    key = digest_of(
        what
        | {
            "versions": versions((*TRAINING_PACKAGES, *DECODERS)),
            "data": context.data.digest,
            "seed": params["seed"],
            "strength": params["options"]["augmentation"],
            "modality": params["modality"],
        }
    )
    folder = context.shared / "teacher"
    counts = (_count(path) for path in folder.glob(f"{key[:16]}-*.npy"))
    for count in sorted(count for count in counts if count > params["views"]):
        path = folder / f"{key[:16]}-{count}.npy"
        if finished(path):
            return path
    return folder / f"{key[:16]}-{params['views']}.npy"


def _logits_table(
    teacher: Candidate, params: dict[str, Any], context: Context
) -> NDArray[np.float32]:
    """float32 ``[views, training images, classes]``, memory-mapped, computed once per study."""
    path = _table_path({"teacher": teacher.digest}, params, context)
    views = replace(_views(teacher, params, context), count=_count(path))
    table = teacher_logits(teacher, views, path=path, progress=context.progress)
    return table[: params["views"]]


def _count(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


# -------------------------------------------------------------------------------- feature maps


def map_teacher(paths: Sequence[Any] | None, context: Context) -> TorchCandidate:
    """The one teacher whose feature maps can be read.

    Raises:
        ModelError: There are several, or it is a file without modules.
    """
    if paths is not None and len(paths) > 1:
        raise ModelError(
            "one teacher for feature maps", f"{len(paths)}", "use method 'soft' with an ensemble"
        )
    teacher = context.root if paths is None else find_teachers(paths, context)[0]
    if not isinstance(teacher, TorchCandidate):
        raise ModelError(
            "a PyTorch candidate as the teacher of feature maps",
            f"'{paths[0]}', a file without modules" if paths else "none",
            "name a candidate folder in 'teachers', or use method 'soft', 'dkd' or 'dist'",
        )
    return teacher


def plan_maps(
    recipe: DistillStep, method: FeatureMethod, student: Classifier, views: int, context: Context
) -> dict[str, Any]:
    """Which maps are compared, and whether the teacher's are kept on the disk.

    Kept where they fit, because a look-up costs less than the teacher as soon as there are more
    epochs than views.
    """
    teacher = map_teacher(recipe.teachers, context)
    pairs = choose_pairs(method, student, teacher.module, recipe.layers)
    shapes = [
        [theirs.channels if method == "fitnet" else 1, theirs.height, theirs.width]
        for _, theirs in pairs
    ]
    images = len(context.data.rows("train", teacher.card.input).index)
    number = 2 if method == "fitnet" else 4  # bytes: float16 maps, float32 attentions
    size = images * views * number * maps_width([(c, h, w) for c, h, w in shapes])
    cached = size <= LARGEST_TABLE
    needed = f"{size / 1e6:.0f} MB for {images} images in {views} views"
    limit = f"the limit of {LARGEST_TABLE / 1e6:.0f} MB"
    return {
        "layers": [[mine.name, theirs.name] for mine, theirs in pairs],
        "channels": [[mine.channels, theirs.channels] for mine, theirs in pairs],
        "map_shapes": shapes,
        "maps": "cached" if cached else "live",
        "maps_reason": f"{needed}, {'within' if cached else 'above'} {limit}",
        "map_teacher": teacher.digest,
    }


def feature_loss(
    recipe: DistillStep,
    method: FeatureMethod,
    student: Tapped,
    params: dict[str, Any],
    context: Context,
) -> FeatureLoss:
    """The loss of the maps that `plan_maps` chose."""
    teacher = map_teacher(recipe.teachers, context)
    layers = [name for _, name in params["layers"]]
    shapes = [(c, h, w) for c, h, w in params["map_shapes"]]
    views = _views(teacher, params, context)
    source: MapSource
    if params["maps"] == "live":
        source = LiveMaps(teacher, layers, method, views)
    else:
        what = {"teacher": teacher.digest, "layers": layers, "method": method}
        path = _table_path(what, params, context)
        table = teacher_maps(
            teacher, layers, method, replace(views, count=_count(path)), shapes=shapes,
            path=path, progress=context.progress,
        )  # fmt: skip
        source = CachedMaps(table, views.rows, shapes)
    return FeatureLoss(student, source, method)
