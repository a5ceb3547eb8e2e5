"""The two tables: every row is whole, every list elsewhere is theirs, and silence stays silent."""

import importlib
import typing
from dataclasses import fields

import pytest
from pydantic import BaseModel

from clinipress.errors import RecipeError
from clinipress.formats.open import engine_facts, format_packages, package_of, timed_here
from clinipress.recipe import steps as recipes
from clinipress.recipe.formats import (
    EXPORT_PRECISIONS,
    FORMATS,
    FormatFacts,
    PrecisionFacts,
    format_facts,
    precision_facts,
)
from clinipress.recipe.steps import DistillStep, ModelRecipe, PruneStep, QatStep, TrainOptions
from clinipress.recipe.study import ExportRecipe
from clinipress.recipe.techniques import (
    POLICY_NAMES,
    TECHNIQUES,
    Technique,
    control_name,
    next_network,
    remaining_weights,
    step_names,
    technique_of,
)
from clinipress.records.candidate import Applied
from clinipress.reporting.dossier.answers_study import step_words
from clinipress.reporting.page.devices import format_words
from clinipress.steps.step import open_step
from clinipress.study import budget, policy
from clinipress.study.devices import TARGETS, resolve_targets
from clinipress.study.read import parse_study


class ToyStep(BaseModel):
    """A step that no table knows."""

    step: str = "toy"
    name: str | None = None
    ratio: float = 0.5
    of: str = "parameters"


class ToyTechnique:
    def __init__(self, recipe):
        self.recipe = recipe


def choices(field):
    """What the published schema lets a study write."""
    tree = ExportRecipe.model_json_schema()["properties"][field]
    return tuple(tree["enum"])


def test_no_name_stands_twice():
    for names in (
        [row.name for row in FORMATS],
        [row.name for row in EXPORT_PRECISIONS],
        [row.kind for row in TECHNIQUES],
        [row.verb for row in TECHNIQUES],
        [name.key for name in POLICY_NAMES],
        [suffix for row in FORMATS for suffix in row.suffixes],
    ):
        assert len(set(names)) == len(names)


def test_a_study_may_ask_for_what_the_tables_have_and_nothing_else():
    assert choices("format") == tuple(row.name for row in FORMATS)
    assert choices("precision") == tuple(row.name for row in EXPORT_PRECISIONS)
    assert {p for row in FORMATS for p in row.precisions} == set(choices("precision"))
    for row in FORMATS:
        for precision in choices("precision"):
            if precision in row.precisions:
                ExportRecipe(format=row.name, precision=precision)
            else:
                with pytest.raises(ValueError, match="files have precision"):
                    ExportRecipe(format=row.name, precision=precision)


def test_options_of_a_row_are_keys_of_an_export():
    for row in FORMATS:
        assert set(row.options or ()) <= set(ExportRecipe.model_fields)


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_rows_that_are_referred_to_are_there(row):
    assert not row.runs_as or format_facts(row.runs_as).engine
    assert engine_facts(row.name).engine
    assert set(row.saturates) <= set(row.precisions)


def test_devices_and_policies_speak_of_what_the_tables_have():
    for target in TARGETS.values():
        assert set(target.formats) <= {row.name for row in FORMATS}
        assert set(target.precisions) <= {row.name for row in EXPORT_PRECISIONS}
    for row in policy.POLICIES.values():
        assert set(row.allowed) <= {name.key for name in POLICY_NAMES}
    known = {name.key for name in POLICY_NAMES}
    assert {row.policy for row in EXPORT_PRECISIONS} - {""} <= known
    assert {row.trained for row in EXPORT_PRECISIONS} - {""} <= {r.kind for r in TECHNIQUES}


def test_the_steps_of_a_study_are_the_tables():
    union = typing.get_args(typing.get_args(recipes.Step)[0])
    assert set(union) == {row.recipe for row in TECHNIQUES}
    for row in TECHNIQUES:
        assert row.recipe.model_fields["step"].default == row.kind


@pytest.mark.parametrize("row", TECHNIQUES, ids=lambda row: row.kind)
def test_the_implementation_of_a_step_is_where_its_row_says(row):
    module, _, name = row.implementation.partition(":")
    made = getattr(importlib.import_module(module), name)
    assert made.kind == row.kind
    # a search must have a limit
    recipe = row.recipe(macs=1) if row.kind == "search" else row.recipe()
    opened = open_step(recipe)
    assert type(opened) is made
    assert opened.recipe is recipe


def test_the_words_of_reports_are_the_rows():
    assert format_words("tensorrt") == "ONNX for TensorRT"
    assert format_words("pytorch") == "pytorch"
    assert step_words("qat") == "quantization-aware training"
    assert {step_words(row.kind) for row in TECHNIQUES}.isdisjoint({"shrink", "search"})


# ---------------------------------------------------------------- what a row does not state


def test_a_name_without_a_row_states_nothing():
    assert format_facts("pytorch") == FormatFacts("pytorch")
    assert precision_facts("int2") == PrecisionFacts("int2")
    assert technique_of("export") == Technique("export")
    for row, given in ((FormatFacts("x"), {"name", "kinds", "own_ranges"}), (Technique("x"), {})):
        stated = {f.name for f in fields(row) if getattr(row, f.name)} - set(given)
        assert stated <= {"kind", "size", "tagged"}
    assert package_of("x") == "clinipress"
    assert not timed_here("x")


def test_a_step_without_a_row_has_no_size_no_objection_and_no_implementation():
    assert remaining_weights(ToyStep(), 1000) is None
    assert next_network(ToyStep()) is None
    assert policy.techniques([Applied(step="toy", params={})], "float32") == ()
    assert policy.objection("critical", [Applied(step="toy", params={})], "float32") is None
    with pytest.raises(RecipeError, match=r"a step of kind distill, .*'toy'"):
        open_step(ToyStep())


def test_a_precision_that_states_no_bytes_refuses_nothing(monkeypatch):
    study = parse_study(
        {
            "name": "short",
            "target": "cortex-m7",
            "reference": {"model": "resnet50"},
            "exports": [{"format": "tflite-micro"}],
            "data": {"input": {"height": 96, "width": 96}},
        }
    )
    targets = resolve_targets(study.target)
    with pytest.raises(RecipeError, match="MB in int8"):
        budget.check_budget(study, targets)
    monkeypatch.setattr(budget, "precision_facts", PrecisionFacts)
    budget.check_budget(study, targets)


# ---------------------------------------------------------------- a row more


def test_a_row_is_all_that_a_step_needs():
    row = Technique(
        kind="toy", implementation=f"{__name__}:ToyTechnique", verb="toyed", size="share"
    )
    table = (*TECHNIQUES, row)
    assert step_names([ToyStep(), QatStep(), ToyStep(name="last")], table) == [
        "toyed-1",
        "quantization-aware",
        "last",
    ]
    assert remaining_weights(ToyStep(), 1000, table) == 500
    assert type(open_step(ToyStep(), table)).__name__ == "ToyTechnique"


def test_a_row_is_found_in_the_table_that_is_given():
    toy = FormatFacts("toy", title="Toy", precisions=("int2",))
    assert format_facts("toy", (*FORMATS, toy)) is toy
    fine = PrecisionFacts("int2", weight_bytes=0.25)
    assert precision_facts("int2", (fine,)).weight_bytes == 0.25


# ---------------------------------------------------------------- names and sizes


def test_names_of_steps_and_controls():
    student = DistillStep(student=ModelRecipe(name="resnet18"), control=True)
    assert step_names([student, PruneStep()]) == ["distilled", "pruned"]
    assert control_name("distilled") == "distilled-control"
    for name in ("reference", "distilled-control", "distilled"):
        with pytest.raises(RecipeError, match="step names that differ"):
            step_names([student, PruneStep(name=name)])


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (QatStep(), 1000),
        (DistillStep(), 1000),
        (PruneStep(ratio=0.4, of="parameters"), 600),
        (PruneStep(ratio=0.4, of="macs"), 360),
        (PruneStep(ratio=0.4, of="filters"), None),
        (recipes.FineTuneStep(train=TrainOptions(epochs=1)), 1000),
        (recipes.SearchStep(macs=10), None),
        (recipes.ShrinkStep(), None),
    ],
)
def test_what_a_step_leaves_of_the_weights(step, expected):
    assert remaining_weights(step, 1000) == expected


def test_packages_of_formats_are_distributions():
    names = format_packages()
    assert {"ai-edge-litert", "executorch", "nncf", "onnxruntime", "tflite-micro"} <= set(names)
    assert not [name for name in names if "_" in name or "." in name]
