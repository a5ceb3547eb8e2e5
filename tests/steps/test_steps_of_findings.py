"""Steps on images that may show several findings: as for one class, or refused when read."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics as referee

from clinipress.data.study import open_study_data
from clinipress.errors import ModelError, RecipeError
from clinipress.recipe.steps import DistillStep, FineTuneStep, ModelRecipe, SearchStep, ShrinkStep
from clinipress.recipe.study import DataRecipe
from clinipress.records.store import Store
from clinipress.stats.metrics import overall_score
from clinipress.steps.distill import soft_targets
from clinipress.steps.distill.step import Distill
from clinipress.steps.fitting import fresh_candidate
from clinipress.steps.supernet.search import Search, _scored
from clinipress.steps.supernet.shrink import Shrink
from clinipress.steps.train import FineTune
from clinipress.study.read import parse_study
from kit.drawn_findings import draw_findings
from kit.steps import FindingsData
from kit.studies import TRAIN, tree
from kit.supernets import GREY, candidate, context, one_thread, options

__all__ = ["one_thread"]  # a fixture for every test here

TINY = {"factory": "tiny_nets:make"}
QUICK = TRAIN | {"epochs": 1}
FINDINGS = {"data": {"task": "multilabel", "input": {"height": 32, "width": 32}}}


@pytest.mark.parametrize("method", ["dkd", "dist", "soft", "fitnet", "attention"])
def test_what_compares_the_classes_of_one_softmax_is_refused_when_read(method):
    steps = [{"step": "prune"}, {"step": "distill", "method": method, "answers": "view"}]
    parse_study(tree(steps=steps))
    if method not in ("dkd", "dist"):
        parse_study(tree(steps=steps, **FINDINGS))
        return
    with pytest.raises(RecipeError, match=f"'method: {method}'.* use 'soft'") as caught:
        parse_study(tree(steps=steps, **FINDINGS))
    assert "\n" not in str(caught.value)


LEARNT = {
    "soft": DistillStep(student=TINY, views=1, train=QUICK),
    "mean": DistillStep(student=TINY, views=2, answers="mean", train=QUICK),
    "fitnet": DistillStep(student=TINY, method="fitnet", views=1, train=QUICK),
    "attention": DistillStep(student=TINY, method="attention", views=1, train=QUICK),
    "control": DistillStep(student=TINY, alpha=0, train=QUICK),
    "mixed": DistillStep(student=TINY, views=1, train=QUICK | {
        "mixup": 0.2, "cutmix": 1.0, "class_weights": "balanced"}),
    "labels": FineTuneStep(train=QUICK | {"class_weights": "balanced", "mixup": 0.2}),
}  # fmt: skip


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("findings")
    recipe = DataRecipe(task="multilabel", input=GREY)
    store = Store(folder / "run")
    return open_study_data(draw_findings(folder / "set", 30), recipe, store, seed=0, threads=1)


@pytest.mark.parametrize("name", LEARNT)
def test_a_network_learns_findings_by_every_method(name, findings, tmp_path):
    teacher = fresh_candidate(ModelRecipe(**TINY), findings, GREY, seed=1, name="teacher")
    where = context(tmp_path, teacher, data=findings, root=teacher)
    recipe = LEARNT[name]
    step = (FineTune if recipe.step == "train" else Distill)(recipe)
    child, facts = step.apply(teacher, step.plan(teacher, where), where)
    assert child.card.task == "multilabel"
    rows = findings.rows("validation", GREY)
    logits = child.predict(findings.cache(GREY).take(rows.index))
    assert facts["best_validation_accuracy"] == pytest.approx(overall_score(logits, rows.labels))


def test_a_teacher_of_another_task_is_refused(tmp_path, monkeypatch):
    teacher = candidate()
    monkeypatch.setattr(soft_targets, "_teacher", lambda named, where: teacher)
    data = FindingsData(8, 4)
    where = SimpleNamespace(data=data)
    with pytest.raises(ModelError, match=r"task: multilabel.*one of task: multiclass from 'a'"):
        soft_targets.find_teachers(["a"], where)
    card = teacher.card.model_copy(update={"task": "multilabel", "classes": data.classes})
    fit = type(teacher)(card, teacher.module)
    monkeypatch.setattr(soft_targets, "_teacher", lambda named, where: fit)
    assert soft_targets.find_teachers(["a"], where) == [fit]


def test_a_sub_net_is_scored_by_the_mean_area_of_its_findings():
    random = np.random.default_rng(0)
    labels = random.integers(-1, 2, (60, 3))
    logits = labels + random.normal(size=(60, 3))
    known = [labels[:, c] >= 0 for c in range(3)]
    areas = [referee.roc_auc_score(labels[k, c], logits[k, c]) for c, k in enumerate(known)]
    score, likelihood = _scored(logits, labels)
    assert score == pytest.approx(np.mean(areas))
    every = np.concatenate([labels[k, c] for c, k in enumerate(known)])
    shares = 1 / (1 + np.exp(-np.concatenate([logits[k, c] for c, k in enumerate(known)])))
    assert likelihood == pytest.approx(-referee.log_loss(every, shares))


def test_a_supernet_is_shrunk_and_searched_for_findings(tmp_path):
    origin, data = candidate(), FindingsData(80, 56, 32, 60)
    card = origin.card.model_copy(update={"task": "multilabel", "classes": data.classes})
    origin = type(origin)(card, origin.module)
    where = context(tmp_path, origin, data=data)
    phase = {"name": "ends", "kernels": (7,), "depths": (2, 4), "expansions": (3, 6)}
    step = Shrink(ShrinkStep(phases=[phase], views=1, calibration_images=16, train=options()))
    shrunk, facts = step.apply(origin, step.plan(origin, where), where)
    assert 0 <= facts["phases"][0]["best_validation_accuracy"] <= 1
    asked = SearchStep(parameters=10**9, population=2, generations=1, calibration_images=32)
    search = Search(asked)
    plan = search.plan(shrunk, where)
    child, _ = search.apply(shrunk, plan, where)
    assert child.card.task == "multilabel"
    rows = data.rows("validation", child.card.input)
    logits = child.predict(data.pixels.take(rows.index))
    assert overall_score(logits, rows.labels) == pytest.approx(plan["search"]["accuracy"])
