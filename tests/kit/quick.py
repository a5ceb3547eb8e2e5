"""What libraries do over and over with the same outcome, done once per process of the suite."""

from __future__ import annotations

import functools
import gc
import sys
from typing import Any

import pytest

# what was imported is never garbage: looking through it again and again was a sixth of the time
gc.set_threshold(50_000, 20, 100)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    if table := sys.modules.get("torch.onnx._internal.exporter._registration"):
        remember_operators(table.ONNXRegistry)
    if export := sys.modules.get("torch._export.utils"):
        load_new_operators_alone(export)


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
