"""What is tried next, rung by rung, and what may never be shipped, on rows made by hand."""

from types import SimpleNamespace

import pytest

from clinipress.evidence.gate import rules_for
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import (
    Applied,
    Card,
    InputSpec,
)
from clinipress.records.result import (
    Verdict,
)
from clinipress.study.attempts import next_attempt
from clinipress.study.choice import blocked, choose
from clinipress.study.devices import resolve_targets
from clinipress.study.flow import try_one
from clinipress.study.scorecard import Row, Scorecard
from kit.verdicts import spoken, verdict_of

SPEC = InputSpec(channels=1, height=8, width=8)
INT8 = (ExportRecipe(precision="int8", calibration_images=7, equalize=True),)


def board(risk="medium", target=None):
    study = SimpleNamespace(risk=risk, target=target)
    card = Scorecard(SimpleNamespace(study=study), rules_for(risk), resolve_targets(target))
    add(card, "reference", of="reference")
    return card


def add(
    card, name, of="export", torch=None, steps=(), status="pass", ms=1.0, size=10**6,
    kind="onnx", **facts,
):  # fmt: skip
    """A row; `torch`: the row whose network it is a file of."""
    precision = name.rpartition("-")[2] if of == "export" else "float32"
    history = [Applied(step=step, params={}) for step in steps]
    history.append(Applied(step="export", params={}, facts=facts))
    file = SimpleNamespace(
        card=Card(
            name=name, classes=("a", "b"), input=SPEC, precision=precision, format=kind,
            history=tuple(history),
        )
    )  # fmt: skip
    parent = torch.name if torch else card.rows[0].name if card.rows else None
    row = Row(name, file, torch.torch if torch else object(), of, parent)
    row.verdicts["validation"] = verdict_of(status, "It fell.")
    timed = {"median": ms} if ms else None
    row.cost = {"latency": timed, "with_preprocessing": timed, "file_bytes": size}
    row.cost["peak_memory"] = 10**8 if ms else None
    card.rows.append(row)
    return row


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
    assert (first.train, first.export.precision, first.of) == (False, "mixed", whole)
    assert first.export.calibration_images == 7  # the study's own
    assert first.export.equalize
    assert first.because == ("'x-int8' may not be shipped: Failed its gate on validation. It fell.")

    add(card, "x-mixed", torch=whole, status="fail")
    second = next_attempt(card, INT8)
    assert (second.train, second.export.precision, second.of) == (True, "int8", whole)
    assert not second.export.equalize  # learnt ranges fit the weights as they were trained

    aware = add(card, "aware", of="step", steps=("qat",))
    add(card, "aware-int8", torch=aware, steps=("qat",), status="fail")
    third = next_attempt(card, INT8)
    assert (third.train, third.export.precision, third.of) == (False, "mixed", aware)

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
    """Makes files that are only a name."""

    progress = SimpleNamespace(say=lambda _: None)

    def step(self, name, step, parent, reference):
        return SimpleNamespace(card=SimpleNamespace(name=name))

    def export(self, name, parent, recipe):
        return SimpleNamespace(card=SimpleNamespace(name=name))


def test_what_an_attempt_makes_remembers_its_parent():
    card = board()
    small = add(card, "small", of="step", torch=card.rows[0])
    add(card, "small-onnx-float16", torch=small)
    add(card, "small-onnx-int8", torch=small, status="fail")
    added = []
    card.add = lambda file, torch, **facts: added.append((file.card.name, facts["parent"]))
    try_one(Bench(), card, next_attempt(card, INT8), card.reference.file)
    add(card, "small-onnx-mixed", torch=small, status="fail")
    try_one(Bench(), card, next_attempt(card, INT8), card.reference.file)
    assert added == [
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
    row = add(card, "x-int8", torch=card.rows[0])
    reasons = spoken("Accuracy held.", "pass"), spoken("A class fell.", "fail")
    row.verdicts["validation"] = Verdict(status="fail", reasons=reasons)
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
    card.rows[0].cost["file_bytes"] = 10**8
    add(card, "a-int8", torch=card.rows[0], ms=0.5, size=10**6)
    add(card, "b-int8", torch=card.rows[0], ms=0.4, size=2 * 10**6)
    assert chosen(card) == "a-int8"
    assert "gains more" in card.rows[2].rejected


def test_for_a_device_the_fastest_wins_and_among_equals_the_smallest():
    card = board(target="cpu-x86")
    add(card, "slow-int8", torch=card.rows[0], ms=0.9, size=1000)
    add(card, "large-int8", torch=card.rows[0], ms=0.50, size=3000)
    add(card, "small-int8", torch=card.rows[0], ms=0.51, size=2000, kind="openvino")
    assert chosen(card) == {"cpu-x86": "small-int8"}
    said = {row.name: row.rejected for row in card.rows[1:]}
    assert said["slow-int8"] == "'small-int8' is faster: 0.51 against 0.90 ms."
    assert said["large-int8"] == "'small-int8' is as fast and smaller."
    assert said["small-int8"] is None


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
    assert card.rows[2].rejected.startswith("'x-float16' is the better kind of file")
    assert choose(card).finalists == ("reference", "x-int8", "x-float32", "x-float16")


def test_nothing_able_opens_nothing():
    card = board(target="cpu-x86")
    add(card, "x-int8", torch=card.rows[0], status="fail")
    choice = choose(card)
    assert (choice.shipped, choice.finalists) == (None, ())
    assert choice.outcomes[0].shipped is None
    assert "Failed its gate" in card.rows[1].rejected
