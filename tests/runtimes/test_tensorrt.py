"""TensorRT engines: built, kept, opened and run by a stand-in for `tensorrt` and CUDA's bindings.

No real GPU has run this code yet. `fake_tensorrt` stands in for both libraries, refuses what they
refuse and computes through ONNX Runtime; the one test marked `gpu` runs where both are present.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from clinipress.edge.bundle import load_bundle
from clinipress.errors import ModelError
from clinipress.formats.make import apply_export, plan_export
from clinipress.formats.measure import latency, peak_memory
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.run import CARD_KEY, OnnxCandidate
from clinipress.formats.open import import_engine, open_file, place_of, timed_here
from clinipress.formats.parity import parity
from clinipress.formats.tensorrt import build_engine, cuda
from clinipress.formats.tensorrt import run as ours
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import Card, InputSpec
from clinipress.records.store import read_result
from clinipress.reporting.page.build import write_report
from clinipress.study.flow import run_study
from kit.pixels import noise
from kit.random_nets import candidate_of, pictures
from kit.studies import study

SIZE = 8
CARD = Card(
    name="linear",
    classes=("a", "b", "c"),
    input=InputSpec(height=SIZE, width=SIZE),
    format="tensorrt",
)
VERSIONS = ("8.6.1", "10.3.0", "11.4.0.106")
REAL = place_of("tensorrt")
BINDINGS = "cuda.bindings.runtime"


class Fake:
    """What the stand-in is asked to be; the processes started by a test see it too."""

    def __init__(self, monkeypatch, folder):
        self.monkeypatch, self.log = monkeypatch, folder / "builds.jsonl"
        self.settings = {"gpu": "Orin", "version": "10.3.0", "free": 10**9, "log": str(self.log)}

    def be(self, **changes):
        self.settings |= changes
        self.monkeypatch.setenv("FAKE_TENSORRT", json.dumps(self.settings))
        sys.modules.pop("tensorrt", None)
        forget()

    @property
    def builds(self):
        lines = self.log.read_text().splitlines() if self.log.is_file() else []
        return [json.loads(line) for line in lines]

    @property
    def cuda(self):
        return sys.modules["tensorrt"].CUDA

    def nothing_is_held(self):
        gc.collect()
        runtime = self.cuda
        return not (runtime.device or runtime.host or runtime.streams or runtime.current)


def forget():
    cuda.gpu.cache_clear()
    ours._runtime.cache_clear()


@pytest.fixture
def fake(monkeypatch, tmp_path):
    folder = Path(__file__).parent / "fake_tensorrt"
    monkeypatch.syspath_prepend(folder)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, BINDINGS, None)  # the stand-in replaces it; given back here
    found = Fake(monkeypatch, tmp_path)
    found.be()
    yield found
    sys.modules.pop("tensorrt", None)
    forget()


def linear(seed=0, classes=3, extra=()):
    """A linear classifier of the pixels, as files of this format take them."""
    weights = np.random.default_rng(seed).normal(size=(SIZE * SIZE, classes)).astype(np.float32)
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 1, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", classes])
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        *extra,
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    tensors = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.float32(1), "scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
    ]
    graph = helper.make_graph(nodes, "g", [image], [logits], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    item = model.metadata_props.add()
    item.key, item.value = CARD_KEY, CARD.model_dump_json()
    return model, weights


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run" / "model.onnx"
    path.parent.mkdir()
    onnx.save(linear()[0], path)
    return path


def pixels(count, seed=1):
    return noise(count, SIZE, seed=seed)


def kept(tmp_path):
    return sorted((tmp_path / "cache" / "clinipress" / "tensorrt").iterdir())


# ------------------------------------------------------------------ where there is none


def test_without_a_gpu_onnx_runtime_answers_and_time_is_not_measured(file, fake):
    fake.be(gpu="")
    assert place_of("tensorrt") == ""
    assert not timed_here("tensorrt")
    assert isinstance(open_file(file, CARD), OnnxCandidate)


@pytest.mark.parametrize("content", ["raise ImportError('libnvinfer.so.10')", "", "0"])
def test_a_package_that_does_not_import_is_none(file, tmp_path, monkeypatch, content):
    (tmp_path / "tensorrt.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(cuda, "gpu", functools.cache(lambda: pytest.fail("not asked for")))
    assert place_of("tensorrt") == ""
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)


def test_a_machine_without_the_bindings_of_cuda_has_none(fake, monkeypatch):
    __import__("tensorrt")
    monkeypatch.setitem(sys.modules, BINDINGS, None)
    assert place_of("tensorrt") == ""


def test_every_call_is_one_of_the_real_bindings(monkeypatch):
    """With a GPU they succeed; without one CUDA refuses each, and only CUDA: no wrong argument."""
    runtime = pytest.importorskip(BINDINGS, exc_type=ImportError)
    device = SimpleNamespace(name=b"none", major=0, minor=0)
    if int(runtime.cudaGetDeviceProperties(0)[0]):
        monkeypatch.setattr(runtime, "cudaGetDeviceProperties", lambda ordinal: (0, device))
        refused = pytest.raises(cuda.CudaError, match=r"^cuda[A-Za-z]+: [A-Za-z ]+$")
    else:
        refused = contextlib.nullcontext()
    gpu = cuda.Gpu()
    with contextlib.ExitStack() as held:
        for call in (
            lambda: gpu.current().__enter__(),
            lambda: gpu.memory(4, held),
            lambda: gpu.host_array((2, 3), held),
            lambda: gpu.stream(held),
        ):
            with refused:
                call()
        if isinstance(refused, contextlib.nullcontext):
            return
        for function, arguments in (
            ("cudaSetDevice", (0,)), ("cudaMemGetInfo", ()), ("cudaFree", (1,)),
            ("cudaFreeHost", (1,)), ("cudaStreamDestroy", (1,)), ("cudaStreamSynchronize", (1,)),
        ):  # fmt: skip
            with refused:
                gpu._call(function, *arguments)
        with refused:
            gpu.copy(1, 2, 4, 1)


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("batch", [1, 4])
def test_answers_are_those_of_the_file(file, fake, monkeypatch, version, batch):
    fake.be(version=version)
    monkeypatch.setattr(ours.TensorRtCandidate, "largest_batch", batch)
    found = open_file(file, CARD)
    assert type(found) is ours.TensorRtCandidate
    assert found.runtime == place_of("tensorrt") == f"tensorrt {version} on Orin"
    images = pixels(10)  # two whole batches of four and a part of one
    np.testing.assert_array_equal(found.predict(images), OnnxCandidate.load(file).predict(images))
    expected = images.reshape(10, -1) @ linear()[1].astype(np.float64)
    np.testing.assert_allclose(found.predict(images), expected, rtol=1e-5, atol=1e-2)
    assert found.predict(images[:0]).shape == (0, 3)
    (built,) = fake.builds
    assert built["batch"] == batch


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    parent = candidate_of("resnet10t", 32)
    return parent, export_onnx(parent, tmp_path_factory.mktemp("network") / "model.onnx").path


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_an_exported_network_answers_like_its_parent(network, tmp_path, fake, precision):
    parent, source = network
    recipe = ExportRecipe(format="tensorrt", precision=precision, calibration_method="percentile")
    images = pictures(8, parent.card.input)
    plan = plan_export(recipe, parent, source, images, threads=1, seed=0)
    target = tmp_path / "export" / "model.onnx"
    target.parent.mkdir()
    apply_export(recipe, parent, source, target, plan, parent.card)
    card = parent.card.model_copy(update={"format": "tensorrt", "precision": precision})
    opened = open_file(target, card)
    assert type(opened) is ours.TensorRtCandidate
    found = parity(parent, opened, images)
    assert found.max_logit_difference <= {"float32": 1e-3, "float16": 1e-2, "int8": 1.0}[precision]


def test_answers_of_one_call_are_not_changed_by_the_next(file, fake):
    found = open_file(file, CARD)
    first = found.predict(pixels(1))
    before = first.copy()
    found.predict(pixels(1, seed=2))
    np.testing.assert_array_equal(first, before)


def test_it_is_the_same_file_for_a_store_and_a_bundle(file, fake, tmp_path):
    found, plain = open_file(file, CARD), OnnxCandidate.load(file)
    assert (found.digest, found.file_bytes) == (plain.digest, plain.file_bytes)
    found.save(tmp_path / "copy")
    assert (tmp_path / "copy" / "model.onnx").read_bytes() == file.read_bytes()
    assert sorted(path.name for path in file.parent.iterdir()) == ["model.onnx"]


def test_a_card_inside_the_file_is_enough(file, fake):
    found = open_file(file)
    assert type(found) is ours.TensorRtCandidate
    assert found.card == CARD


def test_the_threads_own_device_comes_back(file, fake):
    place_of("tensorrt")
    fake.cuda.current = 1  # PyTorch's
    open_file(file, CARD).predict(pixels(2))
    assert fake.cuda.current == 1


# ------------------------------------------------------------------ the cache


def test_an_engine_is_built_once(file, fake, tmp_path):
    for _ in range(3):
        open_file(file, CARD).predict(pixels(1))
    assert len(fake.builds) == len(kept(tmp_path)) == 1


@pytest.mark.parametrize("change", [{"version": "10.4.0"}, {"gpu": "NVIDIA H100"}, {"batch": 2}])
def test_another_version_gpu_or_batch_has_an_engine_of_its_own(
    file, fake, tmp_path, monkeypatch, change
):
    open_file(file, CARD)
    if "batch" in change:
        monkeypatch.setattr(ours.TensorRtCandidate, "largest_batch", 2)
    else:
        fake.be(**change)
    images = pixels(2)
    expected = OnnxCandidate.load(file).predict(images)
    np.testing.assert_array_equal(open_file(file, CARD).predict(images), expected)
    assert len(fake.builds) == len(kept(tmp_path)) == 2


def test_another_file_or_another_builder_has_an_engine_of_its_own(
    file, fake, tmp_path, monkeypatch
):
    open_file(file, CARD)
    onnx.save(linear(seed=1)[0], file)
    open_file(file, CARD)
    changed = tmp_path / "build_engine.py"
    changed.write_text(Path(build_engine.__file__).read_text() + "\n")
    monkeypatch.setattr(build_engine, "__file__", str(changed))
    open_file(file, CARD)
    assert len(fake.builds) == len(kept(tmp_path)) == 3


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "foreign"])
def test_an_engine_that_is_not_as_it_was_written_is_built_again(file, fake, tmp_path, damage):
    open_file(file, CARD)
    (engine,) = kept(tmp_path)
    content = bytearray(engine.read_bytes())
    if damage == "changed":
        content[-1] ^= 1
    if damage == "foreign":  # whole, and of another GPU: TensorRT refuses it
        plan = content[32:].replace(b'"Orin"', b'"Nano"')
        content = bytearray(ours.hashlib.sha256(plan).digest() + plan)
    engine.write_bytes({"cut": content[:-100], "empty": b""}.get(damage, content))
    images = pixels(3)
    expected = OnnxCandidate.load(file).predict(images)
    np.testing.assert_array_equal(open_file(file, CARD).predict(images), expected)
    assert len(fake.builds) == 2
    open_file(file, CARD)
    assert len(fake.builds) == 2


def test_an_engine_that_came_with_the_file_is_never_opened(file, fake, tmp_path):
    open_file(file, CARD)
    (engine,) = kept(tmp_path)
    for name in ("model.engine", engine.name):
        shutil.copy(engine, file.parent / name)
    engine.unlink()
    open_file(file, CARD)
    assert len(fake.builds) == 2


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of files on this system")
def test_a_cache_that_others_can_write_into_is_refused(file, fake, tmp_path):
    open_file(file, CARD)
    folder = kept(tmp_path)[0].parent
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    with pytest.raises(ModelError, match=r"only you can write into, got '.*': remove it"):
        open_file(file, CARD)


# ------------------------------------------------------------------ memory


def test_everything_taken_is_given_back(file, fake):
    found = open_file(file, CARD)
    found.predict(pixels(3))
    assert len(fake.cuda.device) == len(fake.cuda.host) == 2
    assert len(fake.cuda.streams) == 1
    arrays = 4 * (SIZE * SIZE + 3)
    assert found.device_bytes == arrays + 1000 + 512 + len(found.path.read_bytes())
    del found
    assert fake.nothing_is_held()


def test_memory_is_measured_in_a_process_of_its_own(file, fake):
    mine = open_file(file, CARD).device_bytes
    assert peak_memory(file, card=CARD) >= mine
    assert len(fake.builds) == 1
    import_engine("tensorrt")


def test_time_is_taken_of_the_engine_beside_others(file, fake):
    found = {"engine": open_file(file, CARD), "file": OnnxCandidate.load(file, threads=1)}
    timed = latency(found, pixels(1), threads=1, repeats=8)
    assert timed["engine"].runtime == "tensorrt 10.3.0 on Orin"
    assert timed["file"].runtime.startswith("onnxruntime ")


# ------------------------------------------------------------------ what goes wrong, in one line

BUILDING = {
    "parse": r"'model.onnx' to run on Orin, got In node 0 \(parseNode\): UNSUPPORTED_NODE: No imp",
    "none": r"got 10: Could not find any implementation for node conv1",
    "memory": r"enough memory for 'model.onnx' on Orin, got 1000 MB free \(2: .*OutOfMemory",
    "killed": r"enough memory .*ended by signal 9, as when the system is out of memory",
    "gpu": r"got TensorRT finds no GPU that it takes",
    "open": r"got 6: The engine plan file is not compatible",
    "context": r"enough memory .*Cuda Runtime \(out of memory\)\): close what else uses the GPU",
}


@pytest.mark.parametrize("fail", BUILDING)
def test_what_fails_is_one_line_and_holds_nothing(file, fake, tmp_path, fail):
    fake.be(fail=fail)
    with pytest.raises(ModelError, match=BUILDING[fail]) as caught:
        open_file(file, CARD)
    assert "\n" not in str(caught.value)
    assert "CUDA_VISIBLE_DEVICES=" in str(caught.value)
    assert "signal" in str(caught.value) or fail != "killed"
    assert fake.nothing_is_held()
    assert [p for p in kept(tmp_path) if p.suffix != ".engine"] == []
    fake.be(fail=None)  # and is mended by trying again
    assert open_file(file, CARD).predict(pixels(2)).shape == (2, 3)


def test_a_gpu_without_room_for_the_images_is_one_line(file, fake):
    open_file(file, CARD)
    fake.be(free=260)  # the pixels take 256 bytes, the logits 12
    with pytest.raises(ModelError, match=r"enough memory for 'model.onnx'.*out of memory\)"):
        open_file(file, CARD)
    assert fake.nothing_is_held()


def test_an_engine_that_stops_answering_is_one_line(file, fake):
    found = open_file(file, CARD)
    settings = json.dumps(fake.settings | {"fail": "answer"})
    fake.monkeypatch.setenv("FAKE_TENSORRT", settings)
    with pytest.raises(ModelError, match=r"got 1: \[reformat.cpp\] Cuda Runtime \(misaligned\)"):
        found.predict(pixels(1))


def test_a_builder_that_never_ends_is_one_line(file, fake, monkeypatch):
    monkeypatch.setattr(ours, "BUILD_SECONDS", 0.01)
    with pytest.raises(ModelError, match="no engine built within"):
        open_file(file, CARD)


def test_a_file_that_is_none_or_not_its_cards_is_refused_before_building(file, fake, tmp_path):
    with pytest.raises(ModelError, match="nothing at"):
        open_file(tmp_path / "absent.onnx", CARD)
    other = CARD.model_copy(update={"classes": ("a", "b")})
    with pytest.raises(ModelError, match="belongs to another file"):
        open_file(file, other)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match="a whole ONNX file"):
        open_file(file, CARD)
    assert fake.builds == []


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0"])
def test_an_engine_that_is_not_the_cards_is_refused(file, fake, version):
    fake.be(version=version)
    open_file(file, CARD)
    with pytest.raises(ModelError, match=r"as its card says, got .*'logits': \(3,\)"):
        open_file(file, CARD.model_copy(update={"classes": ("a", "b")}))


# ------------------------------------------------------------------ how it is built


def cast(kind):
    return [
        helper.make_node("Cast", ["flat"], ["cast"], to=kind),
        helper.make_node("Cast", ["cast"], ["back"], to=onnx.TensorProto.FLOAT),
    ]


GRID = [
    helper.make_node("QuantizeLinear", ["flat", "scale", "zero"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["back"]),
]
HALVES = cast(onnx.TensorProto.FLOAT16)


@pytest.mark.parametrize(
    ("version", "extra", "flags"),
    [
        *(("8.2.1.8", extra, flags) for extra, flags in (([], []), (GRID, ["INT8"]))),
        ("8.2.1.8", HALVES, ["FP16"]),
        ("8.6.1", HALVES, ["FP16"]),
        *(("10.3.0", extra, []) for extra in ([], GRID, HALVES)),  # the file's own types decide
    ],
)
def test_precision_is_what_the_file_holds(tmp_path, fake, version, extra, flags):
    fake.be(version=version)
    path = tmp_path / "model.onnx"
    onnx.save(linear(extra=extra)[0], path)
    build_engine.build(path, tmp_path / "model.engine", workspace=64, batch=2)
    (built,) = fake.builds
    assert built["flags"] == flags  # TF32, which TensorRT sets by itself, among none of them
    assert built["typed"] == (version[0] == "1")
    assert (built["workspace"], built["batch"]) == (64 << 20, 2)


def test_the_script_needs_no_later_python_than_a_jetson_nano_has():
    tree = ast.parse(Path(build_engine.__file__).read_text(), feature_version=(3, 6))
    future = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module[0] == "_"]
    assert future == []  # "annotations" came with 3.7
    hints = [a.annotation for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)
             for a in n.args.args + n.args.kwonlyargs]  # fmt: skip
    assert not [hint for hint in hints if isinstance(hint, ast.Subscript)]  # list[str]: 3.9


# ------------------------------------------------------------------ a whole study


def made(run):
    """How many finished pieces of each kind a run folder holds."""
    return Counter(path.name.split("-")[0] for path in (run / "objects").iterdir())


def test_a_study_measures_the_engine_where_there_is_one_and_says_so(phantoms, fake, tmp_path):
    exports = [{"format": "tensorrt", "precision": "float16"}]
    recipe = study(steps=[], exports=exports, target=["jetson-orin"])
    fake.be(gpu="")
    run = tmp_path / "study"
    (row,) = (c for c in run_study(recipe, phantoms, run).candidates if c.format == "tensorrt")
    assert (row.latency_ms, row.peak_memory_bytes) == (None, None)
    assert fake.builds == []
    fake.be(gpu="Orin")  # the same run goes on where there is a GPU: nothing of before is kept
    before = made(run)
    result = run_study(recipe, phantoms, run)
    assert made(run) - before == {"export": 1, "scores": 1, "test": 1, "latency": 1}
    (row,) = (c for c in result.candidates if c.format == "tensorrt")
    assert row.latency_ms.runtime == "tensorrt 10.3.0 on Orin"
    assert row.peak_memory_bytes > row.file_bytes
    assert row.parity.label_flips == 0
    assert len(fake.builds) == 1
    text = write_report(read_result(run), tmp_path / "report").read_text()
    assert "tensorrt 10.3.0 on Orin" in text
    assert "engine built of it was not measured" not in text
    bundle = load_bundle(run / result.targets[0].bundle)
    assert bundle.candidate.runtime == "tensorrt 10.3.0 on Orin"
    assert len(fake.builds) == 1  # the bundle holds the very file


# ------------------------------------------------------------------ the real one


@pytest.mark.gpu
@pytest.mark.skipif(not REAL, reason="no GPU here with NVIDIA's tensorrt: nothing was measured")
def test_on_a_real_gpu_answers_are_those_of_onnx_runtime(file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = open_file(file, CARD)
    assert found.runtime == REAL
    images = pixels(5)
    expected = OnnxCandidate.load(file).predict(images)
    np.testing.assert_allclose(found.predict(images), expected, rtol=1e-4, atol=0.1)
    (engine,) = kept(tmp_path)
    written = engine.stat().st_mtime_ns
    np.testing.assert_allclose(open_file(file, CARD).predict(images), expected, rtol=1e-4, atol=0.1)
    assert engine.stat().st_mtime_ns == written
    assert peak_memory(file, card=CARD) >= found.device_bytes > 0
