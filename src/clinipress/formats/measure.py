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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress import version
from clinipress.distributed import usable_cores
from clinipress.errors import ModelError
from clinipress.formats.open import format_of, format_packages, import_engine, open_file
from clinipress.records.candidate import Candidate, Card, Latency, Speed
from clinipress.records.result import VNNI, Environment, Interval
from clinipress.stats.distributions import binomial_cdf

__all__ = [
    "Timing",
    "busy",
    "environment",
    "latency",
    "load",
    "overflows_here",
    "peak_memory",
    "speed",
    "timings",
]

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
# What shows that a machine does other work: the far end of the times against their middle, and
# the share of the clock's time in which the processor worked for this process.
TAIL, OWN, LOOKS = 2.0, 0.8, 5


@dataclass(frozen=True)
class Timing:
    """Counted calls of one candidate, turn by turn.

    Attributes:
        wall: Milliseconds by the clock of each call, in turns of `TURN`.
        processor: Milliseconds of processor time of each call, over all threads of the process.
        facts: What else a `Latency` records: batch, threads, runtime, preprocessing.
    """

    wall: tuple[tuple[float, ...], ...]
    processor: tuple[tuple[float, ...], ...]
    facts: Mapping[str, Any]

    @property
    def latency(self) -> Latency:
        """Median and 95th percentile over the counted calls."""
        wall, own = (np.concatenate(turns) for turns in (self.wall, self.processor))
        return Latency(
            median=float(np.median(wall)),
            p95=float(np.percentile(wall, 95)),
            repeats=len(wall),
            processor=float(np.median(own)),
            **self.facts,
        )

    @property
    def own(self) -> float | None:
        """Share of the clock's time that the process had a processor; None for work of a GPU."""
        if self.facts["runtime"].startswith("tensorrt "):
            return None
        wall, own = (sum(map(sum, turns)) for turns in (self.wall, self.processor))
        return own / wall if wall else None


def load() -> float | None:
    """How many others want each core now: threads that run or wait to; None where unknown.

    The load average would count the training that has just ended. Where the kernel does not tell
    what runs now (not Linux), it has to do.
    """
    running, cores = Path("/proc/loadavg"), os.cpu_count() or 1
    if not running.is_file():
        return os.getloadavg()[0] / cores if hasattr(os, "getloadavg") else None
    seen = []
    for _ in range(LOOKS):
        seen.append(int(running.read_text().split()[3].partition("/")[0]) - 1)  # without this one
        time.sleep(0.02)
    return float(np.median(seen)) / cores


def busy(timed: Mapping[str, Timing], before: float | None) -> str:
    """What shows that the machine did other work meanwhile, one sentence; "" where nothing does.

    Args:
        timed: Name -> its calls.
        before: `load` as it was before them.
    """
    signs = []
    if before is not None and before > 1:
        signs.append(f"{before:.1f} other threads wanted each core before it began")
    for name, timing in timed.items():
        latency = timing.latency
        if latency.p95 > TAIL * latency.median:
            signs.append(
                f"the 95th percentile of '{name}' is {latency.p95 / latency.median:.1f} times its "
                "median"
            )
        if timing.own is not None and timing.own < OWN:
            signs.append(f"'{name}' had a processor for {100 * timing.own:.0f}% of its time")
    return f"The machine was too busy to compare times: {'; '.join(signs)}." if signs else ""


def speed(reference: Timing, candidate: Timing, why: str = "") -> Speed:
    """How many times faster a candidate is, from turns that followed one another.

    The median over turns of the reference's time over the candidate's, each the median of the
    turn's calls: what slows the machine for longer than a turn slows both. Its interval lies
    between two order statistics, ``P(low < median < high) = 1 - 2 P(B <= r)`` with B binomial
    (turns, 1/2), whatever the distribution (Hettmansperger and McKean 2011, section 1.3). Below
    six turns there is none of 95 %; then it is the whole range, with the confidence it has.

    Args:
        reference: Its calls.
        candidate: The candidate's, from the same `timings`.
        why: What `busy` says of the two.
    """
    # a processor clock may be too coarse to see a turn; the wall's has nanoseconds
    seen = min(min(map(np.median, each.processor)) for each in (reference, candidate)) > 0
    return Speed(
        ratio=_ratio(reference.wall, candidate.wall),
        processor=_ratio(reference.processor, candidate.processor) if seen else None,
        reliable=not why,
        why=why,
    )


def _ratio(above: Sequence[Sequence[float]], below: Sequence[Sequence[float]]) -> Interval:
    """Median over turns of the paired ratio of the turns' medians."""
    ratios = sorted(float(np.median(a) / np.median(b)) for a, b in zip(above, below, strict=True))
    turns = len(ratios)
    rank = max(sum(binomial_cdf(r, turns, 0.5) <= 0.025 for r in range(turns // 2)) - 1, 0)
    return Interval(
        value=float(np.median(ratios)),
        low=ratios[rank],
        high=ratios[-1 - rank],
        confidence=min(0.95, 1 - 2 * binomial_cdf(rank, turns, 0.5)) if turns > 1 else 0.0,
        method="order statistics of paired turns",
        n=turns,
    )


def latency(
    candidates: Mapping[str, Candidate | Callable[[Images], Any]],
    images: Images | Mapping[str, Images] | None = None,
    **options: Any,
) -> dict[str, Latency]:
    """Name -> median and 95th percentile of a call; arguments as `timings`."""
    return {name: timing.latency for name, timing in timings(candidates, images, **options).items()}


def timings(
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
) -> dict[str, Timing]:
    """Time per call of several candidates, in turns of `TURN` counted calls each.

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
        Name -> the counted calls, by the clock and in processor time.

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
        name: Timing(
            tuple(tuple(wall for wall, _ in turn) for turn in turns),
            tuple(tuple(own for _, own in turn) for turn in turns),
            {
                "batch": batch,
                "threads": threads,
                "runtime": runtime or getattr(candidates[name], "runtime", ""),
                "preprocessing": preprocess is not None,
            },
        )
        for name, turns in times.items()
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
) -> dict[str, list[list[tuple[float, float]]]]:
    """Milliseconds by the clock and of the processor of each counted call, turn by turn.

    The order turns each round, so that none is always behind the same neighbour.
    """
    times: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in calls}
    names = list(calls)
    end = time.perf_counter() + seconds if seconds is not None else None
    for done in range(math.ceil(repeats / TURN)):
        if end is not None and done >= 3 and time.perf_counter() > end:
            break
        first = done % len(names)
        counted = min(TURN, repeats - done * TURN)
        for name in (*names[first:], *names[:first]):
            calls[name]()
            times[name].append([_timed(calls[name]) for _ in range(counted)])
    return times


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    """The clock outermost is the processor's, whose reading costs more."""
    own = time.process_time_ns()
    began = time.perf_counter_ns()
    call()
    wall = time.perf_counter_ns() - began
    return max(wall, 1) / 1e6, (time.process_time_ns() - own) / 1e6


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
