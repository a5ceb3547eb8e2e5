from __future__ import annotations

import numpy as np
import pytest

from clinipress.formats.onnx import placement
from clinipress.formats.onnx.count import count_low_precision, weight_bytes
from clinipress.formats.onnx.int8 import apply_int8, plan_int8, prepare
from clinipress.formats.onnx.placement import (
    Trial,
    agreement_images,
    groups,
    search,
    signal_to_noise,
)
from clinipress.formats.onnx.run import OnnxCandidate
from kit.onnx_nets import conv_net, pixels, saved


def world(noise, cost, fixed=1.0):
    """A made-up network: what each group in 8 bits adds in noise and saves in time."""

    def measure(low):
        power = sum(noise[g] for g in low) + 1e-6
        time = fixed + sum(cost[g] for g in low)
        return Trial(low, max(0.0, 1 - power), -10 * np.log10(power), time, 1000 - len(low))

    return measure


def test_8_bits_throughout_are_kept_where_they_do():
    best, trials, reason = search(3, world([0.001] * 3, [-0.2] * 3), agreement=0.98, time=1.0)
    assert best.low == (0, 1, 2)
    assert len(trials) == 1
    assert reason.startswith("3 of 3 groups")


def test_the_noisiest_group_goes_back_to_float_first():
    best, trials, _ = search(
        4, world([0.001, 0.2, 0.001, 0.001], [-0.1] * 4), agreement=0.98, time=1.0
    )
    assert best.low == (0, 2, 3)
    assert trials[0].low == (0, 1, 2, 3)


def test_a_group_that_is_slower_in_8_bits_stays_in_float():
    best, _, _ = search(3, world([0.001] * 3, [0.5, -0.1, -0.2]), agreement=0.98, time=1.0)
    assert best.low == (1, 2)


def test_nothing_in_8_bits_where_every_group_is_slower():
    """The trap of MobileNetV3-Small: quantized and yet slower."""
    best, _, reason = search(3, world([0.02] * 3, [0.5, 0.1, 0.2]), agreement=0.98, time=1.0)
    assert best.low == ()
    assert "0 of 3 groups" in reason
    assert "1.80" in reason  # what 8 bits throughout would have taken


def test_a_target_out_of_reach_is_said_and_the_nearest_kept():
    best, _, reason = search(2, world([0.3, 0.3], [-0.1, -0.1]), agreement=1.0, time=1.0)
    assert best.low == ()
    assert "no placement reached the agreement" in reason
    best, _, reason = search(2, world([0.0, 0.0], [0.1, 0.2], fixed=1.5), agreement=0.9, time=1.0)
    assert best.low == ()
    assert "no placement reached the time" in reason


def test_best_so_far_is_kept_though_later_trials_are_worse():
    def measure(low):
        time = {(0, 1): 1.2, (1,): 0.7, (0,): 0.9, (): 1.0}[low]
        return Trial(low, 1.0, 60.0, time, 1000)

    best, trials, _ = search(2, measure, agreement=0.98, time=1.0)
    assert best.low == (1,)
    assert len({trial.low for trial in trials}) == 4


def test_signal_to_noise_of_a_hand_made_case():
    exact = np.array([[3.0, -3.0]], np.float32)
    assert signal_to_noise(exact, exact + 5) == placement.MAX_DECIBELS  # a shared offset is nothing
    found = np.array([[3.3, -3.3]], np.float32)
    assert signal_to_noise(exact, found) == pytest.approx(20, abs=1e-4)


def test_blends_are_the_means_of_two_images():
    images = pixels(6)
    both = agreement_images(images, seed=3)
    np.testing.assert_array_equal(both[:6], images)
    order = np.random.default_rng(3).permutation(6)
    np.testing.assert_array_equal(both[6:], (images.astype(int) + images[order]) // 2)
    np.testing.assert_array_equal(both, agreement_images(images, seed=3))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return saved(conv_net(), tmp_path_factory.mktemp("place") / "float.onnx")


def test_groups_cover_every_node_once_in_order_and_have_a_layer_each(source):
    model = prepare(source)
    for most in (1, 2, 3, 8):
        parts = groups(model, most)
        assert [n for part in parts for n in part] == [node.name for node in model.graph.node]
        assert len(parts) <= most
        kinds = {node.name: node.op_type for node in model.graph.node}
        assert all(any(kinds[n] in placement.LAYERS for n in part) for part in parts)
    head = [kinds[n] for n in groups(model, 3)[-1]]
    assert "Gemm" in head
    assert "Conv" not in head
    # a branch is never cut: hard sigmoid and its product stay together
    gates = [part for part in groups(model) if any(kinds[n] == "HardSigmoid" for n in part)]
    assert any(kinds[n] == "Mul" for n in gates[0])


def test_layers_in_float_keep_8_bit_weights_and_float_arithmetic(tmp_path, source):
    plan = plan_int8(source, pixels(16))
    names = tuple(node.name for node in prepare(source).graph.node)
    low = placement.dataclasses.replace(plan, exclude=names, store_excluded=True)
    file = apply_int8(source, tmp_path / "w8.onnx", low)
    counts = count_low_precision(tmp_path / "w8.onnx")
    assert (counts["Conv int8"], counts["Conv float32"]) == (0, 3)
    assert weight_bytes(tmp_path / "w8.onnx")["int8"] >= 16 * 9 * 2 + 24 * 16
    exact = OnnxCandidate.load(source, threads=1).predict(pixels(64, 1))
    assert signal_to_noise(exact, file.predict(pixels(64, 1))) > 30


def test_place_measures_files_and_its_plan_makes_the_file_it_measured(tmp_path, source):
    """The file that is shipped is the file that was measured, to the byte."""
    plan = plan_int8(source, pixels(16))
    images = agreement_images(pixels(24, 5), 0)
    chosen, facts = placement.choose_placement(
        source, plan, images, threads=1, agreement=1.0, time=1e-6, seconds=0.05
    )
    sizes = {tuple(trial["low"]): trial for trial in facts["trials"]}
    taken = sizes[tuple(facts["taken"])]
    file = apply_int8(source, tmp_path / "a.onnx", chosen)
    assert file.file_bytes == taken["file_bytes"]
    exact = OnnxCandidate.load(source, threads=1).predict(images)
    assert signal_to_noise(exact, file.predict(images)) == pytest.approx(taken["decibels"])
    again = apply_int8(source, tmp_path / "b.onnx", chosen)
    assert again.digest == file.digest
    assert "no placement reached" in facts["reason"]  # a millionth of float32's time is not there
