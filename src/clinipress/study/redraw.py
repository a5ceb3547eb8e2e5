"""What was measured of a run after it: on other processors, on images from elsewhere.

Both lie in the run folder; here they are read into its record.
"""

from __future__ import annotations

from collections.abc import Mapping
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

__all__ = ["EXTERNAL", "judged_by", "redraw", "with_checks"]

PATTERN = "arm_check*.json"
EXTERNAL = "external"
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

    Args:
        result: Of this folder.
        folder: The run folder; `scripts/arm_check` writes ``arm_check.json`` and the like there
            with ``--json``, ``clinipress evaluate RUN DATA`` writes ``external/NAME.json``.

    Raises:
        InputError: A file is not such a check, or was made with a bundle or a model file that is
            not this run's.
    """
    return _with_external(_with_device_checks(result, folder), folder)


def _with_external(result: Result, folder: Path) -> Result:
    """External tests as one more split of each candidate: "external: NAME"."""
    files = sorted((folder / EXTERNAL).glob("*.json"))
    if not files:
        return result
    rows = {row.name: row for row in result.candidates}
    tests = []
    for path in files:
        tree = external_of_version1(read_json(path))
        test = _read(ExternalTest, tree, path, "an external test")
        split = f"external: {test.name}"
        for name, external in test.rows.items():
            if name not in rows or rows[name].digest != external.digest:
                raise InputError(
                    f"an external test of this run's files in '{path.name}'",
                    f"one of another '{name}'",
                    "remove the file, or evaluate the run again",
                )
            rows[name] = _joined(rows[name], split, external)
        if test.judged_by and test.judged_by != judged_by(result, folder):
            raise InputError(
                f"an external test judged as this run is in '{path.name}'",
                "one by other rules, another finding or other validation images",
                "remove the file, or evaluate the run again",
            )
        tests.append(test.model_copy(update={"rows": _verdicts(test.rows)}))
    return result.model_copy(
        update={"candidates": tuple(rows.values()), "external_tests": tuple(tests)}
    )


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
    checks = []
    for path in files:
        check = _read(DeviceCheck, read_json(path), path, "the result of an arm check")
        if check.bundle_sha256 not in digests:
            raise InputError(
                f"a check of this run's bundle in '{path.name}'",
                f"one of the bundle {check.bundle_sha256[:12]}",
                "remove the file, or check the bundle again",
            )
        checks.append(check)
    return result.model_copy(update={"device_checks": tuple(checks)})


def _read(kind: type[Kept], tree: Any, path: Path, what: str) -> Kept:
    try:
        return kind.model_validate(tree)
    except ValidationError as problem:
        where = ".".join(str(part) for part in problem.errors()[0]["loc"])
        raise InputError(f"{what} in '{path}'", f"one without '{where}'", "run it again") from None
