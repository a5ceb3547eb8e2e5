"""The report: one self-contained HTML file, drawn from a `Result` and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from clinipress.errors import StorageError
from clinipress.records.judgement import SECTIONS
from clinipress.records.result import Result
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.pictures import read_pictures
from clinipress.reporting.html import write_html
from clinipress.reporting.page.candidates import candidates_section, gate_section, trade_off_section
from clinipress.reporting.page.classes import classes_section
from clinipress.reporting.page.devices import devices_section
from clinipress.reporting.page.external import external_section
from clinipress.reporting.page.first_screen import first_screen
from clinipress.reporting.page.matrix import matrix_section
from clinipress.reporting.page.provenance import data_section, limits_section, trail_section
from clinipress.reporting.page.pruning import pruning_section
from clinipress.reporting.page.quantization import quantization_section
from clinipress.reporting.page.seeds import seeds_section
from clinipress.reporting.view import View
from clinipress.text import plain_page

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
    return write_page(
        folder / "report.html", plain_page(render(result, read_pictures(View(result), folder)))
    )


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
    return doc.Document(title, result.synthetic, first_screen(view), sections, _footer(result))


def _footer(result: Result) -> str:
    kind = "Synthetic images. " if result.synthetic else ""
    return (
        f"{kind}Drawn from result.json (schema {result.schema_version}) by clinipress "
        f"{result.environment.clinipress}; every figure and sentence on this page is made from "
        "that record. Not a medical device; not for diagnosis."
    )
