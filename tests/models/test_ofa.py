"""Once-for-all: counts, sub-nets against the supernet, timm as a referee, published files."""

import os
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from clinipress.errors import ModelError
from clinipress.models.cost import layer_macs, parameters
from clinipress.models.ofa import (
    OFA_595,
    Architecture,
    Space,
    extract,
    ofa_595,
    ofa_mobilenetv3,
    ofa_supernet,
    sort_by_importance,
)
from clinipress.models.ofa.architecture import architecture_of, divisible
from clinipress.models.ofa.network import kernels
from clinipress.models.pretrained import load_checkpoint, load_pretrained
from clinipress.models.recalibration import recalibrate_batch_norms
from kit.each import each_seed
from kit.supernets import one_thread

__all__ = ["one_thread"]  # a fixture for every test here

EXACT = 1e-5  # what the supernet and its extracted sub-net may differ by
# width, architecture, parameters and million multiply-adds at 224 pixels, 1,000 classes
COUNTED = [
    (1.0, "largest", 7_664_760, 566.17),
    (1.0, "smallest", 3_410_792, 121.28),
    (1.2, "largest", 10_701_632, 843.10),
    (1.2, "smallest", 4_602_456, 193.08),
]


NARROW = 0.25  # of the published channels: the same wiring, quick to build


def disturbed(width=NARROW, seed=0, classes=3, in_chans=1):
    """A supernet in which nothing is at its neutral start: norms, statistics, matrices."""
    torch.manual_seed(seed)
    network = ofa_supernet(classes, in_chans, width=width).eval()
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.2)
                part.running_mean.normal_(0, 0.2)
                part.running_var.uniform_(0.5, 2)
            if hasattr(part, "to5"):
                part.to5.add_(0.1 * torch.randn(25, 25))
                part.to3.add_(0.1 * torch.randn(9, 9))
        network.head.weight.normal_(0, 0.1)
    return network


@pytest.fixture(scope="module")
def supernet():
    return disturbed()


def samples(count, seed=0, width=NARROW, **choices):
    random = np.random.default_rng(seed)
    return [Space(width, **choices).sample(random) for _ in range(count)]


# ---------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(("width", "which", "count", "macs"), COUNTED)
def test_counts_of_the_ends_of_each_space(width, which, count, macs):
    chosen = getattr(Space(width), which)()
    assert chosen.parameters() == count
    assert round(chosen.macs() / 1e6, 2) == macs
    built = ofa_mobilenetv3(**chosen.as_arguments())
    assert parameters(built) == count
    assert sum(layer_macs(built, torch.zeros(1, 3, 224, 224)).values()) == chosen.macs()


@pytest.mark.parametrize(("width", "count"), [(1.0, 7_678_880), (1.2, 10_715_752)])
def test_a_supernet_stores_706_values_more_per_elastic_block(width, count):
    network = ofa_supernet(width=width)
    assert parameters(network) == count == Space(width).largest().parameters() + 20 * (625 + 81)


def test_ofa_595():
    network = ofa_595()
    assert parameters(network) == OFA_595.parameters() == 9_135_928
    assert sum(layer_macs(network, torch.zeros(1, 3, 236, 236)).values()) == 595_189_032
    assert round(OFA_595.macs((224, 224)) / 1e6, 2) == 512.86
    middles = [block.middle for block in OFA_595.blocks()[1:]]
    assert middles[:7] == [72, 128, 96, 128, 192, 288, 144]
    assert middles[7:] == [288, 576, 288, 384, 576, 816, 816, 544, 816, 1152, 1152, 576]


@pytest.mark.parametrize(
    ("classes", "count"), [(2, 7_602_002), (3, 7_603_539), (4, 7_605_076), (5, 7_606_613)]
)
def test_ofa_595_with_other_heads(classes, count):
    assert parameters(ofa_595(classes)) == count == OFA_595.parameters(classes)


@each_seed(range(20))
def test_the_formula_counts_what_the_built_network_has(seed):
    random = np.random.default_rng(seed)
    chosen = Space(float(random.choice([0.25, 0.4]))).sample(random)
    side = int(random.integers(33, 97)), int(random.integers(33, 97))
    built = ofa_mobilenetv3(4, 1, **chosen.as_arguments())
    assert chosen.parameters(4, 1) == parameters(built)
    counted = sum(layer_macs(built, torch.zeros(1, 1, *side)).values())
    assert chosen.macs(side, 4, 1) == counted == sum(chosen.macs_by_kind(side, 4, 1).values())


def timm_of(chosen: Architecture, classes: int, size: int) -> MobileNetV3:
    """The same network, built by timm's own decoder from block strings."""
    stages = [[f"ds_r1_k3_s1_e1_c{divisible(16 * chosen.width)}_nre"]]
    strides, squeezed, swish = (2, 2, 2, 1, 2), (0, 1, 0, 1, 1), (0, 0, 1, 1, 1)
    for number, stage in enumerate(chosen.stages):
        given = divisible((24, 40, 80, 112, 160)[number] * chosen.width)
        stages.append(
            [
                f"ir_r1_k{k}_s{1 if place else strides[number]}_e{e}_c{given}"
                + ("_se0.25" if squeezed[number] else "")
                + ("" if swish[number] else "_nre")
                for place, (k, e) in enumerate(stage)
            ]
        )
    stages.append([f"cn_r1_k1_s1_c{chosen.last}"])
    return MobileNetV3(
        decode_arch_def(stages),
        num_classes=classes,
        num_features=chosen.mix,
        stem_size=chosen.stem,
        fix_stem=True,
        head_bias=False,
        round_chs_fn=partial(round_channels, multiplier=1.0),
        act_layer=nn.Hardswish,
        se_layer=partial(
            SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=divisible
        ),
    ).eval()


@pytest.mark.parametrize("chosen", [OFA_595, *samples(4)])
def test_outputs_are_those_of_timms_network(chosen):
    """Weights copied in order, all shapes equal: wiring, activations and gates must agree."""
    theirs = timm_of(chosen, 5, 64)
    ours = ofa_mobilenetv3(5, **chosen.as_arguments()).eval()
    source = disturbed(chosen.width, classes=5, in_chans=3)
    ours.load_state_dict(extract(source, chosen).state_dict())
    mine, yours = ours.state_dict(), theirs.state_dict()
    assert len(mine) == len(yours)
    paired = {}
    for (name, tensor), (other, target) in zip(mine.items(), yours.items(), strict=True):
        assert tensor.shape == target.shape, (name, other)
        paired[other] = tensor
    theirs.load_state_dict(paired)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), atol=EXACT, rtol=1e-4)


# --------------------------------------------------------------------------------- sub-nets


@pytest.mark.parametrize(
    "chosen",
    [Space(NARROW).largest(), Space(NARROW).smallest(), *samples(8)],
    ids=lambda a: str(a.depths),
)
def test_an_extracted_sub_net_answers_as_the_supernet(supernet, chosen):
    images = torch.randn(2, 1, 64, 48)
    small = extract(supernet, chosen)
    assert not [m for m in small.modules() if type(m).__name__.startswith("Elastic")]
    supernet.activate(chosen)
    with torch.inference_mode():
        expected, found = supernet(images), small(images)
    supernet.activate(supernet.architecture)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=0)


def test_a_sub_net_without_its_matrices_is_told_apart(supernet):
    """A planted fault: the centre of the kernel alone is not what the supernet computes."""
    images = torch.randn(2, 1, 64, 48)
    small = extract(supernet, Space(NARROW).smallest())
    for place, block in zip(small.architecture.places(), small.blocks, strict=True):
        if place:
            whole = supernet.blocks[place].depthwise.conv.weight
            middle = block.depthwise.conv.weight
            middle.data = whole[: len(middle), :, 2:-2, 2:-2].clone()
    supernet.activate(Space(NARROW).smallest())
    with torch.inference_mode():
        difference = (small(images) - supernet(images)).abs().max()
    supernet.activate(supernet.architecture)
    assert difference > 100 * EXACT


def test_the_transformed_kernel_by_hand(supernet):
    layer = supernet.blocks[5].depthwise.conv
    weight = layer.weight.detach().double()[3, 0]
    five = torch.zeros(25, dtype=torch.float64)
    for i in range(25):
        for j in range(25):
            five[i] += layer.to5.detach()[i, j].double() * weight[1 + j // 5, 1 + j % 5]
    three = layer.to3.detach().double() @ five.reshape(5, 5)[1:4, 1:4].reshape(9)
    found = kernels(layer.weight[:8], layer.to5, layer.to3, 3)[3, 0].detach().double()
    torch.testing.assert_close(found.reshape(-1), three, atol=1e-6, rtol=1e-5)


def test_gradients_of_a_sub_net_reach_the_shared_weights_alone_that_it_uses(supernet):
    network = disturbed(seed=2)
    network.activate(Space(NARROW).smallest())
    network(torch.randn(2, 1, 32, 32)).square().mean().backward()
    used, unused = network.blocks[2], network.blocks[4]
    assert used.depthwise.conv.to3.grad.abs().max() > 0
    middle = used.expand.conv.in_channels * 3
    assert used.project.conv.weight.grad[:, :middle].abs().max() > 0
    assert used.project.conv.weight.grad[:, middle:].abs().max() == 0
    assert unused.project.conv.weight.grad is None


def test_only_the_largest_network_moves_the_running_statistics():
    network = disturbed().train()
    norms = {n: m.running_mean.clone() for n, m in network.named_modules() if hasattr(m, "records")}
    network.activate(samples(1)[0])
    network(torch.randn(4, 1, 32, 32))
    parts = dict(network.named_modules())
    assert all(torch.equal(parts[n].running_mean, kept) for n, kept in norms.items())
    network.activate(network.architecture)
    network(torch.randn(4, 1, 32, 32))
    assert not any(torch.equal(parts[n].running_mean, kept) for n, kept in norms.items())


def test_norms_measured_again_are_those_of_the_sub_net(supernet):
    small = extract(supernet, samples(1)[0])
    batches = [torch.randn(8, 1, 32, 32) for _ in range(3)]
    count = recalibrate_batch_norms(small, batches)
    assert count == 2 + 3 * (len(small.blocks) - 1) + 2
    seen = []
    hook = small.stem.conv.register_forward_hook(lambda m, i, o: seen.append(o))
    with torch.inference_mode():
        for batch in batches:
            small(batch)
    hook.remove()
    mean = torch.stack([o.mean((0, 2, 3)) for o in seen]).mean(0)
    torch.testing.assert_close(small.stem.norm.running_mean, mean, atol=1e-5, rtol=1e-5)


def test_another_width_is_refused(supernet):
    with pytest.raises(ModelError, match=r"width 0\.25"):
        extract(supernet, Space(1.2).smallest())


@pytest.mark.parametrize("kept", [None, 4])
def test_sorting_by_importance_changes_no_answer_that_must_stay(kept):
    network = disturbed(seed=1)
    images = torch.randn(2, 1, 64, 64)
    stays = [network.architecture]
    stays += [a for a in samples(3, expansions=(4,)) if kept]
    before = []
    for chosen in stays:
        network.activate(chosen)
        before.append(network(images).detach())
    sort_by_importance(network, kept)
    for chosen, expected in zip(stays, before, strict=True):
        network.activate(chosen)
        torch.testing.assert_close(network(images).detach(), expected, atol=1e-4, rtol=1e-4)


def test_sorting_puts_the_channels_that_matter_first():
    network = disturbed(seed=1)
    sort_by_importance(network)
    for block in network.blocks[1:]:
        importance = block.project.conv.weight.detach().abs().sum((0, 2, 3))
        assert (importance.diff() <= 1e-4).all()
    sort_by_importance(network, 4)
    importance = network.blocks[1].project.conv.weight.detach().abs().sum((0, 2, 3))
    assert (importance.diff() <= 1e-4).all()


# ---------------------------------------------------------------------------- published files


def theirs(name: str, *, supernet: bool, older: bool) -> str:
    """A published name of a tensor of ours, written out anew."""
    wrapped = supernet and name.startswith("blocks.") and not name.startswith("blocks.0.")
    if name.startswith("head."):
        return "classifier.linear." + name.removeprefix("head.")
    for mine, end in (
        ("stem", "first_conv"),
        ("final_expand", "final_expand_layer"),
        ("feature_mix", "feature_mix_layer"),
    ):
        if name.startswith(mine + "."):
            return end + name.removeprefix(mine).replace(".norm.", ".bn.")
    _, number, part, rest = name.split(".", 3)
    layer = {"expand": "inverted_bottleneck", "project": "point_linear"}.get(part, "depth_conv")
    if part == "squeeze":
        rest = "se.fc." + rest.replace("restore", "expand")
    elif rest == "conv.to5":
        rest = "conv.7to5_matrix"
    elif rest == "conv.to3":
        rest = "conv.5to3_matrix"
    else:
        kind, leaf = rest.split(".")
        kind = "bn" if kind == "norm" else kind
        rest = f"{kind}.{kind}.{leaf}" if wrapped else f"{kind}.{leaf}"
    home = "mobile_inverted_conv" if older else "conv"
    return f"blocks.{number}.{home}.{layer}.{rest}"


def published(network, *, older=False):
    options = {"supernet": network.elastic, "older": older}
    return {theirs(name, **options): value for name, value in network.state_dict().items()}


# names and shapes of the published w1.2 supernet's layout, as its layers define them
PUBLISHED = {
    "first_conv.conv.weight": (24, 3, 3, 3),
    "blocks.0.conv.depth_conv.conv.weight": (24, 1, 3, 3),
    "blocks.1.conv.inverted_bottleneck.conv.conv.weight": (144, 24, 1, 1),
    "blocks.1.conv.inverted_bottleneck.bn.bn.running_mean": (144,),
    "blocks.1.conv.depth_conv.conv.conv.weight": (144, 1, 7, 7),
    "blocks.1.conv.depth_conv.conv.7to5_matrix": (25, 25),
    "blocks.1.conv.depth_conv.conv.5to3_matrix": (9, 9),
    "blocks.5.conv.depth_conv.se.fc.reduce.weight": (48, 192, 1, 1),
    "blocks.5.conv.depth_conv.se.fc.expand.bias": (192,),
    "blocks.20.conv.point_linear.conv.conv.weight": (192, 1152, 1, 1),
    "final_expand_layer.bn.weight": (1152,),
    "feature_mix_layer.conv.weight": (1536, 1152, 1, 1),
    "classifier.linear.weight": (1000, 1536),
}


def test_the_layout_is_the_published_one():
    state = published(ofa_supernet(width=1.2))
    assert {name: tuple(state[name].shape) for name in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_published_supernets_are_loaded(tmp_path, supernet, older, kind):
    target, path = (
        ofa_supernet(3, 1, width=NARROW).eval(),
        tmp_path / "ofa_mbv3_d234_e346_k357_w1.0",
    )
    state = published(supernet, older=older)
    save_file(state, path) if kind == "safetensors" else torch.save({"state_dict": state}, path)
    load_checkpoint(target, path)
    images = torch.randn(2, 1, 64, 64)
    for chosen in samples(2):
        for network in (supernet, target):
            network.activate(chosen)
        with torch.inference_mode():
            assert torch.equal(target(images), supernet(images))
    supernet.activate(supernet.architecture)


def test_a_published_specialised_network_is_loaded(tmp_path):
    source = extract(disturbed(1.2, in_chans=3), OFA_595)
    torch.save({"state_dict": published(source, older=True)}, tmp_path / "init")
    target = ofa_595(3).eval()
    load_checkpoint(target, tmp_path / "init")
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(target(images), source.eval()(images))


def test_a_sub_net_takes_its_part_of_a_published_supernet(tmp_path):
    source = disturbed(1.2, classes=7, in_chans=3)
    save_file(published(source), tmp_path / "a.safetensors")
    target = ofa_595(4, 1).eval()
    missing = load_pretrained(target, tmp_path / "a.safetensors")
    assert missing == ("head.weight", "head.bias")
    expected = extract(source, OFA_595)
    with torch.no_grad():
        expected.head = target.head
        grey = torch.randn(2, 1, 64, 64)
        torch.testing.assert_close(
            target(grey), expected(grey.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4
        )


def test_a_supernet_of_another_width_is_refused(tmp_path, supernet):
    save_file(published(supernet), tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"width 1\.2"):
        load_pretrained(ofa_595(3, 1), tmp_path / "a.safetensors")


def test_a_published_file_with_a_layer_missing_is_refused(tmp_path, supernet):
    state = {k: v for k, v in published(supernet).items() if not k.startswith("blocks.7.")}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="without"):
        load_pretrained(ofa_supernet(3, 1, width=NARROW), tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="without"):
        load_pretrained(
            ofa_mobilenetv3(3, 1, **Space(NARROW).largest().as_arguments()),
            tmp_path / "a.safetensors",
        )


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_published_file_is_not_run(tmp_path, supernet):
    state = {**published(supernet), "x": Malice(tmp_path / "victim")}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="not run"):
        load_pretrained(ofa_supernet(3, 1, width=NARROW), tmp_path / "a.pth")
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    "stages", [[], [[[3, 3]]] * 4, [[[3, 3]] * 5] * 5, [[[4, 3]]] * 5, [[[3, 5]]] * 5, [[]] * 5]
)
def test_architectures_outside_the_space_are_refused(stages):
    with pytest.raises(ModelError, match="expected"):
        architecture_of(stages, 1.0)


# ------------------------------------------------------------------------------------ space


def test_the_space_is_closed_under_its_moves():
    random, space = np.random.default_rng(0), Space()
    first, second = space.sample(random), space.sample(random)
    for _ in range(50):
        for found in (
            space.mutated(first, 0.3, random),
            space.crossed(first, second, random),
            space.lessened(first, random),
        ):
            assert architecture_of(found.stages, found.width) == found
            assert set(found.depths) <= {2, 3, 4}
        first, second = space.mutated(first, 0.3, random), first


def test_lessening_ends_at_the_smallest_and_always_costs_less():
    random, space = np.random.default_rng(0), Space()
    found, steps = space.largest(), 0
    while found != space.smallest():
        smaller = space.lessened(found, random)
        assert smaller.macs() < found.macs()
        assert smaller.parameters() < found.parameters()
        found, steps = smaller, steps + 1
    assert space.lessened(found, random) == found
    assert steps > 20


def test_a_phase_draws_only_what_it_allows():
    for chosen in samples(20, kernels=(3, 5), expansions=(6,), depths=(4,)):
        assert chosen.depths == (4,) * 5
        assert {k for stage in chosen.stages for k, _ in stage} <= {3, 5}
        assert {e for stage in chosen.stages for _, e in stage} == {6}
