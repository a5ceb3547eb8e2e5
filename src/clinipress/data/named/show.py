"""A named set in lines of plain text, for a terminal: what was found, what is known, what to do."""

from __future__ import annotations

import json

from clinipress.data.named.prepare import Prepared
from clinipress.data.named.sets import ALL_SPLITS
from clinipress.data.named.tables import read_masks

__all__ = ["show_prepared"]

_STATUS = {
    "complete": "all that was published is there",
    "partial": "less than was published is there, and is used as it is",
    "different": "not what was published",
    "absent": "nothing to use is there",
}


def show_prepared(found: Prepared) -> list[str]:
    """Lines for a terminal: the status, each difference, known defects, licence, what to do next.

    Example:
        >>> from pathlib import Path
        >>> from clinipress.data.named.prepare import prepare
        >>> show_prepared(prepare("nickparvar", Path("nowhere")))[0]
        'Brain Tumor MRI Dataset, Nickparvar, in nowhere: nothing to use is there'
    """
    facts = found.facts
    lines = [f"{facts.title}, in {found.where}: {_STATUS[found.status]}"]
    for split, part in found.counts.items():
        each = ", ".join(
            f"{label} {n:,}" if label else f"{n:,} images" for label, n in part.items()
        )
        lines.append(f"  {split if split != ALL_SPLITS else 'all'}: {each}")
    lines += [f"  {line}" for line in (*found.differences, *found.notes)]
    for one in found.received:
        lines.append(f"  came: {one['name']} ({one['checked']}; sha256 {one['sha256'] or 'none'})")
    lines += [f"known defect: {line}" for line in facts.defects]
    if facts.unit:
        lines.append(f"kept whole by a split: each {facts.unit}")
    lines += [f"licence: {facts.licence}", f"cite: {facts.citation}", f"page: {facts.page}"]
    if found.masks:
        kinds = sorted({kind for of in read_masks(found.masks).values() for kind in of})
        lines.append(f"put into the study, under evidence: masks: {found.masks}")
        if len(kinds) > 1:
            lines.append(f"and mask_kind: {' or '.join(kinds)}")
    if found.class_map:
        names = json.dumps(dict(found.class_map), ensure_ascii=False)
        lines.append(f"put into the study, under data: class_map: {names}")
    if found.source:
        lines.append(f"next: clinipress audit {found.source}")
    if found.steps:
        lines.append(f"published as: {facts.layout}")
        lines += [f"  {number}. {step}" for number, step in enumerate(found.steps, start=1)]
    return lines
