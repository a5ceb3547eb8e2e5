"""200 hostile files: each is answered, refused in its place with a reason, or one line of error.

Damage is drawn from a seed: files cut short, bits flipped, length fields enlarged, two files
spliced into one; PNG checksums are mended afterwards, as an enemy would. The files are read in a
process of its own, so that a crash shows, with a limit of time and memory for each.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from clinipress.edge.bundle import clearest, write_bundle
from clinipress.edge.inputs import expand
from clinipress.edge.manifest import digest_of_card
from clinipress.edge.predict import SOME_REFUSED, run_predict
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.records.candidate import InputSpec
from clinipress.records.store import sha256_of
from kit.linear_model import weights, write_linear
from kit.onnx_nets import conv_net, pixels, saved

COUNTS = {"png": 45, "jpg": 45, "dcm": 50, "card": 25, "onnx": 35}  # 200 in all
SECONDS = 10  # per file; the slowest takes some tenths of one
MEGABYTES = 300  # that a damaged file of a small picture may cost
SIDE = 60_000
SOURCE = Path(__file__).resolve().parents[2] / "src"

# Reads the files it is told, one after the other, and writes one line of JSON before each and one
# after. A hang ends by the alarm's signal, a crash by its own; whoever started it sees which file
# was the last. `HOSTILE_READER` is code that takes the place of the reader under test.
WORKER = """
import json, os, resource, signal, sys, time, warnings
from pathlib import Path
from clinipress.kinds.image.read import decode, facts
from clinipress.edge.bundle import load_bundle
from clinipress.edge.predict import predict
from clinipress.errors import BundleError, ClinipressError
from clinipress.records.candidate import InputSpec

warnings.simplefilter("error")
GREY = InputSpec(channels=1, height=16, width=16)
LOOKS = (GREY, GREY.model_copy(update={"channels": 3, "fit": "pad"}),
         GREY.model_copy(update={"window": (-100.0, 300.0)}))
good, out, seconds = load_bundle(sys.argv[1], threads=1), open(sys.argv[2], "a"), int(sys.argv[3])

def megabytes(field):
    text = Path("/proc/self/status").read_text()
    return int(text.split(field + ":")[1].split()[0]) / 1024

def one_line(text):
    if len(text.splitlines()) != 1 or "Memory" in text or "allocate" in text:
        raise AssertionError("not one line of a reason: " + text)
    return text

def image(path):
    (found,) = predict(good, [path])
    json.dumps(found.to_dict(), allow_nan=False)
    one_line(found.to_text())
    if (found.label is None) == (found.refused is None):
        raise AssertionError("neither answered nor refused, or both")
    for read in (facts, *[lambda file, look=look: decode(file, look) for look in LOOKS]):
        try:
            read(Path(path))
        except ClinipressError as problem:
            one_line(str(problem))
    return "answered" if found.refused is None else found.refused

def bundle(path):
    try:
        opened = load_bundle(path, threads=1)
        opened.classify(opened.path / "sample.png")
    except BundleError as problem:
        return one_line(str(problem))
    return "answered"

def say(**line):
    out.write(json.dumps(line) + "\\n")
    out.flush()

resource.setrlimit(resource.RLIMIT_AS, (int(megabytes("VmSize") + 3000) * 2**20,) * 2)
for line in sys.stdin:
    kind, path = json.loads(line)
    say(start=path)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, began = megabytes("VmRSS"), time.perf_counter()
    signal.alarm(seconds)
    result = {}
    try:
        if "HOSTILE_READER" in os.environ:
            exec(os.environ["HOSTILE_READER"])
        result["said"] = (image if kind == "image" else bundle)(path)
    except BaseException as problem:
        result["raised"] = type(problem).__name__ + ": " + str(problem)[:300]
    signal.alarm(0)
    spent = time.perf_counter() - began
    say(path=path, megabytes=megabytes("VmHWM") - before, seconds=spent, **result)
out.close()
"""


def examine(jobs, good: Path, work: Path, *, seconds: int = SECONDS, reader: str | None = None):
    """Read every file of `jobs`, (kind, path), in a process that may die.

    Returns:
        Path -> what the reader said of it; in the place of what it should not do: "raised",
        "killed" (by a crash or the alarm). And everything the process wrote to its terminal.
    """
    log, said, waiting, printed = work / "log.jsonl", {}, [(k, str(p)) for k, p in jobs], ""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    if reader is not None:
        environment["HOSTILE_READER"] = reader
    while waiting:
        log.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", WORKER, str(good), str(log), str(seconds)],
            input="".join(json.dumps(job) + "\n" for job in waiting),
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=300,
            check=False,
        )
        assert log.is_file(), done.stderr
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        said |= {line["path"]: line for line in lines if "path" in line}
        if "start" in lines[-1]:
            said[lines[-1]["start"]] = {"killed": done.returncode}
        printed += done.stdout + done.stderr
        assert len(said) > 0
        waiting = [job for job in waiting if job[1] not in said]
    return said, printed


def bad(said, megabytes: float = MEGABYTES) -> dict:
    """Files whose reader did what it should not: the checker of all tests here."""
    return {
        path: found
        for path, found in said.items()
        if "said" not in found or found["megabytes"] > megabytes
    }


# --- good files to damage


def picture(random: np.random.Generator, *more: int):
    """Smooth pixels ``[48, 64, *more]``."""
    coarse = random.integers(0, 256, (6, 8, *more))
    return np.kron(coarse, np.ones((8, 8) + (1,) * len(more), int)).astype(np.uint8)


def encoded(values, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def dicom(syntax: str, data: bytes, **tags) -> bytes:
    """A DICOM file of 48 x 64; `tags` are its attributes, whatever they claim."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    plain = {
        **{"Rows": 48, "Columns": 64, "SamplesPerPixel": 1, "PixelRepresentation": 0},
        **{"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "RescaleSlope": "1"},
        **{"PhotometricInterpretation": "MONOCHROME2", "RescaleIntercept": "-1024"},
        **{"WindowCenter": "40", "WindowWidth": "400"},
    }
    for name, value in {**plain, **tags}.items():
        setattr(dataset, name, value)
    dataset.PixelData = data
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


BYTES = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "RescaleIntercept": "0"}
BYTES |= {"WindowCenter": "128", "WindowWidth": "256"}


def good_files() -> dict[str, bytes]:
    draw = np.random.default_rng(0)
    grey, colour = picture(draw), picture(draw, 3)
    wide = (grey.astype(np.uint16) * 16).tobytes()
    turned = Image.Exif()
    turned[0x0112], turned[0x010E] = 6, "x" * 40
    rle = pydicom.pixels.get_encoder(RLELossless).encode(
        grey.tobytes(),
        **{"rows": 48, "columns": 64, "samples_per_pixel": 1, "number_of_frames": 1},
        **{"bits_allocated": 8, "bits_stored": 8, "pixel_representation": 0},
        photometric_interpretation="MONOCHROME2",
    )
    return {
        "grey.png": encoded(grey, "PNG"),
        "colour.png": encoded(colour, "PNG"),
        "palette.png": encoded(Image.fromarray(colour).convert("P"), "PNG"),
        "wide.png": encoded(grey.astype(np.uint16) * 200, "PNG"),
        "grey.jpg": encoded(grey, "JPEG"),
        "turned.jpg": encoded(colour, "JPEG", exif=turned),
        "progressive.jpg": encoded(grey, "JPEG", progressive=True),
        "raw.dcm": dicom(ExplicitVRLittleEndian, wide),
        "implicit.dcm": dicom(ImplicitVRLittleEndian, wide),
        "frames.dcm": dicom(ExplicitVRLittleEndian, wide * 3, NumberOfFrames=3),
        "jpeg.dcm": dicom(JPEGBaseline8Bit, encapsulate([encoded(grey, "JPEG")]), **BYTES),
        "jpeg2000.dcm": dicom(
            JPEG2000Lossless, encapsulate([encoded(grey, "JPEG2000", no_jp2=True)]), **BYTES
        ),
        "rle.dcm": dicom(RLELossless, encapsulate([rle]), **BYTES),
    }


# --- damage

LARGE = (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFF, 0x7FFF, SIDE, 0)


def damaged(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One file of the same beginning, and something wrong with it."""
    kind, content = draw.randrange(4), bytearray(data)
    if kind == 0:
        del content[draw.randrange(len(content)) :]
    elif kind == 1:
        for _ in range(draw.choice((1, 2, 8, 30))):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif kind == 2:  # most length fields stand at the beginning
        place = draw.randrange(min(len(content), draw.choice((64, 400, 10**6))) - 4)
        size, order = draw.choice((2, 4)), draw.choice(("big", "little"))
        number = draw.choice(LARGE) % 256**size
        content[place : place + size] = number.to_bytes(size, order)
    else:
        other = draw.choice(others)
        content = content[: draw.randrange(len(content))] + other[draw.randrange(len(other)) :]
    return mended(bytes(content)) if draw.random() < 0.7 else bytes(content)


def mended(data: bytes) -> bytes:
    """A PNG with right checksums; anything else as it is."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    content, place = bytearray(data), 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 > len(content):
            break
        content[end : end + 4] = zlib.crc32(content[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(content)


ODD = (None, True, -1, 0, 1e308, 1e-320, 2**63, 10**400, "", "x" * 9999, "\n", [], {}, -0.0)


def damaged_card(draw: random.Random, tree: dict) -> dict:
    """One or two values of a card replaced or taken away."""
    for _ in range(draw.choice((1, 2))):
        place, key = tree, draw.choice(("card", "self_test", "files", draw.choice(list(tree))))
        while isinstance(place.get(key), dict) and place[key] and draw.random() < 0.9:
            place = place[key]
            key = draw.choice(list(place))
        if draw.random() < 0.15:
            del place[key]
        else:
            place[key] = draw.choice(ODD)
        if not isinstance(tree.get("card"), dict):
            break
    return tree


def seal(folder: Path, tree: dict) -> None:
    """Put the right hashes into a card, as an enemy would."""
    for name in ("model.onnx", "sample.png"):
        if isinstance(tree.get("files"), dict):
            tree["files"][name] = sha256_of(folder / name)
    tree["digest"] = digest_of_card(tree)
    (folder / "card.json").write_text(json.dumps(tree))


def copy_of(good: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in good.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


# --- the files


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A bundle of a small convolutional network."""
    folder = tmp_path_factory.mktemp("good")
    candidate = OnnxCandidate.load(saved(conv_net(), folder / "net.onnx"))
    images = pixels(40)
    sample = images[clearest(candidate.predict(images))]
    card = candidate.card.model_copy(update={"format": "onnx"})
    passed = {"verdict": {"status": "pass"}}
    return write_bundle(folder / "bundle", candidate.path, card, sample=sample, evidence=passed)


@pytest.fixture(scope="module")
def hostile_images(tmp_path_factory) -> list[Path]:
    folder, files = tmp_path_factory.mktemp("images"), good_files()
    draw, made = random.Random(1), []
    for kind in ("png", "jpg", "dcm"):
        names = [name for name in files if name.endswith(kind)]
        for number in range(COUNTS[kind]):
            data = damaged(draw, files[names[number % len(names)]], list(files.values()))
            # every third has the ending of another kind
            ending = kind if number % 3 else draw.choice(("png", "jpg", "dcm", "tif"))
            made.append(folder / f"{kind}-{number:02d}.{ending}")
            made[-1].write_bytes(data)
    return made


@pytest.fixture(scope="module")
def hostile_bundles(good: Path, tmp_path_factory) -> list[Path]:
    root, draw, made = tmp_path_factory.mktemp("bundles"), random.Random(2), []
    for number in range(COUNTS["onnx"]):
        folder = copy_of(good, root / f"onnx-{number:02d}")
        model = folder / "model.onnx"
        model.write_bytes(damaged(draw, model.read_bytes(), [model.read_bytes()]))
        seal(folder, json.loads((folder / "card.json").read_text()))
        made.append(folder)
    for number in range(COUNTS["card"]):
        folder = copy_of(good, root / f"card-{number:02d}")
        card = folder / "card.json"
        if number % 4:
            tree = damaged_card(draw, json.loads(card.read_text()))
            tree["digest"] = digest_of_card(tree)
            card.write_text(json.dumps(tree))
        else:
            card.write_bytes(damaged(draw, card.read_bytes(), [card.read_bytes()]))
        made.append(folder)
    return made


def test_there_are_200(hostile_images, hostile_bundles):
    assert len(hostile_images) + len(hostile_bundles) == sum(COUNTS.values()) == 200


def test_good_files_are_answered_by_the_same_checker(good, tmp_path):
    paths = []
    for name, data in good_files().items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    said, _ = examine([*[("image", p) for p in paths], ("bundle", good)], good, tmp_path)
    assert not bad(said)
    refused = {Path(p).name: s["said"] for p, s in said.items() if s["said"] != "answered"}
    # a colour image is another kind, and one of three frames has to be named
    assert set(refused) == {"colour.png", "palette.png", "turned.jpg", "frames.dcm"}


def test_every_hostile_image_is_answered_or_refused(hostile_images, good, tmp_path):
    said, _ = examine([("image", path) for path in hostile_images], good, tmp_path)
    assert len(said) == len(hostile_images)
    assert not bad(said)
    answers = [found["said"] for found in said.values()]
    # the damage bites, and is not so gross that only the first check is ever reached
    assert answers.count("answered") > 10
    assert len({answer.split("(")[-1] for answer in answers}) > 20


def test_every_hostile_bundle_opens_or_gives_one_line(hostile_bundles, good, tmp_path):
    said, printed = examine([("bundle", path) for path in hostile_bundles], good, tmp_path)
    assert len(said) == len(hostile_bundles)
    assert not bad(said)
    assert sum(found["said"] != "answered" for found in said.values()) > 40
    assert "Traceback" not in printed


def test_nothing_but_the_answer_is_printed_when_a_model_is_damaged(hostile_bundles, good, tmp_path):
    models = [("bundle", path) for path in hostile_bundles if path.name.startswith("onnx")]
    assert examine(models, good, tmp_path)[1] == ""


# --- the commands, on all images at once


def command(*words) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-W", "error", "-m", "clinipress", *map(str, words)]
    return subprocess.run(
        call, capture_output=True, text=True, env=environment, timeout=120, check=False
    )


def test_predict_gives_one_line_for_each(hostile_images, good):
    done = command("predict", good, hostile_images[0].parent, "--json")
    assert done.returncode == SOME_REFUSED, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["file"] for answer in answers] == sorted(map(str, hostile_images))
    assert done.stderr == ""


def test_the_audit_sets_them_aside(hostile_images, tmp_path):
    draw = np.random.default_rng(5)
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for path in hostile_images[number::2]:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
        for image in range(40):  # most of a set must be readable
            Image.fromarray(picture(draw)).save(tmp_path / name / f"good-{image}.png")
    done = command("audit", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert found["images"] >= 140
    assert len(found["unreadable"]) > 60
    assert not [one for one in found["unreadable"] if "good" in one["path"]]
    assert all(len(one["reason"].splitlines()) == 1 for one in found["unreadable"])


# --- bombs


def png(width: int, height: int, rows: bytes = b"\0" * 99) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + zlib.crc32(name + data).to_bytes(4)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_claim(data: bytes, marker: bytes, skip: int, form: str) -> bytes:
    """The bytes of a picture whose frame header claims `SIDE` twice."""
    place = data.index(marker) + skip
    size = struct.pack(form, SIDE, SIDE)
    return data[:place] + size + data[place + len(size) :]


def frame_bomb() -> dict[str, bytes]:
    data = picture(np.random.default_rng(3)).astype(np.uint16).tobytes()
    return {"frames.dcm": dicom(ExplicitVRLittleEndian, data, NumberOfFrames=2**31 - 1)}


def bombs() -> dict[str, bytes]:
    """A few kilobytes each, that claim or hold gigabytes."""
    grey = picture(np.random.default_rng(3))
    wide = (grey.astype(np.uint16) * 16).tobytes()
    jpeg = with_claim(encoded(grey, "JPEG"), b"\xff\xc0", 5, ">HH")
    codestream = encoded(grey, "JPEG2000", no_jp2=True)
    tile = with_claim(with_claim(codestream, b"\xff\x51", 6, ">II"), b"\xff\x51", 22, ">II")
    run_lengths = struct.pack("<16I", 1, 64, *[0] * 14) + bytes([129, 0]) * 300_000
    text = png(64, 48, bytes(65 * 48))
    comment = b"a\0\0" + zlib.compress(bytes(10**8), 1)
    chunk = struct.pack(">I", len(comment)) + b"zTXt" + comment
    return frame_bomb() | {
        "claims.png": png(SIDE, SIDE),
        "claims-most.png": png(2**31 - 1, 2**31 - 1),
        "comment.png": text[:33] + chunk + zlib.crc32(chunk[4:]).to_bytes(4) + text[33:],
        "claims.jpg": jpeg,
        "claims.jp2": with_claim(encoded(grey, "JPEG2000"), b"\xff\x51", 6, ">II"),
        "claims.bmp": with_claim(encoded(grey, "BMP"), b"BM", 18, "<ii"),
        "claims.dcm": dicom(ExplicitVRLittleEndian, wide, Rows=SIDE, Columns=SIDE),
        "jpeg.dcm": dicom(JPEGBaseline8Bit, encapsulate([jpeg]), **BYTES),
        "tile.dcm": dicom(JPEG2000Lossless, encapsulate([tile]), **BYTES),
        "runs.dcm": dicom(RLELossless, encapsulate([run_lengths]), **BYTES),
        "deflated.dcm": dicom(DeflatedExplicitVRLittleEndian, bytes(3 * 10**8)),
        "slope.dcm": dicom(ExplicitVRLittleEndian, wide, RescaleSlope="1e300"),
    }


def test_no_bomb_takes_the_memory_it_claims(good, tmp_path):
    paths = []
    for name, data in bombs().items():
        assert len(data) < 10**6
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    said, _ = examine([("image", path) for path in paths], good, tmp_path)
    assert not bad(said, megabytes=40)
    assert not [path for path, found in said.items() if found["said"] == "answered"]


def test_the_audit_does_not_list_frames_that_no_file_can_hold(tmp_path):
    draw = np.random.default_rng(6)
    (bomb,) = frame_bomb().values()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(picture(draw)).save(tmp_path / name / "good.png")
        (tmp_path / name / "bomb.dcm").write_bytes(bomb)
    found = json.loads(command("audit", tmp_path, "--json").stdout)
    assert found["images"] == 4
    assert [one["path"] for one in found["unreadable"]] == ["a/bomb.dcm", "b/bomb.dcm"]


# --- hostile names


def test_names_no_system_can_bear_are_refused_in_their_place(good, tmp_path, monkeypatch):
    names = ["x" * 5000, "y/" * 2500, "zero\0byte", "missing\x1b[31m.png", "missing.png"]
    stream = io.BytesIO("\n".join(names).encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
    lines: list[str] = []
    assert run_predict(good, ["-"], write=lines.append, complain=lines.append) == SOME_REFUSED
    assert len(lines) == len(names)
    assert all("refused" in line and line.isprintable() for line in lines)


@pytest.mark.parametrize("words", [["x" * 5000, "image.png"], [None, "x" * 5000]])
def test_an_argument_too_long_is_one_line(good, words):
    done = command("predict", *[word or good for word in words])
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stderr) < 1000


def test_folders_nested_deeper_than_functions_can_call_themselves(tmp_path):
    deep = "d/" * 150  # few enough to be taken away again by Python's own removal
    (tmp_path / deep).mkdir(parents=True)
    (tmp_path / deep / "image.png").touch()
    usual = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack()) + 100)
        found = [name for name, _ in expand(str(tmp_path), None)]
    finally:
        sys.setrecursionlimit(usual)
    assert found == [f"{tmp_path}/{deep}image.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert [name for name, _ in expand(str(tmp_path), None)] == [str(tmp_path / "closed")]


# --- foreign bundles


def foreign(good: Path, folder: Path, kind: str) -> Path:
    """What somebody may take for a bundle."""
    copy_of(good, folder)
    card = folder / "card.json"
    tree = json.loads(card.read_text())
    if kind == "another model":
        spec = InputSpec(channels=1, height=8, width=8)
        write_linear(folder / "model.onnx", spec, weights(spec, 3))
        seal(folder, tree)
    elif kind == "a model of other classes":
        spec = InputSpec(channels=1, height=16, width=16)
        write_linear(folder / "model.onnx", spec, weights(spec, 5))
        seal(folder, tree)
    elif kind == "no model but a picture":
        (folder / "model.onnx").write_bytes((folder / "sample.png").read_bytes())
        seal(folder, tree)
    elif kind == "a sample that is a bomb":
        (folder / "sample.png").write_bytes(png(SIDE, SIDE))
        seal(folder, tree)
    elif kind == "a card of a candidate":
        card.write_text(json.dumps(tree["card"]))
    elif kind == "a temperature near zero":
        tree["card"]["temperature"] = 1e-320
        seal(folder, tree)
    elif kind == "a file named like a command of the terminal":
        tree["files"]["\x1b[31m"] = "0" * 64
        seal(folder, tree)
    elif kind == "a file with a name too long":
        tree["files"]["x" * 5000] = "0" * 64
        seal(folder, tree)
    else:
        (folder / "model.onnx").unlink()
        (folder / "model.onnx").mkdir()
    return folder


FOREIGN = (
    *("another model", "a model of other classes", "no model but a picture", "a folder as a model"),
    *("a sample that is a bomb", "a card of a candidate"),
    *("a temperature near zero", "a file named like a command of the terminal"),
    "a file with a name too long",
)


def test_foreign_bundles_are_refused_with_one_line_each(good, tmp_path):
    folders = [foreign(good, tmp_path / kind.replace(" ", "-"), kind) for kind in FOREIGN]
    said, _ = examine([("bundle", folder) for folder in folders], good, tmp_path)
    assert not bad(said, megabytes=40)
    assert not [path for path, found in said.items() if found["said"] == "answered"]
    assert all(found["said"].isprintable() for found in said.values())


def test_the_command_says_why_a_bundle_does_not_open(good, tmp_path):
    folder = foreign(good, tmp_path / "b", "no model but a picture")
    done = command("predict", folder, folder / "sample.png")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("clinipress: expected a whole ONNX file")


# --- the checker itself


@pytest.mark.parametrize(
    ("reader", "sign"),
    [
        ("raise ValueError('surprise')", "raised"),
        ("raise SystemExit(0)", "raised"),
        ("import ctypes; ctypes.string_at(0)", "killed"),
        ("time.sleep(60)", "killed"),
        ("while True: pass", "killed"),
        ("x = bytearray(400 * 2**20); x[::4096] = b'1' * len(x[::4096])", "megabytes"),
        ("x = bytearray(2**40)", "raised"),
        ("image = bundle = lambda path: one_line('two\\nlines')", "raised"),
        ("warnings.warn('a line on the terminal')", "raised"),
    ],
)
def test_the_checker_notices_what_a_reader_must_not_do(good, tmp_path, reader, sign):
    (tmp_path / "good.png").write_bytes(good_files()["grey.png"])
    jobs = [("image", tmp_path / "good.png"), ("bundle", good)]
    # a busy machine must not take what is slow for what hangs
    found, _ = examine(jobs, good, tmp_path, seconds=1 if sign == "killed" else 20, reader=reader)
    assert set(bad(found)) == {str(path) for _, path in jobs}
    assert all(sign in one for one in bad(found).values())


def test_the_checker_goes_on_behind_a_crash(good, tmp_path):
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(good_files()["grey.png"])
    reader = "import ctypes\nif path.endswith('1.png'): ctypes.string_at(0)"
    found, _ = examine([("image", path) for path in paths], good, tmp_path, reader=reader)
    assert list(bad(found)) == [str(paths[1])]
    assert found[str(paths[2])]["said"] == "answered"
