"""Similarity and faithfulness of saliency maps against referees, and the section's verdict."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from clinipress.errors import DataError
from clinipress.evidence.saliency.explained import Explanation, explain, fill_level
from clinipress.evidence.saliency.faithfulness import Faithfulness, energy_inside, faithfulness
from clinipress.evidence.saliency.panels import INFERNO, colours, overlay
from clinipress.evidence.saliency.section import SalientImages, saliency_section
from clinipress.evidence.saliency.similarity import (
    iou_top20,
    mean_interval,
    similarities,
    spearman,
    ssim,
)
from clinipress.models.randomized import randomized
from clinipress.study.feature_networks import feature_network
from kit.each import each_seed
from kit.random_nets import candidate_of, pictures

LIMITS = (-1.0, 1.0)


def blobs(count, side=24, seed=0):
    """Smooth maps float32 ``[count, side, side]`` in [0, 1], one bump each."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    at = random.random((count, 2))
    far = (y - at[:, :1, None]) ** 2 + (x - at[:, 1:, None]) ** 2
    return np.exp(-far / 0.05).astype(np.float32)


# ---- similarity


@each_seed(range(20))
def test_similarities_are_those_of_scipy_torchmetrics_and_brute_force(seed):
    from torchmetrics.functional.image import structural_similarity_index_measure

    random = np.random.default_rng(seed)
    first, second = random.random((2, 1, 16 + seed, 19)).astype(np.float32)
    if seed % 2:  # ties
        first, second = np.round(first, 1), np.round(0.5 * first + 0.5 * second, 1)
    expected = stats.spearmanr(first.ravel(), second.ravel())[0]
    assert spearman(first, second)[0] == pytest.approx(expected, abs=1e-12)
    pair = (torch.from_numpy(one)[None].double() for one in (first, second))
    _, full = structural_similarity_index_measure(*pair, data_range=1.0, return_full_image=True)
    theirs = full[..., 5:-5, 5:-5].mean()  # it pads; Wang et al. count windows inside the image
    assert ssim(first, second)[0] == pytest.approx(float(theirs), abs=1e-9)
    count = round(0.2 * first.size)
    tops = [
        set(sorted(range(one.size), key=lambda at: (-one.flat[at], at))[:count])
        for one in (first[0], second[0])
    ]
    expected = len(tops[0] & tops[1]) / len(tops[0] | tops[1])
    assert iou_top20(first, second)[0] == pytest.approx(expected)


FLAT, RAMP = np.zeros((1, 12, 12), np.float32), np.linspace(0, 1, 144, dtype=np.float32)
DEGENERATE = {
    "the same": (RAMP.reshape(1, 12, 12), RAMP.reshape(1, 12, 12), (1, 1, 1)),
    "the opposite": (RAMP.reshape(1, 12, 12), 1 - RAMP.reshape(1, 12, 12), (None, -1, 0)),
    "the candidate has no map": (RAMP.reshape(1, 12, 12), FLAT, (None, 0, 0)),
    "the reference has no map": (FLAT, RAMP.reshape(1, 12, 12), (np.nan,) * 3),
    "neither has": (FLAT, FLAT + 1, (np.nan,) * 3),
    "smaller than the window": (RAMP[:9].reshape(1, 3, 3), RAMP[:9].reshape(1, 3, 3), (1, 1, 1)),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_similarity_of_degenerate_maps(case):
    first, second, expected = DEGENERATE[case]
    found = similarities(first, second)
    for metric, value in zip(("ssim", "spearman", "iou_top20"), expected, strict=True):
        if value is not None:
            assert found[metric][0] == pytest.approx(value, nan_ok=True), metric


def test_no_images_have_no_similarity_and_other_shapes_are_refused():
    none = np.zeros((0, 8, 8), np.float32)
    assert all(len(values) == 0 for values in similarities(none, none).values())
    with pytest.raises(DataError, match=r"expected maps \[0, 8, 8\], got \[0, 8, 9\]"):
        similarities(none, np.zeros((0, 8, 9), np.float32))


def test_interval_of_a_mean_is_the_bootstrap_of_scipy():
    values = np.random.default_rng(0).normal(0.5, 0.2, 60)
    ours = mean_interval(values, None, np.zeros(60, int), limits=LIMITS)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.006)
    assert ours.high == pytest.approx(theirs.high, abs=0.006)


def test_images_of_one_patient_count_together():
    values = np.repeat(np.random.default_rng(1).normal(0, 1, 12), 5)
    labels = np.zeros(60, int)
    alone = mean_interval(values, None, labels, limits=LIMITS)
    together = mean_interval(values, np.repeat(np.arange(12), 5), labels, limits=LIMITS)
    assert together.high - together.low > 1.7 * (alone.high - alone.low)
    assert together.method == "cluster-bootstrap"


def test_one_unit_tells_no_spread_and_nothing_gives_nothing():
    one = mean_interval(np.array([0.9, 0.8]), np.array([4, 4]), np.zeros(2, int), limits=LIMITS)
    assert (one.low, one.high) == LIMITS
    assert mean_interval(np.full(3, np.nan), None, np.zeros(3, int), limits=LIMITS) is None


# ---- faithfulness


class Sums:
    """Two logits: the sums of the upper and of the lower half of the image."""

    layer = "sums"

    def look(self, images):
        raise NotImplementedError

    def answer(self, images):
        half = images.shape[2] // 2
        parts = images[:, 0, :half], images[:, 0, half:]
        return np.stack([part.mean((1, 2)) for part in parts], 1).astype(np.float32) / 40


def petsiuk(model, image, saliency, label, mode, steps, fill):
    """Deletion or insertion as in the authors' code (RISE, evaluation.py), pixel by pixel."""
    kernel = np.zeros((11, 11))
    for y in range(11):
        for x in range(11):
            kernel[y, x] = np.exp(-((y - 5) ** 2 + (x - 5) ** 2) / (2 * 5.0**2))
    kernel /= kernel.sum()
    padded = np.pad(image[0], 5)
    blurred = np.zeros_like(image)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            blurred[0, y, x] = (padded[y : y + 11, x : x + 11] * kernel).sum()
    start, finish = (image, np.full_like(image, fill)) if mode == "del" else (blurred, image)
    order = sorted(range(saliency.size), key=lambda at: (-saliency.flat[at], at))
    now, scores = start.copy(), []
    for step in range(steps + 1):
        until = round(step * saliency.size / steps)
        for at in order[:until]:
            now[0].flat[at] = finish[0].flat[at]
        logits = torch.from_numpy(model.answer(now[None]).astype(np.float64))
        scores.append(float(torch.softmax(logits, 1)[0, label]))
    return (sum(scores) - scores[0] / 2 - scores[-1] / 2) / steps


@each_seed(range(20))
def test_faithfulness_is_that_of_the_authors_code(seed):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (1, 16, 16), np.uint8)
    saliency = blobs(1, 16, seed)
    label, fill = seed % 2, 60.0
    model = Sums()
    found = faithfulness(model, image[None], saliency, np.array([label]), fill=fill)
    pixels = image.astype(np.float32)
    for name, mode in (("deletion_auc", "del"), ("insertion_auc", "ins")):
        theirs = petsiuk(model, pixels, saliency[0], label, mode, 32, fill)
        assert getattr(found, name)[0] == pytest.approx(theirs, abs=1e-6)
    whole, shown = (
        torch.softmax(torch.from_numpy(model.answer(each[None])), 1)[0, label].item()
        for each in (pixels, fill + (pixels - fill) * saliency[0])
    )
    assert found.average_drop[0] == pytest.approx(max(0, whole - shown) / whole, abs=1e-5)
    assert found.increase_in_confidence[0] == float(shown > whole)


def test_a_map_of_the_wrong_half_is_less_faithful():
    image = np.full((1, 1, 16, 16), 60, np.uint8)
    image[0, 0, :8] = 250
    upper = np.zeros((1, 16, 16), np.float32)
    upper[0, :8] = 1
    good, bad = (
        faithfulness(Sums(), image, one, np.array([0]), fill=60.0) for one in (upper, 1 - upper)
    )
    assert good.average_drop < 0.01 < bad.average_drop
    assert good.deletion_auc < bad.deletion_auc
    assert good.insertion_auc > bad.insertion_auc


def test_energy_inside_a_mask():
    maps = np.stack([np.ones((4, 4)), np.eye(4), np.zeros((4, 4)), np.ones((4, 4))]).astype("f4")
    masks = np.zeros((4, 4, 4), bool)
    masks[:3, :2] = True  # the upper half; the last image has no mask
    assert energy_inside(maps, masks).tolist()[:2] == [0.5, 0.5]
    assert np.isnan(energy_inside(maps, masks)[2:]).all()


# ---- the section, on maps alone


def found_maps(maps, explained, answers, seed=0):
    n = len(maps)
    shares = np.random.default_rng(seed).random((4, n))
    return Explanation(
        maps=maps.astype(np.float32),
        explained=explained,
        answers=answers,
        faithful=Faithfulness(*shares),
        seconds=0.5,
        mode="exact",
        layer="last",
    )


def study(n=24, side=24, noise=0.01):
    """A reference, a candidate that looks at the same places, and both baselines."""
    random = np.random.default_rng(0)
    labels = np.arange(n) % 2
    images = SalientImages(
        pixels=random.integers(0, 256, (n, 1, side, side), np.uint8),
        keys=tuple(f"image {i}" for i in range(n)),
        labels=labels,
        units=np.arange(n) // 2,
        classes=("ill", "well"),
    )
    maps = blobs(n, side)
    near = np.clip(maps + random.normal(0, noise, maps.shape), 0, 1)
    apart = np.clip(maps + random.normal(0, 8 * noise, maps.shape), 0, 1)
    rows = {
        "reference": found_maps(maps, labels, labels),
        "small": found_maps(near, labels, labels),
        "independent": found_maps(apart, labels, labels),
        "randomized": found_maps(blobs(n, side, seed=9), labels, labels),
    }
    return images, rows


def test_a_candidate_that_looks_at_the_same_places_passes():
    images, rows = study()
    section = saliency_section(images, rows, "small")
    assert section.verdict.status == "pass"
    assert section.images == 24
    assert list(section.similarity) == ["small", "independent", "randomized"]
    assert (
        section.similarity["small"]["spearman"].low
        > section.similarity["randomized"]["spearman"].high
    )
    assert set(section.faithfulness) == {"reference", *section.similarity}
    assert section.faithfulness["small"]["average_drop"].n == 24
    assert section.seconds_per_image["small"] == 0.5
    assert section.inside_mask == {}
    assert "24 of 24 images that both get right" in section.maps["small"]


def test_same_answers_with_maps_from_elsewhere_are_caught():
    """The planted regression: nothing but the maps differs from the candidate that passes."""
    images, rows = study()
    rows["small"] = replace(rows["small"], maps=blobs(24, seed=5))
    section = saliency_section(images, rows, "small")
    assert section.verdict.status == "fail"
    assert "no closer to the reference's than chance, whatever it answers" in " ".join(
        section.verdict.texts
    )


def test_maps_of_other_images_are_caught():
    images, rows = study()
    rows["small"] = replace(rows["small"], maps=np.roll(rows["small"].maps, 1, axis=0))
    assert saliency_section(images, rows, "small").verdict.status != "pass"


def test_less_like_the_reference_than_a_network_trained_apart_is_no_pass():
    images, rows = study()
    rows["small"], rows["independent"] = rows["independent"], rows["small"]
    verdict = saliency_section(images, rows, "small").verdict
    assert verdict.status == "inconclusive"
    assert "trained apart" in " ".join(verdict.texts)


def test_without_random_weights_nothing_can_be_said():
    images, rows = study()
    del rows["randomized"]
    verdict = saliency_section(images, rows, "small").verdict
    assert verdict.status == "inconclusive"
    assert "random weights" in verdict.texts[0]


@pytest.mark.parametrize("case", ["one image", "one unit", "empty reference", "all wrong"])
def test_degenerate_studies_are_never_a_pass_by_accident(case):
    images, rows = study(1) if case == "one image" else study()
    if case == "one unit":
        images = replace(images, units=np.zeros(24, int))
    if case == "empty reference":
        rows["reference"] = replace(rows["reference"], maps=np.zeros((24, 24, 24), np.float32))
    if case == "all wrong":
        rows["small"] = replace(rows["small"], answers=1 - images.labels)
    section = saliency_section(images, rows, "small")
    if case == "all wrong":
        assert section.images == 24
        assert "all 24 images, of which both get 0 right" in section.maps["small"]
    else:
        assert section.verdict.status == "inconclusive"


def test_only_images_that_both_get_right_count():
    images, rows = study()
    wrong = np.arange(24) >= 10
    rows["small"] = replace(
        rows["small"], answers=np.where(wrong, 1 - images.labels, images.labels)
    )
    spoilt = rows["small"].maps.copy()
    spoilt[wrong] = blobs(14, seed=3)
    rows["small"] = replace(rows["small"], maps=spoilt)
    section = saliency_section(images, rows, "small")
    assert section.images == 10
    assert section.similarity["small"]["spearman"].n == 10
    assert section.verdict.status == "pass"


def test_energy_in_masks_where_there_are_any():
    images, rows = study()
    masks = rows["reference"].maps > 0.5
    section = saliency_section(replace(images, masks=masks), rows, "small")
    assert section.inside_mask["reference"].value > 2 * section.inside_mask["randomized"].value


def test_maps_of_other_classes_or_sizes_are_refused():
    images, rows = study()
    other = replace(rows["small"], explained=1 - images.labels)
    with pytest.raises(DataError, match="that explain the reference's answers"):
        saliency_section(images, {**rows, "small": other}, "small")
    with pytest.raises(DataError, match="expected maps of 'large', got maps of independent"):
        saliency_section(images, rows, "large")


def test_panels_are_drawn_from_the_least_to_the_most_similar(tmp_path):
    images, rows = study()
    section = saliency_section(images, rows, "small", folder=tmp_path)
    panels = section.panels
    assert len(panels) == 6
    assert [one.similarity for one in panels] == sorted(one.similarity for one in panels)
    values = similarities(rows["reference"].maps, rows["small"].maps)["spearman"]
    assert panels[0].similarity == pytest.approx(values.min())
    assert panels[-1].similarity == pytest.approx(values.max())
    assert panels[0].titles == ("image", "reference", "small", "independent", "randomized")
    for panel in panels:
        path = tmp_path / panel.picture
        assert path.stat().st_size < 150_000  # noise, which is the worst case
        with Image.open(path) as picture:
            assert picture.size == (5 * 192 + 4 * 4, 192)
    again = saliency_section(images, rows, "small", folder=tmp_path / "again")
    assert [(tmp_path / p.picture).read_bytes() for p in panels] == [
        (tmp_path / "again" / p.picture).read_bytes() for p in again.panels
    ]


def test_colours_rise_evenly_in_lightness():
    shades = colours(np.linspace(0, 1, 17, dtype=np.float32)) / 255
    linear = np.where(shades <= 0.04045, shades / 12.92, ((shades + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
    steps = np.diff(lightness)
    assert len(INFERNO) == 17
    assert steps.min() > 3  # the first is the darkest, where the eye tells least
    assert steps.max() < 8.5


def test_an_overlay_leaves_the_image_where_the_map_is_zero():
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8), np.uint8)
    saliency = np.zeros((8, 8), np.float32)
    saliency[0, 0] = 1
    drawn = overlay(image, saliency)
    assert np.array_equal(drawn[1:], np.broadcast_to(image[0, 1:, :, None], (7, 8, 3)))
    assert not np.array_equal(drawn[0, 0], np.repeat(image[0, 0, 0], 3))
    colour = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    assert np.array_equal(overlay(colour, None), colour.transpose(1, 2, 0))


# ---- with a network


@pytest.fixture(scope="module")
def small():
    return candidate_of("test_resnet", 64, mean=0.2, std=0.25)


def test_explained_is_the_same_after_it_was_kept(small, tmp_path):
    images = pictures(2, small.card.input)
    network = feature_network(small, threads=1)
    answers = small.predict(images).argmax(1)
    made = explain(small, network, images, answers, fill=fill_level(small))
    made.save(tmp_path / "maps.npz")
    kept = Explanation.load(tmp_path / "maps.npz")
    assert np.array_equal(kept.maps, made.maps)
    assert np.array_equal(kept.faithful.insertion_auc, made.faithful.insertion_auc)
    assert (kept.mode, kept.layer, kept.seconds) == (made.mode, made.layer, made.seconds)
    assert np.array_equal(kept.answers, kept.explained)
    assert made.maps.shape == (2, 64, 64)
    (tmp_path / "maps.npz").write_bytes(b"no")
    with pytest.raises(DataError, match="saliency maps at"):
        Explanation.load(tmp_path / "maps.npz")


def test_random_weights_keep_scale_and_lose_knowledge(small):
    images = pictures(32, small.card.input, 1)
    other = randomized(small, images, seed=1)
    before, after = (dict(one.module.named_parameters()) for one in (small, other))
    for name, weights in before.items():
        same = after[name].detach().flatten().sort()[0], weights.detach().flatten().sort()[0]
        assert torch.equal(*same)
    convolutions = [name for name, weights in before.items() if weights.ndim == 4]
    assert not any(torch.equal(before[name], after[name]) for name in convolutions)
    logits = other.predict(images)
    assert np.isfinite(logits).all()
    assert logits.std(0).max() > 1e-3
    assert np.array_equal(randomized(small, images, seed=1).predict(images), logits)
    assert other.card.name.endswith("-randomized")
    assert other.digest != small.digest


def test_randomization_cascades_from_the_logits_downwards(small):
    images = pictures(8, small.card.input, 2)
    half = randomized(small, images, share=0.3)
    changed = [
        name
        for name, weights in half.module.named_parameters()
        if not torch.equal(weights, dict(small.module.named_parameters())[name])
    ]
    assert any("fc" in name for name in changed)
    assert not any("stem" in name or "conv1.0" in name for name in changed)


def test_fill_is_the_mean_of_training_pixels(small):
    assert fill_level(small) == pytest.approx(51)
    colour = candidate_of(
        "test_resnet", 64, channels=3, in_channels=3, mean=(0.1, 0.2, 0.3), std=(0.2, 0.2, 0.2)
    )
    assert fill_level(colour).shape == (3, 1, 1)
    assert fill_level(colour).ravel() == pytest.approx([25.5, 51, 76.5])
