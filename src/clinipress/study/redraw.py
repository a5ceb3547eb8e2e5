"""What was measured of a run after it: on other processors, on images from elsewhere.

Both lie in the run folder; here they are read into its record.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from clinipress.edge.manifest import read_card
from clinipress.errors import InputError
from clinipress.evidence.scores import Scores
from clinipress.records.candidate import CandidateRecord
from clinipress.records.judgement import Judgements
from clinipress.records.result import DeviceCheck, ExternalRow, ExternalTest, Result
from clinipress.records.store import digest_of, locked, read_json, read_result
from clinipress.records.version1 import external_of_version1
from clinipress.reporting.documents import write_pages
from clinipress.reporting.view import View
from clinipress.reporting.wording.limits import limits

__all__ = ["EXTERNAL", "SEEDS", "judged_by", "left_over_seeds", "redraw", "with_checks"]

PATTERN = "arm_check*.json"
EXTERNAL = "external"
SEEDS = "seeds"
EXTERNAL_TEST = "an external test"
Kept = TypeVar("Kept", DeviceCheck, ExternalTest)


def redraw(run: Path) -> tuple[Result, tuple[Path, ...]]:
    """Write all pages of a run again, with the checks and external tests made since.

    Args:
        run: A run folder.

    Returns:
        The record that they show, and their paths, the report's first.

    Raises:
        InputError: It is not a run.
        StorageError: A page cannot be written.
    """
    result = with_checks(read_result(run), run)
    with locked(run):
        return result, write_pages(result, run)


def judged_by(result: Result, run: Path) -> str:
    """Digest of what an external test takes from the run: rules, and what validation decided."""
    rules = [rule.model_dump(mode="json") for rule in result.rules]
    asked = {key: result.recipe.get(key) for key in ("risk", "evidence", "bootstrap", "seed")}
    finding = {key: result.recipe.get("data", {}).get(key) for key in ("positive", "normal")}
    validation = {
        row.name: Scores.load(run / row.per_image["validation"]).digest
        for row in result.candidates
        if row.selected_for or row.name in (result.reference, result.shipped)
    }
    return digest_of({"rules": rules, **asked, **finding, "validation": validation})


def with_checks(result: Result, folder: Path) -> Result:
    """The record with what lies in its run folder besides: device checks and external tests.

    What is damaged, or was measured with other files, rules or validation images than those of the
    run as it is now, blocks nothing: it is left out, and `set_aside` says so.

    Args:
        result: Of this folder.
        folder: The run folder; `scripts/arm_check` writes ``arm_check.json`` and the like there
            with ``--json``, ``clinipress evaluate RUN DATA`` writes ``external/NAME.json``.
    """
    checked = _with_external(_with_device_checks(_with_left_over(result, folder), folder), folder)
    if checked is result:
        return result
    # the record's own were made without these: "No external test" among them
    stale = {_opening(text) for text in limits(View(result.model_copy(update={"limits": ()})))}
    own = tuple(text for text in result.limits if _opening(text) not in stale)
    checked = checked.model_copy(update={"limits": own})
    return checked.model_copy(update={"limits": tuple(limits(View(checked)))})


def left_over_seeds(seeds: Iterable[int], folder: Path) -> dict[str, str]:
    """Folder of a seed that is none of the study's further ones -> a line that says so."""
    asked = {str(seed) for seed in seeds}
    there = sorted(path.name for path in (folder / SEEDS).glob("*") if path.is_dir())
    return {
        f"{SEEDS}/{name}": f"{SEEDS}/{name} is left over: the study no longer names this seed, and "
        "nothing here is made from it. Remove the folder if you do not need it."
        for name in there
        if name not in asked
    }


def _with_left_over(result: Result, folder: Path) -> Result:
    if not (folder / SEEDS).is_dir():
        return result
    left = left_over_seeds(result.recipe.get("seeds", ()), folder)
    return result.model_copy(update={"set_aside": {**result.set_aside, **left}}) if left else result


def _opening(reservation: str) -> tuple[str, ...]:
    """Its first words: the figures and names behind them change with what is known."""
    return tuple(reservation.split()[:3])


def _with_external(result: Result, folder: Path) -> Result:
    """External tests as one more split of each candidate: "external: NAME"."""
    files = sorted((folder / EXTERNAL).glob("*.json"))
    if not files:
        return result
    rows = {row.name: row for row in result.candidates}
    tests: list[ExternalTest] = []
    aside = dict(result.set_aside)
    for path in files:
        file = path.relative_to(folder).as_posix()
        try:
            test = _read(ExternalTest, external_of_version1(read_json(path)), path, EXTERNAL_TEST)
        except InputError as problem:
            aside[file] = f"{file} is not shown: it is damaged ({problem.got})."
            continue
        if why := _foreign(test, rows, result, folder):
            pairs = ",".join(f"{theirs}={ours}" for theirs, ours in test.class_map.items())
            mapped = f" --class-map {shlex.quote(pairs)}" if pairs else ""
            aside[file] = (
                f"The external test '{test.name}' is not shown: it was measured with {why} than "
                f"this run has now. Measure it anew: clinipress evaluate RUN DATA --name "
                f"{shlex.quote(test.name)}{mapped}."
            )
            continue
        split = f"external: {test.name}"
        for name, external in test.rows.items():
            rows[name] = _joined(rows[name], split, external)
        tests.append(test.model_copy(update={"rows": _verdicts(test.rows)}))
    return result.model_copy(
        update={
            "candidates": tuple(rows.values()),
            "external_tests": tuple(tests),
            "set_aside": aside,
        }
    )


def _foreign(
    test: ExternalTest, rows: Mapping[str, CandidateRecord], result: Result, folder: Path
) -> str | None:
    """What of the run is not as it was when this was measured."""
    if any(name not in rows or rows[name].digest != row.digest for name, row in test.rows.items()):
        return "other model files"
    if test.judged_by and test.judged_by != judged_by(result, folder):
        return "other rules, another finding or other validation images"
    return None


def _verdicts(rows: Mapping[str, ExternalRow]) -> dict[str, ExternalRow]:
    """What the candidates' own records have no place for; the figures are there."""
    empty = {"evidence": {}, "confusion": [], "changes": {}, "judgements": Judgements()}
    return {name: row.model_copy(update=empty) for name, row in rows.items()}


def _joined(row: CandidateRecord, split: str, external: ExternalRow) -> CandidateRecord:
    more = {
        "evidence": {**row.evidence, split: external.evidence},
        "confusion": {**row.confusion, split: external.confusion},
        "judgements": {**row.judgements, split: external.judgements},
        "per_image": {**row.per_image, split: external.per_image},
    }
    if external.changes:
        more["changes"] = {**row.changes, split: external.changes}
    return row.model_copy(update=more)


def _with_device_checks(result: Result, folder: Path) -> Result:
    files = sorted(folder.glob(PATTERN))
    if not files:
        return result
    folders = {target.bundle for target in result.targets if target.bundle} | {result.bundle or ""}
    digests = {read_card(folder / name).digest for name in sorted(folders) if name}
    checks: list[DeviceCheck] = []
    aside = dict(result.set_aside)
    for path in files:
        try:
            check = _read(DeviceCheck, read_json(path), path, "the result of an arm check")
        except InputError as problem:
            aside[path.name] = f"{path.name} is not shown: it is damaged ({problem.got})."
            continue
        if check.bundle_sha256 in digests:
            checks.append(check)
        else:
            aside[path.name] = (
                f"The device check in {path.name} is not shown: it is one of the bundle "
                f"{check.bundle_sha256[:12]}, which is not this run's. Check the bundle again."
            )
    return result.model_copy(update={"device_checks": tuple(checks), "set_aside": aside})


def _read(kind: type[Kept], tree: Any, path: Path, what: str) -> Kept:
    try:
        return kind.model_validate(tree)
    except ValidationError as problem:
        where = ".".join(str(part) for part in problem.errors()[0]["loc"])
        raise InputError(f"{what} in '{path}'", f"one without '{where}'", "run it again") from None
