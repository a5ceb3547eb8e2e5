"""The network with its normalisation inside, and the candidate that runs and keeps it.

    raw pixels 0..255 -> (x - mean) / std -> grey repeated if need be -> backbone -> logits

A checkpoint cannot meet the wrong normalisation, and the exported graph takes the pixels as they
are decoded.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from clinipress.errors import ModelError
from clinipress.models.contract import check_contract
from clinipress.models.cost import evaluating
from clinipress.models.origins import weights_path
from clinipress.models.outputs import Found, adapt, looked_at, words
from clinipress.models.pretrained import load_checkpoint, load_pretrained, turn_colours
from clinipress.models.pruning.pruned import replay
from clinipress.models.weights import laid_out, load_state, read_tensors, safetensors_bytes
from clinipress.models.zoo import (
    GIVEN,
    catalogued,
    channels_taken,
    create_backbone,
    own_normalisation,
)
from clinipress.recipe.code import Permission, check_code
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import Card, InputSpec, ModelSpec, PerChannel, Task
from clinipress.records.store import digest_of, write_atomically

__all__ = [
    "Classifier",
    "TorchCandidate",
    "build",
    "check_network",
    "check_pretrained",
    "fresh_backbone",
    "network_words",
    "new_classifier",
    "notes",
]

Channels = Literal[1, 3]
CARD_FILE, WEIGHTS_FILE = "card.json", "weights.safetensors"
DIGEST_KEY = "clinipress.digest"
# Bytes of float32 input per call of the network: activations of convolutional nets are some 10 to
# 50 times their input, so prediction stays within a few hundred megabytes whatever the image size.
BATCH_BYTES = 8 * 2**20
LARGEST_BATCH = 64


class Classifier(nn.Module):
    """A backbone that takes raw pixels.

    Args:
        backbone: float32 ``[n, in_channels, h, w]`` -> logits ``[n, classes]``.
        input_spec: What the images are like.
        in_channels: Channels the backbone takes; one grey channel is repeated to three.
        mean: Taken off pixels in [0, 1]: one number, or one for each of three channels.
        std: What the rest is divided by, likewise.

    Raises:
        ModelError: Colour images for a grey backbone, or statistics that cannot normalise.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        input_spec: InputSpec,
        in_channels: int,
        mean: PerChannel,
        std: PerChannel,
    ) -> None:
        super().__init__()
        if in_channels < input_spec.channels:
            raise ModelError(
                f"a network of {input_spec.channels} input channels for colour images",
                f"in_channels: {in_channels}",
                "leave it out, or set data.input.channels: 1",
            )
        shift, scale = (_levels(value, in_channels) for value in (mean, std))
        if not (shift.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
            raise ModelError(
                "a finite mean and a standard deviation above 0 of the training pixels",
                f"mean {mean} and standard deviation {std}",
                "are all images one flat grey?",
            )
        self.backbone = backbone
        self.input_spec = input_spec
        self.repeats = in_channels // input_spec.channels
        self.contiguous = False  # True: it cannot be run with channels last in memory
        # not in the state dict: the numbers belong to ModelSpec, and two sources could disagree
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    @property
    def layout(self) -> torch.memory_format:
        """How weights and images lie in memory for it."""
        return torch.contiguous_format if self.contiguous else torch.channels_last

    def forward(self, images: Tensor) -> Tensor:
        """Classify.

        Args:
            images: uint8 or float ``[n, channels, h, w]``, values 0..255.

        Returns:
            float32 ``[n, classes]``, logits, whatever autocast computes inside.
        """
        # one mean for all: normalise before repeating, which the export then folds away
        pixels = (images.float() - self.shift) / self.scale
        if pixels.shape[1] < self.repeats * self.input_spec.channels:
            pixels = pixels.expand(-1, self.repeats, -1, -1)
        logits: Tensor = self.backbone(pixels)
        return logits.float()


def _levels(value: PerChannel, in_channels: int) -> Tensor:
    """A level of [0, 1] in grey levels: float32 scalar, or ``[3, 1, 1]`` for three channels."""
    if isinstance(value, float | int):
        return torch.tensor(value * 255.0)
    if len(value) != in_channels:
        raise ModelError(
            f"one mean and standard deviation, or one for each of {in_channels} channels",
            f"{len(value)} numbers",
            "give one number, or set model.in_channels: 3",
        )
    return torch.tensor([level * 255.0 for level in value]).reshape(-1, 1, 1)


def new_classifier(
    recipe: ModelRecipe,
    input_spec: InputSpec,
    num_classes: int,
    mean: PerChannel,
    std: PerChannel,
    *,
    task: Task = "multiclass",
) -> tuple[ModelSpec, Classifier]:
    """A classifier as a recipe asks: fresh, from pretrained weights, or from a checkpoint.

    Random weights come from torch's global generator.

    Args:
        recipe: The network and where its weights come from.
        input_spec: What it takes.
        num_classes: Outputs.
        mean: Mean of the training pixels in [0, 1], one or one per channel.
        std: Standard deviation of the training pixels in [0, 1], likewise.
        task: Whether its outputs exclude one another.

    Returns:
        The spec to build it again, and the `Classifier`.

    Raises:
        ModelError: The network or its weights cannot be had, or do not fit.
    """
    in_channels: Channels = recipe.in_channels or (3 if recipe.pretrained else input_spec.channels)
    named = catalogued(recipe.name)
    backbone, in_channels, found = fresh_backbone(
        recipe, input_spec, in_channels, num_classes, several=task == "multilabel"
    )
    image, key = (in_channels, input_spec.height, input_spec.width), recipe.checkpoint_key
    if isinstance(recipe.pretrained, str):
        kin = named is not None and named.starts_from is not None
        path = weights_path(recipe.pretrained)
        load_pretrained(backbone, path, or_kin=kin, key=key, image=image)
    if recipe.checkpoint is not None:
        load_checkpoint(backbone, weights_path(recipe.checkpoint), key=key, image=image)
    if recipe.mean is None and (own := own_normalisation(backbone, in_channels)) is not None:
        mean, std = 0.0, own
    if recipe.channels == "BGR":
        mean, std = (v if isinstance(v, float | int) else (v[2], v[1], v[0]) for v in (mean, std))
    spec = ModelSpec(
        name=named.name if named else recipe.name,
        factory=recipe.factory,
        arguments=recipe.arguments,
        num_classes=num_classes,
        in_channels=in_channels,
        mean=mean,
        std=std,
        output=found.output,
        layout="contiguous" if found.contiguous else None,
    )
    what = network_words(recipe)
    module = _classifier(backbone, spec, input_spec)
    if recipe.channels == "BGR":
        turn_colours(module.backbone, image, what)
    _check_output(module, what, num_classes)
    check_network(module, what)
    return spec, module


def network_words(recipe: ModelRecipe) -> str:
    """A network for a message."""
    if (recipe.factory or "").startswith(f"{GIVEN}:"):
        return "the network that was given"
    return f"a network '{recipe.name or recipe.factory}'"


def check_pretrained(network: str, weights: str) -> None:
    """Refuse a file whose weights are not those of a network that timm or the catalogue names.

    Raises:
        ModelError: They are not, or either is not there.
    """
    recipe = ModelRecipe(name=network, pretrained=weights)
    spec = InputSpec(channels=3, height=224, width=224)
    with torch.random.fork_rng(devices=[]):
        new_classifier(recipe, spec, 2, 0.5, 0.5)


def fresh_backbone(
    recipe: ModelRecipe,
    input_spec: InputSpec,
    in_channels: Channels,
    num_classes: int | None,
    *,
    several: bool = False,
) -> tuple[nn.Module, Channels, Found]:
    """A network of random weights, or the hub's; the channels it takes; what running it showed.

    A user's function that knows colour alone makes a network of three channels for grey images too.

    Raises:
        ModelError: It cannot be made, or fails on these images.
    """
    what = network_words(recipe)
    size = (input_spec.height, input_spec.width)

    def made(channels: int) -> nn.Module:
        return create_backbone(
            name=recipe.name,
            factory=recipe.factory,
            arguments=recipe.arguments,
            num_classes=2 if num_classes is None else num_classes,
            in_channels=channels,
            size=size,
            from_hub=recipe.pretrained is True,
        )

    backbone = made(in_channels)
    try:
        found = looked_at(backbone, (in_channels, *size), num_classes, what, several=several)
    except ModelError:
        if recipe.factory is None or recipe.in_channels or channels_taken(backbone) != 3:
            raise
        backbone, in_channels = made(3), 3
        found = looked_at(backbone, (in_channels, *size), num_classes, what, several=several)
    return backbone, in_channels, found


def notes(
    spec: ModelSpec, recipe: ModelRecipe, input_spec: InputSpec, classes: tuple[str, ...]
) -> tuple[str, ...]:
    """Sentences on what was found of a user's network and changes how it is run."""
    said = words(spec.output, classes) if spec.output else ()
    if recipe.mean is None and spec.mean == 0:
        said += ("it takes off a mean itself: pixels are not normalised before it as well",)
    if recipe.in_channels is None and recipe.factory and spec.in_channels > input_spec.channels:
        said += ("it takes colour: grey images are repeated to three channels",)
    return said


def _classifier(backbone: nn.Module, spec: ModelSpec, input_spec: InputSpec) -> Classifier:
    adapt(backbone, spec.output)
    module = Classifier(backbone, input_spec, spec.in_channels, spec.mean, spec.std)
    module.contiguous = spec.layout == "contiguous"
    return module


def check_network(module: Classifier, what: str) -> None:
    """Refuse a network that `clinipress.models.contract` refuses.

    Raises:
        ModelError: Its answers depend on the batch, are drawn by chance, or are no logits.
    """
    spec = module.input_spec
    channels = module.repeats * spec.channels
    check_contract(module.backbone, channels, (spec.height, spec.width), what)


def _check_output(module: Classifier, what: str, num_classes: int) -> None:
    """One image through a copy of the network: outputs are wrong here rather than in training."""
    spec = module.input_spec
    image = torch.zeros(1, spec.channels, spec.height, spec.width, dtype=torch.uint8)
    with torch.no_grad():
        shape = tuple(copy.deepcopy(module).eval()(image).shape)
    if shape != (1, num_classes):
        raise ModelError(f"{num_classes} outputs per image from {what}", f"the shape {list(shape)}")


def build(spec: ModelSpec, input_spec: InputSpec) -> Classifier:
    """A fresh network as a spec describes it, its recorded pruning replayed; random weights.

    Raises:
        ModelError: The network cannot be built, or the pruning does not fit it.
    """
    backbone = create_backbone(
        name=spec.name,
        factory=spec.factory,
        arguments=spec.arguments,
        num_classes=spec.num_classes,
        in_channels=spec.in_channels,
        size=(input_spec.height, input_spec.width),
    )
    module = _classifier(backbone, spec, input_spec)
    return replay(module, spec.pruning) if spec.pruning else module


class TorchCandidate:
    """A PyTorch classifier as a candidate.

    Args:
        card: What it is; its `model` must say how to build the network again.
        module: The network; not copied.

    Raises:
        ModelError: The card has no `model`.
    """

    def __init__(self, card: Card, module: Classifier) -> None:
        if card.model is None:
            raise ModelError(
                "a card that says how to build the network again",
                f"the card of '{card.name}' without 'model'",
            )
        self.card, self.module = card, module

    @property
    def spec(self) -> ModelSpec:
        """How to build the network again."""
        return cast(ModelSpec, self.card.model)

    @property
    def digest(self) -> str:
        """sha256, 64 hexadecimal digits, of the weights, the network's spec and its input.

        Counted anew each time, since the weights may have been trained further; the memory layout
        and the device of the weights make no difference.
        """
        return _digest(self.module.state_dict(), self.spec, self.card.input)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw pixels in, logits out; in batches, so that memory does not grow with `images`.

        Args:
            images: uint8 ``[n, channels, height, width]`` as the card says, in [0, 255], RGB order.

        Returns:
            float32 ``[n, classes]``.

        Raises:
            ModelError: The array is not what the card asks for.
        """
        spec = self.card.input
        shape = (spec.channels, spec.height, spec.width)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ModelError(
                f"uint8 images [n, {', '.join(map(str, shape))}]",
                f"{images.dtype} {list(images.shape)}",
            )
        size = max(
            1, min(LARGEST_BATCH, BATCH_BYTES // (4 * self.spec.in_channels * shape[1] * shape[2]))
        )
        logits = np.empty((len(images), self.spec.num_classes), np.float32)
        with evaluating(self.module), torch.no_grad():
            for start in range(0, len(images), size):
                rows = slice(start, start + size)
                logits[rows] = self._forward(images[rows])
        return logits

    def rounding(self, images: NDArray[np.uint8]) -> float:
        """Largest difference of a logit from the same network computed in float64.

        That much no other order of sums can be held to: about 1e-5 in a network that is trained,
        1e-2 in one whose batch norms have seen too few images to steady what they multiply.

        Args:
            images: As for `predict`; one batch.

        Returns:
            The difference; 0 for a network that cannot be computed in float64.
        """
        exact = copy.deepcopy(self.module).eval()
        exact.backbone.double()
        exact.backbone.register_forward_pre_hook(lambda _, given: (given[0].double(),))
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(exact.shift.device)
        with evaluating(self.module), torch.no_grad():
            try:
                expected = exact(pixels).cpu().numpy()
            except RuntimeError:  # float32 is written into its code
                return 0.0
            return float(np.abs(self._forward(images) - expected).max())

    def _forward(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.module.shift.device)
        pixels = laid_out(pixels, self.module.layout)
        return cast(NDArray[np.float32], self.module(pixels).cpu().numpy())

    def save(self, folder: Path) -> None:
        """Write card.json and weights.safetensors, each whole or not at all.

        Raises:
            StorageError: The disk is full or cannot be written.
        """
        state = self.module.state_dict()
        content = safetensors_bytes(state, {DIGEST_KEY: self.digest})
        write_atomically(folder / WEIGHTS_FILE, content)
        write_atomically(folder / CARD_FILE, self.card.model_dump_json(indent=1))

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str | torch.device | None = None,
        *,
        allow_code: Permission = False,
    ) -> TorchCandidate:
        """Read what `save` wrote.

        Args:
            folder: Holds card.json and weights.safetensors.
            device: Where to put the network; None: the CPU.
            allow_code: Whether a user's function that the card names may build the network.

        Raises:
            ModelError: A file is missing, damaged, or the two do not belong together; or the card
                names a function that nobody permitted.
        """
        card = _read_card(folder / CARD_FILE)
        if card.model is None:
            raise ModelError("a card with 'model'", f"'{folder / CARD_FILE}' without it")
        check_code([card.model.factory], f"a card in '{folder}'", allow_code)
        state, facts = read_tensors(folder / WEIGHTS_FILE)
        if facts.get(DIGEST_KEY) != _digest(state, card.model, card.input):
            raise ModelError(
                f"weights that belong to the card in '{folder}'",
                "weights or a card that were changed since they were saved",
                "take both files from one run",
            )
        with torch.random.fork_rng(devices=[]):  # building draws weights that are replaced below
            module = build(card.model, card.input)
        try:
            load_state(module, state)
        except RuntimeError as problem:
            raise ModelError(f"weights that fit the card in '{folder}'", str(problem)) from None
        module.eval()
        return cls(card, module.to(device) if device is not None else module)


def _read_card(path: Path) -> Card:
    try:
        return Card.model_validate_json(path.read_bytes())
    except OSError:
        raise ModelError("a candidate folder with card.json", f"no '{path}'") from None
    except ValidationError as problem:
        what = problem.errors()[0]
        where = ".".join(map(str, what["loc"])) or "the file"
        raise ModelError(f"a card in '{path}'", f"{what['msg']} at {where}") from None


def _digest(state: dict[str, Tensor], spec: ModelSpec, input_spec: InputSpec) -> str:
    digest = hashlib.sha256()
    record = {"model": spec.model_dump(mode="json"), "input": input_spec.model_dump(mode="json")}
    digest.update(digest_of(record).encode())
    for name, tensor in sorted(state.items()):
        # each head ends with a line feed, which no name holds, so no two states can look alike
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()
