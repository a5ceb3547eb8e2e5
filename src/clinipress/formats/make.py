"""From a network to the file a recipe asks for, whatever the format: plan, then apply, then look.

    plan_export    measures what the file needs: ranges, corrections, placements
    apply_export   writes it; the bytes depend on network, plan and card alone
    file_facts     what it really holds and runs

The plan is stored, so that a run that was killed writes the same bytes when it goes on. Each
toolchain has one module, imported when its format is asked for, with two functions of its own:

    plan_FORMAT    (recipe, parent, source, images, *, ranges=None) as `plan_export`; the images
                   are those no outlier is among; ranges: (low, high) of activations by tensor of
                   `source`, or of what `quantize.prepare` makes of it, which go before calibrated
                   ones wherever the file rounds a tensor of the same values
    apply_FORMAT   as `apply_export`
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ClinipressError, ModelError
from clinipress.formats.file import FileCandidate, first_line
from clinipress.formats.onnx.int8 import plan_each, prepare
from clinipress.formats.onnx.make import apply_onnx, plan_facts, plan_onnx
from clinipress.formats.onnx.outliers import outliers
from clinipress.formats.onnx.placement import agreement_images, signal_to_noise
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.formats.onnx.write import card_for
from clinipress.formats.open import check_toolchains, open_file
from clinipress.formats.precision import not_quantized, quantized_layers
from clinipress.recipe.formats import format_facts, precision_facts
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import Card
from clinipress.records.store import digest_of, storage
from clinipress.stats.metrics import same_answers

if TYPE_CHECKING:
    from clinipress.formats.onnx.adopt import FileNetwork
    from clinipress.models.classifier import TorchCandidate

__all__ = ["Tried", "apply_export", "file_facts", "open_made", "plan_export"]

ELSEWHERE = "choose another precision or format for this network"

# The files of the plan that was made last, name -> bytes, by its key: planning has written them to
# look at their answers, and to write them once more would cost minutes in some toolchains. Only of
# formats that hold no card: theirs are the files that the plan would give again.
Tried = dict[str, dict[str, bytes]]

# Precisions that need calibration images.
GAIN = 0.5  # decibels that our own ranges must gain over the toolchain's
# Share of the given ranges that a file must find places for to be taken without a trial. It has
# fewer places than an ONNX file has tensors (a layer and its clamp are one): never all are found.
PLACED = 0.5


def plan_export(
    recipe: ExportRecipe,
    parent: TorchCandidate | FileNetwork,
    source: Path,
    images: NDArray[np.uint8],
    *,
    threads: int,
    seed: int,
    tried: Tried | None = None,
) -> dict[str, Any]:
    """Measure what the file of a recipe needs.

    Args:
        recipe: What to make.
        parent: The network.
        source: Its float32 ONNX file.
        images: uint8 ``[n, c, h, w]``: training images, un-augmented; may be empty where nothing is
            calibrated.
        threads: Threads of timed calls.
        seed: Of the pairs of `agreement_images`.
        tried: Takes up the file that was written to look at its answers, for `apply_export`.

    Returns:
        Plain data for `apply_export`; {} where the precision needs nothing.

    Raises:
        MissingExtraError: The format's toolchain is not installed.
        ModelError: The network cannot be exported so.
    """
    learnt = parent.spec.ranges
    if recipe.format == "onnx":  # what the others are made of; it chooses its ranges itself
        with _refusing(recipe):
            return plan_onnx(recipe, source, images, threads=threads, seed=seed, ranges=learnt)
    if not precision_facts(recipe.precision).calibrated:
        made: dict[str, Any] = _call(recipe, "plan", recipe, parent, source, images)
        return made
    return _calibrated(
        recipe,
        parent,
        source,
        images,
        threads=threads,
        seed=seed,
        tried={} if tried is None else tried,
    )


def _calibrated(
    recipe: ExportRecipe,
    parent: TorchCandidate | FileNetwork,
    source: Path,
    images: NDArray[np.uint8],
    *,
    threads: int,
    seed: int,
    tried: Tried,
) -> dict[str, Any]:
    """The plan whose file disturbs the logits least: the toolchain's own ranges, or ours.

    Learnt ranges that have their places leave nothing to choose.
    """
    strange = outliers(prepare(source), images)
    usual = np.delete(images, strange, axis=0)
    common = {"left_out": [int(number) for number in strange]}
    method = recipe.calibration_method
    options: dict[str, Mapping[str, tuple[float, float]] | None] = {}
    plans: dict[str, Any] = {}
    if learnt := parent.spec.ranges:
        made = _call(recipe, "plan", recipe, parent, source, usual, ranges=learnt)
        if not _short_of_places(made):
            return {"file": made, "trials": [], "ranges": "learnt", **common}
        # what was learnt is kept unless the toolchain's own gain
        plans["learnt"], options = made, {"learnt": learnt, "runtime": None}
    elif method in ("auto", "runtime"):
        options["runtime"] = None
    # ours are of the weights as they are
    changed = recipe.equalize or recipe.smooth is not None
    if not learnt and method != "runtime" and not (method == "auto" and changed):
        ours = "percentile" if method == "auto" else method
        options[ours] = plan_each(source, usual, (ours,))[ours].ranges
    looked_at = agreement_images(usual, seed)
    exact = OnnxCandidate.load(source, threads=threads).predict(looked_at)
    trials: list[dict[str, Any]] = []
    files: dict[str, dict[str, bytes]] = {}
    for name, ranges in options.items():
        if name not in plans:
            plans[name] = _call(recipe, "plan", recipe, parent, source, usual, ranges=ranges)
        with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
            target = Path(folder) / format_facts(recipe.format).files[0]
            card = card_for(parent.card, recipe.precision, recipe.format)
            _call(recipe, "apply", recipe, parent, source, target, plans[name], card)
            logits = open_made(target, card, threads, looked_at[:1]).predict(looked_at)
            files[name] = {part.name: part.read_bytes() for part in Path(folder).iterdir()}
        trials.append(
            {
                "method": name,
                "decibels": round(signal_to_noise(exact, logits), 3),
                "agreement": same_answers(exact, logits, several=parent.card.task == "multilabel"),
            }
        )
    chosen = trials[0]
    for trial in trials[1:]:
        if trial["decibels"] > chosen["decibels"] + GAIN:
            chosen = trial
    wanted = "learnt" if learnt else chosen["method"]
    tried.clear()
    if not format_facts(recipe.format).holds_card:
        tried[_key(recipe, parent, plans[chosen["method"]])] = files[chosen["method"]]
    short = options[wanted] and _short_of_places(plans[wanted])
    lost = {"lost": _lost(wanted, plans[wanted], trials, chosen["method"])} if short else {}
    return {
        "file": plans[chosen["method"]],
        "trials": trials if len(trials) > 1 else [],
        "ranges": chosen["method"],
        **lost,
        **common,
    }


def _key(
    recipe: ExportRecipe, parent: TorchCandidate | FileNetwork, plan: Mapping[str, Any]
) -> str:
    return digest_of([recipe.model_dump(mode="json"), parent.digest, plan])


def _placed(made: Mapping[str, Any]) -> tuple[int, int]:
    """How many ranges a plan was given, and how many of them have a place in its file."""
    facts = {**made, **made.get("facts", {})}
    given = facts.get("given", facts.get("given_ranges", 0))
    return int(given), int(facts.get("found", facts.get("given_ranges_used", given)))


def _short_of_places(made: Mapping[str, Any]) -> bool:
    given, placed = _placed(made)
    return placed < PLACED * given


def _lost(
    wanted: str, made: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], chosen: str
) -> str:
    """What became of ranges that have no place in a file."""
    given, placed = _placed(made)
    origin = "learnt in quantization-aware training" if wanted == "learnt" else f"found ({wanted})"
    kept = "the others" if chosen == wanted else "all of them"
    compared = ", ".join(f"{trial['decibels']:.1f} dB ({trial['method']})" for trial in trials)
    return (
        f"of {given} ranges of activations {origin}, {placed} have a place in this file, and the "
        f"toolchain's own stand in for {kept} (signal to noise on training images: {compared})"
    )


def apply_export(
    recipe: ExportRecipe,
    parent: TorchCandidate | FileNetwork,
    source: Path,
    target: Path,
    plan: dict[str, Any],
    card: Card,
    tried: Tried | None = None,
) -> None:
    """Write the file of a plan; its bytes depend on the network, the plan and the card alone.

    Args:
        recipe: What to make.
        parent: The network; it is copied, not touched.
        source: Its float32 ONNX file.
        target: Where to write; what belongs to the file (weights, a header, a script) goes beside.
        plan: From `plan_export`.
        card: Of the file; a format that cannot hold one takes from it what it needs.
        tried: Of `plan_export`.

    Raises:
        MissingExtraError: The format's toolchain is not installed.
        ModelError: The network cannot be exported so.
        StorageError: The disk is full or cannot be written.
    """
    if recipe.format == "onnx":
        with _refusing(recipe):
            apply_onnx(recipe, source, target, plan, card)
        return
    inner = plan.get("file", plan)
    card = card_for(card, recipe.precision, recipe.format)
    written = tried.pop(_key(recipe, parent, inner), None) if tried else None
    if written is not None:
        with storage(f"the file '{target}'"):
            for name, content in written.items():
                (target.parent / name).write_bytes(content)
        return
    _call(recipe, "apply", recipe, parent, source, target, inner, card)


def file_facts(recipe: ExportRecipe, path: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """What a file really holds and runs, and what its plan says of it.

    Returns:
        "operators", "weight_bytes", "layers" (kind -> [in low precision, all]); "in_float", names
        in the file of layers that compute in float all the same, if any; "warning" where the file
        does not hold what its precision promises; and, of a plan, its digest and trials.
    """
    counts, sizes = _call(recipe, "count_operators", path), _call(recipe, "weight_bytes", path)
    planned: dict[str, Any]
    if recipe.format == "onnx":
        planned = plan_facts(plan)
    else:
        planned = {"plan": digest_of(plan)} if plan else {}
        planned |= {
            k: v for k, v in plan.items() if k in ("left_out", "trials", "ranges", "lost") and v
        }
        inner = plan.get("file", plan)
        # of the ranges that were given: how many found a place, and how many places are the
        # toolchain's own
        planned |= {key: inner[key] for key in ("given", "found", "calibrated") if key in inner}
        planned |= inner.get("facts", {})
    layers = {kind: list(pair) for kind, pair in quantized_layers(counts).items()}
    facts: dict[str, Any] = {"operators": counts, "weight_bytes": sizes, "layers": layers}
    if recipe.precision == "int8":
        names = _call_if_there(recipe.format, "float_layers", path)
        facts |= {"in_float": names} if names else {}
    warning = not_quantized(counts, sizes, recipe.precision)
    if warning:
        facts["warning"] = warning
    return facts | planned


def open_made(
    path: Path, card: Card, threads: int | None, images: NDArray[np.uint8]
) -> FileCandidate:
    """Open a file that was just made, and let it answer.

    Args:
        path: The file.
        card: Of it.
        threads: CPU threads of one call.
        images: uint8 ``[n, c, h, w]``, one or more.

    Raises:
        ModelError: Its engine refuses it, or gives up over it: not a file that was cut short, but
            one that this format and precision cannot hold.
    """
    try:
        file = open_file(path, card, threads)
        file.predict(images)
    except ModelError as problem:
        blame = _call_if_there(card.format, "blamed", path, problem.got)
        raise ModelError(
            f"a network that {card.format} in {card.precision} can hold ('{card.name}')",
            f"a file that its engine refuses{blame or ''}: {problem.got}",
            ELSEWHERE,
        ) from problem
    return file


def _call_if_there(kind: str, name: str, *arguments: Any) -> Any:
    module = importlib.import_module(f"clinipress.formats.{format_facts(kind).room}.make")
    function = getattr(module, name, None)
    return function(*arguments) if function else None


def _call(recipe: ExportRecipe, verb: str, *arguments: Any, **options: Any) -> Any:
    """A function of the format's module: ``plan_litert`` for "plan", or one without a suffix."""
    check_toolchains((recipe.format,))
    room = format_facts(recipe.format).room
    module = importlib.import_module(f"clinipress.formats.{room}.make")
    function = getattr(module, f"{verb}_{room}", None) or getattr(module, verb)
    with _refusing(recipe):
        return function(*arguments, **options)


@contextlib.contextmanager
def _refusing(recipe: ExportRecipe) -> Iterator[None]:
    """What a toolchain raises, as one line; its exceptions share no base but Exception."""
    try:
        yield
    except (ClinipressError, MemoryError, OSError):
        raise
    except Exception as problem:
        if isinstance(problem, MISTAKES) and _is_ours(problem):
            raise
        raise ModelError(
            f"a network that {recipe.format} in {recipe.precision} can hold",
            f"a toolchain that gave up over it ({type(problem).__name__}: {first_line(problem)})",
            ELSEWHERE,
        ) from problem


# What no network causes; compiled functions raise a TypeError in the line that calls them
MISTAKES = (NameError, AttributeError)
OURS = Path(__file__).parents[1]


def _is_ours(problem: BaseException) -> bool:
    """Whether it was raised in a line of clinipress, not in what a line of it called."""
    step = problem.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step is not None and OURS in Path(step.tb_frame.f_code.co_filename).parents
