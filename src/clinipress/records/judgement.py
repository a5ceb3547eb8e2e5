"""What the sections of the evidence hold, from operating points to saliency maps.

Every record is of one candidate on one split, beside the reference on the same images. Each section
has a verdict of its own: "fail" where a loss is shown, "inconclusive" where the cases do not tell,
"pass" where the loss is shown to be small. A section that was not measured is None, never a pass.

Changes are candidate minus reference (compressed minus original), as everywhere in clinipress.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from clinipress.records.base import Interval, Record, Verdict, without_empty

__all__ = [
    "SECTIONS",
    "SECTION_TITLES",
    "Calibration",
    "Direction",
    "Disagreement",
    "Flip",
    "FlipCounts",
    "Gap",
    "GradeCalibration",
    "Judgements",
    "OperatingRow",
    "OperatingSection",
    "OutOfScopeProbe",
    "ReliabilityBin",
    "Saliency",
    "SaliencyPanel",
    "Section",
    "Stress",
    "StressCurve",
    "StressLevel",
    "Subgroup",
    "Subgroups",
]

# Names of the sections, in the order of the report; a study may name some as guards.
Section = Literal["operating", "calibration", "subgroups", "disagreement", "stress", "saliency"]
SECTIONS: tuple[Section, ...] = get_args(Section)
SECTION_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "operating": "Operating points",
        "calibration": "Calibration",
        "subgroups": "Subgroups",
        "disagreement": "Disagreement",
        "stress": "Stress",
        "saliency": "Saliency",
    }
)


class OperatingRow(Record):
    """One class called at one threshold on its calibrated probability.

    Attributes:
        label: The class.
        aim: What the threshold was chosen for: "sensitivity 0.95" or "specificity 0.95".
        kept: False: the threshold was chosen for this candidate; True: the reference's was kept,
            as happens where only the weights are exchanged.
        threshold: Probability; the class is called at or above it.
        sensitivity: Of the images of the class, the share called.
        specificity: Of the others, the share not called.
        sensitivity_change: Candidate minus reference (at its own threshold), paired; None for the
            reference itself.
        specificity_change: Likewise.
        ppv: Positive predictive value at `prevalence`.
        npv: Negative predictive value at `prevalence`.
        prevalence: Share of the class where the model will be used, as the study declares it; else
            its share in the split.
        positives: Images of the class.
        missed: Of them, not called.
        missed_by_reference: Not called by the reference at its own threshold.
        newly_missed: Keys of images called by the reference and missed here, surest miss first.
    """

    label: str
    aim: str
    kept: bool
    threshold: float
    sensitivity: Interval
    specificity: Interval
    sensitivity_change: Interval | None = None
    specificity_change: Interval | None = None
    ppv: Interval | None = None
    npv: Interval | None = None
    prevalence: float
    positives: int
    missed: int
    missed_by_reference: int | None = None
    newly_missed: tuple[str, ...] = ()


class OperatingSection(Record):
    """Operating points of one candidate.

    Attributes:
        chosen_on: The split that the thresholds come from.
        declared: True where the study declared the prevalence.
        rows: Class by class, aim by aim, own threshold before the kept one.
        verdict: Whether a loss at an operating point is shown.
    """

    chosen_on: str
    declared: bool
    rows: tuple[OperatingRow, ...]
    verdict: Verdict


class ReliabilityBin(Record):
    """Answers of about one confidence: what they promised and what they kept.

    Attributes:
        low: Lower edge of the top probability, excluded.
        high: Upper edge, included.
        cases: Images in the bin; 0 for an empty one, whose figures are None.
        confidence: Mean top probability.
        accuracy: Share of right answers.
    """

    low: float
    high: float
    cases: int
    confidence: float | None = None
    accuracy: Interval | None = None


class GradeCalibration(Record):
    """A grade and all graver ones: how often they were promised, and how often they were there.

    Attributes:
        label: "moderate or worse", or the gravest grade alone.
        stated: Mean calibrated probability of them together.
        observed: Their share of the images.
        excess: `stated` minus that share; above 0 the model promises too much.
    """

    label: str
    stated: float
    observed: Interval
    excess: Interval


class Calibration(Record):
    """How far probabilities can be taken at their word.

    Attributes:
        temperature: Refit for this candidate on `chosen_on`, shipped in its bundle.
        chosen_on: The split it was fitted on.
        before: "ece" (15 bins of equal width), "ece_equal_mass", "brier", "log_loss", "slope",
            "intercept" of the raw probabilities.
        after: The same with the temperature.
        changes: After the temperature, candidate minus reference, paired; empty for the reference.
            The same names, but "slope_error" = |slope - 1| and "intercept_error" = |intercept|
            for the two of which more is not better. A rise of an error is a loss.
        bins: Reliability before.
        bins_after: Reliability after.
        grades: Of classes that have an order: each grade and all graver ones, after.
        temperatures: Of several findings, each one's own; `temperature` is 1 then, and the figures
            are of all known pairs of image and finding.
        thresholds: Of several findings, the calibrated probability at or above which each is
            called; empty in records of before.
        verdict: Whether calibration after the temperature got worse by more than the margin.
    """

    temperature: float
    chosen_on: str
    before: dict[str, Interval]
    after: dict[str, Interval]
    changes: dict[str, Interval] = Field(default_factory=dict)
    bins: tuple[ReliabilityBin, ...] = ()
    bins_after: tuple[ReliabilityBin, ...] = ()
    grades: tuple[GradeCalibration, ...] = ()
    temperatures: dict[str, float] = Field(default_factory=dict)
    thresholds: dict[str, float] = Field(default_factory=dict)
    verdict: Verdict

    @model_serializer(mode="wrap")
    def _without_no_grades(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_empty(handler(self), "grades", "temperatures", "thresholds")


class Subgroup(Record):
    """People or pictures that share a value of one column.

    Attributes:
        column: "sex", "age", "site", ... as the manifest names it.
        value: "female", "40-59", ...
        cases: Images.
        units: Patients, or clusters of pictures.
        too_small: Fewer cases than the minimum: counted, shown, and not judged.
        metrics: "accuracy", "balanced_accuracy", "sensitivity[CLASS]", "auroc_macro", "ece" of the
            candidate; what is undefined is absent.
        reference: The same of the reference.
        changes: Candidate minus reference, paired.
    """

    column: str
    value: str
    cases: int
    units: int
    too_small: bool
    metrics: dict[str, Interval] = Field(default_factory=dict)
    reference: dict[str, Interval] = Field(default_factory=dict)
    changes: dict[str, Interval] = Field(default_factory=dict)


class Gap(Record):
    """Best group minus worst group of one column.

    Attributes:
        column: The column.
        metric: What is compared.
        best: The group where the candidate is best.
        worst: And where it is worst.
        candidate: Its gap.
        reference: The reference's gap between its own best and worst.
        change: Candidate's gap minus the reference's: above 0, compression widened it.
    """

    column: str
    metric: str
    best: str
    worst: str
    candidate: Interval
    reference: Interval
    change: Interval


class Subgroups(Record):
    """Figures by group.

    Attributes:
        columns: Columns looked at; empty: the set says nothing of its patients.
        minimum: Cases below which a group is too small.
        unknown: Column -> images without a value.
        left_out: Column that cannot be divided into groups -> why.
        groups: Column by column.
        gaps: Per column and metric, where at least two groups are large enough.
        verdict: Whether some group is shown to have lost more than the limit.
    """

    columns: tuple[str, ...]
    minimum: int
    unknown: dict[str, int] = Field(default_factory=dict)
    left_out: dict[str, str] = Field(default_factory=dict)
    groups: tuple[Subgroup, ...] = ()
    gaps: tuple[Gap, ...] = ()
    verdict: Verdict


class Flip(Record):
    """An image with another answer than before.

    Attributes:
        key: Its name.
        truth: Its class.
        before: What the reference called it.
        after: What the candidate calls it.
        kind: "lost": was right, is wrong; "gained": was wrong, is right; "changed": wrong both.
        confidence_before: The reference's calibrated probability of its answer.
        confidence_after: The candidate's of its own.
        groups: What is known of it.
        picture: File of a thumbnail below the run folder, or None.
        finding: Of several findings, the one that it is about; then truth and answers are
            "present" or "absent". None: the image has one class.
    """

    key: str
    truth: str
    before: str
    after: str
    kind: Literal["lost", "gained", "changed"]
    confidence_before: float
    confidence_after: float
    groups: dict[str, str] = Field(default_factory=dict)
    picture: str | None = None
    finding: str | None = None

    @model_serializer(mode="wrap")
    def _without_no_finding(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_empty(handler(self), "finding")


class FlipCounts(Record):
    """Flips among some images.

    Attributes:
        name: The class, the group ("sex: female") or the confidence ("0.9 to 1").
        cases: Images.
        agreement: Share with the same answer.
        lost: Right before, wrong now.
        gained: Wrong before, right now.
        changed: Wrong before and now, but differently.
    """

    name: str
    cases: int
    agreement: Interval
    lost: int
    gained: int
    changed: int


class Direction(Record):
    """Calls of one class that were dropped against calls that were added.

    Attributes:
        label: The class.
        to_negative: Images called so by the reference and not by the candidate.
        to_positive: Not by the reference, but by the candidate.
        missed: Of `to_negative`, those that are of the class: new misses.
        found: Of `to_positive`, those that are of the class: new finds.
        p_value: Exact McNemar test of `missed` = `found`, one patient or cluster counting once.
        adjusted_p_value: The same made larger for the number of classes tested (Holm); None: the
            class is not tested.
        units_missed: Patients or clusters with more new misses than new finds, which it counts.
        units_found: With more new finds than new misses.
    """

    label: str
    to_negative: int
    to_positive: int
    missed: int
    found: int
    p_value: float
    adjusted_p_value: float | None = None
    units_missed: int | None = None
    units_found: int | None = None


class Disagreement(Record):
    """Where reference and candidate answer differently.

    Attributes:
        cases: Images.
        agreement: Share with the same answer.
        kappa: Cohen's kappa between the two, chance taken off.
        divergence: Mean Kullback-Leibler divergence of calibrated probabilities, reference from
            candidate, nats.
        lost: Right before, wrong now.
        gained: Wrong before, right now.
        changed: Wrong before and now, but differently.
        p_value: Exact McNemar test of lost = gained, one patient or cluster counting once.
        units_lost: Patients or clusters with more lost than gained: what the test counts.
        units_gained: With more gained than lost.
        directions: Class by class.
        by_class: By true class.
        by_confidence: By the reference's calibrated confidence.
        by_group: By value of each column.
        flips: Worst first (surely right before, surely wrong now), at most some dozens.
        verdict: Whether agreement is high enough, and whether flips lean to the bad side.
    """

    cases: int
    agreement: Interval
    kappa: Interval | None
    divergence: float
    lost: int
    gained: int
    changed: int
    p_value: float
    units_lost: int | None = None
    units_gained: int | None = None
    directions: tuple[Direction, ...] = ()
    by_class: tuple[FlipCounts, ...] = ()
    by_confidence: tuple[FlipCounts, ...] = ()
    by_group: tuple[FlipCounts, ...] = ()
    flips: tuple[Flip, ...] = ()
    verdict: Verdict


class StressLevel(Record):
    """One strength of one disturbance.

    Attributes:
        strength: 1 (slight) to 5 (severe).
        amount: In the curve's unit.
        reference: The reference's accuracy.
        candidate: The candidate's.
        change: Candidate minus reference on the disturbed images, paired.
        added_change: That change minus the change on undisturbed images: what the disturbance
            added. Below 0 it costs the candidate more than the reference.
    """

    strength: int
    amount: float
    reference: Interval
    candidate: Interval
    change: Interval
    added_change: Interval


class StressCurve(Record):
    """One kind of disturbance.

    Attributes:
        kind: "noise", "blur", "contrast", "brightness", "gamma", "jpeg", "rotation",
            "resolution", "missing", "motion".
        unit: Of the amounts: "grey levels", "pixels", "degrees", ...
        levels: By rising strength.
    """

    kind: str
    unit: str
    levels: tuple[StressLevel, ...]


class OutOfScopeProbe(Record):
    """Images that no classifier should be sure of.

    Attributes:
        name: "blank", "noise", "colour photograph", ...
        images: How many.
        reference_confidence: Mean calibrated top probability of the reference.
        candidate_confidence: And of the candidate.
        reference_refused: Share that a bundle of it would refuse or call uncertain.
        candidate_refused: Likewise.
    """

    name: str
    images: int
    reference_confidence: float
    candidate_confidence: float
    reference_refused: float
    candidate_refused: float


class Stress(Record):
    """How both bear worse images.

    Attributes:
        images: How many were disturbed.
        seed: Of the disturbances.
        undisturbed: That of "reference" and "candidate" on the same images as they are.
        metric: What was measured: "accuracy", "auroc_macro" of several findings.
        curves: Kind by kind.
        probes: Out-of-scope images.
        verdict: Whether the candidate is shown to bear some disturbance worse than the reference.
    """

    images: int
    seed: int
    undisturbed: dict[str, Interval]
    curves: tuple[StressCurve, ...]
    probes: tuple[OutOfScopeProbe, ...] = ()
    metric: str = "accuracy"
    verdict: Verdict

    @model_serializer(mode="wrap")
    def _without_usual_metric(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {k: v for k, v in fields.items() if (k, v) != ("metric", "accuracy")}


class SaliencyPanel(Record):
    """One image and the maps of several classifiers, as pictures.

    Attributes:
        key: The image.
        truth: Its class.
        explained: The class that the maps explain.
        picture: File below the run folder: the image and the maps side by side.
        titles: What the parts of the picture are, from the left.
        similarity: Spearman correlation of the candidate's map with the reference's.
    """

    key: str
    truth: str
    explained: str
    picture: str
    titles: tuple[str, ...]
    similarity: float


class Saliency(Record):
    """Where the classifiers look.

    Attributes:
        method: "Score-CAM".
        mode: "exact" or "fast".
        images: How many.
        maps: What was explained: name of a row of `similarity` -> what it is, in words.
        similarity: Row -> metric ("ssim", "spearman", "iou_top20") against the reference's maps.
            Rows: the candidate, "independent" (a network trained apart from the reference, where
            the study has one) and "randomized" (the candidate with random weights): the two that
            give the first its meaning.
        faithfulness: Row (also "reference") -> "average_drop", "increase_in_confidence",
            "deletion_auc", "insertion_auc".
        inside_mask: Row -> share of the map's energy inside the mask; empty without masks.
        seconds_per_image: Row -> wall time of one map.
        panels: Pictures.
        verdict: Whether the candidate still looks where the reference looks.
    """

    method: str
    mode: Literal["exact", "fast"]
    images: int
    maps: dict[str, str]
    similarity: dict[str, dict[str, Interval]]
    faithfulness: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    inside_mask: dict[str, Interval] = Field(default_factory=dict)
    seconds_per_image: dict[str, float] = Field(default_factory=dict)
    panels: tuple[SaliencyPanel, ...] = ()
    verdict: Verdict


class Judgements(Record):
    """All sections of one candidate on one split; None: not measured.

    Attributes:
        not_measured: Section -> why.
    """

    operating: OperatingSection | None = None
    calibration: Calibration | None = None
    subgroups: Subgroups | None = None
    disagreement: Disagreement | None = None
    stress: Stress | None = None
    saliency: Saliency | None = None
    not_measured: dict[str, str] = Field(default_factory=dict)
