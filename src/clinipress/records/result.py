"""The facts clinipress keeps: frozen, JSON-able records and nothing else.

A report is drawn from these, a gate judges these, a resumed run reads these. What was not measured
is ``None`` or an absent key, never a made-up number, and never counts as a pass.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from clinipress.records.base import Interval, Record, Status, Verdict
from clinipress.records.judgement import Findings

__all__ = [
    "VNNI",
    "Applied",
    "Audit",
    "CandidateRecord",
    "Card",
    "DeviceCheck",
    "DuplicatePair",
    "Environment",
    "ExternalRow",
    "ExternalTest",
    "InputSpec",
    "Interval",
    "Latency",
    "ModelSpec",
    "OperatingPoint",
    "OverSeeds",
    "Parity",
    "Record",
    "Result",
    "Rule",
    "Shortcut",
    "SplitSummary",
    "Spread",
    "Status",
    "TargetOutcome",
    "TestOpening",
    "Unreadable",
    "Verdict",
]

SCHEMA_VERSION = "1"
# A processor flag (`Environment.cpu_flags`): products of 8-bit numbers are added in 32 bits.
VNNI = frozenset(("amx_int8", "avx512_vnni", "avx_vnni"))
RiskLevel = Literal["critical", "high", "medium", "low"]


class InputSpec(Record):
    """What a classifier takes: uint8 ``[n, channels, height, width]`` in [0, 255], RGB order.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        height: Rows, pixels.
        width: Columns, pixels.
        fit: "stretch" resizes both sides; "pad" keeps the aspect ratio and pads with black.
        window: (low, high) in stored units (Hounsfield units for CT) mapped to 0..255. ``None``:
            the file's own VOI window if it has one, else the full range of its values for
            more than 8 bits, else the pixels as they are.
    """

    channels: Literal[1, 3] = 1
    height: int = Field(128, ge=8, le=4096)
    width: int = Field(128, ge=8, le=4096)
    fit: Literal["stretch", "pad"] = "stretch"
    window: tuple[float, float] | None = None


PerChannel = float | tuple[float, float, float]


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

    @model_serializer(mode="wrap")
    def _without_no_ranges(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `ranges` out where there are none: digests of others do not depend on it."""
        fields: dict[str, Any] = handler(self)
        if fields.get("ranges") is None:
            fields.pop("ranges", None)
        return fields


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


class OperatingPoint(Record):
    """A threshold on a class's calibrated probability, and what it gave on validation images.

    Attributes:
        label: The class that is called when its probability reaches the threshold.
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
        history: All steps since the beginning, oldest first.
        format: "pytorch", "onnx", ...
        precision: "float32", "float16", "int8", ...
        model: How to build it again; None for an exported file.
        positive: The class whose detection is "sensitivity" in a two-class task, or None.
        temperature: Softmax temperature for calibrated probabilities, 1 if not fitted.
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
    temperature: float = 1.0
    uncertain_below: float | None = None
    operating_points: tuple[OperatingPoint, ...] = ()
    intended_use: str = ""
    synthetic: bool = False


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
    """

    median: float
    p95: float
    batch: int
    threads: int
    runtime: str
    repeats: int
    preprocessing: bool = False


class Parity(Record):
    """An exported file against the candidate it was made from, on the same real images."""

    images: int
    max_logit_difference: float
    mean_logit_difference: float
    label_flips: int


class Rule(Record):
    """What must hold, declared before anything is measured.

    Attributes:
        metric: Name of the metric in the evidence.
        margin: Largest drop allowed, in the metric's own unit (0.02 is two points), absolute.
        primary: The one rule that decides; the others are guards.
        confidence: Coverage of the two-sided interval of the drop whose upper end must stay
            inside the margin (0.95: one-sided 2.5 %).
    """

    metric: str
    margin: float
    primary: bool = True
    confidence: float = 0.95


class Unreadable(Record):
    """A file that was set aside, and why."""

    path: str
    reason: str


class DuplicatePair(Record):
    """Two images that are the same file, or nearly the same picture."""

    a: str
    b: str
    exact: bool
    correlation: float
    label_a: str
    label_b: str
    split_a: str | None = None
    split_b: str | None = None


class Shortcut(Record):
    """A fact about the files that tells the classes apart without looking at the picture.

    Attributes:
        feature: "width", "mean intensity", ...; "all" is the baseline with every feature.
        target: The class it gives away, or "macro".
        auroc: Cross-validated area under the curve, with its interval.
        warning: True when it is high enough to worry.
    """

    feature: str
    target: str
    auroc: Interval
    warning: bool


class Audit(Record):
    """What was found in a data folder, before any training."""

    path: str
    layout: str
    images: int
    classes: dict[str, int]
    splits: dict[str, dict[str, int]] = Field(default_factory=dict)
    patients: int | None = None
    groups: dict[str, dict[str, int]] = Field(default_factory=dict)
    unreadable: tuple[Unreadable, ...] = ()
    exact_duplicates: int = 0
    near_duplicates: int = 0
    clusters: int = 0
    duplicate_pairs: tuple[DuplicatePair, ...] = ()
    leaks: dict[str, int] = Field(default_factory=dict)
    leaked_images: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    patient_leaks: dict[str, int] = Field(default_factory=dict)
    conflicting_labels: tuple[DuplicatePair, ...] = ()
    shortcuts: tuple[Shortcut, ...] = ()
    baseline_accuracy: Interval | None = None
    majority_accuracy: float | None = None
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


class SplitSummary(Record):
    """How the images were divided.

    Attributes:
        by: "patient", "near-duplicate cluster", "published" or "image".
        reason: Why this unit was chosen, one sentence.
        seed: Seed of the assignment.
        counts: split -> class -> images.
        units: split -> number of patients or clusters.
        digest: sha256 of the split file.
        dropped: Images left out (unreadable, or a duplicate that crosses a published split).
    """

    by: str
    reason: str
    seed: int
    counts: dict[str, dict[str, int]]
    units: dict[str, int]
    digest: str
    dropped: int = 0


class TestOpening(Record):
    """One opening of the sealed test split."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    when: str
    candidates: tuple[str, ...]
    reason: str


class TargetOutcome(Record):
    """What a study has for one device.

    Attributes:
        name: The device, as the study names it.
        title: Its full name.
        runtime: What runs the model there.
        shipped: Name of the candidate chosen for it; None: nothing fits and may be shipped.
        bundle: Folder of its bundle below the run folder, or None.
        unknown: What was not measured although the device cares.
        formats_not_tried: File formats that lead there and were not made in this study.
    """

    name: str
    title: str
    runtime: str
    shipped: str | None
    bundle: str | None = None
    unknown: tuple[str, ...] = ()
    formats_not_tried: tuple[str, ...] = ()


class DeviceCheck(Record):
    """A bundle's answers on another processor beside those here (``scripts/arm_check``).

    Attributes:
        bundle_sha256: The bundle it was done with.
        cpu: The other processor, as the emulator names it.
        emulator: What emulated it; right answers are checked so, not speed.
        system: System and Python there.
        runtime_here: Engine and version on this side.
        runtime_arm: And on the other.
        images: Images asked.
        refused: Of them, refused there by the bundle's own checks.
        labels_equal: Images with the same class on both sides.
        logits_bit_equal: Images with the very same logits.
        largest_logit_difference: Over all images, in logits.
        passed: Every label equal, and the bundle's self-test passed there.
        sentence: The result for people.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    bundle_sha256: str
    cpu: str
    emulator: str
    system: str
    runtime_here: str
    runtime_arm: str
    images: int
    refused: int
    labels_equal: int
    logits_bit_equal: int
    largest_logit_difference: float
    passed: bool
    sentence: str


class Environment(Record):
    """Where and with what the figures were measured."""

    clinipress: str
    python: str
    platform: str
    cpu: str
    cpu_flags: tuple[str, ...]
    cores: int
    memory_bytes: int
    packages: dict[str, str]


class CandidateRecord(Record):
    """Everything measured of one candidate; a row of the report.

    Attributes:
        drop: metric -> reference minus candidate, on `drop_split`, paired.
        drops: The same for every split that was measured.
        confusion: split -> matrix, rows true class, columns predicted.
        per_image: split -> file of the per-image logits, labels, units and keys (npz), relative to
            the run: any statistic re-runs from it without the model.
        rejected: Why it is not shipped, or None.
        because: Why it was tried although the study did not name it, or None.
        control: Name of the same network trained for as long without a teacher, if there is one.
        over_control: split -> metric -> this one minus its control, paired: what the teacher gave.
        findings: split -> sections of the evidence; "external: NAME" is a set from elsewhere, here
            and in `evidence`.
    """

    name: str
    parent: str | None
    history: tuple[Applied, ...]
    format: str
    precision: str
    path: str
    digest: str
    file_bytes: int
    parameters: int
    macs: int | None
    latency_ms: Latency | None
    latency_with_preprocessing_ms: Latency | None = None
    peak_memory_bytes: int | None
    low_precision_operators: dict[str, int] = Field(default_factory=dict)
    evidence: dict[str, dict[str, Interval]]
    confusion: dict[str, list[list[int]]] = Field(default_factory=dict)
    drop: dict[str, Interval] = Field(default_factory=dict)
    drop_split: str | None = None
    drops: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    parity: Parity | None = None
    verdict: Verdict | None = None
    rejected: str | None = None
    because: str | None = None
    per_image: dict[str, str] = Field(default_factory=dict)
    control: str | None = None
    over_control: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    findings: dict[str, Findings] = Field(default_factory=dict)


class ExternalRow(Record):
    """One candidate on images from elsewhere.

    Attributes:
        digest: Of its file.
        per_image: File of its per-image scores, relative to the run.
        evidence: metric -> figure.
        confusion: Rows true class, columns predicted.
        drop: metric -> reference minus candidate, paired; empty for the reference.
        findings: Sections of the evidence.
        verdict: The study's rules on these images; None for the reference.
    """

    digest: str
    per_image: str
    evidence: dict[str, Interval]
    confusion: list[list[int]]
    drop: dict[str, Interval] = Field(default_factory=dict)
    findings: Findings
    verdict: Verdict | None = None


class ExternalTest(Record):
    """``RUN/external/NAME.json``: what a study shipped, on images from elsewhere.

    Attributes:
        name: Of the set; its split in the report is "external: NAME".
        created: When, UTC.
        images: How many were measured.
        class_map: Its class names -> the study's.
        unreadable: Files set aside.
        warnings: Of the audit of the set.
        rows: Candidate -> its figures, the reference first.
    """

    name: str
    created: str
    images: int
    class_map: dict[str, str] = Field(default_factory=dict)
    unreadable: tuple[Unreadable, ...] = ()
    warnings: tuple[str, ...] = ()
    rows: dict[str, ExternalRow]


class Spread(Record):
    """One figure over several seeds of a study.

    Attributes:
        values: The figure of each seed, in the order of the seeds.
        mean: Their mean with the t interval of the mean (method "t over seeds", n the number of
            seeds), cut to the metric's range; None with one seed, of which it says nothing.
        deviation: Standard deviation over seeds (n - 1); None with one seed.
        low: Smallest of the values.
        high: Largest.
    """

    values: tuple[float, ...]
    mean: Interval | None
    deviation: float | None
    low: float
    high: float


class OverSeeds(Record):
    """One candidate, trained again from several seeds, on the same images.

    Attributes:
        split: The images.
        evidence: metric -> spread of the figure.
        drop: metric -> spread of its fall from the reference of the same seed.
    """

    split: str
    evidence: dict[str, Spread]
    drop: dict[str, Spread] = Field(default_factory=dict)


class Result(Record):
    """``RUN/result.json``."""

    schema_version: str = SCHEMA_VERSION
    study: str
    risk: RiskLevel
    synthetic: bool
    created: str
    recipe: dict[str, Any]
    classes: tuple[str, ...]
    rules: tuple[Rule, ...]
    reference: str
    shipped: str | None
    bundle: str | None
    targets: tuple[TargetOutcome, ...] = ()
    device_checks: tuple[DeviceCheck, ...] = ()
    external_tests: tuple[ExternalTest, ...] = ()
    seeds: tuple[int, ...] = ()
    over_seeds: dict[str, OverSeeds] = Field(default_factory=dict)
    verdict: Verdict
    candidates: tuple[CandidateRecord, ...]
    audit: Audit
    split: SplitSummary
    test_openings: tuple[TestOpening, ...] = ()
    environment: Environment
    seconds: dict[str, float] = Field(default_factory=dict)
    limits: tuple[str, ...] = ()
