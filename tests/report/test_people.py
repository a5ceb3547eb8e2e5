"""What people wrote is kept: answers live in a file of their own, and edited pages are not lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from clinipress.errors import InputError
from clinipress.records.result import Result
from clinipress.reporting.documents import write_pages
from clinipress.reporting.dossier.checklists import CLAIM, TRIPOD_AI
from clinipress.reporting.dossier.people import ANSWERS, QUESTIONS, read_answers, template
from clinipress.reporting.dossier.plan import SIGNERS, YOURS
from kit.judgements import with_judgements

Make = Callable[..., Result]


def answered(folder: Path, **parts: object) -> None:
    (folder / ANSWERS).write_text(yaml.safe_dump(parts, allow_unicode=True), encoding="utf-8")


def test_the_file_is_made_empty_once_and_never_written_again(
    make_study: Make, tmp_path: Path
) -> None:
    study = make_study()
    assert tmp_path / ANSWERS in write_pages(study, tmp_path)
    empty = (tmp_path / ANSWERS).read_text(encoding="utf-8")
    assert empty == template()
    answers = read_answers(tmp_path)
    assert not any((*answers.answers.values(), *answers.claim_2024.values()))
    assert [row.role for row in answers.signatures] == list(SIGNERS)
    mine = empty.replace('ethics: ""', "ethics: 'Board 7, EK 12/26'  # mine")
    (tmp_path / ANSWERS).write_text(mine, encoding="utf-8")
    assert tmp_path / ANSWERS not in write_pages(study, tmp_path)
    assert (tmp_path / ANSWERS).read_text(encoding="utf-8") == mine
    assert "Board 7, EK 12/26" in (tmp_path / "dossier.md").read_text(encoding="utf-8")


def test_every_question_and_open_item_stands_in_the_file() -> None:
    tree = yaml.safe_load(template())
    assert list(tree["answers"]) == list(QUESTIONS)
    for name, items in (("claim_2024", CLAIM), ("tripod_ai", TRIPOD_AI)):
        assert list(tree[name]) == [i.number for i in items if not i.topic or i.rest]


def test_answers_and_signatures_are_read_into_dossier_and_card(
    make_study: Make, tmp_path: Path
) -> None:
    texts = {key: f"said of {key}" for key in QUESTIONS}
    signed = {"role": "Head of radiology", "name": "A. Muster", "decision": "accepts",
              "date": "2026-11-28", "signature": "AM"}  # fmt: skip
    answered(
        tmp_path, answers=texts, signatures=[signed],
        claim_2024={"5": "Retrospective."}, tripod_ai={"18a": "Grant 4711."},
    )  # fmt: skip
    write_pages(make_study(), tmp_path)
    dossier = (tmp_path / "dossier.md").read_text(encoding="utf-8")
    card = (tmp_path / "model-card.md").read_text(encoding="utf-8")
    on_the_card = {"licence", "developer", "users", "data_origin", "ethics", "consent"}
    for key, text in texts.items():
        assert (text in dossier) or key in on_the_card, key
        assert (text in card) == (key in on_the_card), key
    assert "| Head of radiology | A. Muster | accepts | 2026-11-28 | AM |" in dossier
    assert SIGNERS[0] not in dossier
    assert "| Retrospective. |" in dossier
    assert "Grant 4711. said of funding" in dossier
    assert f"*{YOURS}*" in dossier  # what nobody answered stays open
    tree = json.loads((tmp_path / "dossier.json").read_text(encoding="utf-8"))
    assert tree["answers"] == texts
    assert tree["signatures"] == [signed]


@pytest.mark.parametrize("page", ["dossier.md", "model-card.md", "report.md"])
def test_a_page_changed_by_hand_is_kept(make_study: Make, tmp_path: Path, page: str) -> None:
    study, path = make_study(), tmp_path / page
    write_pages(study, tmp_path)
    clean = path.read_text(encoding="utf-8")
    write_pages(study, tmp_path)  # untouched: nothing to keep
    assert list(tmp_path.glob("*.edited*")) == []
    for number, name in ((1, "edited"), (2, "edited2")):
        text = path.read_text(encoding="utf-8") + f"\nSigned by me, {number}\n"
        path.write_text(text, encoding="utf-8")
        kept = tmp_path / f"{path.stem}.{name}.md"
        assert kept in write_pages(study, tmp_path)
        assert kept.read_text(encoding="utf-8") == text
        assert "Signed by me" not in path.read_text(encoding="utf-8")
        assert kept.name in path.read_text(encoding="utf-8")
    for other in tmp_path.glob("*.edited*"):
        other.unlink()
    write_pages(study, tmp_path)
    assert path.read_text(encoding="utf-8") == clean


def test_a_dossier_of_an_earlier_release_is_kept(make_study: Make, tmp_path: Path) -> None:
    (tmp_path / "dossier.md").write_text("# Dossier\n\nfunding: Grant 4711\n", encoding="utf-8")
    write_pages(make_study(), tmp_path)
    assert "Grant 4711" in (tmp_path / "dossier.edited.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("answers: {fundin: x}", "did you mean 'funding'"),
        ("answers: [a, b]", "names and answers"),
        ("answers: {funding: [a]}", "a text as an answer"),
        ("signatures: {role: x}", "a list of signatures"),
        ("claim_2024: {'99': x}", "a key that is asked for"),
        ("a: b: c", r"YAML in '.*', got mapping values are not allowed here in line 1, at 'a'"),
        ("answers: {funding: '\xff", "UTF-8 in"),
        ("answers:\n  ethics: ok\n  funding: EU: 12\n", "not allowed here in line 3, at 'funding'"),
        ("answers:\n  ethics: ok\n  funding: 'EU\n  users: x\n", "in line 3, at 'funding'"),
        ("answers:\n  ethics: a\n  ethics: b\n", "'ethics' is given twice in line 3, at 'ethics'"),
        ("answers:\n\tethics: a\n", "in line 2"),
        ("answers: {ethics: *a}", "undefined alias 'a' in line 1, at 'ethics'"),
        ("answers: {[a]: b}", "unhashable key in line 1, at 'answers'"),
        ("answers: {ethics: a, funding: b, funding: c}", "twice in line 1, at 'funding'"),
        ("just text", "names and answers"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_and_nothing_is_touched(
    make_study: Make, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / ANSWERS).write_text(text, encoding="latin-1")
    (tmp_path / "dossier.md").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=words):
        write_pages(make_study(), tmp_path)
    assert (tmp_path / "dossier.md").read_text(encoding="utf-8") == "mine"


def test_an_empty_file_and_plain_values_are_answers(tmp_path: Path) -> None:
    (tmp_path / ANSWERS).write_text("", encoding="utf-8")
    assert read_answers(tmp_path).answers == {}
    (tmp_path / ANSWERS).write_text("answers: {funding: 2026-11-28, ethics: }\n", encoding="utf-8")
    assert read_answers(tmp_path)["funding"] == "2026-11-28"
    assert read_answers(tmp_path)["ethics"] == ""


@pytest.mark.parametrize(
    "typed",
    ["no", "yes", "2026-11-28", "28-11-2026", "2026-11-28 10:00:00", "1e3", "0x10", "012", "12:30",
     "3.10", "1_000", "on", "!!int 3", "accepted, no conditions"],
)  # fmt: skip
def test_p2_answers_are_the_text_that_was_typed(
    make_study: Make, tmp_path: Path, typed: str
) -> None:
    text = f"answers:\n  funding: {typed}\nclaim_2024:\n  5: {typed}\nsignatures:\n  - role: x\n"
    (tmp_path / ANSWERS).write_text(f"{text}    decision: {typed}\n", encoding="utf-8")
    answers, said = read_answers(tmp_path), typed.removeprefix("!!int ")
    assert answers["funding"] == answers.claim_2024["5"] == said
    assert answers.signatures[0].decision == said
    write_pages(make_study(), tmp_path)
    assert f"| x |  | {said} |" in (tmp_path / "dossier.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", ["license", "licence"])
@pytest.mark.parametrize(
    ("said", "header"),
    [("apache-2.0", "apache-2.0"), ("MIT", "mit"), ("own terms, see LICENSE", "other"),
     ("", "unknown")],
)  # fmt: skip
def test_p2_the_licence_reaches_the_header_of_the_card(
    make_study: Make, tmp_path: Path, key: str, said: str, header: str
) -> None:
    answered(tmp_path, answers={key: said})
    write_pages(make_study(), tmp_path)
    card = (tmp_path / "model-card.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---")[1])["license"] == header
    assert said in card


def test_g_no_full_stop_is_doubled(make_study: Make, tmp_path: Path) -> None:
    study = with_judgements(
        make_study(classes=("mass.", "nodule n.o.s.", "normal")), planted="stress"
    )
    study = study.model_copy(update={"recipe": study.recipe | {"intended_use": "Triage only."}})
    answered(tmp_path, answers={"ethics": "Board 7."})
    for path in write_pages(study, tmp_path):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r".{40}(?<!\.)\.\.(?!\.).{10}", text)
        assert found == [], path.name
