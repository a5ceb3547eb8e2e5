"""What each table runs: studies as recipes, and which of their files make which row.

Only data: nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clinipress.models.catalogue import model_named
from clinipress.papers.recipes import ImageFacts, Maker, Scale, Tree
from clinipress.recipe.study import Study

__all__ = ["Entry", "RowPlan", "grid"]

# A narrow ResNet-18: plain 3 x 3 convolutions, which 8-bit processors do best.
NARROW: Tree = {"name": "resnet18", "arguments": {"channels": [32, 64, 128, 192]}}
# S0 names no student: a small one of the teacher's kind, where there is one.
STUDENTS: Mapping[str, tuple[str, str | Tree]] = {
    "densenet121": ("DenseNet-32", "densenet32"),
    "resnet50": ("narrow ResNet-18", NARROW),
    "efficientnet_b3": ("MobileNetV3-Small", "mobilenetv3_small"),
    "vgg16": ("narrow ResNet-18", NARROW),
    "vgg19": ("narrow ResNet-18", NARROW),
    "xception": ("MobileNetV3-Small", "mobilenetv3_small"),
    "nasnet_a_mobile": ("MobileNetV3-Small", "mobilenetv3_small"),
}
INT8: Tree = {"format": "onnx", "precision": "int8", "calibration_images": 200}


@dataclass(frozen=True)
class RowPlan:
    """A row of a table.

    Attributes:
        name: What it is.
        of: Role -> name of the candidate in the study's result. Role "row" is the candidate that
            columns without a role of their own show.
        beside: Key of the paper's row that stands below.
        control: The same student for as long without a teacher.
    """

    name: str
    of: Mapping[str, str]
    beside: str | None = None
    control: bool = False


@dataclass(frozen=True)
class Entry:
    """One study of a table.

    Attributes:
        key: Its folder below the table's.
        study: The recipe; with `borrows`, its reference is a placeholder until the other is done.
        rows: The rows it gives.
        borrows: Key of the entry whose trained reference this one takes as it is.
        training_accuracy: Accuracy on the training images is measured too.
    """

    key: str
    study: Study
    rows: tuple[RowPlan, ...]
    borrows: str | None = None
    training_accuracy: bool = False


def grid(source: str, scale: Scale, images: ImageFacts) -> tuple[Entry, ...]:
    """The studies of a table, in the order in which they run."""
    makers = {"s0": _s0, "s1": _s1, "s2": _s2, "s4": _s4}
    return makers[source](Maker(source, scale, images))


def _s0(make: Maker) -> tuple[Entry, ...]:
    entries = []
    for teacher, (title, student) in STUDENTS.items():
        named = model_named(teacher)
        name = named.title if named else teacher
        trained = {"model": make.model(teacher), "train": make.train(teacher)}
        steps = [make.distil(student)]
        study = make.study(teacher, trained, make.pixels(teacher), steps=steps, exports=[INT8])
        both = {"teacher": "reference", "student": "distilled", "int8": "distilled-onnx-int8"}
        alone = {"teacher": "reference", "student": "distilled-control"}
        pair = f"{name} \u2192 {title}"
        rows = (
            RowPlan(pair, both, beside=teacher),
            RowPlan(f"{pair}, control (alpha = 0)", alone, control=True),
        )
        entries.append(Entry(teacher, study, rows, training_accuracy=True))
    return tuple(entries)


def _litert(precision: str) -> Tree:
    return {"format": "litert", "precision": precision}


def _s1(make: Maker) -> tuple[Entry, ...]:
    pixels = make.pixels("mobilenetv2")
    three = {"model": make.model("mobilenetv2"), "train": {"batch_size": 32} | make.three_stages()}
    files = [_litert(p) for p in ("float32", "float16", "int8-dynamic", "int8")]
    first = make.study("mobilenetv2", three, pixels, steps=[], exports=files)
    ours = "MobileNetV2, three stages"
    rows = (
        RowPlan(f"{ours}, float32 ONNX", {"row": "reference"}),
        RowPlan(f"{ours}, float32 LiteRT", {"row": "reference-litert-float32"}, "float32"),
        RowPlan(f"{ours}, float16 LiteRT", {"row": "reference-litert-float16"}, "float16"),
        RowPlan(f"{ours}, dynamic 8-bit LiteRT", {"row": "reference-litert-int8-dynamic"}),
        RowPlan(f"{ours}, int8 LiteRT", {"row": "reference-litert-int8"}),
    )
    qat: Tree = {"step": "qat", "train": make.further()}
    borrowed: Tree = {"model": three["model"]}
    again = make.study("mobilenetv2-qat", borrowed, pixels, steps=[qat], exports=[_litert("int8")])
    aware = (
        RowPlan(
            f"{ours}, quantization-aware int8 LiteRT",
            {"row": "quantization-aware-litert-int8"},
            "planned",
        ),
    )
    dense = {"model": make.model("densenet101"), "train": make.train("densenet101", times=4)}
    four = {"format": "onnx", "precision": "int4-weights"}
    third = make.study(
        "densenet101",
        dense,
        make.pixels("densenet101"),
        steps=[make.distil("densenet32", times=4)],
        exports=[INT8, four],
    )
    pair = "DenseNet-101 \u2192 DenseNet-32"
    distilled = (
        RowPlan("DenseNet-101, float32", {"row": "reference"}),
        RowPlan(f"{pair}, float32", {"row": "distilled"}),
        RowPlan(f"{pair}, control (alpha = 0)", {"row": "distilled-control"}, control=True),
        RowPlan(f"{pair}, int8", {"row": "distilled-onnx-int8"}),
        RowPlan(f"{pair}, 4-bit weights", {"row": "distilled-onnx-int4-weights"}),
    )
    return (
        Entry("mobilenetv2", first, rows),
        Entry("mobilenetv2-qat", again, aware, borrows="mobilenetv2"),
        Entry("densenet101", third, distilled),
    )


def _s2(make: Maker) -> tuple[Entry, ...]:
    entries = []
    for teacher in ("vgg19", "visformer_s", "autoformerv2_t"):
        named = model_named(teacher)
        name = named.title if named else teacher
        trained = {"model": make.model(teacher), "train": make.train(teacher)}
        study = make.study(
            teacher,
            trained,
            make.pixels(teacher),
            steps=[make.distil("ofa_595")],
            exports=[],
            evidence={"stress": 0, "saliency": 4 if make.small else 12},
        )
        rows = (
            RowPlan(f"{name}, teacher", {"row": "reference"}),
            RowPlan(f"OFA-595 taught by {name}", {"row": "distilled"}, beside="student"),
            RowPlan(
                f"OFA-595 without {name}, control (alpha = 0)",
                {"row": "distilled-control"},
                control=True,
            ),
        )
        entries.append(Entry(teacher, study, rows))
    return tuple(entries)


def _s4(make: Maker) -> tuple[Entry, ...]:
    pixels = make.pixels("resnet50")
    trained = {"model": make.model("resnet50"), "train": make.train("resnet50", times=4)}
    short = make.further()
    qat: Tree = {"step": "qat", "train": short}
    prune: Tree = {"step": "prune", "ratio": 0.5, "of": "parameters", "rounds": 2}
    prune |= {"distill": False, "train": short}
    borrowed: Tree = {"model": trained["model"]}

    def study(key: str, reference: Tree, steps: list[Tree], exports: list[Tree]) -> Study:
        return make.study(key, reference, pixels, steps=steps, exports=exports)

    student = make.distil("mobilenetv3_large", times=4)
    large = "Distilled MobileNetV3-Large"
    return (
        Entry(
            "resnet50",
            study("resnet50", trained, [], [INT8]),
            (
                RowPlan("ResNet-50, float32", {"row": "reference"}, "fp32"),
                RowPlan("ResNet-50, int8 after training", {"row": "reference-onnx-int8"}, "ptq"),
            ),
        ),
        Entry(
            "qat",
            study("qat", borrowed, [qat], [INT8]),
            (
                RowPlan(
                    "ResNet-50, quantization-aware int8",
                    {"row": "quantization-aware-onnx-int8"},
                    "qat",
                ),
            ),
            borrows="resnet50",
        ),
        Entry(
            "pruned",
            study("pruned", borrowed, [prune], []),
            (RowPlan("ResNet-50, half of the parameters removed", {"row": "pruned"}, "pruned"),),
            borrows="resnet50",
        ),
        Entry(
            "distilled",
            study("distilled", borrowed, [student, qat], [INT8]),
            (
                RowPlan(large, {"row": "distilled"}, "distilled"),
                RowPlan(
                    f"{large}, control (alpha = 0)", {"row": "distilled-control"}, control=True
                ),
                RowPlan(
                    f"{large}, quantization-aware int8",
                    {"row": "quantization-aware-onnx-int8"},
                    "both",
                ),
            ),
            borrows="resnet50",
        ),
    )
