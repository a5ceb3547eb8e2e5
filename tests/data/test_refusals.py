"""What training accepts, the device accepts: the refusals of `predict`, before any training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinipress.data.audit.audit import audit
from clinipress.data.refusals import check_refusals, find_refusals
from clinipress.data.sources import read_dataset
from clinipress.errors import DataError, ImageError
from clinipress.kinds.image.accept import accept_file
from clinipress.records.candidate import InputSpec
from clinipress.records.result import Unreadable
from clinipress.study.flow import run_study
from kit.studies import TRAIN, study

GREY = InputSpec(channels=1, height=32, width=32)
COLOUR = InputSpec(channels=3, height=32, width=32)


def grey(seed: int, side: int = 48, marked: bool = False) -> np.ndarray:
    random = np.random.default_rng(seed)
    small = Image.fromarray((random.random((8, 8)) * 160).astype(np.uint8))
    picture = np.asarray(small.resize((side, side), 3)).copy()
    if marked:
        picture[8:20, 8:20] = 240
    return picture


def coloured(seed: int) -> np.ndarray:
    return np.dstack([grey(seed).clip(90), grey(seed + 500) // 2, 255 - grey(seed)])


def save(path: Path, pixels: np.ndarray, **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path


def folders(root: Path, count: int, draw, classes=("finding", "none")) -> Path:
    """`count` images, classes in turn; `draw` makes the pixels of a number."""
    for i in range(count):
        save(root / classes[i % len(classes)] / f"{i:03d}.png", draw(i))
    return root


def marked(i: int) -> np.ndarray:
    return grey(i, marked=i % 2 == 0)


def reasons(root: Path, spec: InputSpec | None = None) -> dict[str, str]:
    images = find_refusals(read_dataset(root).items, spec, threads=1).images
    return {image.path: image.reason for image in images}


def test_f4_grey_models_refuse_what_predict_refuses(tmp_path):
    root = folders(tmp_path / "d", 12, marked)
    save(root / "none" / "black.png", np.zeros((48, 48), np.uint8))
    save(root / "none" / "colour.png", coloured(1))
    save(root / "none" / "palette.gif", coloured(2))
    save(root / "none" / "long.png", np.tile(grey(3), (1, 6)))
    save(root / "none" / "tiny.png", grey(4, side=3))
    stack = [Image.fromarray(grey(i)) for i in range(3)]
    stack[0].save(root / "none" / "film.gif", save_all=True, append_images=stack[1:])
    found = reasons(root, GREY)
    told = {}
    for path in root.rglob("*.*"):
        try:
            accept_file(path, None, GREY, colourful=False)
        except ImageError as problem:
            told[path.relative_to(root).as_posix()] = problem.got
    assert found == told
    assert {Path(key).stem for key in found} == {
        *("black", "colour", "palette", "long", "tiny", "film")
    }


def test_f4_a_set_in_colour_refuses_its_grey_pictures(tmp_path):
    root = folders(tmp_path / "d", 12, coloured)
    save(root / "none" / "grey.png", grey(1))
    assert set(reasons(root, COLOUR)) == set(reasons(root)) == {"none/grey.png"}
    assert len(reasons(root, GREY)) == 12


def test_f4_a_grey_set_refuses_nothing_as_colour_of_three_channels(tmp_path):
    """Such a model was made with grey images, and takes any."""
    root = folders(tmp_path / "d", 12, marked)
    save(root / "none" / "colour.png", coloured(1))
    assert reasons(root, COLOUR) == {}
    assert set(reasons(root)) == {"none/colour.png"}  # a grey model suits this set


def test_f4_arrays_are_looked_at_too(tmp_path):
    images = np.stack([marked(i) for i in range(12)])
    images[5] = 7
    labels = np.arange(12)[:, None] % 2
    parts = {"train": slice(0, 6), "val": slice(6, 9), "test": slice(9, 12)}
    np.savez(tmp_path / "set.npz", **{f"{p}_images": images[s] for p, s in parts.items()},
             **{f"{p}_labels": labels[s] for p, s in parts.items()})  # fmt: skip
    assert list(reasons(tmp_path / "set.npz", GREY)) == ["set.npz#train#5"]


def test_f6_the_audit_names_blank_and_nearly_black_pictures(tmp_path):
    def drawn(i):
        return np.full((48, 48), 255 * (i % 2), np.uint8) if i < 6 else marked(i)

    root = folders(tmp_path / "d", 40, drawn)
    save(root / "none" / "dark.png", 8 * (grey(1) > 90).astype(np.uint8))
    record, _ = audit(read_dataset(root), threads=1)
    assert [image.path for image in record.refused] == [
        *("finding/000.png", "finding/002.png", "finding/004.png"),
        *("none/001.png", "none/003.png", "none/005.png"),
    ]
    assert any(
        text.startswith("6 images of 41 would be refused by the finished model: 6 as a blank one")
        for text in record.warnings
    )
    assert any("4 images of 41 with nothing brighter than 8 of 255" in t for t in record.warnings)
    assert {image.path for image in record.dark} == {
        *("finding/000.png", "finding/002.png", "finding/004.png", "none/dark.png")
    }


def test_f6_pictures_that_are_transparent_all_over_are_blank(tmp_path):
    root = folders(tmp_path / "d", 12, lambda i: np.dstack([*[marked(i)] * 3, marked(i) * 0]))
    assert len(reasons(root)) == 12


@pytest.mark.parametrize(("refused", "stops"), [(0, False), (5, False), (6, True), (10, True)])
def test_f4_most_of_one_class_is_enough_to_stop(refused, stops):
    labels = {f"{name}{i}": [name] for name in "ab" for i in range(10)}
    images = [Unreadable(path=f"a{i}", reason="a blank one") for i in range(refused)]
    if not stops:
        check_refusals(images, labels)
        return
    with pytest.raises(DataError, match=f"{refused} of 10 that it would refuse, such as 'a0'"):
        check_refusals(images, labels)


def test_most_of_one_finding_is_enough_to_stop_and_a_rare_combination_is_none():
    labels = {f"{i}": ["edema", *(["mass"] if i < 2 else [])] for i in range(20)}
    images = [Unreadable(path=f"{i}", reason="a blank one") for i in (0, 2)]
    check_refusals(images, labels, "finding")  # 2 of 20, and 1 of 2
    with pytest.raises(DataError, match=r"images of finding 'mass' .* 2 of 2"):
        check_refusals([*images, Unreadable(path="1", reason="a blank one")], labels, "finding")


class Listener:
    def __init__(self):
        self.said = []

    def start(self, what, total):
        pass

    advance = finish = lambda *_, **__: None

    def say(self, text):
        self.said.append(text)


def quick(**data):
    return study(
        data={"positive": "finding", "input": GREY.model_dump(), **data},
        steps=[],
        exports=[{"precision": "float16"}],
        evidence={"stress": 0, "saliency": 0},
        reference={"model": {"factory": "tiny_nets:make"}, "train": TRAIN | {"epochs": 1}},
    )


def test_f4_a_study_of_pictures_in_colour_with_a_grey_input_stops_before_training(tmp_path):
    root = folders(tmp_path / "d", 60, coloured)
    with pytest.raises(DataError, match=r"30 of 30 that it would refuse.*channels to 3"):
        run_study(quick(), root, tmp_path / "run")
    assert not list((tmp_path / "run" / "objects").glob("train-*"))


def test_a2_a_study_without_the_finding_stops_before_anything_is_read(tmp_path):
    root = folders(tmp_path / "d", 60, marked)
    with pytest.raises(DataError, match="say which class is the finding"):
        run_study(quick(positive=None), root, tmp_path / "run")
    assert not list((tmp_path / "run" / "objects").glob("*"))


def test_f6_a_study_with_some_blank_pictures_says_so_and_ends_in_a_bundle(tmp_path):
    def drawn(i):
        return np.full((48, 48), 200, np.uint8) if i % 12 < 2 else marked(i)

    root, listener = folders(tmp_path / "d", 120, drawn), Listener()
    result = run_study(quick(), root, tmp_path / "run", progress=listener)
    assert any("20 images of 120 would be refused" in text for text in listener.said)
    assert len(result.audit.refused) == 20
    assert result.positive in (None, "finding")


def test_f6_a_sample_that_the_bundle_would_refuse_stops_before_training(tmp_path):
    root = folders(tmp_path / "d", 60, marked)
    blank = save(tmp_path / "blank.png", np.full((48, 48), 90, np.uint8))
    with pytest.raises(ImageError, match="a blank one"):
        run_study(study(sample=str(blank)), root, tmp_path / "run")
    assert not list((tmp_path / "run").glob("objects/*"))
