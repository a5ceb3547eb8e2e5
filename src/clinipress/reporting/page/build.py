"""The report: one self-contained HTML file, drawn from a `Result` and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from clinipress.errors import StorageError
from clinipress.records.candidate import (
    CandidateRecord,
)
from clinipress.records.result import (
    Result,
)
from clinipress.reporting.drawing.figures import icon, symbols
from clinipress.reporting.drawing.markup import Child, Markup, tag
from clinipress.reporting.drawing.parts import bullets
from clinipress.reporting.drawing.pictures import read_pictures
from clinipress.reporting.page.calibration import calibration_section
from clinipress.reporting.page.candidates import candidates_section, gate_section, trade_off_section
from clinipress.reporting.page.classes import classes_section
from clinipress.reporting.page.devices import devices_section
from clinipress.reporting.page.disagreement import disagreement_section
from clinipress.reporting.page.external import external_section
from clinipress.reporting.page.matrix import matrix_section
from clinipress.reporting.page.operating import operating_section
from clinipress.reporting.page.provenance import data_section, limits_section, trail_section
from clinipress.reporting.page.pruning import pruning_section
from clinipress.reporting.page.quantization import quantization_section
from clinipress.reporting.page.saliency import saliency_section
from clinipress.reporting.page.seeds import seeds_section
from clinipress.reporting.page.shown import TITLES
from clinipress.reporting.page.stress import stress_section
from clinipress.reporting.page.subgroups import subgroups_section
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

__all__ = ["document", "render", "write_page", "write_report"]

# No script runs and nothing is fetched, whatever a class name or a file name may hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
SYNTHETIC = tag(
    "div",
    tag("strong", "SYNTHETIC"),
    " drawn images, no patients: the figures show that the software runs, nothing else",
    class_="synthetic",
    role="note",
)
SECTIONS = (
    candidates_section,
    trade_off_section,
    gate_section,
    matrix_section,
    classes_section,
    operating_section,
    calibration_section,
    subgroups_section,
    disagreement_section,
    stress_section,
    saliency_section,
    external_section,
    seeds_section,
    devices_section,
    pruning_section,
    quantization_section,
    data_section,
    limits_section,
    trail_section,
)


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
    pictures = read_pictures(View(result), folder)
    return write_page(folder / "report.html", render(result, pictures))


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
    view = View(result, pictures)
    sections = [draw(view) for draw in SECTIONS]
    page = tag("main", _head(view), _contents([str(one) for one in sections if one]), sections)
    title = f"{'SYNTHETIC ' if result.synthetic else ''}{result.study}: compression report"
    return document(title, result.synthetic, page, _footer(result))


def document(title: str, synthetic: bool, *children: Child) -> str:
    """A whole HTML file that needs nothing from elsewhere.

    Args:
        title: Of the window.
        synthetic: The images were drawn, which stands above everything.
        children: What is in it.
    """
    style = Markup((files("clinipress.reporting.page") / "style.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", style),
    )
    body = tag("body", symbols(), SYNTHETIC if synthetic else None, *children)
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _head(view: View) -> Markup:
    """Study, verdict, what it means, and the main figures side by side."""
    result, status = view.result, view.result.verdict.status
    natural, caution = natural_sentence(view), caution_sentence(view)
    told = result.verdict.texts if status != "pass" else ()
    reasons = bullets(told, "reasons") if told else None
    banner = tag(
        "div",
        tag("p", icon(status), STATUS_WORDS[status], class_="word"),
        tag(
            "div",
            tag("p", verdict_sentence(view), class_="sentence"),
            tag("p", natural) if natural else None,
            tag("p", meaning_sentence(view)),
            tag("p", caution, class_="caution") if caution else None,
            reasons,
        ),
        class_=f"verdict {status}",
    )
    return tag(
        "header",
        tag(
            "p",
            f"Compression report \u00b7 risk class {result.risk} \u00b7 {moment(result.created)}",
            class_="over",
        ),
        tag("h1", result.study),
        banner,
        _tiles(view),
    )


def _tiles(view: View) -> Markup | None:
    """The shipped (else the closest) candidate in four figures, each beside the reference's."""
    subject, reference = view.subject, view.reference
    if subject is None or reference is None:
        return None
    split = view.compared_split
    mine = subject.evidence.get(split or "", {})
    theirs = reference.evidence.get(split or "", {})
    where = split_name(split)
    tiles = [
        _tile(
            f"Right answers, {where} images",
            figure("accuracy", mine["accuracy"].value if "accuracy" in mine else None),
            figure_interval("accuracy", mine.get("accuracy")).partition(" ")[2] or None,
            figure_interval("accuracy", theirs.get("accuracy")),
        ),
        _weakest_tile(view, subject),
        _tile(
            "File",
            megabytes(subject.file_bytes),
            size_phrase(view.size_ratio(subject)),
            megabytes(reference.file_bytes),
        ),
        _tile(_time_title(view, subject), *_times(view, subject, reference)),
    ]
    kind = "The shipped model" if view.shipped is subject else "The closest model, not shipped"
    root = reference.name if reference.name != "reference" else None
    heading = tag(
        "p",
        f"{kind}, ",
        tag("strong", subject.name),
        ", beside the reference",
        [" ", tag("strong", root)] if root else None,
        class_="beside",
    )
    return tag("div", heading, tag("div", tiles, class_="tiles"))


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
    return (
        milliseconds(mine.median if mine else None),
        phrase,
        milliseconds(theirs.median if theirs else None),
    )


def _weakest_tile(view: View, subject: CandidateRecord) -> Markup:
    """Sensitivity of the class that is found least often."""
    split = view.compared_split or ""
    mine = subject.evidence.get(split, {})
    theirs = view.reference.evidence.get(split, {}) if view.reference else {}
    found = [
        m for m in (f"sensitivity[{name}]" for name in view.result.classes) if finite(mine.get(m))
    ]
    if not found:
        return _tile("Sensitivity, weakest class", NOT_MEASURED, None, NOT_MEASURED)
    metric = min(found, key=lambda metric: mine[metric].value)
    name = metric.removeprefix("sensitivity[").removesuffix("]")
    interval = figure_interval(metric, mine[metric]).partition(" ")[2]
    return _tile(
        ["Sensitivity, weakest class: ", tag("b", name)],
        figure(metric, mine[metric].value),
        interval,
        figure_interval(metric, theirs.get(metric)),
    )


def _tile(title: Child, value: str, detail: str | None, reference: str) -> Markup:
    return tag(
        "div",
        tag("p", title, class_="title"),
        tag("p", value, class_="value"),
        tag("p", detail, class_="detail") if detail else None,
        tag("p", "reference ", reference, class_="of"),
        class_="tile",
    )


def _contents(sections: Sequence[str]) -> Markup:
    """Links to the sections that there are."""
    links = {
        "candidates": "Size, speed, accuracy",
        "trade-off": "Trade-off",
        "gate": "What was lost",
        "sections": "Every section",
        "classes": "Class by class",
        **TITLES,
        "external": "Images from elsewhere",
        "seeds": "Trained again",
        "devices": "Devices",
        "pruning": "Pruning",
        "quantization": "Low precision",
        "data": "Data",
        "limits": "Not shown",
        "trail": "Do it again",
    }
    items = [
        tag("a", text, href=f"#{identity}")
        for identity, text in links.items()
        if any(one.startswith(f'<section id="{identity}"') for one in sections)
    ]
    return tag("nav", items, aria_label="Contents")


def _footer(result: Result) -> Markup:
    kind = "Synthetic images. " if result.synthetic else ""
    return tag(
        "footer",
        f"{kind}Drawn from result.json (schema {result.schema_version}) by clinipress "
        f"{result.environment.clinipress}; every figure and sentence on this page is made from "
        "that record. Not a medical device; not for diagnosis.",
    )
