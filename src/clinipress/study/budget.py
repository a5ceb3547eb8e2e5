"""Can this study end on its device at all? Asked before hours of training, not after.

A bound from below: what the last network's weights and its largest layer take at the least, in the
smallest precision that the study exports and the device runs. A network within the bound may still
miss the budget; the file and its memory are measured when they exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from clinipress.errors import RecipeError
from clinipress.formats.onnx.count import stored_weights
from clinipress.models.classifier import (
    Classifier,
    build,
    check_network,
    fresh_backbone,
    network_words,
)
from clinipress.models.cost import evaluating, parameters
from clinipress.models.outputs import adapt
from clinipress.recipe.formats import precision_facts
from clinipress.recipe.steps import ModelRecipe, Step
from clinipress.recipe.study import Study
from clinipress.recipe.techniques import next_network, remaining_weights, technique_of
from clinipress.records.candidate import InputSpec, ModelSpec
from clinipress.study.devices import Target

__all__ = ["check_budget", "largest_layer", "smallest_weights"]

WIDTHS = (64, 48, 32, 24, 16, 12, 8)
ROOM = 0.9  # of the limit: a file also holds its graph, scales and biases


def check_budget(study: Study, targets: Sequence[Target]) -> None:
    """Refuse a study whose last network cannot fit one of its devices.

    Raises:
        RecipeError: It cannot; the message says what would fit.
        ModelError: The network cannot be built.
    """
    if not targets:
        return
    usable = {target.name: _usable(study, target) for target in targets}
    recipe, steps = _last_model(study)
    module = _built(recipe, study.data.input) if recipe is not None else None
    file = study.reference.onnx
    count = parameters(module) if module is not None else 0
    if module is None and file is not None:
        count = stored_weights(Path(file.file))
    weights = smallest_weights(count, study)
    if weights is None:
        return  # what a step makes of the size shows when it has run
    # pruning may take any channel, also those of the largest layer
    narrowed = any(technique_of(step).size == "share" for step in steps)
    layer = 0 if narrowed or module is None else largest_layer(module, study.data.input)
    for target in targets:
        sizes = [
            (weights * _weight_bytes(name), layer * _activation_bytes(name), name)
            for name in usable[target.name]
        ]
        if all(size > target.model_bytes or ram > target.ram_bytes for size, ram, _ in sizes):
            raise _refusal(study, recipe, target, *min(sizes))


def _weight_bytes(precision: str) -> float:
    """Bytes of one weight at the least; 0 where no row says it, which refuses nothing."""
    return precision_facts(precision).weight_bytes or 0


def _activation_bytes(precision: str) -> float:
    """Bytes of one activation at the least; 0 where no row says it, which refuses nothing."""
    return precision_facts(precision).activation_bytes or 0


def _usable(study: Study, target: Target) -> Sequence[str]:
    """Precisions that the study exports and the device runs.

    Raises:
        RecipeError: There is none.
    """
    precisions: list[str] = [
        export.precision
        for export in study.exports
        if export.format in target.formats and export.precision in target.precisions
    ]
    if not precisions:
        raise RecipeError(
            f"an export that {target.title} runs",
            "none of that format and precision",
            f"add one of format {', '.join(target.formats)} and precision "
            f"{', '.join(target.precisions)}",
        )
    return precisions


def _refusal(
    study: Study,
    recipe: ModelRecipe | None,
    target: Target,
    file_bytes: float,
    memory: float,
    precision: str,
) -> RecipeError:
    """What was asked, what it takes at least, what would fit."""
    file = study.reference.onnx
    name = (recipe.name or recipe.factory) if recipe else Path(file.file).name if file else ""
    spec = study.data.input
    network = f"'{name}' at {spec.height} x {spec.width} pixels, which takes at least "
    parts = []
    if file_bytes > target.model_bytes:
        parts.append(f"{file_bytes / 1e6:.2f} MB in {precision}")
    if memory > target.ram_bytes:
        parts.append(f"{memory / 1e6:.2f} MB of memory for one layer")
    limits = f"{target.model_bytes / 1e6:g} MB and {target.ram_bytes / 1e6:g} MB of memory"
    return RecipeError(
        f"a network whose file and activations fit {target.title} ({limits})",
        network + " and ".join(parts),
        _remedy(spec, target, _weight_bytes(precision), _activation_bytes(precision)),
    )


def _remedy(spec: InputSpec, target: Target, weight: float, activation: float) -> str:
    """A student that fits, found by building narrower ones."""
    for width in WIDTHS:
        channels = [width, 2 * width, 3 * width, 4 * width]
        recipe = ModelRecipe(name="resnet18", arguments={"channels": channels})
        module = _built(recipe, spec)
        count = parameters(module)
        fits_file = count * weight <= ROOM * target.model_bytes
        fits_memory = largest_layer(module, spec) * activation <= ROOM * target.ram_bytes
        if fits_file and fits_memory:
            return (
                "distil into a student such as {name: resnet18, arguments: {channels: "
                f"{channels}}}}} ({count:,} weights)"
            )
    return "choose smaller images (data.input) and a smaller network"


def smallest_weights(count: int, study: Study) -> int | None:
    """How few weights the study's steps can leave of `count`, at the least.

    Returns:
        None where a step's effect on the size is not known beforehand: a search, say.
    """
    remaining: int | None = count
    for step in _last_model(study)[1]:
        if remaining is None:
            return None
        remaining = remaining_weights(step, remaining)
    return remaining


def largest_layer(module: nn.Module, spec: InputSpec) -> int:
    """Values that the input and the output of the largest layer hold together, for one image."""
    sizes = [0]

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(inputs[0].numel() + output.numel())

    hooks = [layer.register_forward_hook(note) for layer in _layers(module)]
    image = torch.zeros((1, spec.channels, spec.height, spec.width), dtype=torch.uint8)
    try:
        with evaluating(module), torch.no_grad():
            module(image)
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            yield part


def _last_model(study: Study) -> tuple[ModelRecipe | None, tuple[Step, ...]]:
    """The network whose file is shipped, the last student or the reference's; and what follows.

    None: that of an ONNX file.
    """
    for number, step in reversed([*enumerate(study.steps)]):
        network = next_network(step)
        if network is not None:
            return network, study.steps[number + 1 :]
    return study.reference.model, study.steps


def check_networks(study: Study) -> None:
    """Refuse, before anything is trained, a student that no figure of the study would be true of.

    The reference is looked at when it is built, which is at once.

    Raises:
        ModelError: One cannot be built, or breaks the contract of `clinipress.models.contract`.
    """
    for recipe in filter(None, map(next_network, study.steps)):
        check_network(_built(recipe, study.data.input), network_words(recipe))


def _built(recipe: ModelRecipe, spec: InputSpec) -> Classifier:
    """The network with random weights; how many classes it tells apart matters little."""
    channels = recipe.in_channels or (3 if recipe.pretrained else spec.channels)
    plain = recipe.model_copy(update={"pretrained": False})
    with torch.random.fork_rng():
        if recipe.factory is None:  # nothing to find out: a look at a large input takes memory
            facts = recipe.model_dump(include={"name", "arguments"})
            spec_of = ModelSpec(**facts, num_classes=2, in_channels=channels, mean=0.5, std=0.25)
            return build(spec_of, spec)
        backbone, taken, found = fresh_backbone(plain, spec, channels, None)
        return Classifier(adapt(backbone, found.output), spec, taken, 0.5, 0.25)
