"""The named architectures: counted on the built networks, found by any name, listed at once."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from clinipress.errors import ModelError
from clinipress.models.catalogue import HUB, NAMED, model_named, named_models
from clinipress.models.classifier import new_classifier
from clinipress.models.cost import layer_macs, parameters
from clinipress.models.pretrained import load_pretrained, take_shared
from clinipress.models.zoo import create_backbone, list_models
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import InputSpec

IMAGENET_CLASSES = 1000
# Independent of the catalogue: the sources' own tables, counted on torchvision, Keras and ports.
# name, classes -> parameters
PUBLISHED = {
    ("densenet121", 4): 6_957_956,
    ("densenet121", 2): 6_955_906,
    ("resnet50", 4): 23_516_228,
    ("resnet152", 4): 58_152_004,
    ("efficientnet_b3", 4): 10_702_380,
    ("vgg16", 4): 134_276_932,
    ("vgg19", 3): 139_582_531,
    ("vgg19", 5): 139_590_725,
    ("xception", 4): 20_815_148,
    ("nasnet_a_mobile", 2): 4_235_092,
    ("nasnet_a_mobile", 3): 4_236_149,
    ("nasnet_a_mobile", 4): 4_237_206,
    ("mobilenetv2", 4): 2_228_996,
    ("mobilenetv3_large", 4): 4_207_156,
    ("mobilenetv3_small", 4): 1_521_956,
    ("visformer_s", 3): 39_452_899,
    ("visformer_s", 5): 39_454_437,
    ("autoformerv2_t", 3): 27_561_981,
    ("autoformerv2_t", 5): 27_563_519,
    ("densenet101", 1000): 5_852_648,
    ("densenet101", 4): 5_054_852,
    ("densenet32", 4): 833_796,
}
# multiply-adds, in millions as the tables print them: convolutions and linear layers
PUBLISHED_MACS = {
    "densenet121": 2834, "resnet50": 4089, "resnet152": 11514, "efficientnet_b3": 1827,
    "vgg16": 15470, "vgg19": 19632, "xception": 8357, "mobilenetv2": 301,
    "mobilenetv3_large": 217, "mobilenetv3_small": 57, "visformer_s": 4747,
    "nasnet_a_mobile": 564, "densenet32": 862, "densenet101": 2580,
}  # fmt: skip
# ... and with attention's products
PUBLISHED_WITH_ATTENTION = {"visformer_s": 4879, "autoformerv2_t": 4623}


def built(named, classes=1000):
    """On the meta device: counted without memory or arithmetic."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        side = (named.size, named.size)
        return create_backbone(name=named.name, num_classes=classes, in_channels=3, size=side)


def named_ids(named):
    return named.name


@pytest.mark.parametrize("named", NAMED, ids=named_ids)
def test_counts_are_those_of_the_built_network(named):
    network = built(named).eval()
    assert parameters(network) == named.parameters
    images = torch.zeros(1, 3, named.size, named.size, device="meta")
    assert sum(layer_macs(network, images).values()) == named.macs
    # torch's own counter: two operations each, attention's matrix products too
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(images)
    assert counter.get_total_flops() // 2 == named.macs + named.attention_macs


def parameters_with(named, classes):
    """Parameters with another number of classes: the head is a linear layer with a bias."""
    return named.parameters + (classes - IMAGENET_CLASSES) * (named.features + 1)


@pytest.mark.parametrize(("name", "classes"), PUBLISHED)
def test_parameters_are_those_of_the_sources(name, classes):
    assert parameters_with(model_named(name), classes) == PUBLISHED[name, classes]


@pytest.mark.parametrize("classes", [2, 5])
def test_parameters_with_other_heads_are_those_of_the_built_network(classes):
    for name in ("vgg16", "visformer_s", "nasnet_a_mobile", "densenet32"):
        named = model_named(name)
        assert parameters(built(named, classes)) == parameters_with(named, classes)


def test_multiply_adds_are_those_of_the_sources():
    assert {n: round(model_named(n).macs / 1e6) for n in PUBLISHED_MACS} == PUBLISHED_MACS
    with_attention = {
        n: round((model_named(n).macs + model_named(n).attention_macs) / 1e6)
        for n in PUBLISHED_WITH_ATTENTION
    }
    assert with_attention == PUBLISHED_WITH_ATTENTION


def test_densenets_have_the_convolutions_they_are_named_after():
    for name, count in (("densenet101", 100), ("densenet32", 32), ("densenet121", 120)):
        network = built(model_named(name))
        assert sum(isinstance(m, torch.nn.Conv2d) for m in network.modules()) == count


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("DenseNet-121", "densenet121"),
        ("ResNet50", "resnet50"),
        ("NASNet-A (4 @ 1056)", "nasnet_a_mobile"),
        ("nasnetmobile", "nasnet_a_mobile"),
        ("AutoFormerV2-T", "autoformerv2_t"),
        ("Visformer S", "visformer_s"),
        ("MobileNetV3", "mobilenetv3_large"),
        ("MOBILENET V2", "mobilenetv2"),
        ("VGG 19", "vgg19"),
    ],
)
def test_names_as_papers_write_them(written, name):
    assert model_named(written).name == name


def test_names_are_of_one_model_each():
    plain = [
        "".join(c for c in n.lower() if c.isalnum())
        for m in NAMED
        for n in {m.name, m.title.lower().replace("-", ""), *m.aliases} - {""}
    ]
    owners = {n: {m.name for m in NAMED if model_named(n) is m} for n in plain}
    assert all(len(names) == 1 for names in owners.values())
    assert [m.name for m in NAMED] == [model_named(m.name).name for m in NAMED]
    assert model_named("resnet18") is None
    assert model_named("") is None


def test_titles_and_aliases_never_hide_another_model_of_timm():
    """A name of timm's that ours resembles must be the very same network."""
    for name in timm.list_models():
        named = model_named(name)
        assert named is None or named.origin == name, name


def test_origins_in_timm_exist_and_have_weights_where_that_is_said():
    for named in NAMED:
        if ":" not in named.origin:
            assert timm.is_model(named.origin)
            has = timm.get_pretrained_cfg(named.origin)
            assert has.hf_hub_id or has.url
        assert named.pretrained == HUB or "file" in named.pretrained or len(named.pretrained) > 8


def test_listing():
    assert [m.name for m in named_models("vgg")] == ["vgg16", "vgg19"]
    assert [m.name for m in named_models("NASNetM*")] == ["nasnet_a_mobile"]
    assert named_models("no such") == ()
    assert named_models() == NAMED
    assert json.loads(json.dumps([m.as_row() for m in NAMED]))[0]["parameters"] > 0
    names = list_models("nasnet")
    assert names[0] == "nasnet_a_mobile"
    assert "nasnetalarge" in names
    assert list_models("resnet50").count("resnet50") == 1


def test_listing_imports_nothing_heavy():
    code = (
        "import sys; from clinipress.models.catalogue import named_models; "
        "assert named_models('vgg'); "
        "print([m for m in ('torch', 'timm', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("written", ["NASNet-A-Mobile", "DenseNet-32"])
def test_a_study_keeps_the_catalogues_own_name(written):
    spec = InputSpec(channels=1, height=64, width=64)
    recipe = ModelRecipe(name=written)
    kept, module = new_classifier(recipe, spec, 3, 0.4, 0.2)
    named = model_named(written)
    assert (kept.name, kept.factory) == (named.name, None)
    grey = parameters(module) - parameters_with(named, 3)
    assert grey < 0  # the first convolution takes one channel rather than three
    logits = module.eval()(torch.zeros(2, 1, 64, 64, dtype=torch.uint8))
    assert logits.isfinite().all()


def test_a_studys_arguments_win():
    network = create_backbone(
        name="densenet32",
        arguments={"growth_rate": 16},
        num_classes=4,
        in_channels=3,
        size=(64, 64),
    )
    assert parameters(network) < parameters_with(model_named("densenet32"), 4)


def refuse(match, call):
    with pytest.raises(ModelError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nasnet_a_mobile", "densenet32"])
def test_weights_that_no_hub_has(name):
    spec = InputSpec(channels=3, height=64, width=64)
    refuse(
        "weights on the hub",
        lambda: new_classifier(ModelRecipe(name=name, pretrained=True), spec, 3, 0.4, 0.2),
    )


def densenet(blocks, seed, classes=3):
    torch.manual_seed(seed)
    return timm.create_model("densenet121", block_config=blocks, num_classes=classes)


def test_a_kins_weights_as_far_as_the_two_are_the_same(tmp_path):
    kin = densenet((2, 2, 4, 2), 0, classes=7)
    save_file(kin.state_dict(), tmp_path / "a.safetensors")
    target = densenet((2, 2, 3, 2), 1)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    missing = load_pretrained(target, tmp_path / "a.safetensors", or_kin=True)
    after, source = target.state_dict(), kin.state_dict()
    assert missing[0] == "features.transition3.norm.weight"
    for name in after:
        if "num_batches" in name:
            continue
        assert torch.equal(after[name], (before if name in missing else source)[name]), name
    assert "features.denseblock3.denselayer3.conv2.weight" not in missing
    assert "features.denseblock4.denselayer1.conv2.weight" in missing  # would fit, by chance
    refuse(
        "shape|too", lambda: load_pretrained(densenet((2, 2, 3, 2), 1), tmp_path / "a.safetensors")
    )


def test_a_stranger_is_no_kin():
    stranger = timm.create_model("mobilenetv3_small_100").state_dict()
    refuse("begins as this one", lambda: take_shared(densenet((2, 2, 3, 2), 1), stranger))


def test_densenet101_starts_from_densenet121(monkeypatch, tmp_path):
    """36 of its 48 dense layers, from the hub and from a file."""
    torch.manual_seed(0)
    kin = timm.create_model("densenet121")
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *a, **k: kin.state_dict()
    )
    save_file(kin.state_dict(), tmp_path / "a.safetensors")
    spec = InputSpec(channels=1, height=64, width=64)
    for pretrained in (True, str(tmp_path / "a.safetensors")):
        recipe = ModelRecipe(name="densenet101", pretrained=pretrained)
        network = new_classifier(recipe, spec, 3, 0.4, 0.2)[1].backbone
        own, source = network.state_dict(), kin.state_dict()
        same = [
            n
            for n in own
            if n.endswith("conv1.weight") and own[n].shape == source[n].shape
            and torch.equal(own[n], source[n])
        ]  # fmt: skip
        assert len(same) == 36
