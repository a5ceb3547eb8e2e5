from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from clinipress.errors import InputError
from clinipress.kinds.image.disturb import DISTURBANCES, STRENGTHS, disturb, random_of
from clinipress.kinds.image.read import decode
from clinipress.records.candidate import InputSpec
from kit.each import each_seed

KINDS = sorted(DISTURBANCES)
# the referee works in float64 and in another order; what lies next to .5 may round the other way
ONE_LEVEL = 1
SHARE_OFF_BY_ONE = 0.005


def pictures(n=3, channels=1, height=48, width=40, seed=0):
    """Smooth blobs with an edge, so that blur, turning and blocks all leave a mark."""
    random = np.random.default_rng(seed)
    rough = random.normal(size=(n, channels, height, width))
    smooth = ndimage.gaussian_filter(rough, (0, 0, 3, 3), mode="wrap")
    smooth = 128 + 60 * smooth / smooth.std()
    smooth[:, :, height // 3 : height // 2, width // 4 : width // 2] += 50
    return np.rint(np.clip(smooth, 0, 255)).astype(np.uint8)


def keys_of(images):
    return [f"image {number}" for number in range(len(images))]


def same_but_for_rounding(found, expected):
    gap = np.abs(found.astype(int) - np.rint(np.clip(expected, 0, 255)).astype(int))
    assert gap.max() <= ONE_LEVEL, f"off by {gap.max()} grey levels"
    assert (gap > 0).mean() <= SHARE_OFF_BY_ONE, f"{(gap > 0).mean():.3f} of the pixels differ"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_strength_0_changes_nothing_and_damage_rises_with_strength(kind, channels):
    images = pictures(n=8, channels=channels, height=120, width=100)
    untouched = images.copy()
    damage = []
    for strength in (0, *STRENGTHS):
        changed = disturb(images, keys_of(images), kind, strength, seed=3)
        assert changed.shape == images.shape
        assert changed.dtype == np.uint8
        damage.append(np.abs(changed.astype(int) - images.astype(int)).mean())
    assert damage[0] == 0
    assert all(np.diff(damage) > 0), damage
    np.testing.assert_array_equal(images, untouched)


# amounts at which each kind does nothing at all
NOTHING = {
    "noise": 0, "blur": 0, "contrast": 0, "brightness": 0, "gamma": 1,
    "rotation": 0, "resolution": 1, "motion": 0,
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(NOTHING))
def test_amount_of_nothing_is_the_identity(kind):
    for channels in (1, 3):
        (image,) = pictures(1, channels)
        found = DISTURBANCES[kind].apply(image, NOTHING[kind], np.random.default_rng(0))
        np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_order_nor_batches_nor_neighbours_matter(kind):
    images = pictures(n=5, channels=3)
    keys = keys_of(images)
    together = disturb(images, keys, kind, 3, seed=1)
    backwards = disturb(images[::-1], keys[::-1], kind, 3, seed=1)[::-1]
    alone = [disturb(images[i : i + 1], keys[i : i + 1], kind, 3, seed=1)[0] for i in range(5)]
    np.testing.assert_array_equal(together, backwards)
    np.testing.assert_array_equal(together, np.stack(alone))


@pytest.mark.parametrize("kind", ["noise", "missing", "motion"])
def test_key_and_seed_decide_the_draw(kind):
    images = np.repeat(pictures(1), 2, axis=0)
    first, second = disturb(images, ["a", "b"], kind, 3, seed=0)
    other_seed = disturb(images[:1], ["a"], kind, 3, seed=1)[0]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other_seed)


def test_random_numbers_are_the_same_everywhere():
    # the digest is SHA-256 and the generator is PCG64: a figure, so that a change is noticed
    assert random_of(0, "noise", "a").integers(0, 2**32) == 1387867669


@pytest.mark.parametrize("kind", ["brightness", "gamma", "rotation"])
def test_both_directions_are_drawn(kind):
    (image,) = pictures(1)
    many = np.repeat(image[None], 64, axis=0)
    found = disturb(many, keys_of(many), kind, 4)
    kinds = {one.tobytes() for one in found}
    assert len(kinds) == 2
    shares = [np.mean([one.tobytes() == kind for one in found]) for kind in kinds]
    assert min(shares) > 0.25


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 8, 40), (3, 61, 17), (1, 512, 512)])
def test_every_size_and_both_colours(kind, shape):
    channels, height, width = shape
    images = pictures(1, channels, height, width)
    for strength in (1, 5):
        assert disturb(images, ["x"], kind, strength).shape == images.shape


@pytest.mark.parametrize("kind", KINDS)
def test_flat_pictures_stay_sane(kind):
    for level in (0, 255):
        flat = np.full((1, 3, 16, 16), level, np.uint8)
        changed = disturb(flat, ["x"], kind, 5)
        if kind in {"blur", "contrast", "gamma", "jpeg", "rotation", "resolution", "motion"}:
            np.testing.assert_array_equal(changed, flat)


@pytest.mark.parametrize("kind", KINDS)
def test_grey_in_three_channels_stays_grey(kind):
    grey = pictures(2, 1)
    three = np.repeat(grey, 3, axis=1)
    for strength in (1, 4):
        found = disturb(three, keys_of(three), kind, strength)
        expected = disturb(grey, keys_of(grey), kind, strength)
        np.testing.assert_array_equal(found, np.repeat(expected, 3, axis=1))


@each_seed(range(20))
def test_blur_is_scipys(seed):
    random = np.random.default_rng(seed)
    height, width = random.integers(8, 90, 2)
    images = pictures(1, 1 + 2 * (seed % 2), height, width, seed)
    strength = int(random.integers(1, 6))
    deviation = DISTURBANCES["blur"].amounts[strength - 1] / 100 * min(height, width)
    expected = ndimage.gaussian_filter(
        images.astype(np.float64), (0, 0, deviation, deviation), mode="reflect", truncate=4
    )
    same_but_for_rounding(disturb(images, ["x"], "blur", strength), expected)


@each_seed(range(20))
def test_rotation_is_scipys(seed):
    images = pictures(1, 1 + 2 * (seed % 2), 40 + seed, 64 - seed, seed)
    strength = 1 + seed % 5
    sign = 1 if random_of(seed, "rotation", "x").random() < 0.5 else -1
    angle = sign * DISTURBANCES["rotation"].amounts[strength - 1]
    expected = ndimage.rotate(
        images.astype(np.float64), angle, axes=(3, 2), order=1, reshape=False, cval=np.nan
    )
    found = disturb(images, ["x"], "rotation", strength, seed)
    # what scipy takes from inside alone; between the two lies a seam of one pixel
    inside = ndimage.binary_erosion(np.isfinite(expected[0, 0]))
    assert inside.mean() > 0.4
    same_but_for_rounding(found[..., inside], expected[..., inside])
    outside = ndimage.binary_erosion(~np.isfinite(expected[0, 0]), iterations=2)
    for channel in range(images.shape[1]):
        one = images[0, channel]
        border = np.concatenate([one[0], one[-1], one[:, 0], one[:, -1]])
        assert set(np.unique(found[0, channel][outside])) <= {round(float(np.median(border)))}


@each_seed(range(20))
def test_motion_is_the_mean_along_a_line(seed):
    images = pictures(1, 1, 50, 44 + seed, seed)
    strength = 1 + seed % 5
    angle = math.pi * float(random_of(seed, "motion", "x").random())
    length = DISTURBANCES["motion"].amounts[strength - 1] / 100 * min(images.shape[2:])
    steps = np.linspace(-length / 2, length / 2, 2 * math.ceil(2 * length) + 1)
    picture = images[0, 0].astype(np.float64)
    # correlation: the pixel at x takes its share from x + t; a line has no front and no back
    moved = [
        ndimage.shift(picture, (t * math.sin(angle), t * math.cos(angle)), order=1, mode="reflect")
        for t in steps
    ]
    same_but_for_rounding(
        disturb(images, ["x"], "motion", strength, seed)[0, 0], np.mean(moved, axis=0)
    )


@pytest.mark.parametrize("strength", STRENGTHS)
def test_jpeg_is_pillows(strength):
    grey, colour = pictures(1, 1), pictures(1, 3)
    for image in (grey[0, 0], colour[0].transpose(1, 2, 0)):
        buffer = io.BytesIO()
        quality = int(DISTURBANCES["jpeg"].amounts[strength - 1])
        Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
        expected = np.asarray(Image.open(buffer))
        stack = image[None, None] if image.ndim == 2 else image.transpose(2, 0, 1)[None]
        found = disturb(stack, ["x"], "jpeg", strength)[0]
        np.testing.assert_array_equal(found.transpose(1, 2, 0).squeeze(), expected)


def test_resolution_of_whole_factors_is_block_means_and_hats():
    images = pictures(1, 1, 60, 40)
    means = images[0, 0].reshape(12, 5, 8, 5).mean(axis=(1, 3))
    at = [(np.arange(side) + 0.5) / 5 - 0.5 for side in (60, 40)]
    grid = np.meshgrid(*at, indexing="ij")
    expected = ndimage.map_coordinates(means, grid, order=1, mode="nearest")
    same_but_for_rounding(disturb(images, ["x"], "resolution", 5)[0, 0], expected)


def test_noise_has_the_deviation_it_says_and_its_own_grain_in_each_colour():
    flat = np.full((1, 3, 200, 200), 128, np.uint8)
    flat[0, 1] = 120  # not grey
    for strength in STRENGTHS:
        noise = disturb(flat, ["x"], "noise", strength)[0].astype(float) - flat[0]
        wanted = DISTURBANCES["noise"].amounts[strength - 1]
        # rounding adds a variance of 1/12; 40,000 draws know a deviation to 0.4 %
        assert noise.std(axis=(1, 2)) == pytest.approx([math.hypot(wanted, 12**-0.5)] * 3, rel=0.02)
        assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.03


def test_tables_are_the_formulas():
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    levels = images.astype(np.float64)
    contrast = disturb(images, ["x"], "contrast", 3)
    np.testing.assert_array_equal(contrast, np.rint(127.5 + 0.5 * (levels - 127.5)))
    amount = DISTURBANCES["gamma"].amounts[1]
    bent = [np.rint(255 * (levels / 255) ** power) for power in (amount, 1 / amount)]
    assert any(np.array_equal(disturb(images, ["x"], "gamma", 2), one) for one in bent)
    moved = [np.clip(levels + step, 0, 255) for step in (50, -50)]
    assert any(np.array_equal(disturb(images, ["x"], "brightness", 3), one) for one in moved)


def test_blocks_are_as_large_as_they_say_and_lie_in_one_another():
    white = np.full((6, 1, 90, 70), 255, np.uint8)
    before = np.zeros_like(white, dtype=bool)
    for strength in STRENGTHS:
        black = disturb(white, keys_of(white), "missing", strength) == 0
        share = DISTURBANCES["missing"].amounts[strength - 1] / 100
        assert (black.sum(axis=(1, 2, 3)) == round(share * 90) * round(share * 70)).all()
        assert not (before & ~black).any()
        before = black


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "fog"}, "among noise"),
        ({"strength": 6}, "strength from 1 to 5"),
        ({"keys": ["a"]}, "one key for each of the 3"),
        ({"images": np.zeros((3, 2, 8, 8), np.uint8)}, "uint8 images"),
        ({"images": np.zeros((3, 1, 8, 8), np.float32)}, "float32 images"),
    ],
)
def test_wrong_calls_are_refused_in_one_line(change, words):
    call = {"images": pictures(3), "keys": ["a", "b", "c"], "kind": "noise", "strength": 1}
    with pytest.raises(InputError, match=words):
        disturb(**(call | change))


def test_no_image_is_no_work():
    assert disturb(np.zeros((0, 1, 8, 8), np.uint8), [], "noise", 1).shape == (0, 1, 8, 8)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "channels"), [("brain-mri/Testing", 1), ("covid-ct", 1), ("ham10000/images", 3)]
)
def test_real_images_are_hurt_more_and_more_and_still_recognised(realdata, folder, channels):
    spec = InputSpec(channels=channels, height=96, width=96)
    files = sorted((realdata / folder).rglob("*.[jp][pn]g"))[:60:20]
    images = np.stack([decode(file, spec) for file in files])
    for kind in KINDS:
        damage = [
            np.abs(disturb(images, keys_of(images), kind, s).astype(int) - images).mean()
            for s in STRENGTHS
        ]
        assert all(np.diff(damage) > 0), (kind, damage)
        worst = disturb(images, keys_of(images), kind, 5)
        likeness = [
            np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(images, worst, strict=True)
        ]
        # a turned picture need not match itself pixel by pixel, nor one with a hole
        assert kind in {"rotation", "missing"} or min(likeness) > 0.5, (kind, likeness)
