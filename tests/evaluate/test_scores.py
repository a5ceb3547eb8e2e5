from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clinipress.errors import DataError
from clinipress.evidence.scores import Scores
from clinipress.stats.metrics import softmax

N, CLASSES = 7, ("glioma", "no tumour, é")


def scores(**changes) -> Scores:
    random = np.random.default_rng(0)
    whole = Scores(
        logits=random.normal(size=(N, 2)).astype(np.float32),
        labels=random.integers(0, 2, N),
        units=np.array([5, 5, 9, 9, 9, 0, 1]),
        keys=tuple(f"images/ü {number}.png" for number in range(N)),
        classes=CLASSES,
        positive="glioma",
        temperature=1.7,
        groups={"sex": ("f", "m", "", "f", "f", "m", ""), "site": ("Bern",) * N},
    )
    return replace(whole, **changes)


def check_equal(found: Scores, expected: Scores) -> None:
    """Every array with its type, and every other field."""
    for name in ("logits", "labels", "units"):
        mine, other = getattr(found, name), getattr(expected, name)
        assert mine.dtype == other.dtype, name
        assert np.array_equal(mine, other), name
    for name in ("keys", "classes", "positive", "temperature"):
        assert getattr(found, name) == getattr(expected, name), name
    assert dict(found.groups) == dict(expected.groups)


@pytest.mark.parametrize(
    "changes", [{}, {"positive": None}, {"groups": {}}, {"temperature": 0.25}], ids=str
)
def test_what_is_saved_is_read_back(tmp_path, changes) -> None:
    expected = scores(**changes)
    expected.save(tmp_path / "a.npz")
    check_equal(Scores.load(tmp_path / "a.npz"), expected)


def test_no_image_at_all_is_read_back(tmp_path) -> None:
    nothing = Scores(np.zeros((0, 2), np.float32), *[np.zeros(0, np.int64)] * 2, (), CLASSES)
    nothing.save(tmp_path / "a.npz")
    check_equal(Scores.load(tmp_path / "a.npz"), nothing)


def test_the_checker_of_scores_can_fail() -> None:
    for changes in (
        {"temperature": 1.6},
        {"labels": 1 - scores().labels},
        {"units": scores().units.astype(np.int32)},
        {"groups": {"sex": ("f",) * N}},
    ):
        with pytest.raises(AssertionError):
            check_equal(scores(**changes), scores())


def test_probabilities_are_those_of_the_temperature() -> None:
    one = scores()
    expected = softmax(one.logits.astype(np.float64), 1.7)
    assert np.array_equal(one.probabilities, expected)
    assert one.probabilities.dtype == np.float64


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.zeros(N + 1, np.int64)},
        {"units": np.zeros(N - 1, np.int64)},
        {"keys": ("a",)},
        {"classes": ("a", "b", "c")},
        {"logits": np.zeros(N, np.float32)},
        {"logits": np.zeros((N, 2, 1), np.float32)},
        {"groups": {"sex": ("f",)}},
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused(changes) -> None:
    with pytest.raises(DataError, match="images"):
        scores(**changes)


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return type(self.path).mkdir, (self.path,)


def test_a_pickle_is_refused_and_not_run(tmp_path) -> None:
    scores().save(tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as file:
        arrays = dict(file)
    arrays["keys"] = np.array([Bomb(tmp_path / "ran")] * N, dtype=object)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match="per-image scores"):
        Scores.load(tmp_path / "bad.npz")
    assert not (tmp_path / "ran").exists()


def broken(tmp_path, how: str):
    path = tmp_path / "a.npz"
    scores().save(path)
    with np.load(path) as file:
        arrays = dict(file)
    if how == "missing":
        path.unlink()
    elif how == "cut short":
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "no archive":
        path.write_text("not scores")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        arrays |= {
            "an array less": {"labels": None},
            "facts are a list": {"facts": np.asarray("[1, 2]")},
            "facts are no JSON": {"facts": np.asarray("{")},
            "facts lack the classes": {"facts": np.asarray('{"positive": null}')},
            "a label too many": {"labels": np.zeros(N + 1, np.int64)},
            "labels of words": {"labels": np.array(["x"] * N)},
        }[how]
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize(
    "how",
    [
        "missing",
        "cut short",
        "no archive",
        "empty",
        "a folder",
        "an array less",
        "facts are a list",
        "facts are no JSON",
        "facts lack the classes",
        "a label too many",
        "labels of words",
    ],
)
def test_files_that_are_not_scores_are_refused_in_one_line(tmp_path, how) -> None:
    with pytest.raises(DataError) as caught:
        Scores.load(broken(tmp_path, how))
    assert "\n" not in str(caught.value)
