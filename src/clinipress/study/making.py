"""What a study makes: the reference, a candidate per step, and the files of the last one."""

from __future__ import annotations

from collections.abc import Iterator

from clinipress.errors import ModelError
from clinipress.recipe.steps import DistillStep, FineTuneStep, QatStep
from clinipress.recipe.study import ExportRecipe, Study
from clinipress.recipe.techniques import control_name, step_names
from clinipress.records.candidate import Made, NotMade
from clinipress.steps.step import open_step
from clinipress.study.choice import Attempt, file_name
from clinipress.study.workbench import FLOAT32, Network, Piece, Workbench

__all__ = ["make_all", "make_attempt"]


def make_all(study: Study, bench: Workbench) -> Iterator[Piece[Made] | NotMade]:
    """Every candidate that a study names, each as soon as it is made; the reference comes first."""
    reference = _reference(study, bench)
    yield reference
    last = reference
    made = {"reference": reference}
    for name, recipe in zip(step_names(study.steps), study.steps, strict=True):
        before = last
        network, folder = bench.step(name, open_step(recipe), before.network, reference)
        last = bench.piece(name, network, FLOAT32, origin="step", parent=before.name, folder=folder)
        made[name] = last
        yield last
        if isinstance(recipe, DistillStep) and recipe.control:
            yield _control(recipe, before, last, reference, bench)
    for export in study.exports:
        if export.precision == "float32" and export.format == "onnx":
            continue  # every step's candidate already is that file
        parent = made[export.of] if export.of is not None else last
        yield _file(parent, export, bench)


def _reference(study: Study, bench: Workbench) -> Piece[Made]:
    """The reference, trained where the study says so."""
    network, folder = bench.fresh(), None
    if study.reference.train is not None:
        step = open_step(FineTuneStep(train=study.reference.train))
        network, folder = bench.step("reference", step, network, reference=None)
    return bench.piece(
        "reference", network, FLOAT32, origin="reference", parent=None, folder=folder
    )


def _control(
    recipe: DistillStep,
    before: Piece[Made],
    student: Piece[Made],
    reference: Piece[Made],
    bench: Workbench,
) -> Piece[Made]:
    """The same student for as long without a teacher: to compare with, never to ship."""
    alone = open_step(recipe.without_teacher(student.network.card.history[-1].params["numerics"]))
    name = control_name(student.name)
    network, folder = bench.step(name, alone, before.network, reference)
    return bench.piece(
        name,
        network,
        FLOAT32,
        origin="control",
        parent=before.name,
        folder=folder,
        control_of=student.name,
    )


def make_attempt(
    attempt: Attempt, of: Piece[Made], reference: Piece[Made], bench: Workbench
) -> Iterator[Piece[Made] | NotMade]:
    """What the policy tries next, trained first where it asks for that."""
    bench.progress.say(f"trying {attempt.rung}, because {attempt.because}")
    network: Network = of.network
    if attempt.train:
        name = attempt.network
        network, folder = bench.step(name, open_step(QatStep()), network, reference)
        of = bench.piece(
            name,
            network,
            FLOAT32,
            origin="step",
            parent=of.name,
            folder=folder,
            because=attempt.because,
        )
        yield of
    yield _file(of, attempt.export, bench, attempt.because)


def _file(
    of: Piece[Made], export: ExportRecipe, bench: Workbench, because: str | None = None
) -> Piece[Made] | NotMade:
    """The file of a candidate's network, or why that format cannot hold it.

    What one toolchain refuses is no reason to lose the others.
    """
    name = file_name(of.name, export)
    try:
        return bench.piece(
            name,
            of.network,
            export,
            origin="export",
            parent=of.name,
            folder=of.record.network,
            because=because,
        )
    except ModelError as problem:
        bench.progress.say(f"{name} was not made: {problem}")
        facts = {"format": export.format, "precision": export.precision, "parent": of.name}
        return NotMade(name=name, reason=str(problem), **facts)
