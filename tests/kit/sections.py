"""One section of the report as text, made from SYNTHETIC judgements that a test changes."""

from __future__ import annotations

import re
from typing import Any

from clinipress.records.result import Result
from clinipress.reporting.page.build import render
from kit.judgements import pictures, with_judgements
from kit.pages import Page

SHIPPED = "pruned-int8"


def with_part(study: Result, key: str, **changes: Any) -> Result:
    """The study with drawn judgements, one section of its shipped candidate changed."""
    study = with_judgements(study)
    records = []
    for record in study.candidates:
        if record.name == SHIPPED:
            found = record.judgements["test"]
            part = getattr(found, key).model_copy(update=changes)
            judgements = {"test": found.model_copy(update={key: part})}
            records.append(record.model_copy(update={"judgements": judgements}))
        else:
            records.append(record)
    return study.model_copy(update={"candidates": tuple(records)})


def markup(study: Result, key: str) -> str:
    """The section as HTML."""
    found = re.search(rf'<section id="{key}">.*?</section>', render(study, pictures()))
    return found[0] if found else ""


def words(html: str) -> str:
    """Its text, with plain spaces and minus signs."""
    return Page(html).text.replace("\u202f", " ").replace("\u2212", "-").replace("\u2013", "-")


def lead(html: str) -> str:
    """Its opening sentence."""
    found = re.search(r'<p class="lead">(.*?)</p>', html)
    return words(f"<p>{found[1]}</p>").strip() if found else ""
