"""Layers of an ONNX file by the modules of the network that it was written from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import torch
from torch import nn

from clinipress.formats.onnx.graph import constants

if TYPE_CHECKING:
    from clinipress.models.classifier import TorchCandidate

__all__ = ["by_module", "module_names"]

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def by_module(names: Sequence[str], parent: TorchCandidate, source: Path | None) -> list[str]:
    """Names of a file's layers, each with its module before it where that is known."""
    modules = module_names(parent, source) if source else {}
    return [f"{modules[name]} ({name})" if name in modules else name for name in names]


def module_names(parent: TorchCandidate, source: Path) -> dict[str, str]:
    """Layer of the float32 file -> module of the network, by the order in which they compute.

    Args:
        parent: The network; it is left as it is.
        source: Its float32 file.

    Returns:
        Nothing where some layers are no modules, so that the two do not count the same.
    """
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    order: list[str] = []

    def note(name: str) -> Any:
        return lambda *_: order.append(name.removeprefix("backbone."))

    hooks = [
        module.register_forward_pre_hook(note(name))
        for name, module in parent.module.named_modules()
        if isinstance(module, kinds)
    ]
    spec = parent.card.input
    try:
        with torch.inference_mode():
            device = next(parent.module.parameters()).device
            shape = (1, spec.channels, spec.height, spec.width)
            parent.module(torch.zeros(shape, dtype=torch.uint8, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    graph = onnx.load(source, load_external_data=False).graph
    stored = constants(graph)
    layers = [n.name for n in graph.node if n.op_type in LAYERS and n.input[1] in stored]
    return dict(zip(layers, order, strict=True)) if len(layers) == len(order) else {}
