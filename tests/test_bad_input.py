"""Each bad input gives one line and exit code 2, and loses nothing."""

import errno
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from clinipress.cli import commands as cli
from kit.studies import BARE, TRAIN, tree


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command line; returns the exit code and the lines on stderr."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["clinipress", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code or 0, capsys.readouterr().err.strip().splitlines()

    return run


@pytest.fixture
def study(tmp_path):
    def write(**changes):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(tree(**changes)))
        return path

    return write


def picture(path, seed=0, size=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def folder(root, classes=("a", "b"), images=12, split=""):
    for number, name in enumerate(classes):
        for i in range(images):
            picture(root / split / name / f"{i}.png", seed=1000 * number + i + len(split))
    return root


def one_line(outcome, *words):
    code, lines = outcome
    assert code == 2, lines
    problems = [line for line in lines if line.startswith("clinipress: ")]
    assert len(problems) == 1, lines
    assert not any("Traceback" in line for line in lines)
    for word in words:
        assert word.lower() in problems[0].lower(), problems[0]


def test_the_checker_can_fail():
    with pytest.raises(AssertionError):
        one_line((0, ["clinipress: fine"]))
    with pytest.raises(AssertionError):
        one_line((2, ["Traceback", "clinipress: x"]))


@pytest.mark.parametrize("command", ["audit", "init"])
def test_missing_and_empty_folder(call, tmp_path, command):
    one_line(call(command, tmp_path / "absent"), "absent")
    (tmp_path / "empty").mkdir()
    one_line(call(command, tmp_path / "empty"))


def test_one_class(call, study, tmp_path):
    one_line(call("audit", folder(tmp_path / "data", classes=("only",))), "class")


def test_a_class_absent_from_a_split(call, study, tmp_path):
    data = folder(tmp_path / "data", images=20)
    for path in sorted((data / "b").iterdir())[2:]:
        path.unlink()
    one_line(call("run", study(), "--allow-code", "--data", data, "--out", tmp_path / "run"), "b")


def test_truncated_and_bomb_sized_images_are_set_aside(call, tmp_path):
    data = folder(tmp_path / "data")
    whole = (data / "a" / "0.png").read_bytes()
    (data / "a" / "broken.png").write_bytes(whole[: len(whole) // 2])
    header = bytearray(whole[:33])
    header[16:24] = (60000).to_bytes(4, "big") * 2
    (data / "b" / "bomb.png").write_bytes(bytes(header) + whole[33:])
    (data / "b" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    code, _ = call("audit", data, "--json")
    assert code == 0


def test_set_aside_files_are_named(tmp_path):
    from clinipress.data.audit.audit import audit
    from clinipress.data.sources import read_dataset

    data = folder(tmp_path / "data")
    (data / "a" / "broken.png").write_bytes((data / "a" / "0.png").read_bytes()[:60])
    (data / "b" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    found, _ = audit(read_dataset(data))
    assert sorted(u.path for u in found.unreadable) == ["a/broken.png", "b/broken.dcm"]
    assert found.images >= 24


def test_wrong_yaml_key(call, study, phantoms, tmp_path):
    path = study(referense={"model": "resnet18"})
    one_line(
        call("run", path, "--allow-code", "--data", phantoms, "--out", tmp_path / "run"),
        "referense",
        "reference",
    )


def test_wrong_model_name(call, study, phantoms, tmp_path):
    path = study(reference={"model": "resnet19"})
    one_line(
        call("run", path, "--allow-code", "--data", phantoms, "--out", tmp_path / "run"),
        "resnet19",
        "resnet18",
    )


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_checkpoint_that_is_a_pickle_with_code_is_never_run(call, study, phantoms, tmp_path):
    target, checkpoint = tmp_path / "was-run", tmp_path / "evil.pt"
    torch.save({"state_dict": Evil(target)}, checkpoint)
    path = study(reference={"model": {"factory": "tiny_nets:make", "checkpoint": str(checkpoint)}})
    one_line(
        call("run", path, "--allow-code", "--data", phantoms, "--out", tmp_path / "run"), "evil.pt"
    )
    assert not target.exists()
    checkpoint.write_bytes(pickle.dumps(Evil(target)))
    one_line(
        call("run", path, "--allow-code", "--data", phantoms, "--out", tmp_path / "run"), "evil.pt"
    )
    assert not target.exists()


def test_wrong_number_of_classes(call, study, phantoms, tmp_path):
    from tiny_nets import make

    checkpoint = tmp_path / "five.pt"
    torch.save(make(num_classes=5, in_chans=1).state_dict(), checkpoint)
    path = study(reference={"model": {"factory": "tiny_nets:make", "checkpoint": str(checkpoint)}})
    one_line(
        call("run", path, "--allow-code", "--data", phantoms, "--out", tmp_path / "run"), "5", "3"
    )


def test_a_full_disk_keeps_what_was_finished(call, study, phantoms, tmp_path, monkeypatch):
    from clinipress.records import store

    real = store.os.fsync
    done = []

    def full_later(handle):
        done.append(handle)
        if len(done) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr("os.fsync", full_later)
    small = study(steps=[], exports=[{"precision": "float16"}], evidence=BARE)
    asked = ("run", small, "--allow-code", "--data", phantoms, "--out", tmp_path / "run")
    one_line(call(*asked), "disk")
    finished = sorted(p.name for p in (tmp_path / "run" / "objects").iterdir())
    assert finished
    monkeypatch.setattr("os.fsync", real)
    code, _ = call(*asked, "--json")
    assert code in (0, 1)
    assert set(finished) <= {p.name for p in (tmp_path / "run" / "objects").iterdir()}


def test_a_nan_loss(call, study, phantoms, tmp_path):
    wild = TRAIN | {
        "learning_rate": 1e30,
        "gradient_clip": None,
        "optimizer": "sgd",
        "warmup_epochs": 0,
    }
    path = study(reference={"model": {"factory": "tiny_nets:make"}, "train": wild})
    one_line(
        call("run", path, "--allow-code", "--data", phantoms, "--out", tmp_path / "run"),
        "learning_rate",
    )


@pytest.fixture
def bundle(finished):
    return finished[0] / "bundle"


def test_a_bundle_whose_hash_does_not_match(call, bundle, phantoms, tmp_path):
    broken = tmp_path / "bundle"
    shutil.copytree(bundle, broken)
    model = bytearray((broken / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (broken / "model.onnx").write_bytes(bytes(model))
    image = next(phantoms.parent.rglob("*.png"))
    one_line(call("predict", broken, image), "model.onnx")
    code, lines = call("predict", bundle, image)
    assert code == 0, lines


def test_compare_and_evaluate_refuse_what_they_cannot_use(call, bundle, phantoms, tmp_path):
    one_line(call("compare", bundle, bundle, phantoms, "--risk", "none"), "risk")
    one_line(call("evaluate", tmp_path / "absent.onnx", phantoms), "absent.onnx")
    one_line(call("evaluate", bundle, folder(tmp_path / "other")), "class-map")
    one_line(call("evaluate", bundle, phantoms, "--class-map", "a"), "theirs=ours")
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    one_line(call("evaluate", tmp_path / "x.onnx", phantoms), "x.onnx")


def test_report_of_a_folder_without_a_run(call, tmp_path):
    one_line(call("report", tmp_path), "result.json")
    (tmp_path / "result.json").write_text(json.dumps({"schema_version": "1"}))
    one_line(call("report", tmp_path), "result.json")


def test_compare_scores_refuses_what_they_are_not(call, bundle, tmp_path):
    one_line(call("compare", bundle, bundle), ".npz")
    (tmp_path / "a.npz").write_bytes(b"no archive")
    one_line(call("compare", tmp_path / "a.npz", tmp_path / "a.npz"), "a.npz")


def test_tables_and_named_sets_that_do_not_exist(call, phantoms, tmp_path):
    one_line(call("table", "s9", "--data", phantoms), "s0, s1, s2, s4")
    one_line(call("table", "s1", "--data", phantoms, "--scale", "tiny"), "small, moderate, full")
    one_line(call("table", "s1", "--data", tmp_path / "absent"), "absent")
    one_line(call("data", "nonsense"), "covid-ct")
    code, lines = call("data", "nickparvar", "--out", tmp_path / "none")
    assert code == 2, lines


def test_unknown_option_and_command(call):
    assert call("run", "--nonsense")[0] == 2
    assert call("nonsense")[0] == 2
