"""Selected on validation is not released: bundle, card, device and terminal say which it is."""

import json
import shutil

import pytest

from clinipress.cli.terminal import show_result
from clinipress.edge.bundle import caution, load_bundle
from clinipress.edge.predict import run_predict
from clinipress.records.base import Verdict
from clinipress.records.result import Result
from clinipress.reporting.view import View
from clinipress.reporting.wording.lead import release_sentence
from clinipress.study.flow import run_study
from kit.studies import study
from kit.verdicts import verdict_of

WORD = "NOT RELEASED"


@pytest.fixture(scope="module")
def not_passed(finished, phantoms, tmp_path_factory):
    """The small study, whose rules were changed after its test was read: nothing can pass."""
    run = shutil.copytree(finished[0], tmp_path_factory.mktemp("changed") / "run")
    return run, run_study(study(evidence={"aims": [0.9]}), phantoms, run)


def test_a11_a_bundle_that_did_not_pass_says_so_everywhere(not_passed, phantoms, capsys):
    run, result = not_passed
    assert result.verdict.status == "inconclusive"
    bundle = load_bundle(run / result.bundle)
    assert WORD in bundle.caution
    assert (run / "bundle" / "README.txt").read_text().startswith(WORD)
    card = json.loads((run / "bundle" / "card.json").read_text())["evidence"]
    assert (card["released"], card["selected_on"]) == (False, "validation")
    assert card["verdict"]["status"] == "inconclusive"
    image = str(next(phantoms.parent.rglob("*.png")))
    for as_json in (False, True):
        lines = []
        run_predict(run / "bundle", [image], as_json=as_json, write=lines.append)
        assert WORD in capsys.readouterr().err
        assert not any(WORD in line for line in lines)


def test_a11_the_last_lines_of_a_run_say_what_was_selected_and_why_not_released(not_passed, capsys):
    run, result = not_passed
    show_result(result, run)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{result.shipped} was selected, not released" in shown
    assert "Aims changed after the test set was first opened: 0.95 → 0.9 (first seen" in shown
    assert f"{result.shipped} <- selected, not released" in shown
    assert "the rules were changed after the test images were read: aims from 0.95" in shown.lower()


def passed(result: Result, *names: str) -> Result:
    """SYNTHETIC: these candidates passed on the test."""
    rows = tuple(
        row.model_copy(
            update={
                "verdict": verdict_of("pass", "held"),
                "changes": {"test": row.changes.get("validation", {})},
            }
        )
        if row.name in names
        else row
        for row in result.candidates
    )
    update = {"candidates": rows}
    if result.shipped in names:
        update["verdict"] = verdict_of("pass", "held")
    return result.model_copy(update=update)


def test_a11_the_choice_is_explained_where_another_candidate_passed(not_passed):
    result = not_passed[1]
    other = next(r.name for r in result.candidates[1:] if r.name != result.shipped)
    sentence = release_sentence(View(passed(result, other)))
    assert f"{other} passed on the test images but was not the choice." in sentence
    assert "not the choice" not in release_sentence(View(result))


def test_a11_what_passed_is_released(not_passed):
    result = passed(not_passed[1], not_passed[1].shipped)
    assert release_sentence(View(result)).endswith("passed: released.")
    name = result.shipped
    assert [row.released for row in result.candidates if row.name == name] == [True]
    assert not any(row.released for row in not_passed[1].candidates)


def test_a1_when_the_rules_were_fixed_is_said_from_the_seal(finished, not_passed):
    for folder, words in (
        (finished[0], "Acceptance criteria before the test set was opened"),
        (not_passed[0], "Aims changed after the test set was first opened: 0.95"),
    ):
        page = (folder / "dossier.md").read_text()
        assert words in page
        for name in ("dossier.md", "report.md", "model-card.md"):
            assert "before anything was measured" not in (folder / name).read_text()
    page = (not_passed[0] / "report.md").read_text()
    assert "Aims changed after the test set was first opened: 0.95" in page


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        ({}, True),
        ({"verdict": None}, True),
        ({"verdict": "pass"}, True),
        ({"verdict": 1}, True),
        ({"verdict": {}}, True),
        ({"verdict": {"status": None}}, True),
        ({"verdict": {"status": 1}}, True),
        ({"verdict": {"status": "PASS"}}, True),
        ({"verdict": {"status": "passed"}}, True),
        ({"verdict": {"state": "pass"}}, True),
        ({"verdict": [{"status": "pass"}]}, True),
        ({"verdict": {"status": "pass"}}, False),
        ({"verdict": {"status": "fail"}}, True),
        ({"verdict": {"status": "inconclusive"}}, True),
        ({"verdict": {"status": ["pass"]}}, True),
        ({"verdict": Verdict(status="inconclusive").model_dump()}, True),
    ],
    ids=str,
)
def test_a11_the_caution_takes_nothing_of_a_card_on_trust(evidence, said):
    assert (caution(evidence) is not None) is said
