"""What files cost here: time with and without reading the image, and peak memory."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.data.cache import DECODERS
from clinipress.data.sources import decode_item
from clinipress.formats.file import FileCandidate
from clinipress.formats.measure import Timing, busy, environment, load, peak_memory, speed, timings
from clinipress.formats.open import engine_packages, open_file, timed_here
from clinipress.records.candidate import Latency, Made, Measured, Speed, extended
from clinipress.records.store import read_json, write_atomically
from clinipress.study.scores import scores_path
from clinipress.study.workbench import Piece, Workbench, gpus

__all__ = ["measure_all"]

LATENCY_IMAGES = 16


def measure_all(pieces: Sequence[Piece[Made]], bench: Workbench) -> tuple[Piece[Measured], ...]:
    """Time and memory of every file, interleaved in one go so that the ratios hold.

    Files of other devices' engines are not timed here: their figures are None.
    """
    files, here = [piece.file for piece in pieces], environment()
    inputs = {
        "candidates": {file.card.name: file.digest for file in files},
        "threads": bench.study.latency_threads,
        "data": bench.data.digest,
        # times are signed with the processor: those of another are not this one's
        "processor": [here.cpu, *here.cpu_flags],
    } | gpus(file.card.format for file in files)

    def make(folder: Path) -> None:
        costs = _measure(files, bench)
        write_atomically(folder / "latency.json", json.dumps(costs, indent=1))

    with bench.times.phase("latency"):
        packages = (*engine_packages(file.card.format for file in files), *DECODERS)
        folder = bench.store.once("latency", inputs, make, packages=packages)
    costs: dict[str, dict[str, Any]] = read_json(folder / "latency.json")
    return tuple(_measured(piece, costs[piece.name]) for piece in pieces)


def _measured(piece: Piece[Made], cost: dict[str, Any]) -> Piece[Measured]:
    record = extended(
        Measured,
        piece.record,
        latency_ms=_latency(cost["latency"]),
        latency_with_preprocessing_ms=_latency(cost["with_preprocessing"]),
        speed=Speed.model_validate(cost["speed"]) if cost.get("speed") else None,
        peak_memory_bytes=cost["peak_memory"],
        per_image={split: scores_path(piece.name, split) for split in piece.scores},
    )
    return Piece(record, piece.file, piece.network, piece.scores)


def _latency(figures: dict[str, Any] | None) -> Latency | None:
    return Latency.model_validate(figures) if figures else None


def _measure(candidates: Sequence[FileCandidate], bench: Workbench) -> dict[str, dict[str, Any]]:
    threads, spec = bench.study.latency_threads, candidates[0].card.input
    keys = bench.data.rows("validation", spec).keys[:LATENCY_IMAGES]
    by_key = {item.key: item for item in bench.data.dataset.items}
    images = itertools.cycle([by_key[key] for key in keys])
    loaded = {
        c.card.name: open_file(c.path, c.card, threads)
        for c in candidates
        if timed_here(c.card.format)
    }
    image = decode_item(by_key[keys[0]], spec)[None]

    def from_file(candidate: FileCandidate) -> Callable[[NDArray[np.uint8]], Any]:
        return lambda _: candidate.predict(decode_item(next(images), spec)[None])

    # with and without reading the file in one go: drift between two runs would hide reading
    whole = {f"{name} from file": from_file(file) for name, file in loaded.items()}
    before = load()
    timed = timings({**loaded, **whole}, image, threads=threads)
    costs: dict[str, dict[str, Any]] = {}
    for candidate in candidates:
        name = candidate.card.name
        if name not in loaded:
            arena = candidate.card.history[-1].facts.get("arena_bytes")
            costs[name] = {"latency": None, "with_preprocessing": None, "peak_memory": arena}
            continue
        read = timed[f"{name} from file"].latency.model_dump()
        runtime = {"runtime": candidate.runtime}
        costs[name] = {
            "latency": timed[name].latency.model_dump(),
            "with_preprocessing": read | runtime | {"preprocessing": True},
            "speed": _speed(timed, candidates[0].card.name, name, before),
            "peak_memory": peak_memory(candidate.path, threads=threads, card=candidate.card),
        }
    return costs


def _speed(
    timed: dict[str, Timing], reference: str, name: str, before: float | None
) -> dict[str, Any] | None:
    """Beside the reference, the first candidate, both with reading of the file."""
    theirs, mine = (timed.get(f"{each} from file") for each in (reference, name))
    if name == reference or theirs is None or mine is None:
        return None
    return speed(theirs, mine, busy({reference: theirs, name: mine}, before)).model_dump()
