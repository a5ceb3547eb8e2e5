"""Logits from whatever a user's network returns, and what else is found by running it once.

The answer may come in a tuple or a mapping, beside auxiliary ones in training, as probabilities, as
one number for two classes, or as a map of one cell. Which it is, is found once (`looked_at`), kept
in `ModelSpec.output`, and read from then on by the network itself (`adapt`): whoever runs it,
trains it or writes its file sees logits ``[n, classes]``.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clinipress.errors import ModelError
from clinipress.records.candidate import Ending, OutputSpec

__all__ = ["Found", "adapt", "last_operation", "lively_copy", "looked_at", "words"]

SEED, IMAGES = 0, 2
# Gains that begin at or near zero hide all that lies behind them: layer scale, the last norm of a
# residual branch, a head of zeros. The copy that is looked at gets others.
SILENT, LIVELY = 1e-3, 0.1
# What leaves the values as they are, in autograd's names without "Backward0"
MOVES = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Alias", "Clone", "Expand",
         "Transpose", "Permute", "T", "ToCopy", "Select", "Slice")  # fmt: skip
PROBABILITIES = {"Softmax": "a softmax", "Sigmoid": "a sigmoid", "Hardsigmoid": "a hard sigmoid"}
MAIN = ("logits", "out")  # of Hugging Face and torchvision
FLOOR = 1e-7  # of a probability whose logarithm is taken: float16 has none below 6e-8
SUM = 1e-4
ALIKE = 1e-3  # of the largest logit: the same sums in another order
BEFORE: dict[Ending, tuple[Callable[..., Any], ...]] = {
    "softmax": (F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax),
    "sigmoid": (F.sigmoid, torch.sigmoid, Tensor.sigmoid, torch.special.expit),
}
CARRIED = tuple(
    getattr(home, name)
    for home in (torch, Tensor)
    for name in ("squeeze", "unsqueeze", "reshape", "flatten", "view", "contiguous", "clone",
                 "__getitem__")
    if hasattr(home, name)
)  # fmt: skip


class Found(NamedTuple):
    """What running a network once showed: how its answer is read, and the layout it can be run in.

    Attributes:
        output: None: it gives logits ``[n, classes]``.
        contiguous: It fails, or answers differently, where channels lie last in memory.
    """

    output: OutputSpec | None
    contiguous: bool


class _Endings(TorchFunctionMode):
    """Remembers what the last softmax and the last sigmoid were given, through moves of values."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[Ending, tuple[Any, Any]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        first = args[0] if args else kwargs.get("input")
        for ending, functions in BEFORE.items():
            if func in functions:
                self._last[ending] = first, result
            elif func in CARRIED and self.before(first, ending) is not None:
                self._last[ending] = func(self._last[ending][0], *args[1:], **kwargs), result
        return result

    def before(self, value: Any, ending: Ending) -> Any:
        """What became this value by the ending; None where that is not the last thing done."""
        given, result = self._last.get(ending, (None, None))
        return given if value is result else None


def adapt(backbone: nn.Module, output: OutputSpec | None) -> nn.Module:
    """The same network, in place, that gives logits ``[n, classes]`` from now on.

    Its class is exchanged for one below it, so that names of modules and weights stay.
    """
    if output is None:
        return backbone
    kind = type(backbone)

    def forward(self: nn.Module, *images: Tensor) -> Tensor:
        return _logits(lambda: kind.forward(self, *images), output, self.training)

    backbone.__class__ = type(
        kind.__name__,
        (kind,),
        {"forward": forward, "__module__": kind.__module__, "output": output},
    )
    return backbone


def _logits(call: Callable[[], Any], output: OutputSpec, training: bool) -> Tensor:
    ending = output.ending_in_training if training else output.ending
    endings = _Endings() if ending else None
    with endings or nullcontext():
        value = _picked(call(), output.main)
    if endings is not None:
        before = endings.before(value, ending)
        # a probability that is not the operation's own result has only its logarithm
        value = _logarithm(value, ending) if before is None else before
    if output.flatten:
        value = value.reshape(value.shape[0], -1)
    return torch.cat((-0.5 * value, 0.5 * value), 1) if output.single else value


def _logarithm(value: Tensor, ending: Ending) -> Tensor:
    if ending == "softmax":
        return value.clamp_min(FLOOR).log()
    value = value.clamp(FLOOR, 1 - FLOOR)
    return value.log() - (1 - value).log()


def _picked(answer: Any, main: str | int | None) -> Any:
    if main is None or isinstance(answer, Tensor):
        return answer
    by_name = isinstance(main, str) and not isinstance(answer, Mapping)
    return getattr(answer, str(main)) if by_name else answer[main]


def words(output: OutputSpec, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Sentences on what is read differently from how the network gives it."""
    said = []
    if output.main is not None:
        others = " others are left out, auxiliary ones in training too" if output.beside else ""
        said.append(f"its answer is '{output.main}' of what it returns{others and ':' + others}")
    ending = output.ending or output.ending_in_training
    if ending:
        how = "taken off" if output.taken_off else "undone by a logarithm"
        said.append(f"it ends in a {ending}, which is {how}: files and training see logits")
    if output.single:
        said.append(
            f"its one number is the logit of '{classes[1]}', the second class of the data, "
            f"against '{classes[0]}'"
        )
    return tuple(said)


def lively_copy(backbone: nn.Module, what: str) -> nn.Module:
    """A copy on the CPU in evaluation mode, in which no gain hides what lies behind it.

    Raises:
        ModelError: It cannot be copied.
    """
    try:
        network = copy.deepcopy(backbone).cpu().eval()
    except (RuntimeError, TypeError) as problem:
        raise ModelError(
            f"{what} that can be copied",
            str(problem).partition(";")[0].partition("\n")[0],
            "keep computed tensors out of its attributes; weight norm comes as "
            "torch.nn.utils.parametrizations.weight_norm",
        ) from None
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() and parameter.abs().max() < SILENT:
                parameter.copy_(LIVELY * torch.randn(parameter.shape, generator=generator))
    return network


def looked_at(
    backbone: nn.Module,
    shape: tuple[int, int, int],
    classes: int | None,
    what: str,
    *,
    several: bool = False,
) -> Found:
    """Run a copy of a network on noise, in evaluation and training mode.

    Args:
        backbone: Takes float ``[n, *shape]``; left as it is.
        shape: (channels, height, width).
        classes: Answers wanted of it; None: any number.
        what: It, for the message.
        several: The classes are findings, each with a sigmoid of its own.

    Raises:
        ModelError: It cannot be copied, fails on these images, or which output is meant is not
            plain; or it says of several findings which one there is.
    """
    network = lively_copy(backbone, what)
    noise = torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(SEED))
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        try:
            with _Endings() as endings:
                answer = network(noise.clone().requires_grad_())
        except Exception as problem:  # the user's own code
            raise ModelError(
                f"{what} for {shape[1]} x {shape[2]} pixels",
                f"{type(problem).__name__}: {_first_line(problem)}",
                _other_size(backbone),
            ) from problem
        output, logits = _read(answer, classes, what, several)
        taken_off = endings.before(logits, output.ending) is not None
        _train_but_norms(network)
        try:
            with _Endings() as endings:
                trained = network(noise.clone().requires_grad_())
        except Exception:  # the user's own code: told where it is trained, if it is
            trained = answer
        output, value = _with_training(output, trained, logits, classes, what, several)
        taken_off |= endings.before(value, output.ending_in_training) is not None
        output = output.model_copy(update={"taken_off": taken_off})
        plain = OutputSpec()
        found = None if output == plain else output
        return Found(found, not _takes_channels_last(adapt(network, found), noise))


def _read(answer: Any, classes: int | None, what: str, several: bool) -> tuple[OutputSpec, Tensor]:
    """How an answer in evaluation mode is read; and the answer itself."""
    main = None if isinstance(answer, Tensor) else _main(answer, classes, what, None)
    value = _picked(answer, main)
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != IMAGES:
        found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ModelError(f"{what} that gives [n, {classes or 'classes'}]", f"{found}")
    numbers = value.numel() // IMAGES
    flatten = value.ndim != 2 and numbers in (1, classes)
    single = numbers == 1 and classes in (2, None) and (value.ndim == 2 or flatten) and not several
    if single and last_operation(value) == PROBABILITIES["Softmax"]:
        raise ModelError(
            f"{what} with a softmax over its classes",
            "one over a single number, which is always 1",
            "leave it out: the number is then the logit of the second class",
        )
    ending = _ending(value, single, several)
    if several and ending == "softmax":
        raise ModelError(
            f"{what} with an answer about each finding, for task: multilabel",
            "a softmax over all of them, as if one excluded the others",
            "end it in a sigmoid for each, or in logits; classes that exclude one another are "
            "task: multiclass",
        )
    output = OutputSpec(
        main=main, ending=ending, ending_in_training=ending, flatten=flatten, single=single,
        beside=main is not None and len(answer) > 1,
    )  # fmt: skip
    return output, value


def _main(answer: Any, classes: int | None, what: str, like: Tensor | None) -> str | int:
    """Which of several outputs is meant: by its name, its shape, or as what is its own softmax."""
    entries = _entries(answer)
    for name in MAIN:
        if name in entries:
            return name
    fits = {k: v for k, v in entries.items() if _fits(v, classes)}
    fits = fits or {k: v for k, v in entries.items() if classes == 2 and _fits(v, 1)}
    if like is not None:
        fits = {k: v for k, v in fits.items() if _alike(v, like)} or fits
    raw = {
        k: v
        for k, v in fits.items()
        if not any(v is not o and _close(v, o.softmax(-1)) for o in fits.values())
    }
    if len(raw) != 1:
        several = ", ".join(f"{list(v.shape)}" for v in entries.values()) or "no tensors"
        raise ModelError(
            f"{what} with one output of [n, {classes or 'classes'}]"
            + (" in training" if like is not None else ""),
            f"a {type(answer).__name__} of {several}",
            "return the logits alone, or as 'logits' of a dictionary",
        )
    return next(iter(raw))


def _entries(answer: Any) -> dict[str | int, Tensor]:
    """The tensors of a mapping, a named tuple, a dataclass, a tuple or a list, by name or place."""
    named: Any = enumerate(answer) if isinstance(answer, tuple | list) else ()
    if isinstance(answer, Mapping):
        named = answer.items()
    elif hasattr(answer, "_fields"):
        named = zip(answer._fields, answer, strict=True)
    elif dataclasses.is_dataclass(answer):
        named = vars(answer).items()
    return {key: value for key, value in named if isinstance(value, Tensor)}


def _fits(value: Tensor, classes: int | None) -> bool:
    if classes is None:
        return value.ndim == 2 and len(value) == IMAGES
    return value.ndim > 0 and len(value) == IMAGES and value.numel() == IMAGES * classes


def _alike(value: Tensor, like: Tensor) -> bool:
    """The same answer, or what comes before it or after it."""
    return any(
        _close(one, two)
        for one, two in ((value, like), (value.softmax(-1), like), (value, like.softmax(-1)))
    )


def _close(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape:
        return False
    one, two = one.detach(), two.detach()
    return float((one - two).abs().max()) <= ALIKE * float(two.abs().max())


def _with_training(
    output: OutputSpec, answer: Any, logits: Tensor, classes: int | None, what: str, several: bool
) -> tuple[OutputSpec, Any]:
    """The same, completed by what the network does in training mode; and its answer there."""
    main = output.main
    if not isinstance(answer, Tensor):
        found = _main(answer, classes, what, logits)
        if main is not None and main != found:
            raise ModelError(
                f"{what} whose logits are in one place",
                f"'{main}' of what it returns, and '{found}' in training",
                "return them as 'logits' of a dictionary",
            )
        main = found
    value = _picked(answer, main)
    ending = output.ending
    if isinstance(value, Tensor):
        ending = _ending(value, output.single, several)
    beside = output.beside or not isinstance(answer, Tensor)
    changes = {"main": main, "beside": beside, "ending_in_training": ending}
    return output.model_copy(update=changes), value


def _ending(value: Tensor, single: bool, findings: bool) -> Ending:
    """Of one number, or of findings, a sigmoid; of classes a softmax, however it is computed."""
    if single or (findings and last_operation(value) == PROBABILITIES["Sigmoid"]):
        return "sigmoid" if last_operation(value) == PROBABILITIES["Sigmoid"] else ""
    rows = value.detach().reshape(len(value), -1)
    sums = bool(((rows.sum(1) - 1).abs() < SUM).all()) and rows.shape[1] > 1
    shares = bool(((rows != 0) & (rows != 1)).any())  # or else decisions, which have no logits
    return "softmax" if sums and shares and float(rows.min()) >= 0 else ""


def last_operation(value: Tensor) -> str:
    """What makes probabilities of logits at the end of an answer; "" where nothing does."""
    step = value.grad_fn
    while step is not None and _kind(step) in MOVES:
        step = step.next_functions[0][0] if step.next_functions else None
    return PROBABILITIES.get(_kind(step), "") if step is not None else ""


def _kind(step: object) -> str:
    return type(step).__name__.rstrip("0123456789").removesuffix("Backward")


def _train_but_norms(network: nn.Module) -> None:
    """Training mode without what makes an answer differ from that of evaluation mode."""
    network.train()
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd):
            part.eval()


def _takes_channels_last(network: nn.Module, noise: Tensor) -> bool:
    """Whether it runs, forward and back, with channels last in memory, and answers the same.

    ``x.view(x.size(0), -1)`` of a feature map does not. What random training draws is not compared.
    """
    try:
        with torch.no_grad():
            expected = network.eval()(noise)
        network.to(memory_format=torch.channels_last)
        pixels = noise.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            got = network(pixels)
        _train_but_norms(network)
        network(pixels).sum().backward()
    except Exception:  # of the user's own code, or of a layout that it does not expect
        return False
    return float((got - expected).abs().max()) <= 0.05 * float(expected.abs().max())


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().split("\n", maxsplit=1)[0][:200]


def _other_size(backbone: nn.Module) -> str:
    """How to mend a network that fails on its images: by the size it says that it takes."""
    for part in backbone.modules():
        for holder in (part, getattr(part, "config", None)):
            for name in ("img_size", "image_size"):
                size = getattr(holder, name, None)
                sides = size if isinstance(size, tuple | list) else (size, size)
                if len(sides) == 2 and all(type(side) is int for side in sides):
                    return f"it takes {sides[0]} x {sides[1]} pixels: set data.input so"
    return "try another data.input size or in_channels"
