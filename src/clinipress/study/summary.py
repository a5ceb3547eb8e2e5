"""What a study leaves behind: bundles, result.json with its schema, the report."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clinipress import distributed
from clinipress.data.audit.overlap import Seen
from clinipress.data.study import FINGERPRINTS
from clinipress.edge.bundle import clearest, write_bundle
from clinipress.formats.measure import environment
from clinipress.records.base import Reason
from clinipress.records.candidate import CandidateRecord, Judged
from clinipress.records.result import Interval, Result, TargetOutcome, Verdict
from clinipress.records.store import write_atomically
from clinipress.reporting.documents import write_pages
from clinipress.reporting.view import View
from clinipress.reporting.wording.limits import limits
from clinipress.reporting.wording.reasons import worded
from clinipress.study.choice import Choice, chosen
from clinipress.study.scores import calibrated
from clinipress.study.sealing import Seal, openings
from clinipress.study.workbench import Piece, Workbench

__all__ = ["summarise", "write_result"]


def summarise(
    judged: Sequence[Piece[Judged]], choice: Choice, sealed: Seal, bench: Workbench
) -> Result:
    """Write the bundles, result.json with its schema, and the report.

    Args:
        judged: Every candidate, the reference first.
        choice: What is shipped.
        sealed: The rules they were judged by, and what changed in them.
        bench: Of the study.

    Returns:
        The result as written.
    """
    study, data, out = bench.study, bench.data, bench.store.folder
    records = tuple(chosen(piece.record, choice) for piece in judged)
    shipped = next((record for record in records if record.name == choice.shipped), None)
    bundles = _bundles(choice)
    result = Result(
        study=study.name,
        risk=study.risk,
        synthetic=study.synthetic,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        recipe=study.model_dump(mode="json"),
        classes=data.classes,
        positive=study.data.positive,
        normal=study.data.normal,
        rules=sealed.rules.rules,
        sealed=sealed.sealed,
        rule_changes=sealed.changes,
        reference=records[0].name,
        shipped=choice.shipped,
        bundle=next(iter(bundles), None),
        targets=tuple(
            outcome.model_copy(update={"bundle": _folder_of(outcome, choice)})
            for outcome in choice.outcomes
        ),
        verdict=(shipped.verdict if shipped else None) or _nothing_shipped(study.open_test),
        candidates=records,
        audit=data.audit,
        split=data.summary,
        test_openings=openings(out),
        environment=environment(),
        seconds=bench.times.seconds,
    )
    result = result.model_copy(update={"limits": tuple(limits(View(result)))})
    if distributed.is_main():
        pieces = {piece.name: piece for piece in judged}
        named = {record.name: record for record in records}
        for folder, name in bundles.items():  # each takes the place of the one before it
            _ship(pieces[name], named[name], out / folder, result, bench)
        _remove_others(out, bundles)
        write_result(result, out)
    return result


def _remove_others(out: Path, bundles: Iterable[str]) -> None:
    """Bundles of an earlier recipe in this folder, and what writers that were killed left."""
    shipped = {out / folder for folder in bundles}
    for path in (out / "bundle", *(out / "bundles").glob("*"), *out.glob(".bundle.*")):
        if path not in shipped:
            shutil.rmtree(path, ignore_errors=True)
    if not any(folder.startswith("bundles/") for folder in bundles):
        shutil.rmtree(out / "bundles", ignore_errors=True)


def _nothing_shipped(opened: bool) -> Verdict:
    if opened:
        reason = Reason(kind="none allowed", status="fail", rule="primary")
        return Verdict(status="fail", reasons=worded([reason]))
    # nothing is decided: that nobody passed does not say that all failed
    reason = Reason(kind="test sealed", status="inconclusive", rule="primary")
    return Verdict(status="inconclusive", reasons=worded([reason]))


def write_result(result: Result, out: Path) -> None:
    """``result.json`` with its schema, the report and what lies beside it."""
    if not distributed.is_main():
        return
    write_atomically(out / "result.json", result.model_dump_json(indent=1))
    schema = json.dumps(Result.model_json_schema(), indent=1)
    write_atomically(out / "result.schema.json", schema)
    write_pages(result, out)


def _bundles(choice: Choice) -> dict[str, str]:
    """Folder below the run folder -> the candidate in it; the first is the result's `bundle`."""
    if choice.shipped is None:
        return {}
    if len(choice.outcomes) < 2:
        return {"bundle": choice.shipped}
    shipped_by_folder = {_folder_of(target, choice): target.shipped for target in choice.outcomes}
    return {folder: name for folder, name in shipped_by_folder.items() if folder and name}


def _folder_of(outcome: TargetOutcome, choice: Choice) -> str | None:
    if outcome.shipped is None:
        return None
    return "bundle" if len(choice.outcomes) < 2 else f"bundles/{outcome.name}"


def _ship(
    piece: Piece[Judged], record: CandidateRecord, folder: Path, result: Result, bench: Workbench
) -> None:
    """The bundle: the file, its card with calibration, a sample image, hashes."""
    data, study = bench.data, bench.study
    rows = data.rows("validation", piece.file.card.input)
    card = calibrated(piece, study)
    # one that is not refused, and that the file is sure of: a self-test must not hang on the last
    # digit
    good = data.accepted(rows, piece.file.card.input)
    clear = int(good[clearest(piece.scores["validation"].logits[good])])
    sample = data.cache(piece.file.card.input).take(rows.index[[clear]])[0]
    summary = {
        "study": study.name,
        "risk": study.risk,
        "selected_on": "validation",
        "released": record.released,
        "verdict": (record.verdict or result.verdict).model_dump(mode="json"),
        "measured_on": {"cpu": result.environment.cpu, "flags": result.environment.cpu_flags},
        "evidence": _plain(record.evidence),
        "changes": _plain(record.changes),
    }
    seen = Seen.load(bench.store.folder / FINGERPRINTS)
    fingerprints = seen.anonymous().to_bytes() if seen else None
    write_bundle(
        folder, piece.file.path, card, sample=sample, evidence=summary, fingerprints=fingerprints,
        replace=True,
    )  # fmt: skip


def _plain(figures: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
    return {s: {k: v.model_dump() for k, v in by.items()} for s, by in figures.items()}
