"""A study run again from other seeds, on the same split: how far training's chance moves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from clinipress.evidence.seeds import over_seeds
from clinipress.recipe.study import Study
from clinipress.records.candidate import CandidateRecord
from clinipress.records.result import OverSeeds, Result
from clinipress.study.redraw import SEEDS

__all__ = ["repeat", "spread"]


def repeat(study: Study, result: Result, out: Path, run: Callable[[Study, Path], Result]) -> Result:
    """Run a study again with each of its further seeds and join their figures to its record.

    The split stays the first run's: another would change the images as well as the training, and
    an interval of the mean would hold neither.

    Args:
        study: The study, with `seeds`.
        result: Its first run.
        out: The run folder; each seed's run lies in ``seeds/SEED`` below it.
        run: Runs a study in a folder.
    """
    seeds = (study.seed, *study.seeds)
    split = study.data.split.model_copy(update={"file": str(out / "split.json")})
    data = study.data.model_copy(update={"split": split})
    results = [result]
    for seed in study.seeds:
        again = study.model_copy(update={"seed": seed, "seeds": (), "data": data})
        results.append(run(again, out / SEEDS / str(seed)))
    return result.model_copy(update={"seeds": seeds, "over_seeds": spread(results)})


def spread(results: Sequence[Result]) -> dict[str, OverSeeds]:
    """Candidate -> its figures over several runs, where every run has it on one split.

    Args:
        results: Runs of one study on one split, the first seed's first.
    """
    spreads = {}
    for first in results[0].candidates:
        rows = [row for result in results for row in result.candidates if row.name == first.name]
        split = _shared_split(rows)
        if len(rows) < len(results) or split is None:
            continue
        changes = [row.changes.get(split, {}) for row in rows]
        spreads[first.name] = OverSeeds(
            split=split,
            evidence=over_seeds([row.evidence[split] for row in rows]),
            changes=over_seeds(changes, changes=True) if all(changes) else {},
        )
    return spreads


def _shared_split(rows: Sequence[CandidateRecord]) -> str | None:
    """The most decisive split on which all were measured."""
    for split in ("test", "validation"):
        if all(split in row.evidence for row in rows):
            return split
    return None
