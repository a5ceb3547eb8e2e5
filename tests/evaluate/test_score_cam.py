"""Score-CAM against pytorch-grad-cam, on torch networks and on files, and its two speeds."""

import warnings
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clinipress.errors import DataError, ModelError
from clinipress.evidence.saliency.score_cam import channel_masks, grouped, score_cam
from clinipress.formats.onnx.features import OnnxNetwork
from clinipress.formats.onnx.float import export_onnx, to_float16
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.models.features import TorchNetwork
from clinipress.study.feature_networks import feature_network
from kit.each import each_seed
from kit.onnx_nets import to_int8
from kit.random_nets import candidate_of, pictures

MEAN, STD = 0.2, 0.25  # of random_nets
FILL = MEAN * 255
EQUAL = 1e-3  # issue 5: "maps equal to 1e-3"


class Seen(torch.nn.Module):
    """Any network as a torch module on normalised images, its feature map behind an Identity."""

    def __init__(self, network):
        super().__init__()
        self.network, self.tap = network, torch.nn.Identity()
        self.unused = torch.nn.Parameter(torch.zeros(1))  # the referee asks for a device

    def forward(self, images):
        grey = (images.numpy() * STD + MEAN) * 255
        _, maps = self.network.look(np.rint(grey).clip(0, 255).astype(np.uint8))
        self.tap(torch.from_numpy(maps))
        return torch.from_numpy(self.network.answer(grey.astype(np.float32)))


def their_maps(module, layer, images, explained):
    """pytorch-grad-cam's ScoreCAM, image by image, on normalised images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_grad_cam as camera
        from pytorch_grad_cam import score_cam as theirs
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    pixels = (torch.from_numpy(images).float() / 255 - MEAN) / STD
    # their name for the module, not the module: other packages draw their bars with it
    silent = mock.patch.object(theirs, "tqdm", SimpleNamespace(tqdm=lambda each: each))
    with silent, camera.ScoreCAM(module, [layer]) as cam:
        return np.concatenate(
            [
                cam(p[None], [ClassifierOutputTarget(int(y))])
                for p, y in zip(pixels, explained, strict=True)
            ]
        )


def slow_map(maps, answer, image, explained):
    """The same of one image, from the paper's formulas, channel by channel with torch."""
    size = image.shape[1:]
    scores = []
    for one in torch.from_numpy(maps):
        mask = F.interpolate(one[None, None], size, mode="bilinear", align_corners=True)[0, 0]
        mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-8)
        masked = FILL + (image - FILL) * mask.numpy()
        scores.append(answer(masked[None].astype(np.float32))[0, explained])
    weights = F.softmax(torch.tensor(np.array(scores), dtype=torch.float64), 0)
    total = (weights[:, None, None] * torch.from_numpy(maps)).sum(0).clamp(min=0)
    for _ in range(2):  # before and after the interpolation
        total = (total - total.min()) / (total.max() - total.min() + 1e-7)
        total = F.interpolate(total[None, None], size, mode="bilinear")[0, 0]
    return total.numpy()


class Drawn:
    """A network of given feature maps whose logits are sums over quarters of the image."""

    layer = "drawn"

    def __init__(self, maps):
        self.maps, self.run = np.asarray(maps, np.float32), 0

    def look(self, images):
        return self.answer(images.astype(np.float32)), np.repeat(self.maps[None], len(images), 0)

    def answer(self, images):
        self.run += len(images)
        half = images.shape[2] // 2
        top, bottom = images[:, 0, :half], images[:, 0, half:]
        return np.stack([top.mean((1, 2)), bottom.mean((1, 2)) + images[:, 0, 0, 0]], 1) / 20


# Exact maps cost one answer per channel of the last feature map, ours and theirs alike: by day
# networks of the same three kinds with 32 to 288 channels, by night those of practice.
NARROW_DENSE = {"growth_rate": 8, "block_config": (2, 2, 2, 2)}


@pytest.mark.parametrize(
    ("name", "layer", "arguments"),
    [
        ("mobilenetv3_small_050", "blocks", {}),
        ("densenet121", "features.norm5", NARROW_DENSE),
        ("test_resnet", "layer4", {}),
        pytest.param("mobilenetv2_100", "bn2", {}, marks=pytest.mark.nightly),
        pytest.param("densenet121", "features.norm5", {}, marks=pytest.mark.nightly),
        pytest.param("resnet50", "layer4", {}, marks=pytest.mark.nightly),
    ],
)
def test_exact_maps_are_those_of_pytorch_grad_cam(name, layer, arguments):
    candidate = candidate_of(name, 64, mean=MEAN, std=STD, **arguments)
    images = pictures(1, candidate.card.input)
    network = feature_network(candidate, threads=1)
    assert isinstance(network, OnnxNetwork)
    explained = candidate.predict(images).argmax(1)
    ours = score_cam(network, images, explained, fill=FILL)
    backbone = candidate.module.backbone
    theirs = their_maps(backbone, backbone.get_submodule(layer), images, explained)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < EQUAL
    # the comparison can fail: another class is explained by another map
    other = score_cam(network, images, (explained + 1) % 3, fill=FILL)
    assert np.abs(other - theirs).max() > EQUAL


@pytest.fixture(scope="module")
def small():
    """A network, its float32, float16 and int8 files, and images."""
    return candidate_of("test_resnet", 64, mean=MEAN, std=STD)


@pytest.fixture(scope="module")
def files(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    made = {"float32": export_onnx(small, folder / "float32.onnx")}
    made["float16"] = to_float16(made["float32"].path, folder / "float16.onnx")
    calibration = pictures(32, small.card.input, 7)
    made["int8"] = to_int8(made["float32"].path, folder / "int8.onnx", calibration)
    return made


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_maps_of_a_file_are_those_of_pytorch_grad_cam_on_the_same_file(small, files, precision):
    images = pictures(3, small.card.input, 3)
    network = feature_network(files[precision], threads=1)
    assert np.array_equal(
        network.look(images)[0].argmax(1), files[precision].predict(images).argmax(1)
    )
    explained = np.array([0, 1, 2])
    ours = score_cam(network, images, explained, fill=FILL)
    module = Seen(network)
    theirs = their_maps(module, module.tap, images, explained)
    assert np.abs(ours - theirs).max() < EQUAL


def test_a_file_shows_the_same_map_as_the_network_and_the_same_answers(small, files):
    images = pictures(5, small.card.input, 4)
    inside = TorchNetwork(small)
    logits, maps = inside.look(images)
    assert inside.layer == "layer4"
    assert np.allclose(logits, small.predict(images), atol=1e-4)
    for precision, tolerance in (("float32", 1e-4), ("float16", 2e-2), ("int8", 0.3)):
        network = feature_network(files[precision], threads=1)
        answers, seen = network.look(images)
        assert seen.shape == maps.shape == (5, 96, 2, 2)
        assert np.abs(seen - maps).max() < tolerance * maps.max()
        # showing the map must not change how an int8 file computes
        allowed = 0 if precision == "int8" else 1e-3
        assert np.abs(answers - files[precision].predict(images)).max() <= allowed
        assert np.array_equal(answers, network.answer(images.astype(np.float32)))


def test_an_int8_feature_map_holds_real_values_on_a_grid_of_256(small, files):
    _, maps = feature_network(files["int8"], threads=1).look(pictures(8, small.card.input, 5))
    assert maps.dtype == np.float32
    assert 2 < len(np.unique(maps)) <= 256
    assert not np.array_equal(maps, np.rint(maps))


def test_the_map_before_the_pooling_is_found_also_where_layers_follow():
    narrow = candidate_of("mobilenetv3_small_050", 64, mean=MEAN, std=STD)
    network = feature_network(narrow, threads=1)
    logits, maps = network.look(pictures(1, narrow.card.input))
    # before the pooling, not the layer that widens what is pooled
    assert maps.shape[1:] == TorchNetwork(narrow).look(pictures(1, narrow.card.input))[1].shape[1:]
    assert maps.shape[2] == 2
    assert logits.shape == (1, 3)


def features(candidate, images):
    """What timm's network gives to its head, as the network lays it out."""
    pixels = torch.from_numpy(images).float()
    with torch.inference_mode():
        return candidate.module.backbone.forward_features((pixels / 255 - MEAN) / STD)


def openvino_file(candidate, folder):
    """The candidate's float32 OpenVINO file, opened."""
    pytest.importorskip("clinipress.formats.openvino.run").engine()  # else it sends statistics
    from clinipress.formats.make import apply_export
    from clinipress.formats.openvino.run import OpenVinoCandidate
    from clinipress.recipe.study import ExportRecipe

    recipe, path = ExportRecipe(format="openvino", precision="float32"), folder / "model.xml"
    source = export_onnx(candidate, folder / "model.onnx").path
    apply_export(recipe, candidate, source, path, {}, candidate.card)
    card = candidate.card.model_copy(update={"format": "openvino", "precision": "float32"})
    return OpenVinoCandidate.load(path, card, threads=1)


def test_channels_that_come_last_are_no_columns(tmp_path):
    window = candidate_of(
        "swin_tiny_patch4_window7_224", 64, mean=MEAN, std=STD, img_size=64, window_size=2,
        embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8),
    )  # fmt: skip
    images = pictures(2, window.card.input)
    expected = features(window, images)
    assert expected.shape == (2, 2, 2, 192)
    for file in (window, openvino_file(window, tmp_path)):
        _, maps = feature_network(file, threads=1).look(images)
        np.testing.assert_allclose(maps, expected.permute(0, 3, 1, 2).numpy(), atol=1e-4)


def test_the_map_before_a_dense_layer_is_found(tmp_path):
    dense = candidate_of("vgg11", 64, mean=MEAN, std=STD, mlp_ratio=0.01)
    images = pictures(2, dense.card.input)
    expected = F.adaptive_avg_pool2d(features(dense, images), 7)  # as its dense layer takes it
    assert expected.shape == (2, 512, 7, 7)
    _, maps = feature_network(dense, threads=1).look(images)
    np.testing.assert_allclose(maps, expected.numpy(), atol=1e-4)
    # OpenVINO means them later: the middle, made of two cells, is twice as high there
    _, theirs = feature_network(openvino_file(dense, tmp_path), threads=1).look(images)
    np.testing.assert_allclose(theirs[..., 3, :3], 2 * maps[..., 3, :3], atol=1e-4)
    np.testing.assert_allclose(theirs[..., :3, 4:], maps[..., :3, 4:], atol=1e-4)


def test_what_cannot_be_explained_says_so():
    with pytest.raises(ModelError, match="Score-CAM is not measured for transformers"):
        feature_network(candidate_of("vit_tiny_patch16_224", 32, img_size=32, depth=2), threads=1)
    with pytest.raises(ModelError, match="transformers"):
        TorchNetwork(candidate_of("vit_tiny_patch16_224", 32, img_size=32, depth=2))
    deep = candidate_of("test_resnet", 32)  # one cell is left
    for opened in (lambda: feature_network(deep, threads=1), lambda: TorchNetwork(deep)):
        with pytest.raises(ModelError, match="nothing is left to say where"):
            opened()


def test_an_openvino_file_shows_the_map_of_its_network(small, files, tmp_path):
    opened = openvino_file(small, tmp_path)
    images = pictures(2, small.card.input, 8)
    network = feature_network(opened, threads=1)
    answers, seen = network.look(images)
    inside = feature_network(files["float32"], threads=1)
    assert np.array_equal(answers, opened.predict(images))
    assert np.abs(seen - inside.look(images)[1]).max() < 1e-3 * seen.max()
    explained = np.array([0, 2])
    ours = score_cam(network, images, explained, fill=FILL)
    # masked images are rounded to grey levels here, and not there
    assert np.abs(ours - score_cam(inside, images, explained, fill=FILL)).max() < 0.02


def test_another_format_is_refused_by_name():
    class Other:
        card = candidate_of("test_resnet", 32).card.model_copy(
            update={"format": "executorch", "name": "phone"}
        )

    with pytest.raises(ModelError, match=r"'phone' in the format executorch"):
        feature_network(Other())


@each_seed(range(20))
def test_any_feature_map_gives_the_map_of_the_slow_formula(seed):
    random = np.random.default_rng(seed)
    channels, height, width = random.integers(1, 9), random.integers(1, 6), random.integers(2, 6)
    maps = random.normal(size=(channels, height, width)).astype(np.float32)
    maps = np.maximum(maps, 0) if seed % 2 else maps
    image = random.integers(0, 256, (1, 12 + seed, 17), np.uint8)
    network = Drawn(maps)
    ours = score_cam(network, image[None], np.array([seed % 2]), fill=FILL)
    slow = slow_map(maps, network.answer, image, seed % 2)
    assert np.abs(ours[0] - slow).max() < 1e-5


DEGENERATE = {
    "no place at all": np.full((4, 3, 3), 2.0),
    "zeros": np.zeros((4, 3, 3)),
    "one channel": np.arange(9.0).reshape(1, 3, 3),
    "one channel below zero": -np.arange(1.0, 10.0).reshape(1, 3, 3),
    "one cell": np.eye(9).reshape(9, 3, 3),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_degenerate_feature_maps_give_finite_maps(case, mode):
    image = np.random.default_rng(0).integers(0, 256, (1, 1, 16, 16), np.uint8)
    made = score_cam(Drawn(DEGENERATE[case]), image, np.array([0]), fill=FILL, mode=mode)
    assert made.shape == (1, 16, 16)
    assert np.isfinite(made).all()
    assert made.min() >= 0
    assert made.max() <= 1
    assert (made.max() > 0) == (case in ("one channel", "one cell"))


def test_equal_masks_are_run_once():
    # sixteenths, which float32 holds exactly
    one = np.random.default_rng(1).integers(0, 17, (3, 4, 4)).astype(np.float32) / 16
    dead = np.zeros((5, 4, 4), np.float32)
    maps = np.concatenate([one, 2 * one, one + 3, dead, dead + 1])
    masks = channel_masks(maps)
    assert len(masks.cells) == 4  # three and the empty one
    network = Drawn(maps)
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8), np.uint8)
    ours = score_cam(network, image[None], np.array([1]), fill=FILL)
    assert network.run == 1 + 4
    assert np.abs(ours[0] - slow_map(maps, network.answer, image, 1)).max() < 1e-5


def test_fast_runs_the_groups_alone_and_comes_near():
    random = np.random.default_rng(2)
    blobs = random.random((6, 7, 7)).astype(np.float32)
    maps = np.maximum(blobs[random.integers(0, 6, 300)] + random.normal(0, 0.02, (300, 7, 7)), 0)
    image = random.integers(0, 256, (1, 1, 28, 28), np.uint8)
    network = Drawn(maps)
    exact = score_cam(network, image, np.array([0]), fill=FILL)
    assert network.run == 1 + 300
    network.run = 0
    fast = score_cam(network, image, np.array([0]), fill=FILL, mode="fast", groups=20)
    assert network.run <= 1 + 20
    assert np.corrcoef(fast.ravel(), exact.ravel())[0, 1] > 0.99
    again = score_cam(network, image, np.array([0]), fill=FILL, mode="fast", groups=20)
    assert np.array_equal(fast, again)


def test_as_many_groups_as_masks_change_nothing():
    masks = channel_masks(np.random.default_rng(3).random((12, 3, 3)).astype(np.float32))
    assert grouped(masks, np.ones(12, np.float32), 12) is masks


def test_another_networks_scores_can_take_their_place(small, files):
    images = pictures(1, small.card.input, 6)
    explained = np.array([1])
    exact = feature_network(files["float32"], threads=1)
    rounded = feature_network(files["int8"], threads=1)
    plain = score_cam(exact, images, explained, fill=FILL)
    mixed = score_cam(exact, images, explained, fill=FILL, scored_by=rounded)
    assert 0 < np.abs(mixed - plain).max() < 0.1


def test_one_class_per_image_is_asked_for():
    image = np.zeros((2, 1, 8, 8), np.uint8)
    with pytest.raises(DataError, match="a class to explain for each of 2 images, got 1"):
        score_cam(Drawn(np.eye(9).reshape(9, 3, 3)), image, np.array([0]), fill=FILL)


def test_a_file_is_opened_from_disk_alone(files):
    opened = OnnxCandidate.load(files["int8"].path, threads=1)
    network = OnnxNetwork(opened.path, opened.card.precision, 1)
    assert network.layer.startswith("DequantizeLinear")
