from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from clinipress.formats.onnx.int8 import OPERATORS
from clinipress.formats.ranges import find_ranges, mse_range
from kit.onnx_nets import conv_net, pixels

HEAVY_TAIL = np.random.default_rng(0).standard_t(3, 20_000)


def squared_error(values, low, high, levels=256):
    """Written the slow way: one value after the other, no histogram."""
    step = (high - low) / (levels - 1)
    zero = round(-low / step)
    total = 0.0
    for value in values:
        level = min(max(round(value / step) + zero, 0), levels - 1)
        total += ((level - zero) * step - value) ** 2
    return total / len(values)


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize("one_sided", [False, True])
def test_mse_range_is_as_good_as_an_exhaustive_search(levels, one_sided):
    values = np.abs(HEAVY_TAIL[:3000]) if one_sided else HEAVY_TAIL[:3000]
    counts, edges = np.histogram(values, 2048)
    low, high = mse_range(counts, edges, levels)
    found = squared_error(values, low, high, levels)
    lows = [0.0] if one_sided else np.linspace(values.min(), 0, 16)[:-1]
    best = min(
        squared_error(values, a, b, levels)
        for a in lows
        for b in np.linspace(0, values.max(), 16)[1:]
    )
    assert found <= best * 1.02
    assert found < squared_error(values, min(values.min(), 0), values.max(), levels)
    assert low <= 0 <= high


def test_mse_range_of_uniform_values_clips_almost_nothing():
    values = np.random.default_rng(1).uniform(-1, 3, 50_000)
    low, high = mse_range(*np.histogram(values, 2048))
    assert low == pytest.approx(-1, abs=0.02)
    assert high == pytest.approx(3, abs=0.02)


def test_mse_range_of_nothing_and_of_one_sign():
    assert mse_range(np.zeros(4), np.linspace(-1, 1, 5)) == (0.0, 0.0)
    low, high = mse_range(np.array([5, 5]), np.array([2.0, 3.0, 4.0]))
    assert low == 0
    assert 3.5 <= high <= 4  # values count at the centre of their bin


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranges") / "net.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(conv_net()), path)
    return path


def activations(path, name, images):
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    opened = onnxruntime.InferenceSession(model.SerializeToString())
    return opened.run([name], {"image": images})[0]


def test_ranges_of_the_methods_are_nested_as_they_should(prepared):
    images = pixels(20)
    values = activations(prepared, "narrow.out", images)
    found = {
        method: find_ranges(prepared, images, (method,), OPERATORS)[method]["narrow.out"]
        for method in ("minmax", "percentile", "entropy", "mse")
    }
    assert found["minmax"] == pytest.approx((values.min(), values.max()), rel=1e-6)
    for method in ("percentile", "entropy", "mse"):
        assert found[method][0] >= found["minmax"][0] - 1e-5
        assert found[method][1] <= found["minmax"][1] + 1e-5
    errors = {m: squared_error(values.ravel()[::7], *ends) for m, ends in found.items()}
    assert errors["mse"] <= min(errors.values()) * 1.05


def test_methods_that_share_a_look_find_what_each_finds_alone(tmp_path):
    path, images = tmp_path / "net.onnx", pixels(24)
    onnx.save(conv_net(), path)
    methods = ("percentile", "mse", "minmax", "entropy")
    together = find_ranges(path, images, methods, OPERATORS)
    assert tuple(together) == methods
    for method in methods:
        alone = find_ranges(path, images, (method,), OPERATORS)[method]
        assert together[method].keys() == alone.keys()
        for name, ends in alone.items():
            assert together[method][name] == pytest.approx(ends, rel=1e-6)
