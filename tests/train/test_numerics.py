"""The choice of arithmetic."""

from __future__ import annotations

import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from clinipress.errors import ModelError
from clinipress.models.classifier import new_classifier
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import InputSpec
from clinipress.train.fit import Images
from clinipress.train.numerics import (
    choose,
    measure_numerics,
    named,
    needs_contiguous,
    out_of_place,
    threads_set,
)
from kit.training import MemoryStore, options, same_bits, small_net, weights_of


def test_fastest_wins_and_the_sentence_has_the_figures():
    times = {
        "float32-contiguous": 100.0, "float32-channels-last": 70.0, "bfloat16-channels-last": 60.0,
    }  # fmt: skip
    name, reason = choose(times, "batch 32, 128x128, 2 threads")
    assert name == "bfloat16-channels-last"
    assert "is fastest" in reason
    for text in ("100 ms", "70 ms", "60 ms", "2 threads"):
        assert text in reason


@pytest.mark.parametrize(("other", "chosen"), [(97.2, "float32-channels-last"), (96.0, "x")])
def test_a_tie_goes_to_the_repeatable(other, chosen):
    name, reason = choose({"float32-channels-last": 100.0, "x": other}, "here")
    assert name == chosen
    assert ("within 3% of the fastest, x" in reason) == (chosen != "x")


def test_measuring_leaves_the_module_and_the_generator_alone():
    module = small_net()
    before, state = weights_of(module), torch.random.get_rng_state()
    images = Images(MemoryStore(), np.arange(18), np.arange(18, 24))
    name, reason = measure_numerics(module, images, options(numerics="auto"))
    assert name in {"float32-contiguous", "float32-channels-last", "bfloat16-channels-last"}
    assert "batch 6, 8x8, 1 thread)" in reason
    assert same_bits(before, weights_of(module))
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_named_arithmetic_is_tried_and_not_measured():
    module, images = small_net(), Images(MemoryStore(), np.arange(18), np.arange(18, 24))
    before, state = weights_of(module), torch.random.get_rng_state()
    named_one = options(numerics="bfloat16-channels-last")
    assert measure_numerics(module, images, named_one) == (named_one.numerics, "named in the study")
    assert same_bits(before, weights_of(module))
    assert torch.equal(torch.random.get_rng_state(), state)


def user_network(name):
    spec = InputSpec(channels=1, height=8, width=8)
    recipe = ModelRecipe(factory=f"user_nets:{name}", arguments={"size": 8})
    return new_classifier(recipe, spec, 3, 0.5, 0.25)[1]


@pytest.mark.parametrize("asked", ["auto", "float32-channels-last", "bfloat16-channels-last"])
def test_f1_a_network_without_channels_last_trains_without_it(asked):
    images = Images(MemoryStore(), np.arange(18), np.arange(18, 24))
    module = user_network("View")
    assert needs_contiguous(module)
    name, reason = measure_numerics(module, images, options(numerics=asked))
    assert name == "float32-contiguous"
    assert asked == "auto" or "fails in" in reason


def test_f1_an_arithmetic_that_a_network_fails_in_is_left_out():
    images = Images(MemoryStore(), np.arange(18), np.arange(18, 24))
    module = user_network("NoAutocast")
    name, reason = measure_numerics(module, images, options(numerics="auto"))
    assert "bfloat16" not in name + reason
    name, reason = measure_numerics(module, images, options(numerics="bfloat16-channels-last"))
    assert name == "float32-contiguous"
    assert "the network fails in bfloat16-channels-last" in reason


@pytest.mark.parametrize("asked", ["auto", "float32-contiguous"])
def test_f18_a_network_that_fails_in_training_is_refused(asked):
    images = Images(MemoryStore(), np.arange(18), np.arange(18, 24))
    with pytest.raises(ModelError, match=r"can be trained.*targets are wanted.*self\.training"):
        measure_numerics(user_network("Untrainable"), images, options(numerics=asked))


def test_float16_alone_scales_its_loss():
    device = torch.device("cuda")
    if not torch.cuda.is_available():
        device = torch.device("cpu")
    scalers = {n: named(n).scaler(device).is_enabled() for n in ("float32-channels-last",)}
    assert scalers == {"float32-channels-last": False}
    assert named("float16-channels-last").scaler(torch.device("cpu")).is_enabled()


def clones(module, images):
    """How often autograd copies an activation in a forward pass."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        module(images)
    return sum(event.count for event in seen.key_averages() if event.key == "aten::clone")


def test_activations_are_not_cloned_inside_and_are_as_before_outside():
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU6(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)]
    module, images = nn.Sequential(*layers), torch.randn(2, 1, 8, 8)
    module(images).sum().backward()
    expected = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    assert clones(module, images) == 1
    with out_of_place(module):
        assert clones(module, images) == 0
        module(images).sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(expected, module.parameters(), strict=True))
    assert module[1].inplace
    assert module[3].inplace


def test_threads_are_given_back():
    with threads_set(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1


GLIBC = platform.libc_ver()[0] == "glibc"
FAULTS = """
import resource, sys, torch
from clinipress.train.numerics import release_memory, tune_allocator
torch.set_num_threads(1)
if sys.argv[1] == "tuned":
    assert tune_allocator()
def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize() // 2**20
for warm in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16, 2**20)  # 64 MiB
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = resident()
release_memory()
print(faults, held - resident())
"""


@pytest.mark.skipif(not GLIBC, reason="the setting is glibc's")
def test_tuned_allocator_reuses_pages_until_they_are_released():
    found = {}
    for mode in ("tuned", "as it is"):
        command = [sys.executable, "-c", FAULTS, mode]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[mode] = [int(word) for word in text.split()]
    # every page of 64 MiB, or next to none; with huge pages a fault brings in 512 of them
    assert found["tuned"][0] < 16 <= found["as it is"][0]
    assert found["tuned"][1] > 50
