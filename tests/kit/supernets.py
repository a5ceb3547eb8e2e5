"""A narrow supernet on drawn images, for the tests of the steps on supernets."""

from __future__ import annotations

import pytest
import torch

from clinipress.models.classifier import TorchCandidate, new_classifier
from clinipress.recipe.steps import ModelRecipe, TrainOptions
from clinipress.records.candidate import Card, InputSpec
from kit import steps as step_kit
from kit.steps import Data

SIDE, WIDTH = 32, 0.25
GREY = InputSpec(channels=1, height=SIDE, width=SIDE)
QUICK = {
    "batch_size": 8,
    "warmup_epochs": 0,
    "numerics": "float32-contiguous",
    "ema_decay": None,
    "augmentation": 0,
    "label_smoothing": 0,
    "weight_decay": 0,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """With more, threads of tiny networks wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn():
    """112 drawn images, of which 64 are trained on."""
    return Data(112, 64, SIDE, 60)


def options(**changes):
    return TrainOptions(**(QUICK | {"epochs": 1, "learning_rate": 5e-3} | changes))


def candidate(factory="clinipress.models.ofa:ofa_supernet", seed=0, **arguments):
    torch.manual_seed(seed)
    recipe = ModelRecipe(factory=factory, arguments={"width": WIDTH} | arguments)
    spec, module = new_classifier(recipe, GREY, 2, 0.4, 0.2)
    card = Card(name="parent", classes=Data.classes, input=GREY, model=spec)
    return TorchCandidate(card, module.eval())


def context(folder, reference=None, **changes):
    return step_kit.context(folder, changes.pop("data", None) or drawn(), reference, **changes)
