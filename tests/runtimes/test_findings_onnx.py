"""ONNX files of others that answer about several findings: sigmoids, names, order, pixels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from clinipress.edge.bundle import open_bundle, write_bundle
from clinipress.edge.load import load_candidate
from clinipress.edge.predict import predict
from clinipress.errors import ModelError
from clinipress.formats.onnx.adopt import TemporaryFile, adopt
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.foreign import examine
from clinipress.formats.onnx.settle import as_read, settle
from clinipress.formats.trials import Areas, trial_lines
from clinipress.models.classifier import TorchCandidate, new_classifier
from clinipress.models.zoo import given
from clinipress.recipe.steps import ModelRecipe, OnnxRecipe
from clinipress.records.candidate import Card, InputSpec
from clinipress.records.item import ImageItem
from clinipress.stats.metrics import finding_aurocs, sigmoid
from clinipress.steps.adopt import adopt_file, adopted_input, load_adopted
from kit.foreign_nets import CLASSES, SIDE, expected, findings_of, foreign_net, pictures

DECLARED = {"scale": "0..1", "channels": "RGB", "fit": "stretch"}
RIGHT = (0.881, 0.269, 0.574)  # worked out by hand from logits 2, -1 and 0.3
SPEC = InputSpec(channels=3, height=SIDE, width=SIDE)


def cases(count=240, seed=0):
    images, _ = pictures(count, seed)
    labels = findings_of(images)
    labels[::7, 0] = -1
    return images, labels


def settled(path, classes=CLASSES, shown=None, named=None, **declared):
    recipe = OnnxRecipe(file=str(path), classes=named, **declared)
    foreign = examine(path, recipe, task="multilabel")
    images, labels = shown or cases()
    closed, trials = settle(
        foreign, as_read(foreign, recipe), classes, SPEC, lambda _: (images, labels)
    )
    card = Card(name="net", classes=tuple(classes), input=SPEC, format="onnx", task="multilabel")
    return TemporaryFile.made(adopt(foreign, closed, classes, SPEC), card, 1), closed, trials


def constant(path, ending):
    """A file that answers 2, -1 and 0.3 to every picture, with or without a sigmoid behind."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["scores"]),
        *([helper.make_node("Sigmoid", ["scores"], ["answers"])] if ending else []),
    ]
    last = "answers" if ending else "scores"
    graph = helper.make_graph(
        nodes, "theirs",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.zeros((3, 3), np.float32), "w"),
         numpy_helper.from_array(np.float32([2, -1, 0.3]), "b")],
    )  # fmt: skip
    sets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=8), path)
    return path


class Constant(nn.Module):
    def __init__(self, ending):
        super().__init__()
        self.head, self.ending = nn.Linear(3, 3), ending
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.copy_(torch.tensor([2, -1, 0.3]))

    def forward(self, x):
        logits = self.head(x.mean((2, 3)))
        return logits.sigmoid() if self.ending else logits


@pytest.mark.parametrize("ending", [True, False])
def test_c9_one_sigmoid_from_module_file_and_bundle(tmp_path, ending):
    images = pictures(3)[0]
    # another's file, with what its graph shows or with what is declared
    facts = {**DECLARED, "classes": list(CLASSES)} | ({} if ending else {"task": "multilabel"})
    theirs = load_candidate(constant(tmp_path / "theirs.onnx", ending), 1, onnx=facts)
    # a network of one's own
    with given(Constant(ending)) as factory:
        recipe = ModelRecipe(factory=factory)
        spec, module = new_classifier(recipe, SPEC, 3, 0.5, 0.25, task="multilabel")
    card = Card(name="own", classes=CLASSES, input=SPEC, model=spec, task="multilabel")
    own = TorchCandidate(card, module.eval())
    file = export_onnx(own, tmp_path / "own.onnx")
    for candidate in (theirs, own, file):
        assert candidate.card.task == "multilabel"
        chances = sigmoid(candidate.predict(images))
        np.testing.assert_allclose(chances, np.tile(RIGHT, (3, 1)), atol=5e-4)
    bundle = open_bundle(
        write_bundle(tmp_path / "bundle", file.path, file.card, sample=images[0], evidence={})
    )
    picture = tmp_path / "case.png"
    Image.fromarray(images[0].transpose(1, 2, 0)).save(picture)
    (answer,) = predict(bundle, [picture])
    found = [answer.findings[name].probability for name in CLASSES]
    np.testing.assert_allclose(found, RIGHT, atol=5e-4)


def test_sigmoids_are_findings_and_never_one_class_of_several(tmp_path):
    path = foreign_net(tmp_path / "net.onnx", ending="Sigmoid")
    recipe = OnnxRecipe(file=str(path))
    assert examine(path, recipe, task=None).task == "multilabel"
    assert examine(path, recipe, task="multilabel").ending == "logits"
    with pytest.raises(ModelError, match="set task: multilabel where they are findings"):
        examine(path, recipe)


@pytest.mark.parametrize("ending", ["Softmax", "LogSoftmax", "composed"])
def test_a_softmax_over_findings_is_a_line(tmp_path, ending):
    path = foreign_net(tmp_path / "net.onnx", ending=ending)
    with pytest.raises(ModelError, match=r"task: multilabel, got .*as if one excluded") as caught:
        examine(path, OnnxRecipe(file=str(path)), task="multilabel")
    assert "\n" not in str(caught.value)


def test_probabilities_that_come_out_of_no_plain_sigmoid_are_asked_for(tmp_path):
    # as torchxrayvision's: a sigmoid, then shifted until 0.5 is an operating point
    path = foreign_net(tmp_path / "net.onnx", ending="Sigmoid")
    model = onnx.load(path)
    shift = numpy_helper.from_array(np.float32([0.8, 0.5, 0.9]), "shift")
    model.graph.initializer.append(shift)
    model.graph.node.append(helper.make_node("Mul", ["answers", "shift"], ["shifted"]))
    model.graph.output[0].name = "shifted"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"'answers' of 'net\.onnx'.*torchxrayvision"):
        examine(path, OnnxRecipe(file=str(path)), task="multilabel")
    candidate, _, _ = settled(path, answers="probabilities", **DECLARED)
    images = cases(12, 3)[0]
    chances = np.clip(sigmoid(expected(images)), 1e-7, 1) * [0.8, 0.5, 0.9]
    np.testing.assert_allclose(sigmoid(candidate.predict(images)), chances, atol=1e-4)


@pytest.mark.parametrize("ending", ["", "Sigmoid"])
def test_names_in_the_file_are_matched_and_what_nobody_asks_is_left_out(tmp_path, ending):
    names = str(["Glioma_", "", "FIBROMA"])
    path = foreign_net(
        tmp_path / "net.onnx", order=(1, 2, 0), ending=ending, metadata={"pathologies": names}
    )
    images, labels = cases()
    candidate, closed, trials = settled(
        path, ("fibroma", "glioma"), (images, labels[:, :2]), **DECLARED
    )
    assert closed.classes == ("glioma", "output 1", "fibroma")
    assert "without its outputs output 1" in trials[-1]["option"]
    assert trials[-1]["auroc"] > 0.95
    difference = candidate.predict(images) - expected(images)[:, :2]
    assert np.abs(difference).max() < 1e-2
    with pytest.raises(ModelError, match=r"outputs of 'net\.onnx' for mass, got those for"):
        settled(path, ("fibroma", "mass"), (images, labels[:, :2]), **DECLARED)


def test_channels_are_settled_by_the_mean_area(tmp_path):
    path = foreign_net(tmp_path / "net.onnx", bgr=True, order=(2, 0, 1), ending="Sigmoid")
    _, closed, trials = settled(
        path, scale="0..1", fit="stretch", named=("normal", "fibroma", "glioma")
    )
    assert closed.channels == "BGR"
    rows = {row["option"]: row for row in trials if row["asked"] == "scale and channels"}
    assert rows["0..1 BGR"]["auroc"] > 0.95
    images, labels = cases()
    count = rows["0..1 RGB"]["cases"]
    turned = finding_aurocs(expected(images[:count, ::-1]), labels[:count]).mean()
    assert rows["0..1 RGB"]["auroc"] == pytest.approx(turned, abs=1e-3)
    assert "mean AUROC" in trial_lines(trials)[0]


def test_an_order_that_does_better_is_asked_for_or_said(tmp_path):
    path = foreign_net(tmp_path / "net.onnx", order=(2, 0, 1), ending="Sigmoid")
    with pytest.raises(ModelError, match=r"mean AUROC 0\.\d+ .*as normal, fibroma, glioma: order"):
        settled(path, **DECLARED)
    _, closed, trials = settled(path, named=CLASSES, **DECLARED)
    assert closed.classes == CLASSES
    question = next(row for row in trials if row["asked"] == "order?")
    assert question["option"] == "normal, fibroma, glioma"
    assert question["auroc"] > 0.95


def test_what_tells_no_finding_is_refused(tmp_path):
    random = np.random.default_rng(1)
    images = pictures(240)[0]
    by_chance = images, random.integers(0, 2, (240, 3))
    path = foreign_net(tmp_path / "net.onnx", ending="Sigmoid")
    with pytest.raises(ModelError, match="order"):
        settled(path, shown=by_chance, scale="0..1", channels="RGB")


def test_areas_are_those_of_a_referee_and_compared_on_the_same_cases():
    random = np.random.default_rng(0)
    labels = random.integers(-1, 2, (120, 3))
    good = labels + random.normal(size=labels.shape)
    found, same = Areas.of(good, labels), Areas.of(10 * good + 3, labels)
    assert found.share == pytest.approx(finding_aurocs(good, labels).mean())
    assert not found.worse_than(same)
    assert Areas.of(random.normal(size=labels.shape), labels).worse_than(found)
    low, high = found.interval()
    assert low < found.share < high


def test_a_file_is_adopted_for_findings_on_training_images(tmp_path):
    images, labels = cases(90)
    items = []
    for number, (image, row) in enumerate(zip(images, labels, strict=True)):
        file = tmp_path / f"{number}.png"
        Image.fromarray(image.transpose(1, 2, 0)).save(file)
        findings = {n: bool(v) for n, v in zip(CLASSES, row, strict=True) if v >= 0}
        items.append(ImageItem(key=file.name, path=file, label="", findings=findings))
    data = SimpleNamespace(
        classes=CLASSES, task="multilabel", threads=1,
        dataset=SimpleNamespace(items=items),
        split=SimpleNamespace(keys=lambda split: {item.key for item in items}),
    )  # fmt: skip
    path = foreign_net(tmp_path / "net.onnx", ending="Sigmoid")
    recipe = OnnxRecipe(file=str(path), **DECLARED)
    spec = adopted_input(recipe, InputSpec(), "multilabel")
    trials = adopt_file(recipe, data, spec, tmp_path / "made", name="theirs", seed=0, threads=1)
    assert trials[-1]["auroc"] > 0.95
    card = load_adopted(tmp_path / "made", 1).card
    assert (card.task, card.classes) == ("multilabel", CLASSES)
    assert card.history[0].facts["answers"] == "Sigmoid"
    with pytest.raises(ModelError, match="3 sigmoids"):
        adopted_input(recipe, InputSpec(), "multiclass")
