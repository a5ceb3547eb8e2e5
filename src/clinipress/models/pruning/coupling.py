"""Whether a cut network is the original with the same channels switched off: a check, not a hope.

A dependency graph that misreads a network (a channel shuffle, say) still gives layers whose shapes
fit, but whose weights meet the wrong channels; accuracy is lost and nothing says why. Removing a
channel must do what hiding it from all its readers does, so both are run and compared.

Where an answer for one channel takes in the number of the others, the two differ although nothing
is wrong: group norms, attention across channels, convolutions that standardise their weights. Such
layers are found by what they compute, and pass their input on, in both networks alike, while these
are compared; all other layers stay under the check. Layer norms are no such layers: `hidden_from`
makes them leave the hidden channels out of their statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from clinipress.errors import ModelError

__all__ = ["awake", "cut_equals_hidden", "hidden_from", "mixers"]

IMAGES = 4
# Both sides compute the same sums in another order, in float64; batch norms over few values blow
# rounding up. One layer of many that meets wrong channels may move the output by a thousandth.
# Networks that cannot compute in float64 are compared in float32, where rounding goes to 1e-4.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 0.01}
SILENT = 0.1  # weights of one number a channel below it are a branch's gain that starts at zero
FAINT = 1e-4  # weights of more dimensions below it
SEED = 0
BatchNorm = nn.modules.batchnorm._BatchNorm
LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
PROBED = 16  # channels of a layer that are changed, one at a time
FELT = 1e-6  # of the largest change, by other channels


def cut_equals_hidden(
    network: nn.Module,
    small: nn.Module,
    hidden: Mapping[str, Tensor],
    channels: int,
    size: tuple[int, int],
) -> bool:
    """Compare outputs on noise, with batch norms on batch statistics so that every layer speaks.

    Before and after the cut, the networks take float32 ``[n, channels, *size]`` and are left as
    they were; `hidden` is as `hidden_from` takes it.
    """
    noise = torch.randn(IMAGES, channels, *size, generator=torch.Generator().manual_seed(SEED))
    for dtype, tolerance in TOLERANCE.items():
        masked, kept = (_lively(side).to(dtype) for side in (network, small))
        try:
            expected, got = _answers(masked, kept, hidden, noise.to(dtype))
        except RuntimeError:
            if dtype == torch.float32:
                raise
            continue  # it makes tensors of its own in float32
        return bool((expected - got).abs().max() <= tolerance * expected.abs().max())
    return False


def _answers(
    masked: nn.Module, kept: nn.Module, hidden: Mapping[str, Tensor], noise: Tensor
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(), ExitStack() as changed:
        passed_by = mixers(masked, kept, noise)
        for side in (masked, kept):
            changed.enter_context(_passing_by(side, passed_by))
        with _RawWeights(masked), hidden_from(masked, hidden):
            expected = masked(noise)
        with _RawWeights(kept):
            got = kept(noise)
    return expected, got


def awake(network: Any) -> Any:
    """A copy in which no branch is silent: gains and weights that start at zero, and biases.

    Made before a cut, for what is drawn must be cut with the rest.
    """
    generator = torch.Generator().manual_seed(SEED)
    network = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            largest = float(parameter.abs().max()) if parameter.numel() else 1.0
            drawn = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias") and parameter.dim() == 1:
                parameter.add_(drawn, alpha=0.1 if largest < FAINT else 0.0)
            elif max(parameter.shape, default=1) == parameter.numel() and largest < SILENT:
                parameter.copy_(1 + 0.1 * drawn)
            elif largest < FAINT:
                parameter.copy_(drawn / parameter[0].numel() ** 0.5)
    return network


def mixers(network: nn.Module, small: nn.Module, noise: Tensor) -> dict[str, int]:
    """Layers whose answer for one channel takes in other channels, by what they compute.

    Only where the cut changes the number of channels, only layers that keep the shape of what they
    take and hold no convolution or linear layer that was cut, and none that moves channels about,
    as a shuffle does: there each channel's own answer changes most where that channel is changed.

    Args:
        network: Before the cut; in evaluation mode, but for batch norms.
        small: After it.
        noise: Float32 ``[n, channels, height, width]``, what both take.

    Returns:
        Name -> axis of the channels.
    """
    before, after = _taken(network, noise), _taken(small, noise)
    inner: dict[str, int] = {}
    for name in sorted(before.keys() & after.keys(), key=lambda key: -key.count(".")):
        layer, taken = network.get_submodule(name), before[name]
        sides = zip(taken.shape, after[name].shape, strict=False)
        axes = [axis for axis, (wide, narrow) in enumerate(sides) if wide != narrow]
        holds_one = any(other.startswith(f"{name}.") for other in inner)
        if len(axes) != 1 or holds_one or isinstance(layer, BatchNorm | nn.LayerNorm):
            continue
        if not _was_cut(layer, small.get_submodule(name)) and _mixes(layer, taken, axes[0]):
            inner[name] = axes[0]
    return inner


def _taken(network: nn.Module, noise: Tensor) -> dict[str, Tensor]:
    """What each layer takes, of those that give a tensor of the same shape for one tensor."""
    taken: dict[str, Tensor] = {}

    def note(name: str, inputs: tuple[Any, ...], output: Any) -> None:
        one = len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
        if one and output.shape == inputs[0].shape and output.dim() > 1:
            taken[name] = inputs[0].clone()  # what comes next may write into it

    named = [(name, part) for name, part in network.named_modules() if name]
    hooks = [
        part.register_forward_hook(lambda _, i, o, name=name: note(name, i, o))
        for name, part in named
    ]
    try:
        network(noise)
    finally:
        for hook in hooks:
            hook.remove()
    return taken


def _was_cut(layer: nn.Module, small: nn.Module) -> bool:
    """Whether a convolution or linear layer within has another shape now."""
    parts, others = dict(layer.named_modules()), dict(small.named_modules())
    return any(
        isinstance(part, LAYERS) and part.weight.shape != others[name].weight.shape
        for name, part in parts.items()
    )


def _mixes(layer: nn.Module, taken: Tensor, axis: int) -> bool:
    """Whether other channels feel it where one value of a channel is changed, and less than it."""
    values, width = copy.deepcopy(layer).eval(), taken.shape[axis]
    channels = torch.tensor(sorted({*range(0, width, -(-width // PROBED)), width - 1}))
    changed = taken[:1].movedim(axis, 1).flatten(2 if taken.dim() > 2 else 1)
    changed = changed.repeat(len(channels), *([1] * (changed.dim() - 1)))
    rows = torch.arange(len(channels))
    where = (rows, channels, 0) if changed.dim() > 2 else (rows, channels)
    changed[where] += 3 * taken.std() + 1
    shape = taken[:1].movedim(axis, 1).shape[1:]
    changed = changed.reshape(len(channels), *shape).movedim(1, axis)
    try:
        answer, other = values(taken[:1].clone()), values(changed)
    except Exception:  # it takes no batch of this size: nothing is known of it, and it stays
        return False
    felt = (other - answer).abs().movedim(axis, 1).flatten(2 if taken.dim() > 2 else 1)
    felt = felt.amax(2) if felt.dim() > 2 else felt
    own = felt[rows, channels]
    if not bool((own >= felt.amax(1)).all()) or not bool((own > 0).any()):
        return False
    felt[rows, channels] = 0
    return bool(felt.max() > FELT * own.max())


@contextmanager
def _passing_by(network: nn.Module, names: Mapping[str, int]) -> Iterator[None]:
    """Let layers pass their input on for a while, times their own gain of each channel if any."""

    def passes(layer: Any, inputs: tuple[Tensor, ...], _: Tensor, axis: int) -> Tensor:
        values = inputs[0]
        gain = getattr(layer, "weight", None)
        if isinstance(gain, Tensor) and gain.shape == values.shape[axis : axis + 1]:
            sides = [1] * values.dim()
            sides[axis] = -1
            values = values * gain.reshape(sides)
        return values

    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda layer, i, o, axis=axis: passes(layer, i, o, axis)
        )
        for name, axis in names.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _RawWeights(TorchFunctionMode):
    """Convolutions and linear layers compute with their weights as they are stored.

    One that standardises them over its inputs computes with others once an input is gone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._layers = [part for part in network.modules() if isinstance(part, LAYERS)]
        self._now: list[Any] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> _RawWeights:
        for layer in self._layers:
            self._hooks.append(layer.register_forward_pre_hook(lambda m, _: self._now.append(m)))
            self._hooks.append(layer.register_forward_hook(lambda *_: self._now.pop() and None))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._now and func in (functional.conv2d, functional.linear) and len(args) > 1:
            raw = self._now[-1].weight
            if args[1].shape == raw.shape:
                args = (args[0], raw, *args[2:])
        return func(*args, **(kwargs or {}))


def _lively(network: nn.Module) -> nn.Module:
    """A copy in which no branch is silent: some recipes start residual branches at zero."""
    lively = copy.deepcopy(network).eval()
    for module in lively.modules():
        if isinstance(module, BatchNorm):
            module.train()
            if module.affine:
                nn.init.ones_(module.weight)
    return lively


@contextmanager
def hidden_from(network: nn.Module, hidden: Mapping[str, Tensor]) -> Iterator[None]:
    """Switch channels off for a while: their readers get zeros, layer norms do not see them.

    Args:
        network: Left as it was.
        hidden: Name of a convolution or linear layer -> int64 numbers of the input channels that
            it is not to see; name of a layer norm -> numbers of the channels to leave out.
    """
    hooks = []
    for name, gone in hidden.items():
        layer = network.get_submodule(name)
        if isinstance(layer, nn.LayerNorm):
            hooks.append(layer.register_forward_hook(_norm_of_the_rest(gone)))
        else:
            hooks.append(layer.register_forward_pre_hook(_hide(gone)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hide(gone: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        dimension = -1 if isinstance(layer, nn.Linear) else 1
        return (inputs[0].index_fill(dimension, gone, 0.0), *inputs[1:])

    return hook


def _norm_of_the_rest(gone: Tensor) -> Callable[..., Tensor]:
    def hook(layer: nn.LayerNorm, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        dimension = _normed_dimension(layer, inputs[0], output)
        values = inputs[0].movedim(dimension, -1)
        stay = torch.ones(values.shape[-1], dtype=torch.bool)
        stay[gone] = False
        scale, offset = (p if p is None else p[stay] for p in (layer.weight, layer.bias))
        some = values[..., stay]
        normed = nn.functional.layer_norm(some, some.shape[-1:], scale, offset, layer.eps)
        output_of_rest = torch.zeros_like(values)
        output_of_rest[..., stay] = normed
        return output_of_rest.movedim(-1, dimension)

    return hook


def _normed_dimension(layer: nn.LayerNorm, values: Tensor, output: Tensor) -> int:
    """Where a layer norm has its channels: the last dimension, or the second in kinds of its own.

    Their names do not say it for sure (timm's LayerNorm2d and what others make of it), and a map
    may be as wide as it has channels: what the layer has answered tells.

    Raises:
        ModelError: It is neither.
    """
    shape = layer.normalized_shape
    for dimension in (-1, 1):
        moved = values.movedim(dimension, -1)
        if moved.shape[-1:] == shape:
            normed = nn.functional.layer_norm(moved, shape, layer.weight, layer.bias, layer.eps)
            own = normed.movedim(-1, dimension)
            if torch.allclose(own, output, rtol=1e-3, atol=1e-4):
                return dimension
    raise ModelError(
        "layer norms over the last or the second dimension",
        f"a {type(layer).__name__} that gives other numbers for {list(values.shape)}",
        "protect the layers that feed it",
    )
