"""What all model files share: batches, checks, cards, digests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from clinipress.errors import BundleError, ModelError, StorageError
from clinipress.formats.file import FileCandidate, card_beside, digest_of_files, first_line
from clinipress.records.candidate import Card, InputSpec

SPEC = InputSpec(channels=1, height=8, width=8)
CARD = Card(name="net", classes=("a", "b"), input=SPEC, format="openvino")


class Sums(FileCandidate):
    """Answers with the sum of an image; notes how many images came at once."""

    def __init__(self, path: Path, batch: int | None = None) -> None:
        super().__init__(path, CARD, None, 1)
        self.seen: list[int] = []
        if batch:
            self.largest_batch = batch

    @classmethod
    def _files_of(cls, path):
        return (path, path.with_suffix(".bin"))

    def _run(self, images):
        assert images.flags.c_contiguous
        self.seen.append(len(images))
        sums = images.sum(axis=(1, 2, 3)).astype(np.float32)
        return np.stack([sums, -sums], axis=1)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "model.xml").write_bytes(b"graph")
    return tmp_path / "model.xml"


@pytest.mark.parametrize("batch", [None, 1, 5])
def test_any_number_of_images_in_batches_the_engine_takes(path, batch):
    images = np.random.default_rng(0).integers(0, 256, (70, 1, 8, 8), np.uint8)
    one = Sums(path, batch)
    np.testing.assert_array_equal(one.predict(images)[:, 0], images.sum(axis=(1, 2, 3)))
    assert max(one.seen) == min(batch or 64, 64)
    assert sum(one.seen) == 70


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 1, 8, 9), np.uint8),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.zeros((1, 1, 8, 8), np.float32),
    ],
)
def test_other_arrays_are_refused(path, images):
    with pytest.raises(BundleError, match=r"uint8 images of shape \[n, 1, 8, 8\]"):
        Sums(path).predict(images)


def test_no_nan_leaves_a_file(path, monkeypatch):
    one = Sums(path)
    monkeypatch.setattr(one, "_run", lambda images: np.full((len(images), 2), np.nan, np.float32))
    with pytest.raises(ModelError, match="NaN or infinity for 3 of 3 images"):
        one.predict(np.zeros((3, 1, 8, 8), np.uint8))


def test_the_digest_covers_every_file(path):
    before = Sums(path).digest
    parts = [hashlib.sha256(data).hexdigest() for data in (b"graph", b"weights")]
    assert before == hashlib.sha256("".join(parts).encode()).hexdigest()
    assert digest_of_files((path,)) == parts[0]
    path.with_suffix(".bin").write_bytes(b"weightz")
    assert Sums(path).digest != before
    assert Sums(path).file_bytes == len(b"graph" + b"weightz")


def test_saved_with_its_card_and_found_again(path, tmp_path):
    one = Sums(path)
    one.save(tmp_path / "copy")
    assert (tmp_path / "copy" / "model.xml").read_bytes() == b"graph"
    assert (tmp_path / "copy" / "model.bin").read_bytes() == b"weights"
    assert card_beside(tmp_path / "copy" / "model.xml") == CARD
    path.write_bytes(b"changed")
    with pytest.raises(StorageError, match="changed since"):
        one.save(tmp_path / "copy")


@pytest.mark.parametrize("text", [None, "no json", '{"name": 3}', '{"kind": "clinipress bundle"}'])
def test_a_card_that_is_none_is_refused(path, text):
    if text is not None:
        (path.parent / "card.json").write_text(text)
    with pytest.raises(ModelError, match="card") as problem:
        card_beside(path)
    assert "\n" not in str(problem.value)


def test_an_engines_message_is_cut_to_a_line():
    assert first_line(ValueError("first\nsecond")) == "first"
    assert first_line(KeyError()) == "KeyError"
    assert len(first_line(ValueError("x" * 1000))) == 160
