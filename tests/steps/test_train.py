"""The step of training on labels: in stages, from local weights or without, and from a parent."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from clinipress.data.study import open_study_data
from clinipress.models.zoo import create_backbone
from clinipress.recipe.steps import DistillStep, FineTuneStep, ModelRecipe
from clinipress.recipe.study import DataRecipe
from clinipress.records.candidate import InputSpec
from clinipress.records.store import Store
from clinipress.steps.distill.step import Distill
from clinipress.steps.fitting import fresh_candidate
from clinipress.steps.step import Context
from clinipress.steps.train import FineTune
from kit.studies import TRAIN

SPEC = InputSpec(channels=1, height=32, width=32)
NAME = "mobilenetv2_050"
STAGES = ({"train": "head", "epochs": 1}, {"epochs": 1, "layer_decay": 0.9}, {"epochs": 1})


@pytest.fixture(scope="module")
def data(phantoms, tmp_path_factory):
    recipe = DataRecipe(modality="chest-ct", input=SPEC)
    store = Store(tmp_path_factory.mktemp("data") / "run")
    return open_study_data(phantoms, recipe, store, seed=0, threads=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as timm publishes it: three channels, a thousand classes, norms that have learnt."""
    torch.manual_seed(4)
    backbone = create_backbone(name=NAME, num_classes=1000, in_channels=3, size=(32, 32))
    state = backbone.state_dict()
    state = {k: v * 1.05 + 0.01 if v.is_floating_point() else v for k, v in state.items()}
    path = tmp_path_factory.mktemp("weights") / "published.safetensors"
    save_file(state, path)
    return path, state


def context(data, folder, reference=None):
    return Context(
        data=data, reference=reference, root=reference, work=folder / "work",
        shared=folder / "shared", seed=0, threads=1,
    )  # fmt: skip


def fresh(data, **model):
    return fresh_candidate(ModelRecipe(name=NAME, **model), data, SPEC, seed=1, name="x")


def step_of(stages, **changes):
    chosen = {k: v for k, v in TRAIN.items() if k != "epochs"}
    return FineTune(FineTuneStep(train=chosen | {"stages": stages} | changes))


def test_head_stage_keeps_local_weights_bit_for_bit(data, tmp_path, weights):
    path, published = weights
    parent, where = fresh(data, pretrained=str(path)), context(data, tmp_path)
    step = step_of(STAGES[:1])
    params = json.loads(json.dumps(step.plan(parent, where)))
    assert "frozen_backbone" not in params
    child, facts = step.apply(parent, params, where)
    found = child.module.backbone.state_dict()
    rests = [name for name in found if not name.startswith("classifier")]
    assert rests
    assert all(torch.equal(found[name], published[name]) for name in rests)
    assert not torch.equal(found["classifier.weight"],
                           parent.module.backbone.classifier.weight)  # fmt: skip
    assert len(facts["epochs"]) == 1


def test_three_stages_from_scratch_put_it_on_record(data, tmp_path):
    parent, where = fresh(data), context(data, tmp_path)
    step = step_of(STAGES, mixup=0.2)
    params = step.plan(parent, where)
    assert "random weights" in params["frozen_backbone"]
    child, facts = step.apply(parent, params, where)
    assert [row["stage"] for row in facts["epochs"]] == [1, 2, 3]
    again, _ = step.apply(parent, params, context(data, tmp_path / "again"))
    assert again.digest == child.digest
    assert "frozen_backbone" not in step_of(STAGES[1:]).plan(parent, where)


def test_distillation_takes_stages_and_mixed_images(data, tmp_path, weights):
    teacher = fresh(data, arguments={"drop_rate": 0.0})
    where = context(data, tmp_path, teacher)
    chosen = {k: v for k, v in TRAIN.items() if k != "epochs"}
    student = {"name": NAME, "pretrained": str(weights[0])}
    train = chosen | {"stages": STAGES, "mixup": 0.4, "cutmix": 1.0}
    step = Distill(DistillStep(student=student, views=2, train=train))
    params = step.plan(teacher, where)
    child, facts = step.apply(teacher, params, where)
    assert [row["stage"] for row in facts["epochs"]] == [1, 2, 3]
    assert child.digest != teacher.digest
