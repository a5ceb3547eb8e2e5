import hashlib

import numpy as np
import pytest
from PIL import Image

from clinipress.data.audit import duplicates
from clinipress.data.audit.duplicates import find_duplicates
from clinipress.kinds.image.twins import difference_hashes, thumbnails_of


def pictures(n, seed=0):
    """Smooth random pictures of 64x64, no two alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    large = [
        np.asarray(Image.fromarray(c).resize((64, 64), Image.Resampling.BICUBIC)) for c in coarse
    ]
    return np.stack(large)


def twins_of(grey, sha=None, readable=None):
    n = len(grey)
    names = sha or [hashlib.sha256(bytes([i % 256, i // 256])).hexdigest() for i in range(n)]
    known = np.ones(n, dtype=bool) if readable is None else np.asarray(readable)
    return find_duplicates(names, difference_hashes(grey), thumbnails_of(grey), known)


def brute_force(grey):
    """The definition, pair by pair."""
    rows = thumbnails_of(grey).reshape(len(grey), -1)
    hashes = [int(h) for h in difference_hashes(grey)]
    found = set()
    for a in range(len(grey)):
        for b in range(a + 1, len(grey)):
            close = (hashes[a] ^ hashes[b]).bit_count() <= 6
            if close and np.corrcoef(rows[a], rows[b])[0, 1] >= 0.995:
                found.add((a, b))
    return found


def test_thumbnail_is_the_mean_of_blocks():
    grey = np.zeros((1, 64, 64), dtype=np.uint8)
    grey[0, :2, :2] = [[10, 20], [30, 43]]
    assert thumbnails_of(grey)[0, 0, 0] == 26
    assert thumbnails_of(grey).shape == (1, 32, 32)


def test_hash_of_ramps():
    right = np.tile(np.arange(64, dtype=np.uint8) * 4, (1, 64, 1))
    assert difference_hashes(right)[0] == np.uint64(0xFFFFFFFFFFFFFFFF)
    assert difference_hashes(right[:, :, ::-1])[0] == 0


def test_hash_bits_against_a_plain_reduction():
    grey = pictures(1, seed=5)[:, :, :54]  # 8 x 9 blocks of 8 x 6 pixels divide evenly
    small = grey[0].reshape(8, 8, 9, 6).mean(axis=(1, 3))
    bits = "".join(
        "1" if small[y, x + 1] > small[y, x] else "0" for y in range(8) for x in range(8)
    )
    assert int(difference_hashes(grey)[0]) == int(bits, 2)


@pytest.mark.parametrize("block", [7, 64])
def test_same_pairs_as_the_definition(monkeypatch, block):
    monkeypatch.setattr(duplicates, "BLOCK", block)
    generator = np.random.default_rng(1)
    base = pictures(40)
    # noise of all strengths, so that pairs lie on both sides of each threshold
    strength = np.linspace(0, 40, 40)[:, None, None]
    noisy = np.clip(base + generator.normal(0, 1, base.shape) * strength, 0, 255).astype(np.uint8)
    grey = np.concatenate([base, noisy])
    expected = brute_force(grey)
    assert 5 < len(expected) < 39
    assert {(int(a), int(b)) for a, b in twins_of(grey).near} == expected


def test_a_filter_that_misses_is_noticed(monkeypatch):
    grey = np.concatenate([pictures(10), pictures(10)])
    assert len(twins_of(grey).near) == 10
    real = duplicates._shortened
    monkeypatch.setattr(duplicates, "_shortened", lambda t: real(t) * 0.9)
    assert len(twins_of(grey).near) == 0


def test_shortened_dot_product_is_never_below_the_correlation():
    thumbnails = thumbnails_of(np.concatenate([pictures(30), pictures(30, 1) // 8 + 100]))
    short = duplicates._shortened(thumbnails)
    exact = np.corrcoef(thumbnails.reshape(60, -1))
    assert (short @ short.T >= exact - duplicates.ROUNDING).all()


def test_correlation_is_pearsons():
    base = pictures(1)
    brighter = np.clip(base * 0.9 + 12, 0, 255).astype(np.uint8)
    twins = twins_of(np.concatenate([base, brighter]))
    rows = thumbnails_of(np.concatenate([base, brighter])).reshape(2, -1)
    assert twins.correlation[0] == pytest.approx(np.corrcoef(rows)[0, 1], abs=1e-6)


def test_clusters_are_connected_components():
    base = pictures(3)
    grey = np.concatenate([base, base[:1], base[1:2]])
    twins = twins_of(grey, sha=["a", "b", "c", "a", "d"])
    assert twins.first.tolist() == [0, 1, 2, 0, 4]
    assert twins.near.tolist() == [[1, 4]]
    assert twins.clusters().tolist() == [0, 1, 2, 0, 1]


def test_unreadable_images_take_no_part():
    grey = np.concatenate([pictures(1), pictures(1), pictures(1)])
    twins = twins_of(grey, sha=["a", "", ""], readable=[True, False, False])
    assert twins.first.tolist() == [0, -1, -1]
    assert twins.clusters().tolist() == [0, -1, -1]
    assert len(twins.near) == 0


def test_pictures_of_one_grey_are_near_nothing():
    grey = np.full((3, 64, 64), 7, dtype=np.uint8)
    assert twins_of(grey, sha=["a", "b", "b"]).clusters().tolist() == [0, 1, 1]


def test_leaks_count_images_on_one_side_through_copies():
    base = pictures(4)
    # 0 and 1 train; 2 is the same file as 0; 3 is near 1; 4 the same file as 3; 5 its own
    grey = np.concatenate([base[:2], base[:1], base[1:2], base[1:2], base[3:]])
    twins = twins_of(grey, sha=["a", "b", "a", "c", "c", "d"])
    train = np.array([True, True, False, False, False, False])
    assert twins.having_duplicate_in(~train, train).tolist() == [
        False,
        False,
        True,
        True,
        True,
        False,
    ]
    assert twins.having_duplicate_in(train, ~train).tolist() == [True, True, *[False] * 4]


def test_leaks_are_direct_and_do_not_follow_chains():
    twins = duplicates.Duplicates(
        first=np.arange(3), near=np.array([[0, 1], [1, 2]]), correlation=np.ones(2, np.float32)
    )
    test = np.array([False, False, True])
    assert twins.having_duplicate_in(test, np.array([True, False, False])).sum() == 0
    assert twins.having_duplicate_in(test, np.array([False, True, False])).sum() == 1
