"""Several findings in one image: the words of every page, and pages of many findings."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path

import pytest

from clinipress.cli import terminal
from clinipress.records.result import Result
from clinipress.reporting.documents import report_markdown
from clinipress.reporting.dossier.text import dossier_markdown
from clinipress.reporting.model_card.card import model_card
from clinipress.reporting.page.build import render
from clinipress.reporting.wording.numbers import of_findings
from kit.findings import findings_study
from kit.judgements import pictures

# words of a task of one class for each image, for which a study of findings has others
WRONG = re.compile(r"accurac|(?<!risk )\bclass(es)?\b|\bcorrect\b|mean of labels", re.IGNORECASE)
ALLOWED = (
    r"image-classification|image classification",  # names of the Hub
    r"Methods for class imbalance",  # an item of TRIPOD+AI, as it is printed there
    r'load_bundle\("bundle"\)\.classify',  # Python
)


@pytest.fixture(scope="module")
def study() -> Result:
    return findings_study(14)


def plain(page: str) -> str:
    """What a reader or a screen reader meets of a page."""
    page = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    labels = " ".join(re.findall(r'(?:aria-label|alt)="([^"]*)"', page))
    return html.unescape(re.sub(r"<[^>]+>", "\n", page) + labels)


def wrong_words(text: str) -> list[str]:
    for allowed in ALLOWED:
        text = re.sub(allowed, "", text)
    return [text[max(0, m.start() - 60) : m.end() + 60] for m in WRONG.finditer(text)]


def printed(monkeypatch: pytest.MonkeyPatch, result: Result) -> str:
    out = io.StringIO()
    monkeypatch.setattr(terminal, "_console", lambda: terminal.Console(file=out, width=250))
    terminal.show_result(result, Path("run"))
    return out.getvalue()


def test_no_page_of_findings_speaks_of_classes_or_accuracy(
    study: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {
        "report.html": plain(render(study, pictures())),
        "report.md": report_markdown(study),
        "model-card.md": model_card(study),
        "dossier.md": dossier_markdown(study),
        "terminal": printed(monkeypatch, study),
    }
    assert {name: wrong_words(text) for name, text in pages.items()} == {name: [] for name in pages}
    for text in pages.values():
        assert "mean area under the ROC curve" in text or "mean AUROC" in text


def test_pages_of_classes_keep_their_words(make_study) -> None:
    page = plain(render(make_study()))
    assert "Accuracy against time" in page
    assert "Class by class" in page
    assert "finding by finding" not in page.lower()


def test_words_are_turned_with_their_article() -> None:
    assert of_findings("Class by class, an accuracy of each class") == (
        "Finding by finding, a mean AUROC of each finding"
    )
    assert of_findings("risk class low, classification, inaccuracy") == (
        "risk class low, classification, inaccuracy"
    )


@pytest.fixture(scope="module")
def many() -> Result:
    return findings_study(40, images=150, external=False)


def section(page: str, name: str) -> str:
    return re.findall(rf'<section id="{name}".*?</section>', page, re.DOTALL)[0]


def open_and_folded(part: str) -> tuple[str, str]:
    folded = "".join(re.findall(r"<details>.*?</details>", part, re.DOTALL))
    return re.sub(r"<details>.*?</details>", "", part, flags=re.DOTALL), folded


@pytest.mark.parametrize("key", ["gate", "classes", "operating", "disagreement"])
def test_of_many_findings_six_are_open_and_none_is_lost(many: Result, key: str) -> None:
    known = [name for name in many.classes if name != "Hernia"]
    tables = section(render(many), key).partition("Images with another answer")[0]
    shown, folded = map(plain, open_and_folded(tables))

    def rows(text: str) -> set[str]:
        return {n for n in known if re.search(rf"(^|\n|for ){re.escape(n)}\n", text)}

    assert len(rows(shown)) <= 8  # six of a table, and those that a sentence names
    if key != "operating":  # both splits must know a point of it
        assert rows(shown) | rows(folded) == set(known)
    assert len(rows(shown) | rows(folded)) > 30


def test_eight_findings_or_fewer_are_all_open() -> None:
    few = findings_study(7, images=90, external=False)
    shown, folded = open_and_folded(section(render(few), "classes"))
    assert not folded
    assert all(name in shown for name in few.classes)


def test_the_card_folds_its_findings_and_names_thresholds(many: Result) -> None:
    card = model_card(many)
    assert card.count("<details>") == card.count("</details>") >= 2
    thresholds = many.candidates[1].judgements["test"].calibration.thresholds
    assert set(thresholds) == set(many.classes)
    for name, limit in thresholds.items():
        assert re.search(rf"\| {re.escape(name)} \|.*\| {limit:.3f} \|", card)
    assert "sensitivity plus specificity was largest on the validation images" in card
    assert f"{many.classes[0]} {thresholds[many.classes[0]]:.3f}" in dossier_markdown(many)


def test_axes_of_areas_are_no_percentages(many: Result) -> None:
    page = render(many)
    for key in ("trade-off", "classes", "stress"):
        part = section(page, key)
        assert re.search(r"0\.\d+</text>", part)
        assert "%</text>" not in part
