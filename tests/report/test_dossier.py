"""The dossier: nothing in it that the records do not hold, and nothing claimed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clinipress.errors import StorageError
from clinipress.records.candidate import Applied
from clinipress.records.result import Result
from clinipress.reporting.documents import report_markdown as markdown
from clinipress.reporting.documents import write_documents
from clinipress.reporting.dossier.answers import TOPICS
from clinipress.reporting.dossier.checklists import CLAIM, TRIPOD_AI
from clinipress.reporting.dossier.data import dossier
from clinipress.reporting.dossier.plan import NOTICE, SIGNERS, YOURS, Dossier
from clinipress.reporting.dossier.text import dossier_markdown
from clinipress.reporting.model_card.card import model_card
from clinipress.reporting.private import sent
from clinipress.reporting.view import View
from kit.judgements import with_judgements

Make = Callable[..., Result]
CLAIMS = re.compile(
    r"\b(compl(y|ies|iant|iance)|conform\w*|approv\w*|clear(ed|ance)|certif\w*|authori[sz]\w*"
    r"|meets? the requirements?)\b",
    re.IGNORECASE,
)
DENIED = re.compile(r"\b(not?|never|nor|none|without)\b", re.IGNORECASE)
PARTS = ("description", "protocol", "impact", "trade-off", "versions", "claim", "tripod")


def claims(text: str) -> list[str]:
    """Sentences that claim conformity, approval or the like; those that deny it are left out."""
    sentences = re.split(r"(?<=[.!?:|])\s+|\n", text)
    return [one for one in sentences if CLAIMS.search(one) and not DENIED.search(one)]


@pytest.mark.parametrize(
    "claim",
    [
        "This model is compliant with the guidance.",
        "It conforms to TRIPOD+AI.",
        "The device was cleared.",
        "| Approved by the authority |",
        "No loss is shown. The plan is authorised.",
    ],
)
def test_a_claim_would_be_noticed(claim: str) -> None:
    assert claims(claim)


def test_a_denial_is_no_claim() -> None:
    assert not claims("It does not claim conformity with any regulation.")


@pytest.mark.parametrize("write", [dossier_markdown, model_card, markdown])
@pytest.mark.parametrize("status", ["pass", "fail", "inconclusive"])
def test_no_document_claims_anything(
    make_study: Make, write: Callable[[Result], str], status: str
) -> None:
    assert claims(write(with_judgements(make_study(status=status)))) == []


def test_it_says_at_the_top_what_it_is_not(make_study: Make) -> None:
    study = make_study()
    assert NOTICE in "\n".join(dossier_markdown(study).splitlines()[:4])
    assert dossier(study).notice == NOTICE
    assert "does not claim conformity" in NOTICE


def test_its_parts_are_those_of_a_change_control_plan(make_study: Make) -> None:
    heads = re.findall(r"^## \d\. (.*)$", dossier_markdown(make_study()), re.M)
    assert len(heads) == len(PARTS)
    for head, part in zip(heads, PARTS, strict=True):
        assert part in head.lower()


# ------------------------------------------------------------------------------------- checklists


def test_the_checklists_are_whole_and_in_order() -> None:
    assert [item.number for item in CLAIM] == [str(number) for number in range(1, 45)]
    mains = [int(re.sub(r"\D", "", item.number)) for item in TRIPOD_AI]
    assert mains == sorted(mains)
    assert set(mains) == set(range(1, 28))
    parts = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}
    for main in set(mains):
        letters = [i.number.lstrip("0123456789") for i in TRIPOD_AI if _main(i.number) == main]
        assert letters == (list("abcdefg"[: parts[main]]) if main in parts else [""])


def _main(number: str) -> int:
    return int(re.sub(r"\D", "", number))


def test_every_topic_is_asked_for_and_every_item_has_its_topic() -> None:
    assert {item.topic for item in (*CLAIM, *TRIPOD_AI)} - {None} == set(TOPICS)


def test_an_item_is_answered_only_by_what_the_records_say(make_study: Make) -> None:
    study = with_judgements(make_study())
    view, data = View(study), dossier(study)
    for items, answers in ((CLAIM, data.claim_2024), (TRIPOD_AI, data.tripod_ai)):
        for item, answer in zip(items, answers, strict=True):
            said = TOPICS[item.topic](view) if item.topic else None
            assert answer.said == said
            assert (answer.state == "you") == (said is None)
            assert (answer.state == "part") == (said is not None and bool(item.rest))
    text = dossier_markdown(study)
    yours = [one for one in (*data.claim_2024, *data.tripod_ai) if one.state == "you"]
    checklists = text.partition("## 6.")[2]
    assert checklists.count(f"*{YOURS}*") == len(yours)


HUMAN = {
    "claim": {"5", "11", "13", "15", "16", "17", "34", "44"},
    "tripod": {"3c", "17", "18a", "19"},
}


def test_what_no_record_can_know_is_left_to_people(make_study: Make) -> None:
    data = dossier(with_judgements(make_study()))
    assert {one.number for one in data.claim_2024 if one.state == "you"} >= HUMAN["claim"]
    assert {one.number for one in data.tripod_ai if one.state == "you"} >= HUMAN["tripod"]


MEASURED = {"30": "stress", "31": "saliency"}


@pytest.mark.parametrize(("number", "section"), MEASURED.items())
def test_a_section_answers_its_item_only_where_it_was_measured(
    make_study: Make, number: str, section: str
) -> None:
    def state(study: Result) -> str:
        return next(one.state for one in dossier(study).claim_2024 if one.number == number)

    assert state(make_study()) == "you"
    assert state(with_judgements(make_study())) == "records"
    assert state(with_judgements(make_study(), missing={section: "left out"})) == "you"


def test_an_external_test_answers_its_item(make_study: Make) -> None:
    def external(study: Result) -> str | None:
        return next(one.said for one in dossier(study).claim_2024 if one.number == "33")

    assert external(make_study()) is None
    said = external(with_judgements(make_study(), external="external: elsewhere"))
    assert said is not None
    assert "elsewhere" in said


def test_sets_without_metadata_say_nothing_of_groups(make_study: Make) -> None:
    data = dossier(with_judgements(make_study(), metadata=False))
    fair = next(one for one in data.tripod_ai if one.number == "14")
    assert fair.state == "you"


def test_intended_use_is_quoted_from_the_study_or_left_open(make_study: Make) -> None:
    study = make_study()
    assert f"Intended use, as the study file says: *{YOURS}*" in dossier_markdown(study)
    told = study.model_copy(update={"recipe": {**study.recipe, "intended_use": "Triage only."}})
    assert dossier(told).intended_use == "Triage only."
    assert "Triage only." in dossier_markdown(told)


# --------------------------------------------------------------------------------- plan and impact


def test_every_candidate_is_an_option_the_rejected_ones_with_their_reasons(
    make_study: Make,
) -> None:
    study = make_study(extra_candidates=3)
    record = dossier_markdown(study).partition("## 4.")[2].partition("## 5.")[0]
    for one in study.candidates:
        assert f"| {one.name}" in record
        if one.rejected:
            assert one.rejected in record
    for role in SIGNERS:
        assert f"| {role} |  |  |  |  |" in record


def test_criteria_are_the_rules_and_the_sections_that_guard(make_study: Make) -> None:
    study = make_study()
    asked = {"evidence": {"guards": ["subgroups", "calibration"]}}
    study = study.model_copy(update={"recipe": {**study.recipe, **asked}})
    protocol = dossier(study).protocol
    assert set(protocol.rules) == set(study.rules)
    assert protocol.rules[0].primary
    assert protocol.guarding_sections == ("subgroups", "calibration")
    by_risk = study.model_copy(update={"recipe": {**study.recipe, "evidence": {"guards": None}}})
    assert dossier(by_risk).protocol.guarding_sections  # those of the risk level
    assert dossier(make_study()).protocol.guarding_sections == ()  # an older record declares none


def test_cumulative_changes_are_those_of_the_record(make_study: Make) -> None:
    study = make_study()
    for made in dossier(study).modifications:
        record = next(one for one in study.candidates if one.name == made.name)
        assert made.split == "test" if "test" in record.changes else "validation"
        assert made.differences == record.changes[made.split]
        assert made.verdict == record.verdict


def test_a_change_on_its_own_is_beside_its_parent(make_study: Make) -> None:
    study = make_study()
    made = {one.name: one for one in dossier(study).modifications}
    alone = made["pruned-int8"].alone
    parent = next(one for one in study.candidates if one.name == "pruned")
    child = next(one for one in study.candidates if one.name == "pruned-int8")
    assert alone is not None
    assert alone.parent == "pruned"
    expected = child.evidence["test"]["accuracy"].value - parent.evidence["test"]["accuracy"].value
    assert alone.differences["accuracy"] == pytest.approx(expected, abs=1e-12)
    assert alone.file_ratio == pytest.approx(parent.file_bytes / child.file_bytes)
    untimed = made["pruned-float16"].alone
    assert untimed is not None
    assert untimed.time_ratio is None


def test_steps_shared_with_the_reference_are_not_changes(make_study: Make) -> None:
    changes = dossier(make_study()).modifications[1].changes
    assert [one.step for one in changes] == ["distill", "prune", "export"]
    assert changes[0].parameters["temperature"] == "4"
    assert changes[1].parameters == {"ratio": "0.5", "of": "macs"}  # not the list of channels


def test_values_covered_are_those_that_were_tried(make_study: Make) -> None:
    tried = {(one.step, one.parameter): one.values for one in dossier(make_study()).tried}
    assert tried["export", "precision"] == ("float32", "float16", "int8")
    assert tried["distill", "alpha"] == ("0.7",)


def test_sections_are_judged_each_and_missing_ones_say_why(make_study: Make) -> None:
    study = with_judgements(make_study(), planted="subgroups", missing={"saliency": "no network"})
    text = dossier_markdown(study).partition("### Risks, section by section")[2]
    assert "**Subgroups**: FAIL" in text
    assert "**Calibration**: PASS" in text
    assert "**Saliency**: not measured: no network" in text
    made = next(one for one in dossier(study).modifications if one.name == study.shipped)
    assert made.sections["subgroups"].status == "fail"
    assert "saliency" not in made.sections


def test_nothing_measured_is_never_a_pass(make_study: Make) -> None:
    text = dossier_markdown(make_study())
    part = text.partition("### Risks, section by section")[2].partition("###")[0]
    assert "PASS" not in part
    assert "not measured" in part


def test_the_worst_class_stands_for_a_rule_over_classes(make_study: Make) -> None:
    study = make_study()
    made = next(one for one in dossier(study).modifications if one.name == study.shipped)
    lows = {m: one.low for m, one in made.differences.items() if m.startswith("sensitivity[")}
    worst = min(lows, key=lambda metric: lows[metric]).removeprefix("sensitivity[")[:-1]
    part = dossier_markdown(study).partition("### Risks, cumulative")[2].partition("###")[0]
    row = next(line for line in part.splitlines() if f"| {study.shipped} |" in line)
    assert worst.replace("<", "&lt;").replace(">", "&gt;") in row


def test_versions_and_hashes_of_all_files(make_study: Make) -> None:
    study = make_study()
    parts = dossier(study).inventory
    digests = {one.sha256 for one in parts if one.kind == "file"}
    assert digests == {study.split.digest, *(one.digest for one in study.candidates)}
    assert {one.name for one in parts if one.kind == "software"} >= set(study.environment.packages)


# ---------------------------------------------------------------------------------------- the files


def test_documents_are_written_whole_and_read_back(make_study: Make, tmp_path: Path) -> None:
    study = with_judgements(make_study())
    paths = write_documents(study, tmp_path / "run")
    names = ["report.md", "model-card.md", "dossier.md", "dossier.json", "dossier-answers.yaml"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(names)
    text = paths[3].read_text(encoding="utf-8")
    assert Dossier.model_validate_json(text) == dossier(sent(study))
    assert json.loads(text)["shipped"] == study.shipped
    assert paths[0].read_text(encoding="utf-8").startswith(markdown(study))


def test_a_folder_that_is_a_file_is_said_in_one_line(make_study: Make, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError) as problem:
        write_documents(make_study(), tmp_path / "taken")
    assert "\n" not in str(problem.value)


def test_a_bare_record_gives_documents_too(make_study: Make, tmp_path: Path) -> None:
    """Nothing measured, nothing asked, no reference: still no crash and no pass."""
    study = make_study()
    bare = tuple(
        one.model_copy(
            update={
                "evidence": {},
                "changes": {},
                "confusion": {},
                "history": (),
                "verdict": None,
                "latency_ms": None,
                "latency_with_preprocessing_ms": None,
            }
        )
        for one in study.candidates
    )
    empty = study.model_copy(
        update={"candidates": bare, "shipped": None, "bundle": None, "recipe": {}, "rules": ()}
    )
    assert len(write_documents(empty, tmp_path / "a")) == 5
    alone = empty.model_copy(update={"candidates": (), "test_openings": ()})
    assert len(write_documents(alone, tmp_path / "b")) == 5


def test_a_training_in_stages_is_told_stage_by_stage(make_study: Make) -> None:
    stages = [
        {"train": "head", "epochs": 1, "learning_rate": 0.01},
        {"train": "all", "epochs": 5, "learning_rate": None, "decay": "exponential"},
    ]
    options = {"epochs": 6, "learning_rate": 0.001, "decay": "cosine", "stages": stages}
    staged = Applied(step="train", params={"options": options})
    result = make_study()
    rows = tuple(one.model_copy(update={"history": (staged,)}) for one in result.candidates)
    told = TOPICS["building"](View(result.model_copy(update={"candidates": rows})))
    assert "stage 1: the head alone, 1 epoch at 0.01, cosine decay" in told
    assert "stage 2: all weights, 5 epochs at 0.001, exponential decay" in told
    assert told.count("0.001") == 1  # the whole's rate is that of no stage


def test_it_needs_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, clinipress.reporting.documents; "
        "sys.exit(bool({'numpy', 'torch', 'scipy', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
