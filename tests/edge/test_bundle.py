"""Writing, opening and self-testing a bundle."""

import dataclasses
import errno
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinipress.edge.bundle import clearest, load_bundle, open_bundle, write_bundle
from clinipress.errors import BundleError, ImageError, StorageError
from clinipress.kinds.image.read import decode
from clinipress.records.candidate import Card, InputSpec
from kit.linear_model import clear_noise, logits_of, noise, weights, write_linear

FILES = {"model.onnx", "card.json", "sample.png", "LICENSE", "README.txt"}


def test_a_bundle_holds_five_files_and_their_hashes(folder: Path):
    assert {p.name for p in folder.iterdir()} == FILES
    tree = json.loads((folder / "card.json").read_text())
    for name in FILES - {"card.json"}:
        assert tree["files"][name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert set(tree["files"]) == FILES - {"card.json"}


@pytest.mark.parametrize("said", ["For triage", "For triage.", "For triage.\n"])
def test_the_purpose_ends_in_one_full_stop(card: Card, make_bundle, said: str):
    bundle = make_bundle(card.model_copy(update={"intended_use": said}))
    assert "\nIntended use: For triage.\n" in (bundle / "README.txt").read_text()


def test_what_was_written_is_read_back(folder: Path, card: Card):
    bundle = load_bundle(str(folder))
    assert bundle.card == card
    assert bundle.manifest.evidence == {"verdict": {"status": "pass"}}
    assert len(bundle.digest) == 64


def test_expected_logits_are_the_models_own(folder: Path, card: Card):
    matrix = weights(card.input, 3)
    expected = logits_of(clear_noise(card.input, matrix)[None], matrix)[0]
    test = load_bundle(folder).manifest.self_test
    assert test.logits == pytest.approx(expected, abs=1e-4)  # float32 sum over 384 pixels
    assert test.label == card.classes[int(np.argmax(expected))]
    assert sum(test.probabilities) == pytest.approx(1)
    assert test.tolerance == pytest.approx(0.01 * np.ptp(test.logits))


def test_same_bundle_same_digest(card: Card, make_bundle):
    first = load_bundle(make_bundle(card, "first"))
    assert load_bundle(make_bundle(card, "second")).digest == first.digest
    other = card.model_copy(update={"temperature": 2.0})
    assert load_bundle(make_bundle(other, "third")).digest != first.digest


def test_a_bundle_replaces_a_bundle(folder: Path, card: Card, make_bundle):
    newer = make_bundle(card.model_copy(update={"name": "newer"}))
    assert newer == folder
    assert load_bundle(folder).card.name == "newer"
    assert not [p for p in folder.parent.iterdir() if p.name.startswith(".")]


def test_an_empty_folder_is_used(tmp_path: Path, card: Card, make_bundle):
    (tmp_path / "bundle").mkdir()
    assert load_bundle(make_bundle(card)).card == card


@pytest.mark.parametrize("stray", ["notes.txt", ".hidden"])
def test_a_foreign_folder_is_left_alone(folder: Path, card: Card, make_bundle, stray: str):
    (folder / stray).write_text("mine")
    with pytest.raises(BundleError, match=stray):
        make_bundle(card.model_copy(update={"name": "newer"}))
    assert (folder / stray).read_text() == "mine"
    (folder / stray).unlink()
    assert load_bundle(folder).card.name == "tiny"


@pytest.mark.parametrize("stray", ["weights.bin", ".hidden", "folder/"])
def test_f6_a_file_that_the_card_does_not_list_is_refused(folder: Path, stray: str):
    if stray.endswith("/"):
        (folder / stray).mkdir()
    else:
        (folder / stray).write_bytes(b"weights that a graph may point to")
    with pytest.raises(BundleError, match=stray.strip("/")):
        open_bundle(folder)


def test_f6_weights_beside_the_model_cannot_be_exchanged(tmp_path: Path, card: Card):
    """Two bundles of one digest would answer differently: the graph's weights lie in a file."""
    import onnx

    model = write_linear(tmp_path / "model.onnx", card.input, weights(card.input, 3))
    graph = onnx.load(model)
    onnx.save(graph, model, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").is_file()
    bundle = tmp_path / "bundle"
    with pytest.raises(BundleError):
        write_bundle(bundle, model, card, sample=clear_noise(card.input, weights(card.input, 3)),
                     evidence={})  # fmt: skip
    assert not bundle.exists()


def test_f11_the_old_bundle_stands_until_the_new_one_does(
    folder: Path, card: Card, make_bundle, monkeypatch
):
    """Also where the writer owns the folder and may replace anything."""

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("clinipress.edge.bundle._measure", killed)
    with pytest.raises(KeyboardInterrupt):
        make_bundle(card.model_copy(update={"name": "newer"}), replace=True)
    assert load_bundle(folder).card.name == "tiny"
    monkeypatch.undo()
    (folder / "model.onnx").write_bytes(b"damaged")
    make_bundle(card.model_copy(update={"name": "newer"}), replace=True)
    assert load_bundle(folder).card.name == "newer"


@pytest.mark.parametrize("kind", ["file", "link", "no card", "foreign card"])
def test_what_is_no_bundle_is_left_alone(tmp_path: Path, card: Card, make_bundle, kind: str):
    target = tmp_path / "bundle"
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        (tmp_path / "real").mkdir()
        target.symlink_to(tmp_path / "real")
    else:
        target.mkdir()
        name = "README.txt" if kind == "no card" else "card.json"
        (target / name).write_text("{}")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(BundleError):
        make_bundle(card)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.suffix != ".onnx") == before


def test_a_failed_write_leaves_nothing(tmp_path: Path, card: Card, make_bundle):
    with pytest.raises(BundleError, match="sample"):
        make_bundle(card, sample=np.zeros((1, 3, 3), np.uint8))
    assert [p.name for p in tmp_path.iterdir()] == ["bundle.onnx"]


def test_a_full_disk_is_said_and_the_old_bundle_stays(
    folder: Path, card: Card, make_bundle, monkeypatch
):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match="No space left"):
        make_bundle(card.model_copy(update={"name": "newer"}))
    assert load_bundle(folder).card.name == "tiny"
    assert not [p for p in folder.parent.iterdir() if p.name.startswith(".")]


def test_a_rename_that_fails_puts_the_old_bundle_back(
    folder: Path, card: Card, make_bundle, monkeypatch
):
    rename = Path.rename

    def fails_for_the_new(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise OSError(errno.EIO, "bad disk")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new)
    with pytest.raises(StorageError, match="bad disk"):
        make_bundle(card.model_copy(update={"name": "newer"}))
    monkeypatch.undo()
    assert load_bundle(folder).card.name == "tiny"


def test_no_model_file_is_said(tmp_path: Path, card: Card):
    with pytest.raises(BundleError, match="nothing at"):
        write_bundle(
            tmp_path / "b", tmp_path / "no.onnx", card, sample=noise(card.input), evidence={}
        )


def test_a_card_of_another_format_is_refused(card: Card, make_bundle):
    with pytest.raises(BundleError, match="pytorch"):
        make_bundle(card.model_copy(update={"format": "pytorch"}))


def test_a_model_of_another_card_is_refused(tmp_path: Path, card: Card):
    other = InputSpec(channels=1, height=8, width=8)
    model = write_linear(tmp_path / "m.onnx", other, weights(other, 3))
    with pytest.raises(BundleError, match="card"):
        write_bundle(tmp_path / "b", model, card, sample=noise(card.input), evidence={})


def test_evidence_that_json_cannot_hold_is_refused(card: Card, make_bundle):
    for evidence in ({"auroc": float("nan")}, {"path": Path("x")}):
        with pytest.raises(BundleError, match="evidence"):
            make_bundle(card, evidence=evidence)


def test_an_undecided_sample_is_refused(card: Card, make_bundle):
    matrix = weights(card.input, 3)
    matrix[:, 1] = matrix[:, 0]  # two classes always tie
    matrix[:, 2] -= 1
    with pytest.raises(BundleError, match="apart"):
        make_bundle(card, matrix=matrix, sample=noise(card.input))


def test_a_sample_that_would_be_refused_is_refused(card: Card, make_bundle):
    with pytest.raises(BundleError, match="blank"):
        make_bundle(card, sample=np.full((1, 16, 24), 200, np.uint8))


def test_clearest_finds_the_row_to_take():
    logits = np.array([[5.0, 4.9, 0.0], [1.0, 0.0, 0.1], [9.0, 8.0, 7.0]], np.float32)
    assert clearest(logits) == 1
    assert clearest(np.zeros((2, 3), np.float32)) == 0


def test_licence_and_readme_say_what_they_must(card: Card, make_bundle):
    named = make_bundle(card, "named", licence="CC BY 4.0")
    assert (named / "LICENSE").read_text() == "CC BY 4.0\n"
    silent = make_bundle(card.model_copy(update={"synthetic": True}), "silent")
    assert "No licence was given" in (silent / "LICENSE").read_text()
    assert "never for patients" in (silent / "README.txt").read_text()
    assert "never for patients" not in (named / "README.txt").read_text()


# --- the sample


def test_a_sample_file_keeps_its_size_and_loses_its_metadata(
    tmp_path: Path, card: Card, make_bundle
):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    Image.fromarray(pixels).save(tmp_path / "s.jpg", exif=exif, quality=95)
    assert b"Jane Doe" in (tmp_path / "s.jpg").read_bytes()
    folder = make_bundle(card, sample=tmp_path / "s.jpg")
    with Image.open(folder / "sample.png") as stored:
        assert stored.size == (60, 40)
        assert not stored.info
    assert b"Jane Doe" not in (folder / "sample.png").read_bytes()
    load_bundle(folder)


@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16", "1"])
def test_samples_of_other_kinds_are_stored_as_the_model_sees_them(
    tmp_path: Path, card: Card, make_bundle, mode: str
):
    grey = np.random.default_rng(2).integers(0, 256, (32, 48), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 200)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    image.save(tmp_path / "s.png")
    folder = make_bundle(card, sample=tmp_path / "s.png")
    with Image.open(folder / "sample.png") as stored:
        assert np.array_equal(np.asarray(stored), decode(tmp_path / "s.png", card.input)[0])


def test_an_unreadable_sample_is_said(tmp_path: Path, card: Card, make_bundle):
    (tmp_path / "s.png").write_bytes(b"no image")
    with pytest.raises(ImageError):
        make_bundle(card, sample=tmp_path / "s.png")


def test_a_window_is_not_applied_twice(card: Card, make_bundle):
    spec = card.input.model_copy(update={"window": (-1000.0, 400.0)})
    windowed = card.model_copy(update={"input": spec})
    matrix = weights(spec, 3)
    sample = clear_noise(spec, matrix)
    test = load_bundle(make_bundle(windowed, sample=sample)).manifest.self_test
    assert test.logits == pytest.approx(logits_of(sample[None], matrix)[0], abs=1e-4)


# --- the self-test


class Shifted:
    """A candidate as another processor might compute it."""

    def __init__(self, candidate, shift: list[float]) -> None:
        self.candidate, self.shift = candidate, np.asarray(shift, np.float32)

    def predict(self, images):
        return self.candidate.predict(images) + self.shift


def test_the_self_test_bears_rounding_and_no_more(folder: Path):
    bundle = open_bundle(folder)
    allowed = bundle.manifest.self_test.tolerance
    assert bundle.self_test() == 0.0
    close = dataclasses.replace(bundle, candidate=Shifted(bundle.candidate, [0.9 * allowed, 0, 0]))
    assert close.self_test() == pytest.approx(0.9 * allowed, abs=1e-5)
    for shift in (1.1 * allowed, -1.1 * allowed, float("nan")):
        far = dataclasses.replace(bundle, candidate=Shifted(bundle.candidate, [shift, 0, 0]))
        with pytest.raises(BundleError, match="on this machine"):
            far.self_test()


def test_the_label_must_match_however_wide_the_tolerance(card: Card, make_bundle):
    bundle = open_bundle(make_bundle(card))
    test = bundle.manifest.self_test.model_copy(update={"tolerance": 1e9})
    wide = dataclasses.replace(
        bundle, manifest=bundle.manifest.model_copy(update={"self_test": test})
    )
    assert wide.self_test() == 0.0
    loser = int(np.argmin(test.logits))
    shift = [1e6 if i == loser else 0.0 for i in range(3)]
    with pytest.raises(BundleError, match="on this machine"):
        dataclasses.replace(wide, candidate=Shifted(bundle.candidate, shift)).self_test()


def test_load_runs_the_self_test_and_open_does_not(folder: Path, monkeypatch):
    monkeypatch.setattr("clinipress.edge.bundle.Bundle.self_test", lambda _self: 1 / 0)
    open_bundle(folder)
    with pytest.raises(ZeroDivisionError):
        load_bundle(folder)
