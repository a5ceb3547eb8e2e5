"""Writing ONNX files: checked, stripped, with a card inside, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import onnx

from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx.run import CARD_KEY
from clinipress.records.candidate import Card
from clinipress.records.store import write_atomically

__all__ = ["card_for", "stamp", "write"]


def card_for(card: Card, precision: str, kind: str = "onnx") -> Card:
    """The card of an exported file of a format: what it was built from stays in its history."""
    return card.model_copy(update={"format": kind, "precision": precision, "model": None})


def write(model: onnx.ModelProto, path: Path, card: Card) -> None:
    """Check, strip and write a graph with its card.

    Raises:
        StorageError: The disk is full or cannot be written.
    """
    onnx_graph.canonical(model)
    onnx.helper.set_model_props(model, {CARD_KEY: card.model_dump_json()})
    onnx.checker.check_model(model)
    write_atomically(path, model.SerializeToString(deterministic=True))


def stamp(path: Path, card: Card) -> None:
    """Put another card into a file; the digest of the file changes with it."""
    write(onnx.load(path), path, card)
