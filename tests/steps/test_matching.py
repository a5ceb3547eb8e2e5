"""Tensors of two graphs, paired by what they hold."""

import numpy as np
import pytest

from clinipress.formats.matching import match_tensors, same_values

IMAGE = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


def test_values_are_found_under_other_names_and_layouts():
    wanted = {"conv": IMAGE, "mean": IMAGE.mean(axis=(2, 3)), "gone": IMAGE + 1}
    found = {
        "other": np.zeros((2, 3, 4, 5), np.float32),
        "last": IMAGE.transpose(0, 2, 3, 1),
        "pooled": IMAGE.mean(axis=(2, 3), keepdims=True),
        "copy": IMAGE * (1 + 1e-5),
    }
    assert match_tensors(wanted, found) == {"conv": ("last", "copy"), "mean": ("pooled",)}


@pytest.mark.parametrize(
    "other", [IMAGE[:, ::-1], IMAGE.transpose(0, 1, 3, 2), IMAGE * 1.01, IMAGE[:1]]
)
def test_what_differs_is_not_taken(other):
    assert not same_values(IMAGE, other)
