"""One call: a classifier that was trained elsewhere, made small for a device, with the evidence.

    audit, split or given test set -> how the network wants its images -> the steps of the risk
    level within the time -> bundle and report

It writes a study, and runs it as `clinipress run` would.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from clinipress.data.sources import Dataset, read_dataset
from clinipress.data.study import StudyData, open_study_data
from clinipress.errors import ClinipressError, DataError, InputError, ModelError
from clinipress.extras import require
from clinipress.formats.onnx.run import session
from clinipress.formats.open import check_toolchains
from clinipress.formats.trials import (
    FIRST_CASES,
    SCALES,
    SETTLING_CASES,
    Areas,
    Classes,
    Hits,
    by_output,
    check_better_than_chance,
    figures,
    hits_of,
    likeliest_order,
    order_refusal,
    share_words,
    tried,
)
from clinipress.progress import SILENT, Progress
from clinipress.recipe.code import check_code
from clinipress.recipe.formats import format_facts
from clinipress.recipe.steps import ModelRecipe
from clinipress.recipe.study import Study
from clinipress.recipe.techniques import technique_of
from clinipress.records.candidate import InputSpec, Task
from clinipress.records.result import Result, RiskLevel
from clinipress.records.store import Store, digest_of, write_atomically
from clinipress.stats.paired import mcnemar_exact
from clinipress.study.devices import find_target
from clinipress.study.policy import POLICIES, recommended_exports
from clinipress.study.propose import SIZES, propose
from clinipress.study.read import parse_study
from clinipress.study.schedule import (
    FILES_TIME,
    STRESSED,
    Pace,
    Timetable,
    in_time,
    schedule,
    student_schedule,
)
from clinipress.text import joined

if TYPE_CHECKING:
    from torch import nn

    from clinipress.models.classifier import Classifier

__all__ = ["compress", "title_of"]

PLAN = "compress.json"
WHAT = "compressing a classifier"
WEIGHTS = "original.safetensors"
SMALLEST, LARGEST = 64, 4096  # pixels a side: of sizes that are tried, of any
BETTER_LEVELS = 0.05  # in accuracy, of a mean and deviation that nobody named
FINALISTS = 6  # ways to read images that are tried on all of the images, and shown
FEWEST = 20  # images a class to train on; with fewer nothing is trained
POST_TRAINING = (0.15, 0.25, 0.6)  # calibrated, chosen on, judged on
WORDS = {
    "imagenet": "ImageNet's mean and deviation",
    "0..1": "values from 0 to 1",
    "-1..1": "values from -1 to 1",
    "0..255": "values from 0 to 255",
}


@dataclass(frozen=True)
class Asked:
    """What was asked of `compress`, as its arguments say."""

    target: str | None
    risk: RiskLevel
    positive: str | None
    normal: str | None
    minutes: float
    test: str | None
    classes: tuple[str, ...] | None
    size: int | tuple[int, int] | None
    channels: int | None
    mean: float | Sequence[float] | None
    std: float | Sequence[float] | None
    bgr: bool | None
    checkpoint_key: str | None
    class_map: Mapping[str, str]
    modality: str | None
    student: str | None
    onnx: Mapping[str, Any]
    unseen: bool
    post_training: bool | None
    seed: int
    threads: int | None
    task: Task | None = None
    order: tuple[str, ...] | None = None


def compress(
    model: nn.Module | str | Path,
    data: str | Path,
    *,
    target: str | None = None,
    risk: RiskLevel = "medium",
    positive: str | None = None,
    normal: str | None = None,
    minutes: float = 60,
    network: str | None = None,
    test: str | Path | None = None,
    classes: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    bgr: bool | None = None,
    checkpoint_key: str | None = None,
    class_map: Mapping[str, str] | None = None,
    modality: str | None = None,
    student: str | None = None,
    onnx: Mapping[str, Any] | None = None,
    unseen: bool = False,
    post_training: bool | None = None,
    seed: int = 0,
    threads: int | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    allow_code: bool = False,
    task: Task | None = None,
    order: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> Result:
    """Make a trained classifier small and fast for a device, and prove what was lost.

    Args:
        model: A `torch.nn.Module` that takes normalised float32 ``[n, channels, height, width]``
            and answers with logits, or with what becomes logits; an ``.onnx`` file; or a file with
            weights for `network`.
        data: Labelled images: a folder, manifest or .npz. Where it has no test split and `test`
            names none, it is divided.
        target: A device of ``clinipress targets``; None: files for ONNX Runtime.
        risk: "critical", "high", "medium" or "low": what may be lost, and by which techniques.
        positive: The finding of two classes, where no word of their names decides.
        normal: The class without a finding, of more.
        minutes: For all of it. Steps that do not fit are shortened or left out, and named.
        network: Of a file with weights: a name of ``clinipress models``, or "module:function".
        test: A test set of its own, which the model has not seen.
        classes: Class names in the order of the model's outputs; None: sorted.
        size: Pixels of its input, (height, width) or both alike; None: what it says or what the
            images to train on show to fit best.
        channels: Of its input, 1 or 3; None: what it takes.
        mean: What is taken off pixels in [0, 1], one number or one a channel; None: as for `size`.
        std: What the rest is divided by, likewise.
        bgr: Whether it takes blue before red, as OpenCV reads; None: as for `size`.
        checkpoint_key: Of a file with several sets of weights: the name below which yours lies.
        class_map: Name of a folder or label -> name of the class.
        modality: Chooses the augmentation; None: by the names of the classes.
        student: Of an ONNX file alone: a name of ``clinipress models`` for a network that learns
            from it and is compressed further; None: the file is quantized and converted.
        onnx: Of an ONNX file: what it does not say itself, as under `reference.onnx` of a study
            (scale, channels, fit, answers, output).
        unseen: A person says that the model was trained on none of the images.
        post_training: True: nothing is trained; None: where there are too few images to train on.
        seed: Of everything random.
        threads: CPU threads; None: all cores.
        name: Of the study; None: after the model and the data.
        out: Run folder; None: runs/NAME.
        allow_code: Whether "module:function" may run.
        task: "multilabel": any of several findings may be in an image, each with a sigmoid of its
            own; "multiclass": one of the classes; None: as the labels are.
        order: All classes from the least to the gravest, where they are grades; None: where their
            names leave no doubt.
        progress: The listener.

    Returns:
        What was measured: `verdict`, `bundle` (below `out`), `candidates`; the report is written.

    Raises:
        InputError: The model, the data or the call is wrong; the message says how to mend it.
        StudyError: Training diverged or the disk is full; the same call goes on.

    Example:
        >>> import clinipress                                              # doctest: +SKIP
        >>> result = clinipress.compress(model, "images", positive="tumour")
        >>> result.verdict.status
        'pass'
    """
    require("torch", extra="compress", what=WHAT)
    from clinipress.models.zoo import given
    from clinipress.study.flow import run_study

    began = time.monotonic()
    path = _path_of(data, "labelled images")
    title = name or title_of(model, network, path)
    folder = Path(out) if out is not None else Path("runs") / title
    request = Asked(
        target, risk, positive, normal, minutes,
        None if test is None else str(_path_of(test, "a test set")),
        _names(classes), size, channels, mean, std, bgr, checkpoint_key,
        dict(class_map or {}), modality, student, dict(onnx or {}), unseen, post_training, seed,
        threads, _task(task), _names(order, "grades from the least to the gravest"),
    )  # fmt: skip
    _check(request)
    if not isinstance(model, str | Path):
        if network is not None:
            raise InputError("'network' with a file of weights alone", "a PyTorch module")
        model = _unwrapped(model)
    elif network is not None and ":" in network:
        check_code([network], "a call", allow_code)
    live = not isinstance(model, str | Path)
    named = nullcontext(network) if isinstance(model, str | Path) else given(model)
    with _in_words_of_the_call(), named as factory:
        original = _original(model, factory, folder, request)
        dataset = read_dataset(path, class_map=request.class_map, task=task)
        study = _study(
            original, dataset, path, request, title, folder, allow_code or live, progress
        )
        result = run_study(study, path, folder, progress=progress, allow_code=allow_code or live)
    spent = (time.monotonic() - began) / 60
    if spent > minutes:
        progress.say(
            f"it took {spent:.0f} minutes, more than the {minutes:g} asked for: the machine was "
            "slower than when a few steps were measured"
        )
    return result


# What a message says of a study file -> what it is in this call
CALL_WORDS: Mapping[str, str] = {
    r"model\.checkpoint_key: ('?[\w.]+'?)": r"--checkpoint-key \1",
    r"model\.checkpoint_key": "--checkpoint-key",
    r"to train a head of your own on it, give the file as model\.pretrained": (
        "to train a head of your own on it: clinipress init DATA --weights FILE"
    ),
    r"check model\.name and its arguments|check model\.name": "check --network",
    r"leave the others out of data\.classes": "say with --classes which of them it tells",
    r"(set |give )?data\.classes": "say with --classes",
    r"try another data\.input size or in_channels": "try another --size",
    r"set data\.input so": "say so with --size",
    r"(with )?'output'$": "with --onnx output=NAME",
    r"declare (answers|layout|size|classes|scale|channels|fit): (\w+)": r"say --onnx \1=\2",
    r"data\.class_map": "--class-map",
}


@contextmanager
def _in_words_of_the_call() -> Iterator[None]:
    """Say how to mend it in this call, where a message says how to in a study file."""
    try:
        yield
    except (InputError, ModelError, DataError) as problem:
        fix = problem.fix or ""
        for pattern, words in CALL_WORDS.items():
            fix = re.sub(pattern, words, fix)
        if type(problem) not in (InputError, ModelError, DataError) or fix == (problem.fix or ""):
            raise
        raise type(problem)(problem.expected, problem.got, fix) from problem


def _unwrapped(model: Any) -> nn.Module:
    """A copy of the network inside DataParallel and torch.compile.

    Raises:
        InputError: It is no network, or none that can be copied.
    """
    require("torch", extra="compress", what=WHAT)
    from torch import nn

    from clinipress.models.parametrized import plain_copy

    while isinstance(model, nn.Module):
        inside = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inside = model.module
        if inside is None:
            return plain_copy(model)
        model = inside
    raise InputError("a torch.nn.Module, or the path of a model file", type(model).__name__)


def _check(request: Asked) -> None:
    """Refuse what does not fit, whatever the model and the images are."""
    minutes = request.minutes
    if not (_is_number(minutes) and math.isfinite(minutes) and minutes > 0):
        raise InputError("minutes above 0", repr(minutes))
    if (request.mean is None) != (request.std is None):
        raise InputError("both a mean and a standard deviation, or neither", "one of them")
    for what, value, least in (("mean", request.mean, 0.0), ("std", request.std, 1e-6)):
        numbers = value if isinstance(value, Sequence) else (value,)
        if value is not None and not (
            len(numbers) in (1, 3)
            and all(_is_number(v) and least <= float(v or 0) <= 1 for v in numbers)
        ):
            fix = "divide what your script has by 255" if _is_levels(numbers) else None
            expected = f"a {what} of pixels in [0, 1]: one number, or one for each of 3 channels"
            raise InputError(expected, repr(value), fix)
    if request.size is not None:
        sides = (request.size,) * 2 if isinstance(request.size, int) else request.size
        if not (
            isinstance(sides, tuple | list)
            and len(sides) == 2
            and all(type(side) is int and 8 <= side <= LARGEST for side in sides)
        ):
            expected = f"a size of 8 to {LARGEST:,} pixels a side: one number, or height and width"
            raise InputError(expected, repr(request.size))
    if request.channels not in (None, 1, 3):
        raise InputError("1 or 3 channels of the model's input", repr(request.channels))
    if not isinstance(request.target, str | None):
        raise InputError("one target: a name of 'clinipress targets'", repr(request.target))
    if request.target is not None:
        find_target(request.target)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_levels(numbers: Sequence[Any]) -> bool:
    return all(_is_number(value) and 1 < value <= 255 for value in numbers)


def _path_of(data: Any, what: str) -> Path:
    if isinstance(data, str | os.PathLike):
        return Path(data)
    fix = "write a table (.csv) with the columns path and label for images that a loader reads"
    raise InputError(
        f"the path of {what}: a folder, a manifest or an .npz", type(data).__name__, fix
    )


def _names(
    classes: Any, what: str = "class names in the order of the model's outputs"
) -> tuple[str, ...] | None:
    """Classes in an order: not a set, which has none, nor one text, which is a list of letters."""
    if classes is None:
        return None
    if not isinstance(classes, tuple | list) or not all(isinstance(c, str) for c in classes):
        raise InputError(f"a list of {what}", f"a {type(classes).__name__}")
    return tuple(classes)


def _task(task: Any) -> Task | None:
    if task not in (None, *get_args(Task)):
        raise InputError(f"a task: {' or '.join(get_args(Task))}", repr(task))
    return task  # type: ignore[no-any-return]


def title_of(model: Any, network: str | None, data: Path) -> str:
    """A short name: of the network, of its file and of the images."""
    named = Path(model).stem if isinstance(model, str | Path) else type(model).__name__
    text = "-".join(part for part in (named, data.resolve().stem) if part)
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip("-.") or "compress"


def _original(model: Any, factory: str | None, folder: Path, request: Asked) -> dict[str, Any]:
    """The reference as a recipe names it, before anything is known of its input."""
    if not isinstance(model, str | Path):
        from clinipress.models.weights import safetensors_bytes

        for word, value in (("onnx", request.onnx), ("student", request.student)):
            if value:
                raise InputError(f"'{word}' with an ONNX file alone", "a PyTorch module")

        weights = folder / WEIGHTS
        write_atomically(weights, safetensors_bytes(model.state_dict(), {}))
        return {"model": {"factory": factory, "checkpoint": str(weights)}}
    path = _model_file(Path(model))
    if path.suffix.casefold() == ".onnx":
        if factory is not None:
            raise InputError("'network' with a file of weights alone", f"an ONNX file, '{path}'")
        return {"onnx": _declared(path, request)}
    if request.onnx:
        raise InputError("facts of an ONNX file with an ONNX file", f"the file '{path}'")
    if request.student is not None:
        raise InputError("'student' with an ONNX file alone", f"the file '{path}'")
    if factory is None:
        raise InputError(
            f"the network that the weights in '{path}' are of",
            "none",
            "add --network NAME of 'clinipress models', or --network module:function",
        )
    kind = "factory" if ":" in factory else "name"
    part = {"checkpoint_key": request.checkpoint_key} if request.checkpoint_key else {}
    return {"model": {kind: factory, "checkpoint": str(path), **part}}


def _declared(path: Path, request: Asked) -> dict[str, Any]:
    """What was said of an ONNX file."""
    own = {
        "classes": request.classes and list(request.classes),
        "size": request.size,
        "mean": request.mean,
        "std": request.std,
        "channels": None if request.bgr is None else "BGR" if request.bgr else "RGB",
    }
    given = {key: value for key, value in own.items() if value is not None}
    return {**request.onnx, "file": str(path), **given}


RUNTIMES = {".tflite": "LiteRT", ".pte": "ExecuTorch", ".xml": "OpenVINO", ".engine": "TensorRT"}


def _model_file(path: Path) -> Path:
    """The file that was given as a model, or that a folder given as one means.

    Raises:
        InputError: There is none; or it is a bundle, a run, a candidate or a runtime's file.
    """
    from clinipress.models.origins import IN_FOLDERS

    if (runtime := RUNTIMES.get(path.suffix.casefold())) is not None:
        raise InputError(
            "a PyTorch checkpoint or an ONNX file",
            f"'{path}', a file for {runtime}",
            "give what it was made of; to judge the file itself: clinipress evaluate",
        )
    if not path.is_dir():
        if path.is_file():
            return path
        raise InputError("a model file", f"nothing at '{path}'", "check the path")
    for name, what in OURS.items():
        if (path / name).is_file():
            raise InputError(
                "a model that is not of clinipress yet",
                f"'{path}', {what}",
                "to go on from it, add steps to study.json of its run and run that: clinipress "
                "run; to judge it: clinipress evaluate",
            )
    inside = next((path / name for name in IN_FOLDERS if (path / name).is_file()), None)
    if inside is None:
        raise InputError("a model file", f"the folder '{path}'", "name the file in it")
    return inside


OURS = {
    "card.json": "a candidate or a bundle of clinipress, compressed already",
    "result.json": "the run folder of a study",
}


def _study(
    original: dict[str, Any],
    dataset: Dataset,
    path: Path,
    request: Asked,
    title: str,
    folder: Path,
    allowed: bool,
    progress: Progress,
) -> Study:
    """The study that is run: kept, so that the same call goes on with the same one."""
    facts = {"original": original, "request": vars(request), "data": str(path), "title": title}
    asked = digest_of(json.loads(json.dumps(facts, default=str)))
    kept = folder / PLAN
    if kept.is_file():
        plan = json.loads(kept.read_bytes())
        if plan.get("asked") == asked:
            for line in plan["notes"]:
                progress.say(line)
            return parse_study(plan["study"], where=str(kept))
    tree, notes = _plan(original, dataset, path, request, title, folder, progress)
    for line in notes:
        progress.say(line)
    study = parse_study(tree, where="the plan")
    write_atomically(kept, json.dumps({"asked": asked, "notes": notes, "study": tree}, indent=1))
    return study


def _plan(
    original: dict[str, Any],
    dataset: Dataset,
    path: Path,
    request: Asked,
    title: str,
    folder: Path,
    progress: Progress,
) -> tuple[dict[str, Any], list[str]]:
    from clinipress.study.flow import with_input

    seen = propose(dataset)
    data, notes, only_test = _data_recipe(seen, dataset, path, request, onnx="onnx" in original)
    tree: dict[str, Any] = {
        "name": title,
        "risk": request.risk,
        "seed": request.seed,
        "data": data,
        "reference": {**original, "train": None, "unseen": request.unseen or only_test},
        "exports": [{"precision": "float32"}],
    }
    if request.threads is not None:
        tree["threads"] = request.threads
    if request.target is not None:
        tree["target"] = request.target
    if "onnx" in original:
        del data["input"]  # the file says what it takes
    first = with_input(parse_study(tree, where="the call"))
    opened = open_study_data(
        path, first.data, Store(folder, progress), seed=first.seed, threads=first.threads,
        progress=progress,
    )  # fmt: skip
    if (shared := opened.split.shared_with_test) and not request.unseen:
        notes.append(
            f"{shared:,} of the other images share a near-duplicate or a patient with the test "
            "set: nothing is trained on them here, but the model may have been, and so the verdict "
            "is inconclusive at best; name another test set (--test), or say --unseen if it was not"
        )
    if "onnx" in original:  # the study itself finds out how the file wants its images
        file = Path(str(original["onnx"]["file"]))
        plan = _without_network(file, first.data.input, opened, request)
    else:
        chosen, said = _reading(original, opened, data, request)
        data["input"] = {**data["input"], **chosen["input"]}
        original["model"] |= chosen["model"]
        notes += said
        plan = _schedule(original["model"], data, opened, request)
    notes += plan.notes
    if plan.stress != STRESSED:
        tree["evidence"] = {"stress": plan.stress}
    tree["steps"] = list(plan.steps)
    if not plan.steps:  # the policy's next rung may be training
        tree["try_next"] = False
    tree["exports"] = _exports(request, plan, onnx="onnx" in original)
    minutes = max(1, round(plan.seconds / 60))
    titles = [technique_of(str(step["step"])).title for step in plan.steps]
    doing = joined(titles) or "post-training only"
    over = f", where {request.minutes:g} were asked for" if minutes > request.minutes else ""
    unit = "minute" if minutes == 1 else "minutes"
    notes.append(f"planned: {doing}; about {minutes} {unit} on this machine{over}")
    return tree, notes


def _data_recipe(
    seen: Mapping[str, Any], dataset: Dataset, path: Path, request: Asked, *, onnx: bool
) -> tuple[dict[str, Any], list[str], bool]:
    """The images, how they are divided, and whether all of them are published as a test split."""
    given = {
        "class_map": dict(request.class_map),
        "classes": None if onnx else request.classes and list(request.classes),
        "normal": request.normal
        or (seen["normal"] if seen["normal"] != request.positive else None),
    }
    data: dict[str, Any] = {
        "path": str(path),
        "modality": request.modality or seen["modality"],
        "input": {"channels": seen["channels"], "height": seen["size"], "width": seen["size"]},
        **{key: value for key, value in given.items() if value},
    }
    labels, notes = _labels(seen, dataset, request)
    division, said, only_test = _division(seen, dataset, request)
    return data | labels | division, notes + said, only_test


def _labels(
    seen: Mapping[str, Any], dataset: Dataset, request: Asked
) -> tuple[dict[str, Any], list[str]]:
    """What the labels are: one of several classes, grades, or any of several findings."""
    notes: list[str] = []
    data: dict[str, Any] = {}
    if dataset.task == "multilabel":
        for word, value in (("positive", request.positive), ("normal", request.normal),
                            ("order", request.order)):  # fmt: skip
            if value:
                fix = "every finding is a question of its own: leave it out"
                raise InputError(f"no '{word}' with several findings", str(value), fix)
        asked = [name for name in request.classes or () if name in dataset.classes]
        data = {"task": dataset.task} | ({"classes": asked} if asked else {})
        return data, [f"several findings in one image: {', '.join(asked or dataset.classes)}"]
    if grades := request.order or (seen["order_is_sure"] and seen["order"]):
        # the outputs stay in the order that was given, or are sorted
        data |= {"order": list(grades), "classes": list(request.classes or sorted(seen["classes"]))}
        if not request.order:
            notes.append(f"grades, the least first: {', '.join(grades)}; --order says otherwise")
    elif seen["order"]:
        notes.append(f"if the classes are grades, say so: --order {','.join(seen['order'])}")
    if len(seen["classes"]) == 2:
        positive = request.positive or seen["positive"]
        data |= {"positive": positive} if positive else {}
        if positive and request.positive is None:
            notes.append(f"the finding is '{positive}', by its name; --positive says otherwise")
    elif request.positive is not None:
        data["positive"] = request.positive
    return data, notes


def _division(
    seen: Mapping[str, Any], dataset: Dataset, request: Asked
) -> tuple[dict[str, Any], list[str], bool]:
    """The same of the division alone."""
    published = set(seen["published_splits"])
    both, only_test = {"train", "test"} <= published, published == {"test"}
    notes = []
    why = _nothing_to_train(dataset, request)
    if why:
        notes.append(f"nothing is trained ({why}): calibrated on a part, judged on the rest")
    if request.test is not None:
        return {"test": request.test}, notes, False
    if both:
        notes.append("the test split that the data publish is taken as one the model has not seen")
        return {"split": {"by": "published"}}, notes, False
    if not (request.unseen or only_test):
        notes.append(
            "the images are divided here: if the model was trained on some of them, its figures on "
            "the test part are too good, and the verdict is inconclusive at best; name a test set "
            "(--test), or say --unseen if it has seen none"
        )
    split = {"split": {"by": "auto", "fractions": POST_TRAINING}} if why else {}
    return split, notes, only_test


def _nothing_to_train(dataset: Dataset, request: Asked) -> str:
    """Why nothing is trained; "" where something is."""
    if request.post_training is not None:
        return "as asked" if request.post_training else ""
    if {item.split for item in dataset.items if item.split} == {"test"}:
        return "the images are all published as a test split"
    counts = dict.fromkeys(dataset.classes, 0)
    for item in dataset.items:
        for name in item.shown:
            counts[name] += item.split != "test"
    # a rare finding is learnt as well as it may be: the commonest says whether there are images
    choose = max if dataset.task == "multilabel" else min
    least = choose(counts, key=lambda name: counts[name])
    return f"{counts[least]} images of '{least}' to train on" if counts[least] < FEWEST else ""


def _reading(
    original: Mapping[str, Any], opened: StudyData, data: Mapping[str, Any], request: Asked
) -> tuple[dict[str, Any], list[str]]:
    """How the network wants its images; tried where nobody says so, the worst ways on a few."""
    from clinipress.steps.adopt import training_cases

    recipe = ModelRecipe.model_validate(original["model"])
    classes = opened.classes
    ways = _ways(recipe, data["input"]["channels"], request, opened)
    pictures = functools.lru_cache(2)(
        lambda spec, count: training_cases(opened, spec, request.seed, count)
    )
    known: dict[str, tuple[NDArray[np.float32], Classes]] = {}

    def answers(way: str, count: int) -> tuple[NDArray[np.float32], Classes]:
        spec, settings = ways[way]
        images, labels = pictures(spec, count)
        if way not in known or len(known[way][1]) < len(labels):
            module = _built(recipe.model_copy(update=settings), spec, opened)
            known[way] = _answers(module, images), labels
        return known[way]

    def hits(way: str, count: int) -> Hits | Areas:
        logits, labels = answers(way, count)
        return hits_of(logits[:, likeliest_order(logits, labels, len(classes))], labels)

    best, rivals, trials = tried(
        "input", ways, hits, lambda a, b: np.array_equal(known[a][0], known[b][0]), FINALISTS
    )
    images = pictures(ways[best][0], FIRST_CASES)[0]
    for tier in _unusual(ways[best], request, images):
        ways |= tier
        if better := _beating(tier, [best, *rivals], hits):
            best, *rivals = better
            trials += [figures("input", w, hits(w, SETTLING_CASES), w == best) for w in better]
    if request.mean is None:
        ways |= _other_levels(ways[best])
        check_levels(best, hits(best, SETTLING_CASES), _other_levels(ways[best]), hits)
    logits, labels = answers(best, SETTLING_CASES)
    as_given = hits_of(logits, labels)
    measure = as_given.measure
    shares = {row["option"]: row[measure] for row in trials}
    cases = {row["option"]: row["cases"] for row in trials}
    shares[best], cases[best] = as_given.share, len(labels)
    levels = {way: tuple(ways[way][1][key] for key in ("mean", "std")) for way in ways}
    if others := [way for way in rivals if levels[way] != levels[best]]:
        raise InputError(
            f"to know how the network wants its images, which {len(labels)} training images do not "
            "settle",
            f"two ways that do equally well: {best} ({share_words({measure: shares[best]})}) and "
            f"{others[0]} ({share_words({measure: shares[others[0]]})})",
            "say which with --mean and --std (of pixels in [0, 1]), or --size",
        )
    order = likeliest_order(logits, labels, len(classes))
    likeliest, other = hits_of(logits[:, order], labels), by_output(order, classes)
    if as_given.worse_than(likeliest):
        fix = f"if so, add --classes {','.join(other)}"
        raise order_refusal("the network", classes, as_given, other, likeliest, fix)
    fix = "check the weights, the classes and their order, and how the images are read"
    check_better_than_chance("the network", as_given, labels, fix)
    table = "; ".join(
        f"{way} {share_words({measure: shares[way]})}"
        + (f" of {cases[way]}" if cases[way] < len(labels) else "")
        for way in sorted(shares, key=lambda way: (way != best, -shares[way]))[:FINALISTS]
    )
    what = "right of" if measure == "accuracy" else "mean AUROC on"
    said = f"{what} {len(labels)} images to train on: {table}"
    if len(shares) > 1:
        said = (
            f"how the network wants its images was tried on {len(labels)} images to train on"
            f"{'' if measure == 'accuracy' else ', by mean AUROC'}: {table}; taken: {best}"
        )
    spec, settings = ways[best]
    read = {"channels": spec.channels, "height": spec.height, "width": spec.width}
    return {"model": dict(settings), "input": read}, [said]


Way = tuple[InputSpec, Mapping[str, Any]]
SURELY = 0.001  # of a difference that is none (exact McNemar test), where a run is refused for it


def _ways(
    recipe: ModelRecipe, channels: int, request: Asked, opened: StudyData
) -> dict[str, tuple[InputSpec, Mapping[str, Any]]]:
    """Ways to read images that the network can take, by name."""
    ways: dict[str, tuple[InputSpec, Mapping[str, Any]]] = {}
    problem: ClinipressError | None = None
    for spec, wide in _inputs(channels, request):
        for words, (mean, std) in _scales(request).items():
            settings = {"in_channels": wide, **_levels(wide, mean, std)}
            try:
                _built(recipe.model_copy(update=settings), spec, opened)
            except ClinipressError as refused:
                problem = problem or refused
                break
            bgr = bool(request.bgr) and spec.channels == 3
            order = _turned if bgr and request.mean is None else (lambda level: level)
            ways |= _ways_at(spec, wide, {words: (order(mean), order(std))}, bgr=bgr)
    if not ways:
        raise problem or ModelError("a network that takes these images", "none of the sizes tried")
    return ways


def _beating(
    tier: Iterable[str], pool: Sequence[str], hits: Callable[[str, int], Hits | Areas]
) -> list[str]:
    """Ways better (`hits_of`) than each of a pool, beyond chance: the best, then its rivals."""
    first = hits(pool[0], FIRST_CASES).merit
    others = [hits(way, SETTLING_CASES) for way in pool]
    tried_on_all = {
        way: hits(way, SETTLING_CASES) for way in tier if hits(way, FIRST_CASES).merit >= first
    }
    better = [
        way
        for way, mine in tried_on_all.items()
        if all(mine.merit[0] > other.merit[0] and other.worse_than(mine) for other in others)
    ]
    better.sort(key=lambda way: tried_on_all[way].merit, reverse=True)
    return [w for w in better if not tried_on_all[w].worse_than(tried_on_all[better[0]])]


def _ways_at(
    spec: InputSpec, wide: int, scales: Mapping[str, tuple[Any, Any]], *, bgr: bool
) -> dict[str, Way]:
    order = {"channels": "BGR"} if bgr else {}
    return {
        f"{spec.height} x {spec.width} pixels, {words}{', BGR' if bgr else ''}": (
            spec,
            {"in_channels": wide, **_levels(wide, mean, std), **order},
        )
        for words, (mean, std) in scales.items()
    }


def _levels(channels: int, mean: Any, std: Any) -> dict[str, Any]:
    if channels == 1 and isinstance(mean, tuple):
        mean, std = float(np.mean(mean)), float(np.mean(std))
    return {"mean": mean, "std": std}


def _unusual(way: Way, request: Asked, images: NDArray[np.uint8]) -> list[dict[str, Way]]:
    """What fewer scripts do, at the same size, the rarest last.

    Blue before red, as OpenCV reads; other means and deviations, the images' own among them.
    """
    spec, wide = way[0], way[1]["in_channels"]
    orders = [True] if request.bgr is None and spec.channels == 3 else []
    usual = dict(_scales(request))
    tiers = [_ways_at(spec, wide, _blue_first(usual), bgr=True) for _ in orders]
    if request.mean is not None:
        return tiers
    pixels = images.astype(np.float64) / 255
    mean, std = pixels.mean((0, 2, 3)).round(4), pixels.std((0, 2, 3)).clip(1e-3).round(4)
    own = (tuple(map(float, mean)), tuple(map(float, std)))
    rare = {
        "a mean of 0.5 and a deviation of 0.25": (0.5, 0.25),
        "the images' own mean and deviation": own if len(mean) == 3 else (own[0][0], own[1][0]),
    }
    last = _ways_at(spec, wide, rare, bgr=bool(request.bgr) and spec.channels == 3)
    for _ in orders:
        turned = {words: (_turned(mean), _turned(std)) for words, (mean, std) in rare.items()}
        last |= _ways_at(spec, wide, turned, bgr=True)
    return [*tiers, last]


def _turned(level: Any) -> Any:
    return level[::-1] if isinstance(level, tuple) else level


def _blue_first(scales: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Levels in the order of a network that takes blue first, and as scripts leave them."""
    turned = {}
    for words, (mean, std) in scales.items():
        turned[words] = _turned(mean), _turned(std)
        if isinstance(mean, tuple):
            turned[f"{words} as of red first"] = mean, std
    return turned


def _other_levels(way: Way) -> dict[str, Way]:
    """Means and deviations all over the range, under the size and order of a way."""
    spec, settings = way
    return {
        f"a mean of {mean} and a deviation of {std}": (spec, {**settings, "mean": mean, "std": std})
        for mean in (0.0, 0.2, 0.4, 0.6)
        for std in (0.15, 0.3, 0.6, 1.0)
    }


def check_levels(
    best: str,
    as_read: Hits | Areas,
    levels: Iterable[str],
    hits: Callable[[str, int], Hits | Areas],
) -> None:
    """Refuse a way where another mean and deviation, which nobody named, does far better.

    Raises:
        InputError: It does, on more images than chance explains.
    """
    if as_read.share > 1 - BETTER_LEVELS:
        return
    other = max(levels, key=lambda way: hits(way, FIRST_CASES).merit)
    others = hits(other, SETTLING_CASES)
    if others.share - as_read.share > BETTER_LEVELS and _surely(others, as_read):
        raise InputError(
            "to know how the network wants its images",
            f"{as_read} in the best of the usual ways ({best}), and "
            f"{share_words({others.measure: others.share})} with {other}",
            "say what your script normalizes by, with --mean and --std (of pixels in [0, 1])",
        )


def _surely(better: Hits | Areas, worse: Hits | Areas) -> bool:
    """Whether what was found on the same cases differs by more than a run of trials explains."""
    if isinstance(better, Hits) and isinstance(worse, Hits):
        gained = int((better.right & ~worse.right).sum())
        return mcnemar_exact(gained, int((worse.right & ~better.right).sum())) < SURELY
    drawn: Any = better, worse
    return bool(np.quantile(drawn[0].drawn - drawn[1].drawn, SURELY / 2) > 0)


def _inputs(channels: int, request: Asked) -> list[tuple[InputSpec, int]]:
    """Inputs that a network may take: the images' own channels first."""
    sizes: list[tuple[int, int]]
    if request.size is None:
        sizes = [(size, size) for size in SIZES if size >= SMALLEST] + [(256, 256), (299, 299)]
    else:
        sizes = [(request.size, request.size)] if isinstance(request.size, int) else [request.size]
    taken = [request.channels] if request.channels else [3, 1]
    return [
        (InputSpec(channels=min(channels, wide), height=height, width=width), wide)
        for height, width in sizes
        for wide in taken
    ]


def _scales(request: Asked) -> Mapping[str, tuple[Any, Any]]:
    if request.mean is None or request.std is None:
        return {words: SCALES[name] for name, words in WORDS.items()}
    plain = [
        tuple(map(float, value)) if isinstance(value, Sequence) else float(value)
        for value in (request.mean, request.std)
    ]
    return {"the mean and deviation given": (plain[0], plain[1])}


def _built(recipe: ModelRecipe, spec: InputSpec, opened: StudyData) -> Classifier:
    from clinipress.models.classifier import new_classifier

    mean, std = (
        (0.5, 0.25) if recipe.mean is None or recipe.std is None else (recipe.mean, recipe.std)
    )
    return new_classifier(recipe, spec, len(opened.classes), mean, std, task=opened.task)[1]


def _answers(module: Classifier, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    require("torch", extra="compress", what=WHAT)
    import torch

    from clinipress.models.cost import evaluating

    parts = []
    with evaluating(module), torch.inference_mode():
        for start in range(0, len(pictures), 32):
            parts.append(module(torch.from_numpy(pictures[start : start + 32])).numpy())
    logits = np.concatenate(parts)
    # numbers that it cannot bear: not the way to read them
    return logits if np.isfinite(logits).all() else np.zeros_like(logits)


def _schedule(
    model: Mapping[str, Any], data: Mapping[str, Any], opened: StudyData, request: Asked
) -> Timetable:
    """The steps within the time, from what the network takes here."""
    spec = InputSpec.model_validate(data["input"])
    module = _built(ModelRecipe.model_validate(model), spec, opened)
    int8 = request.target is None or "int8" in find_target(request.target).precisions
    costs = _pace(module, spec, opened, request)
    if _nothing_to_train(opened.dataset, request):
        return in_time(Timetable((), costs.besides), costs, request.minutes)
    if not math.isfinite(costs.learning):
        why = "the network computes without gradients (torch.no_grad in its own code?)"
        return Timetable((), costs.besides, (f"nothing is trained: {why}",))
    return schedule(request.risk, costs, request.minutes, int8=int8, barred=_barred(module))


def _without_network(file: Path, spec: InputSpec, opened: StudyData, request: Asked) -> Timetable:
    """Of a file alone: no step but a student that learns from it, where one is named."""
    if request.student is None:
        word = "an ONNX file alone is quantized and converted; --student NAME lets a network learn"
        costs = _amount(math.inf, _file_seconds(file, spec, request.threads), opened, request)
        return in_time(Timetable((), costs.besides, (f"{word} from it",)), costs, request.minutes)
    recipe = ModelRecipe(name=request.student, in_channels=spec.channels, mean=0.5, std=0.25)
    costs = _pace(_built(recipe, spec, opened), spec, opened, request)
    if "distill" not in POLICIES[request.risk].allowed:
        bar = f"at {request.risk} risk no student may be shipped"
        return Timetable((), costs.besides, (f"no distillation: {bar}",))
    return student_schedule(request.student, costs, request.minutes)


def _pace(module: Classifier, spec: InputSpec, opened: StudyData, request: Asked) -> Pace:
    """What the network takes here, and how much of it there is to do."""
    return _amount(*_seconds(module, spec), opened, request)


def _amount(learning: float, answering: float, opened: StudyData, request: Asked) -> Pace:
    counts = {name: opened.summary.size(name) for name in opened.summary.counts}
    files = len(_exports(request, Timetable((), 0.0))) + 2
    others = counts["validation"] + counts["test"]
    return Pace(learning, answering, counts["train"], others, files)


def _seconds(module: Classifier, spec: InputSpec) -> tuple[float, float]:
    """Seconds of an image in training and in answering, batches of 16.

    Infinite seconds of training where no gradient comes to its weights.
    """
    require("torch", extra="compress", what=WHAT)
    import torch

    pixels = torch.randint(0, 256, (16, spec.channels, spec.height, spec.width), dtype=torch.uint8)
    times = []
    for learning in (True, False):
        module.train(learning)
        best = math.inf
        for _ in range(3):
            began = time.perf_counter()
            with torch.set_grad_enabled(learning):
                logits = module(pixels)
                if learning and not logits.requires_grad:
                    break
                if learning:
                    logits.square().mean().backward()
            best = min(best, time.perf_counter() - began)
        times.append(best / len(pixels))
    module.zero_grad()
    module.eval()
    return times[0], times[1]


def _file_seconds(file: Path, spec: InputSpec, threads: int | None) -> float:
    """Seconds of an image as a framework would take them, of which a runtime takes `FILES_TIME`.

    0 for a file that cannot be run with what it says of its input: the study finds out more.
    """
    try:
        opened = session(file, threads)
        (given,) = opened.get_inputs()
        own = [side if isinstance(side, int) else None for side in given.shape]
        usual = (1, spec.channels, spec.height, spec.width)
        shape = [side or other for side, other in zip(own, usual, strict=True)]
        pixels = np.zeros(shape, np.uint8 if "uint8" in given.type else np.float32)
        best = math.inf
        for _ in range(3):
            began = time.perf_counter()
            opened.run(None, {given.name: pixels})
            best = min(best, time.perf_counter() - began)
    except Exception:  # of the engine, over files of all kinds: what is wrong is told later
        return 0.0
    return best / max(shape[0], 1) / FILES_TIME


def _barred(module: Classifier) -> dict[str, str]:
    """Steps that this network cannot have, and why."""
    from clinipress.models.pruning.pruned import plan_pruning

    try:
        plan_pruning(module, ratio=0.1)
    except ClinipressError as problem:
        return {"prune": " ".join(str(problem).split())}
    return {}


def _exports(request: Asked, plan: Timetable, *, onnx: bool = False) -> list[dict[str, Any]]:
    """Files of the last step, and of the original: where the steps lose too much, it is left."""
    if onnx and not plan.steps:
        made = [export for export in _exports(request, plan) if _of_a_file(export)]
        if not made:
            raise InputError(
                f"a network for files of '{request.target}'",
                "an ONNX file alone, of which they cannot be made",
                "name a network that learns from it: --student resnet18",
            )
        return made
    if request.target is None:
        wanted: list[dict[str, Any]] = [
            {"format": "onnx", "precision": "float16"},
            {"format": "onnx", "precision": "int8"},
        ]
    else:
        wanted = recommended_exports(request.risk, find_target(request.target))
    check_toolchains(export["format"] for export in wanted)
    if not plan.steps:
        return wanted
    first = wanted[0]["format"]
    own = [{**export, "of": "reference"} for export in wanted if export["format"] == first]
    if onnx:
        own = [export for export in own if _of_a_file(export)]
    return [*own, *wanted]  # what is tried next follows the last


def _of_a_file(export: Mapping[str, Any]) -> bool:
    return format_facts(export["format"]).from_onnx
