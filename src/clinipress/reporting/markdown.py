"""report.md: the verdict, figures and sections of the HTML report as plain Markdown."""

from __future__ import annotations

from clinipress.records.result import Result
from clinipress.reporting.page.build import render
from clinipress.reporting.plain import blocks, parse

__all__ = ["markdown"]


def markdown(result: Result) -> str:
    """The whole report; the same sentences and figures as the page, whose drawings it leaves out.

    Args:
        result: The record of a study; the only source of what is said.
    """
    body = next(parse(render(result)).find("body"))
    return "\n\n".join(blocks(body)) + "\n"
