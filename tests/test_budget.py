"""What cannot fit its device is refused before anything is trained."""

import json
import re

import pytest
from torch import nn

from clinipress.errors import RecipeError
from clinipress.models.classifier import Classifier
from clinipress.records.candidate import InputSpec
from clinipress.study.budget import check_budget, largest_layer, smallest_weights
from clinipress.study.devices import resolve_targets
from clinipress.study.read import parse_study

TFLM = [{"format": "tflite-micro"}]


def study(target="cortex-m7", model="resnet50", exports=TFLM, side=96, steps=(), **more):
    tree = {"name": "short", "target": target, "reference": {"model": model}}
    tree |= {"exports": exports, "steps": list(steps), **more}
    return parse_study(tree | {"data": {"input": {"height": side, "width": side}}})


def check(made):
    check_budget(made, resolve_targets(made.target))


def test_a_resnet50_for_a_microcontroller_is_refused_with_what_would_fit():
    with pytest.raises(RecipeError) as problem:
        check(study())
    said = str(problem.value)
    assert "'resnet50'" in said
    assert "MB in int8" in said
    assert "distil into a student such as {name: resnet18" in said
    channels = json.loads(said.split("channels: ")[1].split("}")[0])
    student = {"name": "resnet18", "arguments": {"channels": channels}}
    check(study(steps=[{"step": "distill", "student": student}]))
    wider = {"name": "resnet18", "arguments": {"channels": [2 * c for c in channels]}}
    with pytest.raises(RecipeError, match="'resnet18'"):
        check(study(steps=[{"step": "distill", "student": wider}]))


def test_activations_count_too():
    small = {"name": "resnet18", "arguments": {"channels": [16, 32, 64, 88]}}
    steps = [{"step": "distill", "student": small}]
    check(study(steps=steps, side=96))
    with pytest.raises(RecipeError, match="of memory for one layer"):
        check(study(steps=steps, side=512))


def test_pruning_is_credited_with_the_most_it_can_remove():
    pruned = [{"step": "prune", "ratio": 0.9, "train": None}]
    made = study(steps=pruned)
    assert smallest_weights(1000, made) == 10
    by_weights = study(steps=[{**pruned[0], "of": "parameters"}])
    assert smallest_weights(1000, by_weights) == 100
    before = [pruned[0], {"step": "distill", "student": "resnet18"}]
    assert smallest_weights(1000, study(steps=before)) == 1000  # of a network that is gone
    for of in ("filters", "latency"):  # says nothing of the weights
        assert smallest_weights(1000, study(steps=[{**pruned[0], "of": of}])) is None


@pytest.mark.parametrize(
    "steps",
    [
        [{"step": "shrink"}, {"step": "search", "parameters": 2_000_000}],
        [{"step": "shrink"}],
        [{"step": "search", "macs": 30_000_000}, {"step": "prune", "ratio": 0.1}],
    ],
)
def test_a_study_with_a_step_of_unknown_effect_is_not_judged(steps):
    supernet = "ofa_mobilenetv3_w1.0"
    with pytest.raises(RecipeError, match="takes at least"):
        check(study(model=supernet, side=128))
    check(study(model=supernet, side=128, steps=steps))
    # what the device runs at all does not hang on the steps
    with pytest.raises(RecipeError, match="add one of format"):
        check(study(model=supernet, side=128, steps=steps, exports=[{"format": "onnx"}]))
    # a student after them is known again
    student = {"step": "distill", "student": "resnet50"}
    with pytest.raises(RecipeError, match="'resnet50'"):
        check(study(model=supernet, side=128, steps=[*steps, student]))


def test_pruning_may_make_any_layer_small():
    small = {"name": "resnet18", "arguments": {"channels": [16, 32, 64, 88]}}
    steps = [{"step": "distill", "student": small}, {"step": "prune", "ratio": 0.5}]
    check(study(steps=steps, side=512))


def test_the_precision_that_is_named_is_the_one_that_was_counted():
    exports = [{"precision": "int8"}, {"precision": "float16"}]
    with pytest.raises(RecipeError) as problem:
        check(study("raspberry-pi-5", model="vgg16", side=224, exports=exports))
    count = re.search(r"takes at least ([\d.]+) MB in ([\w-]+)", str(problem.value))
    assert count[2] == "int8"
    with pytest.raises(RecipeError) as problem:
        check(study("raspberry-pi-5", model="vgg16", side=224, exports=exports[1:]))
    twice = re.search(r"takes at least ([\d.]+) MB in ([\w-]+)", str(problem.value))
    assert twice[2] == "float16"
    assert float(twice[1]) == pytest.approx(2 * float(count[1]), rel=1e-3)


def test_an_export_the_device_cannot_run_is_refused():
    with pytest.raises(RecipeError, match="add one of format tflite-micro and precision int8"):
        check(study(exports=[{"format": "onnx"}]))
    both = study(target=["cpu-x86", "cortex-m7"], exports=[{"format": "onnx"}])
    with pytest.raises(RecipeError, match="Cortex-M7"):
        check(both)


def test_a_large_device_takes_the_reference_as_it_is():
    check(study(target="cpu-x86", exports=[{"precision": "float32"}]))
    check(study(target=None, exports=[{"precision": "float32"}]))


def test_the_largest_layer_is_counted_by_hand():
    spec = InputSpec(channels=1, height=8, width=8)
    backbone = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, stride=2, padding=1), nn.Flatten(),
        nn.Linear(32, 3),
    )  # fmt: skip
    network = Classifier(backbone, spec, 1, 0.5, 0.25)
    assert largest_layer(network, spec) == 4 * 64 + 64
