"""A study that is run, changed in one thing, and run again: what must be made anew, and is it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from clinipress.data.drawn.phantom import draw_phantoms
from clinipress.data.splits import Split
from clinipress.formats.measure import Timing
from clinipress.records.result import Result
from clinipress.study.flow import run_study
from clinipress.study.read import parse_study
from kit.studies import TRAIN

NET = "stale_nets"
SOURCE = """
from torch import nn
from stale_blocks import pooled

class Net(nn.Module):
    def __init__(self, num_classes, in_chans, width=8):
        super().__init__()
        self.stem = nn.Conv2d(in_chans, width, 3, 2, 1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(pooled(self.stem(x).relu()))

def make(num_classes, in_chans, width=8):
    return Net(num_classes, in_chans, width)
"""
BLOCKS = "def pooled(x):\n    return x.{}((2, 3))\n"
# what two runs of the same thing may differ in
PASSING = frozenset(
    (
        *("created", "data_wait_share", "test_openings", "environment"),
        *("path", "network", "recipe"),
        *("sealed", "rule_changes"),  # a change after the opening is told, a fresh run has none
    )
)
OPENED = "opened"  # of a limit: after a change the test images are seen once more
CHANGED = "rules changed"  # of a reason


@dataclass
class World:
    """A folder with images, source, weights and a finished run of one small study.

    Attributes:
        folder: All of it; copied whole, it is another world.
        by: "auto": patients are divided by the study; "file": as ``split.json`` says.
    """

    folder: Path
    by: str

    @property
    def manifest(self) -> Path:
        return self.folder / "data" / "manifest.csv"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads((self.folder / "study.json").read_text())
        return tree

    def set(self, *keys: str, to: Any) -> None:
        tree = node = self.tree()
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = to
        (self.folder / "study.json").write_text(json.dumps(tree))

    def rows(self) -> list[dict[str, str]]:
        with self.manifest.open(newline="") as stream:
            return list(csv.DictReader(stream))

    def write_rows(self, rows: list[dict[str, str]]) -> None:
        with self.manifest.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def keys(self, split: str) -> list[str]:
        keys: list[str] = json.loads((self.run / "split.json").read_text())[split]
        return keys

    def go(self, run: str = "run") -> Result:
        """Run the study as it now stands, as a new process would."""
        for name in (NET, "stale_blocks"):
            sys.modules.pop(name, None)
        sys.path.insert(0, str(self.folder / "code"))
        here = Path.cwd()
        os.chdir(self.folder)  # weights and the split are named from here
        try:
            return run_study(parse_study(self.tree()), self.manifest, self.folder / run)
        finally:
            os.chdir(here)
            sys.path.remove(str(self.folder / "code"))


def build(folder: Path, split: Path | None) -> None:
    """A world and its first run; `split`: the file of another's, to divide the images by it."""
    draw_phantoms(folder / "data", patients=60, seed=1, size=16)
    world = World(folder, "file" if split else "auto")
    rows = [row for row in world.rows() if row["label"] != "opacity"]
    for row in rows:  # no compression: other pixels, the same number of bytes
        path = folder / "data" / row["path"]
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
        row["path"] = str(Path(row["path"]).with_suffix(".bmp"))
    world.write_rows(rows)
    (folder / "code").mkdir()
    write_source(world)
    write_weights(world, 0)
    train = TRAIN | {"epochs": 1}
    net = {"factory": f"{NET}:make"}
    tree = {
        "name": "stale",
        "synthetic": True,
        "risk": "low",
        "threads": 1,
        "bootstrap": 100,
        "try_next": False,
        "data": {
            "modality": "chest-ct",
            "positive": "nodule",
            "input": {"channels": 1, "height": 16, "width": 16},
        },
        "reference": {"model": net | {"arguments": {"width": 12}}, "train": train},
        "steps": [
            {"step": "distill", "student": net | {"pretrained": "w.pt"}, "views": 1, "train": train}
        ],
        "exports": [{"precision": "float16"}],
        "evidence": {"stress": 8, "saliency": 4},
    }
    if split is not None:
        shutil.copyfile(split, folder / "split.json")
        tree["data"] |= {"split": {"file": "split.json"}}
    (folder / "study.json").write_text(json.dumps(tree))
    world.go()


def copied(world: World, folder: Path) -> World:
    """The same world in another folder, with times and sizes as they were."""
    shutil.copytree(world.folder, folder, dirs_exist_ok=True)
    return World(folder, world.by)


def write_source(world: World, pool: str = "mean", **lines: str) -> None:
    source = SOURCE
    for old, new in lines.items():
        source = source.replace(old, new)
    (world.folder / "code" / f"{NET}.py").write_text(source)
    (world.folder / "code" / "stale_blocks.py").write_text(BLOCKS.format(pool))


def write_weights(world: World, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"stem.weight": (8, 1, 3, 3), "stem.bias": (8,)}
    shapes |= {"head.weight": (2, 8), "head.bias": (2,)}
    state = {name: torch.randn(shape, generator=generator) / 4 for name, shape in shapes.items()}
    torch.save(state, world.folder / "w.pt")


def turn_pixels(world: World, split: str, *, unnoticed: bool) -> None:
    """Other pixels in the files of a split; with `unnoticed` of the same size and time."""
    for key in world.keys(split):
        path = world.folder / "data" / key
        facts, image = path.stat(), Image.open(path)
        Image.fromarray(255 - np.asarray(image)).save(path)
        assert path.stat().st_size == facts.st_size
        if unnoticed:
            os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def resplit(world: World) -> None:
    """Another split file in the same place: two patients change sides."""
    old = Split.load(world.folder / "split.json")
    rows = [row for row in world.rows() if row["label"] == "normal"]
    patient = {row["path"]: row["patient_id"] for row in world.rows()}
    images = Counter(patient.values())
    sides = {}
    for row in rows:  # one of each side, with as many images
        if images[row["patient_id"]] == 1:
            sides.setdefault(old.assignment[row["path"]], row["patient_id"])
    sides = {sides["train"]: "validation", sides["validation"]: "train"}
    assignment = {k: sides.get(patient[k], s) for k, s in old.assignment.items()}
    Split(old.by, old.reason, old.seed, assignment, old.dropped).save(world.folder / "split.json")


def differences(one: Result, other: Result) -> list[str]:
    """Where two results say different things: digests, figures, verdicts, words."""
    mine, theirs = (_leaves(result.model_dump(mode="json")) for result in (one, other))
    return [
        f"{path}: {mine.get(path)!r}, {theirs.get(path)!r}"
        for path in sorted({*mine, *theirs})
        if mine.get(path) != theirs.get(path)
    ]


def _leaves(part: Any, where: str = "") -> dict[str, Any]:
    """Dotted path -> value, without what two runs of one thing may differ in."""
    if isinstance(part, Mapping):
        pairs = [
            (key, value)
            for key, value in part.items()
            if key not in PASSING and "seconds" not in key
        ]
    elif isinstance(part, list):
        told = [value for value in part if where != ".limits" or OPENED not in value]
        told = [v for v in told if not (isinstance(v, Mapping) and v.get("kind") == CHANGED)]
        pairs = [(str(number), value) for number, value in enumerate(told)]
    else:
        return {where: part}
    leaves = {}
    for key, value in pairs:
        leaves |= _leaves(value, f"{where}.{key}")
    return leaves


def fixed_times(candidates: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, Timing]:
    """Times that do not change from run to run, for what is chosen by them."""
    facts: dict[str, Any] = {"batch": 1, "threads": 1, "runtime": "none", "preprocessing": False}
    turns = [tuple((1 + n / 8,) * 4 for _ in range(25)) for n in range(len(candidates))]
    return {name: Timing(wall, wall, facts) for name, wall in zip(candidates, turns, strict=True)}


class _AbsentError(Exception):
    pass


class Dry:
    """A run that makes next to nothing: what has no piece is noted, the first run's is taken.

    Args:
        once: `Store.once`.
        first: Folder of the first run, as `noted` wrote it down.

    Attributes:
        remade: Kinds of pieces that would be made anew.
    """

    def __init__(self, once: Callable[..., Path], first: Path) -> None:
        self.remade: set[str] = set()
        self._once, self._first = once, first
        self._calls: Counter[str] = Counter()
        self._order: list[list[str]] = json.loads((first / "order.json").read_text())

    def __call__(
        self,
        store: Any,
        kind: str,
        inputs: dict[str, Any],
        make: Callable[[Path], None],
        **options: Any,
    ) -> Path:
        def missing(folder: Path) -> None:
            self.remade.add(kind)
            if kind not in ("data", "audit"):  # soon made, and all else hangs on them
                raise _AbsentError
            make(folder)

        names = [name for of, name in self._order if of == kind]
        self._calls[kind] += 1
        try:
            return self._once(store, kind, inputs, missing, **options)
        except _AbsentError:
            name = names[self._calls[kind] - 1]
            kept: Path = store.folder / "objects" / name
            if not kept.is_dir():  # it was damaged, and is gone
                shutil.copytree(self._first / "objects" / name, kept)
            return kept


def noted(once: Callable[..., Path]) -> Callable[..., Path]:
    """`Store.once` that writes down which piece it gave, in order."""

    def call(store: Any, kind: str, *arguments: Any, **options: Any) -> Path:
        done = once(store, kind, *arguments, **options)
        path = store.folder / "order.json"
        order = json.loads(path.read_text()) if path.is_file() else []
        path.write_text(json.dumps([*order, [kind, done.name]]))
        return done

    return call
