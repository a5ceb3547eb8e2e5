"""F1: a study run again in its folder says what a fresh run says, whatever was changed before.

One finished study is copied, one thing is changed, and it is run again. By day each row of the
table is held at the level of keys (nothing is made, what would be is noted) and three rows are
compared with a fresh run; at night all of them are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from clinipress.records.store import Store, read_result
from kit.shared import base, shared
from kit.stale import (
    Dry,
    World,
    build,
    copied,
    differences,
    fixed_times,
    noted,
    resplit,
    turn_pixels,
    write_source,
    write_weights,
)

CPUINFO = "formats.measure._processor"


@dataclass(frozen=True)
class Row:
    """A row of the table: what is changed, what must be made anew, what may not be."""

    name: str
    change: Callable[[World, pytest.MonkeyPatch], None]
    remade: str
    kept: str = ""
    by: str = "file"
    ruled: bool = False


def relabel(split: str, count: int | None = None) -> Callable[[World, Any], None]:
    def change(world: World, _: Any) -> None:
        other = {"normal": "nodule", "nodule": "normal"}
        keys = world.keys(split)
        # patients keep one label each, and each class some of them
        chosen = set(keys[: count or len(keys) // 2])
        rows = world.rows()
        for row in rows:
            if row["path"] in chosen:
                row["label"] = other[row["label"]]
        world.write_rows(rows)

    return change


def join_patients(world: World, _: Any) -> None:
    """Every two patients of the test images are one."""
    names = sorted({r["patient_id"] for r in world.rows() if r["path"] in world.keys("test")})
    merged = {name: names[number - number % 2] for number, name in enumerate(names)}
    rows = world.rows()
    for row in rows:
        row["patient_id"] = merged.get(row["patient_id"], row["patient_id"])
    world.write_rows(rows)


def new_column(world: World, _: Any) -> None:
    rows = world.rows()
    for number, row in enumerate(rows):
        row["ward"] = "AB"[number % 2]
    world.write_rows(rows)


def damage(pattern: str) -> Callable[[World, Any], None]:
    def change(world: World, _: Any) -> None:
        for path in world.run.glob(pattern):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 64
            path.write_bytes(content)

    return change


def other_version(world: World, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("clinipress.version.__version__", "99.0")
    world.set("reference", "train", "learning_rate", to=0.003)


def other_processor(world: World, patch: pytest.MonkeyPatch) -> None:
    flags = {"avx2", "avx512_vnni"}
    patch.setattr(f"clinipress.{CPUINFO}", lambda: ("Another CPU", flags))


def setting(*keys: str, to: Any) -> Callable[[World, Any], None]:
    return lambda world, _: world.set(*keys, to=to)


SWAPPED = {"normal": "nodule", "nodule": "normal"}
TRAINED = "train distill export scores"
ROWS = [
    Row("20 test labels", relabel("test", 6), "data audit test", TRAINED),
    Row("all training labels", relabel("train"), "data audit test train distill export"),
    Row("test pictures, new time", lambda w, _: turn_pixels(w, "test", unnoticed=False),
        "data audit test stress saliency", TRAINED),
    Row("test pictures, split auto", lambda w, _: turn_pixels(w, "test", unnoticed=False),
        "data audit test stress saliency", by="auto"),
    Row("test pictures, same size and time", lambda w, _: turn_pixels(w, "test", unnoticed=True),
        "data audit test stress saliency", TRAINED),
    Row("training pictures", lambda w, _: turn_pixels(w, "train", unnoticed=True), TRAINED),
    Row("patients of test images", join_patients, "data audit test", TRAINED),
    Row("class_map swapped", setting("data", "class_map", to=SWAPPED), f"data test {TRAINED}"),
    Row("modality", setting("data", "modality", to="dermoscopy"), "train distill", "data audit"),
    Row("another split file in its place", lambda w, _: resplit(w), f"data test {TRAINED}"),
    Row("positive", setting("data", "positive", to="normal"), "judgements", f"data test {TRAINED}",
        ruled=True),
    Row("pretrained file of the student", lambda w, _: write_weights(w, 7), "distill", "train"),
    Row("source of the factory", lambda w, _: write_source(w, relu="tanh"), "train distill export"),
    Row("source that the factory imports", lambda w, _: write_source(w, "amax"),
        "train distill export"),
    Row("clinipress itself", other_version,
        "audit train distill export scores test stress saliency latency judgements", "data"),
    Row("another processor", other_processor, "latency", f"data test judgements {TRAINED}"),
    Row("model.onnx damaged", damage("objects/export-*/model.onnx"), "export", "train test data"),
    Row("scores damaged", damage("objects/scores-*/logits.npz"), "scores", "train export test"),
    Row("decoded images damaged", damage("cache/*/images.u8"), "", "train export test data"),
    Row("columns of the manifest", new_column, "audit", f"data test {TRAINED}"),
    Row("threads", setting("threads", to=2), "train distill export", "data audit"),
]  # fmt: skip
BY_DAY = {"20 test labels", "source that the factory imports", "model.onnx damaged"}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The two finished studies, made once for all processes of a run of the suite."""
    root = base(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clinipress.study.timing.timings", fixed_times)
        patch.setattr("clinipress.study.timing.peak_memory", lambda *_, **__: 10**6)
        patch.setattr("clinipress.study.timing.busy", lambda *_: "")
        patch.setattr(Store, "once", noted(Store.once))
        auto = shared(root, "stale-auto", lambda folder: build(folder, None))
        file = shared(root, "stale-file", lambda f: build(f, auto / "run" / "split.json"))
    return {"auto": World(auto, "auto"), "file": World(file, "file")}


@pytest.fixture(autouse=True)
def same_times(monkeypatch):
    monkeypatch.setattr("clinipress.study.timing.timings", fixed_times)
    monkeypatch.setattr("clinipress.study.timing.peak_memory", lambda *_, **__: 10**6)
    monkeypatch.setattr("clinipress.study.timing.busy", lambda *_: "")


def remade(world: World, first: World, patch: pytest.MonkeyPatch) -> set[str]:
    dry = Dry(Store.once, first.run)
    patch.setattr(Store, "once", lambda *a, **k: dry(*a, **k))
    patch.setattr("clinipress.study.flow.summarise", lambda *_: None)  # pages are always written
    world.go()
    return dry.remade


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_f1_what_a_change_touches_is_made_anew(worlds, row, tmp_path, monkeypatch):
    world = copied(worlds[row.by], tmp_path)
    row.change(world, monkeypatch)
    anew = remade(world, worlds[row.by], monkeypatch)
    assert set(row.remade.split()) <= anew
    assert not set(row.kept.split()) & anew


def test_f1_what_nobody_changed_is_not(worlds, tmp_path, monkeypatch):
    world = copied(worlds["file"], tmp_path)
    for path in (world.folder / "data").rglob("*.bmp"):
        path.touch()  # another time, the same image
    (world.folder / "data").rename(world.folder / "moved")
    (world.folder / "data").symlink_to(world.folder / "moved")
    assert remade(world, worlds["file"], monkeypatch) == set()


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=() if row.name in BY_DAY else pytest.mark.nightly)
        for row in ROWS
    ],
)
def test_f1_a_study_run_again_says_what_a_fresh_one_says(worlds, row, tmp_path, monkeypatch):
    world = copied(worlds[row.by], tmp_path)
    before = read_result(world.run)
    row.change(world, monkeypatch)
    again, fresh = world.go(), world.go("fresh")
    said = differences(again, fresh)
    if row.ruled:  # sealed when the test split was opened: what another rule says is inconclusive
        said = [line for line in said if ".verdict" not in line and ".limits" not in line]
    assert said[:3] == []
    if "damaged" in row.name:  # a repair gives back what was there
        assert differences(again, before) == []
    elif row.name in BY_DAY:  # the comparison can fail
        assert differences(again, before)
