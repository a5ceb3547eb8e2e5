"""Damaged, hostile and foreign bundles: each is one line, and nothing in them is trusted."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clinipress.edge.bundle import load_bundle
from clinipress.edge.manifest import digest_of_card, read_card
from clinipress.errors import BundleError
from clinipress.records.candidate import InputSpec
from clinipress.records.store import sha256_of
from kit.linear_model import weights, write_linear


def change(folder: Path, edit: Callable[[dict[str, Any]], None], *, sealed: bool = True) -> None:
    """Edit card.json; `sealed` puts the right digest back, as an enemy would."""
    path = folder / "card.json"
    tree = json.loads(path.read_text())
    edit(tree)
    if sealed:
        tree["digest"] = digest_of_card(tree)
    path.write_text(json.dumps(tree))


def refusal(folder: Path) -> str:
    """The one line a bundle is refused with."""
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_an_edit_that_changes_nothing_still_opens(folder: Path):
    change(folder, lambda tree: None)
    load_bundle(folder)


@pytest.mark.parametrize("name", ["model.onnx", "sample.png", "LICENSE", "README.txt"])
def test_one_changed_bit_is_found_and_the_file_named(folder: Path, name: str):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    assert f"'{name}'" in refusal(folder)


@pytest.mark.parametrize("name", ["model.onnx", "sample.png", "LICENSE", "README.txt"])
def test_a_missing_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    assert f"'{name}'" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_model_cut_short_is_found(folder: Path, keep: int):
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:keep])
    assert "'model.onnx' as it was written" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 100])
def test_a_broken_model_with_the_right_hash_is_refused(folder: Path, keep: int):
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:keep])
    change(folder, lambda tree: tree["files"].update({"model.onnx": sha256_of(path)}))
    assert "ONNX" in refusal(folder)


def test_a_model_of_another_bundle_is_refused(folder: Path):
    other = InputSpec(channels=1, height=8, width=8)
    path = write_linear(folder / "model.onnx", other, weights(other, 3))
    change(folder, lambda tree: tree["files"].update({"model.onnx": sha256_of(path)}))
    assert "card" in refusal(folder)


def test_a_model_with_other_weights_fails_the_self_test(folder: Path):
    spec = InputSpec(channels=1, height=16, width=24)
    path = write_linear(folder / "model.onnx", spec, weights(spec, 3, seed=5))
    change(folder, lambda tree: tree["files"].update({"model.onnx": sha256_of(path)}))
    assert "on this machine" in refusal(folder)


def test_no_bundle_at_all(tmp_path: Path):
    assert "nothing there" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    assert "a file" in refusal(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "card.json" in refusal(tmp_path / "empty")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"card"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"kind": NaN}',
        b'{"kind": 1e999}',
        b'{"kind": ' + b"9" * 5000 + b"}",
        b'{"kind": "something else"}',
        b'{"name": "a candidate\'s card", "classes": ["a", "b"]}',
    ],
    ids=range(12),
)
def test_a_card_that_is_none(folder: Path, content: bytes):
    (folder / "card.json").write_bytes(content)
    assert "card" in refusal(folder)


def test_a_huge_card_is_not_read(folder: Path):
    with (folder / "card.json").open("r+b") as stream:
        stream.truncate(2**34)  # sparse: 16 GB that would not fit the memory
    assert "under 16 MB" in refusal(folder)


@pytest.mark.parametrize("version", ["0", "2", 1, None, ["1"], "\x1b[31m"])
def test_another_schema_version_is_said(folder: Path, version: Any):
    change(folder, lambda tree: tree.update(schema_version=version))
    text = refusal(folder)
    assert "schema_version" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("key", ["card", "evidence", "self_test", "files", "digest", "clinipress"])
def test_a_missing_key_is_named(folder: Path, key: str):
    change(folder, lambda tree: tree.pop(key), sealed=key != "digest")
    assert key in refusal(folder)


@pytest.mark.parametrize("place", [(), ("card",), ("card", "input"), ("self_test",)])
def test_an_extra_key_is_named(folder: Path, place: tuple[str, ...]):
    def edit(tree: dict[str, Any]) -> None:
        for key in place:
            tree = tree[key]
        tree["surprise\x1b[31m"] = 1

    change(folder, edit)
    text = refusal(folder)
    assert "surprise" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("key", ["temperature", "uncertain_below", "intended_use", "classes"])
def test_an_edited_card_is_found(folder: Path, key: str):
    values = {"temperature": 9.0, "uncertain_below": 0.0, "intended_use": "all"}
    changed = values.get(key, ["normal", "glioma", "pituitary"])
    change(folder, lambda tree: tree["card"].update({key: changed}), sealed=False)
    assert "a changed one" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b", "..", ".", "", "card.json", "..\\x", "a\0b", "./model.onnx"],
)
def test_a_name_that_leads_elsewhere_is_refused_unread(folder: Path, name: str):
    (folder.parent / "x").write_text("secret")
    digest = sha256_of(folder.parent / "x")
    change(folder, lambda tree: tree["files"].update({name: digest}))
    assert "plain file names" in refusal(folder)


@pytest.mark.parametrize("name", ["model.onnx", "LICENSE"])
def test_a_link_is_refused_even_to_the_right_content(folder: Path, name: str):
    (folder / name).rename(folder.parent / "outside")
    (folder / name).symlink_to(folder.parent / "outside")
    assert "a link" in refusal(folder)


def test_a_linked_card_is_refused(folder: Path):
    (folder / "card.json").rename(folder.parent / "outside")
    (folder / "card.json").symlink_to(folder.parent / "outside")
    assert "card.json" in refusal(folder)


@pytest.mark.parametrize("name", ["model.onnx", "sample.png"])
def test_a_file_without_a_hash_is_refused(folder: Path, name: str):
    change(folder, lambda tree: tree["files"].pop(name))
    assert f"a hash of '{name}'" in refusal(folder)


LITTER = (".DS_Store", "Thumbs.db", "desktop.ini", "._model.onnx", "._card.json", "._.DS_Store")


@pytest.mark.parametrize("name", LITTER)
def test_r6_what_a_system_leaves_in_any_folder_is_left_alone(folder: Path, name: str):
    (folder / name).write_bytes(b"\0Bud1")
    (folder / name).chmod(0)  # nobody reads it
    load_bundle(folder)


@pytest.mark.parametrize("name", ["._x.bin", ".hidden", "weights.bin", "thumbs.db.exe"])
def test_r6_anything_else_is_still_refused(folder: Path, name: str):
    (folder / name).write_bytes(b"x")
    assert name in refusal(folder)


@pytest.mark.parametrize("name", [".DS_Store", "._model.onnx"])
def test_r6_a_folder_or_a_link_is_no_litter(folder: Path, name: str):
    (folder / name).mkdir()
    assert name in refusal(folder)
    (folder / name).rmdir()
    (folder / name).symlink_to(folder / "card.json")
    assert name in refusal(folder)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_cannot_be_is_refused(folder: Path, temperature: float):
    change(folder, lambda tree: tree["card"].update(temperature=temperature))
    assert "temperature" in refusal(folder)


def test_more_classes_than_logits_are_refused(folder: Path):
    change(folder, lambda tree: tree["card"]["classes"].append("fourth"))
    assert "4 logits" in refusal(folder)


def test_any_damage_to_the_card_is_a_bundle_error(folder: Path):
    path = folder / "card.json"
    content = path.read_bytes()
    good, draw, opened = read_card(folder), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        if draw.random() < 0.2:
            del damaged[draw.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            found = read_card(folder)
        except BundleError:
            continue
        opened += 1  # blanks changed to other blanks
        assert found == good
    assert opened < 30
