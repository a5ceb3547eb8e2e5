"""Any classifier file as a candidate: a bundle, a model file of any format, a candidate folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clinipress.errors import ModelError
from clinipress.extras import require
from clinipress.formats.parity import check_candidate
from clinipress.recipe.code import Permission
from clinipress.records.candidate import Candidate

__all__ = ["load_candidate"]


def load_candidate(
    path: Path,
    threads: int | None = None,
    *,
    allow_code: Permission = False,
    onnx: Mapping[str, Any] | None = None,
    timed: bool = False,
) -> Candidate:
    """Any classifier that can be run: a bundle, a model file, or a candidate folder.

    A model file of a format that cannot hold its card has it as ``card.json`` beside it. Of an ONNX
    file that others made, what it does not say itself has to be declared.

    Args:
        path: The file or folder.
        threads: CPU threads of one call; None: as many as there are cores.
        allow_code: Whether a user's function that a candidate folder names may build the network.
        onnx: Keys of `OnnxRecipe` for an ONNX file that others made.
        timed: Times alone are wanted: what such a file leaves open is read anyhow.

    Raises:
        MissingExtraError: Its format needs packages that are not installed.
        ModelError: It is none of these, or cannot be loaded; or its answers are no function of the
            image alone, or no logits.
        BundleError: It is a bundle that is incomplete or was changed.
    """
    candidate = _opened(path, threads, allow_code, onnx or {}, timed)
    check_candidate(candidate)
    return candidate


def _opened(
    path: Path, threads: int | None, allow_code: Permission, onnx: Mapping[str, Any], timed: bool
) -> Candidate:
    if path.is_dir() and (path / "weights.safetensors").is_file():
        require("torch", extra="compress", what="opening a trained network's folder")
        from clinipress.models.classifier import TorchCandidate, check_network

        network = TorchCandidate.load(path, allow_code=allow_code)
        check_network(network.module, f"a network in '{path}'")
        return network
    if path.is_dir() and (path / "card.json").is_file():
        from clinipress.edge.bundle import load_bundle

        return load_bundle(path, threads=threads).candidate
    if path.is_file():
        from clinipress.formats.file import card_beside
        from clinipress.formats.open import format_of, open_file
        from clinipress.recipe.formats import format_facts

        if format_of(path) == "onnx":
            from clinipress.formats.onnx.run import holds_card

            if not holds_card(path):
                require("onnx", extra="compress", what="reading an ONNX file that others made")
                from clinipress.formats.onnx.settle import open_declared

                return open_declared(path, onnx, threads, timed=timed)
        # a card beside says more than a suffix: .tflite is LiteRT's and TFLite Micro's
        card = None if format_facts(format_of(path)).holds_card else card_beside(path)
        return open_file(path, card, threads)
    raise ModelError(
        "a bundle folder, a model file or a candidate folder",
        f"'{path}'" if path.exists() else f"nothing at '{path}'",
    )
