"""The study file: frozen data, every default in one place, no code in YAML.

A study names the data, the reference, the steps and the exports. Unknown keys are refused with
the nearest right one. What each step is told is in `clinipress.recipe.steps`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from clinipress.recipe.formats import EXPORT_PRECISIONS, FORMATS, format_facts
from clinipress.recipe.steps import (
    ClassName,
    Config,
    DistillStep,
    ModelRecipe,
    NoPercent,
    OnnxRecipe,
    Share,
    Step,
    TrainOptions,
)
from clinipress.recipe.techniques import step_names
from clinipress.records.candidate import InputSpec
from clinipress.records.judgement import Section
from clinipress.records.result import RiskLevel

__all__ = [
    "GUARDS",
    "DataRecipe",
    "EvidenceRecipe",
    "ExportRecipe",
    "ReferenceRecipe",
    "SplitRecipe",
    "Study",
    "TargetRecipe",
]

ONE_SOFTMAX = frozenset(("dkd", "dist"))  # methods of distillation

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


class SplitRecipe(Config):
    """How to divide the images.

    Attributes:
        by: "auto" takes patients where known, else near-duplicate clusters. "published" keeps the
            folders' or manifest's own splits and drops training images that leak into them.
        column: Of a manifest, the column that holds the published splits; None: the one called
            "split" or the like.
        fractions: Shares of train, validation and test; their sum is 1.
        seed: Seed of the assignment.
        file: A split file written earlier, to be used as it is.
    """

    by: Literal["auto", "patient", "cluster", "published", "image"] = "auto"
    column: str | None = None
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

    @model_validator(mode="after")
    def _column_of_published_splits(self) -> SplitRecipe:
        if self.column is not None and self.by != "published":
            raise ValueError(f"'column' is for by: published, not by: {self.by}")
        return self


class DataRecipe(Config):
    """The images and how they are read.

    Attributes:
        path: Folder, manifest (.csv) or .npz; ``--data`` on the command line overrides it.
        test: A set of its own, read like `path`, whose images are the test split; those of `path`
            are divided into train and validation.
        modality: Chooses the augmentation that suits the images.
        task: "multiclass": each image has one class. "multilabel": it may show several findings, or
            none, and of some it may be unknown whether they are there.
        classes: Class order of the logits; None sorts the names found. Of several findings those
            to use, in this order.
        blank: Of several findings with a column each, what an empty cell says; "unknown" is never
            learnt from and never counted.
        uncertain: And what -1 says.
        readers: Of a table with the answers of several readers, which counts where they differ: a
            finding is present where "any" of them says so, or what the "majority" says; None: they
            must not differ.
        parents: Of several findings: name -> the finding that it is a kind of, "COVID-19: Viral". A
            present one makes its unknown parent present, an absent one its unknown kinds absent.
        class_map: Folder or label name -> class name, for sets that name one class in two ways.
        positive: The class that is the finding in a two-class task.
        normal: The class without a finding in a task of more classes; None: there is none.
        order: All classes from the least to the gravest, where they are grades: then how far off an
            answer is counts, too. Without `classes`, the logits are in this order.
        input: Size, channels and window of the network's input.
        split: How the images are divided.
        sample: Only so many images, drawn by class: for a trial, and the report says so.
    """

    path: str | None = None
    test: str | None = None
    modality: Modality = "generic"
    task: Literal["multiclass", "multilabel"] = "multiclass"
    blank: Literal["unknown", "absent", "present"] = "unknown"
    uncertain: Literal["unknown", "absent", "present"] = "unknown"
    readers: Literal["any", "majority"] | None = None
    classes: tuple[ClassName, ...] | None = None
    parents: dict[ClassName, ClassName] = Field(default_factory=dict)
    class_map: dict[str, str] = Field(default_factory=dict)
    positive: ClassName | None = None
    normal: ClassName | None = None
    order: tuple[ClassName, ...] = ()
    input: InputSpec = Field(default_factory=InputSpec)
    split: SplitRecipe = SplitRecipe()
    sample: int | None = Field(None, ge=20)

    @model_validator(mode="before")
    @classmethod
    def _logits_by_grade(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("order") and value.get("classes") is None:
            return {**value, "classes": value["order"]}
        return value

    @field_validator("parents")
    @classmethod
    def _no_circle(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            line = [name]
            while line[-1] in value:
                line.append(value[line[-1]])
                if line[-1] in line[:-1]:
                    raise ValueError(f"a hierarchy has no circle: {' -> '.join(line)}")
        return value

    @model_validator(mode="after")
    def _of_several_findings(self) -> DataRecipe:
        if self.task == "multiclass" and self.parents:
            raise ValueError("'parents' is for task: multilabel")
        if self.task == "multiclass" and self.readers == "any":
            raise ValueError("readers: any is for task: multilabel; of one class, majority decides")
        return self

    @model_validator(mode="after")
    def _classes_that_are_there(self) -> DataRecipe:
        if self.order and (len(set(self.order)) < max(3, len(self.order))):
            raise ValueError("'order' names three grades or more, each once, the least first")
        if self.order and sorted(self.order) != sorted(self.classes or ()):
            raise ValueError(
                f"'order' must hold all of {', '.join(self.classes or ())}, each once, not "
                f"{', '.join(self.order)}"
            )
        for key, name in (("positive", self.positive), ("normal", self.normal)):
            if name is not None and self.classes is not None and name not in self.classes:
                raise ValueError(f"'{key}' must be one of {', '.join(self.classes)}, not '{name}'")
        if self.task == "multilabel" and (self.positive or self.normal or self.order):
            raise ValueError(
                "'positive', 'normal' and 'order' are of images with one class each: with task: "
                "multilabel every finding is a question of its own"
            )
        if self.task == "multiclass" and (self.blank, self.uncertain) != ("unknown", "unknown"):
            raise ValueError("'blank' and 'uncertain' are for task: multilabel")
        if self.positive is not None and self.positive == self.normal:
            raise ValueError(f"'{self.positive}' cannot be 'positive' and 'normal'")
        if self.test is not None and self.split.file is not None:
            raise ValueError("give 'test' or 'split.file', which says what is tested, not both")
        return self


class ReferenceRecipe(Config):
    """The classifier everything else is judged against.

    Attributes:
        model: The network.
        onnx: Instead of it: an ONNX file, where there is nothing else. It can be judged, quantized,
            converted and learnt from, but not trained or cut.
        train: How to train it; None takes the checkpoint as it is. With `model.pretrained`, three
            `stages` are the usual transfer learning (`TrainStage`).
        unseen: Of a checkpoint that was trained elsewhere: a person says that it was trained on
            none of the test images. Images that the data themselves publish as a test split, or
            that `data.test` names, are taken to be such.
    """

    model: ModelRecipe | None = None
    onnx: OnnxRecipe | None = None
    train: TrainOptions | None = TrainOptions()
    unseen: bool = False

    @model_validator(mode="before")
    @classmethod
    def _files_are_trained(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("onnx") is None:
            return value
        return {"train": None, **value}

    @model_validator(mode="after")
    def _something_to_start_from(self) -> ReferenceRecipe:
        if (self.model is None) == (self.onnx is None):
            raise ValueError("give either 'model' (a network) or 'onnx' (a file)")
        if self.onnx is not None and self.train is not None:
            raise ValueError(
                "an ONNX file cannot be trained: leave out 'train', or distil it into a student"
            )
        if self.model is not None and self.train is None and self.model.checkpoint is None:
            raise ValueError("without 'train' the reference needs 'model.checkpoint'")
        return self


# The type checker takes any text; pydantic and the published schema know the names of the tables.
if TYPE_CHECKING:
    Precision = str
    Format = str
else:
    Precision = Literal[tuple(row.name for row in EXPORT_PRECISIONS)]
    Format = Literal[tuple(row.name for row in FORMATS)]

# Keys of quantization that some formats have and others do not.
OPTIONS = tuple(dict.fromkeys(key for row in FORMATS for key in row.options or ()))


class ExportRecipe(Config):
    """A file for a runtime.

    Attributes:
        format: The file's format.
        of: Name of the candidate whose network it is made of, "reference" or a step's; None: the
            last step's.
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
    of: str | None = None
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
    agreement: NoPercent = Field(0.98, gt=0, le=1)
    slowest: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _what_the_format_has(self) -> ExportRecipe:
        facts = format_facts(self.format)
        if self.precision not in facts.precisions:
            known = ", ".join(facts.precisions)
            raise ValueError(
                f"'{self.format}' files have precision {known}, not '{self.precision}'"
            )
        if facts.options is not None:
            fields = type(self).model_fields
            for key in OPTIONS:
                if key not in facts.options and getattr(self, key) != fields[key].default:
                    raise ValueError(
                        f"'{key}' has no meaning for '{self.format}' files; leave it out"
                    )
        if self.calibration_method == "runtime" and not facts.own_ranges:
            raise ValueError(f"'runtime' has no meaning for '{self.format}' files: choose a method")
        return self


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
        masks: Masks for saliency, where the set has them: a folder, named as the images are, or the
            NAME.masks.csv that `clinipress data` writes beside the manifest.
        primary: Where an image may show several findings, what decides: the mean area under their
            ROC curves, or the sensitivity of the worst of them at its threshold.
        mask_kind: Which masks of such a table, where it has several: "lung", "infection", "tumour".
    """

    prevalence: dict[str, Share] = Field(default_factory=dict)
    aims: tuple[Share, ...] = Field((0.95,), min_length=1)
    smallest_group: int = Field(20, ge=2)
    guards: tuple[Section, ...] | None = None
    stress: int = Field(200, ge=0)
    saliency: int = Field(12, ge=0)
    saliency_mode: Literal["exact", "fast"] = "fast"
    masks: str | None = None
    mask_kind: str | None = None
    primary: Literal["auroc_macro", "worst_sensitivity"] = "auroc_macro"


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
        margins: Metric -> largest loss allowed, where it is not the risk level's; "sensitivity[x]"
            sets the margin of one class.
        floors: Metric -> least figure a candidate must be shown to have: the lower end of its
            interval must lie above. `accuracy`, "sensitivity[x]", `auroc_macro` and the like.
        privacy: What may stand in what is meant to be sent (bundle, card, dossier, summary):
            "standard" leaves out pictures, file names, paths and identifying columns there and
            keeps them in the run folder's report; "strict" leaves them out of the report, too;
            "full" adds names, paths and columns, never pictures, to what is sent. A column is
            taken to identify unless it is known not to (sex, age, site, scanner, ...).
        sample: An image that travels in the bundle for its self-test: name only one whose person
            consented. None: a SYNTHETIC one is drawn; no image of the set is ever taken.
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
    margins: dict[str, Share] = Field(default_factory=dict)
    floors: dict[str, Share] = Field(default_factory=dict)
    privacy: Literal["standard", "strict", "full"] = "standard"
    sample: str | None = None
    seeds: tuple[int, ...] = ()
    intended_use: str = ""
    synthetic: bool = False

    @model_validator(mode="after")
    def _what_a_file_allows(self) -> Study:
        """Refuse what would need the network where the reference is an ONNX file alone."""
        if self.reference.onnx is None:
            return self
        first = self.steps[0] if self.steps else None
        if first is not None and not (isinstance(first, DistillStep) and first.student):
            what = "'distill' without a 'student'" if first.step == "distill" else f"'{first.step}'"
            raise ValueError(
                f"{what} needs the reference's own network (PyTorch), and 'reference.onnx' is a "
                "file alone: begin with a 'distill' step that names a 'student'"
            )
        for step in self.steps:
            if not isinstance(step, DistillStep) or step.teachers is not None:
                continue
            if step.method in ("fitnet", "attention"):
                raise ValueError(
                    "methods 'fitnet' and 'attention' read feature maps of the reference's own "
                    "network (PyTorch), and 'reference.onnx' is a file alone: use 'soft', 'dkd' or "
                    "'dist'"
                )
        made = [] if self.steps else [export.format for export in self.exports]
        missing = next((name for name in made if not format_facts(name).from_onnx), None)
        if missing is not None:
            able = ", ".join(row.name for row in FORMATS if row.from_onnx)
            raise ValueError(
                f"'{missing}' files are made of the reference's own network (PyTorch), and "
                f"'reference.onnx' is a file alone: export {able}, or begin with a 'distill' step "
                "that names a 'student'"
            )
        return self

    @model_validator(mode="after")
    def _what_the_task_allows(self) -> Study:
        shares, several = self.evidence.prevalence, self.data.task == "multilabel"
        if not several and sum(shares.values()) > 1 + 1e-6:
            raise ValueError(
                f"the classes' shares must sum to 1 at most, they sum to {sum(shares.values()):g}"
            )
        if not several and self.evidence.primary != "auroc_macro":
            raise ValueError("'evidence.primary' is for task: multilabel")
        trainings = (self.reference.train, *(getattr(step, "train", None) for step in self.steps))
        if not self.data.order and any(t and t.order_weight for t in trainings):
            raise ValueError("'order_weight' is of grades: name them in 'data.order'")
        for step in self.steps:
            if several and (method := getattr(step, "method", "soft")) in ONE_SOFTMAX:
                raise ValueError(
                    f"'method: {method}' compares the classes of one softmax, and with task: "
                    "multilabel each finding has a sigmoid of its own: use 'soft' (binary soft "
                    "targets for each finding), 'fitnet' or 'attention'"
                )
        return self

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        every = (info.data.get("seed", 0), *value)
        if len(set(every)) < len(every):
            named = ", ".join(map(str, every))
            raise ValueError(f"'seed' and 'seeds' must all differ; they are {named}")
        return value

    @model_validator(mode="after")
    def _exports_of_what_is_made(self) -> Study:
        made = ("reference", *step_names(self.steps))
        for export in self.exports:
            if export.of is not None and export.of not in made:
                raise ValueError(
                    f"'of' of an export is one of {', '.join(made)}, not '{export.of}'"
                )
        return self

    def may_have_seen_test(self, shared: int = 0) -> bool:
        """Whether nobody says that the reference was trained on none of the test images.

        Args:
            shared: Images beside the test split that share a unit with it: where it is published,
                a network trained on the rest has seen as much of it.
        """
        reference, data = self.reference, self.data
        declared = data.test is not None or data.split.by == "published" or data.split.file
        trained = reference.model is None or reference.model.checkpoint is not None
        return trained and not reference.unseen and bool(shared or not declared)
