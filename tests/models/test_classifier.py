"""The classifier's normalisation and the candidate around it."""

from __future__ import annotations

import json
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from clinipress.errors import ModelError
from clinipress.models.classifier import Classifier, TorchCandidate, build, new_classifier
from clinipress.models.pruning.pruned import plan_pruning, prune
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import Candidate, Card, InputSpec, ModelSpec

GREY = InputSpec(channels=1, height=32, width=32)
COLOUR = InputSpec(channels=3, height=32, width=32)
ROUNDING = 1e-5  # float32 sums in another order


def candidate(name="resnet18", spec=GREY, in_channels=None, seed=0):
    torch.manual_seed(seed)
    recipe = ModelRecipe(name=name, in_channels=in_channels)
    model, module = new_classifier(recipe, spec, 3, 0.4, 0.2)
    return TorchCandidate(Card(name="a", classes=("x", "y", "z"), input=spec, model=model), module)


def pixels(n=5, spec=GREY, seed=0):
    shape = (n, spec.channels, spec.height, spec.width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class Keep(nn.Module):
    """Gives back what it got."""

    def forward(self, images):
        self.seen = images
        return images.flatten(1)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float16])
def test_normalises_in_float32(kind):
    raw = torch.from_numpy(pixels())
    got = Classifier(Keep(), GREY, 1, 0.4, 0.2)(raw.to(kind))
    expected = (raw.numpy().astype(np.float64) / 255 - 0.4) / 0.2
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected.reshape(5, -1), atol=2e-6)


def test_grey_is_repeated_for_a_colour_backbone():
    backbone = Keep()
    Classifier(backbone, GREY, 3, 0.4, 0.2)(torch.from_numpy(pixels()))
    assert backbone.seen.shape == (5, 3, 32, 32)
    assert torch.equal(backbone.seen[:, 0], backbone.seen[:, 2])


THREE_MEANS, THREE_STDS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("spec", [GREY, COLOUR])
def test_each_channel_has_its_own_mean_when_three_are_given(spec):
    raw = torch.from_numpy(pixels(spec=spec))
    got = Classifier(Keep(), spec, 3, THREE_MEANS, THREE_STDS)(raw).reshape(5, 3, 32, 32)
    shape = (1, 3, 1, 1)
    mean, std = np.reshape(THREE_MEANS, shape), np.reshape(THREE_STDS, shape)
    expected = (raw.numpy().astype(np.float64) / 255 - mean) / std
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-6)


def test_refuses_three_means_for_one_channel():
    with pytest.raises(ModelError, match="for each of 1 channels"):
        Classifier(Keep(), GREY, 1, THREE_MEANS, THREE_STDS)


def test_autocast_and_channels_last_give_float32_logits():
    module = candidate().module.eval()
    raw = torch.from_numpy(pixels())
    with torch.inference_mode():
        plain = module(raw)
        last = module.to(memory_format=torch.channels_last)(raw)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = module(raw)
    assert low.dtype == torch.float32
    torch.testing.assert_close(last, plain, atol=ROUNDING, rtol=0)
    assert not torch.equal(low, plain)  # autocast did something
    torch.testing.assert_close(low, plain, atol=0.1, rtol=0.1)


def test_refuses_colour_images_for_a_grey_backbone():
    with pytest.raises(ModelError, match="3 input channels"):
        Classifier(Keep(), COLOUR, 1, 0.4, 0.2)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.0), (float("nan"), 0.2), (0.5, float("inf"))])
def test_refuses_statistics_that_cannot_normalise(mean, std):
    with pytest.raises(ModelError, match="standard deviation above 0"):
        Classifier(Keep(), GREY, 1, mean, std)


def small_network(channels):
    torch.manual_seed(0)
    body = nn.Conv2d(channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize("in_channels", [1, 3])
def test_exports_with_a_dynamic_batch(tmp_path, in_channels):
    module = Classifier(small_network(in_channels), GREY, in_channels, 0.4, 0.2).eval()
    path = tmp_path / "a.onnx"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"onnxscript|torch|copyreg")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        torch.onnx.export(
            module,
            (torch.from_numpy(pixels(2)),),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("n")},),
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for n in (1, 5):
        (got,) = session.run(None, {name: pixels(n)})
        with torch.inference_mode():
            expected = module(torch.from_numpy(pixels(n))).numpy()
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_is_a_candidate():
    assert isinstance(candidate(), Candidate)


def test_prediction_does_not_depend_on_how_images_are_divided(monkeypatch):
    one, images = candidate(), pixels(7)
    whole = one.predict(images)
    monkeypatch.setattr("clinipress.models.classifier.LARGEST_BATCH", 2)
    np.testing.assert_allclose(one.predict(images), whole, atol=ROUNDING)
    single = np.concatenate([one.predict(images[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(single, whole, atol=ROUNDING)
    assert whole.shape == (7, 3)
    assert whole.dtype == np.float32
    assert np.ptp(whole, axis=0).min() > 1e-4  # it does depend on the images


def test_batches_are_bounded(monkeypatch):
    one, seen = candidate(), []
    monkeypatch.setattr("clinipress.models.classifier.BATCH_BYTES", 3 * 4 * 32 * 32)
    one.module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    one.predict(pixels(7))
    assert seen == [3, 3, 1]


def test_prediction_leaves_the_module_training_and_takes_no_images_too():
    one = candidate()
    one.module.train()
    before = one.digest
    assert one.predict(pixels(0)).shape == (0, 3)
    one.predict(pixels(2))
    assert one.module.training
    assert one.digest == before  # batch norms saw nothing


@pytest.mark.parametrize(
    "images", [pixels().astype(np.float32), pixels()[0], pixels(spec=COLOUR), pixels()[:, :, :16]]
)
def test_refuses_other_images(images):
    with pytest.raises(ModelError, match="expected uint8 images"):
        candidate().predict(images)


def test_needs_a_card_that_says_how_to_build_it():
    card = Card(name="a", classes=("x",), input=GREY)
    with pytest.raises(ModelError, match="without 'model'"):
        TorchCandidate(card, candidate().module)


def test_digest_sees_weights_names_and_specs_and_nothing_else():
    one, same, other = candidate(), candidate(), candidate(seed=1)
    assert one.digest == same.digest != other.digest
    assert len(one.digest) == 64
    same.module.to(memory_format=torch.channels_last)
    same.card = same.card.model_copy(update={"name": "b"})
    assert same.digest == one.digest
    spec = one.spec.model_copy(update={"mean": 0.41})
    same.card = one.card.model_copy(update={"model": spec})
    assert same.digest != one.digest
    with torch.no_grad():
        one.module.backbone.bn1.running_mean[0] += 1  # a buffer counts
    assert one.digest != candidate().digest


def test_save_and_load_give_the_same_candidate(tmp_path):
    one = candidate()
    one.module.to(memory_format=torch.channels_last)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    one.save(tmp_path)
    two = TorchCandidate.load(tmp_path)
    assert torch.equal(torch.rand(1), expected)  # building draws nothing from the global generator
    assert (two.card, two.digest) == (one.card, one.digest)
    assert np.array_equal(two.predict(pixels()), one.predict(pixels()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["card.json", "weights.safetensors"]


def test_pruned_candidate_is_built_again(tmp_path):
    one = candidate()
    history = plan_pruning(one.module, ratio=0.4)
    spec = one.spec.model_copy(update={"pruning": history})
    small = TorchCandidate(one.card.model_copy(update={"model": spec}), prune(one.module, history))
    small.save(tmp_path)
    again = TorchCandidate.load(tmp_path)
    assert np.array_equal(again.predict(pixels()), small.predict(pixels()))
    assert again.spec == spec


def test_model_of_a_fixed_input_size_is_built_for_the_images():
    spec = ModelSpec(name="vit_tiny_patch16_224", num_classes=3, in_channels=1, mean=0.4, std=0.2)
    assert build(spec, GREY)(torch.from_numpy(pixels())).shape == (5, 3)


def damage_weights(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(folder):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def change_the_card(folder):
    card = json.loads((folder / "card.json").read_text())
    card["model"]["std"] = 0.3
    (folder / "card.json").write_text(json.dumps(card))


def drop_the_model(folder):
    card = json.loads((folder / "card.json").read_text())
    card["model"] = None
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_weights, "a damaged one"),
        (flip_a_bit, "changed since they were saved"),
        (change_the_card, "changed since they were saved"),
        (drop_the_model, "without it"),
        (lambda f: (f / "card.json").write_text('{"name": 1}'), "a card in"),
        (lambda f: (f / "card.json").unlink(), "candidate folder with card.json"),
        (lambda f: (f / "weights.safetensors").unlink(), "nothing at"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(tmp_path, damage, message):
    candidate().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        TorchCandidate.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_the_cpu(tmp_path):
    one = candidate()
    one.save(tmp_path)
    there = TorchCandidate.load(tmp_path, device="cuda")
    assert there.digest == one.digest
    np.testing.assert_allclose(there.predict(pixels()), one.predict(pixels()), atol=1e-2)
