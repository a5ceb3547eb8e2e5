"""What libraries do over and over with the same outcome, done once per process of the suite."""

from __future__ import annotations

import copy
import functools
import gc
import sys
from typing import Any

import pytest

XNNPACK = "executorch.backends.xnnpack.quantizer"

# what was imported is never garbage: looking through it again and again was a sixth of the time;
# a whole collection every minute or so keeps the memory of networks and their graphs low
gc.set_threshold(50_000, 10, 10)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    remember_libraries()
    if timing := sys.modules.get("clinipress.study.timing"):
        measure_each_kind_once(timing)


def remember_libraries():
    """Of those that are loaded by now."""
    if table := sys.modules.get("torch.onnx._internal.exporter._registration"):
        remember_operators(table.ONNXRegistry)
    if export := sys.modules.get("torch._export.utils"):
        load_new_operators_alone(export)
    if quantizer := sys.modules.get(f"{XNNPACK}.xnnpack_quantizer_utils"):
        remember_patterns(quantizer)


def remember_operators(registry: Any) -> None:
    """torch.onnx builds its table of operators for every file: half of the time of a small one."""
    built = registry.__dict__.get("from_torchlib")
    if isinstance(built, classmethod) and not hasattr(built.__func__, "cache_info"):
        registry.from_torchlib = classmethod(functools.cache(built.__func__))


def load_new_operators_alone(export: Any) -> None:
    """torch.export loads all operators for every namespace of them; where none is new, none."""
    load = getattr(export, "_materialize_cpp_cia_ops", None)
    if load is None or hasattr(load, "known"):
        return
    import torch

    def load_new() -> None:
        names = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
        if names != load_new.known:
            load()
            load_new.known = names

    load_new.known = None
    export._materialize_cpp_cia_ops = load_new


def remember_patterns(quantizer: Any) -> None:
    """ExecuTorch's quantizer traces the same twelve small networks for every file."""
    trace, known = quantizer._get_aten_graph_module_for_pattern, {}
    if hasattr(trace, "known"):
        return

    def remembered(pattern: Any, examples: Any, is_cuda: bool = False) -> Any:
        cells = [cell.cell_contents for cell in pattern.fn.__closure__]
        key = (pattern.fn.__code__, *cells, *(value.shape for value in examples), is_cuda)
        if key not in known:
            known[key] = trace(pattern, examples, is_cuda)
        return copy.deepcopy(known[key])  # its user changes it

    remembered.known = known
    quantizer._get_aten_graph_module_for_pattern = remembered


def measure_each_kind_once(timing: Any) -> None:
    """A study's files are loaded in processes of their own, for their memory: one of each kind is.

    `tests/evaluate/test_measure.py` proves the figures themselves.
    """
    measure, known = timing.peak_memory, {}
    if hasattr(measure, "known"):
        return

    def remembered(path: Any, *, threads: int = 1, card: Any = None) -> int:
        key = (card.format, card.precision, threads) if card else path
        if key not in known:
            known[key] = measure(path, threads=threads, card=card)
        return known[key]

    remembered.known = known
    timing.peak_memory = remembered
