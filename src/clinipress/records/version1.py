"""Records of schema version 1, as clinipress 0.1.0 wrote them, turned into those of version 2.

Plain data in, plain data out; nothing here knows what the fields mean beyond their sign and name:

- differences were reference minus candidate under `drop`, `drops`, `..._drop` and `excess`; now
  they are candidate minus reference under `changes`, `..._change` and `added_change`;
- `drop` with its `drop_split` was one entry of `drops` and is now in `changes` alone;
- a reason was a sentence, beside it at times `reason_statuses`; now it is an object;
- what a section concludes was among `findings`, now among `judgements`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clinipress.text import true_minus

__all__ = ["external_of_version1", "result_of_version1"]

Plain = Mapping[str, Any]


def result_of_version1(tree: Plain) -> dict[str, Any]:
    """A ``result.json`` of version 1 as one of version 2.

    Args:
        tree: What the file holds; it is not changed. Parts that are not as version 1 has them are
            passed on as they are, for whoever checks the result.
    """
    return {
        **tree,
        "schema_version": "2",
        "verdict": _verdict(tree.get("verdict")),
        "candidates": _each(tree.get("candidates"), _candidate),
        "external_tests": _each(tree.get("external_tests", []), external_of_version1),
        "over_seeds": _values(tree.get("over_seeds", {}), _over_seeds),
    }


def external_of_version1(tree: Any) -> Any:
    """A ``RUN/external/NAME.json`` of version 1; one of version 2 is passed on as it is."""
    if not isinstance(tree, Mapping):
        return tree
    return {**tree, "rows": _values(tree.get("rows", {}), _external_row)}


def _candidate(row: Any) -> Any:
    if not isinstance(row, Mapping):
        return row
    fields = {k: v for k, v in row.items() if k not in ("drop", "drop_split", "drops", "findings")}
    drops = row.get("drops", {})
    if isinstance(drops, Mapping) and isinstance(row.get("drop_split"), str) and row.get("drop"):
        drops = {row["drop_split"]: row["drop"], **drops}
    return {
        **fields,
        "changes": _values(drops, _turned_all),
        "judgements": _values(row.get("findings", {}), _sections),
        "verdict": _verdict(row.get("verdict")),
    }


def _external_row(row: Any) -> Any:
    if not isinstance(row, Mapping) or "changes" in row:
        return row
    fields = {key: value for key, value in row.items() if key not in ("drop", "findings")}
    return {
        **fields,
        "changes": _turned_all(row.get("drop", {})),
        "judgements": _sections(row.get("findings")),
        "verdict": _verdict(row.get("verdict")),
    }


def _over_seeds(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    fields = {key: value for key, value in entry.items() if key != "drop"}
    return {**fields, "changes": _values(entry.get("drop", {}), _turned_spread)}


def _turned_spread(spread: Any) -> Any:
    """Of one figure over several seeds."""
    if not isinstance(spread, Mapping) or not _numbers(spread.get("values")):
        return spread
    values = [0 - value for value in spread["values"]]
    return {**_turned(spread), "values": values, "mean": _turned(spread.get("mean"))}


def _sections(sections: Any) -> Any:
    """All sections of one candidate on one split."""
    if not isinstance(sections, Mapping):
        return sections
    return {name: _section(section) for name, section in sections.items()}


def _section(section: Any) -> Any:
    """One section, or a part of one: whatever in it is a difference or a verdict."""
    if isinstance(section, list):
        return [_section(part) for part in section]
    if not isinstance(section, Mapping):
        return section
    parts: dict[str, Any] = {}
    for name, part in section.items():
        if name == "verdict":
            parts[name] = _verdict(part)
        elif name == "drops":
            parts["changes"] = _turned_all(part)
        elif name in _DIFFERENCES:
            parts[_DIFFERENCES[name]] = _turned(part)
        else:
            parts[name] = _section(part)
    return parts


_DIFFERENCES = {
    "drop": "change",
    "excess": "added_change",
    "sensitivity_drop": "sensitivity_change",
    "specificity_drop": "specificity_change",
}


def _verdict(verdict: Any) -> Any:
    if not isinstance(verdict, Mapping) or not isinstance(verdict.get("reasons", []), list):
        return verdict
    reasons, statuses = verdict.get("reasons", []), verdict.get("reason_statuses")
    if not isinstance(statuses, list) or len(statuses) != len(reasons):
        statuses = [None] * len(reasons)
    fields = {key: value for key, value in verdict.items() if key != "reason_statuses"}
    return {
        **fields,
        "reasons": [
            {"kind": "version 1", "status": status, "text": _words(text)}
            for text, status in zip(reasons, statuses, strict=True)
        ],
    }


def _words(text: Any) -> Any:
    return true_minus(text) if isinstance(text, str) else text


def _turned_all(intervals: Any) -> Any:
    return _values(intervals, _turned)


def _turned(interval: Any) -> Any:
    """The other sign; the ends change places."""
    if not isinstance(interval, Mapping) or not _numbers(
        [interval.get("low"), interval.get("high"), interval.get("value", 0)]
    ):
        return interval
    # 0 - x, so that no "-0.0" comes to stand in a file
    ends = {"low": 0 - interval["high"], "high": 0 - interval["low"]}
    value = {"value": 0 - interval["value"]} if "value" in interval else {}
    return {**interval, **ends, **value}


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)


def _values(tree: Any, make: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    return {name: make(part) for name, part in tree.items()}


def _each(rows: Any, make: Any) -> Any:
    return [make(row) for row in rows] if isinstance(rows, list) else rows
