from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch import nn

from clinipress.errors import ModelError
from clinipress.formats.executorch.make import (
    apply_executorch,
    count_operators,
    plan_executorch,
    weight_bytes,
)
from clinipress.formats.executorch.run import ExecuTorchCandidate
from clinipress.formats.onnx.int8 import rounding
from clinipress.formats.onnx.placement import signal_to_noise
from clinipress.formats.parity import parity
from clinipress.formats.ranges import with_zero
from clinipress.recipe.study import ExportRecipe
from kit.candidates import INTEGER_MEAN, ODD_MEAN, PER_CHANNEL, float_file, wrapped
from kit.pixels import smooth

FLOAT32 = ExportRecipe(format="executorch", precision="float32")
INT8 = ExportRecipe(format="executorch")


class Net(nn.Module):
    """Depthwise convolution with ReLU6, a residual sum with ReLU, a max pooling, a head."""

    def __init__(self, channels):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6())
        self.wide = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.ReLU6())
        self.narrow = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.narrow(self.wide(x)))
        return self.head(self.pool(x).mean((2, 3)))


def candidate(channels=1, in_channels=1, mean=INTEGER_MEAN, gain=4.0):
    found = wrapped(Net, channels, in_channels, mean)
    with torch.no_grad():
        found.module.backbone.stem[0].weight *= gain  # so that the first ReLU6 cuts something off
    return found


def card_of(network, recipe):
    return network.card.model_copy(
        update={"format": "executorch", "precision": recipe.precision, "model": None}
    )


def make(folder, network, recipe, ranges=None):
    """Export, plan, apply: the opened file and its plan."""
    source, target = folder / "float.onnx", folder / "model.pte"
    float_file(network, source)
    images = smooth(channels=network.card.input.channels)
    plan = plan_executorch(recipe, network, source, images, ranges=ranges)
    plan = json.loads(json.dumps(plan))  # as a run keeps it
    card = card_of(network, recipe)
    apply_executorch(recipe, network, source, target, plan, card)
    return ExecuTorchCandidate.load(target, card=card, threads=1), plan


@pytest.fixture(scope="module")
def parent():
    return candidate()


@pytest.fixture(scope="module")
def full(parent, tmp_path_factory):
    return make(tmp_path_factory.mktemp("float32"), parent, FLOAT32)


@pytest.fixture(scope="module")
def small(parent, tmp_path_factory):
    return make(tmp_path_factory.mktemp("int8"), parent, INT8)


def test_a_float32_file_answers_like_the_network(parent, full):
    found = parity(parent, full[0], smooth(40, seed=1))
    assert found.max_logit_difference < 1e-4
    assert full[1] == {}
    counts = count_operators(full[0].path)
    assert (counts["Conv float32"], counts["Conv int8"]) == (3, 0)
    weights = sum(p.numel() for p in parent.module.parameters()) - 32  # the norm is folded
    assert weight_bytes(full[0].path) == {"float32": 4 * weights}


@pytest.mark.parametrize(
    ("channels", "in_channels", "mean"), [(1, 3, ODD_MEAN), (3, 3, PER_CHANNEL)]
)
@pytest.mark.parametrize("recipe", [FLOAT32, INT8], ids=["float32", "int8"])
def test_grey_for_colour_networks_and_means_per_channel(
    tmp_path, channels, in_channels, mean, recipe
):
    network = candidate(channels, in_channels, mean)
    images = smooth(40, channels, seed=1)
    file, _ = make(tmp_path, network, recipe)
    found = parity(network, file, images)
    if recipe is FLOAT32:
        assert found.max_logit_difference < 1e-4
    else:
        assert 0 < found.mean_logit_difference < 0.1 * network.predict(images).std()
    counts = count_operators(file.path)
    assert not any("expand" in name for name in counts), "grey is not copied to three channels"


def test_an_int8_file_answers_nearly_like_the_network(parent, small):
    images = smooth(40, seed=1)
    found = parity(parent, small[0], images)
    assert 0 < found.mean_logit_difference < 0.1 * parent.predict(images).std()


def test_every_layer_of_an_int8_file_runs_in_8_bits_from_the_image_on(small):
    counts = count_operators(small[0].path)
    assert (counts["Conv int8"], counts["Conv float32"]) == (3, 0)
    assert (counts["Gemm int8"], counts["Gemm float32"]) == (1, 0)
    left = {name: n for name, n in counts.items() if n and not name.endswith("int8")}
    assert left == {"conversion Convert": 1}, "that of the logits"
    assert "Clip int8" not in counts, "a ReLU6 is the end of its grid"


def test_weights_of_an_int8_file_are_stored_in_8_bits(parent, small):
    stored = weight_bytes(small[0].path)
    layers = [part for part in parent.module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert stored["int8"] == sum(part.weight.numel() for part in layers)
    assert stored["int32"] == 4 * sum(part.bias.numel() for part in layers)
    assert stored["float32"] == 2 * stored["int32"], "a scale for each weight channel and bias"


def test_zero_is_a_level_of_every_grid(small):
    grids = small[1]["ranges"].values()
    assert len(grids) > 5
    for low, high in grids:
        zero = -low * 255 / (high - low)
        assert zero == pytest.approx(round(zero), abs=1e-6)
        assert low <= 0 <= high


def test_no_grid_reaches_beyond_the_clamp_it_ends_with(small):
    assert sum(low == 0 and 5.5 < high < 6.03 for low, high in small[1]["ranges"].values()) >= 2


def test_ranges_find_their_places_by_value(tmp_path, parent, small):
    source = tmp_path / "float.onnx"
    float_file(parent, source)
    names = list(rounding(source, smooth()).ranges)
    given = {name: (-0.01 * n, 3.0 + 0.1 * n) for n, name in enumerate(names)}
    file, plan = make(tmp_path, parent, INT8, given | {"nowhere": (0.0, 1.0)})
    assert plan["given"] == len(given) + 1
    assert plan["found"] >= len(given) - 1
    assert plan["calibrated"] == 1, "the logits, which an ONNX file leaves in float"
    wide = {round(high - low, 4) for low, high in plan["ranges"].values()}
    assert len(wide - {round(high - low, 4) for low, high in given.values()}) == 1
    assert file.digest != small[0].digest


class Joined(nn.Module):
    """Two branches of unlike ranges, joined, and a number that the program holds."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 8, 3, 1, 1)
        self.third = nn.Conv2d(16, 16, 3, 1, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.first(x).relu()
        x = torch.cat([x, self.second(x) * 4], 1)
        return self.head(self.third(x).relu().mean((2, 3)))


@pytest.mark.parametrize("mean", [INTEGER_MEAN, ODD_MEAN])
def test_f3_f4_a_grid_holds_all_that_it_joins_whatever_the_mean(tmp_path, mean):
    network, source = wrapped(Joined, 1, 1, mean), tmp_path / "float.onnx"
    float_file(network, source)
    given = rounding(source, smooth()).ranges
    # as if learnt, each of its own width, so that a grid says whose it is
    given = {name: (-1.0 - n, 2.0 + n) for n, name in enumerate(given)}
    plan = plan_executorch(INT8, network, source, smooth(), ranges=given)
    assert plan["given"] == plan["found"] == len(given), "a zero between grey levels hides nothing"
    names = list(given)
    last = next(n for n, name in enumerate(names) if name.startswith("Concat"))
    joined = [given[name] for name in names[last - 2 : last + 1]]  # and the two before it
    grids = Counter(tuple(grid) for grid in plan["ranges"].values())
    lows, highs = zip(*joined, strict=True)
    assert grids[with_zero(min(lows), max(highs))] == len(joined)


def test_f3_what_is_joined_with_the_one_that_is_known_fits_too(tmp_path):
    network, source = wrapped(Joined, 1, 1), tmp_path / "float.onnx"
    float_file(network, source)
    plan = plan_executorch(INT8, network, source, smooth(), ranges={"Relu_2.out": (0.0, 0.01)})
    assert plan["found"] == 1
    assert min(high - low for low, high in plan["ranges"].values()) > 0.1
    assert plan["calibrated"] == len({tuple(grid) for grid in plan["ranges"].values()})


class Spots(nn.Module):
    """Maps that are nought but for some spots, as behind a ReLU6, so that their means are small."""

    def __init__(self, channels, joined):
        super().__init__()
        self.joined, self.mean = joined, nn.AdaptiveAvgPool2d(1)
        self.first = nn.Conv2d(channels, 24, 3, 2, 1)
        with torch.no_grad():
            self.first.weight *= 12
            self.first.bias.mul_(12).sub_(14)
        self.head = nn.Linear(48 if joined else 24, 3)

    def forward(self, x):
        x = nn.functional.relu6(self.first(x))
        x = torch.cat([self.mean(x), x[:, :, :1, :1]], 1) if self.joined else self.mean(x)
        return self.head(x.flatten(1))


@pytest.mark.parametrize("joined", [False, True], ids=["alone", "joined"])
def test_f3_a_mean_has_levels_of_its_own_unless_it_is_joined(tmp_path, joined):
    network = wrapped(lambda channels: Spots(channels, joined))
    plan = plan_executorch(INT8, network, tmp_path, smooth())
    highs = {round(high, 3) for low, high in plan["ranges"].values() if low == 0}
    assert len(highs) == (1 if joined else 2), plan["ranges"]


def test_small_weights_keep_all_their_bits(tmp_path):
    network = candidate()
    with torch.no_grad():  # far below what the quantizer's own smallest step would leave
        network.module.backbone.narrow[0].weight *= 1e-3
        network.module.backbone.narrow[0].bias *= 0
        network.module.backbone.head.weight *= 1e3
    file, _ = make(tmp_path, network, INT8)
    images = smooth(40, seed=1)
    assert parity(network, file, images).mean_logit_difference < 0.1 * network.predict(images).std()


def test_the_same_plan_gives_the_same_bytes_without_traces(tmp_path, parent, full, small):
    for recipe, (file, plan) in ((FLOAT32, full), (INT8, small)):
        target = tmp_path / "model.pte"
        source = tmp_path / "not needed.onnx"
        apply_executorch(recipe, parent, source, target, plan, card_of(parent, recipe))
        content = target.read_bytes()
        assert content == file.path.read_bytes()
        for trace in (b"site-packages", b"/work", b"/tmp", b"/home", b".py"):
            assert trace not in content
        assert [path.name for path in tmp_path.iterdir()] == ["model.pte"]


def test_the_network_is_left_alone_and_nothing_is_printed(tmp_path, capfd):
    network = candidate()
    network.module.train()
    before = network.digest
    source = tmp_path / "float.onnx"
    float_file(network, source)
    plan = plan_executorch(INT8, network, source, smooth(3))
    apply_executorch(INT8, network, source, tmp_path / "m.pte", plan, card_of(network, INT8))
    assert network.module.training
    assert network.digest == before
    assert tuple(capfd.readouterr()) == ("", "")


def test_no_images_are_refused(tmp_path, parent):
    with pytest.raises(ModelError, match="at least one calibration image"):
        plan_executorch(INT8, parent, tmp_path / "none.onnx", smooth(0))


def test_a_network_that_cannot_be_exported_is_one_line(tmp_path):
    class Branching(Net):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    network = candidate()
    network.module.backbone = Branching(1)
    target = tmp_path / "model.pte"
    card = card_of(network, FLOAT32)
    with pytest.raises(ModelError, match=r"a network that torch\.export can follow") as caught:
        apply_executorch(FLOAT32, network, tmp_path / "none.onnx", target, {}, card)
    assert "\n" not in str(caught.value)
    assert not target.exists()


IMPORT = """
import sys, clinipress.formats.executorch.make, clinipress.formats.executorch.run
assert not [name for name in ("executorch", "torchao") if name in sys.modules]
"""


def test_importing_the_modules_imports_no_engine():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


class Shared(nn.Module):
    """One convolution with a norm behind each of its two uses; a channel of hardly any weights."""

    def __init__(self, channels):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, 2, 1)
        self.twice = nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.deep = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        with torch.no_grad():
            self.deep.weight[2], self.deep.bias[2] = 1e-9, 5
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for norm in self.norms:
            x = torch.relu(norm(self.twice(x)))
        return self.head(torch.relu(self.deep(x)).mean((2, 3)))


def test_f11_f7_shared_weights_and_small_ones_keep_their_answers(tmp_path):
    """A norm of its own for each use; and a bias that small weights would cut off."""
    owner = wrapped(Shared)
    with torch.no_grad():
        owner.module.backbone.head.weight[0] = torch.eye(8)[2]
        owner.module.backbone.head.bias[0] = 0
    file, _ = make(tmp_path, owner, INT8)
    images = smooth()
    exact, found = owner.predict(images), file.predict(images)
    level = (exact.max() - min(exact.min(), 0)) / 255
    assert abs(exact[:, 0] - 5).max() < 1e-3
    assert abs(found - exact)[:, 0].max() < 2 * level
    assert signal_to_noise(exact, found) > 20
