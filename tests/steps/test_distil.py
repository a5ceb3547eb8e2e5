"""The step: every method, any teacher, plan and apply, on a small SYNTHETIC set."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from clinipress.data.study import open_study_data
from clinipress.errors import ModelError
from clinipress.formats.onnx.float import export_onnx
from clinipress.models.classifier import TorchCandidate
from clinipress.recipe.steps import DistillStep, ModelRecipe
from clinipress.recipe.study import DataRecipe
from clinipress.recipe.techniques import step_names
from clinipress.records.candidate import InputSpec
from clinipress.records.store import Store
from clinipress.steps.distill import soft_targets
from clinipress.steps.distill.step import Distill
from clinipress.steps.fitting import fresh_candidate
from clinipress.steps.step import Context
from kit.studies import TRAIN, study

SPEC = InputSpec(channels=1, height=32, width=32)
TINY = {"factory": "tiny_nets:make"}


@pytest.fixture(scope="module")
def data(phantoms, tmp_path_factory):
    recipe = DataRecipe(modality="chest-ct", input=SPEC)
    store = Store(tmp_path_factory.mktemp("data") / "run")
    return open_study_data(phantoms, recipe, store, seed=0, threads=1)


def teacher(data, seed=5, spec=SPEC, **changes):
    """A network that nobody trained teaches as hard as any."""
    model = ModelRecipe(**TINY, arguments={"width": 24})
    found = fresh_candidate(model, data, spec, seed=seed, name="teacher")
    card = found.card.model_copy(update=changes)
    return TorchCandidate(card, found.module.eval())


def saved(data, folder, **changes):
    teacher(data, **changes).save(folder)
    return str(folder)


class StoppedError(Exception):
    """What the listener raises."""


class Stop:
    """A listener that ends the training at its n-th report."""

    def __init__(self, at):
        self.left = at

    def start(self, what, total):
        self.what = what

    def advance(self, what, units=1, note=""):
        self.left -= what == "training" and note != ""
        if self.left == 0:
            raise StoppedError

    def finish(self, what, note=""):
        pass

    def say(self, text):
        pass


def context(data, work, *, root=True, **changes):
    torch.set_num_threads(1)
    one = teacher(data)
    keys = {"data": data, "reference": one, "work": work, "shared": work, "threads": 1}
    return Context(**(keys | {"root": one if root else None, "code": (TINY["factory"],)} | changes))


def step(**changes):
    train = TRAIN | {"epochs": 2}
    return Distill(DistillStep(**({"student": TINY, "views": 2, "train": train} | changes)))


def done(one, where, params=None):
    params = params or one.plan(None, where)
    return one.apply(None, json.loads(json.dumps(params)), where)[0].digest


def tables(folder):
    """Shapes of the teachers' tables, by what was kept."""
    found = {}
    for marks in folder.glob("teacher/*.json"):
        facts = json.loads(marks.read_text())["facts"]
        found[facts["teacher"], facts.get("method", "logits")] = facts
    return found


@pytest.mark.parametrize("method", ["soft", "dkd", "dist", "fitnet", "attention"])
def test_every_method_is_planned_and_applied_alike_twice(data, tmp_path, method):
    one, where = step(method=method), context(data, tmp_path / "a")
    params = one.plan(None, where)
    assert params["method"] == method
    first = done(one, where, params)
    assert first == done(one, context(data, tmp_path / "b"), params)
    control = Distill(one.recipe.without_teacher(params["numerics"]))
    assert first != done(control, context(data, tmp_path / "c"))
    kept = {name for _, name in tables(tmp_path / "a")}
    assert kept == {"logits"} | ({method} if method in ("fitnet", "attention") else set())
    assert not list((tmp_path / "c").glob("teacher/*"))  # a control has no teacher to ask


def test_a_killed_fitnet_ends_with_the_digest_of_a_whole_one(data, tmp_path):
    one = step(method="fitnet")
    whole = done(one, context(data, tmp_path / "a"))
    broken = context(data, tmp_path / "b", progress=Stop(2))
    params = one.plan(None, broken)
    with pytest.raises(StoppedError):
        done(one, broken, params)
    assert (tmp_path / "b" / "checkpoint" / "checkpoint.safetensors").is_file()
    assert done(one, context(data, tmp_path / "b"), params) == whole


def test_student_ends_without_hooks_and_without_regressors(data, tmp_path):
    one, where = step(method="fitnet"), context(data, tmp_path)
    student, _ = one.apply(None, one.plan(None, where), where)
    assert not [name for name in student.module.state_dict() if "regressor" in name]
    assert all(not part._forward_hooks for part in student.module.modules())
    student.save(tmp_path / "student")
    assert TorchCandidate.load(tmp_path / "student", allow_code=True).digest == student.digest


@pytest.mark.parametrize("method", ["fitnet", "attention"])
def test_maps_too_large_to_keep_are_computed_live(data, tmp_path, monkeypatch, method):
    where = context(data, tmp_path)
    kept = step(method=method).plan(None, where)
    assert (kept["maps"], "within" in kept["maps_reason"]) == ("cached", True)
    shapes = {"fitnet": [[48, 8, 8]], "attention": [[1, 16, 16], [1, 8, 8]]}[method]
    assert kept["map_shapes"] == shapes
    monkeypatch.setattr(soft_targets, "LARGEST_TABLE", 1000)
    live = step(method=method).plan(None, where)
    assert (live["maps"], "above" in live["maps_reason"]) == ("live", True)
    done(step(method=method), where, live)
    assert {name for _, name in tables(tmp_path)} == {"logits"}


def test_an_ensemble_of_a_folder_and_a_file_at_another_size(data, tmp_path):
    large = InputSpec(channels=3, height=48, width=48)
    folder = saved(data, tmp_path / "large", seed=6, spec=large)
    file = tmp_path / "file.onnx"
    export_onnx(teacher(data, seed=7), file)
    where = context(data, tmp_path / "run")
    one = step(teachers=[folder, str(file)])
    params = one.plan(None, where)
    assert [one["path"] for one in params["teachers"]] == [folder, str(file)]
    both = done(one, where, params)
    shapes = {t: facts["pixels"] for (t, _), facts in tables(tmp_path / "run").items()}
    images = len(data.cache(SPEC).labels)
    assert shapes == {
        params["teachers"][0]["digest"]: [images, 3, 48, 48],
        params["teachers"][1]["digest"]: [images, 1, 32, 32],
    }
    assert both != done(step(teachers=[str(file)]), context(data, tmp_path / "alone"))


def test_teachers_that_cannot_teach_are_refused_in_one_line(data, tmp_path):
    where = context(data, tmp_path / "run")
    other = saved(data, tmp_path / "other", classes=("x", "y", "z"))
    file = tmp_path / "file.onnx"
    export_onnx(teacher(data), file)
    folder = saved(data, tmp_path / "folder")
    refused = [
        ({"teachers": [other]}, "a teacher of the classes"),
        ({"teachers": [str(tmp_path / "nothing")]}, "nothing at"),
        ({"teachers": [str(file)], "method": "fitnet"}, "a file without modules"),
        ({"teachers": [folder, folder], "method": "attention"}, "one teacher for feature maps"),
        ({"method": "fitnet", "layers": [["down", "nowhere"]]}, "teacher's modules in 'layers'"),
        ({"method": "fitnet", "layers": [["head", "down"]]}, "from the student's 'head'"),
    ]
    for changes, said in refused:
        with pytest.raises(ModelError, match=said) as caught:
            step(**changes).plan(None, where)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="PyTorch candidate"):
        step(method="fitnet").plan(None, context(data, tmp_path / "b", root=False))


def test_a_teacher_changed_since_the_plan_is_noticed(data, tmp_path):
    folder, where = saved(data, tmp_path / "teacher"), context(data, tmp_path / "run")
    one = step(teachers=[folder])
    before = soft_targets.outside_teachers(one.recipe, (TINY["factory"],))
    params = one.plan(None, where)
    saved(data, tmp_path / "teacher", seed=9)
    assert soft_targets.outside_teachers(one.recipe, (TINY["factory"],)) != before
    with pytest.raises(ModelError, match="as it was when the step was planned"):
        one.apply(None, params, where)


def test_layers_may_be_named_and_views_are_never_more_than_epochs(data, tmp_path):
    one = step(method="attention", layers=[["block", "block"]], views=9)
    params = one.plan(None, context(data, tmp_path))
    assert params["layers"] == [["block", "block"]]
    assert params["views"] == 2


def test_teachers_views_are_the_students_at_its_own_size(data):
    """A smooth image at two sizes, augmented alike: the small view is the large one made small."""
    rows = np.arange(4)
    images = []
    for side in (32, 64):
        spec = InputSpec(channels=1, height=side, width=side)
        views = soft_targets.Views(data.cache(spec), rows, "chest-ct", 1.0, 3, 2)
        images.append(views.images(rows, 1).float())
    small = torch.nn.functional.avg_pool2d(images[1], 2)
    shifted = torch.roll(small, 5, dims=3)
    difference = (small - images[0]).abs().mean()
    assert difference < 0.2 * (shifted - images[0]).abs().mean()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beta": 2.0}, "no meaning for method 'soft'"),
        ({"method": "dkd", "layers": [["a", "b"]]}, "no meaning for method 'dkd'"),
        ({"alpha": 0.0, "control": True}, "its own control"),
        ({"teachers": []}, "at least 1"),
        ({"method": "hinton"}, "soft"),
    ],
)
def test_keys_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(ValidationError, match=said):
        step(**changes)


def test_the_control_is_the_same_student_and_budget():
    full = DistillStep(student=TINY, method="fitnet", control=True, teachers=["a"], train=TRAIN)
    control = full.without_teacher("float32-contiguous")
    assert (control.student, control.train) == (full.student, full.train)
    assert (control.alpha, control.control, control.teachers) == (0, False, None)
    assert full.without_teacher("bfloat16-channels-last").train.numerics.startswith("bf")


def test_a_controls_name_is_taken():
    steps = [{"step": "distill", "student": TINY, "control": True}]
    assert step_names(study(steps=steps).steps) == ["distilled"]
    again = [*steps, {"step": "train", "name": "distilled-control"}]
    with pytest.raises(Exception, match="step names that differ"):
        step_names(study(steps=again).steps)


# ------------------------------------------------------------------ answers to views


@pytest.mark.parametrize(
    ("views", "epochs", "method", "asked", "chosen"),
    [
        (8, 8, "soft", None, "view"),
        (7, 8, "soft", None, "mean"),
        (7, 8, "dkd", None, "mean"),
        (7, 8, "fitnet", None, "view"),
        (7, 8, "soft", "view", "view"),
        (9, 8, "soft", "mean", "mean"),
    ],
)
def test_fewer_views_than_epochs_are_not_learned_by_heart(views, epochs, method, asked, chosen):
    train = TRAIN | {"epochs": epochs}
    one = DistillStep(student=TINY, views=views, method=method, answers=asked, train=train)
    assert one.chosen_answers() == chosen


def test_maps_need_the_same_view():
    with pytest.raises(ValidationError, match="compares the same view"):
        DistillStep(student=TINY, method="attention", answers="mean")


def test_mean_answers_are_those_of_all_views_and_the_student_sees_new_ones(data, tmp_path):
    one, where = step(answers="mean", temperature=3.0, alpha=1.0), context(data, tmp_path)
    params = one.plan(None, where)
    assert params["answers"] == "mean"
    loss, round_of = soft_targets.soft_loss(params, where)
    assert round_of is None  # a new view in every epoch
    table = np.load(next(tmp_path.glob("teacher/*.npy")))
    assert table.shape[0] == 2
    rows = data.rows("train", SPEC)
    chosen, labels = rows.index[:5], torch.from_numpy(rows.labels[:5])
    logits = torch.randn(5, len(data.classes), generator=torch.Generator().manual_seed(0))
    soft = np.exp(table[:, :5] / 3.0)
    mean = (soft / soft.sum(2, keepdims=True)).mean(0)  # the slow way: average of probabilities
    mine = torch.log_softmax(logits / 3.0, 1).numpy()
    expected = 9.0 * (mean * (np.log(mean) - mine)).sum(1).mean()
    for view in (0, 1, 17):
        assert float(loss(logits, labels, chosen, view)) == pytest.approx(expected, rel=1e-4)


# ------------------------------------------------------------------ without a student


def test_without_a_student_the_parent_learns_on(data, tmp_path):
    parent, where = teacher(data, seed=9), context(data, tmp_path)
    before = parent.digest
    one = step(student=None)
    assert one.inherits
    assert not step().inherits
    params = json.loads(json.dumps(one.plan(parent, where)))
    assert params["student"] is None
    child, _ = one.apply(parent, params, where)
    assert parent.digest == before != child.digest
    assert child.card.model == parent.card.model
    with pytest.raises(ModelError, match="PyTorch candidate to train on"):
        one.plan(None, where)


def test_a_larger_table_serves_steps_with_fewer_views(data, tmp_path, monkeypatch):
    one, where = step(views=2), context(data, tmp_path)
    params = one.plan(None, where)
    soft_targets.soft_loss(params, where)
    files = sorted(path.name for path in tmp_path.glob("teacher/*.npy"))
    assert len(files) == 1
    assert files[0].endswith("-2.npy")
    large = np.load(tmp_path / "teacher" / files[0])

    def never(self, images):
        raise AssertionError("asked again")

    monkeypatch.setattr(TorchCandidate, "predict", never)
    small = soft_targets._logits_table(where.reference, params | {"views": 1}, where)
    assert small.shape[0] == 1
    np.testing.assert_array_equal(small[0], large[0])
    # what is not finished serves nobody
    marks = tmp_path / "teacher" / f"{files[0]}.json"
    kept = json.loads(marks.read_text())
    marks.write_text(json.dumps(kept | {"done": kept["done"] - 1}))
    with pytest.raises(AssertionError, match="asked again"):
        soft_targets._logits_table(where.reference, params | {"views": 1}, where)
