"""A table from its studies' results: rows, footnotes that are referred to, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clinipress.evidence.saliency.section import INDEPENDENT, RANDOMIZED
from clinipress.papers.columns import EntryOutcome
from clinipress.papers.papers import Paper
from clinipress.papers.recipes import Scale, reductions
from clinipress.papers.records import Table, TablePanel, TableRow
from clinipress.papers.rows import columns_for, rows_of
from clinipress.reporting.wording.numbers import counted, duration, figure_interval

__all__ = ["build"]


def build(
    paper: Paper, scale: Scale, outcomes: Sequence[EntryOutcome], failed: Mapping[str, str]
) -> Table:
    """The table as it is written, of the finished studies in the grid's order."""
    columns = columns_for(paper.key, outcomes)
    rows = rows_of(paper, outcomes, columns)
    return Table(
        source=paper.key,
        title=paper.title,
        citation=paper.citation,
        read=paper.read,
        scale=scale,
        said=(reductions(scale), *_sentences(paper, outcomes), *_without_panels(outcomes)),
        columns=tuple(column.title for column in columns),
        rows=rows,
        notes=_notes(paper, rows),
        panels=_panels(outcomes),
        failed=dict(failed),
        synthetic=any(outcome.result.synthetic for outcome in outcomes),
    )


def _sentences(paper: Paper, outcomes: Sequence[EntryOutcome]) -> list[str]:
    if not outcomes:
        return ["No study is finished yet."]
    first = outcomes[0].result
    counts = ", ".join(f"{name} {count:,}" for name, count in first.audit.classes.items())
    split = first.split
    parts = ", ".join(f"{name} {sum(by.values()):,}" for name, by in split.counts.items())
    spent = sum(sum(outcome.result.seconds.values()) for outcome in outcomes)
    machine = first.environment
    trivial = first.audit.baseline_accuracy
    blind = (
        [f"Facts of the files alone, no picture, give {figure_interval('accuracy', trivial)}."]
        if trivial is not None
        else []
    )
    return [
        f"The source's images: {paper.data}.",
        f"Measured on {first.audit.images:,} images ({counts}), divided by {split.by}: {parts}.",
        *blind,
        (
            "Falls are reference minus candidate on the same validation images; intervals are of "
            "95 %. The test split stays sealed where nothing of a study passed its validation: "
            'then its column reads "not measured".'
        ),
        (
            f"{machine.cpu}, {counted(machine.cores, 'core')}; times of one image on one thread; "
            f"the studies took {duration(spent)} together, without what an earlier run had "
            "finished."
        ),
    ]


def _notes(paper: Paper, rows: Sequence[TableRow]) -> dict[str, str]:
    used = [key for row in rows for key in row.notes]
    used += [key for row in rows for cell in row.cells.values() for key in cell.notes]
    return {key: paper.notes[key] for key in dict.fromkeys((*used, *paper.general))}


def _panels(outcomes: Sequence[EntryOutcome]) -> tuple[TablePanel, ...]:
    panels: dict[str, TablePanel] = {}
    for outcome in outcomes:
        names = {plan.of.get("row"): plan.name for plan in outcome.entry.rows}
        for candidate in outcome.result.candidates:
            control = names.get(candidate.control, "trained apart")
            titles = names | {INDEPENDENT: control, RANDOMIZED: "random weights"}
            for judgements in candidate.judgements.values():
                for panel in judgements.saliency.panels if judgements.saliency is not None else ():
                    path = f"{outcome.entry.key}/{panel.picture}"
                    panels[path] = TablePanel(
                        entry=outcome.entry.key,
                        picture=path,
                        titles=tuple(titles.get(title, title) for title in panel.titles),
                        key=panel.key,
                        truth=panel.truth,
                        explained=panel.explained,
                    )
    return tuple(panels.values())


def _without_panels(outcomes: Sequence[EntryOutcome]) -> list[str]:
    """Which studies asked where the networks look and have no picture."""
    bare = [
        outcome.entry.key
        for outcome in outcomes
        if outcome.entry.study.evidence.saliency and not _panels([outcome])
    ]
    if not bare:
        return []
    return [
        f"No Score-CAM panels of {', '.join(bare)}: the network cannot be explained; the study's "
        "report says why."
    ]
