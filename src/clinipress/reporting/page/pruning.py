"""What pruning bought and where it hurts: cost before and after, and each layer's sensitivity."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clinipress.records.candidate import Applied, CandidateRecord
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.figures import Scale, line, nice_ticks, position
from clinipress.reporting.drawing.markup import Markup, tag
from clinipress.reporting.drawing.parts import grid
from clinipress.reporting.view import View
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    counted,
    large,
    megabytes,
    milliseconds,
    percent,
)

__all__ = ["pruning_section", "sensitivity_plot"]

LEFT, RIGHT = 14.0, 97.0  # percent of the width
TOP, BOTTOM, HEIGHT = 12, 196, 240  # pixels
NAMED = 3  # layers that the text names
WIDE = {"parameters": "Parameters", "macs": "Multiply-adds per image"}


def pruning_section(view: View) -> doc.Section | None:
    """One block per pruned candidate; None when nothing was pruned."""
    blocks = [_block(view, record, step) for record, step in _pruned(view)]
    if not blocks:
        return None
    lead = (
        "Channels and heads were removed for good: the files are smaller, nothing is masked. "
        "Costs are counted or measured before and after; zeros are not."
    )
    return doc.Section("pruning", "What pruning removed", lead, blocks, short="Pruning")


def _pruned(view: View) -> Iterator[tuple[CandidateRecord, Applied]]:
    """Torch-side candidates whose last step is a pruning, with that step."""
    for record in view.candidates:
        steps = [step for step in record.history if step.step != "export"]
        own = len(record.history) - len(steps) <= 1 and record.precision == "float32"
        if own and steps and steps[-1].step == "prune":
            yield record, steps[-1]


def _block(view: View, record: CandidateRecord, step: Applied) -> doc.Box:
    parent = view.named(record.parent)
    title = doc.Heading([record.name, f" from {parent.name}" if parent else None])
    curves = step.facts.get("sensitivity")
    return doc.Box(
        [
            title,
            doc.Paragraph(_asked(step)),
            grid(
                ["", "Before", "After", "Removed"],
                list(_rows(record, parent, step)),
                "plain counts",
            ),
            _rounds(step.facts.get("rounds", ()), view.told("accuracy")),
            _sensitivity(curves, view.told("accuracy")) if curves and curves["layers"] else None,
        ]
    )


def _asked(step: Applied) -> str:
    settings = step.params.get("asked", {})
    rounds = int(settings.get("rounds", 1))
    share = {"macs": "multiply-adds"}.get(settings.get("of", "cost"), settings.get("of", "cost"))
    texts = [f"Asked: {percent(settings.get('ratio', 0.0))} of the {share}"]
    texts.append(f"criterion {settings.get('criterion', NOT_MEASURED)}")
    texts.append(f"ranked {settings.get('scope', NOT_MEASURED)}")
    texts.append(counted(rounds, "round"))
    return ", ".join(texts) + "."


def _rows(
    record: CandidateRecord, parent: CandidateRecord | None, step: Applied
) -> Iterator[list[doc.Content]]:
    before, after = step.facts.get("before", {}), step.facts.get("after", {})
    for key, name in WIDE.items():
        yield _row(name, before.get(key), after.get(key), large)
    files = parent.file_bytes if parent else None, record.file_bytes
    yield _row("File", *files, megabytes)
    mine, theirs = record.latency_ms, parent.latency_ms if parent else None
    yield _row(
        "Time per image", theirs.median if theirs else None, mine.median if mine else None,
        milliseconds,
    )  # fmt: skip


def _row(name: str, before: float | None, after: float | None, write: Any) -> list[doc.Content]:
    texts: list[doc.Content] = [
        write(value) if value is not None else NOT_MEASURED for value in (before, after)
    ]
    gone = percent(1 - after / before) if before and after is not None else NOT_MEASURED
    return [name, *texts, gone]


def _rounds(rounds: Sequence[Mapping[str, Any]], accuracy: str) -> doc.Details | None:
    if len(rounds) < 2:
        return None
    rows: list[list[doc.Content]] = [
        [
            str(number),
            large(training["parameters"]),
            large(training["macs"]),
            percent(training["best_validation_accuracy"])
            if "best_validation_accuracy" in training
            else NOT_MEASURED,
        ]
        for number, training in enumerate(rounds, start=1)
    ]
    heads = ["Round", "Parameters", "Multiply-adds", f"Best validation {accuracy}"]
    return doc.Details(f"Round by round ({len(rounds)})", grid(heads, rows, "plain counts"))


def _sensitivity(curves: Mapping[str, Any], accuracy: str) -> doc.Box:
    """The curves, what they say in words, and their numbers."""
    layers = curves["layers"]
    order = sorted(layers, key=lambda row: sum(row["accuracies"]) / len(row["accuracies"]))
    names = ", ".join(row["name"] for row in order[:NAMED])
    text = (
        f"Validation {accuracy} on {counted(curves['images'], 'image')} when one layer alone "
        f"loses a share of its channels, before any fine-tuning. Most delicate: {names}."
    )
    rows: list[list[doc.Content]] = [
        [
            row["name"],
            ", ".join(
                f"{percent(s)}: {percent(a)}"
                for s, a in zip(row["shares"], row["accuracies"], strict=True)
            ),
        ]
        for row in order
    ]
    return doc.Box(
        [
            doc.Heading("How much each layer bears"),
            doc.Paragraph(text),
            sensitivity_plot(layers, curves["baseline"], accuracy),
            doc.Details(
                f"All {counted(len(rows), 'layer')}",
                grid(["Layer", f"Share removed: {accuracy}"], rows),
            ),
        ]
    )


def sensitivity_plot(
    layers: Sequence[Mapping[str, Any]], baseline: float, accuracy: str = "accuracy"
) -> Markup:
    """Accuracy against the share of one layer's channels removed, one line per layer.

    Args:
        layers: Rows of name, shares and accuracies, shares ascending in (0, 1].
        baseline: Accuracy with nothing removed, where all lines begin.
        accuracy: What it is called.
    """
    values = [baseline, *(value for row in layers for value in row["accuracies"])]
    air = max(0.05 * (max(values) - min(values)), 0.01)
    up = Scale(max(min(values) - air, 0.0), min(max(values) + air, 1.0), BOTTOM, TOP)
    across = Scale(0.0, 1.0, LEFT, RIGHT)
    worst = min(layers, key=lambda row: sum(row["accuracies"]) / len(row["accuracies"]))
    parts = _axes(across, up)
    for row in sorted(layers, key=lambda row: row is worst):  # the most delicate one on top
        parts += _curve(row, baseline, across, up, "whisker shipped" if row is worst else "whisker")
    alone = f"when one layer alone is pruned, {counted(len(layers), 'layer')}"
    title = f"{accuracy[0].upper()}{accuracy[1:]} {alone}"
    return tag("svg", parts, class_="plot", height=str(HEIGHT), role="img", aria_label=title)


def _curve(
    row: Mapping[str, Any], baseline: float, across: Scale, up: Scale, class_: str
) -> list[Markup]:
    spots = [(0.0, baseline), *zip(row["shares"], row["accuracies"], strict=True)]
    places = [(across.at(share), up.at(value)) for share, value in spots]
    return [
        tag("g", tag("title", row["name"]), line(class_, *start, *end))
        for start, end in itertools.pairwise(places)
    ]


def _axes(across: Scale, up: Scale) -> list[Markup]:
    parts: list[Markup] = []
    for tick in nice_ticks(up.low, up.high):
        y = up.at(tick)
        parts.append(line("grid", LEFT, y, 100, y))
        parts.append(tag("text", percent(tick), class_="end", x="12.5%", y=f"{y + 4:.4g}"))
    for tick in nice_ticks(0.0, 1.0, 5):
        x = across.at(tick)
        parts.append(line("tick", x, BOTTOM + 6, x, BOTTOM + 11))
        parts.append(tag("text", percent(tick), class_="mid", x=position(x), y=str(BOTTOM + 24)))
    parts.append(line("base", LEFT, BOTTOM + 6, 100, BOTTOM + 6))
    parts.append(
        tag("text", "share of channels removed", class_="end unit", x="100%", y=str(HEIGHT - 4))
    )
    return parts
