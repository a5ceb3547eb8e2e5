"""What is printed of names that came with data: text, whatever they hold."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from clinipress.cli import commands, terminal
from clinipress.records.result import Audit, Result
from clinipress.reporting.documents import write_pages
from clinipress.reporting.view import View
from clinipress.reporting.wording.lead import lead, reading
from clinipress.text import plain, plain_page
from kit.judgements import with_judgements

NASTY = "glioma\x1b[2J\u202e [/x]"  # erases the screen, turns the line around, breaks markup


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the terminal module prints, as to a terminal with colours."""
    out = io.StringIO()
    monkeypatch.setattr(
        terminal,
        "_console",
        lambda: terminal.Console(file=out, width=200, force_terminal=True, color_system=None),
    )
    return out


def audit(name: str) -> Audit:
    return Audit(
        path=f"/data/{name}",
        layout=name,
        images=3,
        classes={name: 2, "mel": 1},
        splits={name: {name: 1}},
        groups={name: {name: 2}},
        leaks={name: 1},
        warnings=(f"class '{name}' has 1 image only",),
    )


def test_f9_an_audit_prints_no_escape_sequence_of_a_class(printed: io.StringIO) -> None:
    terminal.show_audit(audit(NASTY))
    text = printed.getvalue()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count(plain(NASTY)) >= 7


def test_f15_class_names_keep_their_brackets(printed: io.StringIO) -> None:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    evidence = {f"{metric}[{name}]": figure for metric in ("sensitivity", "precision")
                for name in ("glioma", "mel", "normal [/x]")}  # fmt: skip
    terminal.show_evidence(
        {
            "name": "m [b]",
            "data": "d",
            "images": 3,
            "evidence": evidence,
            "positive": None,
            "overlap": {},
        }
    )
    section = {"verdict": {"status": "fail"}, "columns": []}
    terminal.show_comparison(
        {
            "positive": None,
            "candidate": "a", "reference": "b [i]", "images": 3, "changes": evidence,
            "candidates": [{"evidence": {"data": evidence}}] * 2,
            "judgements": {"calibration": section, "subgroups": section},
            "verdict": {"status": "fail", "reasons": [{"text": "Worst class: [red]"}]},
        }
    )  # fmt: skip
    text = printed.getvalue()
    for name in evidence:
        assert text.count(name) == 2, name
    for words in (
        "m [b]",
        "b [i]",
        "Worst class: [red]",
        "calibration FAIL, subgroups no metadata",
    ):
        assert words in text


def test_f9_progress_of_a_step_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    lines = terminal.listener(quiet=False)
    lines.say(f"step {NASTY}")
    lines.start(NASTY, 2)
    lines.advance(NASTY, note=NASTY)
    lines.finish(NASTY)
    bars = terminal._Bars(terminal.Console(file=(out := io.StringIO()), force_terminal=True))
    bars.say(f"step {NASTY}")
    bars.start(NASTY, 2)
    bars.advance(NASTY, note=NASTY)
    bars.finish(NASTY, note="[/x]")
    assert f"step {plain(NASTY)}" in capsys.readouterr().err
    assert "\x1b[2J" not in out.getvalue()
    assert "\u202e" not in out.getvalue()
    assert "[/x]" in out.getvalue()


def test_f9_json_holds_the_name_and_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    commands._write_json(audit(f"{NASTY}\x9b\u2066"))
    text = capsys.readouterr().out
    assert not set(text) & set("\x1b\u202e\x9b\u2066")
    assert Audit.model_validate(json.loads(text)) == audit(f"{NASTY}\x9b\u2066")


@pytest.mark.parametrize(
    "character", [*"\x7f\x9b\u00ad\u061c\u180e\u200b\u2028\u2066\ufeff\U000e0001"]
)
def test_r9_one_table_says_what_steers(capsys: pytest.CaptureFixture[str], character: str) -> None:
    assert plain(f"a{character}b") == plain_page(f"a{character}b") == "a?b"
    commands._write_json(audit(f"a{character}b"))
    text = capsys.readouterr().out
    assert character not in text
    assert Audit.model_validate(json.loads(text)) == audit(f"a{character}b")
    assert plain_page("a\tb\n\u200c\u200d") == "a\tb\n\u200c\u200d"
    assert plain("a\tb\n\u200d") == "a?b?\u200d"


def test_f9_what_init_and_report_say_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    commands._write_lines([f"wrote {Path(NASTY)}"])
    assert capsys.readouterr().out == f"wrote {plain(NASTY)}\n"


def test_names_of_every_script_stay() -> None:
    for name in (
        "Lungenentz\u00fcndung",
        "\u80ba\u708e",
        "\u0645\u06cc\u200c\u062e",
        "95%",
        "a\u00a0b",
    ):
        assert plain(name) == name


def test_the_summary_says_what_the_first_screen_says(
    printed: io.StringIO, make_study: Callable[..., Result]
) -> None:
    study = with_judgements(make_study(classes=("mel", "nv [x]", "bcc")), planted="stress")
    terminal.show_result(study, Path("runs/x"))
    text, first = " ".join(printed.getvalue().split()), lead(View(study))
    assert first.word == "PASS, with losses"
    words = (first.word, first.headline, *first.beside, *first.facts, *first.lines, *first.steps)
    for piece in (*words, *first.external, str(first.flips)):
        assert " ".join(piece.split()) in text, piece
    for measure in first.changes:
        assert reading(measure) in text
    for section in first.sections:
        assert f"{section.title.lower()} {section.word}" in text.replace(
            " (can stop the model)", ""
        )
    assert "<- selected, released" in text


def test_a9_compare_says_which_way_a_change_points(printed: io.StringIO) -> None:
    change = {"value": 0.025, "low": 0.01, "high": 0.04}
    terminal.show_comparison(
        {
            "positive": None,
            "candidate": "a", "reference": "b", "images": 3,
            "changes": {"log_loss": change, "accuracy": change},
            "candidates": [{"evidence": {"data": {}}}] * 2,
            "judgements": {}, "verdict": {"status": "pass", "reasons": []},
        }
    )  # fmt: skip
    lines = printed.getvalue().splitlines()
    assert any("log_loss" in line and "worse" in line for line in lines)
    assert any("accuracy" in line and "better" in line for line in lines)


def test_f9_pages_steer_no_terminal(tmp_path: Path, make_study: Callable[..., Result]) -> None:
    """`cat report.md` of a study whose classes hold escape sequences."""
    text = (
        make_study(classes=("glioma", "nv", "bcc"))
        .model_dump_json()
        .replace("glioma", "gli\\u001b[2J\\u202eoma")
    )
    written = write_pages(Result.model_validate_json(text), tmp_path)
    assert {path.suffix for path in written} >= {".html", ".md", ".json"}
    for path in written:
        page = path.read_text(encoding="utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page), path.name
