"""Which weights decay, and the running average by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clinipress.train.optimizer import Average, make_optimizer
from kit.training import options, small_net, weights_of


# Nesterov's first step adds 0.9 of the fresh momentum to the decay's own gradient
@pytest.mark.parametrize(("name", "loss"), [("adamw", 0.05), ("sgd", 0.05 * 1.9)])
def test_no_decay_on_biases_and_norms(name, loss):
    module = small_net()
    before = weights_of(module)
    optimizer = make_optimizer(module, options(optimizer=name, weight_decay=0.1, learning_rate=0.5))
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, parameter in module.named_parameters():
        expected = before[key] * (1 - loss) if parameter.ndim > 1 else before[key]
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=0)


def test_frozen_parameters_are_left_out():
    module = small_net()
    module.body[0].weight.requires_grad_(False)
    optimizer = make_optimizer(module, options())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(module.body[0].weight) not in held


def test_average_by_hand():
    module = nn.BatchNorm1d(1)
    average = Average(module, 0.9)
    expected_weight, expected_mean = 1.0, 0.0
    for t in range(1, 30):
        with torch.no_grad():
            module.weight.fill_(t)
            module.running_mean.fill_(-t)
            module.num_batches_tracked.fill_(t)
        average.update()
        decay = min(0.9, (1 + t) / (10 + t))
        expected_weight = decay * expected_weight + (1 - decay) * t
        expected_mean = decay * expected_mean - (1 - decay) * t
        assert int(average.tensors["num_batches_tracked"]) == t
    assert float(average.tensors["weight"]) == pytest.approx(expected_weight, rel=1e-5)
    assert float(average.tensors["running_mean"]) == pytest.approx(expected_mean, rel=1e-5)


def test_without_a_decay_the_average_is_the_module():
    module = small_net()
    average = Average(module, None)
    average.update()
    key = "body.0.weight"
    assert average.tensors[key].data_ptr() == module.state_dict()[key].data_ptr()
    assert average.updates == 0
