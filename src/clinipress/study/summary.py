"""What a study leaves behind: bundles, result.json with its schema, the report."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

from clinipress import distributed
from clinipress.edge.bundle import clearest, write_bundle
from clinipress.formats.measure import environment
from clinipress.models.cost import macs, parameters
from clinipress.records.candidate import (
    CandidateRecord,
    Latency,
    Parity,
)
from clinipress.records.result import (
    Reason,
    Result,
    TargetOutcome,
    TestOpening,
    Verdict,
)
from clinipress.records.store import write_atomically
from clinipress.reporting.documents import write_pages
from clinipress.reporting.view import View
from clinipress.reporting.wording.limits import limits
from clinipress.reporting.wording.reasons import worded
from clinipress.study.choice import Choice
from clinipress.study.scorecard import Row, Scorecard, scores_path

__all__ = ["summarise", "write_result"]


def summarise(card: Scorecard, choice: Choice, out: Path) -> Result:
    """Write the bundle, result.json with its schema, and the report.

    Returns:
        The result as written.
    """
    study, data = card.runner.study, card.runner.data
    row = next((row for row in card.rows if row.name == choice.shipped), None)
    bundles = _bundles(choice)
    verdict = (row.verdict if row else None) or _nothing_shipped(study.open_test)
    result = Result(
        study=study.name,
        risk=study.risk,
        synthetic=study.synthetic,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        recipe=study.model_dump(mode="json"),
        classes=data.classes,
        rules=card.rules,
        reference=card.reference.name,
        shipped=choice.shipped,
        bundle=next(iter(bundles), None),
        targets=tuple(
            outcome.model_copy(update={"bundle": _folder_of(outcome, choice)})
            for outcome in choice.outcomes
        ),
        verdict=verdict,
        candidates=tuple(_record(card, row, out) for row in card.rows),
        audit=data.audit,
        split=data.summary,
        test_openings=_openings(out),
        environment=environment(),
        seconds=card.runner.seconds,
    )
    result = result.model_copy(update={"limits": tuple(limits(View(result)))})
    if distributed.is_main():
        for name in ("bundle", "bundles"):  # of an earlier recipe in this folder
            shutil.rmtree(out / name, ignore_errors=True)
        for folder, name in bundles.items():
            _ship(card, next(one for one in card.rows if one.name == name), out / folder, result)
        write_result(result, out)
    return result


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
    found = {_folder_of(one, choice): one.shipped for one in choice.outcomes}
    return {folder: name for folder, name in found.items() if folder and name}


def _folder_of(outcome: TargetOutcome, choice: Choice) -> str | None:
    if outcome.shipped is None:
        return None
    return "bundle" if len(choice.outcomes) < 2 else f"bundles/{outcome.name}"


def _record(card: Scorecard, row: Row, out: Path) -> CandidateRecord:
    applied = row.file.card.history[-1]
    control = card.control(row)
    export_facts = applied.facts
    return CandidateRecord(
        name=row.name,
        parent=row.parent,
        history=row.file.card.history,
        format=row.file.card.format,
        precision=row.file.card.precision,
        path=row.file.path.relative_to(out).as_posix(),
        digest=row.file.digest,
        file_bytes=row.cost["file_bytes"],
        parameters=parameters(row.torch.module),
        macs=macs(row.torch.module, row.torch.card.input),
        latency_ms=_latency(row.cost["latency"]),
        latency_with_preprocessing_ms=_latency(row.cost["with_preprocessing"]),
        peak_memory_bytes=row.cost["peak_memory"],
        low_precision_operators=export_facts.get("operators", {}),
        evidence=row.evidence,
        confusion=row.confusion,
        changes=row.changes,
        parity=Parity.model_validate(export_facts["parity"]) if "parity" in export_facts else None,
        verdict=row.verdict,
        rejected=row.rejected,
        because=row.because,
        per_image={split: scores_path(row.name, split) for split in row.scores},
        judgements=row.judgements,
        control=control.name if control else None,
        over_control=card.over_control(row),
    )


def _latency(measured: dict[str, Any] | None) -> Latency | None:
    return Latency.model_validate(measured) if measured else None


def _openings(out: Path) -> tuple[TestOpening, ...]:
    log = out / "test_openings.jsonl"
    if not log.is_file():
        return ()
    lines = log.read_text(encoding="utf-8").splitlines()
    return tuple(TestOpening.model_validate_json(line) for line in lines if line.strip())


def _ship(card: Scorecard, row: Row, folder: Path, result: Result) -> None:
    """The bundle: the file, its card with calibration, a sample image, hashes."""
    data, study = card.runner.data, card.runner.study
    rows = data.rows("validation", row.file.card.input)
    shipped = card.calibrated(row)
    # an image the file is sure of: a self-test must not hang on the last digit
    clear = clearest(row.scores["validation"].logits)
    sample = data.cache(row.file.card.input).take(rows.index[[clear]])[0]
    summary = {
        "study": study.name,
        "risk": study.risk,
        "verdict": (row.verdict or result.verdict).model_dump(mode="json"),
        "measured_on": {"cpu": result.environment.cpu, "flags": result.environment.cpu_flags},
        "evidence": {s: {k: v.model_dump() for k, v in e.items()} for s, e in row.evidence.items()},
        "changes": {s: {k: v.model_dump() for k, v in d.items()} for s, d in row.changes.items()},
    }
    write_bundle(folder, row.file.path, shipped, sample=sample, evidence=summary)
