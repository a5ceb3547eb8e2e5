"""The steps of a study as frozen data: what each is told, every default in one place.

Defaults of distillation (T = 4, alpha = 0.7) and pruning follow the clinical edge compression guide
the project was born from; they are starting points, not judgements.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

__all__ = [
    "PHASES",
    "ClassName",
    "Config",
    "Decay",
    "DistillStep",
    "FineTuneStep",
    "ModelRecipe",
    "NoPercent",
    "OnnxRecipe",
    "Phase",
    "PruneStep",
    "QatStep",
    "SearchStep",
    "Share",
    "ShrinkStep",
    "Step",
    "TrainOptions",
    "TrainStage",
]

# Names become those of files, and words in a line of a terminal: no path, no control character.
StepName = Annotated[str, Field(pattern=r"^\w[\w .+()-]*$", max_length=64)]

Decay = Literal["cosine", "exponential"]


def as_share(value: Any) -> Any:
    """Refuse what is written in percent; anything else is left for pydantic to judge."""
    text = str(value).strip()
    number = text.removesuffix("%").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", number) and (1 < float(number) <= 100 or text != number):
        raise ValueError(f"a share: {float(number) / 100:g}, not {text}")
    return value


NoPercent = Annotated[float, BeforeValidator(as_share)]
Share = Annotated[float, Field(gt=0, lt=1), BeforeValidator(as_share)]

Level = Annotated[float, Field(ge=0, le=1)]

Spread = Annotated[float, Field(gt=0, le=1)]


Scale = Literal["0..1", "0..255", "-1..1", "imagenet", "caffe"]


def _number_as_text(value: Any) -> Any:
    """A class named 1 is written as a number in YAML."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ClassName = Annotated[str, BeforeValidator(_number_as_text)]


class Config(BaseModel):
    """Base of every part of a study: frozen, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


class ModelRecipe(Config):
    """A network: a name of `clinipress models` or timm's, or the user's own function.

    Attributes:
        name: One of `clinipress models`, or timm's.
        factory: "module:function", called with ``num_classes`` and ``in_chans``.
        arguments: Further keyword arguments of the constructor.
        pretrained: False, True (timm's weights from the hub, fetched only because this was asked)
            or the path of a local safetensors or weights-only checkpoint of the backbone; or
            "package:NAME", the weights that an installed package carries (`clinipress init` names
            them).
        checkpoint: A trained classifier's weights (safetensors, or a weights-only .pt), as training
            scripts leave them; a folder: the weights of the MONAI bundle or the Hugging Face model
            in it.
        checkpoint_key: Where that file (or `pretrained`) holds several sets of weights: the name
            below which the wanted one lies, such as "state_dict_ema".
        in_channels: Channels of the backbone; None: 3 with pretrained weights, else the input's.
        mean: Mean that a checkpoint was trained with, of pixels in [0, 1]: one number or three.
            None: measured on the training images.
        std: Its standard deviation, likewise.
        channels: The order of colours in its input: "BGR" of a network trained on pixels as OpenCV
            reads them (its first layer is turned to RGB; mean and std stay in its own order);
            None: RGB.
    """

    name: str | None = None
    factory: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    pretrained: bool | str = False
    checkpoint: str | None = None
    checkpoint_key: str | None = None
    in_channels: Literal[1, 3] | None = None
    mean: Level | tuple[Level, Level, Level] | None = None
    std: Spread | tuple[Spread, Spread, Spread] | None = None
    channels: Literal["RGB", "BGR"] | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Digests of networks whose order of colours nobody named do not depend on it."""
        fields: dict[str, Any] = handler(self)
        if self.channels is None:
            fields.pop("channels", None)
        return fields

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> ModelRecipe:
        if (self.name is None) == (self.factory is None):
            raise ValueError("give either 'name' (a timm model) or 'factory' (module:function)")
        if self.checkpoint_key is not None and not isinstance(
            self.checkpoint or self.pretrained, str
        ):
            raise ValueError("'checkpoint_key' names a part of a file: give 'checkpoint'")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both 'mean' and 'std', or neither")
        return self


Fit = Literal["stretch", "pad", "crop"]


class OnnxRecipe(Config):
    """A classifier of which there is an ONNX file alone, and what the file does not say itself.

    What is left out is read from the file; what that does not say either is tried on labelled
    training images, printed, and taken where one reading is clearly the best, else asked for.

    Attributes:
        file: The ONNX file; weights it keeps beside it must lie in its folder.
        classes: Class names in the order of its outputs; of one output: the class it is against,
            then the class it is for.
        size: Side in pixels, or height and width, where the file leaves them free.
        layout: Of its input: "NCHW" or "NHWC".
        channels: Their order in its input, "RGB" or "BGR".
        scale: Of its pixels: "0..1", "0..255", "-1..1"; "imagenet", 0..1 normalised by ImageNet's
            mean and deviation; "caffe", 0..255 less ImageNet's mean, BGR.
        mean: Instead of `scale`: taken off pixels in [0, 1]: one number, or one for each channel.
        std: What the rest is divided by, likewise.
        fit: How a picture becomes the input: "stretch", "pad" (letterbox, black), or "crop" (the
            shorter side fits, the middle of the longer one is taken).
        answers: Whether it gives "logits" or "probabilities". Those of torchxrayvision are
            probabilities that were shifted until 0.5 is its makers' operating point.
        output: Name of the output, of several.
    """

    file: str
    classes: tuple[ClassName, ...] | None = Field(None, min_length=2)
    size: int | tuple[int, int] | None = None
    layout: Literal["NCHW", "NHWC"] | None = None
    channels: Literal["RGB", "BGR"] | None = None
    scale: Scale | None = None
    mean: Level | tuple[Level, Level, Level] | None = None
    std: Spread | tuple[Spread, Spread, Spread] | None = None
    fit: Fit | None = None
    answers: Literal["logits", "probabilities"] | None = None
    output: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _file_alone(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_scale(self) -> OnnxRecipe:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both 'mean' and 'std', or neither")
        if self.mean is not None and self.scale is not None:
            raise ValueError("give 'scale', or 'mean' and 'std', not both")
        if self.scale == "caffe" and self.channels == "RGB":
            raise ValueError("scale 'caffe' is of BGR pixels: leave out 'channels'")
        return self


class TrainStage(Config):
    """One stage of a training in several, as in transfer learning; None: as the whole training.

    A stage begins with the weights the one before ended with, the moments of its optimizer at
    zero, and its own warm-up. Three of them are the transfer learning of Kanneti and Shah
    (arXiv:2605.19207): the head on a frozen backbone; all weights at a lower rate; longer, with a
    rate that falls fast. The paper gives neither epochs nor rates; those of the examples are ours.

    Attributes:
        epochs: Passes over the training images in this stage.
        train: "head": the last layer alone; the backbone is frozen, its batch norms with it,
            running statistics too, for these belong to the weights: left to follow the new images
            they would make the pretrained features other ones under the head that is learning to
            read them. A backbone of random weights is better not frozen; it is done, and said.
            "all": every weight.
        learning_rate: Peak rate.
        final_learning_rate: Share of the peak rate left at the stage's end.
        warmup_epochs: Epochs of linear warm-up.
        decay: "cosine" or "exponential".
        layer_decay: Of the rate from layer to layer; 1: all layers alike.
    """

    epochs: int = Field(ge=1)
    train: Literal["head", "all"] = "all"
    learning_rate: float | None = Field(None, gt=0)
    final_learning_rate: NoPercent | None = Field(None, ge=0, le=1)
    warmup_epochs: float | None = Field(None, ge=0)
    decay: Decay | None = None
    layer_decay: float | None = Field(None, gt=0, le=1)


class TrainOptions(Config):
    """The one training loop's options.

    Attributes:
        epochs: Passes over the training images; with `stages` the sum of theirs, to be left out.
        stages: Stages of transfer learning, one after the other in one training: leave one out, and
            it is ablated. The best epoch of all of them is kept. Empty: one stage for all weights.
        batch_size: Images per optimizer step, over all processes together.
        optimizer: "adamw" or "sgd" (Nesterov momentum 0.9).
        learning_rate: Peak rate; linear warm-up, then down to `final_learning_rate` times it.
        final_learning_rate: Share of the peak rate left at the end.
        decay: How the rate falls: "cosine"; or "exponential", the same factor at every step, which
            spends most of the steps at low rates.
        layer_decay: Factor of the rate (and of the weight decay, which is a share of it) from one
            layer to the next, counted from the head down to the stem: pretrained layers near the
            pixels are general and change least (Howard, Ruder 2018; Clark et al. 2020). A layer is
            a block, or a convolution or linear layer outside of blocks; in a network of 12 blocks
            0.75 leaves the stem 2 %, in one of 58 next to nothing. None: all layers alike.
        weight_decay: On weights of two dimensions or more; never on biases and norms.
        warmup_epochs: Epochs of linear warm-up.
        label_smoothing: Of the hard-label cross-entropy (Szegedy et al. 2016): this share of the
            target is given to all classes alike. It never touches a teacher's answers.
        mixup: Each image is mixed with another of its batch, with a share drawn from
            Beta(mixup, mixup) for each batch (Zhang et al. 2018; 0.2 is usual). The loss is mixed
            with it; in distillation so are the teacher's answers to the two images, as if the
            teacher's answer to the mixture lay between them. None: off.
        cutmix: Instead of all of it, a rectangle of the other image is pasted in (Yun et al. 2019;
            1 is usual); a finding may be cut away or pasted in, and the loss is mixed by area. With
            both, each batch takes one of the two by chance. None: off.
        class_weights: "none" or "balanced" (inverse frequency, mean 1 over images).
        order_weight: Of grades (`data.order`): weight of the ranked probability score, the squared
            earth mover's distance (Epstein 1969; Hou et al. 2016), beside the cross-entropy; in
            distillation of the distance from the teacher's grades, too. An answer then costs the
            more, the more grades it is off; weights of about 10 are felt. 0: off.
        ema_decay: Decay of the averaged weights that are evaluated and kept; None: no averaging.
        gradient_clip: Largest gradient norm; None: no clipping.
        patience: Epochs without a better validation score after which training stops.
        sizes: Progressive input sizes as (pixels, share of the epochs), last one the input's size.
            Empty: the input's size throughout. (Progressive resizing: Howard 2018, fast.ai.)
        augmentation: Strength, 0 (none) to 2; 1 is the modality's own.
        numerics: "auto" measures a few steps of each and takes the fastest; or one by name.
        processes: CPU processes or GPUs on this machine; several machines through torchrun.
        validate_every: Epochs between two validations before the last size is reached.
    """

    epochs: int = Field(50, ge=1)
    stages: tuple[TrainStage, ...] = ()
    batch_size: int = Field(32, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    final_learning_rate: NoPercent = Field(0.001, ge=0, le=1)
    decay: Decay = "cosine"
    layer_decay: float | None = Field(None, gt=0, le=1)
    weight_decay: float = Field(0.05, ge=0)
    warmup_epochs: float = Field(3, ge=0)
    label_smoothing: NoPercent = Field(0.1, ge=0, lt=1)
    mixup: float | None = Field(None, gt=0)
    cutmix: float | None = Field(None, gt=0)
    class_weights: Literal["none", "balanced"] = "none"
    order_weight: float = Field(0, ge=0)
    ema_decay: float | None = Field(0.995, gt=0, lt=1)
    gradient_clip: float | None = Field(5.0, gt=0)
    patience: int | None = Field(None, ge=1)
    sizes: tuple[tuple[int, float], ...] = ()
    augmentation: float = Field(1.0, ge=0, le=2)
    numerics: Literal[
        "auto",
        "float32-contiguous",
        "float32-channels-last",
        "bfloat16-channels-last",
        "float16-channels-last",
    ] = "auto"
    processes: int = Field(1, ge=1)
    validate_every: int = Field(2, ge=1)

    @model_serializer(mode="wrap")
    def _without_no_order(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Digests of trainings that know no order do not depend on it."""
        fields: dict[str, Any] = handler(self)
        if not self.order_weight:
            fields.pop("order_weight", None)
        return fields

    @model_validator(mode="before")
    @classmethod
    def _epochs_of_the_stages(cls, value: Any) -> Any:
        """Where `epochs` is left out beside `stages`, their sum."""
        stages = value.get("stages") if isinstance(value, dict) else None
        if not isinstance(stages, list | tuple) or not stages or "epochs" in value:
            return value
        counts = [
            part.get("epochs") if isinstance(part, dict) else getattr(part, "epochs", None)
            for part in stages
        ]
        if not all(isinstance(count, int) for count in counts):
            return value  # the stage in question is refused by its own field
        return {**value, "epochs": sum(counts)}

    @model_validator(mode="after")
    def _stages_that_fit(self) -> TrainOptions:
        together = sum(stage.epochs for stage in self.stages)
        if self.stages and together != self.epochs:
            raise ValueError(
                f"the stages have {together} epochs together, 'epochs' is {self.epochs}: "
                "leave out 'epochs'"
            )
        ends = [(self.decay, self.final_learning_rate)]
        for stage in self.stages:
            final = stage.final_learning_rate
            ends.append((stage.decay or self.decay, ends[0][1] if final is None else final))
        if ("exponential", 0) in ends:
            raise ValueError("an 'exponential' decay needs a 'final_learning_rate' above 0")
        return self


# Steps that go on with trained weights start gently and briefly.
FINE_TUNING: dict[str, Any] = {"epochs": 15, "learning_rate": 3e-4, "warmup_epochs": 1}
LABELS_ALONE: dict[str, Any] = {"epochs": 10, "learning_rate": 1e-4, "warmup_epochs": 1}
ROUNDED: dict[str, Any] = {"epochs": 15, "learning_rate": 1e-4, "warmup_epochs": 1}


def _over(own: Mapping[str, Any]) -> BeforeValidator:
    """What a study writes under `train` is laid over the step's own defaults, key by key."""

    def lay(options: Any) -> Any:
        if not isinstance(options, dict):
            return options
        kept = {k: v for k, v in own.items() if k != "epochs"} if options.get("stages") else own
        return {**kept, **options}

    return BeforeValidator(lay)


class DistillStep(Config):
    """Train a student on labels and on a teacher's outputs.

    The loss is ``alpha * teacher's part + (1 - alpha) * labels' part``; what the teacher's part is,
    `method` says.

    Attributes:
        student: The student's network; None: the candidate before, for example a pruned one, learns
            further.
        method: "soft": softened outputs (Hinton et al., 2015); "dkd": target and other classes
            weighed apart (Zhao et al., 2022); "dist": correlations (Huang et al., 2022); "fitnet":
            soft, and the last feature map (Romero et al., 2015); "attention": soft, and where the
            maps are strong (Zagoruyko and Komodakis, 2017).
        temperature: T of both softmaxes; the soft loss is multiplied by T squared.
        alpha: Weight of the teacher's part; 0 is the control without a teacher.
        beta: Weight, within the teacher's part, of the other classes ("dkd"), of the relation
            between images ("dist") or of the feature maps; None: 8, 1, 5 ("fitnet") or 10.
        layers: (student's, teacher's) modules whose maps are compared; empty: the last map before
            the pooling ("fitnet"), the last three stage ends ("attention").
        teachers: Candidate folders, .onnx files or bundles; several are averaged. An ONNX file that
            others made may be written as under `reference.onnx`. None: the study's reference.
        control: Also train the same student for as long without a teacher, as a row to be
            compared with, never shipped.
        views: Seeded augmented views per image for which the teacher's outputs are computed once.
        answers: "view": the student goes round those views and learns the teacher's answer to the
            very view; with fewer views than epochs it sees images again and may learn them by
            heart. "mean": it sees new views in every epoch and learns the teacher's mean answer to
            the image, over `views` of them. None: "view" where there are as many views as epochs,
            or feature maps are compared, else "mean".
        train: The loop's options.
    """

    step: Literal["distill"] = "distill"
    name: StepName | None = None
    student: ModelRecipe | None = None
    method: Literal["soft", "dkd", "dist", "fitnet", "attention"] = "soft"
    temperature: float = Field(4.0, gt=0)
    alpha: float = Field(0.7, ge=0, le=1)
    beta: float | None = Field(None, ge=0)
    layers: tuple[tuple[str, str], ...] = ()
    teachers: tuple[str | OnnxRecipe, ...] | None = Field(None, min_length=1)
    control: bool = False
    views: int = Field(8, ge=1)
    answers: Literal["view", "mean"] | None = None
    train: TrainOptions = TrainOptions()

    @model_validator(mode="after")
    def _keys_that_fit_the_method(self) -> DistillStep:
        if self.beta is not None and self.method == "soft":
            raise ValueError("'beta' has no meaning for method 'soft'; leave it out")
        if self.layers and self.method not in ("fitnet", "attention"):
            raise ValueError(f"'layers' has no meaning for method '{self.method}'; leave it out")
        if self.answers == "mean" and self.method in ("fitnet", "attention"):
            raise ValueError(f"method '{self.method}' compares the same view: use answers 'view'")
        if self.method in ("fitnet", "attention") and (self.train.mixup or self.train.cutmix):
            raise ValueError(
                f"method '{self.method}' compares maps of whole images: leave out 'mixup' and "
                "'cutmix'"
            )
        if self.control and self.alpha == 0:
            raise ValueError("with alpha 0 the step is its own control; leave out 'control'")
        return self

    def chosen_answers(self) -> Literal["view", "mean"]:
        """Which of the two, where the study leaves it open."""
        if self.answers is not None:
            return self.answers
        same = self.views >= self.train.epochs or self.method in ("fitnet", "attention")
        return "view" if same else "mean"

    def without_teacher(self, numerics: str) -> DistillStep:
        """The control: the same student and budget, computed in the same numerics, alpha 0."""
        same = self.train.model_dump() | {"numerics": numerics}
        return DistillStep(student=self.student, alpha=0, train=TrainOptions.model_validate(same))


class PruneStep(Config):
    """Remove channels and heads physically, then fine-tune.

    Attributes:
        ratio: Share to remove, of `of`, over all rounds together.
        of: What the ratio counts: "macs", "parameters", "filters" (outputs of all convolutions and
            linear layers), or "latency", measured on the float32 file on this machine.
        criterion: How channels are ranked: "l1", "l2", "taylor" (gradients of a few training
            batches), "batch-norm", "fpgm", or "random" (the control).
        scope: "global" ranks over the whole network, "uniform" removes the same share per layer,
            "isomorphic" ranks among parts of equal topology.
        rounds: Cuts with fine-tuning between them; each takes the same share of what it finds, and
            the epochs are divided among them.
        round_to: Channel counts become multiples of this (8 or 16 suit most processors).
        protect: Names of modules that keep all channels, with all inside them.
        recalibrate_batch_norm: After each cut, measure the batch norms' statistics again on
            un-augmented training images; always done when no fine-tuning follows.
        sensitivity: Measure how validation accuracy falls when one layer alone is pruned.
        sensitivity_images: Validation images for that, drawn by the study's seed.
        latency_threads: Threads of the latency that `of: latency` counts.
        distill: Keep the reference's soft targets during fine-tuning.
        temperature: T of the soft loss.
        alpha: Weight of the soft loss.
        views: Views of the teacher's cache.
        train: Options of the fine-tuning; None: no fine-tuning.
    """

    step: Literal["prune"] = "prune"
    name: StepName | None = None
    ratio: NoPercent = Field(0.3, gt=0, lt=0.95)
    of: Literal["macs", "parameters", "filters", "latency"] = "macs"
    criterion: Literal["l1", "l2", "taylor", "batch-norm", "fpgm", "random"] = "l2"
    scope: Literal["global", "uniform", "isomorphic"] = "global"
    rounds: int = Field(1, ge=1, le=100)
    round_to: int = Field(8, ge=1)
    protect: tuple[str, ...] = ()
    recalibrate_batch_norm: bool = True
    sensitivity: bool = False
    sensitivity_images: int = Field(256, ge=1)
    latency_threads: int = Field(1, ge=1)
    distill: bool = True
    temperature: float = Field(4.0, gt=0)
    alpha: float = Field(0.7, ge=0, le=1)
    views: int = Field(8, ge=1)
    train: Annotated[TrainOptions | None, _over(FINE_TUNING)] = TrainOptions(**FINE_TUNING)

    @model_validator(mode="after")
    def _an_epoch_per_round(self) -> PruneStep:
        if self.train is not None and self.train.epochs < self.rounds:
            raise ValueError(
                f"{self.rounds} rounds need at least {self.rounds} epochs, "
                f"'train.epochs' is {self.train.epochs}"
            )
        if self.train is not None and self.train.stages and self.rounds > 1:
            raise ValueError("'stages' cannot be divided among rounds: leave them out")
        return self


class FineTuneStep(Config):
    """Train the last candidate further, on labels alone.

    With `train.stages` this is transfer learning from a candidate as well as from a backbone.
    """

    step: Literal["train"] = "train"
    name: StepName | None = None
    train: Annotated[TrainOptions, _over(LABELS_ALONE)] = TrainOptions(**LABELS_ALONE)


class QatStep(Config):
    """Quantization-aware training: train on with weights and activations rounded as in the file.

    The child's weights are plain float; its learnt ranges are used by every int8 export of it.

    Attributes:
        weight_bits: Signed, symmetric, one scale per output channel.
        activation_bits: Unsigned, affine, one scale per tensor.
        freeze_batch_norm: Share of the epochs after which batch norms keep their statistics; from
            then on they are folded into the convolutions. 0: from the start.
        freeze_ranges: Share of the epochs after which the ranges of activations stay.
        calibration_images: Training images, un-augmented, that the first ranges come from.
        calibration_method: How the first ranges are chosen.
        distill: Keep the reference's soft targets.
        temperature: T of the soft loss.
        alpha: Weight of the soft loss.
        views: Views of the teacher's cache.
        train: The loop's options; "auto" numerics are float32, channels last, since bfloat16 has
            fewer levels than the grids.
    """

    step: Literal["qat"] = "qat"
    name: StepName | None = None
    weight_bits: Literal[8] = 8
    activation_bits: Literal[8] = 8
    freeze_batch_norm: NoPercent = Field(0.4, ge=0, le=1)
    freeze_ranges: NoPercent = Field(0.6, ge=0, le=1)
    calibration_images: int = Field(200, ge=1)
    calibration_method: Literal["minmax", "percentile", "entropy", "mse"] = "percentile"
    distill: bool = True
    temperature: float = Field(4.0, gt=0)
    alpha: float = Field(0.7, ge=0, le=1)
    views: int = Field(8, ge=1)
    train: Annotated[TrainOptions, _over(ROUNDED)] = TrainOptions(**ROUNDED)

    @field_validator("train")
    @classmethod
    def _fits_the_grids(cls, value: TrainOptions) -> TrainOptions:
        if value.numerics not in {"auto", "float32-contiguous", "float32-channels-last"}:
            raise ValueError(f"numerics of 'qat' must be float32, not '{value.numerics}'")
        if value.sizes:
            raise ValueError("'qat' trains at the input's own size: leave out 'sizes'")
        return value


class Phase(Config):
    """One phase: what sub-nets may choose, and its part of the training.

    Attributes:
        name: In the history and of its folder.
        kernels: Choices of each block.
        depths: Choices of each stage.
        expansions: Choices of each block.
        epochs: Relative to the other phases'.
        rate: Of the learning rate.
        sampled: Sub-nets drawn for every step, besides the ends.
    """

    name: StepName
    kernels: tuple[Literal[3, 5, 7], ...] = (3, 5, 7)
    depths: tuple[Literal[2, 3, 4], ...] = (2, 3, 4)
    expansions: tuple[Literal[3, 4, 6], ...] = (3, 4, 6)
    epochs: float = Field(1, gt=0)
    rate: float = Field(1, gt=0)
    sampled: int = Field(1, ge=1)


# Shares of epochs and rates of the published recipe: 120, 25, 120, 25 and 120 epochs at 0.03,
# 0.0025, 0.0075, 0.0025 and 0.0075. It draws one, two and four sub-nets a step, here it is one, one
# and two beside the ends.
PHASES = (
    Phase(name="kernel", depths=(4,), expansions=(6,), epochs=120),
    Phase(name="depth-1", depths=(3, 4), expansions=(6,), epochs=25, rate=1 / 12),
    Phase(name="depth-2", expansions=(6,), epochs=120, rate=1 / 4),
    Phase(name="expand-1", expansions=(4, 6), epochs=25, rate=1 / 12, sampled=2),
    Phase(name="expand-2", epochs=120, rate=1 / 4, sampled=2),
)

SHRUNK: dict[str, Any] = {"epochs": 41, "learning_rate": 5e-4, "warmup_epochs": 1}


class ShrinkStep(Config):
    """Train a supernet's sub-nets, phase by phase, with its largest network as the teacher.

    Attributes:
        phases: In order.
        sandwich: The largest and the smallest sub-net of a phase are in every step.
        alpha: Weight of the teacher; 0.5 is the published weight of one beside the labels.
        temperature: T of both softmaxes; 1 as published.
        views: Augmented views of each image over which the teacher's answers are averaged.
        calibration_images: Training images on which batch norms are measured again.
        train: Options; `epochs` are those of all phases together, `warmup_epochs` of each phase.
    """

    step: Literal["shrink"] = "shrink"
    name: StepName | None = None
    phases: tuple[Phase, ...] = Field(PHASES, min_length=1)
    sandwich: bool = True
    alpha: float = Field(0.5, ge=0, le=1)
    temperature: float = Field(1.0, gt=0)
    views: int = Field(4, ge=1)
    calibration_images: int = Field(256, ge=2)
    train: TrainOptions = TrainOptions(**SHRUNK)

    @model_validator(mode="after")
    def _phases_that_can_be_trained(self) -> ShrinkStep:
        if self.train.stages:
            raise ValueError("the phases of 'shrink' are its stages: leave out 'train.stages'")
        if self.train.epochs < len(self.phases):
            raise ValueError(
                f"{len(self.phases)} phases need at least {len(self.phases)} epochs, "
                f"'train.epochs' is {self.train.epochs}"
            )
        return self

    def epochs(self) -> list[int]:
        """Epochs of each phase: at least one, in all those of the training."""
        epochs, left = [], self.train.epochs
        shares = [phase.epochs for phase in self.phases]
        for number, share in enumerate(shares):
            after = len(shares) - number - 1
            wanted = round(left * share / sum(shares[number:]))
            epochs.append(min(max(1, wanted), left - after))
            left -= epochs[-1]
        return epochs


class SearchStep(Config):
    """Find the best sub-net within the limits; at least one limit is given.

    Attributes:
        macs: Most multiply-adds of an image.
        parameters: Most parameters.
        latency_ms: Most milliseconds of a call with one image, in ONNX Runtime, float32.
        latency_threads: Threads of that.
        population: Sub-nets of a generation.
        generations: After the first, which is drawn.
        parents: Share of a generation that children come from, and that stays.
        mutation: Probability with which a depth or a block is drawn anew; half of the children are
            mutations of one parent, half are crossed from two.
        finalists: Sub-nets whose latency is measured in the end.
        images: Validation images that decide; None: all. The same for all sub-nets.
        calibration_images: Training images on which batch norms are measured again.
    """

    step: Literal["search"] = "search"
    name: StepName | None = None
    macs: int | None = Field(None, gt=0)
    parameters: int | None = Field(None, gt=0)
    latency_ms: float | None = Field(None, gt=0)
    latency_threads: int = Field(1, ge=1)
    population: int = Field(24, ge=2)
    generations: int = Field(8, ge=0)
    parents: NoPercent = Field(0.25, gt=0, le=1)
    mutation: NoPercent = Field(0.1, gt=0, le=1)
    finalists: int = Field(4, ge=1)
    images: int | None = Field(None, ge=1)
    calibration_images: int = Field(256, ge=2)

    @model_validator(mode="after")
    def _a_limit(self) -> SearchStep:
        if self.macs is None and self.parameters is None and self.latency_ms is None:
            raise ValueError("give at least one limit: 'macs', 'parameters' or 'latency_ms'")
        return self


Step = Annotated[
    DistillStep | PruneStep | QatStep | FineTuneStep | ShrinkStep | SearchStep,
    Field(discriminator="step"),
]
