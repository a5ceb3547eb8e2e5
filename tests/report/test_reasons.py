"""Reasons hold facts; their sentences are made in one place, and every stored reason has one."""

import ast
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

import clinipress
from clinipress.records.result import Interval, Reason, Verdict
from clinipress.reporting.wording import reasons as wording
from clinipress.reporting.wording.reasons import reason_text, worded

SOURCE = Path(clinipress.__file__).parent


def change(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high, n=500)


def margin(loss: tuple[float, float, float], **more) -> Reason:
    value, low, high = loss
    interval = change(-value, -high, -low)
    return Reason(kind="margin", metric="accuracy", interval=interval, limit=0.02, **more)


def test_a_verdict_takes_no_reason_without_its_sentence():
    silent = Reason(kind="no gap", status="inconclusive")
    with pytest.raises(ValidationError, match="no gap"):
        Verdict(status="inconclusive", reasons=(silent,))
    spoken = Verdict(status="inconclusive", reasons=worded([silent]))
    assert spoken.texts == ("No column has two groups large enough to compare.",)


def test_wording_is_pure_and_may_be_done_again():
    once = worded([margin((0.006, -0.009, 0.021), status="inconclusive", rule="primary")])
    assert worded(once) == once
    stored = Reason.model_validate(json.loads(once[0].model_dump_json()))
    assert reason_text(stored) == stored.text


def test_a_kind_that_is_not_known_keeps_its_sentence():
    old = Reason(kind="version 1", text="Accuracy fell by 0.6 points.")
    assert reason_text(old) == old.text


@pytest.mark.parametrize(
    ("loss", "rule", "end"),
    [
        ((0.006, -0.009, 0.0199), "primary", "the whole interval is within the limit."),
        ((0.03, 0.02, 0.05), "primary", "the whole interval is at or beyond the limit."),
        ((0.03, 0.02, 0.05), "guard", "the whole interval is at or beyond the limit (guard)."),
        (
            (0.006, -0.009, 0.021),
            "guard",
            "inconclusive (guard, does not block); no useful number of cases would decide.",
        ),
    ],
)
def test_the_sentence_of_a_margin_follows_from_where_the_interval_lies(loss, rule, end):
    assert reason_text(margin(loss, rule=rule)).endswith(f": {end}")


def test_the_worst_of_several_says_so():
    several = margin((0.006, -0.009, 0.012), parameters={"comparisons": 4})
    assert reason_text(several).startswith("Worst of 4 comparisons: Accuracy fell by 0.6 points")
    alone = margin((0.006, -0.009, 0.012), parameters={"comparisons": 1})
    assert reason_text(alone).startswith("Accuracy fell")


def test_a_gap_that_grew_is_a_rise():
    reason = Reason(
        kind="gap",
        metric="accuracy",
        where="age",
        interval=change(0.099, -0.09, 0.397),
        limit=0.2,
        parameters={"worst": "80+", "reference": 0.143, "candidate": 0.242, "comparisons": 2},
    )
    assert reason_text(reason) == (
        "Worst of 2 gaps: The gap in accuracy between the groups of age (worst: 80+) went from "
        "14.3 to 24.2 points, a change of +9.9 (95% CI of the change \u22129.0 to +39.7; allowed "
        "rise 20.0): inconclusive."
    )


@pytest.mark.parametrize(
    ("share", "end"),
    [
        ((0.881, 0.847, 0.908), "inconclusive: more cases are needed."),
        ((0.95, 0.9, 0.98), "the whole interval is at or above it."),
        ((0.8, 0.7, 0.899), "the whole interval is below it."),
    ],
)
def test_agreement(share, end):
    value, low, high = share
    reason = Reason(
        kind="agreement",
        interval=Interval(value=value, low=low, high=high),
        limit=0.9,
        parameters={"images": 562},
    )
    text = reason_text(reason)
    assert text.startswith(f"The two models give the same answer in {100 * value:.1f}% (95% CI ")
    assert text.endswith(f"of 562 images; at least 90% is required: {end}")


def test_every_kind_that_is_made_has_a_sentence_and_every_sentence_a_maker():
    """Kinds by the source: `kind="..."` of calls to Reason and the helpers that name one."""
    made = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and path.name != "reasons.py":
                made |= {node.value} & set(wording._SENTENCES)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Reason":
                kinds = [k.value for k in node.keywords if k.arg == "kind"]
                named = {k.value for k in kinds if isinstance(k, ast.Constant)}
                assert named <= set(wording._SENTENCES), (path, named)
    assert made == set(wording._SENTENCES)


def test_the_evidence_writes_no_sentences():
    """No text in the evidence, outside docstrings and errors, reads as a sentence of a verdict."""
    for path in (SOURCE / "evidence").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Reason", "Verdict"):
                assert not [k for k in node.keywords if k.arg == "text"], path
                assert not any(isinstance(part, ast.JoinedStr) for part in ast.walk(node)), path
