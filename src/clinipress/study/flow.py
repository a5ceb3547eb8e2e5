"""The flow of a study, top to bottom.

data -> reference -> steps, each judged against the ROOT reference on validation -> exports, each
file measured in its own runtime -> the sealed test split opened once for the finalists -> bundle
and report. Judging against the root, not the parent, keeps three steps from each losing the
margin.
"""

from __future__ import annotations

from pathlib import Path

from clinipress import distributed
from clinipress.data.study import open_study_data
from clinipress.errors import RecipeError
from clinipress.evidence import gate
from clinipress.formats.open import check_toolchains
from clinipress.progress import SILENT, Progress
from clinipress.recipe.steps import (
    DistillStep,
    FineTuneStep,
    PruneStep,
    QatStep,
    SearchStep,
    ShrinkStep,
    Step,
)
from clinipress.recipe.study import Study
from clinipress.records.candidate import (
    Candidate,
)
from clinipress.records.result import Result
from clinipress.records.store import Store, write_atomically
from clinipress.steps.distill.step import Distill
from clinipress.steps.prune.step import Prune
from clinipress.steps.qat.step import QuantizationAware
from clinipress.steps.supernet.search import Search
from clinipress.steps.supernet.shrink import Shrink
from clinipress.steps.train import FineTune
from clinipress.study.attempts import Attempt, next_attempt
from clinipress.study.budget import check_budget
from clinipress.study.choice import Choice, choose
from clinipress.study.devices import resolve_targets
from clinipress.study.inspection import inspect
from clinipress.study.repeats import repeat
from clinipress.study.scorecard import Scorecard
from clinipress.study.summary import summarise, write_result
from clinipress.study.workbench import FLOAT32, Runner
from clinipress.train.setup import prepare

__all__ = ["run_study", "torch_step"]


def torch_step(
    recipe: Step,
) -> Distill | FineTune | Prune | QuantizationAware | Shrink | Search:
    """The step a recipe names."""
    if isinstance(recipe, ShrinkStep):
        return Shrink(recipe)
    if isinstance(recipe, SearchStep):
        return Search(recipe)
    if isinstance(recipe, DistillStep):
        return Distill(recipe)
    if isinstance(recipe, PruneStep):
        return Prune(recipe)
    if isinstance(recipe, QatStep):
        return QuantizationAware(recipe)
    return FineTune(recipe)


def run_study(
    study: Study, data_path: Path | None, out: Path, *, progress: Progress = SILENT
) -> Result:
    """Run a study, or go on with one that was interrupted.

    Args:
        study: What to do.
        data_path: The images; None takes the study's own `data.path`.
        out: The run folder; finished pieces found in it are kept.
        progress: The listener.

    Returns:
        What was measured; also written to ``result.json``, ``report.html`` and ``bundle/``.

    Raises:
        InputError: The study or the data is wrong.
        StudyError: Training diverged or the disk is full; the run can be resumed.
    """
    path = data_path or (Path(study.data.path) if study.data.path else None)
    if path is None:
        raise RecipeError("images", "a study without 'data.path'", "give --data DIR")
    result = run_once(study, path, out, progress)
    if study.seeds:

        def again(other: Study, place: Path) -> Result:
            return run_once(other, path, place, progress)

        result = repeat(study, result, out, again)
        write_result(result, out)
    return result


def run_once(study: Study, path: Path, out: Path, progress: Progress) -> Result:
    """The flow itself, with the study's own seed; arguments as for `run_study`."""
    targets = resolve_targets(study.target)
    check_toolchains(export.format for export in study.exports)
    check_budget(study, targets)
    prepare(study.threads, study.seed)
    store = Store(out, progress)
    if distributed.is_main():
        write_atomically(out / "study.json", study.model_dump_json(indent=1))

    # data: read, audit, cluster, split, seal
    data = open_study_data(
        path, study.data, store, seed=study.seed, threads=study.threads, progress=progress
    )
    runner = Runner(study, store, data, progress)
    rules = gate.rules_for(study.risk)
    card = Scorecard(runner, rules, targets)

    # reference: load or train
    trained = runner.fresh()
    if study.reference.train is not None:
        step = FineTune(FineTuneStep(train=study.reference.train))
        trained = runner.step("reference", step, trained, reference=None)
    reference = runner.export("reference", trained, FLOAT32)
    runner.root = trained
    card.add_reference(reference, trained)

    # torch-side steps: each child becomes a float32 file, measured and judged
    parent = trained
    for name, recipe in zip(step_names(study), study.steps, strict=True):
        before, parent = parent, runner.step(name, torch_step(recipe), parent, reference)
        file = runner.export(name, parent, FLOAT32)
        card.add(file, parent, of="step", parent=before.card.name)
        if isinstance(recipe, DistillStep) and recipe.control:
            # the same student for as long without a teacher: to compare with, never to ship
            again = Distill(recipe.without_teacher(parent.card.history[-1].params["numerics"]))
            control = runner.step(control_name(name), again, before, reference)
            file = runner.export(control.card.name, control, FLOAT32)
            card.add(file, control, of="control", parent=before.card.name, to=name)

    # exports of the last candidate
    last = parent.card.name
    for wanted in study.exports:
        if wanted.precision == "float32" and wanted.format == "onnx":
            continue  # every step's candidate already is that file
        name = f"{last}-{wanted.format}-{wanted.precision}"
        card.add(runner.export(name, parent, wanted), parent, of="export", parent=last)

    # measure all files interleaved; where no low-precision file will do, try what the policy says
    card.measure()
    while study.try_next and (attempt := next_attempt(card, study.exports)) is not None:
        try_one(runner, card, attempt, reference)
        card.measure()

    # choose on validation, then open the test split once
    choice = choose(card) if study.open_test else Choice()
    if choice.finalists:
        reason = f"final evaluation; shipping '{choice.shipped}' was decided on validation"
        card.open_test(choice.finalists, reason)

    # what is shipped, under worse images and by where it looks; then bundle and report
    inspect(card, choice)
    return summarise(card, choice, out)


def try_one(runner: Runner, card: Scorecard, attempt: Attempt, reference: Candidate) -> None:
    """Make, measure and judge one attempt, training first where it asks for that."""
    parent = attempt.of.torch
    name = attempt.of.name
    runner.progress.say(f"trying {attempt.rung}, because {attempt.because}")
    if attempt.train:
        name = f"{name}-quantization-aware"
        parent = runner.step(name, QuantizationAware(QatStep()), parent, reference)
        whole = runner.export(name, parent, FLOAT32)
        card.add(whole, parent, of="step", parent=attempt.of.name, because=attempt.because)
    file = runner.export(
        f"{name}-{attempt.export.format}-{attempt.export.precision}", parent, attempt.export
    )
    card.add(file, parent, of="export", parent=name, because=attempt.because)


def step_names(study: Study) -> list[str]:
    """One name per step: its own, or its kind with a number where that kind comes twice.

    Raises:
        RecipeError: Two steps carry one name.
    """
    kinds = [recipe.step for recipe in study.steps]
    verb = {
        "distill": "distilled",
        "prune": "pruned",
        "qat": "quantization-aware",
        "train": "fine-tuned",
        "shrink": "shrunk",
        "search": "searched",
    }
    names: list[str] = []
    for number, recipe in enumerate(study.steps):
        again = kinds[: number + 1].count(recipe.step)
        plain = verb[recipe.step] + (f"-{again}" if kinds.count(recipe.step) > 1 else "")
        names.append(recipe.name or plain)
    made = [
        *names,
        *(
            control_name(n)
            for n, r in zip(names, study.steps, strict=True)
            if isinstance(r, DistillStep) and r.control
        ),
    ]
    if len({*made, "reference"}) <= len(made):
        raise RecipeError("step names that differ", ", ".join(made), "change 'name' of one of them")
    return names


def control_name(name: str) -> str:
    """The row of a distilled student's control."""
    return f"{name}-control"
