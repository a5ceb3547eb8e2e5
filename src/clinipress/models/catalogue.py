"""The architectures of the field's papers by name: what each costs and where its weights come from.

Data only, so that they are listed at once; `clinipress.models.zoo` builds them. Counts are those of
the built networks with ImageNet's 1,000 classes (tests/models/test_catalogue.py), so a paper's
table can be checked against them before anything is trained. Every other model of timm can be named
too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from clinipress.records.candidate import PerChannel

__all__ = ["HUB", "IMAGENET", "NAMED", "NamedModel", "model_named", "named_models"]

# mean and standard deviation of pixels in [0, 1]
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HUB = "hub"  # timm's weights of `origin`: ``pretrained: true``


@dataclass(frozen=True)
class NamedModel:
    """An architecture that a study can name.

    Attributes:
        name: As a study names it.
        title: As its paper does; found too, however it is written ("visformer s").
        size: Pixels a side that `macs` is counted at, which the published weights are made for.
        parameters: With 1,000 classes; batch-norm statistics are not counted.
        macs: Multiply-adds of convolutions and linear layers for one image, with 1,000 classes.
        features: Inputs of the classifier, a linear layer with a bias.
        pretrained: "hub" (``pretrained: true``), or where to get weights from and how to name them.
        origin: timm's name, or "module:function" of our own.
        arguments: What it is built with; a study's own win.
        attention_macs: Of attention's matrix products at `size`, which `macs` leaves out.
        starts_from: timm's name of the network whose weights stand in where its tensors are the
            same.
        aliases: Other names.
        note: What must be known to compare it.
        statistics: Mean and standard deviation of pixels in [0, 1] that `pretrained` was trained
            with, where timm does not say.
    """

    name: str
    title: str
    size: int
    parameters: int
    macs: int
    features: int
    pretrained: str
    origin: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    attention_macs: int = 0
    starts_from: str | None = None
    aliases: tuple[str, ...] = ()
    note: str = ""
    statistics: tuple[PerChannel, PerChannel] | None = None

    def as_row(self) -> dict[str, Any]:
        """What a listing shows, JSON-able."""
        return {
            "name": self.name,
            "title": self.title,
            "parameters": self.parameters,
            "macs": self.macs,
            "size": self.size,
            "pretrained": self.pretrained,
            "note": self.note,
        }


NAMED: tuple[NamedModel, ...] = (
    NamedModel(
        "densenet101", "DenseNet-101", 224, 5_852_648, 2_580_247_808, 800,
        "hub (of DenseNet-121, for the 36 of 48 dense layers that are the same)",
        "densenet121",
        {"block_config": (6, 12, 18, 12)},
        starts_from="densenet121",
        note=(
            "no paper defines it; of the blocks with 48 layers this one alone grows as DenseNet-121"
            " does and shrinks only its two last, with exactly 100 convolutions and the classifier"
        ),
    ),
    NamedModel(
        "densenet121", "DenseNet-121", 224, 7_978_856, 2_834_161_664, 1024, HUB, "densenet121"
    ),
    NamedModel(
        "densenet32", "DenseNet-32", 224, 1_045_944, 862_367_392, 212,
        "none published: distil it",
        "densenet121",
        {"block_config": (3, 4, 4, 3)},
        note=(
            "no DenseNet has 32 layers if the classifier counts, for their number is odd; this one"
            " has 32 convolutions, and its teacher's stem and growth, so that only depth differs"
        ),
    ),
    NamedModel(
        "efficientnet_b3", "EfficientNet-B3", 300, 12_233_232, 1_827_141_392, 1536, HUB,
        "efficientnet_b3",
        note="timm's own weights were trained at 288 pixels: 1,589,198,096 multiply-adds",
    ),
    NamedModel(
        "mobilenetv2", "MobileNetV2", 224, 3_504_872, 300_774_272, 1280, HUB, "mobilenetv2_100"
    ),
    NamedModel(
        "mobilenetv3_large", "MobileNetV3-Large", 224, 5_483_032, 216_589_760, 1280, HUB,
        "mobilenetv3_large_100",
        aliases=("MobileNetV3",),
    ),
    NamedModel(
        "mobilenetv3_small", "MobileNetV3-Small", 224, 2_542_856, 56_510_400, 1024, HUB,
        "mobilenetv3_small_100",
    ),
    NamedModel(
        "nasnet_a_mobile", "NASNet-A-Mobile", 224, 5_289_978, 563_638_816, 1056,
        "file: nasnetamobile-7e03cead.pth of pretrainedmodels (mean and std 0.5, BSD-3-Clause)",
        "clinipress.models.nets.nasnet:nasnet_a_mobile",
        aliases=("NASNetMobile", "NASNet-A (4 @ 1056)"),
        note=(
            "ports that compute a row and a column more and drop them count 568,234,858"
            " multiply-adds; Keras counts 36,738 batch-norm statistics as parameters"
        ),
        statistics=(0.5, 0.5),
    ),
    NamedModel(
        "ofa_595", "OFA-595", 236, 9_135_928, 595_189_032, 1536,
        "file: flops@595M_top1@80.0_finetune@75 of once-for-all",
        "clinipress.models.ofa:ofa_595",
        aliases=("OFA flops@595M",),
        note="at 224 pixels 512,861,680 multiply-adds",
        statistics=IMAGENET,
    ),
    NamedModel(
        "ofa_mobilenetv3_w1.0", "OFA MobileNetV3 supernet w1.0", 224, 7_678_880, 566_170_656, 1280,
        "file: ofa_mbv3_d234_e346_k357_w1.0 of once-for-all",
        "clinipress.models.ofa:ofa_supernet",
        {"width": 1.0},
        aliases=("ofa_mbv3_d234_e346_k357_w1.0",),
        note="its largest sub-net has 7,664,760 parameters, its smallest 3,410,792",
        statistics=IMAGENET,
    ),
    NamedModel(
        "ofa_mobilenetv3_w1.2", "OFA MobileNetV3 supernet w1.2", 224, 10_715_752, 843_101_040, 1536,
        "file: ofa_mbv3_d234_e346_k357_w1.2 of once-for-all",
        "clinipress.models.ofa:ofa_supernet",
        {"width": 1.2},
        aliases=("ofa_mbv3_d234_e346_k357_w1.2",),
        note="its largest sub-net has 10,701,632 parameters, its smallest 4,602,456",
        statistics=IMAGENET,
    ),
    NamedModel("resnet50", "ResNet-50", 224, 25_557_032, 4_089_184_256, 2048, HUB, "resnet50"),
    NamedModel("resnet152", "ResNet-152", 224, 60_192_808, 11_513_626_624, 2048, HUB, "resnet152"),
    NamedModel(
        "autoformerv2_t", "AutoFormerV2-T", 224, 28_328_674, 4_350_425_088, 768, HUB,
        "swin_s3_tiny_224",
        attention_macs=272_907_264,
        aliases=("S3-T", "AutoFormerV2-Tiny"),
        note="with attention's products 4.62 G; 224 pixels unless img_size says otherwise",
    ),
    NamedModel("vgg16", "VGG-16", 224, 138_357_544, 15_470_264_320, 4096, HUB, "vgg16"),
    NamedModel("vgg19", "VGG-19", 224, 143_667_240, 19_632_062_464, 4096, HUB, "vgg19"),
    NamedModel(
        "visformer_s", "Visformer-S", 224, 40_219_592, 4_746_614_784, 768, HUB, "visformer_small",
        attention_macs=132_765_696,
        aliases=("Visformer-Small",),
        note="with attention's products 4.88 G",
    ),
    NamedModel(
        "xception", "Xception", 299, 22_855_952, 8_357_403_496, 2048, HUB, "legacy_xception",
        note=(
            "timm's xception41, 65 and 71 are other networks; weights take mean and std 0.5;"
            " Keras counts 54,528 batch-norm statistics as parameters"
        ),
    ),
)  # fmt: skip


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


_BY_NAME = {_plain(name): m for m in NAMED for name in (m.name, m.title, *m.aliases)}


def model_named(name: str) -> NamedModel | None:
    """The model of a name, title or alias, whatever its case and punctuation."""
    return _BY_NAME.get(_plain(name))


def named_models(pattern: str = "") -> tuple[NamedModel, ...]:
    """Models with `pattern` in a name of theirs; "*" and "?" stand for any characters."""
    wild = pattern.lower() if any(mark in pattern for mark in "*?") else f"*{pattern.lower()}*"
    return tuple(
        m for m in NAMED if any(fnmatch(n.lower(), wild) for n in (m.name, m.title, *m.aliases))
    )
