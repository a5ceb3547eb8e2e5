from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clinipress.data.layouts.arrays import array_picture, read_arrays
from clinipress.errors import DataError, ImageError

RANDOM = np.random.default_rng(6)
IMAGES = RANDOM.integers(0, 256, (6, 8, 8)).astype(np.uint8)
LABELS = np.array([[0], [1], [0], [2], [1], [0]], np.int64)


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def medmnist(path: Path, images: np.ndarray = IMAGES, labels: np.ndarray = LABELS) -> Path:
    return saved(
        path,
        train_images=images, train_labels=labels,
        val_images=images[:2], val_labels=labels[:2],
        test_images=images[3:], test_labels=labels[3:],
    )  # fmt: skip


def test_items_of_the_three_parts(tmp_path: Path) -> None:
    path = medmnist(tmp_path / "set.npz")
    items = read_arrays(path, {"0": "normal"})
    assert len(items) == 11
    assert items[0].key == "set.npz#train#0"
    assert [i.label for i in items[:4]] == ["normal", "1", "normal", "2"]
    assert {i.key.split("#")[1]: i.split for i in items} == {
        "train": "train", "val": "validation", "test": "test"
    }  # fmt: skip
    np.testing.assert_array_equal(array_picture(items[4]).pixels, IMAGES[4])
    np.testing.assert_array_equal(array_picture(items[-1]).pixels, IMAGES[5])


def test_colour_and_flat_labels_and_a_single_part(tmp_path: Path) -> None:
    colour = RANDOM.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    path = saved(
        tmp_path / "set.npz", test_images=colour, test_labels=np.array([1, 0, 1], np.uint8)
    )
    items = read_arrays(path, {})
    assert [i.label for i in items] == ["1", "0", "1"]
    np.testing.assert_array_equal(array_picture(items[2]).pixels, colour[2])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "train_images and train_labels.*images"),
        ({"train_images": IMAGES, "train_labels": LABELS[:4]}, r"\[4, h, w\]"),
        ({"train_images": IMAGES.astype(float), "train_labels": LABELS}, "float64"),
        ({"train_images": IMAGES[:, None, None], "train_labels": LABELS}, r"\[6, 1, 1, 8, 8\]"),
        ({"train_images": IMAGES, "train_labels": np.ones((6, 14), int)}, "set task: multilabel"),
        ({"train_images": IMAGES, "train_labels": LABELS * 0.5}, "whole number"),
    ],
)
def test_other_archives_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_arrays(saved(tmp_path / "set.npz", **arrays), {})


def test_pickles_and_broken_files_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.npz", train_images=IMAGES, train_labels=np.array([{}] * 6))
    with pytest.raises(DataError, match="Object arrays"):
        read_arrays(path, {})
    data = medmnist(tmp_path / "set.npz").read_bytes()
    for content in (b"", b"hello", data[: len(data) // 2]):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"broken\.npz"):
            read_arrays(tmp_path / "broken.npz", {})


def test_an_archive_that_is_gone_or_damaged_later(tmp_path: Path) -> None:
    path = medmnist(tmp_path / "set.npz")
    item = read_arrays(path, {})[0]
    data = bytearray(path.read_bytes())
    data[200:230] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"set\.npz#train#0"):
        array_picture(item)
    path.unlink()
    with pytest.raises(ImageError, match=r"set\.npz#train#0"):
        array_picture(item)
