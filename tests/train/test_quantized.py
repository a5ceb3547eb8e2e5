"""A rounded network against the same thing written out by hand with torch's own kernels."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from clinipress.errors import ModelError
from clinipress.models.classifier import Classifier
from clinipress.records.candidate import InputSpec
from clinipress.steps.qat.network import Place, QuantizedNetwork, Schedule
from clinipress.steps.qat.rounding import grids
from clinipress.steps.qat.tracing import trace

SPEC = InputSpec(channels=1, height=12, width=12)
NEVER = 10**6
PLACES = [
    Place("relu_", 0.0, 3.0),
    Place("add_", -1.0, 4.0),
    Place("relu__1", 0.0, 2.0),
    Place("linear", -2.0, 2.0),
]


class Net(nn.Module):
    """A norm behind a convolution, a sum in place, a norm alone, a dropout."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.side = nn.Conv2d(6, 6, 3, 1, 1, groups=6)
        self.late = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        y = self.side(x)
        y += x
        y = torch.relu_(self.late(y))
        return self.head(self.drop(y.mean((2, 3))))


def network(seed=0):
    torch.manual_seed(seed)
    net = Classifier(Net(), SPEC, 1, 51 / 255, 0.25)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.normal_(part.weight, 1, 0.3)
            nn.init.normal_(part.bias, 0, 0.3)
    return net


def pixels(count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 12, 12), dtype=torch.uint8, generator=generator)


def by_hand(net, ranges, images, *, live):
    """The same network in torch's own terms, batch norm folded before rounding unless live."""
    body = net.backbone

    def rounded(x, number):
        grid = grids(ranges)[number]
        return torch.fake_quantize_per_tensor_affine(x, grid.scale, grid.zero, 0, 255)

    def weights(weight):
        scale = weight.detach().flatten(1).abs().amax(1) / 127
        zero = torch.zeros(len(scale), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)

    x = (images.float() - net.shift) / net.scale
    if live:
        x = F.conv2d(x, weights(body.conv.weight), None, 2, 1)
        x = F.batch_norm(x, None, None, body.norm.weight, body.norm.bias, True)
    else:
        factor = body.norm.weight / (body.norm.running_var + body.norm.eps).sqrt()
        folded = weights(body.conv.weight * factor[:, None, None, None])
        x = F.conv2d(x, folded, body.norm.bias - body.norm.running_mean * factor, 2, 1)
    x = rounded(x.relu(), 0)
    x = rounded(F.conv2d(x, weights(body.side.weight), body.side.bias, 1, 1, 1, 6) + x, 1)
    late = body.late
    given = (None, None) if live else (late.running_mean, late.running_var)
    x = rounded(F.batch_norm(x, *given, late.weight, late.bias, live).relu(), 2)
    return rounded(F.linear(x.mean((2, 3)), weights(body.head.weight), body.head.bias), 3)


@pytest.mark.parametrize("live", [False, True])
def test_forward_and_gradients_are_those_written_by_hand(live):
    ours, theirs = network(), network()
    net = QuantizedNetwork(ours, PLACES, Schedule(NEVER if live else 0, 0)).train()
    ours.backbone.drop.p = 0.0
    net._dropout = lambda kind, x, share: x
    ranges = net.ranges.clone()
    found, expected = net(pixels()), by_hand(theirs, ranges, pixels(), live=live)
    step = 4 / 255
    assert (found - expected).abs().max() < 1.01 * step  # a value halfway may round either way
    assert (found - expected).abs().median() < 1e-5
    weight = torch.linspace(-1, 1, found.numel()).reshape(found.shape)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    wanted = dict(theirs.named_parameters())
    for name, value in ours.named_parameters():
        if live and name == "backbone.conv.weight":
            assert value.grad.abs().max() > 0
        scale = wanted[name].grad.abs().max() + 1e-3
        assert (value.grad - wanted[name].grad).abs().max() < 0.1 * scale, name


def test_eval_changes_nothing_and_rounds():
    net = QuantizedNetwork(network(), PLACES, Schedule(NEVER, NEVER)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    logits = net(pixels())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    expected = by_hand(network(), net.ranges, pixels(), live=False)
    assert (logits - expected).abs().max() < 1.01 * 4 / 255
    plain = network().eval()(pixels())
    assert 0 < (logits - plain).abs().max() < 0.3


def test_norms_and_then_ranges_freeze_when_the_schedule_says():
    net = QuantizedNetwork(network(), PLACES, Schedule(2, 3)).train()
    changed = []
    for _ in range(4):
        before = net.network.backbone.norm.running_mean.clone(), net.ranges.clone()
        net(pixels()).sum().backward()
        after = net.network.backbone.norm.running_mean, net.ranges
        changed.append([not torch.equal(a, b) for a, b in zip(before, after, strict=True)])
    assert changed == [[True, True], [True, True], [False, True], [False, False]]
    assert int(net.steps) == 4


def test_ranges_begin_where_calibration_put_them_and_follow_the_activations():
    net = QuantizedNetwork(network(), PLACES, Schedule(0, NEVER))
    before = net.ranges.clone()
    net.fit_reach(iter([pixels(), pixels(seed=1)]))
    assert torch.equal(net.ranges, before)
    net.network.backbone.drop.p = 0.0
    net.train()
    for _ in range(50):
        net(pixels())
    torch.testing.assert_close(net.ranges[0], before[0], rtol=0.25, atol=0.05)
    with torch.no_grad():  # activations twice as large: ranges grow towards twice as large
        net.network.backbone.norm.weight.mul_(2)
        net.network.backbone.norm.bias.mul_(2)
    for _ in range(300):
        net(pixels())
    assert 1.5 * before[0, 1] < net.ranges[0, 1] < 2.5 * before[0, 1]
    assert net.ranges[0, 0] == 0  # a ReLU's result stays at its bound


def test_a_fixed_place_does_not_move():
    places = [Place("div", -0.5, 3.0, fixed=True), *PLACES]
    net = QuantizedNetwork(network(), places, Schedule(0, NEVER)).train()
    for _ in range(3):
        net(pixels())
    assert net.ranges[0].tolist() == [-0.5, 3.0]
    assert net.ranges[1].tolist() != [0.0, 3.0]


def test_dropout_lives_in_training_only():
    net = QuantizedNetwork(network(), [], Schedule(0, 0))
    assert not torch.equal(net.train()(pixels()), net(pixels()))
    assert torch.equal(net.eval()(pixels()), net(pixels()))


def test_copies_and_pickles_compute_the_same():
    net = QuantizedNetwork(network(), PLACES, Schedule(0, 0)).eval()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(pixels()), net(pixels()))
        with torch.no_grad():
            twin.network.backbone.head.bias.add_(1)
        assert not torch.equal(twin(pixels()), net(pixels()))  # its own weights, not ours


def test_other_tensors_can_be_put_in_by_name():
    net = QuantizedNetwork(network(), PLACES, Schedule(0, 0)).eval()
    other = QuantizedNetwork(network(seed=1), PLACES, Schedule(0, 0)).eval()
    state = {name: value.detach() for name, value in other.state_dict().items()}
    assert torch.equal(torch.func.functional_call(net, state, (pixels(),)), other(pixels()))


def test_a_place_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="without 'relu_9'"):
        QuantizedNetwork(network(), [Place("relu_9", 0, 1)], Schedule(0, 0))


def test_a_network_that_cannot_be_followed_is_one_line():
    class Branching(Net):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    net = Classifier(Branching(), SPEC, 1, 0.2, 0.25)
    with pytest.raises(ModelError, match=r"a network that torch\.export can follow") as caught:
        trace(net, (1, 12, 12))
    assert "\n" not in str(caught.value)


def test_a_traced_program_computes_what_the_network_does_and_writes_nothing_in_place():
    net = network().eval()
    traced = trace(net, (1, 12, 12))
    assert torch.allclose(fx.Interpreter(traced).run(pixels(3)), net(pixels(3)), atol=1e-6)
    names = [getattr(node.target, "_opname", "") for node in traced.graph.nodes]
    assert "add" in names
    assert not [name for name in names if name.endswith("_")]


class Swish(nn.Module):
    """A convolution, a hard-swish, a head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, 2, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(F.hardswish(self.conv(x)).mean((2, 3)))


def test_a_hard_swish_is_one_call_in_training_and_rounds_its_gate_in_eval():
    torch.manual_seed(0)
    net = Classifier(Swish(), SPEC, 1, 51 / 255, 0.25)
    found = [
        Place("conv2d", -2.0, 2.0),
        Place("hardsigmoid_default", 0.0, 1.0, fixed=True),
        Place("mul_tensor", -0.5, 2.0),
    ]
    ours = QuantizedNetwork(copy.deepcopy(net), found, Schedule(0, 0))
    names = {node.name for node in trace(net, (1, 12, 12)).graph.nodes}
    assert {place.node for place in found} <= names
    ours.eval()
    calls = []
    own = ours._hard_swish
    ours._hard_swish = lambda number, x: calls.append(number) or own(number, x)
    images, body = pixels(), net.backbone

    def rounded(x, low, high):
        scale = (high - low) / 255
        return torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 255)

    def weights(weight):
        scale = weight.detach().flatten(1).abs().amax(1) / 127
        zero = torch.zeros(len(scale), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)

    def expected(gate_rounded):
        x = (images.float() - net.shift) / net.scale
        x = rounded(F.conv2d(x, weights(body.conv.weight), body.conv.bias, 2, 1), -2.0, 2.0)
        gate = F.hardsigmoid(x)
        x = rounded(x * (rounded(gate, 0.0, 1.0) if gate_rounded else gate), -0.5, 2.0)
        return F.linear(x.mean((2, 3)), weights(body.head.weight), body.head.bias)

    with torch.no_grad():
        torch.testing.assert_close(ours(images), expected(True), atol=1e-5, rtol=0)
        ours.train()
        torch.testing.assert_close(ours(images), expected(False), atol=1e-5, rtol=0)
    assert calls == [1, 1]
