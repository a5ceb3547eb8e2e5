"""What an ONNX file leaves open, tried on labelled training images: never on those of a test.

One thing after the other (scale, order of channels, geometry, order of classes), each with what was
settled before (`clinipress.formats.trials`). Of geometries that differ by no more than chance the
best is taken, each with its figure; anything else is asked for.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from clinipress.errors import ModelError
from clinipress.formats.onnx.adopt import TemporaryFile, adopt, write_adopted
from clinipress.formats.onnx.foreign import Foreign, examine
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.formats.trials import (
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
from clinipress.recipe.steps import OnnxRecipe
from clinipress.records.candidate import Card, InputSpec, Task
from clinipress.text import joined

__all__ = ["Cases", "as_read", "open_declared", "open_questions", "settle"]

# Images and class numbers (of several findings ``[n, k]``) of training cases, decoded by a way of
# making a picture fit
Cases = Callable[[InputSpec], tuple[NDArray[np.uint8], Classes]]

FITS = ("stretch", "pad", "crop")
SHOWN = {
    "scale": "0..1 (or 0..255, -1..1, imagenet, caffe)",
    "channels": "RGB (or BGR)",
    "fit": "stretch (or pad, crop)",
    "classes": "a,b,c",
}
USUAL = {"scale": "0..1", "channels": "RGB", "fit": "stretch"}


def as_read(foreign: Foreign, recipe: OnnxRecipe) -> OnnxRecipe:
    """The recipe, with what the file itself says where nothing was declared.

    Raises:
        ModelError: The file names its classes, and others or another order were declared.
    """
    known: dict[str, Any] = {}
    told = {_plain(name) for name in foreign.names or ()}
    if foreign.task == "multilabel" and told >= {_plain(name) for name in recipe.classes or ()}:
        known["classes"] = foreign.names or recipe.classes  # some of its findings were asked for
    elif foreign.names and recipe.classes and foreign.names != recipe.classes:
        raise ModelError(
            f"the classes that '{foreign.name}' names itself: {', '.join(foreign.names)}",
            ", ".join(recipe.classes),
            "leave 'classes' out; other words for the same ones go into a class map",
        )
    if recipe.classes is None and foreign.names:
        known["classes"] = foreign.names
    if recipe.scale is None and recipe.mean is None and foreign.scale:
        known["scale"] = foreign.scale
    if recipe.channels is None and (recipe.scale == "caffe" or foreign.order):
        known["channels"] = "BGR" if recipe.scale == "caffe" else foreign.order
    if foreign.channels == 1:
        known["channels"] = "RGB"
    return recipe.model_copy(update=known)


def open_questions(recipe: OnnxRecipe) -> list[str]:
    """Keys that are still open, in the order in which they are tried; "classes" last."""
    asked = [key for key in USUAL if getattr(recipe, key) is None]
    if recipe.mean is not None:
        asked = [key for key in asked if key != "scale"]
    return asked + (["classes"] if recipe.classes is None else [])


def settle(
    foreign: Foreign,
    recipe: OnnxRecipe,
    classes: Sequence[str],
    spec: InputSpec,
    cases: Cases,
    threads: int | None = None,
) -> tuple[OnnxRecipe, list[dict[str, Any]]]:
    """Close what is open on labelled training cases.

    Args:
        foreign: The file.
        recipe: Of `as_read`.
        classes: The data's, in their order: the numbers of the labels.
        spec: The images; its `fit` has no say.
        cases: Gives training images and their labels, in an order drawn by chance.
        threads: CPU threads.

    Returns:
        The recipe with nothing open, and the trials (`clinipress.formats.trials.figures`). Of a
        recipe with nothing open the one reading is tried, too; where another order of the classes
        than the declared one does better, a row "order?" says so.

    Raises:
        ModelError: Nothing reads the file better than chance, or the cases do not settle it.
    """
    trials: list[dict[str, Any]] = []
    asked = open_questions(recipe)
    reading = {key: getattr(recipe, key) or USUAL[key] for key in USUAL}
    readings = _Readings(foreign, recipe, spec, cases, threads)
    own = _own_order(foreign, recipe, classes)

    def right(option: Mapping[str, str], count: int) -> Hits | Areas:
        logits, labels = readings(option, count)
        order = own or likeliest_order(logits, labels, len(classes))
        return hits_of(logits[:, order], labels)

    for key, options in (
        ("scale and channels", _pixels(foreign, recipe, asked, readings.grey)),
        ("fit", {option: {"fit": option} for option in FITS if "fit" in asked}),
    ):
        if len(options) > 1:
            tried = {name: reading | option for name, option in options.items()}
            reading = tried[_best(key, tried, readings, right, trials, foreign.name)]
        elif options:
            reading = reading | next(iter(options.values()))
    logits, labels = readings(reading, SETTLING_CASES)
    order, names = _settled_order(foreign, recipe, classes, logits, labels, trials)
    hits = hits_of(logits[:, order], labels)
    spare = [name for name in names if name not in classes]
    without = f", without its outputs {', '.join(spare)}" if spare else ""
    trials.append(figures("all", f"as settled{without}", hits, True))
    if asked:
        fix = "declare classes (order?), scale, channels and fit, if it is of these classes"
        check_better_than_chance(f"'{foreign.name}'", hits, labels, fix)
    scale = {"scale": None} if recipe.mean is not None else {}
    return recipe.model_copy(update=reading | {"classes": names} | scale), trials


def _pixels(
    foreign: Foreign, recipe: OnnxRecipe, asked: Sequence[str], grey: bool
) -> dict[str, dict[str, str]]:
    """Ways to read the pixels that are still open, by name; {} where there is one only."""
    if not {"scale", "channels"} & set(asked):
        return {}
    scales = [s for s in SCALES if s != "caffe"] if "scale" in asked else [recipe.scale or "0..1"]
    orders = ["RGB", "BGR"] if "channels" in asked else [recipe.channels or "RGB"]
    if grey:  # each order gives the network the same numbers
        orders = orders[:1]
    options = {
        f"{scale} {order}": {"scale": scale, "channels": order}
        for scale in scales
        for order in orders
    }
    if "scale" in asked and foreign.channels == 3 and recipe.channels != "RGB":
        options["caffe BGR"] = {"scale": "caffe", "channels": "BGR"}
    return options


def _best(
    key: str,
    options: Mapping[str, Mapping[str, str]],
    readings: _Readings,
    right: Callable[[Mapping[str, str], int], Hits | Areas],
    trials: list[dict[str, Any]],
    name: str,
) -> str:
    """The option that is better beyond chance than every other one that differs."""
    best, rivals, rows = tried(
        key,
        options,
        lambda option, count: right(options[option], count),
        lambda one, other: readings.same(options[one], options[other]),
    )
    trials += rows
    # what ways to make a picture fit differ by may lie within chance, and each is told
    if rivals and key != "fit":
        asked = " and ".join(f"'{part}'" for part in key.split(" and "))
        last = {row["option"]: row for row in rows}
        raise ModelError(
            f"{asked} of '{name}', which {rows[-1]['cases']} training images do not settle",
            ", ".join(f"{way} {share_words(last[way])}" for way in (best, *rivals)),
            f"declare {asked}: {' or '.join((best, *rivals))}",
        )
    return best


class _Readings:
    """Answers to training images under one reading of a file or another; each computed once."""

    def __init__(
        self,
        foreign: Foreign,
        recipe: OnnxRecipe,
        spec: InputSpec,
        cases: Cases,
        threads: int | None,
    ) -> None:
        self.foreign, self.recipe, self.spec = foreign, recipe, spec
        self.cases, self.threads = cases, threads
        self._pictures: dict[str, tuple[NDArray[np.uint8], Classes]] = {}
        self._answers: dict[tuple[str, str, str], NDArray[np.float32]] = {}

    def __call__(
        self, reading: Mapping[str, str], count: int
    ) -> tuple[NDArray[np.float32], Classes]:
        """Logits and labels of the first `count` cases."""
        images, labels = self._decoded(reading["fit"])
        key = self._key(reading)
        known = self._answers.get(key, np.empty((0, self.foreign.classes), np.float32))
        if len(known) < min(count, len(images)):
            more = self._run(reading, images[len(known) : count])
            known = self._answers[key] = np.concatenate([known, more])
        return known[:count], labels[:count]

    def same(self, one: Mapping[str, str], other: Mapping[str, str]) -> bool:
        """True where two readings give the network the same numbers: there is nothing to choose."""
        return self._key(one) == self._key(other)

    @property
    def grey(self) -> bool:
        """True where no picture has a colour."""
        images, _ = self._decoded(USUAL["fit"])
        return bool((images == images[:, :1]).all())

    def _decoded(self, fit: str) -> tuple[NDArray[np.uint8], Classes]:
        if fit not in self._pictures:
            self._pictures[fit] = self.cases(self.spec.model_copy(update={"fit": fit}))
        return self._pictures[fit]

    def _key(self, reading: Mapping[str, str]) -> tuple[str, str, str]:
        """Readings of one key give the network the same numbers."""
        images, _ = self._decoded(reading["fit"])
        return reading["scale"], reading["channels"], hashlib.sha256(images.tobytes()).hexdigest()

    def _run(self, reading: Mapping[str, str], images: NDArray[np.uint8]) -> NDArray[np.float32]:
        names = tuple(map(str, range(self.foreign.classes)))
        scale = {"scale": None} if self.recipe.mean is not None else {}
        whole = self.recipe.model_copy(update={**reading, "classes": None, **scale})
        card = Card(
            name=self.foreign.name, classes=names, input=self.spec, format="onnx",
            task=self.foreign.task,
        )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
            path = Path(folder) / "tried.onnx"
            write_adopted(adopt(self.foreign, whole, names, self.spec), path, card)
            try:
                return OnnxCandidate.load(path, card, self.threads).predict(images)
            except ModelError:  # numbers that it cannot bear: not the way to read it
                return np.zeros((len(images), len(names)), np.float32)


def open_declared(
    path: Path, facts: Mapping[str, Any], threads: int | None, *, timed: bool = False
) -> TemporaryFile:
    """An ONNX file of others as a candidate by what it says and what is declared, without a trial.

    Where it is to be timed alone, what is left open is read anyhow. Sigmoids at its end make its
    classes findings, if `task` does not say so.

    Raises:
        ModelError: It cannot be used, or leaves something open.
    """
    facts = dict(facts)
    task: Any = facts.pop("task", None)
    if task not in (None, *get_args(Task)):
        raise ModelError(f"task {' or '.join(get_args(Task))} of '{path.name}'", f"'{task}'")
    try:
        recipe = OnnxRecipe.model_validate({**facts, "file": str(path)})
    except ValidationError as problem:
        error = problem.errors()[0]
        key = ".".join(str(part) for part in error["loc"]) or "the keys"
        known = ", ".join(name for name in (*OnnxRecipe.model_fields, "task") if name != "file")
        raise ModelError(f"{known} of '{path.name}'", f"'{key}': {error['msg']}") from None
    foreign = examine(path, recipe, task=task)
    recipe = as_read(foreign, recipe)
    if timed:
        numbered = {"classes": tuple(map(str, range(foreign.classes)))}
        usual = {key: (USUAL | numbered)[key] for key in open_questions(recipe)}
        recipe = recipe.model_copy(update=usual)
    if asked := open_questions(recipe):
        raise ModelError(
            f"{joined(asked)} of '{path.name}', which has no card and does not say",
            "none",
            "declare each with --onnx " + ", --onnx ".join(f"{key}={SHOWN[key]}" for key in asked),
        )
    spec = InputSpec(
        channels=1 if foreign.channels == 1 else 3,
        height=foreign.height,
        width=foreign.width,
        fit=recipe.fit or "stretch",
    )
    classes = recipe.classes or ()
    card = Card(
        name=path.stem, classes=classes, input=spec, format="onnx", precision=foreign.precision,
        task=foreign.task,
    )  # fmt: skip
    return TemporaryFile.made(adopt(foreign, recipe, classes, spec), card, threads)


def _own_order(foreign: Foreign, recipe: OnnxRecipe, classes: Sequence[str]) -> list[int] | None:
    """Place of each of the data's classes among the outputs, where it was declared.

    Findings are matched whatever their capitals, blanks and underscores; a file may tell more.
    """
    if recipe.classes is None:
        return None
    if foreign.task == "multilabel":
        places = {_plain(name): place for place, name in enumerate(recipe.classes)}
        if missing := [name for name in classes if _plain(name) not in places]:
            raise ModelError(
                f"outputs of '{Path(recipe.file).name}' for {', '.join(missing)}",
                f"those for {', '.join(filter(None, recipe.classes))}",
                "leave the others out of data.classes, or name them alike with data.class_map",
            )
        return [places[_plain(name)] for name in classes]
    if sorted(recipe.classes) != sorted(classes):
        raise ModelError(
            f"the classes of '{Path(recipe.file).name}': {', '.join(recipe.classes)}",
            ", ".join(classes),
            "name them alike: data.class_map says which folder or label is which class",
        )
    return [recipe.classes.index(name) for name in classes]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def _sorted_orders(classes: Sequence[str]) -> dict[str, Sequence[str]]:
    """As the data's are, by their numbers (1, 2, 10) and as text (1, 10, 2), where these differ."""
    ways: dict[str, Sequence[str]] = {"as the data's are sorted": tuple(classes)}
    others = {"by number": sorted(classes, key=_digits)} if all(map(_digits, classes)) else {}
    for way, order in (others | {"as text": sorted(classes)}).items():
        if order not in [list(other) for other in ways.values()]:
            ways[way] = order
    return ways


def _digits(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _settled_order(
    foreign: Foreign,
    recipe: OnnxRecipe,
    classes: Sequence[str],
    logits: NDArray[np.float32],
    labels: Classes,
    trials: list[dict[str, Any]],
) -> tuple[list[int], tuple[str, ...]]:
    """Output of each class, and the classes in the order of the outputs."""
    own, several = _own_order(foreign, recipe, classes), foreign.task == "multilabel"
    if len(classes) != foreign.classes and not (several and own):
        raise ModelError(
            f"{len(classes)} outputs of '{foreign.name}', for {', '.join(classes)}",
            f"{foreign.classes}",
            "name them with 'classes', in their order" if several else None,
        )
    names: dict[str, Sequence[str]] = {}
    if own is not None:  # by the data's names; an output that is for none of them keeps its own
        ours = dict(zip(own, classes, strict=True))
        declared = recipe.classes or ()
        names["as declared"] = [ours.get(i, n or f"output {i}") for i, n in enumerate(declared)]
    else:
        names = _sorted_orders(classes)
    orders = {way: [list(of).index(name) for name in classes] for way, of in names.items()}
    # findings come together: an order that was sought on some cases is judged on others
    some, rest = (slice(0, None, 2), slice(1, None, 2)) if several else (slice(None), slice(None))
    likeliest = likeliest_order(logits[some], labels[some], len(classes))
    logits, labels = logits[rest], labels[rest]
    hits = {way: hits_of(logits[:, order], labels) for way, order in orders.items()}
    best = max(hits, key=lambda way: hits[way].merit[0])
    other = hits_of(logits[:, likeliest], labels)
    unclear = [way for way in hits if way != best and not hits[way].worse_than(hits[best])]
    if len(classes) == foreign.classes:
        by_likeliest = by_output(likeliest, classes)
    else:  # which outputs, in the order of the data's
        by_likeliest = [names["as declared"][output] for output in likeliest]
    if own is None:
        trials += [figures("classes", way, hit, way == best) for way, hit in hits.items()]
    elif hits[best].worse_than(other):  # what was declared stands, and this is said
        trials.append(figures("order?", ", ".join(by_likeliest), other, False))
    if own is None and (unclear or hits[best].worse_than(other)):
        fix = "order? declare 'classes' in the order of the outputs"
        raise order_refusal(f"'{foreign.name}'", names[best], hits[best], by_likeliest, other, fix)
    return orders[best], tuple(names[best])
