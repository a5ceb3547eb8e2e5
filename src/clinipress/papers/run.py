"""A paper's table, run: its studies one after the other, each in its own folder, then the table.

    OUT/ENTRY/           a run folder like any other, with its report
    OUT/ENTRY/entry.json what the result in it was made from
    OUT/table.json, OUT/table.md, OUT/table.html

A table that was killed goes on where it stopped: finished studies are read back where recipe and
images are the same, and the unfinished one goes on from its checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from clinipress.data.audit.fingerprints import content_digests
from clinipress.data.cache import DECODERS
from clinipress.data.finding import check_finding
from clinipress.data.sources import read_dataset
from clinipress.data.study import listing, open_study_data
from clinipress.errors import ClinipressError, InputError, ModelError
from clinipress.formats.open import TRAINING_PACKAGES, open_file
from clinipress.models.origins import outside
from clinipress.papers.build import build
from clinipress.papers.cluster import run_jobs
from clinipress.papers.columns import EntryOutcome
from clinipress.papers.grids import Entry, grid
from clinipress.papers.page import write_table_page
from clinipress.papers.papers import PAPERS, Paper
from clinipress.papers.recipes import ImageFacts, Scale
from clinipress.papers.records import Table
from clinipress.papers.render import markdown
from clinipress.progress import SILENT, Progress
from clinipress.recipe.study import DataRecipe, ReferenceRecipe, Study
from clinipress.records.candidate import Card
from clinipress.records.result import Interval, Result
from clinipress.records.store import (
    Store,
    digest_of,
    read_json,
    read_result,
    versions,
    write_atomically,
)
from clinipress.stats.intervals import proportion, unit_index
from clinipress.stats.metrics import predictions
from clinipress.study.flow import run_study
from clinipress.study.propose import propose
from clinipress.study.scores import ScoreKeeper
from clinipress.study.workbench import Workbench

__all__ = ["run_entries", "run_table"]

STAMP = "entry.json"
TRAINING = "training.json"
SCALES = get_args(Scale)


def run_table(
    source: str,
    data: Path,
    out: Path,
    *,
    scale: Scale = "small",
    ray: str | None = None,
    positive: str | None = None,
    progress: Progress = SILENT,
) -> Table:
    """Run a paper's table, or go on with one that was interrupted.

    Args:
        source: "s0", "s1", "s2" or "s4".
        data: The images: a folder, manifest or .npz.
        out: The table's folder.
        scale: "small", "moderate" or "full".
        ray: Address of a Ray cluster that runs the studies, or "local" for one on this machine;
            None: one after the other, here.
        positive: The class that is the finding, where the images have two; None: told by words.
        progress: The listener.

    Returns:
        The table; also ``table.json``, ``table.md`` and ``table.html`` in `out`.

    Raises:
        InputError: There is no such table, or the images cannot be used.
        StudyError: No study could be finished.
    """
    paper = PAPERS.get(source)
    if paper is None:
        raise InputError(f"a table: {', '.join(PAPERS)}", f"'{source}'")
    if scale not in SCALES:
        raise InputError(f"a scale: {', '.join(SCALES)}", f"'{scale}'")
    dataset = read_dataset(data)
    seen = propose(dataset)
    finding = positive or seen["positive"]
    check_finding(DataRecipe(positive=finding), dataset.classes)
    images = ImageFacts(seen["images"], seen["modality"], seen["channels"], positive=finding)
    entries = grid(source, scale, images)
    return run_entries(paper, scale, entries, data, out, ray=ray, progress=progress)


def run_entries(
    paper: Paper,
    scale: Scale,
    entries: Sequence[Entry],
    data: Path,
    out: Path,
    *,
    ray: str | None = None,
    progress: Progress = SILENT,
) -> Table:
    """Run the studies of a grid and write the table; after each study what there is so far.

    A study that cannot be done (a toolchain that is not installed, a training that diverged) is
    named with its reason and the others go on; those that borrow from it fail with it.

    Raises:
        ClinipressError: That of the first study, where none could be finished.
    """
    # absolute: workers of a cluster have another working folder, but must see the same files
    data, out = data.resolve(), out.resolve()
    dataset = read_dataset(data)
    images = digest_of(listing(dataset, content_digests(dataset)))
    outcomes: dict[str, EntryOutcome] = {}
    failed: dict[str, ClinipressError] = {}
    table = build(paper, scale, (), {})
    lenders = [entry for entry in entries if entry.borrows is None]
    borrowers = [entry for entry in entries if entry.borrows is not None]
    for wave in (lenders, borrowers):
        heard = progress if ray is None else SILENT  # a listener does not travel
        jobs = {
            entry.key: partial(
                _one, entry, outcomes.get(entry.borrows or ""), images, data, out, heard
            )
            for entry in wave
        }
        if ray is not None and jobs:
            progress.say(f"on Ray, each said when it is done: {', '.join(jobs)}")
        for key, outcome in run_jobs(jobs, ray):
            if isinstance(outcome, ClinipressError):
                failed[key] = outcome
                progress.say(f"{key}: {outcome}")
            else:
                outcomes[key] = outcome
                progress.say(f"{key}: done, {len(outcomes)} of {len(entries)} studies")
            done = [outcomes[entry.key] for entry in entries if entry.key in outcomes]
            table = build(paper, scale, done, {name: str(why) for name, why in failed.items()})
            write_atomically(out / "table.json", table.model_dump_json(indent=1))
            write_atomically(out / "table.md", markdown(table))
            write_table_page(table, out)
    if failed and not outcomes:
        raise next(iter(failed.values()))
    return table


def _one(
    entry: Entry,
    lender: EntryOutcome | None,
    images: str,
    data: Path,
    out: Path,
    progress: Progress,
) -> EntryOutcome:
    study, folder = entry.study, out / entry.key
    if entry.borrows is not None:
        if lender is None:
            raise InputError(
                f"the trained network of '{entry.borrows}'", "a study that did not finish"
            )
        study = _with_borrowed(study, lender.result, out / entry.borrows)
    stamp = {
        "recipe": study.model_dump(mode="json"),
        "images": images,
        "outside": outside(study),
        "versions": versions((*TRAINING_PACKAGES, *DECODERS)),
    }
    if _finished(folder, stamp):
        result = read_result(folder)
        progress.say(f"{entry.key}: read back")
    else:
        (folder / STAMP).unlink(missing_ok=True)
        result = run_study(study, data, folder, progress=progress)
        if entry.training_accuracy:
            _write_training(study, result, data, folder, progress)
        # last: it says that all before it is whole
        write_atomically(folder / STAMP, json.dumps(stamp, indent=1))
    training = _read_training(folder) if entry.training_accuracy else {}
    return EntryOutcome(entry, result, training)


def _finished(folder: Path, stamp: object) -> bool:
    path = folder / STAMP
    return path.is_file() and (folder / "result.json").is_file() and read_json(path) == stamp


def _with_borrowed(study: Study, lender: Result, folder: Path) -> Study:
    reference = next(record for record in lender.candidates if record.name == lender.reference)
    weights = folder / (reference.network or "") / "weights.safetensors"
    if reference.network is None or not weights.is_file():
        raise ModelError(
            f"the trained weights of '{lender.study}' in '{folder.name}'",
            "a folder without them",
            "remove the folder and run the table again",
        )
    model = study.reference.model
    if model is None:
        raise ModelError("a reference with 'model', to be lent", "an ONNX file")
    channels = model.in_channels or (3 if model.pretrained else None)
    update = {"checkpoint": str(weights), "pretrained": False, "in_channels": channels}
    taken = ReferenceRecipe(model=model.model_copy(update=update), train=None)
    return study.model_copy(update={"reference": taken})


def _write_training(
    study: Study, result: Result, data: Path, folder: Path, progress: Progress
) -> None:
    store = Store(folder)
    known = open_study_data(
        data, study.data, store, seed=study.seed, threads=study.threads, progress=progress
    )
    keeper = ScoreKeeper(Workbench(study, store, known, progress))
    accuracies = {}
    for record in result.candidates:
        path = folder / record.path
        card = Card.model_validate(read_json(path.parent / "card.json"))
        candidate = open_file(path, card, study.threads)
        rows = known.rows("train", card.input)
        logits = keeper.logits(candidate, "train")
        hits = predictions(logits) == rows.labels
        accuracy = proportion(hits, unit_index(rows.units, len(hits)))
        if accuracy is not None:
            accuracies[record.name] = accuracy.model_dump()
    write_atomically(folder / TRAINING, json.dumps(accuracies, indent=1))


def _read_training(folder: Path) -> dict[str, Interval]:
    figures = read_json(folder / TRAINING)
    return {name: Interval.model_validate(figure) for name, figure in figures.items()}
