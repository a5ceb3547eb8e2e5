"""The report: one self-contained HTML file, drawn from a `Result` and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from clinipress.errors import StorageError
from clinipress.records.candidate import CandidateRecord
from clinipress.records.judgement import SECTIONS
from clinipress.records.result import Result
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.figures import icon
from clinipress.reporting.drawing.parts import reasons
from clinipress.reporting.drawing.pictures import read_pictures
from clinipress.reporting.html import write_html
from clinipress.reporting.page.candidates import candidates_section, gate_section, trade_off_section
from clinipress.reporting.page.classes import classes_section
from clinipress.reporting.page.devices import devices_section
from clinipress.reporting.page.external import external_section
from clinipress.reporting.page.matrix import matrix_section
from clinipress.reporting.page.provenance import data_section, limits_section, trail_section
from clinipress.reporting.page.pruning import pruning_section
from clinipress.reporting.page.quantization import quantization_section
from clinipress.reporting.page.seeds import seeds_section
from clinipress.reporting.view import View
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    STATUS_WORDS,
    figure,
    figure_interval,
    finite,
    megabytes,
    milliseconds,
    moment,
)
from clinipress.reporting.wording.phrases import size_phrase, speed_phrase, split_name
from clinipress.reporting.wording.sentences import (
    caution_sentence,
    meaning_sentence,
    natural_sentence,
    verdict_sentence,
)

__all__ = ["render", "report", "write_page", "write_report"]

Draw = Callable[[View], doc.Section | None]
BEFORE_EVIDENCE: tuple[Draw, ...] = (
    candidates_section,
    trade_off_section,
    gate_section,
    matrix_section,
    classes_section,
)
AFTER_EVIDENCE: tuple[Draw, ...] = (
    external_section,
    seeds_section,
    devices_section,
    pruning_section,
    quantization_section,
    data_section,
    limits_section,
    trail_section,
)


def evidence_sections() -> tuple[Draw, ...]:
    """What draws the sections of the evidence, in their order: NAME_section in the module NAME."""
    modules = ((key, import_module(f"clinipress.reporting.page.{key}")) for key in SECTIONS)
    return tuple(getattr(module, f"{key}_section") for key, module in modules)


def write_report(result: Result, folder: Path) -> Path:
    """Write ``report.html`` into a folder.

    Args:
        result: The record of a study; the only source of what is shown.
        folder: Where to write; made if it is not there. Pictures that the record names are looked
            for below it.

    Returns:
        The path of the report.

    Raises:
        StorageError: The file cannot be written.
    """
    return write_page(folder / "report.html", render(result, read_pictures(View(result), folder)))


def write_page(path: Path, text: str) -> Path:
    """Write a page whole or not at all; its path again.

    Raises:
        StorageError: It cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as problem:
        raise StorageError(
            f"room to write '{path}'", problem.strerror or str(problem), "choose another folder"
        ) from None
    return path


def render(result: Result, pictures: Mapping[str, bytes] = MappingProxyType({})) -> str:
    """The whole page as text.

    Args:
        result: The record of a study.
        pictures: File named in the record -> PNG or JPEG; where one is missing the page says so.
    """
    return write_html(report(result, pictures))


def report(result: Result, pictures: Mapping[str, bytes] = MappingProxyType({})) -> doc.Document:
    """The report as a document, from which the page and report.md are written; see `render`."""
    view = View(result, pictures)
    draws = (*BEFORE_EVIDENCE, *evidence_sections(), *AFTER_EVIDENCE)
    sections = [section for draw in draws if (section := draw(view)) is not None]
    title = f"{'SYNTHETIC ' if result.synthetic else ''}{result.study}: compression report"
    return doc.Document(title, result.synthetic, _head(view), sections, _footer(result))


def _head(view: View) -> list[doc.Content]:
    """Study, verdict, what it means, and the main figures side by side."""
    result, status = view.result, view.result.verdict.status
    natural, caution = natural_sentence(view), caution_sentence(view)
    texts = reasons(result.verdict) if status != "pass" else []
    banner = doc.Box(
        [
            doc.Paragraph([icon(status), STATUS_WORDS[status]], "word", strong=True),
            doc.Box(
                [
                    doc.Paragraph(verdict_sentence(view), "sentence"),
                    doc.Paragraph(natural) if natural else None,
                    doc.Paragraph(meaning_sentence(view)),
                    doc.Paragraph(caution, "caution") if caution else None,
                    doc.Bullets(texts, "reasons") if texts else None,
                ]
            ),
        ],
        f"verdict {status}",
    )
    return [
        doc.Paragraph(
            f"Compression report \u00b7 risk class {result.risk} \u00b7 {moment(result.created)}",
            "over",
        ),
        doc.Heading(result.study, level=1),
        banner,
        _tiles(view),
    ]


def _tiles(view: View) -> doc.Box | None:
    """The shipped (else the closest) candidate in four figures, each beside the reference's."""
    subject, reference = view.subject, view.reference
    if subject is None or reference is None:
        return None
    split = view.compared_split
    mine = subject.evidence.get(split or "", {})
    theirs = reference.evidence.get(split or "", {})
    where = split_name(split)
    tiles = [
        doc.Tile(
            f"Right answers, {where} images",
            figure("accuracy", mine["accuracy"].value if "accuracy" in mine else None),
            figure_interval("accuracy", mine.get("accuracy")).partition(" ")[2] or None,
            figure_interval("accuracy", theirs.get("accuracy")),
        ),
        _weakest_tile(view, subject),
        doc.Tile(
            "File",
            megabytes(subject.file_bytes),
            size_phrase(view.size_ratio(subject)),
            megabytes(reference.file_bytes),
        ),
        doc.Tile(_time_title(view, subject), *_times(view, subject, reference)),
    ]
    kind = "The shipped model" if view.shipped is subject else "The closest model, not shipped"
    root = reference.name if reference.name != "reference" else None
    heading = doc.Paragraph(
        [
            f"{kind}, ",
            doc.Text(subject.name, "strong"),
            ", beside the reference",
            [" ", doc.Text(root, "strong")] if root else None,
        ],
        "beside",
    )
    return doc.Box([heading, doc.Tiles(tiles)])


def _time_title(view: View, subject: CandidateRecord) -> str:
    timing = view.timing(subject)
    return "Time per image" + (", reading included" if timing and timing.preprocessing else "")


def _times(
    view: View, subject: CandidateRecord, reference: CandidateRecord
) -> tuple[str, str | None, str]:
    mine, theirs = view.timing(subject), view.timing(reference)
    phrase = speed_phrase(view.speed_ratio(subject))
    if phrase is None and mine is not None and theirs is not None:
        phrase = "timed under other conditions than the reference"
        if subject.speed is not None and not subject.speed.reliable:
            phrase = "not compared: the machine was too busy"
    return (
        milliseconds(mine.median if mine else None),
        phrase,
        milliseconds(theirs.median if theirs else None),
    )


def _weakest_tile(view: View, subject: CandidateRecord) -> doc.Tile:
    """Sensitivity of the class that is found least often."""
    split = view.compared_split or ""
    mine = subject.evidence.get(split, {})
    theirs = view.reference.evidence.get(split, {}) if view.reference else {}
    measured = [
        m for m in (f"sensitivity[{name}]" for name in view.result.classes) if finite(mine.get(m))
    ]
    if not measured:
        return doc.Tile("Sensitivity, weakest class", NOT_MEASURED, None, NOT_MEASURED)
    metric = min(measured, key=lambda metric: mine[metric].value)
    name = metric.removeprefix("sensitivity[").removesuffix("]")
    interval = figure_interval(metric, mine[metric]).partition(" ")[2]
    return doc.Tile(
        ["Sensitivity, weakest class: ", doc.Text(name, "bold")],
        figure(metric, mine[metric].value),
        interval,
        figure_interval(metric, theirs.get(metric)),
    )


def _footer(result: Result) -> str:
    kind = "Synthetic images. " if result.synthetic else ""
    return (
        f"{kind}Drawn from result.json (schema {result.schema_version}) by clinipress "
        f"{result.environment.clinipress}; every figure and sentence on this page is made from "
        "that record. Not a medical device; not for diagnosis."
    )
