"""Depths of layers against timm's own grouping of its models; what the head is."""

from __future__ import annotations

from itertools import pairwise

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn

from clinipress.models.classifier import Classifier
from clinipress.models.zoo import create_backbone
from clinipress.records.candidate import InputSpec
from clinipress.steps.distill.features import Tapped
from clinipress.train.layers import frozen_names, layer_depths, never_trained
from clinipress.train.optimizer import make_optimizer, set_rate
from kit.training import options, small_net

# name -> layers; a stage's down-sampling and what follows the last stage are layers of their own
# here, which timm joins to their neighbours
LAYERS = {
    "resnet18": 10, "resnet50": 18, "mobilenetv2_100": 20, "mobilenetv3_small_100": 15,
    "densenet121": 63, "vgg16": 15, "legacy_xception": 17, "vit_tiny_patch16_224": 14,
    "deit_tiny_distilled_patch16_224": 14, "swin_s3_tiny_224": 17, "convnext_atto": 17,
}  # fmt: skip


def disorder(ours, theirs):
    """Pairs of timm's neighbouring groups of which ours has the nearer one deeper."""
    groups = {}
    for name, group in theirs.items():
        groups.setdefault(group, []).append(ours[name])
    order = sorted(groups)
    return [(a, b) for a, b in pairwise(order) if min(groups[a]) < max(groups[b])]


def grouped(model):
    return group_parameters(model, model.group_matcher(coarse=False), reverse=True)


@pytest.mark.parametrize("name", LAYERS)
def test_depths_keep_the_order_of_timms_groups(name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=4)
    ours, theirs = layer_depths(model), grouped(model)
    assert ours.keys() == theirs.keys() == {key for key, _ in model.named_parameters()}
    assert disorder(ours, theirs) == []
    assert sorted(set(ours.values())) == list(range(LAYERS[name]))
    wrong = {key: -depth for key, depth in ours.items()}
    assert disorder(wrong, theirs)  # the checker can fail


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_shares_of_the_rate_are_timms_where_its_groups_are_blocks(name):
    model = timm.create_model(name, num_classes=4)
    decay = 0.75
    theirs = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=decay)
    expected = {
        id(p): (group["lr_scale"], group["weight_decay"])
        for group in theirs
        for p in group["params"]
    }
    optimizer = make_optimizer(model, options(weight_decay=0.05), decay)
    set_rate(optimizer, 0.5)
    seen = 0
    for group in optimizer.param_groups:
        for p in group["params"]:
            scale, weight_decay = expected[id(p)]
            assert group["lr"] == pytest.approx(0.5 * scale, rel=1e-12)
            assert group["weight_decay"] == weight_decay
            seen += 1
    assert seen == len(expected)


@pytest.mark.parametrize(("name", "layers"), [("nasnet_a_mobile", 18), ("ofa_595", 24)])
def test_our_own_networks_have_a_layer_per_cell_or_block(name, layers):
    with torch.device("meta"):
        backbone = create_backbone(name=name, num_classes=4, in_channels=3, size=(96, 96))
    assert sorted(set(layer_depths(backbone).values())) == list(range(layers))


def test_a_plain_step_moves_each_layer_by_its_share():
    module, decay = small_net(), 0.5
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = make_optimizer(
        module, options(optimizer="sgd", weight_decay=0.0, learning_rate=0.1), decay
    )
    set_rate(optimizer, 0.1)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    depths = {"body.0": 1, "body.1": 1, "body.6": 0}  # the norm goes with its convolution
    for name, parameter in module.named_parameters():
        moved = 0.1 * decay ** depths[name.rpartition(".")[0]] * 1.9  # Nesterov's first step
        torch.testing.assert_close(before[name] - parameter.detach(), torch.full_like(
            parameter, moved), rtol=1e-5, atol=1e-7)  # fmt: skip


def classifier(name="resnet18"):
    backbone = timm.create_model(name, num_classes=3, in_chans=1)
    return Classifier(backbone, InputSpec(channels=1, height=32, width=32), 1, 0.5, 0.25)


def test_the_head_is_what_does_not_rest():
    module = classifier()
    every = {name for name, _ in module.named_parameters()}
    assert every - frozen_names(module) == {"backbone.fc.weight", "backbone.fc.bias"}
    assert {n for n, d in layer_depths(module).items() if d == 0} == every - frozen_names(module)


def test_what_wraps_a_network_learns_with_its_head():
    tapped = Tapped(classifier(), ["layer4"], [(512, 8)], seed=0)
    every = {name for name, _ in tapped.named_parameters()}
    learns = every - frozen_names(tapped)
    assert {name.partition(".")[0] for name in learns} == {"network", "regressors"}
    assert len(learns) == 4
    depths = layer_depths(tapped)
    assert depths["regressors.0.weight"] == 0
    assert depths["network.backbone.conv1.weight"] == 9


def test_a_network_with_embeddings_of_its_own_inside_a_wrapper():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))
            self.net = timm.create_model("vit_tiny_patch16_224", num_classes=2, depth=3)

    depths = layer_depths(Holder())
    assert depths["scale"] == depths["net.pos_embed"] == depths["net.patch_embed.proj.weight"] == 4
    assert depths["net.blocks.2.mlp.fc1.weight"] == 1
    assert depths["net.norm.weight"] == depths["net.head.bias"] == 0


def test_norms_tell_random_weights_from_trained_ones():
    module = classifier()
    assert never_trained(module)
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.mul_(1.01).add_(0.001)
    assert not never_trained(module)
    assert not never_trained(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))  # cannot be told
