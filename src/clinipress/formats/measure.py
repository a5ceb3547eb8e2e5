"""What a classifier costs here: wall time of a call, peak memory, and what machine this is.

Times on a shared machine drift by tens of per cent within a minute. So everything that is to be
compared is measured in one go, a few calls of each in turn, and the ratios hold although the times
do not. The first call of each turn is not counted: it finds the caches full of its neighbour's
weights, which nobody's device does who runs one model (MLPerf's single stream, too, is one model's
calls back to back).
Nothing here needs torch; memory is measured in a process of its own.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress import version
from clinipress.distributed import usable_cores
from clinipress.errors import ModelError
from clinipress.formats.open import format_of, format_packages, import_engine, open_file
from clinipress.records.candidate import Candidate, Card, Latency
from clinipress.records.result import VNNI, Environment

__all__ = ["environment", "latency", "overflows_here", "peak_memory"]

Images = NDArray[np.uint8]

# Instruction sets that decide whether low precision is fast: x86, then Arm.
FLAGS = frozenset(
    (
        *("amx_bf16", "amx_int8", "avx2", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx512f"),
        *("avx_vnni", "f16c", "fma", "sse4_1"),
        *("asimd", "asimddp", "asimdhp", "bf16", "fphp", "i8mm", "neon", "sve", "sve2"),
    )
)
# What every install may have besides the packages of each format.
PACKAGES = ("numpy", "onnx", "pillow", "timm", "torch", "torch-pruning", "torchvision")
WORKER_CALLS = 5
WORKER_SECONDS = 600
MEGABYTE = 2**20
# Calls of one candidate in a row that count, after one that does not.
TURN = 4


def latency(
    candidates: Mapping[str, Candidate | Callable[[Images], Any]],
    images: Images | Mapping[str, Images] | None = None,
    *,
    threads: int,
    batch: int = 1,
    repeats: int = 100,
    seconds: float | None = None,
    warmup: int = 10,
    preprocess: Callable[[], Images] | None = None,
    runtime: str = "",
) -> dict[str, Latency]:
    """Wall time per call of several candidates, in turns of `TURN` counted calls each.

    Args:
        candidates: Name -> candidate, or a function of the images. Each must already have been
            given `threads` threads (`open_file(path, threads=...)`).
        images: uint8 ``[n, c, h, w]``; the first `batch` are used, repeated when there are fewer.
            A mapping gives each candidate its own. May be left out with `preprocess`.
        threads: Threads the candidates were given; a record, not a setting.
        batch: Images per call.
        repeats: Counted calls of each candidate.
        seconds: Stop after this time even when fewer were done, but not before 3 turns.
        warmup: Calls of each before measuring.
        preprocess: Makes the images of one call (reads, decodes, resizes a file); its time counts.
        runtime: Name and version of the runtime; empty: taken from the candidate.

    Returns:
        Name -> median and 95th percentile over the counted calls, in milliseconds.

    Raises:
        ValueError: There are neither images nor `preprocess`, or no candidates.
    """
    if not candidates or (images is None and preprocess is None) or repeats < 1:
        raise ValueError("candidates, repeats of 1 or more, and images or preprocess are needed")
    calls = {
        name: _call(candidate, _images_of(images, name, batch), preprocess)
        for name, candidate in candidates.items()
    }
    for _ in range(warmup):
        for call in calls.values():
            call()
    times = _interleave(calls, repeats, seconds)
    return {
        name: Latency(
            median=float(np.median(taken)),
            p95=float(np.percentile(taken, 95)),
            batch=batch,
            threads=threads,
            runtime=runtime or getattr(candidates[name], "runtime", ""),
            repeats=len(taken),
            preprocessing=preprocess is not None,
        )
        for name, taken in times.items()
    }


def _images_of(
    images: Images | Mapping[str, Images] | None, name: str, batch: int
) -> Images | None:
    """Exactly `batch` contiguous images for one candidate."""
    chosen = images[name] if isinstance(images, Mapping) else images
    if chosen is None:
        return None
    rows = np.arange(batch) % len(chosen)
    return np.ascontiguousarray(chosen[rows])


def _call(
    candidate: Candidate | Callable[[Images], Any],
    images: Images | None,
    preprocess: Callable[[], Images] | None,
) -> Callable[[], Any]:
    run = candidate.predict if hasattr(candidate, "predict") else candidate
    if preprocess is not None:
        return lambda: run(preprocess())
    if images is None:  # excluded by latency()
        raise ValueError("images are needed")
    return lambda: run(images)


def _interleave(
    calls: Mapping[str, Callable[[], Any]], repeats: int, seconds: float | None
) -> dict[str, list[float]]:
    """Milliseconds of each counted call, round robin.

    The order turns each round, so that none is always behind the same neighbour.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    end = time.perf_counter() + seconds if seconds is not None else None
    for done in range(math.ceil(repeats / TURN)):
        if end is not None and done >= 3 and time.perf_counter() > end:
            break
        first = done % len(names)
        counted = min(TURN, repeats - done * TURN)
        for name in (*names[first:], *names[:first]):
            calls[name]()
            for _ in range(counted):
                began = time.perf_counter_ns()
                calls[name]()
                times[name].append((time.perf_counter_ns() - began) / 1e6)
    return times


def peak_memory(path: Path, *, threads: int = 1, card: Card | None = None) -> int:
    """Bytes a file needs at its peak, above a process with the idle runtime; a GPU's memory too.

    A fresh process imports the runtime, notes its resident size, loads the file, classifies one
    image at a time and reports the peak: weights as the engine unpacks them, plus activations, plus
    what loading needs for a moment. Pages of the runtime itself that are first touched by a call
    count too, so the figure has a floor of some megabytes.

    Args:
        path: A model file; its card is inside it or beside it.
        threads: CPU threads of the runtime.
        card: Its card, where it is neither inside nor beside it.

    Raises:
        ModelError: The file cannot be loaded or run.
    """
    command = [sys.executable, "-m", "clinipress.formats.measure", str(path), str(threads)]
    if card is not None:  # without its history, which may be long
        command.append(card.model_copy(update={"history": ()}).model_dump_json())
    paths = (str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in paths if part)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=WORKER_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"'{path.name}' to classify {WORKER_CALLS} images", f"no answer in {WORKER_SECONDS} s"
        ) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"a file that runs at '{path}'", reason[:300])
    return int(json.loads(done.stdout)["bytes"])


def _worker(path: Path, threads: int, card: Card | None) -> int:
    """Peak bytes of loading and running a file, above the imported runtime, a GPU's included."""
    import_engine(card.format if card else format_of(path))
    _reset_peak()
    before = _memory()[0]
    candidate = open_file(path, card, threads)
    spec = candidate.card.input
    image = np.zeros((1, spec.channels, spec.height, spec.width), np.uint8)
    for _ in range(WORKER_CALLS):
        candidate.predict(image)
    return max(0, _memory()[1] - before) + candidate.device_bytes


def _memory() -> tuple[int, int]:
    """(resident now, highest resident so far) of this process, bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        now, peak = (int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
        return now, peak
    import resource  # not on Windows, where there is no figure

    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak, peak


def _reset_peak() -> None:
    """Let the kernel forget the peak of importing, which is above what stays (Linux)."""
    control = Path("/proc/self/clear_refs")
    try:
        control.write_text("5")
    except OSError:  # not Linux, or not allowed: the figure is then a little too low
        return


def overflows_here() -> bool:
    """True on x86 processors that add pairs of 8-bit products in 16 bits.

    Without VNNI (``vpdpbusd``) the kernels use ``vpmaddubsw``, whose sums of an unsigned times a
    signed byte saturate; 7-bit weights cannot (ONNX Runtime documentation, "Quantize ONNX models",
    reduce_range). Arm's kernels accumulate in 32 bits.
    """
    return platform.machine().lower() in ("x86_64", "amd64") and not VNNI & _processor()[1]


def environment() -> Environment:
    """Where and with what figures are measured; no host name, no path."""
    processor, flags = _processor()
    return Environment(
        clinipress=version.__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        cpu=processor,
        cpu_flags=tuple(sorted(flags & FLAGS)),
        cores=usable_cores(),
        memory_bytes=_installed_memory(),
        packages=_packages(),
    )


def _processor() -> tuple[str, set[str]]:
    """Model name and instruction sets, from /proc/cpuinfo where there is one."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), set()
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    flags = facts.get("flags", facts.get("Features", ""))
    name = facts.get("model name") or facts.get("Model") or platform.machine()
    return name, set(flags.split())


def _installed_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _packages() -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in sorted({*PACKAGES, *format_packages()}):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _main(arguments: list[str]) -> int:
    """The worker's command line: FILE THREADS [CARD]; one JSON line, or one line of error."""
    from clinipress.errors import ClinipressError

    try:
        card = Card.model_validate_json(arguments[2]) if len(arguments) > 2 else None
        peak = _worker(Path(arguments[0]), int(arguments[1]), card)
    except ClinipressError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    sys.stdout.write(json.dumps({"bytes": peak}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
