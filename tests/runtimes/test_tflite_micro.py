from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from clinipress.errors import ModelError
from clinipress.formats.litert import graph as litert_graph
from clinipress.formats.litert.graph import GraphEditor, schema
from clinipress.formats.litert.run import LiteRtCandidate
from clinipress.formats.tflite_micro.run import TfliteMicroCandidate, arena_bytes
from clinipress.records.candidate import Candidate, InputSpec
from kit.litert_nets import SIZE, card_of, empty_model, finished, integers, linear, pixels

CARD = card_of(format="tflite-micro", precision="int8")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(integers())
    (tmp_path / "card.json").write_text(CARD.model_dump_json())
    return path


def header(file, digest=None):
    digest = digest or hashlib.sha256(file.read_bytes()).hexdigest()
    file.with_name("model_data.h").write_text(f"// sha256 {digest} of it\n")


def gelu():
    """Bytes of a file with an operator that microcontrollers do not have."""
    model = empty_model([1, SIZE, SIZE, 1], schema.TensorType.FLOAT32)
    editor = GraphEditor(model)
    output = editor.computed([1, SIZE, SIZE, 1])
    item = editor.operator("GELU", [0], output, schema.GeluOptionsT())
    model.subgraphs[0].operators.append(item)
    return finished(model, output)


@pytest.mark.parametrize("channels", [1, 3])
def test_answers_are_litert_s(tmp_path, channels):
    path, images = tmp_path / "model.tflite", pixels(30, channels)
    path.write_bytes(integers(channels))
    card = card_of(channels)
    found = TfliteMicroCandidate.load(path, card).predict(images)
    np.testing.assert_array_equal(found, LiteRtCandidate.load(path, card).predict(images))
    assert len(np.unique(found)) > 10


def test_it_is_a_candidate_with_the_card_beside_the_file(file):
    candidate = TfliteMicroCandidate.load(file)
    assert isinstance(candidate, Candidate)
    assert candidate.card == CARD
    assert candidate.runtime.startswith("tflite-micro ")


def runs_in(file, arena):
    code = (
        "import sys, numpy as np\n"
        "from tflite_micro import runtime\n"
        "engine = runtime.Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2]))\n"
        "engine.set_input(np.full((1, 8, 8, 1), 7, np.int8), 0)\n"
        "engine.invoke()\n"
        "print(engine.get_output(0).tolist())"
    )
    command = [sys.executable, "-c", code, str(file), str(arena)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.startswith("[[")


def test_the_arena_is_the_smallest_that_does(file):
    arena = arena_bytes(file)
    assert arena % 16 == 0
    assert runs_in(file, arena)
    assert not runs_in(file, arena - 16)


def test_a_larger_image_needs_a_larger_arena(file, tmp_path):
    wide = tmp_path / "wide.tflite"
    wide.write_bytes(integers(3))
    assert arena_bytes(wide) > arena_bytes(file)


def test_header_and_file_belong_together(file, tmp_path):
    alone = TfliteMicroCandidate.load(file)
    assert alone.files == (file,)
    header(file)
    both = TfliteMicroCandidate.load(file)
    assert both.files == (file, tmp_path / "model_data.h")
    assert both.digest != alone.digest
    assert both.file_bytes == alone.file_bytes == file.stat().st_size
    both.save(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["card.json", "model.tflite", "model_data.h"]
    header(file, digest="0" * 64)
    with pytest.raises(ModelError, match=r"not what 'model_data\.h' beside it was made of"):
        TfliteMicroCandidate.load(file)


def test_a_damaged_file_is_told_by_its_header(file):
    header(file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"a whole \.tflite file"):
        TfliteMicroCandidate.load(file)


@pytest.mark.parametrize("content", [b"", b"not a model at all" * 40, b"\x00\x01\x02\x03TFL3"])
def test_something_else_is_one_line(tmp_path, content, capfd):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"expected a whole \.tflite file") as caught:
        TfliteMicroCandidate.load(path, CARD)
    assert "\n" not in str(caught.value)
    assert tuple(capfd.readouterr()) == ("", "")


def test_no_file_there(tmp_path):
    with pytest.raises(ModelError, match=r"expected a \.tflite file, got nothing at"):
        TfliteMicroCandidate.load(tmp_path / "none.tflite")


def test_a_missing_operator_is_named(tmp_path, capfd):
    path = tmp_path / "model.tflite"
    path.write_bytes(gelu())
    with pytest.raises(ModelError, match="the operator GELU, which it has not"):
        arena_bytes(path)
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_float_file_is_refused(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(linear())
    with pytest.raises(ModelError, match=r"expected the input int8 \[1, 8, 8, 1\] .*'uint8'"):
        TfliteMicroCandidate.load(path, CARD)


def test_a_card_of_another_file_is_refused(file):
    other = CARD.model_copy(update={"input": InputSpec(height=16, width=SIZE)})
    with pytest.raises(ModelError, match="the card belongs to another file"):
        TfliteMicroCandidate.load(file, other)


def test_weights_lie_at_multiples_of_16_bytes(file):
    """A microcontroller reads them in place; some fault on odd addresses."""
    content = file.read_bytes()
    model = litert_graph.read(content)
    found = [b.data.tobytes() for b in model.buffers if b.data is not None and len(b.data) > 32]
    assert found
    assert all(content.index(data) % 16 == 0 for data in found)


def test_importing_and_predicting_needs_no_other_engine(file):
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "import clinipress.formats.tflite_micro.run as ours\n"
        "before = 'tflite_micro' in sys.modules\n"
        "candidate = ours.TfliteMicroCandidate.load(Path(sys.argv[1]))\n"
        "candidate.predict(np.zeros((1, 1, 8, 8), np.uint8))\n"
        "print(before, sorted({'torch', 'onnx', 'ai_edge_litert'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False []"
    assert done.stderr == ""
