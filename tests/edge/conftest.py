"""Bundles of a linear classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clinipress.edge.bundle import write_bundle
from clinipress.records.candidate import Card, InputSpec
from kit.linear_model import clear_noise, weights, write_linear

PASSED = {"verdict": {"status": "pass"}}


@pytest.fixture
def card() -> Card:
    return Card(
        name="tiny",
        classes=("glioma", "normal", "pituitary"),
        input=InputSpec(channels=1, height=16, width=24),
        format="onnx",
        temperature=1.7,
        uncertain_below=0.6,
        intended_use="tests",
    )


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle for a card; keyword arguments go to write_bundle."""

    def make(card: Card, name: str = "bundle", **options) -> Path:
        matrix = options.pop("matrix", weights(card.input, len(card.classes)))
        model = write_linear(tmp_path / f"{name}.onnx", card.input, matrix)
        options.setdefault("sample", clear_noise(card.input, matrix))
        options.setdefault("evidence", PASSED)
        return write_bundle(tmp_path / name, model, card, **options)

    return make


@pytest.fixture
def folder(card: Card, make_bundle: Callable[..., Path]) -> Path:
    """A good bundle."""
    return make_bundle(card)
