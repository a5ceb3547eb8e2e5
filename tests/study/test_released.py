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
from clinipress.reporting.wording.sentences import release_sentences, rules_sentence
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
    assert f"Selected on validation: {result.shipped}. Not released: INCONCLUSIVE" in shown
    assert "The rules were changed after the test images were read: aims from 0.95 to 0.9" in shown
    assert f"{result.shipped} <- selected" in shown
    assert "shipped" not in shown.split("<-")[1].split("\n")[0].split()[:2]


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
    sentences = release_sentences(View(passed(result, other)))
    assert sentences[1] == (
        "The choice is fixed on validation, so that the test images stay an honest test: "
        f"{other} passed on them, but was not the choice."
    )
    assert len(release_sentences(View(result))) == 1


def test_a11_what_passed_is_released(not_passed):
    result = passed(not_passed[1], not_passed[1].shipped)
    (sentence,) = release_sentences(View(result))
    assert sentence.endswith("Released: it passed on the test images.")
    nothing = not_passed[1].model_copy(
        update={"shipped": None, "verdict": verdict_of("fail", "Nothing is good enough.")}
    )
    assert release_sentences(View(nothing)) == [
        "Selected on validation: none. Nothing is good enough."
    ]


def test_a1_when_the_rules_were_fixed_is_said_from_the_seal(finished, not_passed):
    result = finished[1]
    said = rules_sentence(View(result))
    assert said.startswith("The rules were fixed on ")
    assert said.endswith("UTC, before the test images were first read.")
    old = result.model_copy(update={"sealed": None})
    assert rules_sentence(View(old)) == "When the rules were fixed is not recorded."
    for folder, text in ((finished[0], said), (not_passed[0], rules_sentence(View(not_passed[1])))):
        page = (folder / "dossier.md").read_text()
        assert text.split(" (first")[0].split(":")[0] in page
        assert "before anything was measured" not in page
        assert "before anything was measured" not in (folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        ({}, False),
        ({"verdict": None}, False),
        ({"verdict": "pass"}, False),
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
