"""The report and what lies beside it: report.md, the model card, the dossier."""

from __future__ import annotations

from pathlib import Path

from clinipress.records.result import Result
from clinipress.reporting.dossier.data import dossier
from clinipress.reporting.dossier.text import dossier_markdown
from clinipress.reporting.markdown import write_markdown
from clinipress.reporting.model_card.card import model_card
from clinipress.reporting.page.build import report, write_page, write_report
from clinipress.reporting.private import kept, sent

__all__ = ["report_markdown", "write_documents", "write_pages"]


def write_pages(result: Result, folder: Path) -> tuple[Path, ...]:
    """`write_report` and `write_documents`; their paths, the report's first."""
    return (write_report(kept(result), folder), *write_documents(result, folder))


def report_markdown(result: Result) -> str:
    """The whole report as Markdown: the page's words without its drawings."""
    return write_markdown(report(result))


def write_documents(result: Result, folder: Path) -> tuple[Path, ...]:
    """Write ``report.md``, ``model-card.md``, ``dossier.md`` and ``dossier.json`` into a folder.

    The report is for the run folder, the others are made to be sent and name no patient
    (`clinipress.reporting.private`). All four are made before the first is written, each is
    written whole or not at all.

    Args:
        result: The record of a study; the only source of what is said.
        folder: Where to write; made if it is not there.

    Returns:
        Their paths.

    Raises:
        StorageError: A file cannot be written.
    """
    private = sent(result)
    texts = {
        "report.md": report_markdown(kept(result)),
        "model-card.md": model_card(private),
        "dossier.md": dossier_markdown(private),
        "dossier.json": dossier(private).model_dump_json(indent=1) + "\n",
    }
    return tuple(write_page(folder / name, text) for name, text in texts.items())
