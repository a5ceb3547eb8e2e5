"""An ONNX file of others as a study's reference or teacher, settled on its training images."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.data.cache import build_cache, labelled
from clinipress.data.study import StudyData
from clinipress.errors import ModelError, RecipeError
from clinipress.formats.onnx.adopt import FileNetwork, adopt, normalisation, write_adopted
from clinipress.formats.onnx.foreign import Foreign, examine, is_ours
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.formats.onnx.settle import as_read, settle
from clinipress.formats.onnx.write import stamp
from clinipress.formats.parity import check_candidate
from clinipress.formats.trials import SETTLING_CASES
from clinipress.recipe.steps import OnnxRecipe
from clinipress.records.candidate import ADOPTED, Applied, Card, InputSpec, ModelSpec, Task
from clinipress.records.store import read_json, write_atomically
from clinipress.steps.fitting import calibration_rows, step_seed

__all__ = ["adopt_file", "adopted_input", "load_adopted", "training_cases"]

FILE, SPEC = "model.onnx", "spec.json"


def adopted_input(recipe: OnnxRecipe, spec: InputSpec, task: Task = "multiclass") -> InputSpec:
    """The images that a file takes, where the study leaves them open.

    Args:
        recipe: The file.
        spec: `data.input` of the study; what it does not set is the file's own.
        task: `data.task`.

    Raises:
        RecipeError: The study sets another size, or more channels than the file takes.
        ModelError: The file cannot be used.
    """
    path = Path(recipe.file)
    asked = spec.model_fields_set
    if is_ours(path):
        own = OnnxCandidate.load(path, threads=1).card.input
    else:
        both = {"height", "width"} <= asked
        foreign = examine(path, recipe, (spec.height, spec.width) if both else None, task)
        fit = recipe.fit or (spec.fit if "fit" in asked else None)
        if "fit" in asked and fit != spec.fit:
            raise RecipeError(f"data.input.fit: {fit}, as declared of the file", spec.fit)
        own = InputSpec(
            channels=1 if foreign.channels == 1 else 3,
            height=foreign.height,
            width=foreign.width,
            window=spec.window,
            **({"fit": fit} if fit else {}),  # else it is open still
        )
        if "channels" in asked and spec.channels < own.channels:
            own = own.model_copy(update={"channels": spec.channels})
    for key in sorted(asked & {"channels", "height", "width"}):
        if getattr(spec, key) != getattr(own, key):
            raise RecipeError(
                f"data.input.{key}: {getattr(own, key)}, as '{path.name}' takes",
                f"{getattr(spec, key)}",
                "leave it out",
            )
    return own


def adopt_file(
    recipe: OnnxRecipe,
    data: StudyData,
    spec: InputSpec,
    folder: Path,
    *,
    name: str,
    seed: int,
    threads: int | None = None,
    precise: bool = True,
) -> list[dict[str, Any]]:
    """Write a file of others in our own terms into `folder`, and what was found out of it.

    Args:
        recipe: What was declared of it.
        data: The study's images: those for training close what is open.
        spec: Of `adopted_input`.
        folder: Where to write.
        name: Of the candidate.
        seed: Of the images that are drawn.
        threads: CPU threads.
        precise: Refuse a file that computes in whole numbers already: no smaller one can be made.

    Returns:
        The trials (`settle`).

    Raises:
        ModelError: The file cannot be used, or something has to be declared.
    """
    path = Path(recipe.file)
    if is_ours(path):
        own = OnnxCandidate.load(path, threads=1)
        card = own.card.model_copy(update={"name": name, "history": (), "model": None})
        if own.card.classes != data.classes:
            raise ModelError(
                f"the classes of '{path.name}', in their order: {', '.join(own.card.classes)}",
                ", ".join(data.classes),
                "give them as data.classes",
            )
        if own.card.task != data.task:
            raise ModelError(f"'{path.name}' to be of task: {data.task}", own.card.task)
        write_atomically(folder / FILE, path.read_bytes())
        stamp(folder / FILE, card)
        model = ModelSpec(
            num_classes=len(card.classes), in_channels=card.input.channels, mean=0.0, std=1.0
        )
        _finish(folder, card, model, {"file": path.name}, {}, precise)
        return []
    foreign = examine(path, recipe, (spec.height, spec.width), data.task)
    known = as_read(foreign, recipe)
    if known.fit is None and recipe.fit is None and "fit" in spec.model_fields_set:
        known = known.model_copy(update={"fit": spec.fit})
    settled, trials = settle(
        foreign, known, data.classes, spec, lambda s: training_cases(data, s, seed), threads
    )
    spec = spec.model_copy(update={"fit": settled.fit})
    card = Card(
        name=name, classes=data.classes, input=spec, format="onnx", precision=foreign.precision,
        task=data.task,
    )  # fmt: skip
    write_adopted(adopt(foreign, settled, data.classes, spec), folder / FILE, card)
    mean, std = normalisation(settled)
    if settled.channels == "BGR" or settled.scale == "caffe":
        mean, std = (v if isinstance(v, float | int) else (v[2], v[1], v[0]) for v in (mean, std))
    model = ModelSpec(
        num_classes=len(data.classes), in_channels=3 if foreign.channels == 3 else 1,
        mean=mean, std=std,
    )  # fmt: skip
    said = settled.model_dump(mode="json", exclude={"file"}, exclude_none=True)
    facts = _facts(foreign) | {"trials": trials}
    _finish(folder, card, model, {"file": path.name, **said}, facts, precise)
    return trials


def _facts(foreign: Foreign) -> dict[str, Any]:
    return {
        "layout": foreign.layout,
        "answers": foreign.cut or foreign.ending,
        **({"stored": foreign.widened} if foreign.widened else {}),
        **({"one by one": True} if foreign.single else {}),
    }


def _finish(
    folder: Path,
    card: Card,
    model: ModelSpec,
    params: dict[str, Any],
    facts: dict[str, Any],
    precise: bool,
) -> None:
    if precise and card.precision != "float32":
        raise ModelError(
            "a file in float for a reference that is to be made small",
            f"'{params['file']}', which computes in whole numbers already",
            "take the float file it was made of; evaluate and compare judge this one as it is",
        )
    check_candidate(OnnxCandidate.load(folder / FILE, card, 1))
    history = (Applied(step=ADOPTED, params=params, facts=facts),)
    card = card.model_copy(update={"history": history})
    write_atomically(folder / "card.json", card.model_dump_json(indent=1))
    write_atomically(folder / SPEC, model.model_dump_json(indent=1))


def load_adopted(folder: Path, threads: int | None = None) -> FileNetwork:
    """What `adopt_file` wrote."""
    card = Card.model_validate(read_json(folder / "card.json"))
    file = OnnxCandidate.load(folder / FILE, card, threads)
    return FileNetwork(file, ModelSpec.model_validate(read_json(folder / SPEC)))


def training_cases(
    data: StudyData, spec: InputSpec, seed: int, count: int = SETTLING_CASES
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Training images, the classes in turn, read as the trial at hand reads them.

    uint8 ``[n, c, h, w]`` and class numbers, of several findings ``[n, k]`` with -1 for unknown;
    fewer of them are the first of more.
    """
    keys = data.split.keys("train")
    items = {item.key: item for item in data.dataset.items}
    train = [items[key] for key in sorted(keys)]
    labels = np.asarray([labelled(item, data.classes) for item in train], np.int64)
    drawn = step_seed(seed, ADOPTED)
    chosen = calibration_rows(labels, SETTLING_CASES, drawn)
    chosen = np.random.default_rng(drawn).permutation(chosen)[:count]
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        cache = build_cache(
            [train[row] for row in chosen], data.classes, spec, Path(folder), threads=data.threads
        )
        images = np.array(cache.take(np.arange(len(chosen))))
        cache.release()
    return images, labels[chosen]
