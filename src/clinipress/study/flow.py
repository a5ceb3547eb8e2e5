"""The flow of a study, top to bottom: made, measured, judged, chosen, written.

Every candidate is judged against the ROOT reference, not its parent, which keeps three steps from
each losing the margin. The test split is opened once, for what was chosen on validation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from clinipress import distributed
from clinipress.data.study import open_study_data
from clinipress.errors import RecipeError
from clinipress.formats.open import check_toolchains
from clinipress.models.origins import Hashed, outside
from clinipress.progress import SILENT, Progress
from clinipress.recipe.code import check_code, code_behind, code_of
from clinipress.recipe.study import EvidenceRecipe, Study
from clinipress.records.candidate import Made, NotMade
from clinipress.records.result import Result
from clinipress.records.store import Store, locked, write_atomically
from clinipress.reporting.dossier.people import read_answers
from clinipress.reporting.wording.reasons import changes_phrase
from clinipress.steps.adopt import adopted_input
from clinipress.study.budget import check_budget, check_networks
from clinipress.study.choice import NOTHING, choose, next_attempt
from clinipress.study.devices import Target, resolve_targets
from clinipress.study.inspection import inspect
from clinipress.study.judging import Judge
from clinipress.study.making import make_all, make_attempt
from clinipress.study.policy import bars
from clinipress.study.redraw import left_over_seeds, with_checks
from clinipress.study.repeats import repeat
from clinipress.study.scores import ScoreKeeper
from clinipress.study.sealing import check_names, rules_of, seal
from clinipress.study.summary import check_sample, summarise, write_result
from clinipress.study.timing import measure_all
from clinipress.study.workbench import Piece, Workbench
from clinipress.text import capital
from clinipress.train.setup import prepare

__all__ = ["run_study"]


def run_study(
    study: Study,
    data_path: Path | None,
    out: Path,
    *,
    progress: Progress = SILENT,
    allow_code: bool = False,
) -> Result:
    """Run a study, or go on with one that was interrupted.

    Args:
        study: What to do.
        data_path: The images; None takes the study's own `data.path`.
        out: The run folder; finished pieces found in it are kept.
        progress: The listener.
        allow_code: Whether functions may run that candidate folders name which the study learns
            from; what the study names itself was permitted when it was read or written.

    Returns:
        What was measured; also written to ``result.json``, ``report.html`` and ``bundle/``.

    Raises:
        InputError: The study or the data is wrong, or another run is at work in the folder.
        StudyError: Training diverged or the disk is full; the run can be resumed.
    """
    path = data_path or (Path(study.data.path) if study.data.path else None)
    if path is None:
        raise RecipeError("images", "a study without 'data.path'", "give --data DIR")
    code = code_behind(study)
    study = with_input(study)
    check_code(code, "a study", allow_code or code_of(study))
    targets, hashed = _check(study)  # before the folder is there
    for barred, fix in bars(study):
        progress.say(f"warning: {barred}: {fix}")
    with locked(out):
        result = run_once(study, path, out, progress, code, targets, hashed)
        if study.seeds:

            def again(other: Study, folder: Path) -> Result:
                return run_once(other, path, folder, progress, code, targets, hashed)

            result = repeat(study, result, out, again)
            write_result(result, out)
        for line in left_over_seeds(study.seeds, out).values():
            progress.say(line)
        return with_checks(result, out)


def with_input(study: Study) -> Study:
    """The study with the images that an ONNX file of a reference takes."""
    if study.reference.onnx is None:
        return study
    spec = adopted_input(study.reference.onnx, study.data.input, study.data.task)
    return study.model_copy(update={"data": study.data.model_copy(update={"input": spec})})


def _check(study: Study) -> tuple[tuple[Target, ...], Hashed]:
    """What can be refused by reading the study alone: now, not after hours of training.

    Returns:
        Its devices, and the digests of the files from outside.
    """
    check_names(study, study.data.classes)
    check_toolchains(export.format for export in study.exports)
    targets, hashed = resolve_targets(study.target), Hashed()
    check_budget(study, targets)
    check_sample(study)
    outside(study, hashed)  # files that are not there
    return targets, hashed


def run_once(
    study: Study,
    path: Path,
    out: Path,
    progress: Progress,
    code: Collection[str],
    targets: Sequence[Target],
    hashed: Hashed,
) -> Result:
    """The flow itself, with the study's own seed; arguments as for `run_study`, and who may run."""
    # what cannot be read is refused now; the pages read them at the end: people write meanwhile
    read_answers(out)
    prepare(study.threads, study.seed)
    check_networks(study)
    store = Store(out, progress)
    if distributed.is_main():
        write_atomically(out / "study.json", study.model_dump_json(indent=1))
    data = open_study_data(
        path, study.data, store, seed=study.seed, threads=study.threads, progress=progress
    )
    data.check_accepted()
    one_class_each = study.data.task == "multiclass"
    _check_evidence(study.evidence, data.classes if one_class_each else ())
    # the rules are on the disk before anything is trained, and stay once the test split is opened
    sealed = seal(rules_of(study, data.classes, data.test_images), out)
    if sealed.changes:
        progress.say(f"{capital(changes_phrase(sealed.changes))}.")
    bench = Workbench(study, store, data, progress, code=code, hashed=hashed)
    keeper = ScoreKeeper(bench, sealed)
    declared = sealed.declared(study)
    judge = Judge(declared, sealed.rules.rules, bench)

    # made, each answering the validation images at once; all files timed interleaved; judged
    made, not_made = _answered(make_all(study, bench), keeper)
    judged = judge.all(measure_all(made, bench))

    # where no low-precision file will do: what the policy says comes next
    while study.try_next:
        records = [piece.record for piece in judged]
        refused = [file.name for file in not_made]
        attempt = next_attempt(records, study.risk, targets, study.exports, refused)
        if attempt is None:
            break
        of = next(piece for piece in made if piece.name == attempt.of)
        more, refusals = _answered(make_attempt(attempt, of, made[0], bench), keeper)
        made, not_made = (*made, *more), (*not_made, *refusals)
        judged = judge.all(measure_all(made, bench))

    # chosen on validation; then the test split is opened once, for what may be shipped
    records = [piece.record for piece in judged]
    choice = choose(records, study.risk, targets) if study.open_test else NOTHING
    if choice.finalists:
        reason = f"final evaluation; shipping '{choice.shipped}' was decided on validation"
        tested = keeper.open_test(made, choice.finalists, reason)
        judged = judge.all(measure_all(tested, bench))

    # what is shipped, under worse images and by where it looks; then bundles and report
    inspected = inspect(judged, choice, declared, bench)
    return summarise(inspected, not_made, choice, sealed, bench)


def _answered(
    outcomes: Iterable[Piece[Made] | NotMade], keeper: ScoreKeeper
) -> tuple[tuple[Piece[Made], ...], tuple[NotMade, ...]]:
    """What was made, with its answers to the validation images, and what could not be."""
    made: list[Piece[Made]] = []
    not_made: list[NotMade] = []
    for outcome in outcomes:
        if isinstance(outcome, NotMade):
            not_made.append(outcome)
        else:
            made.append(keeper.on_validation(outcome))
    return tuple(made), tuple(not_made)


def _check_evidence(recipe: EvidenceRecipe, classes: tuple[str, ...]) -> None:
    """What these classes cannot have is refused now: its turn comes when the test split is open."""
    for key in ("stress", "saliency"):
        if 0 < getattr(recipe, key) < len(classes):
            raise RecipeError(
                f"'evidence.{key}' of at least {len(classes)}, an image of each class, or 0",
                f"{getattr(recipe, key)}",
            )
    if recipe.masks is not None and recipe.saliency and not Path(recipe.masks).exists():
        raise RecipeError("'evidence.masks' to be there", f"nothing at '{recipe.masks}'")
