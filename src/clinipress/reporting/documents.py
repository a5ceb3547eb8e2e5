"""The report and what lies beside it: report.md, the model card, the dossier."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from clinipress.errors import StorageError
from clinipress.records.result import Result
from clinipress.reporting.dossier.data import dossier
from clinipress.reporting.dossier.people import ANSWERS, read_answers, template
from clinipress.reporting.dossier.text import dossier_markdown
from clinipress.reporting.markdown import write_markdown
from clinipress.reporting.model_card.card import model_card
from clinipress.reporting.page.build import report, write_page, write_report
from clinipress.reporting.private import kept, sent
from clinipress.text import plain_page

__all__ = ["report_markdown", "write_documents", "write_pages"]


def write_pages(result: Result, folder: Path) -> tuple[Path, ...]:
    """`write_report` and `write_documents`; their paths, the report's first."""
    return (write_report(kept(result), folder), *write_documents(result, folder))


def report_markdown(result: Result) -> str:
    """The whole report as Markdown: the page's words without its drawings."""
    return write_markdown(report(result))


def write_documents(result: Result, folder: Path) -> tuple[Path, ...]:
    """Write ``report.md``, ``model-card.md``, ``dossier.md`` and ``dossier.json`` into a folder.

    ``dossier-answers.yaml`` is made where there is none, read where there is, and never written
    again. A page that somebody changed by hand is kept as ``NAME.edited.md``.

    The report is for the run folder, the others are made to be sent and name no patient
    (`clinipress.reporting.private`). All four are made before the first is written, each is
    written whole or not at all.

    Args:
        result: The record of a study; the only source of what is said.
        folder: Where to write; made if it is not there.

    Returns:
        Their paths, and those of pages kept.

    Raises:
        InputError: The answers cannot be read.
        StorageError: A file cannot be written.
    """
    private, answers = sent(result), read_answers(folder)
    texts = {
        "report.md": report_markdown(kept(result)),
        "model-card.md": model_card(private, answers),
        "dossier.md": dossier_markdown(private, answers),
        "dossier.json": dossier(private, answers).model_dump_json(indent=1) + "\n",
    }
    texts = {name: plain_page(text) for name, text in texts.items()}  # names come with data
    edited = [path for name in texts if (path := _kept_edits(folder / name)) is not None]
    written = [
        write_page(folder / name, _marked(folder, name, text) if name.endswith(".md") else text)
        for name, text in texts.items()
    ]
    if not (folder / ANSWERS).exists():
        written.append(write_page(folder / ANSWERS, template()))
    return (*written, *edited)


def _marked(folder: Path, name: str, text: str) -> str:
    """A page with its own digest at the end, and where text typed into it by hand is kept."""
    others = sorted(path.name for path in folder.glob(f"{Path(name).stem}.edited*.md"))
    if others:
        note = (
            f"> What was typed into this file by hand is kept in {', '.join(others)}; what is to "
            f"stay belongs into {ANSWERS}.\n"
        )
        text = re.sub(r"(?m)^(# .*\n)", lambda found: f"{found[1]}\n{note}", text, count=1)
    return f"{text}\n<!-- written by clinipress, sha256 {_digest(text)} -->\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _kept_edits(path: Path) -> Path | None:
    """Put a page that is not as it was written out of the way; where it lies now, if it was."""
    if path.suffix != ".md" or not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    found = re.fullmatch(r"(.*)\n<!-- written by clinipress, sha256 (\w+) -->\n", text, re.DOTALL)
    if found is not None and _digest(found[1]) == found[2]:
        return None
    names = (f"{path.stem}.edited{number}.md" for number in ("", *map(str, range(2, 10_000))))
    aside = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    try:
        return path.rename(aside)
    except OSError as problem:
        raise StorageError(f"to keep '{path}' as '{aside.name}'", str(problem)) from None
