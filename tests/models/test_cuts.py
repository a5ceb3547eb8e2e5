"""Networks as people write them: cut right, or what cannot be cut stays whole and is named."""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch
from timm.layers import EcaModule
from timm.layers.cbam import CbamModule
from timm.layers.grn import GlobalResponseNorm
from torch import nn
from torch.nn import functional

from clinipress.errors import ModelError
from clinipress.models.classifier import Classifier, new_classifier
from clinipress.models.cost import macs, parameters
from clinipress.models.pruning.dependencies import dependency_graph, free_groups
from clinipress.models.pruning.pruned import plan_pruning, prune, replay
from clinipress.models.zoo import list_models
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import InputSpec

SIDE = 32
SPEC = InputSpec(channels=1, height=SIDE, width=SIDE)


def conv(inputs, outputs, kernel=3, stride=1, groups=1):
    layers = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layers, nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    """A stem, a middle and a head."""

    def __init__(self, middle, width, stem=16):
        super().__init__()
        self.stem, self.middle = conv(1, stem, stride=2), middle
        self.tail, self.head = conv(width, 24, stride=2), nn.Linear(24, 3)

    def forward(self, images):
        return self.head(self.tail(self.middle(self.stem(images))).mean((2, 3)))


class Chunks(nn.Module):
    """YOLOv8's C2f: two halves, one of which goes on, and all concatenated."""

    def __init__(self):
        super().__init__()
        self.first, self.last = conv(16, 16, 1), conv(32, 16, 1)
        self.blocks = nn.ModuleList(conv(8, 8) for _ in range(2))

    def forward(self, values):
        parts = list(self.first(values).chunk(2, 1))
        parts.extend(block(parts[-1]) for block in self.blocks)
        return self.last(torch.cat(parts, 1))


class Gate(nn.Module):
    """The product of two halves (NAFNet), or a gated linear unit."""

    def __init__(self, gate=lambda u, v: u * v):
        super().__init__()
        self.wide, self.narrow, self.gate = nn.Conv2d(16, 64, 1), nn.Conv2d(32, 16, 1), gate
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)

    def forward(self, values):
        return self.narrow(self.gate(*self.depthwise(self.wide(values)).chunk(2, 1)))


class Mixer(nn.Module):
    """Linear layers over places and over channels in turn (MLP-Mixer)."""

    def __init__(self, places=256, width=16):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.tokens = nn.Sequential(nn.Linear(places, 32), nn.GELU(), nn.Linear(32, places))
        self.channels = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, values):
        tokens = values.flatten(2).transpose(1, 2)
        tokens = tokens + self.tokens(self.norms[0](tokens).transpose(1, 2)).transpose(1, 2)
        tokens = tokens + self.channels(self.norms[1](tokens))
        return tokens.transpose(1, 2).reshape(values.shape)


class Shuffled(nn.Module):
    """Four channels become a square of one (pixel shuffle)."""

    def __init__(self):
        super().__init__()
        self.wide = conv(16, 32, stride=2)

    def forward(self, values):
        return functional.pixel_shuffle(self.wide(values), 2)


class Selective(nn.Module):
    """Two branches weighed by a softmax over both (SKNet)."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(conv(16, 16, k) for k in (3, 5))
        self.squeeze, self.weigh = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 32, 1)

    def forward(self, values):
        both = torch.stack([branch(values) for branch in self.branches], 1)
        share = self.weigh(self.squeeze(both.sum(1).mean((2, 3), keepdim=True)).relu())
        return (both * share.view(-1, 2, 16, 1, 1).softmax(1)).sum(1)


class Partial(nn.Module):
    """ReXNet's residual, added to the first channels of more: many paths for each channel."""

    def __init__(self, blocks=9):
        super().__init__()
        widths = range(16, 16 + 4 * blocks + 1, 4)
        self.wide = nn.ModuleList(conv(width, 32, 1) for width in widths[:-1])
        self.narrow = nn.ModuleList(nn.Conv2d(32, width, 1) for width in widths[1:])
        self.width = widths[-1]

    def forward(self, values):
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            more, width = narrow(wide(values)), values.shape[1]
            values = torch.cat([more[:, :width] + values, more[:, width:]], 1)
        return values


class Scales(nn.Module):
    """Res2Net: each part takes the one before it, too."""

    def __init__(self):
        super().__init__()
        self.first, self.last = conv(16, 32, 1), conv(32, 16, 1)
        self.parts = nn.ModuleList(conv(8, 8) for _ in range(3))

    def forward(self, values):
        first, *others = self.first(values).split(8, 1)
        done = [first]
        for part, other in zip(self.parts, others, strict=True):
            done.append(part(done[-1] + other))
        return self.last(torch.cat(done, 1))


def norm_of_all(places=16):
    return nn.Sequential(nn.Conv2d(16, 32, 1), nn.LayerNorm([32, places, places]), nn.ReLU())


class Attention(nn.Module):
    """An encoder of PyTorch's own, one token a place."""

    def __init__(self, width=16):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 128, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, values):
        tokens = functional.avg_pool2d(values, 2).flatten(2).transpose(1, 2)
        return self.encoder(tokens).transpose(1, 2).reshape(*values.shape[:2], 8, 8)


class Concatenated(nn.Module):
    """Two branches behind each other, then a grouped norm or convolution over both."""

    def __init__(self, layer):
        super().__init__()
        self.branches, self.layer = nn.ModuleList(conv(16, 16) for _ in range(2)), layer

    def forward(self, values):
        return self.layer(torch.cat([branch(values) for branch in self.branches], 1))


MIDDLES = {
    "chunks": (Chunks, 16),
    "gate": (Gate, 16),
    "gated linear unit": (partial(Gate, lambda u, v: u * v.sigmoid()), 16),
    "mixer": (Mixer, 16),
    "pixel shuffle": (Shuffled, 8),
    "selective kernels": (Selective, 16),
    "scales": (Scales, 16),
    "partial residuals": (Partial, 52),
    "norm of all": (norm_of_all, 32),
    "attention": (Attention, 16),
    "concatenation": (partial(Concatenated, nn.GroupNorm(4, 32)), 32),
    "concatenation before groups": (
        partial(Concatenated, nn.Conv2d(32, 32, 3, padding=1, groups=4)),
        32,
    ),
}
# ... and the layer that is cut there, or None where its middle has to stay whole
INSIDE = {
    "chunks": "middle.first.0",
    "gate": "middle.depthwise",
    "gated linear unit": "middle.depthwise",
    "mixer": "middle.channels.0",
    "selective kernels": "middle.squeeze",
    "partial residuals": "middle.wide.0.0",
    "attention": "middle.encoder.layers.0.linear1",
}


def wrap(network, spec=SPEC):
    return Classifier(network, spec, spec.channels, 0.4, 0.2)


def settled(network):
    """Weights drawn; batch norms with statistics as after training."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return network


def drawn(name):
    torch.manual_seed(0)
    middle, width = MIDDLES[name]
    return wrap(settled(Net(middle(), width)))


def cut_any(module, **asked):
    """The plan of the first ratio that can be reached."""
    for ratio in (0.3, 0.2, 0.4, 0.15, 0.1, 0.5, 0.05):
        try:
            return plan_pruning(module, ratio=ratio, round_to=2, scope="uniform", **asked)
        except ModelError as refused:
            problem = refused
    raise problem


@pytest.mark.parametrize("name", sorted(MIDDLES))
def test_f10_networks_of_practice_are_cut_or_stay_whole(name):
    module = drawn(name)
    before = macs(module, SPEC)
    history = cut_any(module)
    cut = {layer for layer, _, _ in history}
    if name in INSIDE:
        assert INSIDE[name] in cut
    small = prune(module, history)
    assert macs(small, SPEC) < before
    again = replay(wrap(Net(MIDDLES[name][0](), MIDDLES[name][1])), history)
    again.load_state_dict(small.state_dict())


def test_f10_halves_of_a_chunk_lose_the_same_channels():
    """The product of two halves has one channel where both have it."""
    history = {name: gone for name, _, gone in cut_any(drawn("gate"))}
    gone = set(history["middle.depthwise"])
    assert {i % 32 for i in gone if i < 32} == {i % 32 for i in gone if i >= 32}
    module = drawn("gate")
    small = prune(module, (("middle.depthwise", True, tuple(sorted(gone))),)).eval()
    images = torch.randint(0, 256, (2, 1, SIDE, SIDE), dtype=torch.uint8)
    with torch.no_grad():
        module.backbone.middle.narrow.weight[:, [i for i in gone if i < 32]] = 0
        expected = module.eval()(images)
        assert torch.allclose(small(images), expected, atol=1e-5)


def test_f10_the_walk_ends_where_every_path_is_one_of_its_own():
    """Torch-Pruning's own walk of nine partial residuals takes minutes, of eighteen no end."""
    module = wrap(Net(Partial(18), 88))
    began = time.process_time()
    with dependency_graph(module) as graph:
        groups = free_groups(graph, set())
    assert time.process_time() - began < 20
    assert {"middle.wide.0.0", "middle.wide.17.0"} <= {group.name for group in groups}


def test_f10_layers_that_stay_whole_are_named():
    module = drawn("norm of all")
    with pytest.raises(ModelError, match="nearest is") as caught:
        plan_pruning(module, ratio=0.9, round_to=2)
    assert "\n" not in str(caught.value)


SHUFFLES = {
    "instance norm": lambda width: nn.InstanceNorm2d(width, affine=True),
    "group norm": lambda width: nn.GroupNorm(4, width),
    "layer norm over all": lambda width: nn.GroupNorm(1, width),
    "response norm": lambda width: GlobalResponseNorm(width, channels_last=False),
    "across channels": EcaModule,
    "attention to channels and places": lambda width: CbamModule(width, rd_ratio=0.5),
    "no norm": lambda _: nn.Identity(),
}


class Branch(nn.Module):
    """A residual branch with a shuffle in it, and a gain that begins at next to nothing."""

    def __init__(self, layer, gain):
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 16, 1)
        self.layer, self.shuffle = layer(32), nn.ChannelShuffle(2)
        self.gain = nn.Parameter(torch.full((16, 1, 1), gain))

    def forward(self, values):
        return values + self.gain * self.narrow(self.shuffle(self.layer(self.wide(values)).relu()))


@pytest.mark.parametrize("gain", [1.0, 1e-6])
@pytest.mark.parametrize("name", sorted(SHUFFLES))
def test_f6_channels_before_a_shuffle_stay_whole(name, gain):
    torch.manual_seed(0)
    module = wrap(settled(Net(Branch(SHUFFLES[name], gain), 16)))
    history = cut_any(module)
    assert "middle.wide" not in {layer for layer, _, _ in history}
    assert {"stem.0", "tail.0"} & {layer for layer, _, _ in history}


@pytest.mark.parametrize("layer", [nn.GroupNorm(4, 32), nn.Conv2d(32, 32, 1, groups=4)])
def test_f6_no_channel_changes_its_group_behind_a_concatenation(layer):
    """Fewer of one branch alone: the groups over both would begin elsewhere."""
    torch.manual_seed(0)
    module = wrap(settled(Net(Concatenated(layer), 32)))
    history = cut_any(module)
    assert not {"middle.branches.0.0", "middle.branches.1.0"} & {name for name, _, _ in history}


class Tied(nn.Module):
    """Two layers of one weight, a module under two names, and a norm's weight used twice."""

    def __init__(self, width=16):
        super().__init__()
        self.a, self.b = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.b.weight = self.a.weight
        self.c = nn.Conv2d(width, width, 1)
        self.d = self.c
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.norms[1].weight = self.norms[0].weight

    def forward(self, values):
        values = self.norms[1](self.b(self.norms[0](self.a(values)).relu())).relu()
        return self.d(self.c(values).relu()).relu()


def test_f7_tied_weights_stay_one_tensor():
    torch.manual_seed(0)
    module = wrap(settled(Net(Tied(), 16)))
    history = plan_pruning(module, ratio=0.4, round_to=2, scope="uniform")
    small = prune(module, history)
    middle = small.backbone.middle
    assert middle.a.weight is middle.b.weight
    assert middle.c is middle.d
    assert middle.norms[0].weight is middle.norms[1].weight
    assert middle.a.weight.shape[0] < 16
    assert parameters(small) < parameters(module)
    again = replay(wrap(Net(Tied(), 16)), history)
    assert again.backbone.middle.a.weight is again.backbone.middle.b.weight
    again.load_state_dict(small.state_dict())


def named(name, side=64, **arguments):
    torch.manual_seed(0)
    spec = InputSpec(channels=1, height=side, width=side)
    recipe = ModelRecipe(name=name, arguments=arguments)
    return settled(new_classifier(recipe, spec, 4, 0.4, 0.2)[1])


# what was cut exactly, what was refused whole, what crashed and what never ended
PRACTICE = """
mnasnet_small convmixer_768_32 pit_ti_224 repvit_m0_9 starnet_s1 lcnet_050 tinynet_e hardcorenas_a
semnasnet_075 selecsls42b seresnext26t_32x4d gernet_s ese_vovnet19b_dw inception_next_atto
hgnetv2_b0 vgg11_bn xception41 visformer_tiny tf_mobilenetv3_small_100 fbnetv3_b swiftformer_xs
mobileone_s0 mixer_s32_224 resmlp_12_224 gmixer_12_224 efficientvit_b0 res2net50_14w_8s rexnet_100
ecaresnet26t focalnet_tiny_srf efficientvit_m0 efficientformerv2_s0 ghostnet_100 edgenext_xx_small
tiny_vit_5m_224 mobilevitv2_050 levit_128s poolformerv2_s12
""".split()  # noqa: SIM905


@pytest.mark.nightly
@pytest.mark.parametrize("name", PRACTICE)
def test_networks_of_practice_are_cut(name):
    assert name in list_models(name)
    module = named(name)
    spec, whole = module.input_spec, macs(module, module.input_spec)
    small = prune(module, plan_pruning(module, ratio=0.2))
    assert abs(1 - macs(small, spec) / whole - 0.2) < 0.021


def test_layers_within_blocks_are_free_where_the_stream_around_them_cannot_be_followed():
    module = named("inception_next_atto")
    with dependency_graph(module) as graph:
        free = [group.name for group in free_groups(graph, set())]
    assert sum(name.endswith("mlp.fc1") for name in free) == 12  # every block's
    assert "stem.0" not in free


def test_selective_kernels_stay_whole_and_are_named():
    with pytest.raises(ModelError, match=r"fc_select.* stay whole: their cuts would change other"):
        plan_pruning(named("skresnet18", side=32), ratio=0.2)
