"""The study file: frozen data, every default in one place, no code in YAML.

A study names the data, the reference, the steps and the exports. Unknown keys are refused with
the nearest right one. Defaults of distillation (T = 4, alpha = 0.7) and pruning follow the clinical
edge compression guide the project was born from; they are starting points, not findings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from clinipress.records import InputSpec, RiskLevel

__all__ = [
    "GUARDS",
    "PRECISIONS",
    "DataRecipe",
    "DistillStep",
    "EvidenceRecipe",
    "ExportRecipe",
    "ModelRecipe",
    "PruneStep",
    "QatStep",
    "ReferenceRecipe",
    "SplitRecipe",
    "Step",
    "Study",
    "TargetRecipe",
    "TrainOptions",
    "TrainStage",
]

UNITS = {"GB": 10**9, "MB": 10**6, "KB": 10**3, "B": 1}


def _bytes(value: Any) -> Any:
    """Turn "512 MB" into a number of bytes; anything else is left for pydantic to judge."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([GMK]?B)", value.strip())
    if match is None:
        raise ValueError("write a number of bytes, or a size such as '512 MB' or '500 KB'")
    return round(float(match[1]) * UNITS[match[2]])


Size = Annotated[int, Field(gt=0), BeforeValidator(_bytes)]
Modality = Literal[
    "generic", "brain-mri", "chest-ct", "chest-xray", "dermoscopy", "histology", "retina"
]
Decay = Literal["cosine", "exponential"]
Share = Annotated[float, Field(gt=0, lt=1)]
Level = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(gt=0, le=1)]


class Config(BaseModel):
    """Base of every part of a study: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class SplitRecipe(Config):
    """How to divide the images.

    Attributes:
        by: "auto" takes patients where known, else near-duplicate clusters. "published" keeps the
            folders' or manifest's own splits and drops training images that leak into them.
        fractions: Shares of train, validation and test; their sum is 1.
        seed: Seed of the assignment.
        file: A split file written earlier, to be used as it is.
    """

    by: Literal["auto", "patient", "cluster", "published", "image"] = "auto"
    fractions: tuple[Share, Share, Share] = (0.65, 0.15, 0.2)
    seed: int = 0
    file: str | None = None

    @field_validator("fractions")
    @classmethod
    def _sums_to_one(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if abs(sum(value) - 1) > 1e-6:
            raise ValueError(
                f"train, validation and test shares must sum to 1, they sum to {sum(value):g}"
            )
        return value


class DataRecipe(Config):
    """The images and how they are read.

    Attributes:
        path: Folder, manifest (.csv) or .npz; ``--data`` on the command line overrides it.
        modality: Chooses the augmentation that suits the images.
        classes: Class order of the logits; None sorts the names found.
        class_map: Folder or label name -> class name, for sets that name one class in two ways.
        positive: The class that is the finding in a two-class task.
        input: Size, channels and window of the network's input.
        split: How the images are divided.
    """

    path: str | None = None
    modality: Modality = "generic"
    classes: tuple[str, ...] | None = None
    class_map: dict[str, str] = Field(default_factory=dict)
    positive: str | None = None
    input: InputSpec = Field(default_factory=InputSpec)
    split: SplitRecipe = SplitRecipe()


class ModelRecipe(Config):
    """A network: a name of `clinipress models` or timm's, or the user's own function.

    Attributes:
        name: One of `clinipress models`, or timm's.
        factory: "module:function", called with ``num_classes`` and ``in_chans``.
        arguments: Further keyword arguments of the constructor.
        pretrained: False, True (timm's weights from the hub, fetched only because this was asked)
            or the path of a local safetensors or weights-only checkpoint of the backbone.
        checkpoint: A trained classifier's weights (safetensors, or a weights-only .pt).
        in_channels: Channels of the backbone; None: 3 with pretrained weights, else the input's.
        mean: Mean that a checkpoint was trained with, of pixels in [0, 1]: one number or three.
            None: measured on the training images.
        std: Its standard deviation, likewise.
    """

    name: str | None = None
    factory: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    pretrained: bool | str = False
    checkpoint: str | None = None
    in_channels: Literal[1, 3] | None = None
    mean: Level | tuple[Level, Level, Level] | None = None
    std: Spread | tuple[Spread, Spread, Spread] | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> ModelRecipe:
        if (self.name is None) == (self.factory is None):
            raise ValueError("give either 'name' (a timm model) or 'factory' (module:function)")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both 'mean' and 'std', or neither")
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
    final_learning_rate: float | None = Field(None, ge=0, le=1)
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
    final_learning_rate: float = Field(0.001, ge=0, le=1)
    decay: Decay = "cosine"
    layer_decay: float | None = Field(None, gt=0, le=1)
    weight_decay: float = Field(0.05, ge=0)
    warmup_epochs: float = Field(3, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    mixup: float | None = Field(None, gt=0)
    cutmix: float | None = Field(None, gt=0)
    class_weights: Literal["none", "balanced"] = "none"
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

    def lay(said: Any) -> Any:
        if not isinstance(said, dict):
            return said
        kept = {k: v for k, v in own.items() if k != "epochs"} if said.get("stages") else own
        return {**kept, **said}

    return BeforeValidator(lay)


class ReferenceRecipe(Config):
    """The classifier everything else is judged against.

    Attributes:
        model: The network.
        train: How to train it; None takes the checkpoint as it is. With `model.pretrained`, three
            `stages` are the usual transfer learning (`TrainStage`).
    """

    model: ModelRecipe
    train: TrainOptions | None = TrainOptions()

    @model_validator(mode="after")
    def _something_to_start_from(self) -> ReferenceRecipe:
        if self.train is None and self.model.checkpoint is None:
            raise ValueError("without 'train' the reference needs 'model.checkpoint'")
        return self


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
        teachers: Candidate folders, .onnx files or bundles; several are averaged. None: the
            study's reference.
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
    name: str | None = None
    student: ModelRecipe | None = None
    method: Literal["soft", "dkd", "dist", "fitnet", "attention"] = "soft"
    temperature: float = Field(4.0, gt=0)
    alpha: float = Field(0.7, ge=0, le=1)
    beta: float | None = Field(None, ge=0)
    layers: tuple[tuple[str, str], ...] = ()
    teachers: tuple[str, ...] | None = Field(None, min_length=1)
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
    name: str | None = None
    ratio: float = Field(0.3, gt=0, lt=0.95)
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
    name: str | None = None
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
    name: str | None = None
    weight_bits: Literal[8] = 8
    activation_bits: Literal[8] = 8
    freeze_batch_norm: float = Field(0.4, ge=0, le=1)
    freeze_ranges: float = Field(0.6, ge=0, le=1)
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


Step = Annotated[DistillStep | PruneStep | QatStep | FineTuneStep, Field(discriminator="step")]
STEPS = (DistillStep, PruneStep, QatStep, FineTuneStep)


Precision = Literal["float32", "float16", "int8", "int8-dynamic", "int4-weights", "mixed"]
Format = Literal["onnx", "openvino", "litert", "executorch", "tflite-micro", "tensorrt"]
# What each toolchain makes; the first is what a study gets that asks for more than there is.
PRECISIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "onnx": ("int8", "float32", "float16", "int8-dynamic", "int4-weights", "mixed"),
        "openvino": ("int8", "float32", "float16"),
        "litert": ("int8", "float32", "float16", "int8-dynamic", "int4-weights"),
        "executorch": ("int8", "float32"),
        "tflite-micro": ("int8",),
        "tensorrt": ("float16", "int8", "float32"),
    }
)
# Keys of quantization that clinipress does itself; other formats have a toolchain for it.
ONNX_ALONE = (
    *("per_channel", "equalize", "bias_correction", "smooth", "block", "agreement", "slowest"),
    "reduce_range",
)


class ExportRecipe(Config):
    """A file for a runtime.

    Attributes:
        format: The file's format.
        precision: Of weights and activations. "int8-dynamic" quantizes linear and recurrent layers
            alone; "int4-weights" stores weights in 4 bits and computes in float32; "mixed" decides
            by measuring which layers compute in 8 bits.
        calibration_images: Training images, un-augmented, for "int8" and "mixed".
        calibration_method: How ranges are chosen; "auto" tries all but entropy and keeps the one
            whose file disturbs the logits least. "runtime": the toolchain's own choice, which
            "auto" tries too where the format has a toolchain of its own.
        reduce_range: Weights in 7 bits instead of 8, in "onnx": x86 processors without VNNI add
            pairs of 8-bit products in 16 bits, which overflow. None: where this machine is one.
        per_channel: One weight scale per output channel.
        equalize: Equalize weights across layers first (Nagel et al. 2019); None: where a trial
            shows that it helps.
        bias_correction: Take the mean error of rounded weights off the biases (the same); None:
            where a trial shows that it helps.
        smooth: SmoothQuant's alpha for transformers (Xiao et al. 2023), 0.5 there; None: none.
        block: Weights that share a scale in "int4-weights": a power of two.
        agreement: Share of images that must keep float32's class, in "mixed".
        slowest: Largest time over float32's that "mixed" may take.
    """

    format: Format = "onnx"
    precision: Precision = "int8"
    calibration_images: int = Field(200, ge=1)
    calibration_method: Literal["auto", "runtime", "minmax", "percentile", "entropy", "mse"] = (
        "auto"
    )
    reduce_range: bool | None = None
    per_channel: bool = True
    equalize: bool | None = None
    bias_correction: bool | None = None
    smooth: float | None = Field(None, ge=0, le=1)
    block: Literal[16, 32, 64, 128, 256] = 32
    agreement: float = Field(0.98, gt=0, le=1)
    slowest: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _what_the_format_has(self) -> ExportRecipe:
        known = PRECISIONS[self.format]
        if self.precision not in known:
            raise ValueError(
                f"'{self.format}' files have precision {', '.join(known)}, not '{self.precision}'"
            )
        if self.format != "onnx":
            fields = type(self).model_fields
            known_to = {"equalize", "smooth"} if self.format == "openvino" else set()
            meant = [
                key
                for key in ONNX_ALONE
                if key not in known_to and getattr(self, key) != fields[key].default
            ]
            if meant:
                raise ValueError(
                    f"'{meant[0]}' has no meaning for '{self.format}' files; leave it out"
                )
        elif self.calibration_method == "runtime":
            raise ValueError("'runtime' has no meaning for 'onnx' files: choose a method")
        return self


Section = Literal["operating", "calibration", "subgroups", "disagreement", "stress", "saliency"]
# Sections that can stop a candidate where a study does not say which. Where a wrong answer treats a
# patient, a loss shown in any figure of the patients' images does; elsewhere one shown in a group.
GUARDS: Mapping[RiskLevel, tuple[Section, ...]] = MappingProxyType(
    {
        "critical": ("operating", "calibration", "subgroups", "disagreement"),
        "high": ("operating", "calibration", "subgroups", "disagreement"),
        "medium": ("subgroups",),
        "low": ("subgroups",),
    }
)


class EvidenceRecipe(Config):
    """What is asked of every candidate besides the rules of the risk level, declared beforehand.

    Attributes:
        prevalence: Class -> its share where the model will be used, for predictive values; classes
            that are not named take their share of the split, and the report says so.
        aims: Sensitivity (and, in turn, specificity) at which the operating points are set.
        smallest_group: Images below which a subgroup is shown as too small and not judged.
        guards: Sections that stop a candidate where they show a loss; None: by the risk level,
            `GUARDS`. The other sections are shown and stop nothing.
        stress: Images that are disturbed in ten ways at five strengths; 0: none.
        saliency: Images whose Score-CAM maps are compared; 0: none.
        saliency_mode: "exact", or "fast": channels in groups, a tenth of the passes or fewer; each
            network answers its own masks in its own precision in both.
        masks: Folder of masks for saliency, named as the images are, where the set has them.
    """

    prevalence: dict[str, Share] = Field(default_factory=dict)
    aims: tuple[Share, ...] = Field((0.95,), min_length=1)
    smallest_group: int = Field(20, ge=2)
    guards: tuple[Section, ...] | None = None
    stress: int = Field(200, ge=0)
    saliency: int = Field(12, ge=0)
    saliency_mode: Literal["exact", "fast"] = "fast"
    masks: str | None = None


class TargetRecipe(Config):
    """A device of the user's own; what is left out comes from `like`.

    Attributes:
        name: Short name, used for the folder of its bundle.
        like: A device of `clinipress targets` to start from; None: everything must be given.
        title: Its full name.
        processor: What computes there.
        ram_bytes: Its memory; a number of bytes, or "512 MB".
        model_bytes: Largest model file; likewise.
        latency_ms: Longest median time of one answer, milliseconds, measured where the study runs.
        runtime: What runs the model there.
        formats: File formats that lead there, the best first.
        precisions: Precisions worth shipping there, the best first.
        use: What it is used for.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    like: str | None = None
    title: str | None = None
    processor: str | None = None
    ram_bytes: Size | None = None
    model_bytes: Size | None = None
    latency_ms: float | None = Field(None, gt=0)
    runtime: str | None = None
    formats: tuple[Format, ...] | None = Field(None, min_length=1)
    precisions: tuple[Precision, ...] | None = Field(None, min_length=1)
    use: str | None = None


class Study(Config):
    """A whole study.

    Attributes:
        name: Short name, used for the run folder.
        risk: "critical", "high", "medium" or "low": sets the margins 0.5, 1, 2 and 5 points.
        seed: Seed of everything random.
        target: The device, by its name in `clinipress targets` or as one of your own, or several;
            files that do not fit one are not shipped to it. With a target and neither steps nor
            exports, those recommended for the risk level and the device are taken; with steps
            alone, the exports.
        data: The images.
        reference: The classifier to judge against.
        steps: Torch-side steps in order, each applied to the result of the one before.
        exports: Files made of the last step's candidate.
        try_next: Where no low-precision file may be shipped, make what the policy says to try next:
            the worst layers back in float, quantization-aware training, float16.
        open_test: False leaves the test split sealed and ships nothing: for choosing settings on
            validation, as often as one likes.
        threads: Threads of training and of batch prediction; None: all cores.
        latency_threads: Threads of the latency measurement.
        bootstrap: Resamples behind the bootstrap intervals.
        evidence: What is asked of every candidate besides the rules of the risk level.
        seeds: Further seeds: the whole study is run again with each on the same split, and the
            report says how far its figures spread.
        intended_use: Free text for the card and report.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    risk: RiskLevel = "medium"
    seed: int = 0
    target: str | TargetRecipe | tuple[str | TargetRecipe, ...] | None = None
    data: DataRecipe = DataRecipe()
    reference: ReferenceRecipe
    steps: tuple[Step, ...] = ()
    exports: tuple[ExportRecipe, ...] = (ExportRecipe(precision="float32"), ExportRecipe())
    try_next: bool = True
    open_test: bool = True
    threads: int | None = Field(None, ge=1)
    latency_threads: int = Field(1, ge=1)
    bootstrap: int = Field(2000, ge=100)
    evidence: EvidenceRecipe = EvidenceRecipe()
    seeds: tuple[int, ...] = ()
    intended_use: str = ""
    synthetic: bool = False

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        every = (info.data.get("seed", 0), *value)
        if len(set(every)) < len(every):
            named = ", ".join(map(str, every))
            raise ValueError(f"'seed' and 'seeds' must all differ; they are {named}")
        return value
