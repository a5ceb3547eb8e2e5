from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from clinipress.records.result import Result
from clinipress.reporting.drawing import pictures as module
from clinipress.reporting.drawing.pictures import (
    ABSENT,
    GALLERY,
    embedded,
    named_pictures,
    read_pictures,
)
from clinipress.reporting.page.build import render, write_report
from clinipress.reporting.view import View
from kit.judgements import PICTURES, picture, pictures, with_judgements

Make = Callable[..., Result]


def on_disk(folder: Path, found: dict[str, bytes]) -> Path:
    for name, data in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_pictures_of_the_run_folder_are_in_the_page(make_study: Make, tmp_path: Path) -> None:
    study = with_judgements(make_study())
    wanted = pictures()
    page = write_report(study, on_disk(tmp_path, wanted)).read_text(encoding="utf-8")
    held = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    named = list(named_pictures(View(study)))
    assert [base64.b64decode(one) for one in held] == [wanted[name] for name in named]
    # of 20 flips the sixth of every seven has none; four panels
    assert len(named) == len({*named}) == 20 - 2 + 4
    assert page == render(study, wanted)


def test_a_missing_picture_is_said_and_is_no_error(make_study: Make, tmp_path: Path) -> None:
    study = with_judgements(make_study())
    page = write_report(study, tmp_path).read_text(encoding="utf-8")
    assert "<img" not in page
    assert page.count(ABSENT) == 18 + 4
    assert page.count("no picture was kept") == 2


@pytest.mark.parametrize("content", [b"", b"<svg onload='x'>", b"GIF89a"])
def test_what_is_no_picture_is_left_out(make_study: Make, tmp_path: Path, content: bytes) -> None:
    view = View(with_judgements(make_study()))
    name = f"{PICTURES}/flip-00.png"
    assert read_pictures(view, on_disk(tmp_path, {name: content})) == {}
    assert "<img" not in embedded(View(view.result, {name: content}), name, "x")


def test_jpeg_is_told_by_its_content(make_study: Make) -> None:
    view = View(make_study(), {"a.png": b"\xff\xd8\xff\xe0 whatever"})
    assert embedded(view, "a.png", "x").startswith('<img src="data:image/jpeg;base64,')


def test_no_file_from_outside_the_run_gets_into_a_report(make_study: Make, tmp_path: Path) -> None:
    study = with_judgements(make_study())
    (tmp_path / "secret.png").write_bytes(picture(8, 8))
    run = tmp_path / "run"
    (run / PICTURES).mkdir(parents=True)
    (run / PICTURES / "flip-00.png").symlink_to(tmp_path / "secret.png")
    assert read_pictures(View(study), run) == {}
    record = next(one for one in study.candidates if one.name == "pruned-int8")
    own = record.judgements["test"]
    assert own.disagreement is not None
    for name in ("../secret.png", str(tmp_path / "secret.png"), "a\0b"):
        flips = tuple(f.model_copy(update={"picture": name}) for f in own.disagreement.flips)
        part = own.disagreement.model_copy(update={"flips": flips})
        changed = record.model_copy(
            update={"judgements": {"test": own.model_copy(update={"disagreement": part})}}
        )
        records = tuple(changed if one is record else one for one in study.candidates)
        view = View(study.model_copy(update={"candidates": records}))
        assert name in list(named_pictures(view))
        assert read_pictures(view, run) == {}


def test_pictures_have_an_allowance(
    make_study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = View(with_judgements(make_study()))
    names = list(named_pictures(view))
    each = picture(64, 64, rough=True)
    on_disk(tmp_path, dict.fromkeys(names, each))
    monkeypatch.setattr(module, "ALLOWANCE", 3 * len(each) + 1)
    assert list(read_pictures(view, tmp_path)) == names[:3]
    monkeypatch.setattr(module, "LARGEST", len(each) - 1)
    assert read_pictures(view, tmp_path) == {}


def test_only_shown_pictures_are_read(make_study: Make) -> None:
    many = with_judgements(make_study(status="pass"), planted="disagreement", flips=99)
    view = View(many)
    flips = [name for name in named_pictures(view) if "flip" in name]
    assert len(flips) <= GALLERY
    section = next(iter(view.shown_judgements.values())).disagreement
    assert section is not None
    assert len(section.flips) > GALLERY
