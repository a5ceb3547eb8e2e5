"""What the sections of the evidence share: where they come from, their verdict, what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from clinipress.records.candidate import CandidateRecord
from clinipress.records.judgement import SECTION_TITLES, Judgements
from clinipress.records.result import Verdict
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.parts import badge, reasons, shortened, stated_reasons
from clinipress.reporting.view import Role, View
from clinipress.reporting.wording.numbers import NOT_MEASURED
from clinipress.reporting.wording.phrases import split_name
from clinipress.text import capital

__all__ = ["HasVerdict", "SectionView", "judgement_section", "missing_sentence"]


class HasVerdict(Protocol):
    """A section's record: it has a verdict of its own."""

    @property
    def verdict(self) -> Verdict:
        """What is shown."""
        ...


S = TypeVar("S", bound=HasVerdict)


@dataclass(frozen=True)
class SectionView(Generic[S]):
    """One section on one split, and what it is shown beside.

    Attributes:
        view: The whole result.
        split: Where it was measured.
        subject: The candidate it is of.
        mine: The section.
        theirs: The reference's own, or None.
    """

    view: View
    split: str
    subject: CandidateRecord
    mine: S
    theirs: S | None

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.subject.name

    @property
    def role(self) -> Role:
        """The candidate's shape in figures."""
        return self.view.role(self.subject)

    @property
    def where(self) -> str:
        """The split as an adjective: "sealed test"."""
        return split_name(self.split)


def missing_sentence(key: str, split: str, judgements: Judgements) -> str:
    """What was not measured, where, and why."""
    reason = judgements.not_measured.get(key, "").rstrip(".") or "the record gives no reason"
    return f"{SECTION_TITLES[key]}: {NOT_MEASURED} on the {split_name(split)} images ({reason})."


def judgement_section(
    view: View,
    key: str,
    get: Callable[[Judgements], S | None],
    sentence: Callable[[SectionView[S]], str],
    body: Callable[[SectionView[S]], Sequence[doc.Content]],
    note: str,
) -> doc.Section | None:
    """One section of the subject's evidence: its own images first, then sets from elsewhere.

    Args:
        view: The whole result.
        key: Name of the section (`clinipress.records.judgement.SECTIONS`).
        get: Its record among the judgements, or None where it was not measured.
        sentence: What the figures say, in one sentence or two.
        body: Tables and figures.
        note: How to read them.

    Returns:
        None where the subject has no judgements at all: one table says so for all sections.
    """
    subject, splits = view.subject, view.judged_splits
    if subject is None or not splits:
        return None
    leads: list[str] = []
    blocks: list[doc.Content] = []
    for split in splits:
        mine = get(subject.judgements[split])
        theirs = view.reference.judgements.get(split) if view.reference else None
        heading = doc.Heading(f"{capital(split_name(split))} images", "split")
        if mine is None:
            leads.append(missing_sentence(key, split, subject.judgements[split]))
            blocks += [heading, doc.Paragraph(leads[-1], "empty")] if leads[1:] else []
            continue
        shown = SectionView(view, split, subject, mine, get(theirs) if theirs else None)
        leads.append(sentence(shown))
        further = doc.Paragraph(leads[-1]) if leads[1:] else None
        blocks.append([heading if splits[1:] else None, further, _judged(mine.verdict)])
        blocks.append(body(shown))
    if blocks:
        blocks.append(doc.Paragraph(view.told(note), "note"))
    return doc.Section(key, SECTION_TITLES[key], leads[0], blocks)


def _judged(verdict: Verdict) -> doc.Box:
    """The section's verdict with its reasons."""
    texts = stated_reasons(verdict)
    why: doc.Content = doc.Text(reasons(verdict), "span", "soft") if texts else None
    if len(texts) > 1:
        why = doc.Bullets(shortened(texts))
    return doc.Box([badge(verdict), why], "judged")
