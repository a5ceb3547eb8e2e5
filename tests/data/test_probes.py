from __future__ import annotations

import numpy as np
import pytest

from clinipress.errors import InputError
from clinipress.kinds.image.probes import SCENE, as_seen, probe_pictures
from clinipress.kinds.image.refuse import colour_refusal, contrast_refusal


def images(channels=1):
    return np.random.default_rng(0).integers(0, 256, (3, channels, 24, 20), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_of_the_size_of_the_set_and_in_colour(channels):
    found = probe_pictures(images(channels), ["a", "b", "c"])
    assert list(found) == ["blank", "white", "noise", SCENE, "inverted", "upside down"]
    for many in found.values():
        assert many.dtype == np.uint8
        assert many.shape[1:] == (3, 24, 20)
    assert [len(many) for many in found.values()] == [1, 1, 3, 3, 3, 3]


def test_pictures_are_what_their_names_say():
    given = images(3)
    found = probe_pictures(given, ["a", "b", "c"])
    assert (found["blank"].max(), found["white"].min()) == (0, 255)
    np.testing.assert_array_equal(found["inverted"].astype(int) + given, np.full(given.shape, 255))
    np.testing.assert_array_equal(found["upside down"][:, :, 0], given[:, :, -1])
    assert "SYNTHETIC" in SCENE


def test_noise_is_uniform():
    large = np.zeros((1, 1, 200, 200), np.uint8)
    levels = probe_pictures(large, ["a"])["noise"][0, 0]
    counts = np.bincount(levels.ravel() // 16, minlength=16)
    assert counts.min() > 0.85 * 40_000 / 16
    assert abs(np.corrcoef(levels[:, 1:].ravel(), levels[:, :-1].ravel())[0, 1]) < 0.03


def test_scene_is_colourful_and_no_two_are_alike():
    scenes = probe_pictures(images(), ["a", "b", "c"])[SCENE]
    for scene in scenes:
        assert colour_refusal(scene, model_sees_colour=False) is not None
        assert contrast_refusal(scene) is None
    assert not np.array_equal(scenes[0], scenes[1])


def test_keys_and_seed_decide_the_drawing():
    first = probe_pictures(images(), ["a", "b", "c"], seed=1)
    again = probe_pictures(images()[:1], ["b"], seed=1)
    other = probe_pictures(images()[:1], ["b"], seed=2)
    for name in ("noise", SCENE):
        np.testing.assert_array_equal(first[name][1], again[name][0])
        assert not np.array_equal(other[name][0], again[name][0])


def test_grey_models_see_luma_and_grey_stays_what_it_is():
    grey = images(1)
    three = np.repeat(grey, 3, axis=1)
    np.testing.assert_array_equal(as_seen(three, 1), grey)
    np.testing.assert_array_equal(as_seen(three, 3), three)
    colour = images(3)
    weights = np.array([0.299, 0.587, 0.114])[None, :, None, None]
    expected = (colour * weights).sum(axis=1, keepdims=True)
    assert np.abs(as_seen(colour, 1) - expected).max() <= 1


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        (np.zeros((0, 1, 8, 8), np.uint8), []),
        (np.zeros((2, 1, 8, 8), np.uint8), ["a"]),
        (np.zeros((1, 2, 8, 8), np.uint8), ["a"]),
        (np.zeros((1, 1, 8, 8)), ["a"]),
    ],
)
def test_wrong_calls_are_refused(given, keys):
    with pytest.raises(InputError):
        probe_pictures(given, keys)
