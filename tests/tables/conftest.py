"""Results of a table's studies, drawn: no network, no image."""

from __future__ import annotations

from typing import Any

import pytest

from clinipress.records.candidate import CandidateRecord, Latency
from clinipress.records.result import (
    Audit,
    Environment,
    Interval,
    OverSeeds,
    Result,
    SeedSpread,
    SplitSummary,
    Verdict,
)

CLASSES = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")


def around(value: float, half: float = 0.05) -> Interval:
    return Interval(value=value, low=value - half, high=min(1.0, value + half), n=100)


def record(name: str, accuracy: float, **changes: Any) -> CandidateRecord:
    figures = {"accuracy": around(accuracy), "auroc_macro": around(0.9), "f1_macro": around(0.7)}
    figures["balanced_accuracy"] = around(0.72)
    for place, label in enumerate(CLASSES):
        figures[f"f1[{label}]"] = around(0.6 + place / 10)
        figures[f"precision[{label}]"] = around(0.5 + place / 10)
    fields: dict[str, Any] = {
        "name": name,
        "parent": None,
        "history": (),
        "format": "onnx",
        "precision": "float32",
        "path": f"objects/{name}/model.onnx",
        "digest": name,
        "file_bytes": 8_000_000,
        "parameters": 2_000_000,
        "macs": 300_000_000,
        "latency_ms": Latency(
            median=4.25, p95=5, batch=1, threads=1, runtime="onnxruntime", repeats=10
        ),
        "peak_memory_bytes": 31_000_000,
        "evidence": {"validation": figures},
    }
    return CandidateRecord(**fields | changes)


def result(*records: CandidateRecord, **changes: Any) -> Result:
    audit = Audit(path="set", layout="folders", images=400, classes=dict.fromkeys(CLASSES, 100))
    fields: dict[str, Any] = {
        "study": "drawn",
        "risk": "low",
        "synthetic": False,
        "created": "2026-01-01T00:00:00+00:00",
        "recipe": {},
        "classes": CLASSES,
        "rules": (),
        "reference": records[0].name,
        "shipped": None,
        "bundle": None,
        "verdict": Verdict(status="inconclusive"),
        "candidates": records,
        "audit": audit,
        "split": SplitSummary(
            by="near-duplicate cluster",
            reason="no patients",
            seed=0,
            counts={"train": {"no_tumor": 240}, "validation": {"no_tumor": 80}},
            units={"train": 200, "validation": 80},
            digest="0",
        ),
        "environment": Environment(
            clinipress="0", python="3", platform="p", cpu="a processor", cpu_flags=(), cores=2,
            memory_bytes=1, packages={},
        ),
        "seconds": {"reference": 61.0},
    }  # fmt: skip
    return Result(**fields | changes)


def spread(*values: float) -> OverSeeds:
    figure = SeedSpread(values=values, mean=None, deviation=None, low=min(values), high=max(values))
    return OverSeeds(split="validation", evidence={"accuracy": figure})


@pytest.fixture
def drawn():
    """The makers, for tests that draw their own."""
    return {"record": record, "result": result, "around": around, "spread": spread}
