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
