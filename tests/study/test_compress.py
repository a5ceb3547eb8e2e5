"""`compress`: a trained network in one call; how it wants its images, what fits into the time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import clinipress
from clinipress.errors import InputError, ModelError
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.trials import Hits, tried
from clinipress.study.compress import _file_seconds
from clinipress.study.schedule import STRESSED, Pace, schedule
from kit.random_nets import candidate_of

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


def test_of_a_slow_network_fewer_images_are_disturbed_and_that_is_said():
    slow = replace(COSTS, answering=0.2)
    plan = schedule("medium", slow, 60)
    assert plan.steps == ()
    assert 40 <= plan.stress < STRESSED
    assert plan.seconds <= 60 * 60
    assert plan.notes[-1] == f"{plan.stress} images under stress instead of 200, to end in time"
    none = schedule("medium", replace(COSTS, answering=0.4), 30)
    assert (none.stress, none.notes[-1]) == (0, "no images under stress, to end in time")
    assert schedule("medium", COSTS, 60).stress == STRESSED


def test_a_file_alone_is_timed_for_its_plan(tmp_path):
    # a VGG-16 was said to take a minute, and took hours
    network = candidate_of("resnet10t", 32)
    path = export_onnx(network, tmp_path / "net.onnx").path
    assert 0 < _file_seconds(path, network.card.input, 1) < 1
    path.write_bytes(b"no model")
    assert _file_seconds(path, network.card.input, 1) == 0


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


# --- what people give -------------------------------------------------------------------------


@pytest.fixture
def planned(monkeypatch):
    """The study that `compress` would run, and what it said: nothing is measured."""

    class PlannedError(Exception):
        pass

    def stop(study, *_, **__):
        raise PlannedError(study)

    monkeypatch.setattr("clinipress.study.flow.run_study", stop)

    def plan(model, data, tmp_path, **arguments):
        lines = []
        arguments = {"size": 64, "post_training": True, "out": tmp_path / "run", **arguments}
        with pytest.raises(PlannedError) as caught:
            clinipress.compress(model, data, progress=Said(lines), **arguments)
        return caught.value.args[0], lines

    return plan


class Said:
    """A listener that keeps the lines."""

    def __init__(self, lines):
        self.say = lines.append

    def __getattr__(self, name):
        from clinipress.progress import SILENT

        return getattr(SILENT, name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "64"}, "a size of 8 to 4,096 pixels"),
        ({"size": (3, 64, 64)}, "a size of 8 to 4,096 pixels"),
        ({"size": 0}, "a size of 8 to 4,096 pixels"),
        ({"mean": (0.5, 0.4), "std": 0.25}, "one number, or one for each of 3 channels"),
        ({"mean": 0.5, "std": 0.0}, "a std of pixels"),
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}, "divide .* by 255"),
        ({"minutes": "5"}, "minutes above 0"),
        ({"channels": 2}, "1 or 3 channels"),
        ({"target": ["raspberry-pi-5", "cpu-x86"]}, "one target"),
        ({"classes": {"left", "middle", "right"}}, "a list of class names"),
        ({"classes": "left"}, "a list of class names"),
        ({"onnx": {"scale": "0..1"}}, "'onnx' with an ONNX file alone"),
        ({"student": "resnet18"}, "'student' with an ONNX file alone"),
        ({"network": "resnet18"}, "'network' with a file of weights alone"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(sets, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        clinipress.compress(Thirds(), sets[0], out=tmp_path / "run", **arguments)


@pytest.mark.parametrize("data", [None, [1, 2], torch.utils.data.DataLoader([1, 2])])
def test_data_that_are_no_path_are_one_line(tmp_path, data):
    with pytest.raises(InputError, match=r"the path of labelled images.*write a table"):
        clinipress.compress(Thirds(), data, out=tmp_path / "run")


def test_code_of_ours_runs_only_where_it_is_allowed(sets, tmp_path, monkeypatch):
    """It ran while the input was looked for, before anybody asked."""
    (tmp_path / "ran_unasked.py").write_text("open('ran', 'w').close()\ndef make(**_): ...\n")
    monkeypatch.chdir(tmp_path)
    torch.save(Thirds().state_dict(), "w.pt")
    with pytest.raises(InputError, match="runs no code of yours unasked"):
        clinipress.compress("w.pt", sets[0], network="ran_unasked:make", out=tmp_path / "run")
    assert not (tmp_path / "ran").exists()


def test_a_leaking_test_split_is_none_that_the_model_has_not_seen(sets, tmp_path, planned):
    """Images of the training folder again in the test set: a model has seen them."""
    import shutil

    root = tmp_path / "leaking"
    shutil.copytree(sets[0], root / "train")
    shutil.copytree(sets[1], root / "test")
    for number in range(20):
        shutil.copy(
            root / "train/left" / f"{number:03}.png", root / "test/left" / f"again{number}.png"
        )
    study, lines = planned(Thirds(), root, tmp_path)
    assert not study.reference.unseen
    assert any("20 of the other images share a near-duplicate" in line for line in lines)
    assert study.may_have_seen_test(20)
    assert not study.may_have_seen_test(0)
    study, lines = planned(Thirds(), root, tmp_path, unseen=True, out=tmp_path / "other")
    assert study.reference.unseen
    assert not study.may_have_seen_test(20)
    assert not any("of the other images share a near-duplicate" in line for line in lines)


def hooked():
    net = Thirds()
    net.kept = {}
    net.norm.register_forward_hook(lambda _, __, value: net.kept.__setitem__("last", value))
    net(torch.rand(2, 3, 64, 64))
    return net


def normed_by_hooks():
    net = Thirds()
    torch.nn.utils.weight_norm(net.last)
    return net


def masked():
    net = Thirds()
    torch.nn.utils.prune.random_unstructured(net.last, "weight", 0.2)
    return net


def frozen():
    return Thirds().requires_grad_(False)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", [hooked, normed_by_hooks, masked, frozen])
def test_networks_as_scripts_leave_them_are_taken(make):
    """Activations in attributes, old norms, masks and frozen layers; all of a copy can learn."""
    from clinipress.models.parametrized import plain_copy
    from clinipress.models.weights import safetensors_bytes

    net, images = make(), torch.rand(2, 3, 64, 64)
    copied = plain_copy(net)
    with torch.no_grad():
        torch.testing.assert_close(copied(images), net(images))
    assert all(parameter.requires_grad for parameter in copied.parameters())
    assert safetensors_bytes(copied.state_dict(), {})
    plain_copy(copied)(images).sum().backward()


class WithState(Thirds):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.jit.trace(Thirds(), torch.rand(1, 3, 64, 64)), "a TorchScript program"),
        (lambda: nn.Sequential(nn.LazyConv2d(3, 1)), "which has none yet"),
        (lambda: Thirds().to("meta"), "which has none yet"),
        (WithState, "get_extra_state"),
        (
            lambda: torch.ao.quantization.quantize_dynamic(Thirds(), {nn.Linear}),
            "of a quantized layer",
        ),
    ],
)
def test_networks_that_cannot_be_taken_are_one_line(make, message, sets, tmp_path):
    with pytest.raises(InputError, match=message):
        clinipress.compress(make(), sets[0], out=tmp_path / "run")


class WithoutGradients(Thirds):
    @torch.no_grad()
    def forward(self, images):
        return super().forward(images)


def test_a_network_without_gradients_is_compressed_after_training(sets, tmp_path, planned):
    arguments = {"test": sets[1], "post_training": None}
    study, lines = planned(WithoutGradients(), sets[0], tmp_path, **arguments)
    assert study.steps == ()
    assert any("computes without gradients" in line for line in lines)


# --- ways of reading that fewer scripts have --------------------------------------------------


class Hues(nn.Module):
    """SYNTHETIC: which colour a picture is of, by the distance to three that it has been told."""

    def __init__(self, mean, std, blue_first):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        aims = torch.tensor(COLOURS)
        mean, std = (torch.tensor(v, dtype=torch.float32).expand(3) for v in (mean, std))
        aims = ((aims.flip(1) if blue_first else aims) - mean) / std
        with torch.no_grad():  # |x - aim|^2 less |x|^2
            self.first.weight.copy_(6 * aims[:, :, None, None])
            self.first.bias.copy_(-3 * aims.square().sum(1))
        self.eval()

    def forward(self, images):
        return self.first(images.mean((2, 3), keepdim=True)).flatten(1)


COLOURS = ((0.35, 0.30, 0.55), (0.55, 0.30, 0.35), (0.60, 0.30, 0.35))


@pytest.fixture(scope="module")
def hues(tmp_path_factory):
    """SYNTHETIC pictures of three colours, two of them each other's with red and blue exchanged."""
    generator, root = np.random.default_rng(0), tmp_path_factory.mktemp("hues")
    for name, colour in zip(CLASSES, COLOURS, strict=True):
        (root / name).mkdir()
        for copy in range(60):
            pixels = np.asarray(colour) + generator.normal(0, 0.006, 3)
            pixels = pixels + np.kron(generator.normal(0, 0.05, (8, 8, 3)), np.ones((9, 9, 1)))
            image = Image.fromarray((255 * pixels.clip(0, 1)).astype(np.uint8))
            image.save(root / name / f"{copy:03}.png")
    return root


@pytest.mark.parametrize(
    ("mean", "std", "blue_first"),
    [(MEAN[::-1], STD[::-1], True), (0.0, 1.0, True), (0.0, 1.0, False), (0.5, 0.25, False)],
)
def test_colours_and_levels_that_nobody_names_are_found(
    hues, tmp_path, planned, mean, std, blue_first
):
    from clinipress.models.classifier import new_classifier

    net = Hues(mean, std, blue_first)
    study, lines = planned(net, hues, tmp_path)
    recipe = study.reference.model
    assert any("was tried on" in line for line in lines)
    assert (recipe.channels == "BGR") == blue_first
    from clinipress.models.zoo import given

    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    levels = [torch.tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in (mean, std)]
    plain = (pixels.float() / 255).flip(1) if blue_first else pixels.float() / 255
    with torch.no_grad(), given(net) as factory:
        known = recipe.model_copy(update={"factory": factory})
        _, module = new_classifier(known, study.data.input, 3, recipe.mean, recipe.std)
        torch.testing.assert_close(module(pixels), net((plain - levels[0]) / levels[1]))


@pytest.mark.parametrize(("share", "asked"), [(0.75, True), (0.93, False)])
def test_levels_that_no_script_is_known_for_are_asked_for(share, asked):
    """Only where the best of the usual ways leaves something to be desired."""
    from clinipress.formats.trials import Hits
    from clinipress.study.compress import check_levels

    usual, other = (Hits(np.arange(240) < 240 * part, np.zeros(240)) for part in (share, 0.96))
    if asked:
        with pytest.raises(InputError, match=r"the best of the usual ways.*--mean and --std"):
            check_levels("a", usual, ["b"], lambda *_: other)
    else:
        check_levels("a", usual, ["b"], lambda *_: other)


# --- other files and folders given as a model -------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("card.json", r"compressed already.*clinipress run; to judge it: clinipress evaluate"),
        ("result.json", r"the run folder of a study"),
        ("other.txt", r"a model file, got the folder"),
    ],
)
def test_folders_of_ours_are_refused_with_the_command(tmp_path, name, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).write_text("{}")
    with pytest.raises(InputError, match=message):
        clinipress.compress(folder, tmp_path, network="resnet18", out=tmp_path / "run")


def test_a_runtimes_file_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"0000TFL3")
    with pytest.raises(InputError, match=r"a file for LiteRT.*clinipress evaluate"):
        clinipress.compress(tmp_path / "model.tflite", tmp_path, out=tmp_path / "run")


def test_the_folder_of_a_hub_model_is_a_model_and_several_sets_are_told_apart(
    sets, tmp_path, planned, monkeypatch
):
    (tmp_path / "mine_of_thirds.py").write_text(
        "import sys\ndef make(**_):\n    return sys.modules['test_compress'].Thirds()\n"
    )
    monkeypatch.setitem(
        __import__("sys").modules, "test_compress", __import__("sys").modules[__name__]
    )
    monkeypatch.chdir(tmp_path)
    folder, options = tmp_path / "hub", {"network": "mine_of_thirds:make", "allow_code": True}
    folder.mkdir()
    old, new = Thirds(order=(2, 0, 1)).state_dict(), Thirds().state_dict()
    torch.save({"state_dict": old, "state_dict_ema": new}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="name yours: --checkpoint-key"):
        clinipress.compress(folder, sets[0], out=tmp_path / "run", **options)
    study, _ = planned(folder, sets[0], tmp_path, checkpoint_key="state_dict_ema", **options)
    assert study.reference.model.checkpoint_key == "state_dict_ema"
