"""What is shipped, what is tried next, and what may never be shipped, on records made by hand."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import Applied, Judged, Latency, Speed
from clinipress.records.result import Interval, Verdict
from clinipress.study import choice as rules
from clinipress.study.devices import resolve_targets
from clinipress.study.making import make_attempt
from kit.verdicts import spoken, verdict_of

INT8 = (ExportRecipe(precision="int8", calibration_images=7, equalize=True),)


@dataclass
class Board:
    """The candidates of a study, its risk and its devices."""

    risk: str
    targets: tuple
    rows: list = field(default_factory=list)


def board(risk="medium", target=None):
    card = Board(risk, resolve_targets(target))
    add(card, "reference", of="reference")
    return card


def latency(ms):
    return Latency(median=ms, p95=ms, batch=1, threads=1, runtime="x", repeats=9) if ms else None


def add(
    card, name, of="export", torch=None, steps=(), status="pass", ms=1.0, size=10**6,
    kind="onnx", verdict=None, **facts,
):  # fmt: skip
    """A record; `torch`: that of the network it is a file of."""
    history = [Applied(step=step, params={}) for step in steps]
    history.append(Applied(step="export", params={}, facts=facts))
    parent = torch.name if torch else card.rows[0].name if card.rows else None
    record = Judged(
        name=name,
        origin=of,
        parent=parent,
        history=tuple(history),
        format=kind,
        precision=name.rpartition("-")[2] if of == "export" else "float32",
        path=f"{name}.onnx",
        digest="0" * 64,
        file_bytes=size,
        parameters=1,
        macs=1,
        latency_ms=latency(ms),
        latency_with_preprocessing_ms=latency(ms),
        peak_memory_bytes=10**8 if ms else None,
        evidence={},
        verdict=verdict or verdict_of(status, "It fell."),
    )
    card.rows.append(record)
    return record


def next_attempt(card, exports, refused=()):
    return rules.next_attempt(card.rows, card.risk, card.targets, exports, refused)


def blocked(card, record):
    return rules.objection_to(record, card.rows, card.risk, card.targets)


def choose(card):
    return rules.choose(card.rows, card.risk, card.targets)


@pytest.mark.parametrize(
    ("risk", "steps"), [("high", ["prune"]), ("critical", ["distill", "prune"])]
)
def test_r1_nothing_is_tried_of_a_network_that_the_policy_bars(risk, steps):
    card = board(risk)
    network = add(card, "pruned", of="step", steps=steps)
    add(card, "pruned-onnx-int8", torch=network, steps=steps)
    assert next_attempt(card, INT8) is None
    allowed = board(risk)
    network = add(allowed, "trained", of="step", steps=["train"])
    add(allowed, "trained-onnx-int8", torch=network, steps=["train"])
    assert next_attempt(allowed, INT8).rung == "quantization-aware training"


def test_nothing_is_tried_when_a_low_precision_file_will_do():
    card = board()
    add(card, "x-float16", torch=card.rows[0], status="fail")
    assert next_attempt(card, INT8) is None  # no low precision was asked for
    add(card, "x-int8", torch=card.rows[0], status="inconclusive")
    assert next_attempt(card, INT8) is None


def test_the_ladder_is_climbed_one_rung_at_a_time():
    card = board()
    whole = card.rows[0]
    add(card, "x-int8", torch=whole, status="fail")
    first = next_attempt(card, INT8)
    assert (first.train, first.export.precision, first.of) == (False, "mixed", whole.name)
    assert first.export.calibration_images == 7  # the study's own
    assert first.export.equalize
    assert first.because == ("'x-int8' may not be shipped: Failed its gate on validation. It fell.")

    beyond = next_attempt(card, INT8, [first.file])  # which could not be made
    assert beyond.train
    assert next_attempt(card, INT8, [first.file, beyond.file]).export.precision == "float16"

    add(card, "x-mixed", torch=whole, status="fail")
    second = next_attempt(card, INT8)
    assert (second.train, second.export.precision, second.of) == (True, "int8", whole.name)
    assert not second.export.equalize  # learnt ranges fit the weights as they were trained

    aware = add(card, "aware", of="step", steps=("qat",))
    add(card, "aware-int8", torch=aware, steps=("qat",), status="fail")
    third = next_attempt(card, INT8)
    assert (third.train, third.export.precision, third.of) == (False, "mixed", aware.name)

    add(card, "aware-mixed", torch=aware, steps=("qat",), status="fail")
    fourth = next_attempt(card, INT8)
    assert (fourth.train, fourth.export.precision) == (False, "float16")
    add(card, "aware-float16", torch=aware, steps=("qat",), status="fail")
    assert next_attempt(card, INT8) is None


def test_a_rung_that_will_do_ends_the_climb():
    card = board()
    add(card, "x-int8", torch=card.rows[0], status="fail")
    add(card, "x-mixed", torch=card.rows[0])
    assert next_attempt(card, INT8) is None


def test_at_critical_risk_training_comes_at_once():
    card = board("critical")
    add(card, "x-int8", torch=card.rows[0])
    attempt = next_attempt(card, INT8)
    assert attempt.train
    assert "At critical risk quantization after training is not allowed" in attempt.because


def test_a_network_that_fails_in_float_is_not_mended_by_precision():
    card = board()
    small = add(card, "small", of="step", status="fail")
    add(card, "small-int8", torch=small, status="fail")
    assert next_attempt(card, INT8) is None


class Bench:
    """Makes pieces that are only a name and a parent."""

    progress = SimpleNamespace(say=lambda _: None)

    def step(self, name, step, parent, reference):
        return SimpleNamespace(), f"objects/{name}"

    def piece(self, name, network, recipe, *, parent, **facts):
        record = SimpleNamespace(network=None)
        return SimpleNamespace(name=name, parent=parent, network=network, record=record)


def test_what_an_attempt_makes_remembers_its_parent():
    card = board()
    small = add(card, "small", of="step", torch=card.rows[0])
    add(card, "small-onnx-float16", torch=small)
    add(card, "small-onnx-int8", torch=small, status="fail")
    of = SimpleNamespace(name="small", network=None, record=small)
    pieces = list(make_attempt(next_attempt(card, INT8), of, None, Bench()))
    add(card, "small-onnx-mixed", torch=small, status="fail")
    pieces += make_attempt(next_attempt(card, INT8), of, None, Bench())
    assert [(piece.name, piece.parent) for piece in pieces] == [
        ("small-onnx-mixed", "small"),
        ("small-quantization-aware", "small"),
        ("small-quantization-aware-onnx-int8", "small-quantization-aware"),
    ]


@pytest.mark.parametrize(("ms", "why"), [(1.04, None), (1.06, "1.06 against 1.00 ms")])
def test_quantized_yet_slower_is_blocked(ms, why):
    card = board()
    row = add(card, "x-int8", torch=card.rows[0], ms=ms)
    found = blocked(card, row)
    assert (found is None) == (why is None)
    assert why is None or why in found


def test_weights_in_4_bits_promise_bytes_and_may_be_slower():
    card = board("low")
    assert blocked(card, add(card, "x-int4-weights", torch=card.rows[0], ms=2.0)) is None


def test_a_failed_file_is_blocked_with_what_made_it_fail():
    card = board()
    reasons = (spoken("Accuracy held.", "pass"), spoken("A class fell.", "fail"))
    verdict = Verdict(status="fail", reasons=reasons)
    row = add(card, "x-int8", torch=card.rows[0], verdict=verdict)
    assert blocked(card, row) == "Failed its gate on validation. A class fell."


def test_quantized_by_name_only_is_blocked():
    card = board()
    said = "0 of 53 convolutions quantized"
    row = add(card, "x-int8", torch=card.rows[0], warning=said)
    assert blocked(card, row) == f"Named int8, but {said}."


def test_a_file_that_does_not_fit_the_device_is_blocked():
    card = board(target="jetson-nano")
    row = add(card, "x-int8", torch=card.rows[0])
    assert blocked(card, row).startswith("NVIDIA Jetson Nano 4 GB takes tensorrt files, not onnx")
    card.targets = resolve_targets("cpu-x86")
    assert blocked(card, row) is None
    card.targets = resolve_targets(("jetson-nano", "cpu-x86"))
    assert blocked(card, row) is None  # it fits one of them


# ------------------------------------------------------------------ the choice


def chosen(card):
    choice = choose(card)
    return {one.name: one.shipped for one in choice.outcomes} or choice.shipped


def test_without_a_device_the_largest_gain_in_size_times_speed_wins():
    card = board()
    card.rows[0] = card.rows[0].model_copy(update={"file_bytes": 10**8})
    add(card, "a-int8", torch=card.rows[0], ms=0.5, size=10**6)
    add(card, "b-int8", torch=card.rows[0], ms=0.4, size=2 * 10**6)
    assert chosen(card) == "a-int8"
    assert "gains more" in choose(card).rejected["b-int8"]


def test_for_a_device_the_fastest_wins_and_among_equals_the_smallest():
    card = board(target="cpu-x86")
    add(card, "slow-int8", torch=card.rows[0], ms=0.9, size=1000)
    add(card, "large-int8", torch=card.rows[0], ms=0.50, size=3000)
    add(card, "small-int8", torch=card.rows[0], ms=0.51, size=2000, kind="openvino")
    assert chosen(card) == {"cpu-x86": "small-int8"}
    said = choose(card).rejected
    assert said["slow-int8"] == "'small-int8' is faster: 0.51 against 0.90 ms."
    assert said["large-int8"] == "'small-int8' is as fast and smaller."
    assert "small-int8" not in said


def test_a_pass_is_shipped_before_what_is_faster_and_inconclusive():
    card = board(target="cpu-x86")
    add(card, "sure-int8", torch=card.rows[0], ms=0.9)
    add(card, "fast-int8", torch=card.rows[0], ms=0.1, status="inconclusive")
    assert chosen(card) == {"cpu-x86": "sure-int8"}


def test_each_device_gets_its_own_file():
    card = board(target=("cpu-x86", "jetson-nano", "cortex-m7"))
    add(card, "x-int8", torch=card.rows[0], ms=0.5)
    add(card, "x-float32", torch=card.rows[0], ms=None, kind="tensorrt")
    add(card, "x-float16", torch=card.rows[0], ms=None, kind="tensorrt")
    assert chosen(card) == {"cpu-x86": "x-int8", "jetson-nano": "x-float16", "cortex-m7": None}
    nano = choose(card).outcomes[1]
    assert nano.unknown == ("memory: not measured", "time: not measured")
    assert choose(card).rejected["x-float32"].startswith("'x-float16' is the better kind of file")
    assert choose(card).finalists == ("reference", "x-int8", "x-float32", "x-float16")


def test_nothing_able_opens_nothing():
    card = board(target="cpu-x86")
    add(card, "x-int8", torch=card.rows[0], status="fail")
    choice = choose(card)
    assert (choice.shipped, choice.finalists) == (None, ())
    assert choice.outcomes[0].shipped is None
    assert "Failed its gate" in choice.rejected["x-int8"]


def busy(record, ratio=2.0):
    """Timed beside the reference on a machine that did other work."""
    ends = Interval(value=ratio, low=ratio / 2, high=2 * ratio)
    return record.model_copy(update={"speed": Speed(ratio=ends, reliable=False, why="Busy.")})


def test_a10_nothing_is_chosen_by_times_of_a_busy_machine():
    card = board()
    whole = card.rows[0]
    fast = add(card, "fast-float16", torch=whole, ms=0.01, size=5 * 10**5)
    small = add(card, "small-float16", torch=whole, ms=0.9, size=10**5)
    assert choose(card).shipped == fast.name
    card.rows[1:] = [busy(fast), busy(small)]
    choice = choose(card)
    assert choice.shipped == small.name
    assert choice.rejected[fast.name] == (
        "'small-float16' comes first by its size and precision; times were not compared, since "
        "this machine was too busy when they were measured."
    )
    card.rows[1:] = [fast, busy(small)]  # one is enough: they were timed in turn
    assert choose(card).shipped == small.name


def test_a10_a_busy_machine_speaks_against_no_precision():
    card = board()
    slow = add(card, "x-int8", torch=card.rows[0], ms=3.0)
    assert blocked(card, slow).startswith("Slower than 'reference' in float32")
    card.rows[-1] = busy(slow)
    assert blocked(card, card.rows[-1]) is None


def test_a10_on_a_busy_machine_a_device_gets_the_smaller_file():
    card = board(target="raspberry-pi-5")
    whole = card.rows[0]
    fast = add(card, "fast-int8", torch=whole, ms=0.1, size=5 * 10**5)
    small = add(card, "small-int8", torch=whole, ms=0.9, size=10**5)
    assert choose(card).shipped == fast.name
    card.rows[1:] = [busy(fast), busy(small)]
    assert choose(card).shipped == small.name
