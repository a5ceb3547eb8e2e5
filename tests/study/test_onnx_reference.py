"""A study whose reference is an ONNX file alone: judged, quantized, learnt from; never trained."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from clinipress.errors import ModelError, RecipeError
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.recipe.steps import OnnxRecipe
from clinipress.records.candidate import InputSpec
from clinipress.steps.adopt import adopted_input
from clinipress.study.external import compare, evaluate, parse_onnx
from clinipress.study.flow import run_study
from clinipress.study.read import parse_study
from kit.foreign_nets import CLASSES, SIDE, folder_of_pictures, foreign_net, manifest_of_findings
from kit.studies import TRAIN

DECLARED = {"scale": "0..1", "channels": "RGB", "fit": "stretch"}
STUDENT = {"step": "distill", "views": 2, "train": TRAIN | {"epochs": 2},
           "student": {"factory": "tiny_nets:make"}}  # fmt: skip


def tree(file, **changes):
    return {
        "name": "file",
        "synthetic": True,
        "risk": "low",
        "threads": 1,
        "bootstrap": 100,
        "try_next": False,
        "reference": {"onnx": {"file": str(file), **DECLARED}},
        "exports": [{"precision": "int8", "calibration_images": 24}],
        "evidence": {"stress": 0, "saliency": 0},
    } | changes


@pytest.fixture
def pictures_folder(tmp_path):
    return folder_of_pictures(tmp_path / "data", 120)


@pytest.fixture
def net(tmp_path):
    return foreign_net(tmp_path / "net.onnx", layout="NHWC", ending="Softmax")


@pytest.fixture(autouse=True)
def no_noise(monkeypatch):
    """The times of networks of a few weights are noise, and a slower file is not shipped."""
    monkeypatch.setattr("clinipress.study.choice._slow", lambda *_: None)


def test_a_file_of_findings_is_judged_quantized_and_learnt_from(tmp_path):
    net = foreign_net(tmp_path / "net.onnx", ending="Sigmoid", names="Glioma,Mass_Lesion,Fibroma",
                      order=(1, 2, 0))  # fmt: skip
    data = manifest_of_findings(tmp_path / "data")
    said = []

    class Heard:
        def __getattr__(self, name):
            return lambda *parts, **named: said.append(str(parts[0])) if name == "say" else None

    exports = [{"precision": "int8", "calibration_images": 24, "of": of}
               for of in ("reference", "distilled")]  # fmt: skip
    study = parse_study(tree(net, data={"task": "multilabel"}, steps=[STUDENT], exports=exports))
    result = run_study(study, data, tmp_path / "run", progress=Heard())
    rows = {row.name: row for row in result.candidates}
    assert rows["reference"].evidence["test"]["auroc_macro"].value > 0.95
    assert rows["reference"].history[0].facts["answers"] == "Sigmoid"
    assert any("mean AUROC" in line for line in said)
    int8 = rows["reference-onnx-int8"]
    assert int8.evidence["test"]["auroc_macro"].value > 0.9
    assert int8.parity.label_flips < 0.1 * 3 * int8.parity.images
    assert "distill" in {applied.step for applied in rows["distilled"].history}
    other = parse_study(tree(foreign_net(tmp_path / "soft.onnx", ending="Softmax"),
                             data={"task": "multilabel"}))  # fmt: skip
    with pytest.raises(ModelError, match="a Softmax over all of them"):
        run_study(other, data, tmp_path / "other")


def test_a_file_is_judged_quantized_and_looked_into(tmp_path, net, pictures_folder):
    study = parse_study(tree(net, evidence={"stress": 0, "saliency": 3}))
    said = []

    class Heard:
        def __getattr__(self, name):
            return lambda *parts, **named: said.append(str(parts[0])) if name == "say" else None

    result = run_study(study, pictures_folder, tmp_path / "run", progress=Heard())
    reference, int8 = result.candidates
    assert reference.name == "reference"
    assert reference.evidence["validation"]["accuracy"].value > 0.9
    assert reference.parameters == 45
    assert reference.macs == 18 * SIDE * SIDE + 18
    adopted = reference.history[0]
    assert adopted.step == "adopt"
    assert adopted.params["classes"] == list(CLASSES)
    assert adopted.facts["trials"][-1]["accuracy"] > 0.9
    assert any("classes as the data's are sorted" in line and "taken" in line for line in said)
    assert int8.precision == "int8"
    assert int8.evidence["test"]["accuracy"].value > 0.8
    assert int8.judgements["test"].saliency is not None
    content = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Traceback" not in content
    shipped = tmp_path / "run" / "bundle"
    assert (shipped / "model.onnx").is_file() or not int8.selected_for


def test_a_student_learns_from_a_file_and_everything_else_is_done_to_it(
    tmp_path, net, pictures_folder
):
    small = STUDENT | {"control": False}
    prune = {
        "step": "prune",
        "ratio": 0.3,
        "round_to": 1,
        "views": 2,
        "train": TRAIN | {"epochs": 1},
    }
    study = parse_study(tree(net, steps=[small, prune], risk="low"))
    result = run_study(study, pictures_folder, tmp_path / "run")
    names = [candidate.name for candidate in result.candidates]
    assert names == ["reference", "distilled", "pruned", "pruned-onnx-int8"]
    student = result.candidates[1]
    assert student.history[0].step == "distill"
    assert student.history[0].params["teachers"][0]["path"] is None


def test_a_teacher_may_be_a_file_that_others_made(tmp_path, net, pictures_folder):
    made = {"file": str(net), **DECLARED}
    other = foreign_net(tmp_path / "other.onnx", names=str(dict(enumerate(CLASSES))))
    teachers = [made, str(other)]
    study = parse_study(
        tree(net, steps=[STUDENT | {"teachers": teachers}], exports=[{"precision": "float32"}])
    )
    result = run_study(study, pictures_folder, tmp_path / "run")
    planned = result.candidates[1].history[0].params["teachers"]
    assert planned[0]["path"]["scale"] == "0..1"
    assert len({entry["digest"] for entry in planned}) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": [{"step": "prune"}]}, r"'prune' needs the reference's own network \(PyTorch\)"),
        ({"steps": [{"step": "qat"}]}, "'qat' needs the reference's own network"),
        ({"steps": [{"step": "train"}]}, "'train' needs the reference's own network"),
        ({"steps": [{"step": "distill"}]}, "'distill' without a 'student' needs"),
        ({"steps": [STUDENT | {"method": "fitnet"}]}, "read feature maps of the reference's own"),
        ({"exports": [{"format": "litert"}]}, "'litert' files are made of the reference's own"),
        ({"exports": [{"format": "executorch"}]}, "'executorch' files are made of"),
        ({"exports": [{"format": "tflite-micro"}]}, "'tflite-micro' files are made of"),
        ({"reference": {"onnx": "x.onnx", "train": {"epochs": 3}}}, "cannot be trained"),
        ({"reference": {"onnx": "x.onnx", "model": "resnet18"}}, "either 'model' .* or 'onnx'"),
        ({"reference": {}}, "either 'model' .* or 'onnx'"),
        ({"reference": {"onnx": {"file": "x", "scale": "imagenet", "mean": 0.5, "std": 0.2}}},
         "give 'scale', or 'mean' and 'std'"),
        ({"reference": {"onnx": {"file": "x", "scale": "0..2"}}}, "0\\.\\.255"),
    ],
)  # fmt: skip
def test_what_needs_the_network_is_refused_when_the_study_is_read(changes, words):
    with pytest.raises(RecipeError, match=words) as problem:
        parse_study(tree("x.onnx", **changes))
    assert "\n" not in str(problem.value)


def test_after_a_student_everything_is_allowed():
    steps = [STUDENT, {"step": "prune"}, {"step": "qat"}]
    study = parse_study(tree("x.onnx", steps=steps, exports=[{"format": "litert"}]))
    assert [step.step for step in study.steps] == ["distill", "prune", "qat"]


@pytest.mark.parametrize(
    ("risk", "steps"), [("medium", ["distill", "qat"]), ("low", ["distill", "qat"]), ("high", [])]
)
def test_a_policy_recommends_what_a_file_allows(risk, steps):
    only = tree("x.onnx", risk=risk, target="raspberry-pi-5")
    del only["exports"]
    study = parse_study(only)
    assert [step.step for step in study.steps] == steps
    assert study.exports


def test_the_input_is_the_files_own(tmp_path, net):
    recipe = OnnxRecipe(file=str(net))
    own = adopted_input(recipe, InputSpec())
    assert (own.channels, own.height, own.width) == (3, SIDE, SIDE)
    assert "fit" not in own.model_fields_set
    assert adopted_input(recipe, InputSpec(channels=1)).channels == 1
    with pytest.raises(RecipeError, match=r"data\.input\.height: 16, as 'net\.onnx' takes, got 64"):
        adopted_input(recipe, InputSpec(height=64, width=16))
    grey = foreign_net(tmp_path / "grey.onnx", grey=True)
    with pytest.raises(RecipeError, match=r"data\.input\.channels: 1"):
        adopted_input(OnnxRecipe(file=str(grey)), InputSpec(channels=3))


def test_another_file_behind_the_same_path_is_another_reference(tmp_path, pictures_folder):
    """And so are other weights beside it, whose file keeps its own bytes."""
    net = foreign_net(tmp_path / "net.onnx")
    model = onnx.load(net)
    onnx.save(model, net, save_as_external_data=True, location="net.data", size_threshold=0)
    study = parse_study(tree(net, exports=[]))
    before = run_study(study, pictures_folder, tmp_path / "run").candidates[0].digest
    assert run_study(study, pictures_folder, tmp_path / "run").candidates[0].digest == before
    weights = np.frombuffer((tmp_path / "net.data").read_bytes(), np.float32).copy()
    size = net.stat().st_size
    (tmp_path / "net.data").write_bytes((weights * np.float32(1.01)).tobytes())
    after = run_study(study, pictures_folder, tmp_path / "run").candidates[0].digest
    assert net.stat().st_size == size
    assert after != before


def test_a_quantized_file_is_no_reference_to_make_small(tmp_path, net, pictures_folder):
    study = parse_study(tree(net))
    run_study(study, pictures_folder, tmp_path / "run")
    files = (tmp_path / "run").rglob("model.onnx")
    int8 = next(path for path in files if OnnxCandidate.load(path).card.precision == "int8")
    model = onnx.load(int8)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "theirs.onnx")
    again = tree(tmp_path / "theirs.onnx")
    again["reference"]["onnx"].pop("scale")
    with pytest.raises(ModelError, match="computes in whole numbers already"):
        run_study(parse_study(again), pictures_folder, tmp_path / "again")


def test_evaluate_and_compare_take_what_is_declared(tmp_path, net, pictures_folder):
    facts = parse_onnx(
        ["scale=0..1", "channels=RGB", "fit=stretch", f"classes={','.join(CLASSES)}"]
    )
    evidence = evaluate(net, pictures_folder, onnx=facts, resamples=100)
    assert evidence["evidence"]["accuracy"]["value"] > 0.9
    assert not [line for line in evidence["warnings"] if "order of the outputs" in line]
    turned = facts | {"classes": [CLASSES[1], CLASSES[2], CLASSES[0]]}
    doubted = evaluate(net, pictures_folder, onnx=turned, resamples=100)
    assert "in the order of the outputs?" in doubted["warnings"][-1]
    other = foreign_net(
        tmp_path / "other.onnx", order=(2, 0, 1), names="{0: 'normal', 1: 'fibroma', 2: 'glioma'}"
    )
    facts.pop("classes")
    named = foreign_net(tmp_path / "named.onnx", names=str(dict(enumerate(CLASSES))))
    both = compare(named, other, pictures_folder, onnx=facts, resamples=100)
    assert both["changes"]["accuracy"]["value"] == 0  # the same network, its outputs turned
