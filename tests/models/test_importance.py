"""Criteria against referees: Torch-Pruning's own scores, gates by autograd, loops by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import nn

from clinipress.errors import ModelError
from clinipress.models.classifier import Classifier, new_classifier
from clinipress.models.pruning import pruned
from clinipress.models.pruning.coupling import hidden_from
from clinipress.models.pruning.dependencies import dependency_graph, free_groups
from clinipress.models.pruning.importance import score, taylor_scores
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import InputSpec

GREY = InputSpec(channels=1, height=32, width=32)


def make(name, **arguments):
    torch.manual_seed(0)
    module = new_classifier(ModelRecipe(name=name, arguments=arguments), GREY, 3, 0.4, 0.2)[1]
    for part in module.modules():  # a trained network's, not all alike
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.2, 2.0)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


def groups_of(module):
    with dependency_graph(module) as graph:
        return free_groups(graph, set())


def referee(module, importance):
    """Root layer -> Torch-Pruning's score of its channels, on a graph of its own."""
    images = torch.zeros(1, 1, 32, 32)
    graph = tp.DependencyGraph().build_dependency(module.backbone, (images,), verbose=False)
    found = {}
    for group in graph.get_all_groups(root_module_types=(nn.Conv2d, nn.Linear)):
        scores = importance(group)
        if scores is not None:
            found[graph._module2name[group[0].dep.target.module]] = scores.numpy()
    return found


REFEREES = {
    "l1": tp.importance.GroupMagnitudeImportance(p=1),
    "l2": tp.importance.GroupMagnitudeImportance(p=2),
    "batch-norm": tp.importance.BNScaleImportance(normalizer=None),
}


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100"])
@pytest.mark.parametrize("criterion", sorted(REFEREES))
def test_scores_are_those_of_torch_pruning(name, criterion):
    module = make(name)
    groups = groups_of(module)
    expected = referee(module, REFEREES[criterion])
    compared = 0
    for group, scores in zip(groups, score(groups, criterion, 0), strict=True):
        assert group.table.shape[1] == group.block == 1
        np.testing.assert_allclose(scores, expected[group.name], rtol=1e-5)
        compared += 1
    assert compared > 5


class Two(nn.Module):
    """A convolution with batch norm, and two readers of its channels."""

    def __init__(self, channels=6):
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, 4, 3, padding=1)
        self.last = nn.Linear(channels + 4, 3)

    def forward(self, values):
        values = self.norm(self.first(values)).relu()
        return self.last(torch.cat([values, self.second(values)], 1).mean((2, 3)))


def wrapped(network):
    torch.manual_seed(0)
    return Classifier(network, GREY, 1, 0.4, 0.2).eval()


def batches(count=3, size=5):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, 256, (size, 1, 32, 32), dtype=torch.uint8, generator=generator),
            torch.randint(0, 3, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def gated(network, module, images, labels, layer):
    """Derivative of the loss by a gate on each output channel of a layer, all gates at one."""
    gate = torch.ones(layer.num_features, requires_grad=True)
    hook = layer.register_forward_hook(lambda _, __, out: out * gate[None, :, None, None])
    loss = nn.functional.cross_entropy(module(images), labels)
    hook.remove()
    return torch.autograd.grad(loss, gate)[0].numpy()


def test_taylor_is_the_papers_gate_and_predicts_the_loss():
    """A gate after the batch norm is a gate on what the readers see: ReLU lets it through."""
    torch.manual_seed(3)
    module = wrapped(Two())
    network = module.backbone
    (group,) = [g for g in groups_of(module) if g.name == "first"]
    (found,) = taylor_scores(module, [group], batches())
    gates = np.stack([gated(network, module, *b, network.norm) for b in batches()])
    np.testing.assert_allclose(found, (gates**2).mean(0), rtol=1e-4)
    # the first order of the true change: hiding a channel of small weights
    with torch.no_grad():
        network.second.weight.mul_(0.01)
        network.last.weight.mul_(0.01)
    (found,) = taylor_scores(module, [group], batches(count=1))
    ((images, labels),) = batches(count=1)
    for column in range(group.size):
        hidden = pruned._hidden([group], [(column,)])
        with torch.no_grad():
            whole = nn.functional.cross_entropy(module(images), labels)
            with hidden_from(network, hidden):
                without = nn.functional.cross_entropy(module(images), labels)
        assert found[column] == pytest.approx(float(without - whole) ** 2, rel=0.1, abs=1e-12)


def test_taylor_of_heads_is_the_gate_on_the_heads_outputs():
    module = make("visformer_tiny", init_channels=8, embed_dim=48, depth=(1, 1, 1), num_heads=2)
    heads = [g for g in groups_of(module) if g.block > 1]
    assert heads
    found = taylor_scores(module, heads, batches(count=2))
    for group, scores in zip(heads, found, strict=True):
        projection = module.backbone.get_submodule(group.name.replace(".qkv", ".proj"))
        total = np.zeros(group.size)
        for images, labels in batches(count=2):
            gate = torch.ones(group.size, requires_grad=True)
            hook = projection.register_forward_pre_hook(
                lambda layer, given, gate=gate: (
                    given[0]
                    * gate.repeat_interleave(given[0].shape[1] // len(gate))[None, :, None, None],
                )
            )
            loss = nn.functional.cross_entropy(module(images), labels)
            hook.remove()
            total += torch.autograd.grad(loss, gate)[0].numpy() ** 2
        np.testing.assert_allclose(scores, total / 2, rtol=1e-3, atol=1e-12)


def test_taylor_leaves_weights_modes_and_gradients_alone():
    module = wrapped(Two())
    module.train()
    before = copy.deepcopy(module.state_dict())
    groups = groups_of(module)
    taylor_scores(module, groups, batches())
    assert module.training
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    with pytest.raises(ModelError, match="training images"):
        taylor_scores(module, groups, [])


def test_geometric_median_by_two_loops():
    module = wrapped(Two())
    (group,) = [g for g in groups_of(module) if g.name == "first"]
    (found,) = score([group], "fpgm", 0)
    filters = module.backbone.first.weight.detach().double().reshape(6, -1).numpy()
    sums = [sum(np.sqrt(((f - g) ** 2).sum()) for g in filters) for f in filters]
    np.testing.assert_allclose(found, np.array(sums) / np.mean(sums), rtol=1e-9)
    # not a norm: a filter at the median goes first, however large
    with torch.no_grad():
        module.backbone.first.weight[2] = module.backbone.first.weight.median(0).values
    assert score([group], "fpgm", 0)[0].argmin() == 2


def test_batch_norm_scale_leaves_the_rest_and_says_when_there_is_none():
    module = make("resnet18")
    groups = groups_of(module)
    mixed = score(groups, "batch-norm", 0)
    assert all(scores is not None for scores in mixed)
    plain = wrapped(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 30 * 30, 3)))
    with pytest.raises(ModelError, match="one without batch norms"):
        score(groups_of(plain), "batch-norm", 0)
    partly = make("visformer_tiny", init_channels=8, embed_dim=48, depth=(1, 1, 1), num_heads=2)
    groups = groups_of(partly)
    judged = dict(zip((g.name for g in groups), score(groups, "batch-norm", 0), strict=True))
    assert all((scores is None) == name.endswith("qkv") or "mlp" in name
               for name, scores in judged.items())  # fmt: skip


def test_grouped_inputs_count_only_their_own_weights():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 8, 3, bias=False)
            self.middle = nn.Conv2d(8, 12, 3, groups=2, bias=False)
            self.last = nn.Linear(12, 3, bias=False)

        def forward(self, values):
            return self.last(self.middle(self.first(values)).relu().mean((2, 3)))

    module = wrapped(Net())
    network = module.backbone.requires_grad_(False)
    (group,) = [g for g in groups_of(module) if g.name == "first"]
    assert group.table.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    (found,) = score([group], "l1", 0)
    expected = np.zeros(4)
    for channel in range(8):
        own = slice(0, 6) if channel < 4 else slice(6, 12)
        weights = network.middle.weight[own, channel % 4].abs().sum()
        expected[channel % 4] += float(weights + network.first.weight[channel].abs().sum())
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-5)
