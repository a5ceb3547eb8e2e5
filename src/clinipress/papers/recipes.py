"""How the studies of the tables are made, by scale: pixels, weights, how long networks train.

At "small" a large set is sampled, and the work of each network is bounded by images seen, not by
epochs, so that a table takes about as long on a large set as on a small one. "moderate" trains
longer on more pixels, so that the networks learn and a few hours on a CPU do. "full" has the
published sizes, pretrained weights where the hub has them, and the epochs of the edge guide; the
first three papers print none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from clinipress.models.catalogue import NamedModel, model_named
from clinipress.recipe.study import Study
from clinipress.study.read import parse_study

__all__ = [
    "MODERATE_PIXELS",
    "SMALL_IMAGES",
    "SMALL_PIXELS",
    "ImageFacts",
    "Maker",
    "Scale",
    "Tree",
    "reductions",
]

Scale = Literal["small", "moderate", "full"]
Tree = dict[str, Any]

SMALL_PIXELS = 64
SMALL_IMAGES = 1000  # of a larger set, drawn by class
MODERATE_PIXELS = 96
MODERATE_EPOCHS = 30  # of a network; a training in stages has 41
STUDENT_EPOCHS = 45
FULL_EPOCHS = 50  # the edge guide's, for distillation
# Networks without batch norm, and transformers, diverge at the rate that suits the others.
RATES = {"vgg16": 1e-4, "vgg19": 1e-4, "visformer_s": 5e-4, "autoformerv2_t": 5e-4}
# Images that the small scale shows each network; more for those that are cheap.
# A VGG's 140 million parameters cost seconds a step, and its checkpoint 2 GB an epoch.
SEEN = {"vgg16": 900, "vgg19": 900, "xception": 1500, "visformer_s": 3000, "autoformerv2_t": 3000}
SEEN_ELSE = 3000


@dataclass(frozen=True)
class ImageFacts:
    """What a grid must know of the images.

    Attributes:
        count: How many there are.
        modality: For the augmentation.
        channels: 1 or 3.
        synthetic: They were drawn.
        positive: The class that is the finding, of two.
    """

    count: int
    modality: str = "generic"
    channels: int = 1
    synthetic: bool = False
    positive: str | None = None


FRACTIONS = (0.6, 0.2, 0.2)  # a fifth for validation, as in S1


def reductions(scale: Scale) -> str:
    """What a scale leaves out, in one sentence."""
    if scale == "full":
        return (
            "Scale full: published input sizes, weights of the hub where there are any, "
            f"{FULL_EPOCHS} epochs, three seeds; rows that start from a trained network share it."
        )
    if scale == "moderate":
        return (
            f"Scale moderate: {MODERATE_PIXELS} pixels a side, random weights, one seed, about "
            f"{MODERATE_EPOCHS} epochs, {STUDENT_EPOCHS} of a student (T = 2, alpha = 0.5): the "
            "networks have learnt what they can without other images, at fewer pixels than "
            "published."
        )
    return (
        f"Scale small: {SMALL_PIXELS} pixels a side, at most {SMALL_IMAGES:,} images drawn by "
        "class, random weights, one seed, and few epochs: "
        "the table shows that the whole way runs and what each step costs; its accuracies are "
        "those of networks that have hardly learnt, and no figure of it judges a technique."
    )


@dataclass(frozen=True)
class Maker:
    """Recipes of one table at one scale."""

    source: str
    scale: Scale
    images: ImageFacts

    @property
    def small(self) -> bool:
        """Whether the scale is the small one."""
        return self.scale == "small"

    @property
    def training(self) -> int:
        """About how many images are trained on."""
        count = min(self.images.count, SMALL_IMAGES) if self.small else self.images.count
        return max(1, round(count * FRACTIONS[0]))

    def model(self, network: str | Tree) -> Tree:
        """A network, with weights of the hub at full scale where there are some."""
        tree: Tree = {"name": network} if isinstance(network, str) else dict(network)
        named = model_named(tree["name"])
        if self.scale == "full" and named is not None and named.pretrained.startswith("hub"):
            tree["pretrained"] = True
        return tree

    def train(self, name: str, *, times: float = 1.0) -> Tree:
        """The loop's options for a network; `times` the images that the small scale shows it."""
        options: Tree = {"batch_size": 32, "learning_rate": RATES.get(name, 1e-3)}
        if self.scale == "full":
            return options | {"epochs": FULL_EPOCHS}
        if self.scale == "moderate":
            # from random weights small batches reach more in as many epochs
            return options | {"epochs": MODERATE_EPOCHS, "batch_size": 16}
        seen = SEEN.get(name, SEEN_ELSE) * times
        epochs = max(2, round(seen / self.training))
        # few steps: weights are averaged over some ten of them, not over two hundred
        return options | {"epochs": epochs, "warmup_epochs": 0.5, "ema_decay": 0.9}

    def further(self) -> Tree:
        """Options of a step that goes on with trained weights; 15 epochs are the edge guide's."""
        if self.scale == "full":
            return {"epochs": 15}
        if self.scale == "moderate":
            return {"epochs": 4, "batch_size": 16, "learning_rate": 2e-4, "warmup_epochs": 0.5}
        return {"epochs": 2, "warmup_epochs": 0.5, "ema_decay": 0.9}

    def pixels(self, name: str) -> int:
        """Pixels a side."""
        named: NamedModel | None = model_named(name)
        if self.scale == "moderate":
            return MODERATE_PIXELS
        return SMALL_PIXELS if self.small or named is None else named.size

    def distil(self, student: str | Tree, *, times: float = 1.0) -> Tree:
        """The step, with its control; T and alpha are the edge guide's.

        At the moderate scale they are those that students from random weights learnt best with
        on validation images of brain-mri, and a student, which is cheap, learns for longer.
        """
        tree = self.model(student)
        train = self.train(tree["name"], times=times)
        temperature, alpha = 4.0, 0.7
        if self.scale == "moderate":
            temperature, alpha = 2.0, 0.5
            train |= {"epochs": STUDENT_EPOCHS}
        return {
            "step": "distill",
            "student": tree,
            "temperature": temperature,
            "alpha": alpha,
            "answers": "mean",
            "views": 2 if self.small else 8,
            "control": True,
            "train": train,
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
                "positive": self.images.positive,
                "input": side,
                "split": {"by": "auto", "fractions": list(FRACTIONS)},
                "sample": SMALL_IMAGES if self.small else None,
            },
            "reference": reference,
            "try_next": False,
            "evidence": {"stress": 0, "saliency": 0},
            "seeds": [1, 2] if self.scale == "full" else [],
        }
        return parse_study(tree | parts, where=f"the table {self.source}")

    def three_stages(self) -> Tree:
        """Options of transfer learning: the head, all at a lower rate, all at a falling one."""
        if self.scale == "full":
            return {
                "stages": [
                    {"train": "head", "epochs": 8, "learning_rate": 1e-3, "warmup_epochs": 1},
                    {"train": "all", "epochs": 20, "learning_rate": 3e-4, "layer_decay": 0.9},
                    {"train": "all", "epochs": 20, "learning_rate": 1e-4, "warmup_epochs": 0,
                     "decay": "exponential", "final_learning_rate": 0.001},
                ]
            }  # fmt: skip
        if self.scale == "moderate":
            return {
                "batch_size": 16,
                "stages": [
                    {"train": "head", "epochs": 1, "learning_rate": 1e-3, "warmup_epochs": 0.5},
                    {"train": "all", "epochs": MODERATE_EPOCHS, "learning_rate": 2e-3},
                    {"train": "all", "epochs": MODERATE_EPOCHS // 3, "learning_rate": 3e-4,
                     "warmup_epochs": 0, "decay": "exponential", "final_learning_rate": 0.01},
                ],
            }  # fmt: skip
        # from random weights the head on a frozen backbone learns little: one epoch shows the
        # stage; the network is cheap, so it sees ten times as many images as the others
        many = max(2, round(10 * SEEN_ELSE / self.training))
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
