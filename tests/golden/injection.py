"""Where a golden study takes what was kept instead of training and timing: the only such place.

Training differs from processor to processor and times from minute to minute. So the weights that a
training ended with and the times of the files are kept beside the expected pages, and a run takes
them. Whoever moves the training loop, the stopwatch or the look at the machine changes this module
and no other file of the golden study. Should the product look a name up elsewhere, a run would
train, or show this machine, and differ from what is expected.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
KEPT = HERE / "kept"
# what is replaced -> where it is looked up by its callers (module, name)
SEAMS = {
    "training": ("clinipress.steps.fitting", "fit"),
    "timing": ("clinipress.study.timing", "timings"),
    "busy": ("clinipress.study.timing", "busy"),
    "memory": ("clinipress.study.timing", "peak_memory"),
    "placement timing": ("clinipress.formats.onnx.placement", "latency"),
    "machine": ("clinipress.study.summary", "environment"),
}
# Kept in 16 bits (the exponent of float32, so nothing overflows): a supernet is large for a fixture
HALF = torch.bfloat16


def run_study(study: Any, data: Path, out: Path) -> Any:
    """A study, as the product runs it."""
    from clinipress.study.flow import run_study as run

    return run(study, data, out)


def parsed(tree: dict[str, Any]) -> Any:
    """A study of plain data."""
    from clinipress.study.read import parse_study

    return parse_study(tree)


@contextmanager
def injected(name: str, *, train: bool = False) -> Iterator[None]:
    """Within it, study `name` takes what is kept of it; with `train` it is made and kept anew."""
    if str(HERE) not in sys.path:  # the networks' factory, by its module's name
        sys.path.insert(0, str(HERE))
    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    weights = _Weights(kept, train)
    times = _Times(kept / "times.json", train)
    with ExitStack() as stack:
        made = {
            "training": weights.fit,
            "timing": times.timings,
            "busy": lambda *_: "",
            "memory": times.memory,
            "placement timing": times.placement,
            "machine": _machine,
        }
        real = {}
        for what, (module, seam) in SEAMS.items():
            where = importlib.import_module(module)
            real[what] = getattr(where, seam)
            stack.enter_context(mock.patch.object(where, seam, made[what]))
        weights.real, times.real, times.real_memory = (
            real[what] for what in ("training", "timing", "memory")
        )
        yield
    if train:
        times.save()


def _machine() -> Any:
    """No machine in particular, so that no page depends on one."""
    from clinipress import __version__
    from clinipress.records.result import Environment

    return Environment(
        clinipress=__version__,
        python="3.11.0",
        platform="Linux x86_64",
        cpu="SYNTHETIC processor",
        cpu_flags=("avx2", "avx512_vnni", "fma"),
        cores=2,
        memory_bytes=8_000_000_000,
        packages={"numpy": "2.0.0", "onnxruntime": "1.28.0", "torch": "2.14.0"},
    )


class _Weights:
    """Stands for the training loop: the N-th training of a study ends with the N-th kept weights.

    A `fit` trains its module in place and returns an outcome; both are kept.
    """

    def __init__(self, folder: Path, train: bool) -> None:
        self.folder, self.train, self.number = folder, train, 0
        self.real: Any = None
        if train:
            for old in folder.glob("training-*"):
                old.unlink()

    def fit(self, module: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        from clinipress.train.fit import Outcome

        self.number += 1
        base = self.folder / f"training-{self.number}"
        tensors, record = base.with_suffix(".safetensors"), base.with_suffix(".json")
        if self.train:
            outcome = self.real(module, *arguments, **options)
            save_file({k: _shortened(v) for k, v in module.state_dict().items()}, tensors)
            facts = {"epochs": outcome.epochs, "best_epoch": outcome.best_epoch}
            facts |= {"best_score": outcome.best_score, "numerics": outcome.numerics}
            facts |= {"numerics_reason": outcome.numerics_reason}
            record.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        now = module.state_dict()
        kept = {k: v.to(now[k].dtype) for k, v in load_file(tensors).items()}
        module.load_state_dict(kept)  # strict: a network of another shape is an error
        module.eval()
        facts = json.loads(record.read_text(encoding="utf-8"))
        return Outcome(**facts, data_wait_share=0.0, seconds=0.0)


def _shortened(tensor: torch.Tensor) -> torch.Tensor:
    short = tensor.to(HALF) if tensor.is_floating_point() else tensor
    return short.detach().clone().contiguous()


class _Times:
    """Stands for the stopwatch and the memory gauge, by the names of the files."""

    def __init__(self, path: Path, train: bool) -> None:
        self.path, self.train = path, train
        self.kept: dict[str, Any] = {"latency_ms": {}, "peak_memory_bytes": {}}
        if path.is_file() and not train:
            self.kept = json.loads(path.read_text(encoding="utf-8"))
        self.real: Any = None
        self.real_memory: Any = None

    def timings(self, candidates: Any, *arguments: Any, **options: Any) -> Any:
        """A hundred calls of which six are as slow as the 95th percentile, the others the median."""
        from clinipress.formats.measure import TURN, Timing

        if self.train:
            for name, taken in self.real(candidates, *arguments, **options).items():
                both = taken.latency.model_dump(include={"median", "p95"})
                both = {figure: round(value, 4) for figure, value in both.items()}
                self.kept["latency_ms"].setdefault(name, both)
        made = {}
        for name, candidate in candidates.items():
            kept = self.kept["latency_ms"][name]
            calls = [kept["median"]] * 94 + [kept["p95"]] * 6
            turns = tuple(tuple(calls[at : at + TURN]) for at in range(0, 100, TURN))
            facts = {"batch": 1, "threads": options["threads"], "preprocessing": False}
            runtime = getattr(candidate, "runtime", "")
            made[name] = Timing(turns, turns, facts | {"runtime": runtime})
        return made

    def memory(self, path: Path, *, threads: int, card: Any) -> int:
        name = card.name
        if self.train and name not in self.kept["peak_memory_bytes"]:
            found = self.real_memory(path, threads=threads, card=card)
            self.kept["peak_memory_bytes"][name] = found
        return int(self.kept["peak_memory_bytes"][name])

    def placement(self, candidates: Any, *arguments: Any, **options: Any) -> Any:
        """Trials of mixed precision: each takes nine tenths of the time in float32."""
        from clinipress.records.candidate import Latency

        return {
            name: Latency(
                median=0.9 if name == "trial" else 1.0,
                p95=1.0,
                batch=1,
                threads=options["threads"],
                runtime="",
                repeats=1,
            )
            for name in candidates
        }

    def save(self) -> None:
        self.path.write_text(json.dumps(self.kept, indent=1) + "\n", encoding="utf-8")
