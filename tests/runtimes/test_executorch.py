from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from clinipress.errors import BundleError, ModelError
from clinipress.formats.executorch import run as executorch
from clinipress.formats.executorch.make import apply_executorch
from clinipress.formats.executorch.run import ExecuTorchCandidate
from clinipress.formats.open import open_file
from clinipress.models.classifier import Classifier, TorchCandidate
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import Candidate, Card, InputSpec, ModelSpec
from kit.pixels import noise
from tiny_nets import make

SIZE = 8
SPEC = InputSpec(height=SIZE, width=SIZE)
CARD = Card(name="tiny", classes=("a", "b", "c"), input=SPEC, format="executorch")


@pytest.fixture(scope="module")
def parent():
    torch.manual_seed(0)
    model = ModelSpec(factory="tiny_nets:make", num_classes=3, in_channels=1, mean=0.2, std=0.25)
    card = CARD.model_copy(update={"model": model})
    return TorchCandidate(card, Classifier(make(3, 1), SPEC, 1, 0.2, 0.25).eval())


@pytest.fixture(scope="module")
def content(parent, tmp_path_factory):
    path = tmp_path_factory.mktemp("pte") / "model.pte"
    recipe = ExportRecipe(format="executorch", precision="float32")
    apply_executorch(recipe, parent, path, path, {}, CARD)
    return path.read_bytes()


@pytest.fixture
def file(content, tmp_path):
    path = tmp_path / "model.pte"
    path.write_bytes(content)
    (tmp_path / "card.json").write_text(CARD.model_dump_json())
    return path


def pixels(count, seed=1):
    return noise(count, SIZE, seed=seed)


def test_logits_are_those_of_the_network(parent, file):
    found = ExecuTorchCandidate.load(file, threads=1).predict(pixels(20))
    assert (found.dtype, found.shape) == (np.float32, (20, 3))
    np.testing.assert_allclose(found, parent.predict(pixels(20)), atol=1e-5)


def test_it_is_a_candidate_with_the_card_from_beside_the_file(file):
    candidate = ExecuTorchCandidate.load(file)
    assert isinstance(candidate, Candidate)
    assert candidate.card == CARD
    assert candidate.runtime.startswith("executorch 1.")
    assert candidate.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert candidate.file_bytes == len(file.read_bytes())
    assert type(open_file(file)) is ExecuTorchCandidate


def test_logits_of_one_call_are_not_changed_by_the_next(file):
    candidate = ExecuTorchCandidate.load(file, threads=1)
    first = candidate.predict(pixels(1))
    kept = first.copy()
    candidate.predict(pixels(1, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_a_saved_copy_answers_alike(file, tmp_path):
    candidate = ExecuTorchCandidate.load(file)
    candidate.save(tmp_path / "copy")
    again = ExecuTorchCandidate.load(tmp_path / "copy" / "model.pte")
    np.testing.assert_array_equal(again.predict(pixels(3)), candidate.predict(pixels(3)))


def test_each_candidate_runs_with_its_own_threads_in_turn(file):
    count = executorch._binding()._threadpool_get_thread_count
    alone, pair = (ExecuTorchCandidate.load(file, threads=n) for n in (1, 2))
    expected = alone.predict(pixels(4))
    for _ in range(3):
        np.testing.assert_allclose(pair.predict(pixels(4)), expected, atol=1e-5)
        assert count() == 2
        np.testing.assert_array_equal(alone.predict(pixels(4)), expected)
        assert count() == 1


def test_a_method_is_loaded_again_only_when_the_threads_changed(file, monkeypatch):
    candidate = ExecuTorchCandidate.load(file, threads=1)
    loaded = []
    real = executorch._load
    monkeypatch.setattr(executorch, "_load", lambda *given: loaded.append(1) or real(*given))
    candidate.predict(pixels(3))
    assert loaded == []
    executorch._threads().become(2)
    candidate.predict(pixels(3))
    assert loaded == [1]


def test_no_images_give_no_logits(file):
    assert ExecuTorchCandidate.load(file).predict(pixels(0)).shape == (0, 3)


def test_an_array_the_card_does_not_describe_is_refused(file):
    with pytest.raises(BundleError, match=r"expected uint8 images of shape \[n, 1, 8, 8\], got"):
        ExecuTorchCandidate.load(file).predict(pixels(2).astype(np.float32))


def test_no_file_there_is_one_line(tmp_path):
    with pytest.raises(ModelError, match="nothing at"):
        ExecuTorchCandidate.load(tmp_path / "model.pte", card=CARD)


def test_a_file_without_a_card_is_one_line(file):
    (file.parent / "card.json").unlink()
    with pytest.raises(ModelError, match="a card"):
        ExecuTorchCandidate.load(file)


def broken(content):
    return {
        "empty": b"",
        "cut short": content[:-100],
        "a beginning": content[:300],
        "another kind": b"not a program" * 50,
    }


@pytest.mark.parametrize("kind", ["empty", "cut short", "a beginning", "another kind"])
def test_a_broken_file_is_one_line_and_nothing_is_printed(file, content, kind, capfd):
    file.write_bytes(broken(content)[kind])
    with pytest.raises(ModelError, match="expected a whole ExecuTorch file") as caught:
        ExecuTorchCandidate.load(file)
    assert "\n" not in str(caught.value)
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize(
    ("change", "side"),
    [
        ({"input": InputSpec(height=SIZE + 1, width=SIZE)}, "input"),
        ({"classes": ("a", "b")}, "output"),
    ],
)
def test_a_program_that_does_not_fit_its_card_is_refused(file, change, side):
    with pytest.raises(ModelError, match=f"expected the {side} .* as its card says"):
        ExecuTorchCandidate.load(file, card=CARD.model_copy(update=change))
