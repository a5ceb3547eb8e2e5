"""Progressive shrinking: phases, sandwich, teacher, resumption, and what sub-nets gain by it."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from clinipress.errors import ModelError, RecipeError
from clinipress.models.classifier import TorchCandidate
from clinipress.models.ofa import Space
from clinipress.recipe.steps import PHASES, FineTuneStep, Phase, ShrinkStep
from clinipress.steps.supernet import shrink as shrink_step
from clinipress.steps.supernet.shrink import Shrink
from clinipress.steps.supernet.shrinking import Shrinking, SubnetLoss, standalone
from clinipress.steps.supernet.supernets import calibration_batches, sub_net
from clinipress.steps.train import FineTune
from kit.supernets import GREY, WIDTH, candidate, context, drawn, one_thread, options

__all__ = ["one_thread"]  # a fixture for every test here

ALL = Space(WIDTH)


def recipe(epochs=2, **changes):
    phases = (Phase(name="all"),) if "phases" not in changes else changes.pop("phases")
    plain = {"phases": phases, "views": 1, "calibration_images": 32}
    return ShrinkStep(**(plain | {"train": options(epochs=epochs)} | changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The largest network, trained until it knows the two classes."""
    step = FineTune(FineTuneStep(train=options(epochs=7)))
    where = context(tmp_path_factory.mktemp("largest"))
    parent = candidate()
    child, facts = step.apply(parent, step.plan(parent, where), where)
    assert facts["best_validation_accuracy"] > 0.9
    return child


def shrinking(parent, **changes):
    plain = {"sampled": 1, "sandwich": True, "seed": 0, "calibration": []}
    return Shrinking(parent.module, ALL, **(plain | changes))


# ------------------------------------------------------------------------------------ recipe


def test_phases_follow_the_paper():
    assert [phase.name.split("-")[0] for phase in PHASES] == [
        *("kernel", "depth", "depth", "expand", "expand")
    ]
    earlier = (1, 1, 1)
    for phase in PHASES:  # what one phase allows, the next still does
        now = len(phase.kernels), len(phase.depths), len(phase.expansions)
        assert all(a >= b for a, b in zip(now, earlier, strict=True))
        earlier = now
    assert earlier == (3, 3, 3)


@pytest.mark.parametrize("epochs", [5, 6, 9, 41, 410])
def test_epochs_are_divided(epochs):
    found = ShrinkStep(train=options(epochs=epochs)).epochs()
    assert sum(found) == epochs
    assert min(found) >= 1
    if epochs == 410:
        assert found == [120, 25, 120, 25, 120]


STAGED = {"stages": [{"epochs": 5}, {"epochs": 5}]}


@pytest.mark.parametrize(
    "changes", [{"train": {"epochs": 4}}, {"train": STAGED}, {"phases": ()}, {"alpha": 2}]
)
def test_recipes_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValidationError):
        ShrinkStep(**changes)


def test_another_network_is_refused(tmp_path):
    other = candidate("clinipress.models.ofa:ofa_mobilenetv3", stages=[[[3, 3]] * 2] * 5)
    with pytest.raises(ModelError, match="supernet"):
        Shrink(recipe()).plan(other, context(tmp_path))


def test_several_processes_are_refused(tmp_path):
    asked = recipe(train=options(processes=2))
    with pytest.raises(RecipeError, match="one process"):
        Shrink(asked).plan(candidate(), context(tmp_path))


# -------------------------------------------------------------------------------- the wrapper


def test_a_step_answers_with_the_ends_and_the_drawn(trained):
    module = shrinking(trained, sampled=2).train()
    expected = module.chosen()
    assert expected[:2] == [ALL.largest(), ALL.smallest()]
    images = torch.from_numpy(drawn().pixels.take(np.arange(8)))
    answers = module(images)
    assert answers.shape == (8, 4, 2)
    supernet = trained.module.backbone
    assert supernet.active == supernet.architecture
    for place, chosen in enumerate(expected):
        supernet.activate(chosen)
        torch.testing.assert_close(trained.module(images), answers[:, place])
    supernet.activate(supernet.architecture)
    trained.module.eval()


def test_draws_depend_on_seed_epoch_and_step_alone(trained):
    images = torch.from_numpy(drawn().pixels.take(np.arange(4)))

    def sub_nets(epoch, **changes):
        module = shrinking(trained, **changes).train()
        module.begin(epoch)
        found = []
        for _ in range(3):
            found.append(module.chosen()[-1])
            module(images)
        return found

    assert sub_nets(0) == sub_nets(0)
    assert len({*sub_nets(0), *sub_nets(1), *sub_nets(0, seed=1)}) == 9
    trained.module.eval()


def test_without_the_sandwich_only_drawn_sub_nets(trained):
    module = shrinking(trained, sandwich=False, sampled=3)
    assert len(module.chosen()) == 3


def test_the_loss_is_the_mean_over_sub_nets(trained):
    class Inner:
        told = -1

        def begin(self, epoch):
            self.told = epoch

        def __call__(self, logits, labels, rows, view):
            return functional.cross_entropy(logits, labels)

    module, inner = shrinking(trained), Inner()
    loss = SubnetLoss(inner, module)
    loss.begin(3)
    assert (inner.told, module._epoch) == (3, 3)
    logits, labels = torch.randn(6, 3, 2), torch.tensor([0, 1, 0, 1, 1, 0])
    expected = sum(functional.cross_entropy(logits[:, i], labels) for i in range(3)) / 3
    torch.testing.assert_close(loss(logits, labels, np.arange(6), 0), expected)


def test_evaluation_is_of_the_smallest_with_norms_of_its_own(trained, tmp_path):
    where = context(tmp_path)
    batches = calibration_batches(64, GREY, 0, where)
    module = shrinking(trained, calibration=batches).eval()
    images = torch.from_numpy(drawn().pixels.take(np.arange(64, 80)))
    with torch.inference_mode():
        found = module(images)
        expected = standalone(trained.module, ALL.smallest(), batches)(images)
        raw = standalone(trained.module, ALL.smallest(), [])(images)
    torch.testing.assert_close(found, expected)
    assert (raw - found).abs().max() > 1e-3  # the largest network's statistics do not fit it


def test_evaluation_sees_weights_that_changed(trained):
    """A judge that stays would show the first epoch's accuracy for ever."""
    import copy

    module = shrinking(TorchCandidate(trained.card, copy.deepcopy(trained.module))).eval()
    images = torch.from_numpy(drawn().pixels.take(np.arange(4)))
    with torch.inference_mode():
        before = module(images).clone()
        module.network.backbone.head.bias.add_(1.0)
        assert torch.equal(module(images), before)  # while the mode stays, it is kept
        module.train()
        torch.testing.assert_close(module.eval()(images), before + 1)


def test_evaluation_takes_weights_that_are_swapped_in(trained):
    """The loop evaluates its averaged weights through functional_call."""
    module = shrinking(trained).eval()
    images = torch.from_numpy(drawn().pixels.take(np.arange(4)))
    weights = {k: v.clone() for k, v in module.state_dict().items()}
    weights["network.backbone.head.bias"] += 2
    with torch.inference_mode():
        found = torch.func.functional_call(module, weights, (images,))
        module.eval()
        torch.testing.assert_close(found, module(images) + 2)


def test_calibration_images_are_mixed_training_images(tmp_path):
    where = context(tmp_path)
    batches = calibration_batches(64, GREY, 0, where)
    assert [len(batch) for batch in batches] == [32, 32]
    train = {row.tobytes() for row in drawn().pixels.take(np.arange(64))}
    assert all(image.numpy().tobytes() in train for batch in batches for image in batch)
    bright = [(batch.float().mean((1, 2, 3)) > 100).float().mean() for batch in batches]
    assert all(0.2 < share < 0.8 for share in bright)
    assert [len(batch) for batch in calibration_batches(10, GREY, 0, where)] == [10]


# ---------------------------------------------------------------------------------- the step


def accuracy(found, chosen, where):
    batches = calibration_batches(64, GREY, 0, where)
    small = sub_net(found, chosen, batches)
    rows = where.data.rows("validation", GREY)
    logits = small.predict(where.data.cache(GREY).take(rows.index))
    return float((logits.argmax(1) == rows.labels).mean())


def test_sub_nets_learn_what_the_largest_knows(trained, tmp_path):
    where, step = context(tmp_path), Shrink(recipe(epochs=3))
    parent_digest = trained.digest
    plan = json.loads(json.dumps(step.plan(trained, where)))
    child, facts = step.apply(trained, plan, where)
    assert trained.digest == parent_digest
    assert child.card.model == trained.card.model
    random = np.random.default_rng(5)
    drawn = [ALL.smallest(), *(ALL.sample(random) for _ in range(5))]
    before = np.mean([accuracy(trained, chosen, where) for chosen in drawn])
    after = np.mean([accuracy(child, chosen, where) for chosen in drawn])
    assert after > 0.9
    assert after > before
    (phase,) = facts["phases"]
    assert phase["best_validation_accuracy"] > 0.9
    rows = where.data.rows("validation", GREY)
    logits = child.predict(where.data.cache(GREY).take(rows.index))
    assert (logits.argmax(1) == rows.labels).mean() > 0.9  # the largest is not forgotten


PHASED = (
    Phase(name="kernel", depths=(4,), expansions=(6,)),
    Phase(name="expand-1", expansions=(4, 6)),
    Phase(name="expand-2"),
)


def test_channels_are_sorted_when_a_phase_first_leaves_some_out(trained, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(shrink_step, "sort_by_importance", lambda net, kept: calls.append(kept))
    step, where = Shrink(recipe(epochs=3, phases=PHASED)), context(tmp_path)
    step.apply(trained, step.plan(trained, where), where)
    assert calls == [None, 4]


def test_a_killed_shrinking_ends_with_the_same_bits(trained, tmp_path):
    step = Shrink(recipe(epochs=3, phases=PHASED))
    plan = step.plan(trained, context(tmp_path / "a"))
    whole, _ = step.apply(trained, plan, context(tmp_path / "a"))

    class Killer:
        """Stops the training in its second phase."""

        starts = 0

        def start(self, what, total):
            self.starts += what == "training"

        def advance(self, what, units=1, note=""):
            if self.starts == 2 and what == "training":
                raise KeyboardInterrupt

        def finish(self, what, note=""):
            pass

        def say(self, text):
            pass

    with pytest.raises(KeyboardInterrupt):
        step.apply(trained, plan, context(tmp_path / "b", progress=Killer()))
    first = tmp_path / "b" / "phase-1-kernel" / "checkpoint" / "checkpoint.safetensors"
    stamp = first.stat().st_mtime_ns
    again, _ = step.apply(trained, plan, context(tmp_path / "b"))
    assert first.stat().st_mtime_ns == stamp  # the finished phase was read back
    assert again.digest == whole.digest
