"""What a study leaves behind: bundles, result.json with its schema, the report."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress import distributed
from clinipress.data.audit.overlap import Seen
from clinipress.data.drawn.phantom import MARK
from clinipress.data.drawn.samples import drawn_samples
from clinipress.data.study import FINGERPRINTS
from clinipress.edge.bundle import clearest, write_bundle
from clinipress.errors import InputError
from clinipress.formats.measure import environment
from clinipress.formats.open import open_file
from clinipress.kinds.image.accept import accept_file
from clinipress.recipe.study import Study
from clinipress.records.base import Reason
from clinipress.records.candidate import CandidateRecord, Judged, NotMade
from clinipress.records.result import Interval, Result, TargetOutcome, Verdict
from clinipress.records.store import write_atomically
from clinipress.reporting.documents import write_pages
from clinipress.reporting.private import kept, sent, without_paths
from clinipress.reporting.view import View
from clinipress.reporting.wording.limits import limits
from clinipress.reporting.wording.reasons import worded
from clinipress.study.choice import Choice, chosen
from clinipress.study.policy import bars
from clinipress.study.redraw import with_checks
from clinipress.study.scores import calibrated
from clinipress.study.sealing import Seal, openings
from clinipress.study.workbench import Piece, Workbench
from clinipress.text import trial_words

__all__ = ["check_sample", "summarise", "write_result"]

CONSENTED = "an image named in the study as one that may be given away"


def summarise(
    judged: Sequence[Piece[Judged]],
    not_made: Sequence[NotMade],
    choice: Choice,
    sealed: Seal,
    bench: Workbench,
) -> Result:
    """Write the bundles, result.json with its schema, and the report.

    Args:
        judged: Every candidate, the reference first.
        not_made: Files that could not be made.
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
        order=study.data.order,
        task=study.data.task,
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
        verdict=(shipped.verdict if shipped else None) or _nothing_shipped(study),
        candidates=records,
        not_made=tuple(not_made),
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


def _nothing_shipped(study: Study) -> Verdict:
    if study.open_test:
        barred = [
            Reason(
                kind="barred", status="fail", rule="primary", where=what, parameters={"fix": fix}
            )
            for what, fix in bars(study)
        ]
        none = Reason(kind="none allowed", status="fail", rule="primary")
        return Verdict(status="fail", reasons=worded([*barred, none]))
    # nothing is decided: that nobody passed does not say that all failed
    reason = Reason(kind="test sealed", status="inconclusive", rule="primary")
    return Verdict(status="inconclusive", reasons=worded([reason]))


def write_result(result: Result, out: Path) -> None:
    """``result.json`` with its schema; the pages, with the checks and external tests made since."""
    if not distributed.is_main():
        return
    write_atomically(out / "result.json", kept(result).model_dump_json(indent=1))
    schema = json.dumps(Result.model_json_schema(), indent=1)
    write_atomically(out / "result.schema.json", schema)
    write_pages(with_checks(result, out), out)


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
    piece: Piece[Judged], selected: CandidateRecord, folder: Path, result: Result, bench: Workbench
) -> None:
    """The bundle: the file, its card with calibration, a sample image, hashes; no patient in it."""
    study = bench.study
    private = sent(result)
    record = next(row for row in private.candidates if row.name == piece.name)
    card = calibrated(piece, study)
    if study.privacy != "full":
        history = tuple(
            step.model_copy(
                update={"params": without_paths(step.params), "facts": without_paths(step.facts)}
            )
            for step in card.history
        )
        card = card.model_copy(update={"history": history})
    trial = trial_words(private.audit.images, private.audit.trial_of)
    summary = {
        "study": study.name,
        "risk": study.risk,
        "selected_on": "validation",
        "released": selected.released,
        **({"trial": trial} if trial else {}),
        "verdict": (record.verdict or private.verdict).model_dump(mode="json"),
        "measured_on": {"cpu": result.environment.cpu, "flags": result.environment.cpu_flags},
        "evidence": _plain(record.evidence),
        "changes": _plain(record.changes),
    }
    seen = Seen.load(bench.store.folder / FINGERPRINTS)
    sample = Path(study.sample) if study.sample else _drawn(piece, bench)
    about = CONSENTED if study.sample else MARK
    write_bundle(
        folder, piece.file.path, card, sample=sample, sample_note=about, evidence=summary,
        fingerprints=seen.anonymous().to_bytes() if seen else None, replace=True,
    )  # fmt: skip


def check_sample(study: Study) -> None:
    """Refuse a sample that a bundle would refuse, before anything is trained.

    Raises:
        InputError: There is no such file.
        ImageError: It is no picture of the kind that the study is about.
    """
    if study.sample is not None:
        if not Path(study.sample).is_file():
            raise InputError(
                "an image that may travel in the bundle as 'sample'",
                f"no file at '{study.sample}'",
                "name one whose person consented, or leave 'sample' out: then one is drawn",
            )
        accept_file(Path(study.sample), None, study.data.input, colourful=False)


def _drawn(piece: Piece[Judged], bench: Workbench) -> NDArray[np.uint8]:
    """The SYNTHETIC picture that the file is surest of; a self-test hangs on no last digit."""
    spec = piece.file.card.input
    colourful = spec.channels == 3 and bool(bench.data.audit.colourful)
    pictures = drawn_samples(spec, colourful=colourful, seed=bench.study.seed)
    file = open_file(piece.file.path, piece.file.card, 1)
    logits = np.concatenate([file.predict(picture[None]) for picture in pictures])
    sample: NDArray[np.uint8] = pictures[clearest(logits)]
    return sample


def _plain(figures: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
    return {s: {k: v.model_dump() for k, v in by.items()} for s, by in figures.items()}
