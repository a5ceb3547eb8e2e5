"""The facts clinipress keeps: frozen, JSON-able records and nothing else.

A report is drawn from these, a gate judges these, a resumed run reads these. What was not measured
is ``None`` or an absent key, never a made-up number, and never counts as a pass.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from clinipress.records.base import Interval, Reason, Record, Status, Verdict, without_empty
from clinipress.records.candidate import CandidateRecord, NotMade, Task
from clinipress.records.judgement import Judgements

__all__ = [
    "VNNI",
    "Audit",
    "DeviceCheck",
    "DuplicatePair",
    "Environment",
    "ExternalRow",
    "ExternalTest",
    "FindingMeans",
    "Interval",
    "LeftOut",
    "OverSeeds",
    "Overlap",
    "Reason",
    "Record",
    "Result",
    "Rule",
    "RuleChange",
    "SealedRules",
    "SeedSpread",
    "Shortcut",
    "SplitSummary",
    "Status",
    "TargetOutcome",
    "TestOpening",
    "Unreadable",
    "Verdict",
]

SCHEMA_VERSION = "2"
# A processor flag (`Environment.cpu_flags`): products of 8-bit numbers are added in 32 bits.
VNNI = frozenset(("amx_int8", "avx512_vnni", "avx_vnni"))
RiskLevel = Literal["critical", "high", "medium", "low"]


class Rule(Record):
    """What must hold, sealed before the test split is opened.

    Attributes:
        metric: Name of the metric in the evidence.
        margin: Largest loss allowed, in the metric's own unit (0.02 is two points), absolute and
            positive whichever way the metric gets worse.
        primary: The one rule that decides; the others are guards.
        confidence: Coverage of the two-sided interval of the change whose worse end must stay
            inside the margin (0.95: one-sided 2.5 %).
    """

    metric: str
    margin: float
    primary: bool = True
    confidence: float = 0.95


class SealedRules(Record):
    """Everything a verdict hangs on, written down before the test split was first opened.

    Attributes:
        digest: sha256 of all fields below but `when`; each opening of the test split names it.
        when: When it was written, UTC.
        risk: Level that set the margins.
        rules: What must hold.
        floors: Metric -> least figure the lower end of the candidate's interval must lie above.
        positive: The class that is the finding, in a two-class task.
        normal: The class without a finding, in a task of more classes.
        guards: Sections of the evidence that can stop a candidate.
        prevalence: Class -> its share where the model will be used.
        aims: Sensitivity or specificity at which operating points are set.
        smallest_group: Images below which a subgroup is not judged.
        bootstrap: Resamples behind the bootstrap intervals.
        seed: Of everything random.
        others: What else a verdict hangs on, name -> for people: "division of the images",
            "class map", "images under stress", "saliency maps".
    """

    digest: str
    when: str
    risk: RiskLevel
    rules: tuple[Rule, ...]
    floors: dict[str, float] = Field(default_factory=dict)
    positive: str | None = None
    normal: str | None = None
    guards: tuple[str, ...] = ()
    prevalence: dict[str, float] = Field(default_factory=dict)
    aims: tuple[float, ...] = ()
    smallest_group: int = 20
    bootstrap: int = 2000
    seed: int = 0
    others: dict[str, str] = Field(default_factory=dict)


class RuleChange(Record):
    """One thing that is not as it was when the test split was first opened.

    Attributes:
        what: Field of `SealedRules` or name in its `others`: "risk", "positive", "floors", ...;
            "seal" where the sealed rules, or the log of openings, are not as they were written.
        before: As it was sealed, for people.
        after: As it is now, for people.
        when: When the change was first seen, UTC.
    """

    what: str
    before: str
    after: str
    when: str


class LeftOut(Record):
    """Something in a data folder that is not used, and why.

    Attributes:
        path: Relative to the folder.
        kind: "file", "folder", "table", "column", "page", "mask", "link", "object", "array" or
            "row".
        reason: One sentence part: "no picture", "a mask beside an image", "not readable", ...
        count: How many things this entry stands for, where one line speaks for several.
    """

    path: str
    kind: str
    reason: str
    count: int = 1


class Unreadable(Record):
    """A file that was set aside, and why."""

    path: str
    reason: str


class DuplicatePair(Record):
    """Two images that are the same file, or nearly the same picture.

    Attributes:
        findings: Where an image may show several: those present in one and absent in the other.
    """

    a: str
    b: str
    exact: bool
    correlation: float
    label_a: str
    label_b: str
    split_a: str | None = None
    split_b: str | None = None
    findings: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _without_no_findings(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_empty(handler(self), "findings")


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
    """What was found in a data folder, before any training.

    `units` counts what is named of each kind ("patient", "lesion", "study"), `without_patient` the
    images that name no patient. `refused` are images that can be read and that a device would
    refuse of a model made from this set; `colourful` is true where that model takes colour and most
    images have some; `dark` are images that show next to nothing. `withheld_columns` counts those
    that are left out of `groups` where nobody may be named. `trial_of` is how many the set has
    where only some were drawn from it (`data.sample`).
    """

    path: str
    layout: str
    images: int
    classes: dict[str, int]
    splits: dict[str, dict[str, int]] = Field(default_factory=dict)
    patients: int | None = None
    units: dict[str, int] = Field(default_factory=dict)
    without_patient: int = 0
    groups: dict[str, dict[str, int]] = Field(default_factory=dict)
    withheld_columns: int = 0
    unreadable: tuple[Unreadable, ...] = ()
    refused: tuple[Unreadable, ...] = ()
    colourful: bool = False
    dark: tuple[Unreadable, ...] = ()
    exact_duplicates: int = 0
    near_duplicates: int = 0
    clusters: int = 0
    duplicate_pairs: tuple[DuplicatePair, ...] = ()
    leaks: dict[str, int] = Field(default_factory=dict)
    leaked_images: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    patient_leaks: dict[str, int] = Field(default_factory=dict)
    conflicting_labels: tuple[DuplicatePair, ...] = ()
    shortcuts: tuple[Shortcut, ...] = ()
    trial_of: int | None = None
    baseline_accuracy: Interval | None = None
    majority_accuracy: float | None = None
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


class SplitSummary(Record):
    """How the images were divided.

    Attributes:
        by: "patient" or another unit, "near-duplicate cluster", "published" or "image".
        unit: What one unit is, as a word that reads on: "patient", "lesion", "study", "series",
            "near-duplicate cluster" or "image"; sentences of the report are made from it.
        without_unit: Images that name no unit of that kind and stand by what else is known of
            them, at least their cluster.
        reason: Why this unit was chosen, one sentence.
        seed: Seed of the assignment.
        counts: split -> class -> images.
        units: split -> number of units.
        digest: sha256 of the split file.
        dropped: Images left out (unreadable, or a duplicate that crosses a published split).
        images: split -> images, where one may show several findings, so that `counts` do not add up
            to them; empty: they do.
    """

    by: str
    unit: str | None = None
    without_unit: int = 0
    reason: str
    seed: int
    counts: dict[str, dict[str, int]]
    units: dict[str, int]
    digest: str
    dropped: int = 0
    images: dict[str, int] = Field(default_factory=dict)

    def size(self, split: str) -> int:
        """Images of a split; 0 for one that is not known."""
        return self.images.get(split) or sum(self.counts.get(split, {}).values())

    @model_serializer(mode="wrap")
    def _without_no_images(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_empty(handler(self), "images")


class TestOpening(Record):
    """One opening of the sealed test split.

    Attributes:
        when: UTC.
        candidates: Whose answers were opened.
        reason: Why.
        kind: "scoring", or "judging" where answers of before were judged by other rules.
        rules: Digest of the rules in force (`SealedRules`); None in runs of 0.1.0.
    """

    __test__ = False  # not a test class, whatever pytest thinks of the name

    when: str
    candidates: tuple[str, ...]
    reason: str
    kind: Literal["scoring", "judging"] = "scoring"
    rules: str | None = None


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


class ExternalRow(Record):
    """One candidate on images from elsewhere.

    Attributes:
        digest: Of its file.
        per_image: File of its per-image scores, relative to the run.
        evidence: metric -> figure.
        confusion: Rows true class, columns predicted.
        changes: metric -> candidate minus reference, paired; empty for the reference.
        judgements: Sections of the evidence.
        verdict: The study's rules on these images; None for the reference.
    """

    digest: str
    per_image: str
    evidence: dict[str, Interval]
    confusion: list[list[int]]
    changes: dict[str, Interval] = Field(default_factory=dict)
    judgements: Judgements
    verdict: Verdict | None = None


class Overlap(Record):
    """Images of an external set that the study has, too; they are not counted as external.

    Attributes:
        exact: The same file or the same pixels.
        near: Nearly the same picture.
        turned: Of `near`, those found only when turned: "mirrored", "rotated", "inverted" or
            several of these -> how many; None in tests of before, which did not look for them.
        patients: Images of others that name a patient whom the study names, too; None: not checked.
        left_out: Of the set, left out of the figures for any of these.
        examples: Pairs (path in the set, path in the study), the first few.
        compared_with: Images of the study that could be looked at; 0: none, and overlap is unknown.
    """

    exact: int = 0
    near: int = 0
    turned: dict[str, int] | None = None
    patients: int | None = None
    left_out: int = 0
    examples: tuple[tuple[str, str], ...] = ()
    compared_with: int = 0


class FindingMeans(Record):
    """Means over findings where a study's images and others carry different ones.

    Attributes:
        inside: Findings that enough patients of the study's images show, and enough do not.
        outside: Those of the others.
        both: Those in both.
        areas: Candidate -> mean area over `both`, inside and outside.
    """

    inside: tuple[str, ...]
    outside: tuple[str, ...]
    both: tuple[str, ...]
    areas: dict[str, tuple[Interval, Interval]] = Field(default_factory=dict)


class ExternalTest(Record):
    """``RUN/external/NAME.json``: what a study shipped, on images from elsewhere.

    Attributes:
        name: Of the set; its split in the report is "external: NAME".
        named: Whether a person gave it that name; else it is that of a folder or file.
        created: When, UTC.
        images: How many were measured.
        class_map: Its class names -> the study's.
        unreadable: Files set aside.
        warnings: Of the audit of the set.
        overlap: With the study's own images; None in tests of 0.1.0, which did not look.
        judged_by: Digest of what it was judged by; "" in tests of 0.1.0, which did not say.
        means: What means over findings are over; None: the same findings as in the study, or
            classes, or a test of before.
        rows: Candidate -> its figures, the reference first.
    """

    name: str
    named: bool = False
    created: str
    images: int
    judged_by: str = ""
    class_map: dict[str, str] = Field(default_factory=dict)
    unreadable: tuple[Unreadable, ...] = ()
    refused: tuple[Unreadable, ...] = ()
    colourful: bool = False
    warnings: tuple[str, ...] = ()
    overlap: Overlap | None = None
    means: FindingMeans | None = None
    rows: dict[str, ExternalRow]


class SeedSpread(Record):
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
        changes: metric -> spread of its change from the reference of the same seed.
    """

    split: str
    evidence: dict[str, SeedSpread]
    changes: dict[str, SeedSpread] = Field(default_factory=dict)


class Result(Record):
    """``RUN/result.json``."""

    schema_version: str = SCHEMA_VERSION
    study: str
    risk: RiskLevel
    synthetic: bool
    created: str
    recipe: dict[str, Any]
    classes: tuple[str, ...]
    positive: str | None = None
    normal: str | None = None
    order: tuple[str, ...] = ()
    task: Task = "multiclass"
    rules: tuple[Rule, ...]
    sealed: SealedRules | None = None
    rule_changes: tuple[RuleChange, ...] = ()
    reference: str
    shipped: str | None
    bundle: str | None
    targets: tuple[TargetOutcome, ...] = ()
    device_checks: tuple[DeviceCheck, ...] = ()
    external_tests: tuple[ExternalTest, ...] = ()
    # file of the run folder -> why what was measured after the run is not shown, and what to do
    set_aside: dict[str, str] = Field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    over_seeds: dict[str, OverSeeds] = Field(default_factory=dict)
    verdict: Verdict
    candidates: tuple[CandidateRecord, ...]
    not_made: tuple[NotMade, ...] = ()
    audit: Audit
    split: SplitSummary
    test_openings: tuple[TestOpening, ...] = ()
    environment: Environment
    seconds: dict[str, float] = Field(default_factory=dict)
    limits: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _without_no_order(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = without_empty(handler(self), "order")
        return {k: v for k, v in fields.items() if (k, v) != ("task", "multiclass")}

    @property
    def overall(self) -> str:
        """The one figure that stands for all: accuracy, or of several findings their mean area."""
        return "auroc_macro" if self.task == "multilabel" else "accuracy"
