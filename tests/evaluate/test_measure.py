from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from scipy import stats

from clinipress.errors import ModelError
from clinipress.formats import measure
from clinipress.records.candidate import Card, InputSpec

IMAGES = np.zeros((3, 1, 8, 8), np.uint8)


class Clock:
    """Time that passes only where a call says so: a busy machine makes no test fail."""

    def __init__(self):
        self.now = 0.0

    def sleep(self, seconds):
        self.now += seconds

    def perf_counter(self):
        return self.now

    def perf_counter_ns(self):
        return round(1e9 * self.now)

    process_time_ns = perf_counter_ns


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    return clock


def write_file(path, hidden):
    """Two layers of `hidden` units: 4 x 64 x hidden bytes of weights in the first."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.normal(size=(64, hidden)).astype(np.float32), "w1"),
        numpy_helper.from_array(random.normal(size=(hidden, 2)).astype(np.float32), "w2"),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w1"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 2])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    card = Card(name="net", classes=("a", "b"), input=InputSpec(height=8, width=8))
    helper.set_model_props(model, {"clinipress.card": card.model_dump_json()})
    onnx.save(model, path)
    return path


def test_median_and_p95_are_those_of_the_clock(monkeypatch):
    # a clock that gives 1, 2, ... 20 ms for the counted calls
    ticks = iter(np.repeat(np.cumsum(np.arange(1, 21)), 2).tolist())
    now = iter([0, *(tick * 1_000_000 for tick in ticks)])
    monkeypatch.setattr(measure.time, "perf_counter_ns", lambda: next(now))
    found = measure.latency({"a": lambda _: None}, IMAGES, threads=2, repeats=20, warmup=0)["a"]
    assert found.median == pytest.approx(10.5)
    assert found.p95 == pytest.approx(np.percentile(np.arange(1, 21), 95))
    assert (found.repeats, found.threads, found.batch) == (20, 2, 1)


def test_calls_are_interleaved_and_take_turns_to_be_first():
    order = []
    calls = {name: (lambda _, name=name: order.append(name)) for name in "abc"}
    measure.latency(calls, IMAGES, threads=1, repeats=3 * measure.TURN, warmup=0)
    turn = 1 + measure.TURN
    assert "".join(order) == "".join(name * turn for name in "abcbcacab")


def test_the_first_call_of_a_turn_is_not_counted(clock):
    """A candidate whose weights its neighbour has driven out of the caches."""
    last = []

    def call(name):
        clock.sleep(0.0 if last and last[-1] == name else 0.01)
        last.append(name)

    calls = {name: (lambda _, name=name: call(name)) for name in "ab"}
    found = measure.latency(calls, IMAGES, threads=1, repeats=12, warmup=0)
    assert found["a"].repeats == found["b"].repeats == 12
    assert max(found["a"].p95, found["b"].p95) < 1


def test_warm_up_is_not_measured():
    calls = []
    found = measure.latency({"a": calls.append}, IMAGES, threads=1, repeats=3, warmup=3)
    assert len(calls) == 3 + 1 + 3
    assert found["a"].repeats == 3


def test_the_slower_one_is_found_slower(clock):
    calls = {"slow": lambda _: clock.sleep(0.004), "fast": lambda _: clock.sleep(0.001)}
    found = measure.latency(calls, IMAGES, threads=1, repeats=5)
    assert found["slow"].median == pytest.approx(4)
    assert found["fast"].median == pytest.approx(1)
    assert found["slow"].p95 >= found["slow"].median


def test_time_ends_a_measurement_but_not_before_three_turns(clock):
    calls = {"a": lambda _: clock.sleep(0.005)}
    found = measure.latency(calls, IMAGES, threads=1, repeats=1000, seconds=0.0, warmup=0)
    assert found["a"].repeats == 3 * measure.TURN


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_call_gets_exactly_the_batch(batch):
    shapes = set()
    calls = {"a": lambda images: shapes.add(images.shape)}
    assert measure.latency(calls, IMAGES, threads=1, batch=batch, repeats=2)["a"].batch == batch
    assert shapes == {(batch, 1, 8, 8)}


def test_each_candidate_may_have_its_own_images():
    shapes = {}
    calls = {
        name: (lambda images, name=name: shapes.setdefault(name, images.shape)) for name in "ab"
    }
    own = {"a": IMAGES, "b": np.zeros((1, 3, 16, 16), np.uint8)}
    measure.latency(calls, own, threads=1, repeats=1)
    assert shapes == {"a": (1, 1, 8, 8), "b": (1, 3, 16, 16)}


def test_preprocessing_is_inside_the_time(clock):
    def decode():
        clock.sleep(0.003)
        return IMAGES[:1]

    found = measure.latency({"a": lambda _: None}, threads=1, repeats=3, preprocess=decode)["a"]
    assert found.preprocessing
    assert found.median >= 3
    plain = measure.latency({"a": lambda _: None}, IMAGES, threads=1, repeats=3)["a"]
    assert not plain.preprocessing
    assert plain.median < 3


def test_the_runtime_is_named(tmp_path):
    from clinipress.formats.onnx.run import OnnxCandidate, runtime_name

    candidate = OnnxCandidate.load(write_file(tmp_path / "net.onnx", 4), threads=1)
    found = measure.latency({"net": candidate}, IMAGES, threads=1, repeats=2)["net"]
    assert found.runtime == runtime_name()
    assert found.median > 0


@pytest.mark.parametrize(
    ("candidates", "images", "repeats"),
    [({}, IMAGES, 1), ({"a": print}, None, 1), ({"a": print}, IMAGES, 0)],
)
def test_a_measurement_of_nothing_is_refused(candidates, images, repeats):
    with pytest.raises(ValueError, match="are needed"):
        measure.latency(candidates, images, threads=1, repeats=repeats)


def test_peak_memory_grows_by_at_least_the_weights(tmp_path):
    small = measure.peak_memory(write_file(tmp_path / "small.onnx", 16))
    hidden = 2**18  # 64 MB of weights
    large = measure.peak_memory(write_file(tmp_path / "large.onnx", hidden))
    weights = 4 * 64 * hidden
    assert 0 < small < 40e6
    # loading may hold a second and a third copy for a moment, never ten
    assert weights * 0.95 < large - small < weights * 4


def test_peak_memory_of_a_bad_file_is_the_runtimes_own_line(tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="expected a whole ONNX file") as caught:
        measure.peak_memory(path)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_environment_names_machine_and_versions_and_no_host():
    import platform

    found = measure.environment()
    assert found.cores >= 1
    assert found.memory_bytes > 2**28
    assert found.cpu
    assert found.packages["numpy"] == np.__version__
    assert found.packages["onnxruntime"]
    assert set(found.cpu_flags) <= measure.FLAGS
    host = platform.node()
    assert not host or host not in found.model_dump_json()


def test_processor_is_read_from_what_x86_and_arm_write(monkeypatch):
    texts = {
        "x86": "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512_vnni\n",
        "arm": "processor\t: 0\nFeatures\t: fp asimd asimddp\n\nModel\t\t: Small Board 5\n",
    }
    for kind, expected in {
        "x86": ("Some CPU @ 2 GHz", {"fpu", "avx2", "avx512_vnni"}),
        "arm": ("Small Board 5", {"fp", "asimd", "asimddp"}),
    }.items():
        monkeypatch.setattr(measure.Path, "read_text", lambda *_, kind=kind, **__: texts[kind])
        assert measure._processor() == expected


def test_measuring_needs_no_torch():
    code = (
        "import sys, clinipress.formats.measure as m\n"
        "m.environment()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def timing(wall, processor=None, runtime="x"):
    """Turns of one call each."""
    own = wall if processor is None else processor
    facts = {"batch": 1, "threads": 1, "runtime": runtime, "preprocessing": False}
    return measure.Timing(tuple((x,) for x in wall), tuple((x,) for x in own), facts)


def test_a10_ratio_is_that_of_turns_side_by_side():
    """The machine slows down by half in the middle: both are slower, the ratio is not."""
    random = np.random.default_rng(0)
    slowed = np.where(np.arange(40) < 20, 1.0, 1.5)
    theirs, mine = 8.0 * slowed, 2.0 * slowed * random.uniform(0.99, 1.01, 40)
    found = measure.speed(timing(theirs), timing(mine, processor=mine / 2))
    assert found.ratio.value == pytest.approx(np.median(theirs / mine))
    assert 3.95 < found.ratio.low < found.ratio.value < found.ratio.high < 4.05
    assert found.processor.value == pytest.approx(2 * found.ratio.value, rel=1e-9)
    assert (found.reliable, found.why, found.ratio.n) == (True, "", 40)


@pytest.mark.parametrize("turns", [6, 9, 25, 60])
def test_a10_interval_of_the_ratio_is_the_sign_tests(turns):
    ratios = np.random.default_rng(turns).lognormal(1, 0.4, turns)
    found = measure.speed(timing(ratios), timing(np.ones(turns))).ratio
    # the medians that the exact sign test does not reject, by scipy
    inside = [
        middle
        for middle in (np.sort(ratios)[:-1] + np.sort(ratios)[1:]) / 2
        if stats.binomtest(int((ratios > middle).sum()), turns).pvalue > 0.05
    ]
    assert found.low < min(inside)
    assert found.high > max(inside)
    assert sum(found.low < ratio < min(inside) for ratio in ratios) == 0
    assert sum(max(inside) < ratio < found.high for ratio in ratios) == 0
    assert found.confidence == 0.95


def test_a10_few_turns_say_how_sure_they_are():
    found = measure.speed(timing([3.0, 4.0, 5.0]), timing([1.0, 1.0, 1.0])).ratio
    assert (found.low, found.value, found.high) == (3, 4, 5)
    assert found.confidence == pytest.approx(0.75)
    assert measure.speed(timing([3.0]), timing([1.0])).ratio.confidence == 0
    assert measure.speed(timing([3.0]), timing([1.0], processor=[0.0])).processor is None


def test_a10_a_busy_machine_is_noticed():
    steady = timing([1.0] * 40)
    assert measure.busy({"a": steady}, 0.5) == measure.busy({"a": steady}, None) == ""
    assert "2.5 other threads wanted each core" in measure.busy({"a": steady}, 2.5)
    spiky = timing([1.0] * 36 + [3.0] * 4)
    assert "95th percentile of 'b' is 3.0 times its median" in measure.busy({"b": spiky}, 0.0)
    waiting = timing([1.0] * 40, processor=[0.6] * 40)
    assert "'c' had a processor for 60% of its time" in measure.busy({"c": waiting}, 0.0)
    on_gpu = timing([1.0] * 40, processor=[0.1] * 40, runtime="tensorrt 10.1")
    assert measure.busy({"d": on_gpu}, 0.0) == ""
    found = measure.speed(steady, spiky, measure.busy({"a": steady, "b": spiky}, 0.0))
    assert not found.reliable
    assert found.why.startswith("The machine was too busy to compare times: the 95th percentile")


def test_a10_processor_time_stands_beside_the_clocks(monkeypatch):
    now, own = iter(range(0, 10**9, 5_000_000)), iter(range(0, 10**9, 2_000_000))
    monkeypatch.setattr(measure.time, "perf_counter_ns", lambda: next(now))
    monkeypatch.setattr(measure.time, "process_time_ns", lambda: next(own))
    found = measure.latency({"a": lambda _: None}, IMAGES, threads=1, repeats=8, warmup=0)["a"]
    assert (found.median, found.processor) == (5, 2)


def test_a10_load_counts_the_other_threads(monkeypatch, tmp_path):
    running = iter(["1", "5", "9", "9", "1"])
    monkeypatch.setattr(measure.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(measure.time, "sleep", lambda _: None)
    monkeypatch.setattr(measure.Path, "is_file", lambda _: True)
    monkeypatch.setattr(
        measure.Path, "read_text", lambda _: f"0.1 0.2 0.3 {next(running)}/200 4711"
    )
    assert measure.load() == 2  # the middle of 0, 4, 8, 8, 0 on two cores
    monkeypatch.setattr(measure.Path, "is_file", lambda _: False)
    monkeypatch.setattr(measure.os, "getloadavg", lambda: (3.0, 2.0, 1.0))
    assert measure.load() == 1.5
