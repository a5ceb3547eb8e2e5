"""Several findings in one image: the words of every page, and pages of many findings."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clinipress.cli import terminal
from clinipress.evidence.gate import rules_for
from clinipress.evidence.judged import Declared, judged, statistics
from clinipress.evidence.scores import Scores
from clinipress.recipe.study import EvidenceRecipe
from clinipress.records.result import Reason, Result
from clinipress.reporting.documents import report_markdown
from clinipress.reporting.dossier.text import dossier_markdown
from clinipress.reporting.model_card.card import model_card
from clinipress.reporting.page.build import render
from clinipress.reporting.view import View
from clinipress.reporting.wording.limits import limits
from clinipress.reporting.wording.numbers import of_findings
from kit.findings import findings_study
from kit.judgements import pictures, with_judgements

DECLARED = Declared("medium", EvidenceRecipe(), 20)
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
    assert set(many.classes) - set(thresholds) == {"Hernia"}  # no validation image shows it
    (row,) = [line for line in card.splitlines() if line.startswith("| Hernia | ")]
    assert row.split(" | ")[4:] == ["no threshold: not asked", "not measured", "not measured |"]
    assert "Hernia has no threshold" in card
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


def rare_elsewhere(several: bool, pieces: tuple[int, int, int, int]) -> Scores:
    """Images found, missed, called in vain and spared at a threshold of 0.3."""
    hits = np.repeat([1, 1, 0, 0], pieces)
    odds = np.where(np.repeat([1, 0, 1, 0], pieces), 0.0, -3.0)  # 0.5 and 0.05
    n = len(hits)
    common = {"units": np.arange(n), "keys": tuple(f"{i}.png" for i in range(n))}
    if several:
        labels, logits = np.stack([hits, -np.ones(n)], axis=1), np.stack([odds, odds], axis=1)
        return Scores(logits=logits.astype(np.float32), labels=labels.astype(np.int64),
                      classes=("nodule", "mass"), thresholds=(0.3, 0.5), **common)  # fmt: skip
    odds = np.where(odds < 0, -3.0, 1.0)
    logits = np.stack([odds, np.zeros(n)], axis=1)
    return Scores(logits=logits.astype(np.float32), labels=1 - hits, classes=("nodule", "none"),
                  positive="nodule", **common)  # fmt: skip


@pytest.mark.parametrize("several", [True, False])
def test_a3_calls_where_a_finding_is_rarer_than_in_validation(
    study: Result, make_study, several: bool
) -> None:
    # 40 % in validation, 5 % elsewhere, the same sensitivity and specificity
    parts = {"validation": (104, 16, 54, 126), "external: clinic": (13, 2, 85, 200)}
    result = study if several else make_study(classes=("nodule", "none"))
    result = result.model_copy(update={"classes": ("nodule", "mass" if several else "none")})
    scores = {split: rare_elsewhere(several, pieces) for split, pieces in parts.items()}
    rules = rules_for("medium", several="auroc_macro" if several else None)
    records = []
    for record in result.candidates[:1] + tuple(
        r for r in result.candidates if r.name == result.shipped
    ):
        update: dict[str, dict[str, Any]] = {"evidence": {}, "confusion": {}, "judgements": {}}
        for split, each in scores.items():
            inside = scores["validation"]
            found = statistics(DECLARED, each, each, validation=(inside, inside))
            part = judged(DECLARED, rules, each, each, found)
            update["evidence"][split] = part.evidence
            update["confusion"][split] = part.confusion
            update["judgements"][split] = found
        records.append(record.model_copy(update=update))
    result = result.model_copy(
        update={"candidates": tuple(records), "positive": None if several else "nodule"}
    )
    text = re.sub(r"\s+", " ", plain(section(render(result), "external")))
    assert "Present and called, external (clinic) images" in text
    ppv = records[1].evidence["external: clinic"]["precision[nodule]"]
    low, high = (f"{100 * end:.1f}" for end in (ppv.low, ppv.high))
    assert ppv.value == 13 / 98
    assert re.search(rf" 15 98 13\.3% \({low}.{high}\)", text)
    # the same at 40 %: .867 * .4 / (.867 * .4 + .298 * .6)
    assert re.search(r"66\.0% \([\d.]+.[\d.]+\) at 40\.0%", text)
    assert "Thresholds are those of the validation images; none was chosen on these images" in text
    assert "mass" not in text.partition("Present and called")[2]  # nobody knows of it there


def test_thresholds_chosen_on_few_images_are_a_limitation(study: Result) -> None:
    assert not [text for text in limits(View(study)) if "chose on the validation" in text]
    rules = rules_for("medium", several="sensitivity[*]")
    few = study.split.model_copy(
        update={"counts": study.split.counts | {"validation": {"Edema": 3, "Mass": 4000}}}
    )
    asked = study.model_copy(update={"rules": rules, "split": few})
    (text,) = (x for x in limits(View(asked)) if "chose on the validation" in x)
    assert "another validation set would have given other thresholds" in text
    assert "Fewest validation images show Edema (3)" in text
    assert "Mass" not in text


def test_confidence_of_a_flip_is_said_to_be_relative(study: Result, make_study) -> None:
    words = "Confidence is relative to the finding's own threshold"
    assert words in plain(section(render(study), "disagreement"))
    assert words not in plain(render(with_judgements(make_study())))


def test_findings_that_too_few_show_are_never_among_the_six(study: Result) -> None:
    view = View(study)
    shown, folded = view.lost_most_first(study.classes)
    assert len(shown) == 6
    assert "Hernia" in folded
    few = [Reason(kind="few units", metric="auroc", parameters={"units": {shown[0]: 1.0}})]
    subject = view.subject
    assert subject is not None
    assert subject.verdict is not None
    verdict = subject.verdict.model_copy(update={"reasons": few})
    records = [subject.model_copy(update={"verdict": verdict}) if r is subject else r
               for r in study.candidates]  # fmt: skip
    again = View(study.model_copy(update={"candidates": tuple(records)}))
    assert shown[0] in again.lost_most_first(study.classes)[1]


def test_grades_keep_their_order_in_confusion_and_calibration(make_study) -> None:
    order = ("none", "mild", "moderate", "severe")
    result = make_study(classes=tuple(sorted(order))).model_copy(update={"order": order})
    records = []
    for record in result.candidates:
        random = np.random.default_rng(0)
        truth = random.integers(0, 4, 80)
        each = Scores(
            logits=random.normal(size=(80, 4)).astype(np.float32), labels=truth,
            units=np.arange(80), keys=tuple(f"{n}.png" for n in range(80)),
            classes=result.classes, order=order,
        )  # fmt: skip
        found = statistics(DECLARED, each, each, validation=(each, each))
        split = "test" if "test" in record.evidence else "validation"
        records.append(record.model_copy(update={"judgements": {split: found}}))
    page = render(result.model_copy(update={"candidates": tuple(records)}))
    matrix = re.findall(r"<table class=\"heat.*?</table>", page, re.DOTALL)[0]
    heads = [plain(cell).strip() for cell in re.findall(r"<th[^>]*>.*?</th>", matrix, re.DOTALL)]
    assert [head for head in heads if head in order] == [*order, *order]
    text = plain(section(page, "calibration")).partition("By grade, after the temperature")[2]
    graver = [line for line in text.split("\n") if line.strip() and line.split()[0] in order]
    assert [line.split()[0] for line in graver][:3] == ["mild", "moderate", "severe"]
