"""Many images, one answer each, in constant memory; and the command."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinipress.edge.bench import process_peak
from clinipress.edge.bundle import Bundle, load_bundle
from clinipress.edge.manifest import CARD, digest_of_card
from clinipress.edge.predict import predict, run_predict
from clinipress.errors import BundleError, InputError
from clinipress.kinds.image.pixels import READING
from clinipress.records.candidate import Card
from kit.linear_model import noise


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder, threads=1)


@pytest.fixture
def images(tmp_path: Path, card: Card) -> Path:
    """A folder of three images and one that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(3):
        Image.fromarray(noise(card.input, seed)[0]).save(folder / f"{seed}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_one_answer_per_file_in_order(bundle: Bundle, images: Path):
    found = list(predict(bundle, [images / "2.png", str(images)]))
    assert [Path(a.file).name for a in found] == ["2.png", "0.png", "1.png", "2.png", "notes.txt"]
    assert [a.label is None for a in found] == [False, False, False, False, True]
    assert found[0].probabilities == found[3].probabilities
    assert found[1].probabilities == bundle.classify(images / "0.png").probabilities


def test_a_missing_source_is_said_before_anything_is_read(bundle: Bundle, images: Path):
    with pytest.raises(InputError, match="nothing at"):
        predict(bundle, [images, images / "none.png"])


def test_a_missing_file_of_a_list_is_refused_in_its_place(bundle: Bundle, images: Path):
    text = f"{images}/0.png\n{images}/none.png\n{images}/1.png\n"
    found = list(predict(bundle, ["-"], stdin=io.BytesIO(text.encode())))
    assert [a.refused is None for a in found] == [True, False, True]


def test_bytes_on_standard_input(bundle: Bundle, images: Path):
    content = (images / "1.png").read_bytes()
    (found,) = predict(bundle, ["-"], stdin=io.BytesIO(content))
    assert found.file == "-"
    assert found.probabilities == bundle.classify(images / "1.png").probabilities


def test_answers_come_one_by_one(bundle: Bundle, images: Path):
    answers = predict(bundle, [images])
    assert next(answers).label is not None
    (images / "1.png").write_bytes(b"")  # read only when its turn comes
    assert next(answers).refused is not None


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_thousand_images_need_no_more_memory_than_one(bundle: Bundle, tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", compress_level=0)
    listed = io.BytesIO(f"{tmp_path / 'a.png'}\n".encode() * 1100)
    answers = predict(bundle, ["-"], stdin=listed)
    for _ in range(100):
        next(answers)
    before, count = resident(), sum(1 for _ in answers)
    assert count == 1000
    # kept pixels would be 65 MB, kept files as much again
    assert resident() - before < 16e6


def test_exit_codes_and_lines(folder: Path, images: Path):
    lines: list[str] = []
    complaints: list[str] = []

    def run(*sources: Path, as_json: bool = False) -> int:
        lines.clear()
        complaints.clear()
        return run_predict(
            folder, sources, as_json=as_json, write=lines.append, complain=complaints.append
        )

    assert run(images / "0.png") == 0
    assert lines[0].startswith(f"{images / '0.png'}: ")
    assert complaints == []
    assert run(images) == 2
    assert (len(lines), len(complaints)) == (3, 1)
    assert "notes.txt: refused" in complaints[0]
    assert run(images / "notes.txt") == 2
    assert (len(lines), len(complaints)) == (0, 1)
    assert run(images, as_json=True) == 2
    parsed = [json.loads(line) for line in lines]
    assert [tree["refused"] is None for tree in parsed] == [True, True, True, False]
    assert all(len(tree) == 6 for tree in parsed)
    assert complaints == []


def test_a_model_of_drawn_images_says_so(card: Card, make_bundle, images: Path, capsys):
    folder = make_bundle(card.model_copy(update={"synthetic": True}))
    assert run_predict(folder, [images / "0.png"], write=lambda _line: None) == 0
    captured = capsys.readouterr()
    assert "never use it for patients" in captured.err
    assert captured.out == ""


def test_networks_f13_a_bundle_measured_with_another_reading_says_so(
    folder: Path, images: Path, capsys
):
    tree = json.loads((folder / CARD).read_text())
    assert tree.pop("reading") == READING
    assert run_predict(folder, [images / "0.png"], write=lambda _line: None) == 0
    assert "read otherwise" not in capsys.readouterr().err
    (folder / CARD).write_text(json.dumps(tree | {"digest": digest_of_card(tree)}))
    assert run_predict(folder, [images / "0.png"], write=lambda _line: None) == 0
    assert "read otherwise than when this bundle was measured" in capsys.readouterr().err


def test_the_command_itself(folder: Path, images: Path):
    command = [sys.executable, "-W", "error", "-m", "clinipress", "predict", str(folder)]
    done = subprocess.run(
        [*command, str(images / "0.png"), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = load_bundle(folder).classify(images / "0.png").to_dict()
    assert json.loads(done.stdout) == expected
    for bad in (images / "notes.txt", images / "none.png"):
        done = subprocess.run([*command, str(bad)], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert bad.name in done.stderr


def test_a_bundle_works_where_it_is_copied_to(folder: Path, images: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "elsewhere" / "b")
    shutil.rmtree(folder)
    assert load_bundle(tmp_path / "elsewhere" / "b").classify(images / "0.png").label is not None
    with pytest.raises(BundleError):
        load_bundle(folder)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux tells the peak memory")
def test_a_cold_answer_needs_little_memory_and_no_torch(folder: Path, images: Path):
    code = (
        "import sys\n"
        "from clinipress.edge.predict import run_predict\n"
        "from clinipress.edge.bench import process_peak\n"
        f"run_predict({str(folder)!r}, [{str(images / '0.png')!r}], write=lambda line: None)\n"
        "heavy = {'torch', 'scipy', 'onnx', 'pydicom', 'rich', 'yaml'} & set(sys.modules)\n"
        "sys.stdout.write(f'{process_peak()} {sorted(heavy)}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, heavy = done.stdout.split(" ", 1)
    assert heavy == "[]"
    assert int(peak) < 150e6
    assert int(peak) < (process_peak() or 0) * 10  # the same unit: bytes
