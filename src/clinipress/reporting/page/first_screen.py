"""The first screen: what the report is for, the verdict about loss, and what to do next."""

from __future__ import annotations

from clinipress.reporting import document as doc
from clinipress.reporting.drawing.figures import icon
from clinipress.reporting.drawing.parts import cell, column_heads, stated_reasons
from clinipress.reporting.measures import Measure
from clinipress.reporting.view import View
from clinipress.reporting.wording.lead import (
    Lead,
    SectionMark,
    change_words,
    lead,
    measure_name,
    privacy_sentence,
    reading,
    release_sentence,
)
from clinipress.reporting.wording.numbers import figure, moment
from clinipress.reporting.wording.sentences import caution_sentence, natural_sentence
from clinipress.text import capital

__all__ = ["TONES", "both_figures", "first_screen"]

TONES = {"worse": "fail", "better": "pass", None: None}


def first_screen(view: View) -> list[doc.Content]:
    """Everything above the contents of the page."""
    result, first = view.result, lead(view)
    over = (
        f"Compression report \u00b7 clinipress {result.environment.clinipress} \u00b7 risk class "
        f"{result.risk} \u00b7 {moment(result.created)}"
    )
    return [
        doc.Paragraph(over, "over"),
        doc.Bullets(first.facts, "over facts-line"),
        doc.Heading(result.study, level=1),
        _changed(first),
        _banner(view, first),
        _changes(first) if first.changes else None,
        _strip(first.sections),
        _next(view, first),
    ]


def _changed(first: Lead) -> doc.Content:
    if not first.changed:
        return None
    title = doc.Text("The rules changed after the test set was opened", "strong")
    return doc.Box([title, doc.Bullets(first.changed)], "warnings")


def _banner(view: View, first: Lead) -> doc.Box:
    natural, caution = natural_sentence(view), caution_sentence(view)
    passed = view.result.verdict.status == "pass"
    texts = [] if passed else stated_reasons(view.result.verdict)
    released = release_sentence(view)
    return doc.Box(
        [
            doc.Box(
                [
                    doc.Paragraph([icon(first.tone), first.word], "word", strong=True),
                    doc.Bullets(first.beside, "beside-word"),
                ]
            ),
            doc.Box(
                [
                    doc.Paragraph(first.headline, "sentence"),
                    [doc.Paragraph(line) for line in first.lines],
                    doc.Paragraph(natural) if natural else None,
                    doc.Paragraph(caution, "caution") if caution else None,
                    doc.Paragraph(released, "soft") if released else None,
                    doc.Bullets(texts, "reasons") if texts else None,
                ]
            ),
        ],
        f"verdict {first.tone}",
    )


def _changes(first: Lead) -> doc.DataTable:
    """The main changes; all of them stand in the section of changes."""
    rows = [_change_row(measure) for measure in first.changes]
    if first.flips:
        cells = [
            doc.DataCell("Answers changed", heads="row"),
            cell("Original", None),
            cell("Compressed", None),
            cell("Difference (95% CI)", first.flips),
            cell("Reads as", first.flips_reading),
        ]
        rows.append(doc.DataRow(cells))
    heads = column_heads(["Measure", "Original", "Compressed", "Difference (95% CI)", "Reads as"])
    caption = "What changed most (compressed minus original; shares in percentage points)"
    return doc.DataTable(heads, [doc.RowGroup(rows)], "cards rows lead-changes", caption)


def _change_row(measure: Measure) -> doc.DataRow:
    """One measure: both figures, the difference with its direction, and how it reads."""
    before, after = both_figures(measure)
    word = doc.Text(reading(measure), "bold", TONES[measure.shown])
    cells = [
        doc.DataCell(capital(measure_name(measure)), heads="row"),
        cell("Original", before),
        cell("Compressed", after),
        cell("Difference (95% CI)", change_words(measure.metric, measure.change, measure.limit)),
        cell("Reads as", word),
    ]
    return doc.DataRow(cells)


def both_figures(measure: Measure) -> tuple[str, str]:
    """The original's figure and the compressed model's."""
    before, after = measure.reference, measure.compressed
    return (
        figure(measure.metric, before.value if before else None),
        figure(measure.metric, after.value if after else None),
    )


def _strip(sections: tuple[SectionMark, ...]) -> doc.Bullets:
    """The six sections with their verdicts; those that can stop the model are marked."""
    return doc.Bullets([_mark(section) for section in sections], "sections-strip")


def _mark(section: SectionMark) -> doc.Content:
    title: doc.Content = section.title
    if section.status is not None:
        title = doc.Text(section.title, "link", address=f"#{section.key}")
    guard = doc.Text("can stop the model", "aside", "small") if section.guard else None
    shape = icon(section.status) if section.status else None
    return [
        title,
        guard,
        doc.Text([shape, section.word], "badge", f"badge {section.status or 'none'}"),
    ]


def _next(view: View, first: Lead) -> doc.Box:
    return doc.Box(
        [
            doc.Paragraph([doc.Text("External test:", "bold"), f" {' '.join(first.external)}"]),
            doc.Paragraph(doc.Text("What to do next", "bold")) if first.steps else None,
            doc.Bullets(first.steps) if first.steps else None,
            doc.Paragraph(
                [
                    doc.Text("Limitations", "link", address="#limits"),
                    f". {privacy_sentence(view, sent=False)}",
                ],
                "soft small",
            ),
        ],
        "next",
    )
