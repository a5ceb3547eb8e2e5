"""Every named architecture trains, is distilled, pruned, exported to ONNX and made 8-bit.

Real steps on a small SYNTHETIC set. Depth and width are cut where the constructor allows it: the
kinds of layers and how they hang together stay, and those are what a step can fail on. There are no
holes: every model goes through every step.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from clinipress.data.study import open_study_data
from clinipress.formats.onnx.count import count_low_precision
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.parity import PARITY_TOLERANCE, parity
from clinipress.models.catalogue import NAMED
from clinipress.models.classifier import TorchCandidate
from clinipress.models.cost import macs, parameters
from clinipress.models.recalibration import recalibrate_batch_norms
from clinipress.recipe.steps import DistillStep, FineTuneStep, ModelRecipe, PruneStep
from clinipress.recipe.study import DataRecipe
from clinipress.records.candidate import InputSpec
from clinipress.records.store import Store
from clinipress.steps.distill.step import Distill
from clinipress.steps.fitting import fresh_candidate, step_seed
from clinipress.steps.prune.step import Prune
from clinipress.steps.step import Context
from clinipress.steps.train import FineTune
from kit.onnx_nets import to_int8

pytestmark = pytest.mark.slow

SPEC = InputSpec(channels=1, height=64, width=64)
TRAIN = {
    "epochs": 4,
    "batch_size": 16,
    "learning_rate": 3e-4,
    "warmup_epochs": 0.5,
    "augmentation": 0,
    "numerics": "float32-contiguous",
}
RATES = {"vgg16": 1e-4, "vgg19": 1e-4}  # without batch norms they go dead at three times that
PRUNED = 0.3
SMALL = {
    "densenet101": {"block_config": (2, 2, 3, 2)},
    "densenet121": {"block_config": (2, 2, 4, 3)},
    "densenet32": {"block_config": (1, 2, 2, 1)},
    "resnet50": {"layers": (1, 1, 1, 1)},
    "resnet152": {"layers": (1, 1, 2, 1)},
    "vgg16": {"mlp_ratio": 1 / 32},
    "vgg19": {"mlp_ratio": 1 / 32},
    "nasnet_a_mobile": {"cells": 1, "width": 16, "stem": 16},
    "visformer_s": {"depth": (2, 1, 1), "embed_dim": 192},
    "autoformerv2_t": {"depths": (1, 2, 1, 1), "embed_dim": 48},
}
# A plain network of batch norms, one of depthwise convolutions, one of dense blocks and one of
# attention: each kind that a step treats in its own way. The others are repeated at night.
BY_DAY = ("resnet50", "mobilenetv2", "densenet32", "visformer_s")
# Of a supernet that is run as its largest network: the matrices that make smaller kernels of large.
UNUSED = ("to5", "to3")
# Of the logits' standard deviation over images. Networks of depthwise convolutions that have learnt
# for a few steps only amplify whatever is rounded (a quarter to a half here, after real training
# some hundredths); answers of another network would differ by 1.13 of it.
ROUNDING = 0.65


def by_day(named):
    marks = () if named.name in BY_DAY else (pytest.mark.nightly,)
    return pytest.param(named, id=named.name, marks=marks)


def test_the_day_has_one_network_of_each_kind():
    assert set(BY_DAY) <= {named.name for named in NAMED}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from clinipress.data.drawn.phantom import draw_phantoms

    folder = tmp_path_factory.mktemp("matrix")
    drawn = draw_phantoms(folder / "drawn", patients=24, seed=1, size=64)
    recipe = DataRecipe(modality="chest-ct", input=SPEC)
    return open_study_data(drawn, recipe, Store(folder / "run"), seed=0, threads=1)


@pytest.fixture(scope="module")
def teacher(data):
    model = ModelRecipe(factory="tiny_nets:make", arguments={"width": 24})
    return fresh_candidate(model, data, SPEC, seed=5, name="teacher")


def taken(step, parent, context):
    """A step as a study takes it; the candidate and its facts."""
    return step.apply(parent, step.plan(parent, context), context)


def options(named, **changes):
    return TRAIN | {"learning_rate": RATES.get(named.name, TRAIN["learning_rate"])} | changes


def recipe_of(named):
    return ModelRecipe(name=named.name, arguments=SMALL.get(named.name, {}))


@pytest.fixture(scope="module", params=[by_day(named) for named in NAMED])
def trained(request, data, teacher, tmp_path_factory):
    """The name, the context, the fresh candidate and the trained one."""
    torch.set_num_threads(1)
    work = tmp_path_factory.mktemp(request.param.name)
    context = Context(data=data, reference=teacher, root=teacher, work=work, shared=work, threads=1)
    fresh = fresh_candidate(recipe_of(request.param), data, SPEC, seed=1, name="fresh")
    step = FineTune(FineTuneStep(train=options(request.param)))
    return request.param, context, fresh, *taken(step, fresh, context)


def pixels(context, split="train"):
    rows = context.data.rows(split, SPEC).index
    return context.data.cache(SPEC).take(np.sort(rows))


def loss_of(candidate, context):
    rows = np.sort(context.data.rows("train", SPEC).index)
    labels = torch.from_numpy(context.data.cache(SPEC).labels[rows])
    logits = torch.from_numpy(candidate.predict(pixels(context)))
    assert logits.isfinite().all()
    return float(torch.nn.functional.cross_entropy(logits, labels))


def unmoved(before, after):
    """Names of parameters that training has not changed."""
    now = dict(after.module.named_parameters())
    return [n for n, p in before.module.named_parameters() if torch.equal(p, now[n])]


def test_train(trained):
    _, context, fresh, candidate, facts = trained
    losses = [epoch["train_loss"] for epoch in facts["epochs"]]
    assert losses[-1] < losses[0]
    assert all(name.endswith(UNUSED) for name in unmoved(fresh, candidate))
    assert np.isfinite(loss_of(candidate, context))


def test_distil(trained):
    named, context, *_ = trained
    train = options(named, epochs=1, warmup_epochs=0)
    step = Distill(DistillStep(student=recipe_of(named), views=1, train=train))
    student, facts = taken(step, None, context)
    assert np.isfinite([epoch["train_loss"] for epoch in facts["epochs"]]).all()
    seed = step_seed(context.seed, step.kind)
    fresh = fresh_candidate(recipe_of(named), context.data, SPEC, seed=seed, name="student")
    assert all(name.endswith(UNUSED) for name in unmoved(fresh, student))
    assert student.spec.name == named.name
    assert np.isfinite(loss_of(student, context))


def test_prune(trained):
    _, context, _, parent, _ = trained
    step = Prune(PruneStep(ratio=PRUNED, round_to=1, train=None))
    small, _ = taken(step, parent, context)
    share = 1 - macs(small.module, SPEC) / macs(parent.module, SPEC)
    assert share == pytest.approx(PRUNED, abs=0.02)
    assert parameters(small.module) < parameters(parent.module)
    assert np.isfinite(loss_of(small, context))


def test_onnx_and_int8(trained, tmp_path):
    _, context, _, parent, _ = trained
    images = pixels(context)
    module = copy.deepcopy(parent.module)
    # after so few steps the running statistics are far from the layers' inputs
    recalibrate_batch_norms(module, [torch.from_numpy(images)])
    parent = TorchCandidate(parent.card, module)
    exported = export_onnx(parent, tmp_path / "float.onnx", images=images)
    spread = max(float(parent.predict(images).std(0).mean()), 0.005)
    assert parity(parent, exported, images).max_logit_difference < PARITY_TOLERANCE * max(1, spread)
    small = to_int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", images)
    counts = count_low_precision(tmp_path / "int8.onnx")
    found = parity(parent, small, images)
    assert counts["Conv float32"] == 0 < counts["Conv int8"]
    assert counts["Gemm float32"] == 0 < counts["Gemm int8"]
    assert found.mean_logit_difference < ROUNDING * spread
