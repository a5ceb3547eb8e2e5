"""report.md: the verdict, figures and sections of the HTML report as plain Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from clinipress.records import Result
from clinipress.report.build import render
from clinipress.report.plain import Element, blocks, inline, parse

__all__ = ["Section", "markdown", "sections"]


@dataclass(frozen=True)
class Section:
    """A section of the report in Markdown.

    Attributes:
        title: Its heading.
        lead: Its one sentence.
        text: All of it, heading and sentence included.
    """

    title: str
    lead: str
    text: str


def markdown(result: Result) -> str:
    """The whole report; the same sentences and figures as the page, whose drawings it leaves out.

    Args:
        result: The record of a study; the only source of what is said.
    """
    body = next(parse(render(result)).find("body"))
    return "\n\n".join(blocks(body)) + "\n"


def sections(result: Result) -> dict[str, Section]:
    """The sections by the names they have in the page: "candidates", "gate", "limits", ..."""
    page = parse(render(result))
    return {one.attributes["id"]: _section(one) for one in page.find("section") if _named(one)}


def _named(element: Element) -> bool:
    return "id" in element.attributes


def _section(element: Element) -> Section:
    title = next(element.find("h2"), None)
    lead = next((one for one in element.find("p") if "lead" in one.classes), None)
    return Section(
        title=inline(title.children).strip() if title else "",
        lead=inline(lead.children).strip() if lead else "",
        text="\n\n".join(blocks(element)),
    )
