"""How fast a bundle answers on this machine, and in how much memory.

The numbers are of this processor at this moment; they hold for no other. A machine that does other
work shows in the distance between median and 95th percentile.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clinipress.edge.bundle import Bundle, open_bundle
from clinipress.edge.load import load_candidate
from clinipress.edge.manifest import read_card
from clinipress.errors import BundleError, InputError, ModelError
from clinipress.formats.measure import busy, environment, load, peak_memory, speed, timings
from clinipress.formats.open import open_file
from clinipress.kinds.image.read import decode, facts
from clinipress.recipe.formats import format_facts
from clinipress.records.candidate import Candidate, Latency

__all__ = ["bench", "cold_start", "process_peak"]

MOST_REPEATS = 100_000
COLD_STARTS = 3


def bench(
    bundle: str | Path | Bundle,
    *,
    threads: Sequence[int] | None = None,
    batches: Sequence[int] = (1, 8),
    seconds: float = 1.0,
    against: str | Path | None = None,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Measure a bundle on this machine.

    Args:
        bundle: Its folder, or an opened one, which is opened again to time that.
        threads: Thread counts to try; None: 1, 2, 4, ... and all cores.
        batches: Images per call to try.
        seconds: Time to spend per row, warm-up aside.
        against: Another bundle or model file, timed in turn with this one, call by call: ratios
            hold on a busy machine where times do not.
        allow_code: Whether a user's function that a candidate folder names may build its network.

    Returns:
        JSON-able: ``cold_start_ms`` (``python -m clinipress predict`` from start to end),
        ``load_ms`` (hashes and runtime), ``self_test_ms`` (with the first, cold answer),
        ``latency_ms`` (rows of `Latency` with ``model``, ``images_per_second`` and, for the bundle
        beside another, ``speed`` as `Speed`; first with batch 1 and the reading of the sample image
        included, then without), ``busy`` (why these times cannot be relied on, "" where nothing
        speaks against them), ``peak_memory_bytes`` of this
        whole process, ``model_memory_bytes`` of a process that does nothing else, above its idle
        runtime (a microcontroller's model: its arena), and ``environment``.

    Raises:
        InputError: A count is below 1 or the time is not above 0.
        BundleError: The bundle does not open, or fails its self-test.
        ModelError: `against` is not a model, or one that takes other images.
    """
    machine = environment()
    counts = _doubling(machine.cores) if threads is None else list(threads)
    if not counts or not batches or min(*counts, *batches) < 1 or not seconds > 0:
        got = f"threads {counts}, batches {list(batches)}, {seconds:g} seconds"
        raise InputError("threads and batches of at least 1 and a time above 0", got)
    folder = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
    image = folder / read_card(folder).self_test.file
    before = load()
    starts = [cold_start(folder, image) for _ in range(COLD_STARTS)]
    began = time.perf_counter()
    opened = open_bundle(folder, threads=counts[0])
    loaded = time.perf_counter()
    difference = opened.self_test()
    tested = time.perf_counter()
    other = Path(against) if against is not None else None
    measured = [
        _rows(opened, other, count, batches, seconds, before, allow_code) for count in counts
    ]
    rows = [row for timed, _ in measured for row in timed]
    sample = facts(image)
    return {
        "bundle": opened.card.name,
        "digest": opened.digest,
        "format": opened.card.format,
        "precision": opened.card.precision,
        "file_bytes": opened.candidate.file_bytes,
        "cold_start_ms": float(np.median(starts)),
        "load_ms": (loaded - began) * 1000,
        "self_test_ms": (tested - loaded) * 1000,
        "self_test_difference": difference,
        "sample_pixels": [sample.width, sample.height],
        "latency_ms": rows,
        "busy": next((why for _, reasons in measured for why in reasons if why), ""),
        "peak_memory_bytes": process_peak(),
        "model_memory_bytes": _model_memory(opened),
        "environment": machine.model_dump(mode="json"),
    }


def _doubling(cores: int) -> list[int]:
    """1, 2, 4, ... and all cores."""
    return sorted({cores, *(2**n for n in range(cores.bit_length()) if 2**n <= cores)})


def _rows(
    bundle: Bundle,
    against: Path | None,
    threads: int,
    batches: Sequence[int],
    seconds: float,
    before: float | None,
    allow_code: bool,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Latencies for one number of threads: with the image file, then for each batch without.

    And what `busy` says of each of them.
    """
    spec, path = bundle.card.input, bundle.path / bundle.manifest.self_test.file
    models: dict[str, Candidate] = {
        bundle.card.name: open_file(bundle.candidate.path, bundle.card, threads)
    }
    if against is not None:
        other = _comparable(bundle, against, threads, allow_code)
        name = other.card.name
        models[name if name != bundle.card.name else f"{name} ({against})"] = other
    options: dict[str, Any] = {"threads": threads, "repeats": MOST_REPEATS, "seconds": seconds}
    measured = [timings(models, preprocess=lambda: decode(path, spec)[None], **options)]
    image = decode(path, spec)[None]
    measured += [timings(models, image, batch=batch, **options) for batch in batches]
    reasons, rows = [busy(timed, before) for timed in measured], []
    for timed, why in zip(measured, reasons, strict=True):
        mine, *others = timed.values()
        for name, timing in timed.items():
            row = timing.latency
            faster = speed(others[0], mine, why) if others and timing is mine else None
            rows.append(
                {
                    "model": name,
                    **row.model_dump(mode="json"),
                    "images_per_second": _per_second(row),
                    "speed": faster and faster.model_dump(mode="json"),
                }
            )
    return rows, reasons


def _per_second(row: Latency) -> float:
    return 1000 * row.batch / row.median


def _comparable(bundle: Bundle, against: Path, threads: int, allow_code: bool) -> Candidate:
    other = load_candidate(against, threads, allow_code=allow_code, timed=True)
    mine, theirs = (
        (spec.channels, spec.height, spec.width) for spec in (bundle.card.input, other.card.input)
    )
    if mine != theirs:
        raise ModelError(
            f"a model for images of [channels, height, width] {list(mine)}",
            f"{list(theirs)} in '{against}'",
        )
    return other


def _model_memory(bundle: Bundle) -> int | None:
    """What the model needs by itself, in a process of its own."""
    key = format_facts(bundle.card.format).memory_fact
    if key:
        stated = bundle.card.history[-1].facts.get(key) if bundle.card.history else None
        return int(stated) if stated is not None else None
    return peak_memory(bundle.candidate.path, threads=1, card=bundle.card)


def cold_start(folder: Path, image: Path) -> float:
    """Milliseconds of a whole ``clinipress predict``, from a new interpreter to the answer.

    A refused image counts as well: the self-test has classified one by then.

    Raises:
        BundleError: The command failed; its own words say why.
    """
    command = [sys.executable, "-m", "clinipress", "predict", str(folder), str(image), "--json"]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    took = (time.perf_counter() - began) * 1000
    if not done.stdout:
        lines = done.stderr.strip().splitlines()
        got = lines[-1] if lines else f"exit code {done.returncode}"
        raise BundleError("an answer for the bundle's own image", got)
    return took


def process_peak() -> int | None:
    """Largest resident memory of this process so far, bytes; None where the system hides it.

    From VmHWM: ``ru_maxrss`` of a new process starts at what its parent had.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(fields["VmHWM"].split()[0]) * 1024
