"""`clinipress.compress` of a network that answers about several findings, or grades."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import clinipress
from clinipress.data.sources import read_dataset
from clinipress.errors import InputError, ModelError
from clinipress.formats.trials import Areas
from clinipress.study.compress import Asked, _labels, _nothing_to_train, check_levels
from clinipress.study.propose import propose
from kit.folders import folder_of, table

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Sides(nn.Module):
    """SYNTHETIC: whether a bright bar lies left, and whether one lies right; written by hand."""

    def __init__(self, order=(0, 1), ending=False):
        super().__init__()
        self.edge = nn.Conv2d(3, 6, 3, padding=1)
        self.head, self.ending = nn.Linear(12, 2), ending
        with torch.no_grad():
            self.edge.weight.zero_()
            self.edge.weight[torch.arange(6), torch.arange(6) % 3, 1, 1] = 1.0
            self.edge.bias.zero_()
            self.head.weight.zero_()
            for row, side in enumerate(order):  # channels of the left half, then of the right
                self.head.weight[row, torch.arange(6) * 2 + side] = 1.5
            self.head.bias.fill_(-9.0)

    def forward(self, images):
        bright = torch.relu(self.edge(images))
        halves = nn.functional.adaptive_avg_pool2d(bright, (1, 2)).flatten(1)
        logits = self.head(halves)
        return logits.sigmoid() if self.ending else logits


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    """SYNTHETIC: 160 noisy pictures with a bar on either side, on both or on none."""
    root = tmp_path_factory.mktemp("bars")
    random = np.random.default_rng(0)
    rows = ["path,patient_id,labels"]
    for number in range(160):
        left, right = number % 2, number // 2 % 2
        pixels = 0.3 + random.normal(0, 0.12, (64, 64)) + random.normal(0, 0.04)
        pixels[:, 6:22] += 0.5 * left
        pixels[:, 42:58] += 0.5 * right
        Image.fromarray((255 * pixels.clip(0, 1)).astype(np.uint8)).save(root / f"{number}.png")
        shown = [name for name, there in (("left", left), ("right", right)) if there]
        rows.append(f"{number}.png,p{number},{'|'.join(shown)}")
    table(root / "manifest.csv", rows)
    return root


def asked(**changes):
    fields = dict.fromkeys(Asked.__dataclass_fields__) | {"class_map": {}, "onnx": {}}
    return Asked(**(fields | changes))


def test_a_network_of_findings_is_compressed_by_the_mean_of_their_areas(
    bars, tmp_path, monkeypatch
):
    monkeypatch.setattr("clinipress.study.choice._slow", lambda *_: None)
    monkeypatch.setattr("clinipress.study.flow.inspect", lambda judged, *_: tuple(judged))
    said = []

    class Heard:
        def __getattr__(self, name):
            return lambda *parts, **named: said.append(str(parts[0])) if name == "say" else None

    result = clinipress.compress(
        Sides(ending=True), bars, risk="low", size=64, mean=MEAN, std=STD, unseen=True,
        post_training=True, out=tmp_path / "run", progress=Heard(),
    )  # fmt: skip
    assert (result.task, result.classes) == ("multilabel", ("left", "right"))
    reference, *made = result.candidates
    assert reference.evidence["test"]["auroc_macro"].value > 0.9
    (int8,) = [each for each in made if each.precision == "int8"]
    change = int8.evidence["test"]["auroc_macro"].value
    assert change == pytest.approx(reference.evidence["test"]["auroc_macro"].value, abs=0.05)
    assert any(line.startswith("several findings in one image: left, right") for line in said)
    assert any(line.startswith("mean AUROC on ") for line in said)
    assert not any("right of" in line for line in said)


def test_outputs_in_another_order_are_noticed_by_the_areas(bars, tmp_path):
    refusal = r"mean AUROC 0\.\d+ on .* so, .* as right, left: if so, add --classes right,left"
    with pytest.raises(ModelError, match=refusal):
        clinipress.compress(
            Sides(order=(1, 0)), bars, size=64, mean=MEAN, std=STD, post_training=True,
            out=tmp_path / "run",
        )  # fmt: skip


def test_findings_have_no_positive_and_no_order(bars):
    dataset = read_dataset(bars, task=None)
    seen = propose(dataset)
    assert _labels(seen, dataset, asked())[0] == {"task": "multilabel"}
    for word, value in (("positive", "left"), ("normal", "left"), ("order", ("left", "right"))):
        with pytest.raises(InputError, match=f"no '{word}' with several findings"):
            _labels(seen, dataset, asked(**{word: value}))
    with pytest.raises(InputError, match="a task: multiclass or multilabel, got 'many'"):
        clinipress.compress(Sides(), bars, task="many")


def test_the_commonest_finding_says_whether_there_is_enough_to_train_on(bars):
    dataset = read_dataset(bars, task=None)
    assert _nothing_to_train(dataset, asked()) == ""
    few = SimpleNamespace(classes=dataset.classes, task="multilabel", items=dataset.items[:4])
    assert _nothing_to_train(few, asked()).endswith(" to train on")


@pytest.mark.parametrize(
    ("names", "sure"), [(("0", "1", "2", "3"), None), (("none", "mild", "moderate"), None)]
)
def test_grades_are_seen_or_told_and_outputs_stay_sorted(tmp_path, names, sure):
    root = folder_of(tmp_path / "set", [f"{name}/{n}.png" for name in names for n in range(2)])
    dataset = read_dataset(root, task=None)
    seen = propose(dataset)
    data, notes = _labels(seen, dataset, asked())
    if seen["order_is_sure"]:
        assert data["order"] == seen["order"]
        assert "--order says otherwise" in " ".join(notes)
    else:
        assert "order" not in data
        assert f"--order {','.join(seen['order'])}" in " ".join(notes)
    data, _ = _labels(seen, dataset, asked(order=names))
    assert (data["order"], data["classes"]) == (list(names), sorted(names))


def test_other_levels_that_do_far_better_are_refused_for_findings_too():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (240, 3))
    poor, fine = (Areas.of(s * labels + random.normal(size=labels.shape), labels) for s in (0.3, 3))
    with pytest.raises(
        InputError, match=r"mean AUROC 0\.\d+ on 240 training images in the best of"
    ):
        check_levels("usual", poor, ["other"], lambda way, count: fine)
    check_levels("usual", fine, ["other"], lambda way, count: poor)
    check_levels("usual", poor, ["other"], lambda way, count: poor)
