"""What each table runs: studies as recipes, by scale, and which of their files make which row.

Only data and arithmetic: nothing is trained here. At "small" the work of each network is bounded
by images seen, not by epochs, so that a table takes about as long on a large set as on a small
one; pixels are 64. "full" has the published sizes, pretrained weights where the hub has them, and
the epochs of the edge guide; the first three papers print none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from clinipress.models.catalogue import NamedModel, model_named
from clinipress.recipe import Study
from clinipress.study_file import parse_study

__all__ = ["Entry", "Images", "RowPlan", "Scale", "grid", "reductions"]

Scale = Literal["small", "full"]
Tree = dict[str, Any]

SMALL_PIXELS = 64
FULL_EPOCHS = 50  # the edge guide's, for distillation
# Networks without batch norm, and transformers, diverge at the rate that suits the others.
RATES = {"vgg16": 1e-4, "vgg19": 1e-4, "visformer_s": 5e-4, "autoformerv2_t": 5e-4}
# Images that the small scale shows each network; more for those that are cheap.
SEEN = {"vgg16": 1500, "vgg19": 1500, "xception": 1500, "visformer_s": 3000, "autoformerv2_t": 3000}
SEEN_ELSE = 3000
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
class Images:
    """What a grid must know of the images.

    Attributes:
        count: How many there are.
        modality: For the augmentation.
        channels: 1 or 3.
        synthetic: They were drawn.
    """

    count: int
    modality: str = "generic"
    channels: int = 1
    synthetic: bool = False

    @property
    def training(self) -> int:
        """About how many are trained on."""
        return max(1, round(self.count * FRACTIONS[0]))


FRACTIONS = (0.6, 0.2, 0.2)  # a fifth for validation, as in S1


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


def grid(source: str, scale: Scale, images: Images) -> tuple[Entry, ...]:
    """The studies of a table, in the order in which they run.

    Args:
        source: "s0", "s1", "s2" or "s4".
        scale: "small" or "full".
        images: What is known of them.
    """
    makers = {"s0": _s0, "s1": _s1, "s2": _s2, "s4": _s4}
    return makers[source](_Maker(source, scale, images))


def reductions(scale: Scale) -> str:
    """What a scale leaves out, in one sentence."""
    if scale == "full":
        return (
            "Scale full: published input sizes, weights of the hub where there are any, "
            f"{FULL_EPOCHS} epochs, three seeds; rows that start from a trained network share it."
        )
    return (
        f"Scale small: {SMALL_PIXELS} pixels a side, random weights, one seed, and few epochs: "
        "the table shows that the whole way runs and what each step costs; its accuracies are "
        "those of networks that have hardly learnt, and no figure of it judges a technique."
    )


@dataclass(frozen=True)
class _Maker:
    """Recipes of one table at one scale."""

    source: str
    scale: Scale
    images: Images

    @property
    def small(self) -> bool:
        return self.scale == "small"

    def model(self, asked: str | Tree) -> Tree:
        """A network, with weights of the hub at full scale where there are some."""
        tree: Tree = {"name": asked} if isinstance(asked, str) else dict(asked)
        named = model_named(tree["name"])
        if not self.small and named is not None and named.pretrained.startswith("hub"):
            tree["pretrained"] = True
        return tree

    def train(self, name: str, *, times: float = 1.0) -> Tree:
        """The loop's options for a network.

        Args:
            name: The network.
            times: Of the images that the small scale shows it.
        """
        found: Tree = {"batch_size": 32, "learning_rate": RATES.get(name, 1e-3)}
        if not self.small:
            return found | {"epochs": FULL_EPOCHS}
        seen = SEEN.get(name, SEEN_ELSE) * times
        epochs = max(2, round(seen / self.images.training))
        # few steps: weights are averaged over some ten of them, not over two hundred
        return found | {"epochs": epochs, "warmup_epochs": 0.5, "ema_decay": 0.9}

    def further(self) -> Tree:
        """Options of a step that goes on with trained weights; 15 epochs are the edge guide's."""
        if not self.small:
            return {"epochs": 15}
        return {"epochs": 2, "warmup_epochs": 0.5, "ema_decay": 0.9}

    def pixels(self, name: str) -> int:
        """Pixels a side."""
        named: NamedModel | None = model_named(name)
        return SMALL_PIXELS if self.small or named is None else named.size

    def distil(self, student: str | Tree, *, times: float = 1.0) -> Tree:
        """The step, with its control; T and alpha are the edge guide's."""
        tree = self.model(student)
        return {
            "step": "distill",
            "student": tree,
            "temperature": 4,
            "alpha": 0.7,
            "answers": "mean",
            "views": 2 if self.small else 8,
            "control": True,
            "train": self.train(tree["name"], times=times),
        }

    def study(self, key: str, reference: Tree, pixels: int, **parts: Any) -> Study:
        """A checked recipe of this table."""
        side = {"channels": self.images.channels, "height": pixels, "width": pixels}
        tree: Tree = {
            "name": f"{self.source}-{key}",
            # five points: so that a row is measured on the sealed test too although it lost some
            "risk": "low",
            "synthetic": self.images.synthetic,
            "intended_use": "A paper's table, run again for comparison. Not a medical device.",
            "data": {
                "modality": self.images.modality,
                "input": side,
                "split": {"by": "auto", "fractions": list(FRACTIONS)},
            },
            "reference": reference,
            "try_next": False,
            "evidence": {"stress": 0, "saliency": 0},
            "seeds": [] if self.small else [1, 2],
        }
        return parse_study(tree | parts, where=f"the table {self.source}")


def _s0(make: _Maker) -> tuple[Entry, ...]:
    """Each teacher and its student, in float32 and in 8 bits."""
    found = []
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
        found.append(Entry(teacher, study, rows, training_accuracy=True))
    return tuple(found)


def _litert(precision: str) -> Tree:
    return {"format": "litert", "precision": precision}


def _s1(make: _Maker) -> tuple[Entry, ...]:
    """MobileNetV2 in three stages and its files; the same with QAT; the distilled DenseNet."""
    pixels = make.pixels("mobilenetv2")
    three = {"model": make.model("mobilenetv2"), "train": {"batch_size": 32} | _stages(make)}
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


def _stages(make: _Maker) -> Tree:
    """Three stages of transfer learning: the head, all at a lower rate, all at a falling one."""
    if not make.small:
        return {
            "stages": [
                {"train": "head", "epochs": 8, "learning_rate": 1e-3, "warmup_epochs": 1},
                {"train": "all", "epochs": 20, "learning_rate": 3e-4, "layer_decay": 0.9},
                {"train": "all", "epochs": 20, "learning_rate": 1e-4, "warmup_epochs": 0,
                 "decay": "exponential", "final_learning_rate": 0.001},
            ]
        }  # fmt: skip
    # from random weights the head on a frozen backbone learns little: one epoch shows the stage;
    # the network is cheap, so it sees ten times as many images as the others
    many = max(2, round(10 * SEEN_ELSE / make.images.training))
    return {
        "ema_decay": 0.9,
        "stages": [
            {"train": "head", "epochs": 1, "learning_rate": 1e-3, "warmup_epochs": 0.5},
            {"train": "all", "epochs": many - many // 3, "learning_rate": 1e-3,
             "warmup_epochs": 0.5},
            {"train": "all", "epochs": max(1, many // 3), "learning_rate": 3e-4,
             "warmup_epochs": 0, "decay": "exponential", "final_learning_rate": 0.001},
        ],
    }  # fmt: skip


def _s2(make: _Maker) -> tuple[Entry, ...]:
    """Three teachers of one student, with and without them; and where all look."""
    found = []
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
        found.append(Entry(teacher, study, rows))
    return tuple(found)


def _s4(make: _Maker) -> tuple[Entry, ...]:
    """The guide's six rows, all of one trained ResNet-50."""
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
