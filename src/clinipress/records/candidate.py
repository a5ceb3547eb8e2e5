"""A candidate: what can be run, the card it carries, and the record that is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from clinipress.records.base import Interval, Record, Verdict, without_empty
from clinipress.records.judgement import Judgements

if TYPE_CHECKING:  # a report is drawn where numpy is not
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "ADOPTED",
    "ANY_FINDING",
    "BATCH",
    "Applied",
    "Candidate",
    "CandidateRecord",
    "Card",
    "Ending",
    "FeatureNetwork",
    "Floats",
    "InputSpec",
    "Judged",
    "Latency",
    "Made",
    "Measured",
    "ModelSpec",
    "NotMade",
    "OperatingPoint",
    "Origin",
    "OutputSpec",
    "Parity",
    "PerChannel",
    "Speed",
    "Task",
    "extended",
]


@runtime_checkable
class Candidate(Protocol):
    """A classifier that can be run, whatever runs it."""

    @property
    def card(self) -> Card:
        """What it is: name, classes, input, history."""

    @property
    def digest(self) -> str:
        """sha256, 64 hexadecimal digits, of what makes its answers (weights and structure)."""

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw pixels in, logits out.

        Args:
            images: uint8 ``[n, channels, height, width]`` as `card.input` says, in [0, 255].

        Returns:
            float32 ``[n, classes]``, unnormalised log-probabilities.
        """

    def save(self, folder: Path) -> None:
        """Write card.json and the weights or the file into `folder`."""


Floats: TypeAlias = "NDArray[np.float32]"


# Images per call. ResNet-50 at 224 px: 4 or 16 cost the same per image (4 % in float32), and 1 a
# fifth more in int8.
BATCH = 8


class FeatureNetwork(Protocol):
    """A classifier whose last feature map can be read."""

    @property
    def layer(self) -> str:
        """Name of the map in the network."""

    def look(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Logits float32 ``[n, k]`` and feature maps float32 ``[n, c, h, w]`` of images.

        Args:
            images: uint8 ``[n, channels, height, width]``.
        """

    def answer(self, images: Floats) -> Floats:
        """Logits float32 ``[n, k]`` of images in grey levels that need not be whole.

        Args:
            images: float32 ``[n, channels, height, width]`` in [0, 255]; rounded where the network
                takes uint8.
        """


class InputSpec(Record):
    """What a classifier takes: uint8 ``[n, channels, height, width]`` in [0, 255], RGB order.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        height: Rows, pixels.
        width: Columns, pixels.
        fit: "stretch" resizes both sides; "pad" keeps the aspect ratio and pads with black; "crop"
            keeps it, fills the input and takes the center, as most networks of ImageNet are given
            images.
        crop_share: Of the resized picture's shorter side, what "crop" keeps: 0.875 resizes it to
            256 pixels for an input of 224. ``None``: all of it.
        window: (low, high) in stored units (Hounsfield units for CT) mapped to 0..255. ``None``:
            the file's own VOI window if it has one, else the full range of its values for
            more than 8 bits, else the pixels as they are.
    """

    channels: Literal[1, 3] = 1
    height: int = Field(128, ge=8, le=4096)
    width: int = Field(128, ge=8, le=4096)
    fit: Literal["stretch", "pad", "crop"] = "stretch"
    window: tuple[float, float] | None = None
    crop_share: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="after")
    def _share_of_a_crop(self) -> InputSpec:
        if self.crop_share is not None and self.fit != "crop":
            raise ValueError(f"'crop_share' is for fit: crop, not '{self.fit}'")
        return self

    @model_serializer(mode="wrap")
    def _without_no_share(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `crop_share` out where there is none: digests of others do not depend on it."""
        return without_empty(handler(self), "crop_share")


StageT = TypeVar("StageT", bound="Made")
Origin = Literal["reference", "step", "control", "export"]
PerChannel = float | tuple[float, float, float]


Ending = Literal["", "softmax", "sigmoid"]
Task = Literal["multiclass", "multilabel"]


class OutputSpec(Record):
    """How the logits ``[n, classes]`` are read from what a network returns.

    Attributes:
        main: Name or place of the answer in a mapping, a tuple or a list; None: it is a tensor.
        beside: There are others, in training at least, which are left out.
        ending: What makes probabilities of the logits in evaluation mode and is undone; "": none.
        ending_in_training: Likewise in training mode.
        taken_off: It is the last operation, which is left out; else a logarithm undoes it.
        flatten: The answer is ``[n]``, ``[n, classes, 1, 1]`` or the like.
        single: One number for two classes, the logit z of the second: read as -z/2 and z/2.
    """

    main: str | int | None = None
    beside: bool = False
    ending: Ending = ""
    ending_in_training: Ending = ""
    taken_off: bool = False
    flatten: bool = False
    single: bool = False


class ModelSpec(Record):
    """How to build a network again, before its weights are loaded.

    Attributes:
        name: One of `clinipress models` or timm's, or None when a factory is given.
        factory: The user's own "module:function" called with ``num_classes`` and ``in_chans``.
        arguments: Further keyword arguments of the constructor, JSON-able.
        num_classes: Outputs of the classifier.
        in_channels: Channels the backbone takes; grey input is repeated when this is 3.
        mean: What is taken off pixels in [0, 1]: one number, or one per channel of the backbone.
        std: What the rest is divided by, likewise.
        pruning: Kept-channel history to replay on a fresh network (Torch-Pruning's own list of
            [module, is output channel, removed indices]); empty when nothing was removed.
        ranges: (low, high) of activations, learnt by quantization-aware training, by tensor of the
            network's float32 ONNX file; None when none were learnt. The network computes in plain
            float with or without them; a quantized file takes its grids from them.
        output: How logits are read from what the network returns; None: it returns them.
        layout: "contiguous" for a network that cannot be run with channels last in memory; None:
            either will do.
    """

    name: str | None = None
    factory: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    num_classes: int
    in_channels: Literal[1, 3]
    mean: PerChannel
    std: PerChannel
    pruning: tuple[tuple[str, bool, tuple[int, ...]], ...] = ()
    ranges: dict[str, tuple[float, float]] | None = None
    output: OutputSpec | None = None
    layout: Literal["contiguous"] | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what there is none of: digests of others do not depend on it."""
        fields: dict[str, Any] = handler(self)
        empty = [name for name in ("ranges", "output", "layout") if fields.get(name) is None]
        return without_empty(fields, *empty)


class Applied(Record):
    """One step of a candidate's history, enough to replay it.

    Attributes:
        step: "train", "prune", "distill", "export", ...
        params: What the step's plan returned.
        parent: Digest of the candidate it was applied to, or None.
        facts: What came of it (epochs run, best epoch, numerics and the reason, ...).
    """

    step: str
    params: dict[str, Any]
    parent: str | None = None
    facts: dict[str, Any] = Field(default_factory=dict)


# The first step of what was not trained here but taken over as an ONNX file
ADOPTED = "adopt"

# Of a threshold: every class but the normal one, together
ANY_FINDING = "any finding"


class OperatingPoint(Record):
    """A threshold on a class's calibrated probability, and what it gave on validation images.

    Attributes:
        label: The class that is called when its probability reaches the threshold; `ANY_FINDING`
            where that of all classes but the normal one does, together; of grades "NAME or worse"
            where that of this grade and all graver ones does.
        aim: What the threshold was chosen for: "sensitivity 0.95", "specificity 0.95".
        threshold: Probability, after temperature scaling.
        sensitivity: Of validation images of the class, the share that is called.
        specificity: Of the others, the share that is not.
    """

    label: str
    aim: str
    threshold: float = Field(ge=0, le=1)
    sensitivity: Interval
    specificity: Interval


class Card(Record):
    """What travels with every candidate.

    Attributes:
        name: Name of the candidate within its study.
        classes: Class names in the order of the logits.
        input: What it takes.
        class_map: Names in the tables or folders it was trained on -> its classes.
        history: All steps since the beginning, oldest first.
        format: "pytorch", "onnx", ...
        precision: "float32", "float16", "int8", ...
        model: How to build it again; None for an exported file.
        positive: The class whose detection is "sensitivity" in a two-class task, or None.
        normal: The class without a finding in a task of more classes, or None.
        order: The classes from the least to the gravest grade; empty: they have no order.
        task: "multilabel": `classes` are findings, each with a sigmoid of its own.
        temperature: Softmax temperature for calibrated probabilities, 1 if not fitted.
        temperatures: Of several findings, each one's own; empty if not fitted.
        thresholds: Of several findings, the calibrated probability at or above which each is
            called, chosen on validation; None: it could not be chosen, and is not called.
        uncertain_below: Top probability under which an answer is called uncertain.
        operating_points: Thresholds per class, chosen on validation; empty if none were.
        intended_use: Free text for the reader.
        synthetic: True when it was trained on drawn images.
    """

    name: str
    classes: tuple[str, ...]
    input: InputSpec
    history: tuple[Applied, ...] = ()
    format: str = "pytorch"
    precision: str = "float32"
    model: ModelSpec | None = None
    positive: str | None = None
    normal: str | None = None
    order: tuple[str, ...] = ()
    task: Task = "multiclass"
    temperature: float = 1.0
    temperatures: tuple[float, ...] = ()
    thresholds: tuple[float | None, ...] = ()
    uncertain_below: float | None = None
    operating_points: tuple[OperatingPoint, ...] = ()
    intended_use: str = ""
    synthetic: bool = False
    class_map: dict[str, str] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what there is none of: files that hold their card do not change."""
        later = ("normal", "order", "temperatures", "thresholds", "class_map")
        fields = without_empty(handler(self), *later)
        if fields.get("task") == "multiclass":
            del fields["task"]
        return fields


class Latency(Record):
    """Wall time of one call, milliseconds.

    Attributes:
        median: Median over `repeats` calls.
        p95: 95th percentile.
        batch: Images per call.
        threads: Threads the runtime was given.
        runtime: "onnxruntime 1.31.1", ...
        repeats: Calls measured, after warm-up.
        preprocessing: True when reading, decoding and resizing the image file is included.
        processor: Median processor time of a call, milliseconds over all threads; None: not
            measured.
    """

    median: float
    p95: float
    batch: int
    threads: int
    runtime: str
    repeats: int
    preprocessing: bool = False
    processor: float | None = None


class Speed(Record):
    """How many times faster than the reference, both timed in turn on this machine.

    Attributes:
        ratio: The reference's time over this candidate's, with its interval.
        processor: The same of processor time; None: not measured.
        reliable: False: the machine was too busy; then no ratio is told and no choice is made by
            speed.
        why: What showed that it was too busy, one sentence; "" when it was not.
    """

    ratio: Interval
    processor: Interval | None = None
    reliable: bool = True
    why: str = ""


class Parity(Record):
    """An exported file against the candidate it was made from, on the same real images.

    Attributes:
        images: How many.
        max_logit_difference: Largest absolute difference of a logit.
        mean_logit_difference: Mean of them.
        label_flips: Images with another class; of several findings answers, of images times
            findings (`clinipress.stats.metrics.same_answers`).
    """

    images: int
    max_logit_difference: float
    mean_logit_difference: float
    label_flips: int


class Made(Record):
    """A candidate as it was made; its file and its network lie in the run folder.

    The record of a candidate is built up: each stage adds to the one before, none is edited, and
    the last one is what ``result.json`` holds.

    Attributes:
        name: Its name in the study.
        origin: What made it; None in records of version 1, which did not keep it.
        parent: Name of the candidate whose network it was made from; of an export, of the float32
            file of that very network. None: the reference.
        control_of: Of a control, the candidate that was trained as long with a teacher.
        because: Why it was tried although the study did not name it, or None.
        network: Folder of its float weights below the run folder, or None where they are the
            user's own.
        path: Its file below the run folder.
        low_precision_operators: Operator and type -> how often it stands in the file.
    """

    name: str
    origin: Origin | None = None
    parent: str | None
    control_of: str | None = None
    because: str | None = None
    history: tuple[Applied, ...]
    format: str
    precision: str
    network: str | None = None
    path: str
    digest: str
    file_bytes: int
    parameters: int
    macs: int | None
    low_precision_operators: dict[str, int] = Field(default_factory=dict)
    parity: Parity | None = None


class NotMade(Record):
    """A file that a study asked for and that could not be made of its network.

    Attributes:
        name: The candidate it would have been.
        parent: Name of the candidate whose network it would have been made of.
        reason: One line: what was expected, what came, what to do.
    """

    name: str
    format: str
    precision: str
    parent: str
    reason: str


class Measured(Made):
    """And what it costs, and where its answers lie.

    Attributes:
        latency_with_preprocessing_ms: Reading, decoding and resizing the image file included.
        speed: Beside the reference, of the same kind of time that the report tells; None for the
            reference, and where one of the two was not timed.
        per_image: split -> file of the per-image logits, labels, units and keys (npz), relative to
            the run: any statistic re-runs from it without the model.
    """

    latency_ms: Latency | None
    latency_with_preprocessing_ms: Latency | None = None
    speed: Speed | None = None
    peak_memory_bytes: int | None
    per_image: dict[str, str] = Field(default_factory=dict)


class Judged(Measured):
    """And what was shown of it beside the reference.

    Attributes:
        confusion: split -> matrix, rows true class, columns predicted.
        changes: split -> metric -> candidate minus reference (compressed minus original), paired;
            empty for the reference.
        verdict: On the most decisive split that was measured; None for the reference.
        control: Name of the same network trained for as long without a teacher, if there is one.
        over_control: split -> metric -> this one minus its control, paired: what the teacher gave.
        judgements: split -> sections of the evidence; "external: NAME" is a set from elsewhere,
            here and in `evidence`.
    """

    evidence: dict[str, dict[str, Interval]]
    confusion: dict[str, list[list[int]]] = Field(default_factory=dict)
    changes: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    verdict: Verdict | None = None
    control: str | None = None
    over_control: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    judgements: dict[str, Judgements] = Field(default_factory=dict)


def extended(stage: type[StageT], record: Made, **facts: Any) -> StageT:
    """The next stage of a candidate's record: what is known of it, and `facts` besides."""
    known = {name: getattr(record, name) for name in type(record).model_fields}
    return stage(**known, **facts)


class CandidateRecord(Judged):
    """And whether it was chosen: a row of the report.

    Attributes:
        selected_for: Devices it was chosen for on validation; ("",) where the study names none.
        rejected: Why it is not shipped, or None.
    """

    selected_for: tuple[str, ...] = ()
    rejected: str | None = None

    @property
    def released(self) -> bool:
        """Selected on validation, and passed on the test images."""
        passed = self.verdict is not None and self.verdict.status == "pass"
        return passed and bool(self.selected_for) and "test" in self.changes
