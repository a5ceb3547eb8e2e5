"""What lies beside report.html: report.md, the model card, the dossier for people and machines."""

from __future__ import annotations

from pathlib import Path

from clinipress.errors import StorageError
from clinipress.records import Result
from clinipress.report.dossier import dossier
from clinipress.report.dossier_text import dossier_markdown
from clinipress.report.markdown import markdown
from clinipress.report.model_card import model_card

__all__ = ["write_documents"]


def write_documents(result: Result, folder: Path) -> tuple[Path, ...]:
    """Write ``report.md``, ``model-card.md``, ``dossier.md`` and ``dossier.json`` into a folder.

    All four are made before the first is written, each is written whole or not at all.

    Args:
        result: The record of a study; the only source of what is said.
        folder: Where to write; made if it is not there.

    Returns:
        Their paths.

    Raises:
        StorageError: A file cannot be written.
    """
    texts = {
        "report.md": markdown(result),
        "model-card.md": model_card(result),
        "dossier.md": dossier_markdown(result),
        "dossier.json": dossier(result).model_dump_json(indent=1) + "\n",
    }
    return tuple(_write(folder / name, text) for name, text in texts.items())


def _write(path: Path, text: str) -> Path:
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
