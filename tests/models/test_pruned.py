"""Physical pruning: the ratio asked is the ratio reached, and the record is enough to rebuild."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from timm.layers import EcaModule
from timm.layers.cbam import SpatialAttn
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import user_nets
from clinipress.errors import ModelError
from clinipress.models.classifier import Classifier, build, new_classifier
from clinipress.models.cost import macs, parameters
from clinipress.models.pruning.coupling import cut_equals_hidden, mixers
from clinipress.models.pruning.pruned import hidings, plan_pruning, prune, replay
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import InputSpec

GREY = InputSpec(channels=1, height=32, width=32)
NAMES = [
    "resnet18",
    "resnet50",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "efficientnet_b0",
    "densenet121",
    "convnext_atto",
]
QUICK = "resnet18"


def make(name=QUICK, spec=GREY):
    torch.manual_seed(0)
    return new_classifier(ModelRecipe(name=name), spec, 3, 0.4, 0.2)


def wrap(network, spec=GREY):
    return Classifier(network, spec, spec.channels, 0.4, 0.2)


def removed(before, after, of):
    count = parameters if of == "parameters" else lambda m: macs(m, GREY)
    return 1 - count(after) / count(before)


def images(n=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 1, 32, 32), dtype=torch.uint8, generator=generator)


def answers(module):
    with torch.inference_mode():
        return module.eval()(images())


def through_json(history):
    rows = json.loads(json.dumps(history))
    return tuple((name, is_output, tuple(indices)) for name, is_output, indices in rows)


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


# by day one of each way to couple channels: plain sums, depthwise with gates, dense blocks
BY_DAY = ("resnet18", "mobilenetv3_small_100", "densenet121", "convnext_atto")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in BY_DAY else pytest.mark.nightly) for n in NAMES]
)
def test_ratio_is_reached_and_the_network_is_rebuilt_exactly(name):
    spec, module = make(name)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):  # statistics as after training, not all alike
            nn.init.uniform_(part.running_mean, -0.1, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    before = state(module)
    history = plan_pruning(module, ratio=0.4)
    small = prune(module, history)
    assert abs(removed(module, small, "macs") - 0.4) < 0.01
    rebuilt = build(spec.model_copy(update={"pruning": through_json(history)}), GREY)
    rebuilt.load_state_dict(small.state_dict())
    assert torch.equal(answers(rebuilt), answers(small))
    assert answers(small).shape == (2, 3)
    assert not torch.equal(answers(small), answers(module))
    after = state(module)  # the caller's network is untouched
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("of", ["macs", "parameters"])
@pytest.mark.parametrize("scope", ["global", "uniform"])
@pytest.mark.parametrize("ratio", [0.2, 0.8])
def test_what_the_ratio_counts_and_where_it_falls(of, scope, ratio):
    _, module = make("mobilenetv3_small_100")
    history = plan_pruning(module, ratio=ratio, of=of, scope=scope)
    assert abs(removed(module, prune(module, history), of) - ratio) < 0.01


def test_uniform_takes_about_the_same_share_of_every_layer():
    _, module = make()
    history = plan_pruning(module, ratio=0.5, scope="uniform", round_to=1)
    sizes = {name: module.backbone.get_submodule(name).out_channels for name, _, _ in history}
    shares = [len(gone) / sizes[name] for name, _, gone in history]
    assert max(shares) - min(shares) < 0.04
    spread = plan_pruning(module, ratio=0.5, scope="global", round_to=1)
    shares = [len(gone) / sizes[name] for name, _, gone in spread]
    assert max(shares) - min(shares) > 0.1


@pytest.mark.parametrize("round_to", [1, 4, 8, 16])
def test_channels_are_multiples_and_at_least_one_step(round_to):
    _, module = make("mobilenetv2_100")
    small = prune(module, plan_pruning(module, ratio=0.8, round_to=round_to))
    whole = dict(module.backbone.named_modules())
    for name, layer in small.backbone.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.out_channels != whole[name].out_channels:
            assert layer.out_channels % round_to == 0
            assert layer.out_channels >= max(round_to, whole[name].out_channels / 10)


def test_kept_weights_are_the_parents_own():
    """The record names what went: every kept filter is found where it was."""
    _, module = make()
    nn.init.uniform_(module.backbone.bn1.running_mean)
    history = plan_pruning(module, ratio=0.5, round_to=1)
    small = prune(module, history)
    gone = {name: indices for name, _, indices in history}
    stem = [i for i in range(64) if i not in gone["conv1"]]
    assert 0 < len(stem) < 64
    assert torch.equal(small.backbone.conv1.weight, module.backbone.conv1.weight[stem])
    assert torch.equal(small.backbone.bn1.running_mean, module.backbone.bn1.running_mean[stem])
    # the residual stream of the first stage is the stem's: the same channels go everywhere
    inner = [i for i in range(64) if i not in gone.get("layer1.0.conv1", ())]
    expected = module.backbone.layer1[0].conv2.weight[stem][:, inner]
    assert torch.equal(small.backbone.layer1[0].conv2.weight, expected)


@pytest.mark.parametrize(("criterion", "power"), [("l1", 1), ("l2", 2)])
def test_least_norm_goes_first(criterion, power):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 16, 3, bias=False)
            self.last = nn.Linear(16, 3, bias=False)

        def forward(self, values):
            return self.last(self.first(values).relu().mean((2, 3)))

    torch.manual_seed(0)
    module = wrap(Two())
    network = module.backbone
    norms = network.first.weight.abs().pow(power).flatten(1).sum(1)
    norms = norms + network.last.weight.abs().pow(power).sum(0)
    history = plan_pruning(module, ratio=0.5, criterion=criterion, round_to=1)
    ((name, is_output, indices),) = history
    assert (name, is_output) == ("first", True)
    assert set(indices) == set(norms.argsort()[: len(indices)].tolist())
    assert len(indices) == 8


def test_random_is_seeded_and_is_not_the_ranking():
    _, module = make()
    plans = [plan_pruning(module, ratio=0.3, criterion="random", seed=s) for s in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]
    assert plans[0] != plan_pruning(module, ratio=0.3, criterion="l2")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert plan_pruning(module, ratio=0.3, criterion="random", seed=1) == plans[0]
    assert torch.equal(torch.rand(1), expected)  # torch's global generator is not touched


def test_protected_modules_keep_their_channels():
    _, module = make()
    small = prune(module, plan_pruning(module, ratio=0.3, protect=("layer1", "conv1")))
    for name, layer in small.backbone.layer1.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.out_channels == 64, name
    with pytest.raises(ModelError, match="did you mean layer"):
        plan_pruning(module, ratio=0.3, protect=("layer",))


def test_last_layer_keeps_its_outputs_and_loses_inputs():
    _, module = make("mobilenetv2_100")
    small = prune(module, plan_pruning(module, ratio=0.7))
    assert small.backbone.classifier.out_features == 3
    assert small.backbone.classifier.in_features < module.backbone.classifier.in_features


def test_two_prunings_one_after_the_other_are_rebuilt():
    spec, module = make()
    first = plan_pruning(module, ratio=0.3)
    once = prune(module, first)
    second = plan_pruning(once, ratio=0.3)
    twice = prune(once, second)
    assert abs(removed(once, twice, "macs") - 0.3) < 0.01
    assert {name for name, _, _ in first} & {name for name, _, _ in second}
    rebuilt = build(spec.model_copy(update={"pruning": (*first, *second)}), GREY)
    rebuilt.load_state_dict(twice.state_dict())
    assert torch.equal(answers(rebuilt), answers(twice))


def test_modes_and_frozen_weights_come_back():
    _, module = make()
    module.train()
    module.backbone.bn1.eval()
    module.backbone.conv1.requires_grad_(False)
    with torch.no_grad():
        small = prune(module, plan_pruning(module, ratio=0.3))
    for one in (module, small):
        assert one.training
        assert not one.backbone.bn1.training
        assert not one.backbone.conv1.weight.requires_grad
        assert one.backbone.layer1[0].conv1.weight.requires_grad
    small(images()).sum().backward()
    assert small.backbone.layer1[0].conv1.weight.grad is not None


def test_no_pruning_is_the_network_itself():
    _, module = make()
    assert replay(module, ()) is module


@pytest.mark.parametrize(
    ("history", "match"),
    [
        ((("nowhere", True, (0,)),), "'nowhere'"),
        ((("conv1", True, (64,)),), "64 channels"),
        ((("conv1", True, (-1,)),), "64 channels"),
        ((("conv1", True, ()),), "64 channels"),
        ((("conv1", True, tuple(range(64))),), "leaves channels"),
    ],
)
def test_records_of_another_network_are_refused(history, match):
    _, module = make()
    with pytest.raises(ModelError, match=match):
        prune(module, history)


def test_ratios_out_of_reach_are_refused_with_the_nearest():
    _, module = make()
    with pytest.raises(ModelError, match=r"nearest is 0\.\d+"):
        plan_pruning(module, ratio=0.94, protect=("layer1", "layer2"))


def test_nothing_free_to_go():
    module = wrap(nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 3)))
    with pytest.raises(ModelError, match="channels to remove"):
        plan_pruning(module, ratio=0.3)


class Grouped(nn.Module):
    """Channels of two groups; shuffled between two layers or not."""

    def __init__(self, shuffle):
        super().__init__()
        self.shuffle = shuffle
        self.first = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 64, 3, padding=1)
        self.last = nn.Linear(64, 3)

    def forward(self, values):
        values = self.norm(self.first(values)).relu()
        if self.shuffle:
            n, c, h, w = values.shape
            values = values.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(self.second(values).relu().mean((2, 3)))


@pytest.mark.parametrize("seed", range(5))
def test_channel_shuffle_is_refused_although_every_shape_fits(seed):
    asked = {"ratio": 0.375, "round_to": 2, "criterion": "random", "protect": ("second",)}
    plan_pruning(wrap(Grouped(shuffle=False)), **asked, seed=seed)
    shuffled = wrap(Grouped(shuffle=True))
    with pytest.raises(ModelError, match="as after a shuffle"):
        plan_pruning(shuffled, **asked, seed=seed)
    # what lies beyond the shuffle can be cut, and is
    history = plan_pruning(shuffled, ratio=0.4, round_to=1, protect=("first",))
    assert [name for name, _, _ in history] == ["second"]


def test_shufflenet_is_cut_between_its_shuffles():
    models = pytest.importorskip("torchvision.models")
    spec = InputSpec(channels=3, height=32, width=32)
    module = wrap(models.shufflenet_v2_x0_5(num_classes=3), spec)
    history = plan_pruning(module, ratio=0.2)
    small = prune(module, history)
    assert abs(1 - macs(small, spec) / macs(module, spec) - 0.2) < 0.02
    assert not any(name.endswith("branch2.5") for name, _, _ in history)  # what is shuffled


def test_grouped_convolutions_lose_the_same_of_each_group():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 32, 3, bias=False)
            self.middle = nn.Conv2d(32, 32, 3, groups=4, bias=False)
            self.last = nn.Linear(32, 3)

        def forward(self, values):
            return self.last(self.middle(self.first(values)).relu().mean((2, 3)))

    torch.manual_seed(0)
    module = wrap(Net())
    history = plan_pruning(module, ratio=0.5, round_to=4)
    small = prune(module, history)
    assert abs(removed(module, small, "macs") - 0.5) < 0.02
    assert small.backbone.middle.groups == 4
    for _, _, indices in history:
        counts = [sum(i // 8 == group for i in indices) for group in range(4)]
        assert len(set(counts)) == 1


def test_checker_of_couplings_can_fail():
    """Hiding other channels than were cut is noticed."""
    torch.manual_seed(0)
    module = wrap(Grouped(shuffle=False))
    gone = (1, 5, 9)
    small = prune(module, (("first", True, gone),))
    before = copy.deepcopy(module.state_dict())
    compare = {"channels": 1, "size": (32, 32)}
    right = {"second": torch.tensor(gone)}
    wrong = {"second": torch.tensor((1, 5, 10))}
    assert cut_equals_hidden(module.backbone, small.backbone, right, **compare)
    assert not cut_equals_hidden(module.backbone, small.backbone, wrong, **compare)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


class Recalibration(nn.Module):
    """A harmless layer whose name holds "eca"."""

    def forward(self, values):
        return 1.5 * values


class ChannelRoot(nn.Module):
    """A root mean square over channels, and a gain, under a name that says nothing."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, values):
        root = values.square().mean(1, keepdim=True).sqrt() + 1e-5
        return values / root * self.weight[:, None, None]


class Standardised(nn.Conv2d):
    """Weights standardised over the inputs of each output."""

    def forward(self, values):
        axes = (1, 2, 3)
        centred = self.weight - self.weight.mean(axes, keepdim=True)
        weight = centred / (self.weight.std(axes, keepdim=True) + 1e-5)
        return nn.functional.conv2d(values, weight, self.bias, self.stride, self.padding)


def halves(layer, *, shuffle, conv=nn.Conv2d):
    """Two convolutions with a layer of the first one's width between them, shuffled or not."""
    parts = [nn.Conv2d(1, 32, 3, 2, 1, bias=False), layer(32), nn.ReLU()]
    parts += [nn.ChannelShuffle(2)] * shuffle
    parts += [conv(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return wrap(nn.Sequential(*parts, nn.Linear(64, 3)))


LAYERS_BETWEEN = {
    "batch norm": nn.BatchNorm2d,
    "instance norm": lambda width: nn.InstanceNorm2d(width, affine=True),
    "group norm": lambda width: nn.GroupNorm(1, width),
    "root": ChannelRoot,
    "across channels": EcaModule,
    "over places": lambda _: SpatialAttn(),
    "a name": lambda _: Recalibration(),
}
MIXING = {"group norm", "root", "across channels", "over places"}


# the two attentions' own convolutions are beyond Torch-Pruning in so small a network
@pytest.mark.parametrize("name", sorted(LAYERS_BETWEEN.keys() - {"across channels", "over places"}))
def test_f6_what_a_shuffle_reads_stays_whole_whatever_else_the_network_holds(name):
    asked = {"ratio": 0.45, "round_to": 2, "criterion": "random", "scope": "uniform"}
    torch.manual_seed(0)
    plain, shuffled = (
        {cut for cut, _, _ in plan_pruning(halves(LAYERS_BETWEEN[name], shuffle=turned), **asked)}
        for turned in (False, True)
    )
    assert "0" in plain
    assert shuffled == {"4"}


def test_f6_standardised_weights_do_not_switch_it_off():
    asked = {"ratio": 0.45, "round_to": 2, "criterion": "random", "scope": "uniform"}
    plain, shuffled = (
        halves(nn.BatchNorm2d, shuffle=shuffle, conv=Standardised) for shuffle in (False, True)
    )
    assert "0" in {cut for cut, _, _ in plan_pruning(plain, **asked)}
    assert {cut for cut, _, _ in plan_pruning(shuffled, **asked)} == {"4"}


@pytest.mark.parametrize("name", sorted(LAYERS_BETWEEN))
def test_f6_mixers_are_found_by_what_they_compute(name):
    wide = halves(LAYERS_BETWEEN[name], shuffle=True).backbone.eval()
    narrow = copy.deepcopy(wide)
    narrow[0] = nn.Conv2d(1, 16, 3, 2, 1, bias=False)
    narrow[1] = LAYERS_BETWEEN[name](16)
    narrow[4] = nn.Conv2d(16, 64, 3, padding=1)
    with torch.inference_mode():
        found = mixers(wide, narrow, torch.randn(4, 1, 16, 16))
    assert found == ({"1": 1} if name in MIXING else {})


# small transformers: the families' own code, few blocks
WIDE = InputSpec(channels=1, height=64, width=64)
TRANSFORMERS = {
    "visformer_tiny": {"init_channels": 16, "embed_dim": 96, "depth": (1, 2, 1), "num_heads": 4},
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 32,
        "depths": (2, 1, 2),
        "num_heads": (2, 4, 8),
        "window_size": 4,
    },
    "vit_tiny_patch16_224": {"embed_dim": 64, "depth": 2, "num_heads": 4},
}


def make_transformer(name):
    torch.manual_seed(0)
    recipe = ModelRecipe(name=name, arguments=TRANSFORMERS[name])
    spec, module = new_classifier(recipe, WIDE, 3, 0.4, 0.2)
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.05)
    return spec, module.eval()


def noise(n=3):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (n, 1, 64, 64), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", sorted(TRANSFORMERS))
@pytest.mark.parametrize("scope", ["uniform", "isomorphic"])
def test_heads_and_channels_of_transformers_go(name, scope):
    spec, module = make_transformer(name)
    history = plan_pruning(module, ratio=0.5, scope=scope, round_to=4)
    small = prune(module, history)
    assert abs(1 - macs(small, WIDE) / macs(module, WIDE) - 0.5) < 0.02
    own = dict(module.backbone.named_modules())
    fewer = [
        layer.num_heads < own[part].num_heads
        for part, layer in small.backbone.named_modules()
        if hasattr(layer, "num_heads") and hasattr(layer, "qkv")
    ]
    assert any(fewer)
    names = {part.rsplit(".", 1)[-1] for part, _, _ in history}
    assert {"qkv"} < names  # channels too
    rebuilt = build(spec.model_copy(update={"pruning": through_json(history)}), WIDE).eval()
    rebuilt.load_state_dict(small.state_dict())
    with torch.inference_mode():
        assert torch.equal(rebuilt(noise()), small.eval()(noise()))


@pytest.mark.parametrize("name", sorted(TRANSFORMERS))
def test_removed_heads_are_heads_that_say_nothing(name):
    """The referee: weights of the projection set to zero by hand, in the whole network."""
    _, module = make_transformer(name)
    attention = next(
        (part, layer)
        for part, layer in module.backbone.named_modules()
        if hasattr(layer, "qkv") and layer.num_heads > 2
    )
    part, layer = attention
    size = layer.proj.weight.shape[1] // layer.num_heads
    rows = [
        third * layer.num_heads * size + head * size + j
        for third in range(3)
        for head in (0, 2)
        for j in range(size)
    ]
    small = prune(module, ((f"{part}.qkv", True, tuple(rows)),))
    cut = small.backbone.get_submodule(part)
    assert cut.num_heads == layer.num_heads - 2
    assert cut.qkv.weight.shape[0] == 3 * size * cut.num_heads
    with torch.no_grad():
        for head in (0, 2):
            layer.proj.weight[:, head * size : (head + 1) * size] = 0
        assert torch.allclose(small.eval()(noise()), module(noise()), atol=1e-5)
    assert parameters(small) < parameters(module)


def test_heads_cut_twice_are_rebuilt():
    spec, module = make_transformer("swin_tiny_patch4_window7_224")
    first = plan_pruning(module, ratio=0.3, scope="uniform", round_to=1)
    once = prune(module, first)
    second = plan_pruning(once, ratio=0.3, scope="uniform", round_to=1)
    twice = prune(once, second)
    assert {n for n, _, _ in first if "qkv" in n} & {n for n, _, _ in second if "qkv" in n}
    rebuilt = build(spec.model_copy(update={"pruning": (*first, *second)}), WIDE)
    rebuilt.load_state_dict(twice.state_dict())
    with torch.inference_mode():
        assert torch.equal(rebuilt.eval()(noise()), twice.eval()(noise()))


@pytest.mark.parametrize("rows", [(0,), (0, 1, 2), tuple(range(96))])
def test_records_of_half_a_head_or_of_all_are_refused(rows):
    _, module = make_transformer("visformer_tiny")
    name = next(n for n, layer in module.backbone.named_modules() if n.endswith("attn.qkv"))
    whole = tuple(range(module.backbone.get_submodule(name).out_channels))
    with pytest.raises(ModelError, match=r"whole heads|leaves channels"):
        prune(module, ((name, True, rows if len(rows) < 90 else whole),))


def test_attention_of_another_build_keeps_its_heads():
    short = {"embed_dim": 48, "depths": (1, 1, 2, 1)}
    recipe = ModelRecipe(name="swinv2_cr_tiny_ns_224", arguments=short)
    _, module = new_classifier(recipe, WIDE, 3, 0.4, 0.2)
    cut = {name for name, _, _ in plan_pruning(module, ratio=0.3)}
    assert cut
    assert any(".mlp." in name for name in cut)
    assert not any(name.endswith(("qkv", "attn.proj")) for name in cut)


def test_protected_attention_keeps_its_heads():
    _, module = make_transformer("visformer_tiny")
    names = [n for n, _ in module.backbone.named_modules() if n.endswith("attn.qkv")]
    history = plan_pruning(module, ratio=0.3, scope="uniform", protect=names[:1])
    gone = {name for name, _, _ in history}
    assert names[0] not in gone
    assert gone & {*names[1:]}


def test_isomorphic_takes_the_same_share_of_every_topology():
    _, module = make("resnet18")
    history = plan_pruning(module, ratio=0.5, scope="isomorphic", round_to=1)
    sizes = {name: module.backbone.get_submodule(name).out_channels for name, _, _ in history}
    gone = {name: len(indices) for name, _, indices in history}
    # inner channels of all basic blocks: one topology; the least important go, wherever they are
    inner = [n for n in gone if n.endswith("conv1") and n != "conv1"]
    every = [n for n, _ in module.backbone.named_modules() if n.endswith("conv1") and "." in n]
    total = sum(module.backbone.get_submodule(n).out_channels for n in every)
    share = sum(gone[n] for n in inner) / total
    first = gone["layer1.1.conv2"] / sizes["layer1.1.conv2"] if "layer1.1.conv2" in gone else None
    assert share == pytest.approx(0.35, abs=0.2)
    shares = [gone[n] / sizes[n] for n in inner]
    assert max(shares) - min(shares) > 0.05  # not uniform
    streams = [n for n in gone if n not in inner]
    assert first is None or first == pytest.approx(share, abs=0.1)
    assert all(gone[n] / sizes[n] == pytest.approx(share, abs=0.12) for n in streams)


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_filters_are_counted(ratio):
    _, module = make("mobilenetv2_100")
    small = prune(module, plan_pruning(module, ratio=ratio, of="filters"))

    def count(network):
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        return sum(layer.weight.shape[0] for layer in layers)

    assert abs(1 - count(small) / count(module) - ratio) < 0.02


@pytest.mark.parametrize("criterion", ["fpgm", "batch-norm", "taylor", "l1"])
def test_every_criterion_reaches_the_ratio(criterion):
    _, module = make()
    batches = [(images(4), torch.arange(4) % 3)]
    history = plan_pruning(module, ratio=0.4, criterion=criterion, batches=batches)
    assert abs(removed(module, prune(module, history), "macs") - 0.4) < 0.02
    assert history != plan_pruning(module, ratio=0.4, criterion="random")


@pytest.mark.parametrize(
    ("name", "ending"), [("mobilenetv3_small_100", "se.conv_reduce"), ("densenet121", ".conv")]
)
def test_squeeze_excite_and_concatenations_lose_channels(name, ending):
    _, module = make(name)
    history = plan_pruning(module, ratio=0.4, scope="uniform", round_to=1)
    small = dict(prune(module, history).backbone.named_modules())
    layers = [pair for pair in module.backbone.named_modules() if pair[0].endswith(ending)]
    assert len(layers) >= 3  # squeezes of every block, or the transitions that read all the stages
    assert all(small[part].in_channels < layer.in_channels for part, layer in layers)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_checker_of_couplings_can_fail_beside_layer_norms(name):
    _, module = make_transformer(name)
    stream = "layers.0.blocks.0.mlp.fc2" if "swin" in name else "blocks.0.mlp.fc2"
    found = [h for h in hidings(module, [0.5]) if stream_of(module, h[2], stream)]
    (unit, _, hidden), *_ = found
    size = module.backbone.get_submodule(unit).weight.shape[0]
    gone = set(hidden[stream.replace("fc2", "fc1")].tolist())
    small = prune(module, ((unit, True, tuple(sorted(gone))),))
    compare = {"channels": 1, "size": (64, 64)}
    assert cut_equals_hidden(module.backbone, small.backbone, hidden, **compare)
    others = tuple(sorted({(i + 1) % size for i in gone}))
    wrong = prune(module, ((unit, True, others),))
    assert not cut_equals_hidden(module.backbone, wrong.backbone, hidden, **compare)


def stream_of(module, hidden, stream):
    """Whether what is hidden is a residual stream: the layer's block reads it and its norm does."""
    reader = stream.replace("fc2", "fc1")
    return reader in hidden and any("norm" in part for part in hidden)


def test_f7_tied_weights_stay_tied_and_whole():
    module = wrap(user_nets.Tied(3, 1))
    small = prune(module, plan_pruning(module, ratio=0.21, round_to=1)).backbone
    assert small.second.weight is small.first.weight
    assert parameters(small) < parameters(module)


class ChannelNorm(nn.LayerNorm):
    """Over the second dimension, which its name does not say."""

    def forward(self, x):
        moved = x.movedim(1, -1)
        normed = nn.functional.layer_norm(moved, self.normalized_shape, self.weight, None, 1e-6)
        return normed.movedim(-1, 1)


class AsWide(nn.Module):
    """Maps as wide as they have channels, or wider."""

    def __init__(self, stride):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 4, stride, 1), ChannelNorm(16, 1e-6, bias=False)
        self.body = nn.Conv2d(16, 24, 3, 2)
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.body(self.norm(self.stem(x)).relu()).mean((2, 3)))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_norm_has_its_channels_where_it_computes(stride):
    torch.manual_seed(0)
    module = wrap(AsWide(stride))
    small = prune(module, plan_pruning(module, ratio=0.4, round_to=1))
    assert small.backbone.norm.weight.numel() < 16
    assert removed(module, small, "macs") == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
def test_weights_that_are_computed_of_others_are_cut_as_numbers(norm):
    torch.manual_seed(0)
    layers = norm(nn.Conv2d(1, 16, 3)), nn.ReLU(), norm(nn.Conv2d(16, 24, 3)), nn.ReLU()
    module = wrap(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3)))
    history = plan_pruning(module, ratio=0.4, round_to=1)
    small = prune(module, history)
    assert removed(module, small, "macs") == pytest.approx(0.4, abs=0.02)
    again = replay(copy.deepcopy(module), through_json(history))
    again.load_state_dict(small.state_dict())
    torch.testing.assert_close(answers(again), answers(small))
