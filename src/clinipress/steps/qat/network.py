"""A network that computes as its int8 file will, and can be trained.

The network is traced once by `torch.export`, the tracer behind the ONNX export, so whatever can be
exported can be trained here and no model is edited. The traced program runs with the network's own
parameters and three changes:

    activations   are rounded where the file rounds them; a ReLU that the file merges into the
                  rounding is merged here too, so the rounding replaces a pass instead of adding one
    weights       are rounded per output channel
    batch norms   behind a convolution use the batch's statistics first; once frozen they are folded
                  into the convolution and cost nothing

Ranges follow the activations until they are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from clinipress.errors import ModelError
from clinipress.models.classifier import Classifier
from clinipress.steps.qat.rounding import (
    Grid,
    fake_quantize,
    fake_quantize_constant,
    fake_quantize_weight,
    grids,
)
from clinipress.steps.qat.tracing import (
    clamp_bounds,
    drop_unused,
    exchange,
    operator_name,
    reads_image,
    takes_constant,
    trace,
)

__all__ = ["Place", "QuantizedNetwork", "Schedule"]

MOMENTUM = 0.01  # of the ranges: they forget with a half-life of 69 steps
SAMPLE = 8  # ranges look at every eighth part of a batch
REACH = 4.0  # largest ratio of a calibrated range to the extremes seen
NETWORK = "network"
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
PRODUCTS = {"addmm", "baddbmm", "bmm", "einsum", "matmul", "mm"}
DROPOUTS = {
    "dropout": F.dropout,
    "feature_dropout": F.dropout2d,
    "alpha_dropout": F.alpha_dropout,
    "feature_alpha_dropout": F.feature_alpha_dropout,
}


class Place(NamedTuple):
    """An activation that is rounded.

    Attributes:
        node: Name of the traced program's node.
        low: Lower end of its range.
        high: Upper end.
        fixed: True where the range is not learnt (the image's own grey levels).
        limits: Ends that the range need not exceed, because a gate follows; None: no such end.
        group: Places of one number have one range together; None: its own.
    """

    node: str
    low: float
    high: float
    fixed: bool = False
    limits: tuple[float | None, float | None] = (None, None)
    group: int | None = None


class Schedule(NamedTuple):
    """Training steps after which something is frozen."""

    batch_norm: int
    ranges: int


class Slot(NamedTuple):
    """A parameter or buffer by its owner, looked up at every use: its tensor may be exchanged."""

    owner: nn.Module
    name: str

    def get(self) -> Any:
        """The tensor, now."""
        return getattr(self.owner, self.name)


@dataclass(frozen=True)
class Norm:
    """A batch norm of the program."""

    owner: nn.Module
    weight: Slot | None
    bias: Slot | None
    mean: Slot
    variance: Slot
    momentum: float
    epsilon: float

    def normalise(self, x: Tensor, *, live: bool) -> Tensor:
        """By the batch's statistics when `live`, else by the running ones."""
        weight, bias = (slot.get() if slot else None for slot in (self.weight, self.bias))
        mean, variance = self.mean.get(), self.variance.get()
        return F.batch_norm(x, mean, variance, weight, bias, live, self.momentum, self.epsilon)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Factor and addend per channel: ``norm(y) = factor * y + addend``."""
        factor = torch.rsqrt(self.variance.get() + self.epsilon)
        if self.weight is not None:
            factor = factor * self.weight.get()
        addend = -self.mean.get() * factor
        return factor, addend if self.bias is None else addend + self.bias.get()


@dataclass(frozen=True)
class Layer:
    """A convolution or a linear layer, with the batch norm behind it."""

    function: Callable[..., Tensor]
    rest: tuple[Any, ...]
    weight: Slot
    bias: Slot | None
    norm: Norm | None

    def run(self, x: Tensor, *, live: bool) -> Tensor:
        """With rounded weights."""
        weight = fake_quantize_weight(self.weight.get())
        bias = self.bias.get() if self.bias else None
        if self.norm is None:
            return self.function(x, weight, bias, *self.rest)
        if live:
            return self.norm.normalise(self.function(x, weight, bias, *self.rest), live=True)
        factor, addend = self.norm.folded()
        weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        addend = addend if bias is None else addend + factor * bias
        return self.function(x, weight, addend, *self.rest)


class QuantizedNetwork(nn.Module):
    """A network with rounded weights and activations.

    In training mode it counts its steps, follows the ranges and freezes as the schedule says; in
    eval mode it computes as the file. The wrapped network's parameters and buffers are trained;
    ranges, schedule and steps are buffers of their own, so checkpoints hold them.

    Args:
        network: The float network; trained in place.
        places: Where activations are rounded.
        schedule: When what is frozen.
        constants: Nodes that do not depend on the image and are rounded where something is added to
            them, multiplied or joined; each on a grid of its own values, now.

    Raises:
        ModelError: The network cannot be traced, or a node is not in its program.
    """

    ranges: Tensor
    reach: Tensor
    schedule: Tensor
    steps: Tensor

    def __init__(
        self,
        network: Classifier,
        places: Sequence[Place],
        schedule: Schedule,
        constants: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.constants = tuple(constants)
        self.network, self.input_spec, self.places = network, network.input_spec, tuple(places)
        ends = [(activation.low, activation.high) for activation in places]
        self.register_buffer("ranges", torch.tensor(ends, dtype=torch.float32).reshape(-1, 2))
        self.register_buffer("reach", torch.ones_like(self.ranges))
        self.register_buffer("schedule", torch.tensor(schedule, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._prepare()

    def _prepare(self) -> None:
        self._layers: list[Layer] = []
        self._norms: list[Norm] = []
        self.unrounded: dict[str, str] = {}
        self._bounds: list[tuple[float, float] | None] = [None] * len(self.places)
        self._grids: list[Grid] = []
        self._live = self._watching = False
        self._seen: dict[int, Tensor] = {}
        together: dict[int, list[int]] = {}
        for number, activation in enumerate(self.places):
            if activation.group is not None:
                together.setdefault(activation.group, []).append(number)
        self._groups = list(together.values())
        spec = self.input_spec
        traced = trace(self.network, (spec.channels, spec.height, spec.width))
        self._rewrite(traced)
        code = traced.graph.python_code("self")
        space = dict(code.globals)
        exec(code.src, space)  # the function that torch.fx wrote of its own graph
        self._program: Callable[..., Tensor] = space["forward"]

    def __getstate__(self) -> dict[str, Any]:
        """Without the program, which cannot be pickled and is traced anew."""
        gone = {"_layers", "_norms", "_program", "_seen"}
        return {name: value for name, value in self.__dict__.items() if name not in gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        mode = [module.training for module in self.modules()]
        self._prepare()
        for module, training in zip(self.modules(), mode, strict=True):
            module.training = training

    # ---------------------------------------------------------------- the program

    def forward(self, images: Tensor) -> Tensor:
        """Classify; uint8 or float ``[n, channels, h, w]`` in 0..255 -> logits ``[n, classes]``."""
        self._grids = grids(self.ranges)
        if self.training:
            steps, (norm, ranges) = int(self.steps), self.schedule.tolist()
            self._live, self._watching = steps < norm, steps < ranges
            self.steps += 1
        else:
            self._live = self._watching = False
        try:
            logits = self._program(self, images.float())
            if self._watching:
                self._follow()
        finally:
            self._seen = {}
        return logits

    def _layer(self, number: int, x: Tensor) -> Tensor:
        layer = self._layers[number]
        live = self._live and layer.norm is not None and layer.norm.owner.training
        return layer.run(x, live=live)

    def _norm(self, number: int, x: Tensor) -> Tensor:
        norm = self._norms[number]
        return norm.normalise(x, live=self._live and norm.owner.training)

    def _dropout(self, kind: str, x: Tensor, share: float) -> Tensor:
        return DROPOUTS[kind](x, share, self.training)

    def _round_weight(self, weight: Tensor) -> Tensor:
        return fake_quantize_weight(weight)

    def _round_columns(self, weight: Tensor) -> Tensor:
        return fake_quantize_weight(weight.T).T

    def _round_constant(self, values: Tensor) -> Tensor:
        return fake_quantize_constant(values)

    def _hard_swish(self, number: int, x: Tensor) -> Tensor:
        """In eval mode with the gate rounded, as the file does; in training torch's one kernel.

        The gate's grid is fixed, at 1/255: its error is a tenth of that of x's own grid, and
        training through it would cost three passes over the largest tensors for nothing.
        """
        if self.training:
            return F.hardswish(x)
        return x * self._round(number, F.hardsigmoid(x))

    def _round(self, number: int, x: Tensor) -> Tensor:
        bounds = self._bounds[number]
        if self._watching and not self.places[number].fixed:
            self._seen[number] = _extremes(x, bounds)
        return fake_quantize(x, self._grids[number], bounds[0] if bounds else None)

    # ---------------------------------------------------------------- ranges

    @torch.no_grad()
    def _follow(self) -> None:
        if not self._seen:
            return
        numbers = torch.tensor(list(self._seen), device=self.ranges.device)
        wanted = torch.stack(list(self._seen.values())).to(self.ranges) * self.reach[numbers]
        self.ranges[numbers] = torch.lerp(self.ranges[numbers], wanted, MOMENTUM)
        for number, activation in enumerate(self.places):
            if any(end is not None for end in activation.limits):
                self.ranges[number].clamp_(*activation.limits)
        for members in self._groups:
            self.ranges[members, 0] = self.ranges[members, 0].min()
            self.ranges[members, 1] = self.ranges[members, 1].max()

    @torch.no_grad()
    def fit_reach(self, batches: Iterator[Tensor]) -> None:
        """Learn, from batches as in training, how far ranges reach beyond its extremes.

        Calibration sees whole images and may cut outliers; training sees a sample of each batch.
        Their ratio is kept, so that ranges begin where calibration put them and move only when the
        activations do.
        """
        self.eval()
        totals, count = torch.zeros_like(self.ranges), 0
        for images in batches:
            self._grids, self._live, self._watching = grids(self.ranges), False, True
            self._program(self, images.float())
            for number, ends in self._seen.items():
                totals[number] += ends
            self._seen, self._watching = {}, False
            count += 1
        mean = totals / max(count, 1)
        ratio = torch.where(mean.abs() > 1e-12, self.ranges / mean, 1.0)
        self.reach.copy_(ratio.clamp(0, REACH))

    def learnt(self) -> list[tuple[float, float]]:
        """Low and high of each activation, now."""
        return [(low, high) for low, high in self.ranges.tolist()]

    # ---------------------------------------------------------------- rewriting

    def _rewrite(self, traced: fx.GraphModule) -> None:
        """Exchange layers, norms, dropouts and roundings of the traced program for our own."""
        graph = traced.graph
        self._round_where_the_file_does(graph)
        for node in list(graph.nodes):
            self._take_hard_swish(graph, node)
        for node in list(graph.nodes):
            if operator_name(node) == "batch_norm":
                self._take_norm(graph, node)
        for node in list(graph.nodes):
            name = operator_name(node)
            if name in CONVOLUTIONS or name == "linear":
                self._take_layer(graph, node, None)
            elif name in DROPOUTS:
                exchange(graph, node, "_dropout", (name, *node.args[:2]))
            elif name in PRODUCTS:
                self._round_factors(graph, node)
            elif name in TRANSPOSED:
                self.unrounded[_layer_name(node)] = "a transposed convolution"
        drop_unused(graph)
        self._bring_constants(traced)

    def _round_where_the_file_does(self, graph: fx.Graph) -> None:
        nodes = {node.name: node for node in graph.nodes}
        wanted = (*(activation.node for activation in self.places), *self.constants)
        missing = [name for name in wanted if name not in nodes]
        if missing:
            raise ModelError("the network its ranges were found for", f"one without '{missing[0]}'")
        for number, activation in enumerate(self.places):
            self._round_node(graph, nodes[activation.node], number)
        for name in self.constants:
            self._round_for(graph, nodes[name], "_round_constant", takes_constant)

    def _round_node(self, graph: fx.Graph, node: fx.Node, number: int) -> None:
        """Round a node's result; a clamp whose result is rounded is part of the rounding."""
        bounds = clamp_bounds(node)
        before = node.args[0] if bounds else node
        with graph.inserting_after(node):
            rounded = graph.create_node("call_module", "_round", (number, before))
        node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)
        self._bounds[number] = bounds
        if bounds:
            with torch.no_grad():
                self.ranges[number].clamp_(*bounds)
            graph.erase_node(node)

    def _take_hard_swish(self, graph: fx.Graph, node: fx.Node) -> None:
        """``x * round(hardsigmoid(x))`` as one call, where nothing else reads the gate."""
        if operator_name(node) != "mul":
            return
        first: Any
        second: Any
        first, second = node.args[:2]
        for x, rounded in ((first, second), (second, first)):
            gate = rounded.args[1] if getattr(rounded, "target", None) == "_round" else None
            if not isinstance(gate, fx.Node) or operator_name(gate) != "hardsigmoid":
                continue
            alone = len(rounded.users) == len(gate.users) == 1
            number: Any = rounded.args[0]
            if gate.args[0] is x and alone and self.places[number].fixed:
                exchange(graph, node, "_hard_swish", (number, x))
                graph.erase_node(rounded)
                graph.erase_node(gate)
                return

    def _take_norm(self, graph: fx.Graph, node: fx.Node) -> None:
        """A batch norm alone, or the convolution before it with it."""
        args: tuple[Any, ...] = node.args
        x: fx.Node = args[0]
        weight, bias, mean, variance = (self._slot(item) for item in args[1:5])
        if mean is None or variance is None:
            return  # without running statistics it is an instance norm, the same in both modes
        norm = Norm(mean.owner, weight, bias, mean, variance, float(args[6]), float(args[7]))
        before = operator_name(x)
        # of a linear layer axis 1 is that of its outputs in vectors alone
        joined = before in CONVOLUTIONS or (before == "linear" and _rank(x) == 2)
        if joined and len(x.users) == 1 and self._slot(x.args[1]):
            node.replace_all_uses_with(x)
            graph.erase_node(node)
            self._take_layer(graph, x, norm)
        else:
            exchange(graph, node, "_norm", (len(self._norms), x))
            self._norms.append(norm)

    def _take_layer(self, graph: fx.Graph, node: fx.Node, norm: Norm | None) -> None:
        x, weight, *others = node.args
        slot = self._slot(weight)
        if slot is None or not isinstance(slot.get(), nn.Parameter):
            self._round_computed(graph, node)
            return
        bias = self._slot(others[0]) if others else None
        operator: Any = node.target
        layer = Layer(operator._op, tuple(others[1:]), slot, bias, norm)
        exchange(graph, node, "_layer", (len(self._layers), x))
        self._layers.append(layer)

    def _round_computed(self, graph: fx.Graph, node: fx.Node) -> None:
        """Round weights that are computed of parameters (standardised, of a fixed norm) as such."""
        weight: Any = node.args[1]
        if not isinstance(weight, fx.Node) or reads_image(weight):
            self.unrounded[_layer_name(node)] = "its weights depend on the image"
            return
        self._round_for(graph, weight, "_round_weight", lambda reader: reader is node)

    def _round_factors(self, graph: fx.Graph, node: fx.Node) -> None:
        """Round a constant matrix that tokens or vectors are multiplied by, per column."""
        for value in node.all_input_nodes:
            if reads_image(value):
                continue
            if (
                operator_name(node) in {"matmul", "mm"}
                and value is node.args[1]
                and _rank(value) == 2
            ):
                self._round_for(graph, value, "_round_columns", lambda reader: reader is node)
            else:
                self.unrounded[_layer_name(node)] = "a product by constants other than a matrix"

    def _round_for(
        self, graph: fx.Graph, value: fx.Node, method: str, reads: Callable[[fx.Node], bool]
    ) -> None:
        """Let some readers of a node take what one of our methods makes of it."""
        readers = [reader for reader in value.users if reads(reader)]
        with graph.inserting_after(value):
            rounded = graph.create_node("call_module", method, (value,))
        for reader in readers:
            reader.replace_input_with(value, rounded)

    def _slot(self, node: Any) -> Slot | None:
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        path, _, name = str(node.target).rpartition(".")
        return Slot(self.network.get_submodule(path), name)

    def _bring_constants(self, traced: fx.GraphModule) -> None:
        """Let the program read the network's tensors here, and its literals from buffers."""
        known = {name for name, _ in self.network.named_parameters(remove_duplicate=False)}
        known |= {name for name, _ in self.network.named_buffers(remove_duplicate=False)}
        for node in traced.graph.nodes:
            if node.op != "get_attr":
                continue
            target = str(node.target)
            if target in known:
                node.target = f"{NETWORK}.{target}"
                continue
            value: Any = traced
            for part in target.split("."):
                value = getattr(value, part)
            node.target = "literal_" + target.replace(".", "_")
            self.register_buffer(node.target, value, persistent=False)


def _layer_name(node: fx.Node) -> str:
    """The module of a traced operator, as the network names it."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]).removeprefix("backbone.") if stack else node.name


def _rank(node: fx.Node) -> int:
    return len(node.meta["val"].shape)


@torch.no_grad()
def _extremes(x: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    """Smallest and largest value of a part of the batch, within a clamp's bounds."""
    ends = torch.stack(torch.aminmax(x[: max(1, len(x) // SAMPLE)].detach()))
    return ends.clamp(*bounds) if bounds else ends
