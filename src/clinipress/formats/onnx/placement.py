"""Which layers compute in 8 bits and which in float: decided by measuring.

A network is cut into groups of layers where a single tensor passes, so that a group in float costs
one conversion at either end. Starting from 8 bits throughout, the worst groups go back to float one
by one: first those that are slower in 8 bits, then those that disturb the logits most for the time
they save. Layers in float still have their weights stored in 8 bits. Every trial is a whole file,
run by its runtime on training images and timed in turn with the float32 file; all are kept with the
plan, and the best of those that agree and are fast enough is taken.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from clinipress.formats.measure import latency
from clinipress.formats.onnx.int8 import Int8Plan, apply_int8, prepare
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.stats.metrics import same_answers

__all__ = ["Trial", "agreement_images", "choose_placement", "groups", "search", "signal_to_noise"]

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
MOST_GROUPS = 8
TRIAL_ROUNDS = 200
TRIAL_SECONDS = 2.0
# Times closer than this are the same time: the smaller file is taken.
SAME_TIME = 0.02
MAX_DECIBELS = 120.0


@dataclasses.dataclass(frozen=True)
class Trial:
    """One file that was measured.

    Attributes:
        low: Numbers of the groups in 8 bits.
        agreement: Share of images with the float32 file's top class (`same_answers`).
        decibels: Signal to noise of the logits against float32.
        time: Milliseconds over those of the float32 file, of medians measured in turn.
        file_bytes: Size of the file.
    """

    low: tuple[int, ...]
    agreement: float
    decibels: float
    time: float
    file_bytes: int

    def fits(self, agreement: float, time: float) -> bool:
        """True when it agrees and is fast enough."""
        return self.agreement >= agreement and self.time <= time


def signal_to_noise(exact: NDArray[np.float32], approximate: NDArray[np.float32]) -> float:
    """``10 log10(sum(exact^2) / sum((exact - approximate)^2))`` dB, each row's mean taken off.

    What all logits of an image share changes no probability, so it is neither signal nor noise.
    """
    a = exact.astype(np.float64) - exact.mean(axis=1, keepdims=True)
    b = approximate.astype(np.float64) - approximate.mean(axis=1, keepdims=True)
    noise, signal = float(((a - b) ** 2).sum()), float((a**2).sum())
    if noise == 0:
        return MAX_DECIBELS
    return float(min(MAX_DECIBELS, 10 * np.log10(max(signal, 1e-30) / noise)))


def agreement_images(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Training images and blends of two of them, half and half.

    A network is sure of the images it was trained on, so they alone would hide most flips; between
    two images lies a boundary, and a blend is near it. No label is needed.

    Args:
        images: uint8 ``[n, c, h, w]``.
        seed: Of the pairs.

    Returns:
        uint8 ``[2n, c, h, w]``.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    blends = (images.astype(np.uint16) + images[order]) // 2
    return np.concatenate([images, blends.astype(np.uint8)])


def groups(model: onnx.ModelProto, most: int = MOST_GROUPS) -> list[tuple[str, ...]]:
    """Nodes in consecutive groups, cut where one tensor alone passes.

    What follows the last global pooling is a group of its own: the head takes next to no time, and
    is often what 8 bits disturb most (in a MobileNetV3-Small its two layers alone gave 9 dB, every
    other layer alone 18 dB or more).

    Args:
        model: A prepared graph (`quantize.prepare`), nodes in order.
        most: Groups to end with; neighbours with the fewest layers between them are joined.

    Returns:
        Names of the nodes of each group; every group has a layer.
    """
    graph = model.graph
    constant = {tensor.name for tensor in graph.initializer} | {graph.input[0].name}
    last_use = {name: i for i, node in enumerate(graph.node) for name in node.input}
    last_use |= {output.name: len(graph.node) for output in graph.output}
    parts: list[list[onnx.NodeProto]] = [[]]
    alive: set[str] = set()
    for index, node in enumerate(graph.node):
        parts[-1].append(node)
        alive |= set(node.output) - constant
        alive = {name for name in alive if last_use.get(name, -1) > index}
        if len(alive) == 1 and index + 1 < len(graph.node):
            parts.append([])
    pools = [i for i, p in enumerate(parts) if any(n.op_type == "GlobalAveragePool" for n in p)]
    cut = pools[-1] + 1 if pools else len(parts)
    tail = parts[cut:]
    if most > 1 and any(node.op_type in LAYERS for part in tail for node in part):
        joined = [*_joined(parts[:cut], most - 1), *_joined(tail, 1)]
    else:
        joined = _joined(parts, most)
    return [tuple(node.name for node in part) for part in joined]


def _joined(parts: list[list[onnx.NodeProto]], most: int) -> list[list[onnx.NodeProto]]:
    """Neighbours joined until every part has a layer and there are few enough."""

    def layers(part: list[onnx.NodeProto]) -> int:
        return sum(node.op_type in LAYERS for node in part)

    parts = [part for part in parts if part]
    while len(parts) > 1 and (len(parts) > most or min(map(layers, parts)) == 0):
        least = min(range(len(parts)), key=lambda i: (layers(parts[i]), i))
        # what follows a layer without weights of its own belongs to the layer before it
        sides = [i for i in (least - 1, least + 1) if 0 <= i < len(parts)]
        if layers(parts[least]):
            sides.sort(key=lambda i: layers(parts[i]))
        other = sides[0]
        first, second = sorted((least, other))
        parts[first : second + 1] = [parts[first] + parts[second]]
    return parts


def search(
    count: int,
    measure: Callable[[tuple[int, ...]], Trial],
    *,
    agreement: float,
    time: float,
    kept: str = "images keep their class",
) -> tuple[Trial, list[Trial], str]:
    """Return groups to float until the file agrees and is fast enough; keep the best.

    Args:
        count: How many groups there are.
        measure: Makes and measures the file with the named groups in 8 bits.
        agreement: Share of images that must keep the float32 file's class.
        time: Largest time over float32's.
        kept: What agrees, for the reason.

    Returns:
        The trial taken, all of them in order, and why it was taken.
    """
    every = tuple(range(count))
    full = measure(every)
    trials = [full]
    if not full.fits(agreement, time):
        none = measure(())
        alone = [measure((group,)) for group in every]
        trials += [none, *alone]
        low = list(every)
        for group in _worst_first(alone, none):
            low.remove(group)
            known = [t for t in trials if t.low == tuple(low)]
            if not known:
                trials.append(measure(tuple(low)))
    best = _best(trials, agreement, time)
    return best, trials, _reason(best, full, count, agreement, time, kept)


def _worst_first(alone: Sequence[Trial], none: Trial) -> list[int]:
    """Groups that save no time, slowest first; then by noise per time saved."""

    def noise(trial: Trial) -> float:
        return float(10 ** (-trial.decibels / 10))

    saved = [none.time - trial.time for trial in alone]
    useless = sorted((g for g, s in enumerate(saved) if s <= 0), key=lambda g: (saved[g], g))
    useful = sorted(
        (g for g, s in enumerate(saved) if s > 0), key=lambda g: (-noise(alone[g]) / saved[g], g)
    )
    return useless + useful


def _best(trials: Sequence[Trial], agreement: float, time: float) -> Trial:
    able = [trial for trial in trials if trial.fits(agreement, time)]
    if able:
        fastest = min(trial.time for trial in able)
        near = [trial for trial in able if trial.time <= fastest + SAME_TIME]
        return min(near, key=lambda t: (t.file_bytes, -t.decibels))
    agreeing = [trial for trial in trials if trial.agreement >= agreement]
    if agreeing:
        return min(agreeing, key=lambda t: t.time)
    return max(trials, key=lambda t: (t.agreement, t.decibels))


def _reason(best: Trial, full: Trial, count: int, agreement: float, time: float, kept: str) -> str:
    summary = (
        f"{len(best.low)} of {count} groups in 8 bits: {best.agreement:.1%} of the {kept}, "
        f"{best.time:.2f} of float32's time; 8 bits throughout: {full.agreement:.1%}, "
        f"{full.time:.2f}"
    )
    if best.fits(agreement, time):
        return summary
    missed = "agreement" if best.agreement < agreement else "time"
    return f"{summary}; no placement reached the {missed} asked for, this one came nearest"


def choose_placement(
    source: Path,
    plan: Int8Plan,
    images: NDArray[np.uint8],
    *,
    threads: int,
    agreement: float,
    time: float,
    seconds: float = TRIAL_SECONDS,
) -> tuple[Int8Plan, dict[str, Any]]:
    """Decide which nodes of a plan stay in float.

    Args:
        source: The float32 file.
        plan: A plan for 8 bits throughout.
        images: uint8 ``[n, c, h, w]`` from the training split (`agreement_images`).
        threads: Threads of the timed calls.
        agreement: Share of images that must keep the float32 file's class.
        time: Largest time over float32's.
        seconds: Time one trial is timed for.

    Returns:
        The plan with its excluded nodes, and what was measured: "groups", "trials", "taken",
        "reason"; plain data.
    """
    prepared = prepare(source, equalized=plan.equalize, smoothing=plan.smoothing)
    parts = groups(prepared)
    exact = OnnxCandidate.load(source, threads=threads)
    expected, several = exact.predict(images), exact.card.task == "multilabel"

    def without(low: Sequence[int]) -> Int8Plan:
        names = tuple(n for number, part in enumerate(parts) if number not in low for n in part)
        return dataclasses.replace(plan, exclude=(*plan.exclude, *names), store_excluded=True)

    def measure(low: tuple[int, ...]) -> Trial:
        with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
            path = Path(folder) / "trial.onnx"
            apply_int8(source, path, without(low), prepared=prepared)
            file = OnnxCandidate.load(path, threads=threads)
            logits = file.predict(images)
            taken = latency(
                {"float32": exact, "trial": file},
                images,
                threads=threads,
                repeats=TRIAL_ROUNDS,
                seconds=seconds,
            )
            return Trial(
                low=low,
                agreement=same_answers(expected, logits, several=several),
                decibels=signal_to_noise(expected, logits),
                time=taken["trial"].median / taken["float32"].median,
                file_bytes=path.stat().st_size,
            )

    kept = "answers about findings stay" if several else "images keep their class"
    best, trials, reason = search(len(parts), measure, agreement=agreement, time=time, kept=kept)
    facts = {
        "groups": [list(part) for part in parts],
        "trials": [dataclasses.asdict(trial) for trial in trials],
        "taken": list(best.low),
        "reason": reason,
    }
    return without(best.low), facts
