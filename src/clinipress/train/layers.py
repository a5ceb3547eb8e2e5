"""Which weights are the head's, and how many layers every weight lies below it.

Read off the order in which a network registers its modules, which in every family here is the
order from pixels to logits; the tests compare it with timm's own grouping of its models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from clinipress.models.classifier import Classifier
from clinipress.models.pretrained import head_names

__all__ = ["frozen_names", "layer_depths", "never_trained"]

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def frozen_names(module: nn.Module) -> frozenset[str]:
    """Parameters that rest while the head is trained: the backbone's, save its last layer.

    What lies outside the network (the regressors of FitNet) is trained with the head.
    """
    prefix, backbone, image = _backbone(module)
    heads = set(head_names(backbone, image))
    return frozenset(prefix + name for name, _ in backbone.named_parameters() if name not in heads)


def layer_depths(module: nn.Module) -> dict[str, int]:
    """Parameter name -> layers that lie between it and the head: 0 for the head, most for the stem.

    A layer is a block of a stage, or a convolution, linear layer or embedding outside of blocks; a
    norm belongs to the layer before it, or where it follows a block, to the layer after it. What
    lies outside the network has depth 0.
    """
    prefix, backbone, image = _backbone(module)
    heads = set(head_names(backbone, image))
    layers = list(_layers(backbone))
    last = next((i for i, names in enumerate(layers) if heads.intersection(names)), len(layers) - 1)
    depths = {name: 0 for name, _ in module.named_parameters()}
    for number, names in enumerate(layers):
        for name in names:
            if name not in heads and prefix + name in depths:
                depths[prefix + name] = max(last - number, 0)
    return depths


def never_trained(module: nn.Module) -> bool:
    """True where the backbone's norms are as they are born: scales of 1 or 0, shifts of 0.

    Training changes all of them at once, so this tells random weights from pretrained ones; a
    network without norms cannot be told and counts as trained.
    """
    names = frozen_names(module)
    vectors = [
        value.detach()
        for name, value in module.named_parameters()
        if name in names and name.endswith("weight") and value.ndim == 1
    ]
    return bool(vectors) and all(bool(((v == 0) | (v == 1)).all()) for v in vectors)


def _backbone(module: nn.Module) -> tuple[str, nn.Module, tuple[int, int, int] | None]:
    """What stands before the names of the network, the network, and its input."""
    for name, part in module.named_modules():
        if isinstance(part, Classifier):
            spec = part.input_spec
            image = (part.repeats * spec.channels, spec.height, spec.width)
            return (f"{name}." if name else "") + "backbone.", part.backbone, image
    return "", module, None


def _layers(backbone: nn.Module) -> Iterator[list[str]]:
    """Parameter names, layer by layer, from the pixels on."""
    root, prefix = backbone, ""
    while len(only := _with_weights(root)) == 1:  # wrappers
        name, root = next(iter(only.items()))
        prefix += f"{name}."
    ours = {id(parameter) for parameter in root.parameters()}
    # embeddings are parameters of the network itself: the stem
    waiting = [name for name, p in backbone.named_parameters() if id(p) not in ours]
    waiting += [prefix + name for name, _ in root.named_parameters(recurse=False)]
    current: list[str] = []
    for kind, names in _walk(root, prefix):
        if kind == "norm" and current:
            current += names
        elif kind == "norm":
            waiting += names
        else:
            if current:
                yield current
            current, waiting = [*waiting, *names], []
        if kind == "block":  # what follows a block prepares the next layer
            yield current
            current = []
    if current or waiting:
        yield [*current, *waiting]


def _walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, list[str]]]:
    """("leaf" | "norm" | "block", names) of the parts of a network, in order."""
    for name, child in _with_weights(module).items():
        path = f"{prefix}{name}."
        names = [path + own for own, _ in child.named_parameters()]
        if all(parameter.ndim <= 1 for parameter in child.parameters()):
            yield "norm", names
        elif not _with_weights(child):
            yield "leaf", names
        elif _composed(child):
            own = [path + own for own, _ in child.named_parameters(recurse=False)]
            if own:
                yield "norm", own
            yield from _walk(child, path)
        else:
            yield "block", names


def _composed(module: nn.Module) -> bool:
    """True for a stage: a container, or a module with a row of blocks, one after the other.

    A row in a ModuleList inside of another module may be branches side by side, as in NASNet.
    """
    if isinstance(module, CONTAINERS):
        return True
    parts = _with_weights(module).values()
    return any(isinstance(part, nn.Sequential) and _row_of_blocks(part) for part in parts)


def _row_of_blocks(container: nn.Module) -> bool:
    """Two or more parts of one kind, none of them a bare layer."""
    parts = list(_with_weights(container).values())
    kinds = {type(part) for part in parts}
    return len(parts) > 1 and len(kinds) == 1 and all(_with_weights(part) for part in parts)


def _with_weights(module: nn.Module) -> Mapping[str, nn.Module]:
    return {
        name: child
        for name, child in module.named_children()
        if next(child.parameters(), None) is not None
    }
