"""How fast a bundle answers on this machine, and in how much memory.

The numbers are of this processor at this moment; they hold for no other. A machine that does other
work shows in the distance between median and 95th percentile.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clinipress.data.images import decode, facts
from clinipress.edge.bundle import Bundle, open_bundle
from clinipress.edge.manifest import MODEL, read_card
from clinipress.errors import BundleError, InputError
from clinipress.records import Latency
from clinipress.runtimes.onnx import OnnxCandidate, runtime_name

__all__ = ["bench", "cpu_flags", "cpu_model", "peak_memory"]

FEWEST, MOST = 10, 100_000
COLD_STARTS = 3
WARM_UP = 0.2  # share of the time that is spent before measuring


def bench(
    bundle: str | Path | Bundle,
    *,
    threads: Sequence[int] | None = None,
    batches: Sequence[int] = (1,),
    seconds: float = 1.0,
) -> dict[str, Any]:
    """Measure a bundle on this machine.

    Args:
        bundle: Its folder, or an opened one, which is opened again to time that.
        threads: Thread counts to try; None: 1 and all cores.
        batches: Images per call to try.
        seconds: Time to spend per row, warm-up aside; 10 calls are made at least.

    Returns:
        JSON-able: ``cold_start_ms`` (``python -m clinipress predict`` from start to end),
        ``load_ms`` (hashes and runtime), ``self_test_ms`` (with the first, cold answer),
        ``latency_ms`` (rows of `Latency`, first with batch 1 and the reading of the sample image
        included, then without), ``peak_memory_bytes`` of the process, and where it was measured.

    Raises:
        InputError: A count is below 1 or the time is not above 0.
        BundleError: The bundle does not open, or fails its self-test.
    """
    cores = available_cores()
    counts = sorted({1, cores}) if threads is None else list(threads)
    if not counts or not batches or min(*counts, *batches) < 1 or not seconds > 0:
        got = f"threads {counts}, batches {list(batches)}, {seconds:g} seconds"
        raise InputError("threads and batches of at least 1 and a time above 0", got)
    folder = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
    manifest = read_card(folder)
    starts = [cold_start(folder, manifest.self_test.file) for _ in range(COLD_STARTS)]
    began = time.perf_counter()
    opened = open_bundle(folder, threads=counts[0])
    loaded = time.perf_counter()
    difference = opened.self_test()
    tested = time.perf_counter()
    rows = [row for count in counts for row in _rows(opened, count, batches, seconds)]
    sample = facts(folder / manifest.self_test.file)
    return {
        "bundle": opened.card.name,
        "digest": opened.digest,
        "format": opened.card.format,
        "precision": opened.card.precision,
        "file_bytes": (folder / MODEL).stat().st_size,
        "runtime": runtime_name(),
        "cold_start_ms": float(np.median(starts)),
        "load_ms": (loaded - began) * 1000,
        "self_test_ms": (tested - loaded) * 1000,
        "self_test_difference": difference,
        "sample_pixels": [sample.width, sample.height],
        "latency_ms": [row.model_dump(mode="json") for row in rows],
        "peak_memory_bytes": peak_memory(),
        "cpu": cpu_model(),
        "cpu_flags": list(cpu_flags()),
        "cores": cores,
        "platform": platform.platform(),
    }


def _rows(bundle: Bundle, threads: int, batches: Sequence[int], seconds: float) -> list[Latency]:
    """Latencies for one number of threads: with the image file, then for each batch without."""
    candidate = OnnxCandidate.load(bundle.path / MODEL, card=bundle.card, threads=threads)
    spec, path = bundle.card.input, bundle.path / bundle.manifest.self_test.file
    image = decode(path, spec)

    def with_file() -> None:
        candidate.predict(decode(path, spec)[None])

    rows = [_latency(with_file, 1, threads, seconds, preprocessing=True)]
    for batch in batches:
        images = np.repeat(image[None], batch, axis=0)
        call = _caller(candidate, images)
        rows.append(_latency(call, batch, threads, seconds, preprocessing=False))
    return rows


def _caller(
    candidate: OnnxCandidate, images: np.ndarray[Any, np.dtype[np.uint8]]
) -> Callable[[], Any]:
    return lambda: candidate.predict(images)


def _latency(
    call: Callable[[], Any], batch: int, threads: int, seconds: float, *, preprocessing: bool
) -> Latency:
    """Time one call, again and again, for `seconds`."""
    _repeat(call, WARM_UP * seconds)
    times = np.asarray(_repeat(call, seconds)) * 1000
    return Latency(
        median=float(np.median(times)),
        p95=float(np.percentile(times, 95)),
        batch=batch,
        threads=threads,
        runtime=runtime_name(),
        repeats=len(times),
        preprocessing=preprocessing,
    )


def _repeat(call: Callable[[], Any], seconds: float) -> list[float]:
    """Seconds of each call; at least `FEWEST` of them."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST or (time.perf_counter() < end and len(times) < MOST):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def cold_start(folder: Path, image: str) -> float:
    """Milliseconds of a whole ``clinipress predict``, from a new interpreter to the answer.

    Raises:
        BundleError: The command failed; its own words say why.
    """
    command = [sys.executable, "-m", "clinipress", "predict", str(folder), str(folder / image)]
    began = time.perf_counter()
    done = subprocess.run([*command, "--json"], capture_output=True, check=False, text=True)
    took = (time.perf_counter() - began) * 1000
    if done.returncode:
        got = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise BundleError("an answer for the bundle's own image", got[0])
    return took


def available_cores() -> int:
    """Cores this process may use, which a container makes fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, bytes; None outside Linux.

    From VmHWM: ``ru_maxrss`` of a new process starts at what its parent had.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def cpu_model() -> str:
    """The processor's name as the system gives it, else the architecture."""
    found = _cpu_facts()
    named = (found[key] for key in ("model name", "Model", "Hardware") if found.get(key))
    return next(named, "") or platform.processor() or platform.machine()


def cpu_flags() -> tuple[str, ...]:
    """Instruction sets of the processor, sorted; empty where the system does not tell."""
    found = _cpu_facts()
    # x86 calls them flags, Arm features
    return tuple(sorted((found.get("flags") or found.get("Features") or "").split()))


def _cpu_facts() -> dict[str, str]:
    """Key -> value of /proc/cpuinfo; the first of each key wins."""
    found: dict[str, str] = {}
    for line in _cpu_text().splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def _cpu_text() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(errors="replace") if path.is_file() else ""
