"""A named set in lines of plain text, for a terminal: what was found, what is known, what to do."""

from __future__ import annotations

import json

from clinipress.data.named.prepare import PreparedSet
from clinipress.data.named.sets import ALL_SPLITS
from clinipress.data.named.tables import read_masks

__all__ = ["show_prepared"]

_STATUS = {
    "complete": "all that was published is there",
    "partial": "less than was published is there, and is used as it is",
    "different": "not what was published",
    "absent": "nothing to use is there",
}


def show_prepared(prepared: PreparedSet) -> list[str]:
    """Lines for a terminal: the status, each difference, known defects, licence, what to do next.

    Example:
        >>> from pathlib import Path
        >>> from clinipress.data.named.prepare import prepare
        >>> show_prepared(prepare("nickparvar", Path("nowhere")))[0]
        'Brain Tumor MRI Dataset, Nickparvar, in nowhere: nothing to use is there'
    """
    facts = prepared.facts
    lines = [f"{facts.title}, in {prepared.where}: {_STATUS[prepared.status]}"]
    for split, part in prepared.counts.items():
        each = ", ".join(
            f"{label} {n:,}" if label else f"{n:,} images" for label, n in part.items()
        )
        lines.append(f"  {split if split != ALL_SPLITS else 'all'}: {each}")
    lines += [f"  {line}" for line in (*prepared.differences, *prepared.notes)]
    for entry in prepared.received:
        lines.append(
            f"  came: {entry['name']} ({entry['checked']}; sha256 {entry['sha256'] or 'none'})"
        )
    lines += [f"known defect: {line}" for line in facts.defects]
    if facts.unit:
        lines.append(f"kept whole by a split: each {facts.unit}")
    lines += [f"licence: {facts.licence}", f"cite: {facts.citation}", f"page: {facts.page}"]
    if prepared.masks:
        kinds = sorted({kind for of in read_masks(prepared.masks).values() for kind in of})
        lines.append(f"put into the study, under evidence: masks: {prepared.masks}")
        if len(kinds) > 1:
            lines.append(f"and mask_kind: {' or '.join(kinds)}")
    if prepared.class_map:
        names = json.dumps(dict(prepared.class_map), ensure_ascii=False)
        lines.append(f"put into the study, under data: class_map: {names}")
    if prepared.source:
        lines.append(f"next: clinipress audit {prepared.source}")
    if prepared.steps:
        lines.append(f"published as: {facts.layout}")
        lines += [f"  {number}. {step}" for number, step in enumerate(prepared.steps, start=1)]
    return lines
