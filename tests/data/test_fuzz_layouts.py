"""Seeded tables and folders of every odd kind: the items of the plain table, or one line.

A dozen or more by day, a thousand at night. The plain table is the referee of what is only written
another way; what is damaged may be refused, in one line, and never ends in anything else.
"""

from __future__ import annotations

import csv
import io
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from clinipress.cli.terminal import show_audit
from clinipress.data.audit.audit import audit
from clinipress.data.sources import read_dataset
from clinipress.errors import ClinipressError
from clinipress.records.result import Audit
from kit.folders import folder_of, rows_of, table

DAY, NIGHT = range(24), range(24, 1024)
CLASSES = ["kein Befund", "Mélanome, in situ", 'say "what"', "naïf; oui", "[bold]x[/]", "1"]
HEADS: dict[str, list[str]] = {
    "path": ["path", "Path", "file_name", "FileName", "image path", "Image", "image_id", " file "],
    "label": ["label", "Label", "LABELS", "class", "target", "Diagnosis", "dx"],
    "split": ["split", "Split", "set", "SUBSET", "partition"],
    "patient_id": ["patient_id", "PatientID", "Patient ID", "subject", "patient"],
    "site": ["site"],
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]


def pictures(root: Path, draw: random.Random) -> list[list[str]]:
    """Some pictures with odd names, and a row for each: path, label, split, patient, site."""
    count = draw.randint(6, 14)
    stems = [
        draw.choice(["a b", "Ü", "x,y", "p;q", "it's", "v#1", "m.n", "-r", "o"]) for _ in range(3)
    ]
    deep = "/".join(["d"] * draw.choice([1, 2, 30]))
    names = [
        f"{draw.choice(['', 'sub/', deep + '/'])}{draw.choice(stems)}{n}"
        f"{draw.choice(['.png', '.PNG', '.jpg'])}"
        for n in range(count)
    ]
    folder_of(root, names)
    labels = draw.sample(CLASSES, draw.randint(2, 4))
    return [
        [
            name,
            labels[n % len(labels)],
            draw.choice(["train", "val", "Test", ""]),
            f"P{n // 2}",
            "ABC"[n % 3],
        ]
        for n, name in enumerate(names)
    ]


def plain(root: Path, rows: list[list[str]]) -> list[tuple[object, ...]]:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([list(HEADS), *rows])
    path = table(root / "plain.csv", [stream.getvalue()])
    items = rows_of(read_dataset(root))
    path.unlink()
    assert [(key, label) for key, label, *_ in sorted(items)] == sorted((r[0], r[1]) for r in rows)
    return items


def path_style(draw: random.Random) -> Callable[[str], str]:
    return draw.choice(
        [
            lambda c: c,
            lambda c: "./" + c,
            lambda c: "C:\\some where\\" + c.replace("/", "\\"),
            lambda c: "/srv/data/" + c,
            lambda c: c.rpartition(".")[0],
            lambda c: c.upper(),
            lambda c: c.replace("/", "\\"),
        ]
    )


def another_way(rows: list[list[str]], draw: random.Random) -> bytes:
    """The same table in another form."""
    style = path_style(draw)
    order = draw.sample(range(5), 5)
    head = [draw.choice(names) for names in HEADS.values()]
    whole = [[style(row[0]), *row[1:]] for row in draw.sample(rows, len(rows))]
    if draw.random() < 0.3:
        whole += draw.sample(whole, 2)
    stream = io.StringIO(newline="")
    writer = csv.writer(
        stream,
        delimiter=draw.choice(",;\t|"),
        quoting=draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        lineterminator=draw.choice(["\n", "\r\n", "\r"]),
    )
    for row in (head, *whole):
        writer.writerow([row[n] for n in order])
        if draw.random() < 0.1:
            stream.write("\n" if writer.dialect.lineterminator != "\r" else "\r")
    return stream.getvalue().encode(draw.choice(ENCODINGS))


def one_line(work: Callable[[], object]) -> object:
    """What comes of it, or None where it was refused in one line."""
    try:
        return work()
    except ClinipressError as problem:
        text = str(problem)
        assert text.startswith("expected ")
        assert text.isprintable()
        assert len(text) < 3000
        return None


def same_items(root: Path, seed: int) -> None:
    draw = random.Random(seed)
    rows = pictures(root, draw)
    expected = plain(root, rows)
    name = draw.choice(["manifest.csv", "labels.CSV", "m.tsv", "m.tab"])
    (root / name).write_bytes(another_way(rows, draw))
    for given in (root, root / name):
        assert rows_of(read_dataset(given)) == expected, (seed, name)


def damaged(data: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        piece = draw.choice(
            [b"\0", b'"', b"'", b",", b";", b"\n", b"\r", b"\xff", b"\xfe\xff", b"\x1b[31m", b"\\",
             b"../" * 90, b"x" * 5000, b'"' * 3, b"nan", draw.randbytes(9),
             b"\n" * 40, b"9" * 140000]
        )  # fmt: skip
        kind = draw.randrange(4)
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data = data[:at] + data[at + draw.randint(1, 30) :]
        else:
            data = data[:at] + piece + data[at + draw.choice([0, 0, len(piece)]) :]
        data = data or b"\n"
    return data


def hostile(root: Path, seed: int) -> None:
    draw = random.Random(seed)
    rows = pictures(root, draw)
    (root / "m.csv").write_bytes(damaged(another_way(rows, draw), draw))
    for given in (root, root / "m.csv"):
        read = one_line(lambda given=given: read_dataset(given))
        if read is not None and draw.random() < 0.2:
            looked_at(read)


def looked_at(dataset: object) -> None:
    """The audit of it, printed and written, ends in no surprise either."""
    found = one_line(lambda: audit(dataset, threads=1)[0])
    if isinstance(found, Audit):
        assert Audit.model_validate_json(found.model_dump_json()) == found
        show_audit(found)


ODD = ["a", "Z", "ü", "u\u0308", "[b]", "x\ny", "\x1b[31m", "日本", "-f", "é" * 100, "...", "a.b",
       " s ", "%s", "{x}", "'", '"', "\\", "CON", "@eaDir", ".hidden", "masks", "images", "train",
       "Test",
       "part_1", "part_2", "fold1", "🫁"]  # fmt: skip


def wild_folder(root: Path, draw: random.Random) -> None:
    """Folders in folders, with pictures, texts, links to anywhere, loops and things of no kind."""
    folders = [root]
    for _ in range(draw.randint(1, 14)):
        folder = draw.choice(folders) / draw.choice(ODD)
        with suppress(FileExistsError, NotADirectoryError):
            folder.mkdir()
            folders.append(folder)
    for n in range(draw.randint(0, 25)):
        where = draw.choice(folders)
        name = draw.choice(ODD) + draw.choice([".png", ".jpg", ".dcm", ".nii.gz", ".txt", ""])
        path = where / name
        if path.exists() or path.is_symlink():
            continue
        kind = draw.randrange(9)
        if kind < 4:
            folder_of(where, [f"p{n}{draw.choice(['', '_mask'])}.png"])
        elif kind == 4:
            path.symlink_to(draw.choice([*folders, root / "nowhere", path]))
        elif kind == 5:
            path.symlink_to(draw.choice(folders), target_is_directory=True)
        elif kind == 6:
            path.write_bytes(draw.randbytes(draw.choice([0, 1, 200])))
        elif kind == 7:
            os.mkfifo(path)
        else:
            head = draw.choice(
                ["path,label", "a;b", "image\tclass", "", "file_name,x,y", "id,target"]
            )
            table(where / f"{n}{draw.choice(['.csv', '.tsv'])}", [head, f"p{n},1", f"p{n + 1};2"])
    if draw.random() < 0.1:
        folder = root / os.fsdecode(b"\xff\xfe")
        folder.mkdir()
        shutil.copy(__file__, folder / os.fsdecode(b"\xfd.png"))


def wild(root: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    wild_folder(root, draw)
    real = os.scandir

    def scandir(path: str | os.PathLike[str]) -> object:
        if draw.random() < 0.05:
            raise draw.choice([PermissionError(13, "Permission denied"), OSError(5, "I/O error")])
        return real(path)

    if draw.random() < 0.3:
        monkeypatch.setattr(os, "scandir", scandir)
    read = one_line(lambda: read_dataset(root))
    monkeypatch.undo()
    if read is not None:
        looked_at(read)


@pytest.mark.parametrize("seed", DAY)
def test_a_table_in_any_form_gives_the_same_items(tmp_path: Path, seed: int) -> None:
    same_items(tmp_path, seed)


@pytest.mark.parametrize("seed", DAY)
def test_a_damaged_table_is_read_or_refused_in_one_line(tmp_path: Path, seed: int) -> None:
    hostile(tmp_path, seed)


@pytest.mark.parametrize("seed", DAY)
def test_a_wild_folder_is_read_or_refused_in_one_line(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild(tmp_path, seed, monkeypatch)


@pytest.mark.nightly
def test_a_thousand_tables_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in NIGHT:
        for part, work in enumerate((same_items, hostile)):
            work(tmp_path / f"{seed} {part}", seed)
        (tmp_path / f"{seed} w").mkdir()
        wild(tmp_path / f"{seed} w", seed, monkeypatch)
        for folder in tmp_path.iterdir():
            shutil.rmtree(folder)
