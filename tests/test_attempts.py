"""What is tried next, rung by rung, and what may never be shipped, on rows made by hand."""

from types import SimpleNamespace

import pytest

from clinipress.attempts import next_attempt
from clinipress.gate import rules_for
from clinipress.recipe import ExportRecipe
from clinipress.records import Applied, Card, InputSpec, Verdict
from clinipress.scorecard import Row, Scorecard, blocked

SPEC = InputSpec(channels=1, height=8, width=8)
INT8 = (ExportRecipe(precision="int8", calibration_images=7, equalize=True),)


def board(risk="medium", target=None):
    study = SimpleNamespace(risk=risk, target=target)
    card = Scorecard(SimpleNamespace(study=study), rules_for(risk))
    add(card, "reference", of="reference")
    return card


def add(card, name, of="export", torch=None, steps=(), status="pass", ms=1.0, **facts):
    """A row; `torch`: the row whose network it is a file of."""
    precision = name.rpartition("-")[2] if of == "export" else "float32"
    history = [Applied(step=step, params={}) for step in steps]
    history.append(Applied(step="export", params={}, facts=facts))
    file = SimpleNamespace(
        card=Card(
            name=name, classes=("a", "b"), input=SPEC, precision=precision, format="onnx",
            history=tuple(history),
        )
    )  # fmt: skip
    row = Row(name, file, torch.torch if torch else object(), of)
    row.verdicts["validation"] = Verdict(status=status, reasons=("It fell.",))
    row.cost = {"latency": {"median": ms}, "file_bytes": 10**6, "peak_memory": 10**8}
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


def test_quantized_by_name_only_is_blocked():
    card = board()
    said = "0 of 53 convolutions quantized"
    row = add(card, "x-int8", torch=card.rows[0], warning=said)
    assert blocked(card, row) == f"Named int8, but {said}."


def test_a_file_that_does_not_fit_the_device_is_blocked():
    card = board(target="jetson-nano")
    row = add(card, "x-int8", torch=card.rows[0])
    assert blocked(card, row).startswith("NVIDIA Jetson Nano 4 GB does not run int8")
    card.runner.study.target = "cpu-x86"
    assert blocked(card, row) is None
