"""Augmentation: the drawn numbers, the geometry against torch's own, the intensities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import stats

from clinipress.errors import RecipeError
from clinipress.train import augment as module
from clinipress.train.augment import DRAWS, POLICIES, augment, draw, resize

MASK = 2**64 - 1
MIDDLE = 0.5  # a uniform of one half changes nothing


def splitmix(state):
    """SplitMix64 in Python's own integers: the referee."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def still(n=1, **columns):
    """Uniforms that leave an image as it is, except for the columns named."""
    uniforms = np.full((n, DRAWS), MIDDLE, dtype=np.float32)
    uniforms[:, [module.FLIP_X, module.FLIP_Y, module.TURN, module.ERASE]] = 0.999
    uniforms[:, module.TURN_BY] = 0
    for name, value in columns.items():
        uniforms[:, getattr(module, name.upper())] = value
    return uniforms


def noise(n=2, channels=1, height=16, width=16, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, channels, height, width))
    return torch.from_numpy(pixels.astype(np.uint8))


def test_draw_matches_integers_by_hand():
    seed, view, row = 7, 3, 41
    state = splitmix(splitmix(seed) ^ view)
    state = splitmix(state ^ row)
    expected = [
        (splitmix((state + k * 0x9E3779B97F4A7C15) & MASK) >> 40) / 2**24
        for k in range(1, DRAWS + 1)
    ]
    assert draw(seed, view, np.array([row]))[0].tolist() == expected


def test_splitmix_has_its_published_first_output():
    # https://prng.di.unimi.it/splitmix64.c, seed 1234567
    assert splitmix(1234567) == 6457827717110365317
    assert int(module._mix(np.array([1234567], dtype=np.uint64))[0]) == 6457827717110365317


@pytest.mark.parametrize("column", [0, DRAWS - 1])
def test_draws_are_uniform(column):
    sample = draw(11, 2, np.arange(20_000))[:, column]
    assert sample.min() >= 0
    assert sample.max() < 1
    assert stats.kstest(sample, "uniform").pvalue > 1e-3


def test_uniformity_test_can_fail():
    sample = draw(11, 2, np.arange(20_000))[:, 0] ** 1.05
    assert stats.kstest(sample, "uniform").pvalue < 1e-3


def test_columns_views_and_neighbours_are_uncorrelated():
    n = 20_000
    table = draw(0, 0, np.arange(n))
    pairs = [
        (table[:, 0], table[:, 1]),
        (table[:-1, 0], table[1:, 0]),
        (table[:, 0], draw(0, 1, np.arange(n))[:, 0]),
        (table[:, 0], draw(1, 0, np.arange(n))[:, 0]),
    ]
    for a, b in pairs:
        assert abs(stats.pearsonr(a, b).statistic) < 4 / math.sqrt(n)


def test_an_image_gets_its_numbers_in_any_batch():
    rows = np.array([5, 900, 2, 77])
    whole = draw(3, 1, np.arange(1000))
    assert np.array_equal(draw(3, 1, rows), whole[rows])
    assert np.array_equal(draw(3, 1, rows[::-1]), whole[rows[::-1]])


def test_augmentation_does_not_depend_on_the_batch():
    images, rows = noise(6), np.array([9, 4, 1, 30, 2, 8])
    whole = augment(images, 16, "dermoscopy", 1.0, draw(0, 0, rows))
    order = [3, 0, 5]
    part = augment(images[order], 16, "dermoscopy", 1.0, draw(0, 0, rows[order]))
    assert torch.equal(part, whole[order])


@pytest.mark.parametrize("modality", sorted(POLICIES))
@pytest.mark.parametrize("channels", [1, 3])
def test_every_modality_gives_uint8_of_the_size_asked_for(modality, channels):
    images = noise(3, channels, 24, 16)
    before = images.clone()
    out = augment(images, (12, 8), modality, 1.0, draw(0, 0, np.arange(3)))
    assert out.dtype == torch.uint8
    assert out.shape == (3, channels, 12, 8)
    assert torch.equal(images, before)


def test_strength_zero_is_the_identity():
    images = noise()
    assert augment(images, 16, "brain-mri", 0.0, draw(0, 0, np.arange(2))) is images


def test_middle_draws_are_the_identity_too():
    images = noise(2, 3)
    assert torch.equal(augment(images, 16, "generic", 1.0, still(2)), images)


def test_strength_scales_the_rotation():
    images = noise(1, 1, 32, 32)
    uniforms = still(rotation=1.0)
    weak, strong = (augment(images, 32, "generic", s, uniforms) for s in (0.5, 2.0))
    for strength, out in ((0.5, weak), (2.0, strong)):
        assert torch.equal(out, rotated(images, 10 * strength))


def rotated(images, degrees):
    """The referee: torch's affine_grid with a rotation matrix."""
    a = math.radians(degrees)
    matrix = torch.tensor([[[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0]]])
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    out = F.grid_sample(images.float(), grid, align_corners=False)
    return (out + 0.5).to(torch.uint8)


def test_grid_is_that_of_torch():
    matrix = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    ours = module._grid(matrix, (5, 7))
    theirs = F.affine_grid(matrix, [3, 1, 5, 7], align_corners=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_quarter_turn_and_flips_are_exact():
    images = noise(1, 3)
    turned = augment(images, 16, "histology", 1.0, still(turn=0.0, turn_by=0.3))
    assert torch.equal(turned, torch.rot90(images, 1, (2, 3))) or torch.equal(
        turned, torch.rot90(images, -1, (2, 3))
    )
    flipped = augment(images, 16, "histology", 1.0, still(flip_x=0.0))
    assert torch.equal(flipped, images.flip(3))
    flipped = augment(images, 16, "histology", 1.0, still(flip_y=0.0))
    assert torch.equal(flipped, images.flip(2))


@pytest.mark.parametrize("modality", ["chest-ct", "chest-xray", "generic"])
def test_a_chest_is_never_mirrored(modality):
    images = noise(1)
    assert torch.equal(augment(images, 16, modality, 1.0, still(flip_x=0.0, flip_y=0.0)), images)


def test_rotation_stays_one_on_an_oblong_image():
    # a small disc off the centre keeps its distance to the centre, in pixels
    y, x = np.mgrid[0:64, 0:32]
    disc = (((y - 47.5) ** 2 + (x - 15.5) ** 2) < 9).astype(np.uint8) * 200
    images = torch.from_numpy(disc)[None, None]
    policy = POLICIES["dermoscopy"]
    quarter = 0.5 + 90 / policy.rotation / 2
    out = augment(images, (64, 32), "dermoscopy", 1.0, still(rotation=quarter))[0, 0].numpy()
    out = out[24:40]  # reflected copies lie further out
    weight = out / out.sum()
    rows = (weight * np.arange(24, 40)[:, None]).sum()
    assert abs(rows - 31.5) < 0.6


def test_shrinking_averages_first():
    board = torch.from_numpy(np.indices((32, 32)).sum(0) % 2 * 255).to(torch.uint8)[None, None]
    out = augment(board, 16, "generic", 1.0, still())
    assert out.float().std() < 1  # without averaging the board comes out black, white or moire
    assert abs(float(out.float().mean()) - 127.5) < 1
    small = resize(board, (16, 16)).float()
    assert small[..., 2:-2, 2:-2].std() < 1


def test_resizing_is_pillows():
    images = noise(1, 1, 31, 24)
    theirs = Image.fromarray(images[0, 0].numpy()).resize((10, 13), Image.Resampling.BILINEAR)
    ours = resize(images, (13, 10))[0, 0].int()
    assert (ours - torch.from_numpy(np.asarray(theirs).astype(int))).abs().max() <= 1


def test_tones_follow_the_formula():
    images = noise(1)
    policy = POLICIES["brain-mri"]
    out = augment(images, 16, "brain-mri", 1.0, still(gamma=1.0, contrast=0.0, brightness=0.75))
    x = images.double().numpy()
    mean = x[:, :, ::4, ::4].mean()
    g, gain = math.exp(policy.gamma), math.exp(-policy.contrast)
    pivot = 255 * (mean / 255) ** g
    offset = 0.5 * policy.brightness * 255
    expected = np.clip((255 * (x / 255) ** g - pivot) * gain + pivot + offset, 0, 255)
    assert np.abs(out.numpy() - expected).max() <= 0.51


def test_erasing_paints_one_rectangle_with_the_mean():
    images = noise(1, 1, 32, 32)
    out = augment(images, 32, "brain-mri", 1.0, still(erase=0.0))
    changed = (out != images)[0, 0]
    ys, xs = torch.nonzero(changed, as_tuple=True)
    box = out[0, 0, ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    assert len(torch.unique(box)) == 1
    assert 0.02 < box.numel() / 1024 < 0.11


def test_colour_jitter_touches_colours_only_where_allowed():
    images = noise(1, 3)
    red = still(red=1.0)
    assert torch.equal(augment(images, 16, "brain-mri", 1.0, red), images)
    stained = augment(images, 16, "histology", 1.0, red).float()
    assert stained[:, 0].mean() > images.float()[:, 0].mean() + 3
    assert torch.equal(stained[:, 1], images.float()[:, 1])


def test_unknown_modality_is_refused():
    with pytest.raises(RecipeError, match="modality out of generic"):
        augment(noise(), 16, "ultrasound", 1.0, still(2))


def test_policies_say_why():
    assert all(len(policy.why) > 20 for policy in POLICIES.values())
