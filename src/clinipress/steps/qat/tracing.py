"""A network as a flat program of operators, to be read and rewritten.

`torch.export` writes it, the tracer behind the ONNX export: every call ends up as one operator with
one name, whichever module or function made it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn

from clinipress.errors import ModelError

__all__ = [
    "clamp_bounds",
    "drop_unused",
    "exchange",
    "is_activation",
    "operator_name",
    "reads_image",
    "takes_constant",
    "trace",
]

aten = torch.ops.aten
ACTIVATIONS = {"relu", "relu6", "hardtanh", "clamp", "clamp_min"}
# Files round constants that these take.
TAKING_CONSTANTS = {"add", "cat", "mul"}


def trace(network: nn.Module, shape: Sequence[int]) -> fx.GraphModule:
    """The network's program in eval mode, for any number of uint8 images of ``shape`` (c, h, w).

    Raises:
        ModelError: `torch.export` cannot follow the network.
    """
    network.eval()
    device = next(network.parameters()).device
    images = torch.zeros((2, *shape), dtype=torch.uint8, device=device)
    batch = torch.export.Dim("n", min=1, max=65535)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(network, (images,), dynamic_shapes=({0: batch},))
            traced = program.module()
    except Exception as problem:  # its exceptions share no base but Exception
        first = (str(problem).strip() or type(problem).__name__).splitlines()[0][:200]
        raise ModelError(
            "a network that torch.export can follow", first, "train without 'qat'"
        ) from None
    traced.graph.set_codegen(fx.graph.CodeGen())  # plain arguments instead of trees of them
    _tidy(traced.graph)
    return traced


def _tidy(graph: fx.Graph) -> None:
    """Drop checks of the example's shape and type; let nothing be written in place."""
    for node in list(graph.nodes):
        guard = node.op == "call_module" and str(node.target).startswith("_guards")
        if guard or "_assert" in operator_name(node):
            graph.erase_node(node)
            continue
        if node.op == "call_function" and operator_name(node).endswith("_"):
            _out_of_place(node)
        spell_out = SPELLED_OUT.get(operator_name(node))
        if spell_out is not None:
            spell_out(graph, node)
        elif node.target is aten.view.default:
            node.target = aten.reshape.default  # the same, in any memory layout
        elif node.op == "output":
            node.args = tuple(node.args[0])  # the logits, not a tuple of them
    drop_unused(graph)  # a softmax that was taken off
    graph.lint()


def _hard_swish(graph: fx.Graph, node: fx.Node) -> None:
    """``x * hardsigmoid(x)``, as files write it: each may be rounded."""
    x = node.args[0]
    with graph.inserting_before(node):
        gate = graph.call_function(aten.hardsigmoid.default, (x,))
        product = graph.call_function(aten.mul.Tensor, (x, gate))
    node.replace_all_uses_with(product)
    graph.erase_node(node)


def _linear(graph: fx.Graph, node: fx.Node) -> None:
    """A product of tokens, and then its bias: files round both; one of vectors is a Gemm."""
    x, weight, *bias = node.args
    if len(node.meta["val"].shape) < 3 or not bias or bias[0] is None:
        return
    with graph.inserting_before(node):
        product = graph.call_function(aten.linear.default, (x, weight))
        total = graph.call_function(aten.add.Tensor, (product, bias[0]))
    product.meta = dict(node.meta)
    node.replace_all_uses_with(total)
    graph.erase_node(node)


def _attention(graph: fx.Graph, node: fx.Node) -> None:
    """Attention as files write it: queries and keys scaled, multiplied, softmax, values."""
    given: dict[str, Any] = dict(zip(ATTENTION, node.args, strict=False)) | dict(node.kwargs)
    query, key, value, mask = (given.get(name) for name in ATTENTION[:4])
    bare = not (given.get("is_causal") or given.get("enable_gqa") or given.get("dropout_p"))
    if not bare or not isinstance(query, fx.Node) or (mask is not None and _is_bool(mask)):
        return
    scale = given.get("scale") or int(query.meta["val"].shape[-1]) ** -0.5
    root = math.sqrt(scale)
    with graph.inserting_before(node):
        scaled = graph.call_function(aten.mul.Tensor, (query, root))
        turned = graph.call_function(aten.transpose.int, (key, -2, -1))
        keys = graph.call_function(aten.mul.Tensor, (turned, root))
        weights = graph.call_function(aten.matmul.default, (scaled, keys))
        if mask is not None:
            weights = graph.call_function(aten.add.Tensor, (weights, mask))
        shares = graph.call_function(aten.softmax.int, (weights, -1))
        result = graph.call_function(aten.matmul.default, (shares, value))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _is_bool(node: fx.Node) -> bool:
    return not node.meta["val"].dtype.is_floating_point


ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
# Operators that files write as several, each of which may be rounded.
SPELLED_OUT = MappingProxyType(
    {"hardswish": _hard_swish, "linear": _linear, "scaled_dot_product_attention": _attention}
)


def operator_name(node: fx.Node) -> str:
    """Plain name of an operator, "conv2d", "relu_"; empty for other nodes."""
    return node.target._opname if isinstance(node.target, torch._ops.OpOverload) else ""


def _out_of_place(node: fx.Node) -> None:
    """Turn ``relu_(x)`` into ``relu(x)``; who read x afterwards reads the result."""
    target: Any = node.target
    packet = getattr(aten, target._opname[:-1], None)
    if packet is None or target._overloadname not in packet.overloads():
        return
    node.target = getattr(packet, target._overloadname)
    changed = node.args[0]
    if isinstance(changed, fx.Node):
        for user in list(changed.users):
            if node < user:
                user.replace_input_with(changed, node)


def exchange(graph: fx.Graph, node: fx.Node, method: str, args: Any) -> None:
    """Put a call of one of our methods in the place of a node."""
    with graph.inserting_before(node):
        call = graph.create_node("call_module", method, tuple(args))
    node.replace_all_uses_with(call)
    graph.erase_node(node)


def drop_unused(graph: fx.Graph) -> None:
    """Take out what nothing reads."""
    for node in reversed(list(graph.nodes)):
        if node.op in {"get_attr", "call_function"} and not node.users:
            graph.erase_node(node)


def is_activation(node: fx.Node) -> bool:
    """True for a clamp, which may be part of a rounding."""
    return operator_name(node) in ACTIVATIONS


def takes_constant(node: fx.Node) -> bool:
    """True for an operator whose constant operands a file rounds as it rounds activations."""
    return operator_name(node) in TAKING_CONSTANTS


def reads_image(node: fx.Node) -> bool:
    """Whether what a node computes depends on the image."""
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        if (last := waiting.pop()) not in seen:
            seen.add(last)
            waiting += last.all_input_nodes
    return any(item.op == "placeholder" for item in seen)


def clamp_bounds(node: fx.Node) -> tuple[float, float] | None:
    """(low, high) of a clamp that can be part of a rounding, low being 0 at most; else None."""
    name, given = operator_name(node), list(node.args[1:])
    if name not in ACTIVATIONS or len(node.args[0].users) != 1:  # type: ignore[union-attr]
        return None
    if name in {"relu", "relu6"}:
        return 0.0, 6.0 if name == "relu6" else float("inf")
    defaults: list[Any] = [-1.0, 1.0] if name == "hardtanh" else [None, None]
    low, high = given + defaults[len(given) :]
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        return None
    low, high = -float("inf") if low is None else low, float("inf") if high is None else high
    return (float(low), float(high)) if low <= 0 <= high else None
