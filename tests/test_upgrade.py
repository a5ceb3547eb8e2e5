"""After an upgrade nothing of before is taken for new, and the test images stay the same ones."""

import json
from importlib import metadata

import pytest

from clinipress.study.flow import run_study
from kit.studies import TRAIN, study

NET = {"factory": "tiny_nets:make"}
KINDS = {"audit", "train", "distill", "export", "scores", "latency", "judgements", "test"}
KINDS |= {"stress", "saliency"}


def small():
    taught = {"step": "distill", "student": NET, "views": 2, "train": TRAIN | {"epochs": 1}}
    return study(
        steps=[taught],
        exports=[{"precision": "float16"}],
        evidence={"stress": 30, "saliency": 4},
        reference={"model": NET, "train": TRAIN | {"epochs": 1}},
    )


def pieces(run):
    """Kind -> keys, of what lies in the run folder."""
    found = {}
    for folder in (run / "objects").iterdir():
        kind, _, key = folder.name.rpartition("-")
        found.setdefault(kind, set()).add(key)
    found["teacher"] = {path.name for path in (run / "teacher").glob("*.npy")}
    return found


class Listener:
    def __init__(self):
        self.said = []

    def start(self, what, total):
        pass

    advance = finish = lambda *_, **__: None

    def say(self, text):
        self.said.append(text)


def openings(run):
    lines = (run / "test_openings.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def run(phantoms, tmp_path):
    run = tmp_path / "run"
    assert run_study(small(), phantoms, run).shipped
    assert set(pieces(run)) >= KINDS
    return run


def test_another_clinipress_makes_everything_anew_but_the_split(run, phantoms, monkeypatch):
    before, split, listener = pieces(run), (run / "split.json").read_bytes(), Listener()
    monkeypatch.setattr("clinipress.version.__version__", "99.0")
    run_study(small(), phantoms, run, progress=listener)
    after = pieces(run)
    assert after["data"] == before["data"]
    assert (run / "split.json").read_bytes() == split
    remade = {kind for kind in before if len(after[kind]) == 2 * len(before[kind])}
    assert remade == set(before) - {"data"}
    for cache in (run / "cache").glob("*/cache.json"):
        assert json.loads(cache.read_text())["versions"]["clinipress"] == "99.0"
    assert any("'train' of other versions is left aside" in text for text in listener.said)
    # the test images were answered again: that is a further look at them, and is on record as one
    first, second = openings(run)
    assert first["candidates"] == second["candidates"]
    assert "again, with other versions: clinipress" in second["reason"]
    assert "again" not in first["reason"]
    run_study(small(), phantoms, run)
    assert pieces(run) == after
    assert len(openings(run)) == 2


def test_another_engine_answers_anew(run, phantoms, monkeypatch):
    before, known = pieces(run), metadata.version
    faked = {"onnxruntime": "99.0"}
    monkeypatch.setattr(metadata, "version", lambda name: faked.get(name) or known(name))
    run_study(small(), phantoms, run)
    grown = {kind for kind, keys in pieces(run).items() if len(keys) > len(before[kind])}
    assert {"scores", "latency", "test", "stress", "saliency", "export"} <= grown
    assert not {"data", "audit"} & grown
    assert len(openings(run)) == 2
