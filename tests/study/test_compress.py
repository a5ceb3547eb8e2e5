"""`compress`: a trained network in one call; how it wants its images, what fits into the time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import clinipress
from clinipress.errors import InputError, ModelError
from clinipress.formats.trials import Hits, tried
from clinipress.study.schedule import Pace, schedule

pytestmark = pytest.mark.slow
CLASSES = ("left", "middle", "right")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Thirds(nn.Module):
    """SYNTHETIC: which third of a picture is brightest; wrong where pixels are read otherwise.

    The square of how far a third is from one that has ImageNet's normal grey value of 0.75: no
    other scale of the pixels answers as well.
    """

    def __init__(self, order=(0, 1, 2), scale=8.0):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Linear(24, 3)
        aim = float(np.mean([(0.75 - m) / s for m, s in zip(MEAN, STD, strict=True)]))
        with torch.no_grad():
            self.first.weight.fill_(1 / 3)
            self.first.weight[4:] *= -1
            self.first.bias.fill_(-aim)
            self.first.bias[4:] *= -1
            self.last.bias.zero_()
            self.last.weight.zero_()
            for output, third in enumerate(order):
                self.last.weight[output, third::3] = -scale
        self.eval()

    def forward(self, images):
        far = torch.relu(self.norm(self.first(images)))
        parts = nn.functional.adaptive_avg_pool2d(far, (1, 3))
        return self.last(parts.flatten(1))


def draw(root: Path, each: int, seed: int) -> Path:
    """SYNTHETIC pictures, one third of which is of grey value 0.75 and the others of 0.25 or 1."""
    generator = np.random.default_rng(seed)
    for number, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for copy in range(each):
            pixels = np.full((96, 96), 0.25)
            pixels[:, 64 * (copy % 2) : 64 * (copy % 2) + 32] = 1.0
            pixels[:, 32 * number : 32 * number + 32] = 0.75
            pixels += generator.normal(0, 0.08, pixels.shape)
            pixels += np.kron(generator.normal(0, 0.06, (8, 8)), np.ones((12, 12)))
            grey = (255 * pixels.clip(0, 1)).astype(np.uint8)
            Image.fromarray(grey).save(root / name / f"{copy:03}.png")
    return root


@pytest.fixture(autouse=True)
def no_noise(monkeypatch):
    """The times of networks of a few weights are noise, and a slower file is not shipped.

    What is shipped is looked into once, by `compressed`.
    """
    monkeypatch.setattr("clinipress.study.choice._slow", lambda *_: None)
    monkeypatch.setattr("clinipress.study.flow.inspect", lambda judged, *_: tuple(judged))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("thirds")
    return draw(root / "train", 60, 0), draw(root / "test", 40, 1)


QUICK = {"risk": "low", "size": 64, "post_training": True}


@pytest.fixture(scope="module")
def compressed(sets, tmp_path_factory):
    """The run folder of one call, and its result."""
    out = tmp_path_factory.mktemp("compressed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clinipress.study.choice._slow", lambda *_: None)
        return out, clinipress.compress(Thirds(), sets[0], test=sets[1], out=out, **QUICK)


def test_three_lines_make_a_bundle(sets, compressed):
    out, result = compressed
    assert result.shipped is not None
    model_recipe = result.recipe["reference"]["model"]
    assert model_recipe["mean"] == list(MEAN)
    assert model_recipe["std"] == list(STD)
    reference = result.candidates[0].evidence["test"]["accuracy"].value
    assert reference > 0.9
    answers = clinipress.load_bundle(out / "bundle").classify(sets[1] / "middle" / "003.png")
    assert answers.label == "middle"
    assert not any(p.origin == "step" for p in result.candidates)


def test_the_network_gives_its_own_logits(sets, tmp_path):
    """The reference is the very network: plain PyTorch and the study's scores agree."""
    model = Thirds()
    result = clinipress.compress(
        model, sets[0], test=sets[1], risk="low", size=96, mean=MEAN, std=STD,
        post_training=True, out=tmp_path / "run",
    )  # fmt: skip
    path = sets[1] / "left" / "000.png"
    grey = torch.from_numpy(np.asarray(Image.open(path), np.float32))[None, None] / 255
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (MEAN, STD))
    with torch.inference_mode():
        expected = model((grey.expand(-1, 3, -1, -1) - mean) / std).numpy()[0]
    scores = sorted((tmp_path / "run" / "scores").glob("reference-test*.npz"))
    data = np.load(scores[0])
    row = [str(key) for key in data["keys"]].index("test set/left/000.png")
    np.testing.assert_allclose(data["logits"][row], expected, atol=1e-4)
    assert result.split.counts["test"] == dict.fromkeys(CLASSES, 40)


def test_outputs_in_another_order_are_noticed(sets, tmp_path):
    model = Thirds(order=(2, 0, 1))
    refusal = (
        r"the outputs of the network in the order left, .* as right, left, middle: if so, add "
    )
    with pytest.raises(ModelError, match=refusal + "--classes right,left,middle"):
        clinipress.compress(model, sets[0], test=sets[1], size=64, out=tmp_path / "run")


def test_weights_that_say_nothing_are_refused(sets, tmp_path):
    with pytest.raises(ModelError, match="more often than by naming the commonest class"):
        clinipress.compress(
            Thirds(scale=0.0), sets[0], test=sets[1], size=64, mean=0.0, std=1.0,
            out=tmp_path / "run",
        )  # fmt: skip


def test_an_original_that_may_have_seen_the_test_passes_nothing(sets, tmp_path):
    result = clinipress.compress(
        Thirds(), sets[0], risk="low", size=64, post_training=True, out=tmp_path / "run"
    )
    assert result.verdict.status == "inconclusive"
    assert any(reason.kind == "may have seen" for reason in result.verdict.reasons)


def test_a_fail_stays_a_fail_where_the_test_may_have_been_seen(sets, tmp_path):
    result = clinipress.compress(
        Thirds(), sets[0], risk="low", size=64, post_training=True, unseen=True,
        out=tmp_path / "run",
    )  # fmt: skip
    assert not any(reason.kind == "may have seen" for reason in result.verdict.reasons)


def test_the_same_call_goes_on_with_the_same_plan(sets, compressed):
    out, first = compressed
    again = clinipress.compress(Thirds(), sets[0], test=sets[1], out=out, **QUICK)
    assert [c.digest for c in first.candidates] == [c.digest for c in again.candidates]
    assert len(again.test_openings) == 1


def test_wrapped_and_half_precision_networks_are_the_same_network(sets, tmp_path):
    from clinipress.models.zoo import create_backbone, given

    wrapped = torch.nn.DataParallel(Thirds())
    images = torch.rand(2, 3, 64, 64)
    with given(wrapped.module.half()) as factory:
        copied = create_backbone(factory=factory, num_classes=3, in_channels=3, size=(64, 64))
    with torch.inference_mode():
        torch.testing.assert_close(copied(images), Thirds()(images), atol=2e-2, rtol=0)


def test_what_is_no_network_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a torch\.nn\.Module, or the path of a model file"):
        clinipress.compress({"state": 1}, tmp_path, out=tmp_path / "run")


def test_a_network_of_another_process_is_named(tmp_path):
    from clinipress.models.zoo import create_backbone

    with pytest.raises(ModelError, match="given as an object"):
        create_backbone(factory="given:0123", num_classes=3, in_channels=3, size=(64, 64))


# --- the time ---------------------------------------------------------------------------------

COSTS = Pace(learning=0.01, answering=0.003, train=2000, others=800, files=4)


def test_all_steps_fit_into_much_time():
    plan = schedule("medium", COSTS, 600)
    assert [step["step"] for step in plan.steps] == ["prune", "distill", "qat"]
    assert [step["train"]["epochs"] for step in plan.steps] == [15, 30, 15]
    assert plan.notes == ()


def test_less_time_shortens_then_leaves_out_and_says_so():
    kinds, spent = [], []
    for minutes in (120, 60, 40, 25, 15, 3):
        plan = schedule("medium", COSTS, minutes)
        kinds.append(tuple(step["step"] for step in plan.steps))
        spent.append(plan.seconds / 60)
        if plan.steps:
            assert plan.seconds <= 60 * minutes
        if len(plan.steps) < 3:
            assert any(note.startswith("no ") and "would do" in note for note in plan.notes)
    assert kinds[-1] == ()
    assert spent == sorted(spent, reverse=True)
    assert [len(k) for k in kinds] == sorted([len(k) for k in kinds], reverse=True)


@pytest.mark.parametrize(("risk", "steps"), [("critical", ["qat"]), ("high", ["prune", "qat"])])
def test_a_policy_allows_no_more_than_its_steps(risk, steps):
    plan = schedule(risk, COSTS, 600)
    assert [step["step"] for step in plan.steps] == steps
    assert all(step.get("rounds", 2) > 1 for step in plan.steps)  # in one cut it would be barred


def test_what_a_network_cannot_have_is_left_out_with_its_reason():
    plan = schedule("medium", COSTS, 600, barred={"prune": "its layers cannot be followed"})
    assert [step["step"] for step in plan.steps] == ["qat"]
    assert plan.notes == ("no pruning: its layers cannot be followed",)


# --- how a network wants its images -----------------------------------------------------------


class Indifferent(Thirds):
    """SYNTHETIC: brings its input to one scale itself, so that none given to it matters."""

    def forward(self, images):
        low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
        mean, std = (torch.tensor(v)[None, :, None, None] for v in (MEAN, STD))
        return super().forward(((images - low) / (high - low) - mean) / std)


def test_two_scales_that_do_as_well_are_asked_about(sets, tmp_path):
    with pytest.raises(InputError, match=r"two ways that do equally well: 64 x 64 .*--mean"):
        clinipress.compress(Indifferent(), sets[0], test=sets[1], out=tmp_path / "run", **QUICK)


def answers(margin, seed=0, n=240):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, n)
    logits = generator.normal(0, 1, (n, 3)).astype(np.float32)
    logits[np.arange(n), labels] += margin
    return logits, labels


def trial(margins, same=(), most=None):
    """Ways by name, whose answers are right by so much."""
    made = {name: answers(margin, seed) for seed, (name, margin) in enumerate(margins.items())}
    counts = []

    def hits(name, count):
        counts.append((name, count))
        logits, labels = made[name]
        return Hits.of(logits[:count], labels[:count])

    best, rivals, rows = tried("input", margins, hits, lambda a, b: {a, b} == set(same), most)
    assert [(row["option"], row["cases"]) for row in rows] == counts
    return best, rivals, [name for name, count in counts if count > 48]


def test_the_clearly_better_way_is_taken_on_a_few_images():
    assert trial({"a": 0.5, "b": 5.0}) == ("b", [], [])


def test_ways_that_do_as_well_are_tried_on_more_and_named():
    best, rivals, all_images = trial({"a": 2.0, "b": 2.0, "c": -3.0})
    assert {best, *rivals} == {"a", "b"} == set(all_images)


def test_so_many_at_most_are_tried_on_all():
    assert len(trial(dict.fromkeys("abcdef", 2.0), most=3)[2]) == 3


def test_equal_numbers_need_no_choice():
    assert trial({"a": 2.0, "b": 2.0}, same=("a", "b"))[1] == []
