"""The whole flow on a small SYNTHETIC set: what comes out, and what it says of itself."""

import json
import shutil

import jsonschema
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from clinipress.edge.bundle import load_bundle
from clinipress.errors import DataError, DivergedError, ModelError, RecipeError
from clinipress.recipe.techniques import step_names
from clinipress.records.result import Result
from clinipress.study.external import compare, evaluate
from clinipress.study.flow import run_study
from clinipress.study.scores import ScoreKeeper
from kit.studies import BARE, TRAIN, study
from tiny_nets import make


def test_result_keeps_the_contract(finished):
    run, result = finished
    written = json.loads((run / "result.json").read_text())
    jsonschema.validate(written, json.loads((run / "result.schema.json").read_text()))
    assert Result.model_validate(written) == result
    names = [c["name"] for c in written["candidates"]]
    assert names == ["reference", "distilled", "pruned", "pruned-onnx-float16", "pruned-onnx-int8"]
    assert written["reference"] == "reference"
    assert written["shipped"] in [*names[1:], None]
    for row in written["candidates"]:
        assert (run / row["path"]).stat().st_size == row["file_bytes"]
        assert {"value", "low", "high"} <= row["evidence"]["validation"]["accuracy"].keys()
        assert {"median", "p95", "batch", "threads", "runtime"} <= row["latency_ms"].keys()
        assert row["parameters"] > 0
        assert row["macs"] > 0


def test_pruning_made_it_physically_smaller(finished):
    rows = {c.name: c for c in finished[1].candidates}
    share = rows["pruned"].macs / rows["distilled"].macs
    assert share == pytest.approx(0.7, abs=0.1)  # tiny layers rounded to 4 channels
    assert rows["pruned"].file_bytes < rows["distilled"].file_bytes
    assert rows["pruned-onnx-int8"].file_bytes < rows["pruned"].file_bytes


def test_files_agree_with_the_networks_they_were_made_from(finished):
    for row in finished[1].candidates:
        assert row.parity is not None
        if row.precision == "float32":
            assert row.parity.max_logit_difference <= 1e-3
            assert row.parity.label_flips == 0


def test_history_is_whole_and_replayable(finished):
    rows = {c.name: c for c in finished[1].candidates}
    assert [a.step for a in rows["pruned-onnx-int8"].history] == ["distill", "prune", "export"]
    export = rows["pruned-onnx-int8"].history[-1].params
    assert export["calibration_split"] == "train"
    assert export["calibration_augmented"] is False
    assert export["calibration_images"] == 32


def test_a_files_parent_is_the_float32_file_of_its_network(finished):
    rows = {c.name: c.parent for c in finished[1].candidates}
    assert rows == {
        "reference": None,
        "distilled": "reference",
        "pruned": "distilled",
        "pruned-onnx-float16": "pruned",
        "pruned-onnx-int8": "pruned",
    }


def test_several_formats_of_one_network_have_one_parent(phantoms, tmp_path):
    exports = [{"precision": "float16"}, {"precision": "int8", "calibration_images": 16},
               {"format": "tensorrt", "precision": "float16"}]  # fmt: skip
    result = run_study(study(steps=[], exports=exports, open_test=False), phantoms, tmp_path / "r")
    assert [c.parent for c in result.candidates] == [None, *["reference"] * 3]
    dossier = json.loads((tmp_path / "r" / "dossier.json").read_text())
    assert [one["alone"]["parent"] for one in dossier["modifications"]] == ["reference"] * 3
    sizes = [c.file_bytes for c in result.candidates]
    ratios = [one["alone"]["file_ratio"] for one in dossier["modifications"]]
    assert ratios == pytest.approx([sizes[0] / size for size in sizes[1:]])


def test_test_split_was_opened_once_for_the_finalists_only(finished):
    run, result = finished
    assert len(result.test_openings) == 1
    measured = {c.name for c in result.candidates if "test" in c.evidence}
    assert measured == set(result.test_openings[0].candidates)
    split = json.loads((run / "split.json").read_text()) if (run / "split.json").exists() else {}
    assert split


def test_running_again_changes_nothing_and_opens_nothing(finished, phantoms):
    run, result = finished
    again = run_study(study(), phantoms, run)
    assert [c.digest for c in again.candidates] == [c.digest for c in result.candidates]
    assert again.test_openings == result.test_openings
    # another test of the session may have left an external test in the folder
    own = [
        {k: v for k, v in c.evidence.items() if k in ("validation", "test")}
        for c in again.candidates
    ]
    assert own == [c.evidence for c in result.candidates]


def test_report_and_bundle(finished):
    run, result = finished
    page = (run / "report.html").read_text()
    assert "SYNTHETIC" in page
    assert result.bundle is not None
    bundle = load_bundle(run / result.bundle)
    assert bundle.card.synthetic
    assert bundle.card.classes == result.classes


def test_the_exported_file_alone_gives_the_studys_figures(finished, phantoms):
    run, result = finished
    row = result.candidates[-1]
    found = evaluate(run / row.path, phantoms, overlap="keep", resamples=100)
    assert found["images"] == result.audit.images
    assert 0 <= found["evidence"]["accuracy"]["value"] <= 1
    paired = compare(
        run / result.candidates[0].path, run / row.path, phantoms, risk="low", resamples=100
    )
    a, b = (c["evidence"]["data"]["accuracy"]["value"] for c in paired["candidates"])
    assert paired["changes"]["accuracy"]["value"] == pytest.approx(b - a)


def test_figures_rerun_from_the_kept_answers_without_a_model(finished):
    run, result = finished
    for row in result.candidates:
        assert set(row.per_image) == set(row.evidence)
        for split, path in row.per_image.items():
            with np.load(run / path) as kept:
                right = kept["logits"].argmax(1) == kept["labels"]
                assert len(kept["keys"]) == len(kept["units"]) == len(right)
            assert row.evidence[split]["accuracy"].value == pytest.approx(right.mean())


def test_a_users_own_classifier_is_judged_as_it_is_with_its_own_normalisation(phantoms, tmp_path):
    torch.manual_seed(0)
    network = make(num_classes=3, in_chans=3).eval()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "mine.safetensors")
    means, stds = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = {"factory": "tiny_nets:make", "checkpoint": str(tmp_path / "mine.safetensors")}
    model |= {"in_channels": 3, "mean": means, "std": stds}
    run = tmp_path / "run"
    int8 = [{"precision": "int8", "calibration_images": 32}]
    reference = {"model": model, "train": None}
    own = study(reference=reference, steps=[], exports=int8, evidence=BARE)
    result = run_study(own, phantoms, run)
    # the untrained-network trial (A5): little is lost of nothing, and that is no pass
    assert all(row.verdict.status != "pass" for row in result.candidates if row.verdict)
    caps = [[r.kind for r in row.verdict.reasons] for row in result.candidates if row.verdict]
    assert all("weak reference" in kinds for kinds in caps)
    with np.load(run / result.candidates[0].per_image["validation"]) as kept:
        keys, logits = list(kept["keys"]), kept["logits"]
    pixels = np.stack([np.asarray(Image.open(phantoms.parent / key)) for key in keys])
    colour = np.repeat(pixels[:, None], 3, axis=1) / 255
    shape = (1, 3, 1, 1)
    normalised = (colour - np.reshape(means, shape)) / np.reshape(stds, shape)
    with torch.inference_mode():
        expected = network(torch.from_numpy(normalised).float()).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_what_the_risk_level_bars_is_measured_and_never_shipped(phantoms, tmp_path):
    exports = [{"precision": "float16"}, {"precision": "int8", "calibration_images": 32}]
    strict = study(risk="critical", steps=[], exports=exports, evidence=BARE)
    result = run_study(strict, phantoms, tmp_path / "run")
    rows = {c.name: c for c in result.candidates}
    assert rows["reference-onnx-int8"].rejected.startswith("At critical risk quantization after")
    assert "validation" in rows["reference-onnx-int8"].evidence
    assert result.shipped in ("reference-onnx-float16", None)
    opened = [name for opening in result.test_openings for name in opening.candidates]
    assert "reference-onnx-int8" not in opened


def test_nothing_to_ship_leaves_the_test_split_sealed(phantoms, tmp_path):
    int8 = [{"precision": "int8", "calibration_images": 32}]
    barred = study(risk="critical", steps=[], exports=int8)
    result = run_study(barred, phantoms, tmp_path / "run")
    assert (result.shipped, result.bundle, result.test_openings) == (None, None, ())
    assert result.verdict.status == "fail"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "No compressed model" in page
    assert not (tmp_path / "run" / "bundle").exists()


def test_a_nan_loss_stops_the_study_and_keeps_what_was_done(phantoms, tmp_path):
    wild = TRAIN | {
        "learning_rate": 1e30,
        "gradient_clip": None,
        "optimizer": "sgd",
        "warmup_epochs": 0,
    }
    with pytest.raises(DivergedError):
        run_study(
            study(reference={"model": {"factory": "tiny_nets:make"}, "train": wild}),
            phantoms,
            tmp_path / "run",
        )
    assert any((tmp_path / "run" / "objects").glob("data-*"))


def test_no_data_and_no_test_class(tmp_path, phantoms):
    with pytest.raises(RecipeError, match="--data"):
        run_study(study(), None, tmp_path / "run")
    with pytest.raises(DataError):
        run_study(study(), tmp_path / "absent", tmp_path / "run")


def test_step_names():
    steps = [{"step": "prune"}, {"step": "prune"}, {"step": "train", "name": "last"}]
    assert step_names(study(steps=steps).steps) == ["pruned-1", "pruned-2", "last"]
    with pytest.raises(RecipeError, match="names"):
        step_names(study(steps=[{"step": "train", "name": "reference"}]).steps)


def test_predictions_do_not_depend_on_the_batch(finished):
    run, _ = finished
    bundle = load_bundle(run / "bundle")
    images = np.random.default_rng(0).integers(0, 256, (9, 1, 32, 32), dtype=np.uint8)
    together = bundle.candidate.predict(images)
    alone = np.concatenate([bundle.candidate.predict(image[None]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_a_control_shows_what_the_teacher_gave_and_is_never_shipped(phantoms, tmp_path):
    taught = {"step": "distill", "student": {"factory": "tiny_nets:make"}, "views": 2}
    taught |= {"train": TRAIN | {"epochs": 2}, "control": True}
    later = {"step": "train", "train": TRAIN | {"epochs": 1}}
    plan = study(steps=[taught, later], exports=[{"precision": "float16"}], evidence=BARE)
    result = run_study(plan, phantoms, tmp_path / "run")
    rows = {c.name: c for c in result.candidates}
    assert list(rows) == [
        "reference", "distilled", "distilled-control", "fine-tuned", "fine-tuned-onnx-float16",
    ]  # fmt: skip
    mine, control = rows["distilled"], rows["distilled-control"]
    assert (mine.control, control.control) == ("distilled-control", None)
    assert result.shipped != control.name
    assert "never shipped" in (control.rejected or "")
    parents = [row.parent for row in result.candidates]
    assert parents == [None, "reference", "reference", "distilled", "fine-tuned"]
    steps = [row.history[0].params for row in (mine, control)]
    assert [p["alpha"] for p in steps] == [0.7, 0]
    assert steps[0]["options"] == steps[1]["options"]
    assert set(mine.over_control) == set(mine.evidence) == set(control.evidence)
    for split, gain in mine.over_control.items():
        right = []
        for row in (mine, control):
            with np.load(tmp_path / "run" / row.per_image[split]) as kept:
                right.append(kept["logits"].argmax(1) == kept["labels"])
        expected = right[0].mean() - right[1].mean()
        assert gain["accuracy"].value == pytest.approx(expected)
        assert gain["accuracy"].low <= expected <= gain["accuracy"].high
    assert "without a teacher" in (tmp_path / "run" / "report.html").read_text()
    again = run_study(plan, phantoms, tmp_path / "run")
    assert [c.digest for c in again.candidates] == [c.digest for c in result.candidates]


def test_a_study_can_leave_the_test_split_sealed(phantoms, tmp_path):
    asked = study(steps=[], open_test=False, reference={"model": {"factory": "tiny_nets:make"},
                                                        "train": TRAIN})  # fmt: skip
    result = run_study(asked, phantoms, tmp_path / "run")
    assert result.test_openings == ()
    assert result.shipped is None
    assert not (tmp_path / "run" / "bundle").exists()
    assert "the test split stays sealed" in result.verdict.texts[0]
    assert result.verdict.status == "inconclusive"
    assert all("test" not in row.evidence for row in result.candidates)


def test_a_candidates_weights_are_a_checkpoint(finished, phantoms, tmp_path):
    run, result = finished
    weights = next((run / "objects").glob("train-*/weights.safetensors"))
    model = {"factory": "tiny_nets:make", "arguments": {"width": 24}, "checkpoint": str(weights)}
    asked = study(steps=[], open_test=False, exports=[{"precision": "float16"}],
                  reference={"model": model, "train": None})  # fmt: skip
    again = run_study(asked, phantoms, tmp_path / "run")
    first, other = (one.candidates[0].evidence["validation"] for one in (result, again))
    assert first["accuracy"].value == other["accuracy"].value


def test_f10_a_scoring_that_was_interrupted_is_one_opening(finished, phantoms, monkeypatch):
    """Killed while the test images were scored, nobody saw a figure: it was opened once."""
    run, result = finished
    for path in run.glob("objects/test-*"):
        shutil.rmtree(path)
    (run / "test_openings.jsonl").unlink()
    predict = ScoreKeeper._predict

    def killed(keeper, candidate, rows, path):
        predict(keeper, candidate, rows, path)
        if path.parent.name.startswith("test-"):
            raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(ScoreKeeper, "_predict", killed)
            with pytest.raises(KeyboardInterrupt):
                run_study(study(), phantoms, run)
    again = run_study(study(), phantoms, run)
    assert len(again.test_openings) == 1
    assert not any("opened" in limit for limit in again.limits)
    assert [c.digest for c in again.candidates] == [c.digest for c in result.candidates]
    # what somebody saw, and then changed something, is another
    for path in run.glob("objects/test-*"):
        shutil.rmtree(path)
    assert len(run_study(study(), phantoms, run).test_openings) == 2


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        ({"saliency": 2}, "'evidence.saliency' of at least 3"),
        ({"stress": 1, "saliency": 0}, "'evidence.stress' of at least 3"),
        ({"prevalence": {"nodules": 0.1}}, "'evidence.prevalence'"),
        ({"masks": "nowhere"}, "'evidence.masks'"),
    ],
)
def test_f16_evidence_that_cannot_be_had_is_refused_before_training(
    phantoms, tmp_path, evidence, said
):
    with pytest.raises(RecipeError, match=said):
        run_study(study(evidence=evidence), phantoms, tmp_path / "run")
    assert {p.name.split("-")[0] for p in (tmp_path / "run/objects").iterdir()} == {"data", "audit"}


def test_f16_weights_that_are_not_there_are_missed_before_training(phantoms, tmp_path):
    student = {"factory": "tiny_nets:make", "pretrained": "nowhere.pt"}
    steps = [{"step": "distill", "student": student, "views": 2, "train": TRAIN}]
    with pytest.raises(ModelError, match=r"nowhere\.pt"):
        run_study(study(steps=steps), phantoms, tmp_path / "run")
    assert not list((tmp_path / "run").glob("objects/*"))


def test_f11_a_damaged_bundle_of_a_run_is_replaced_and_what_was_left_goes(finished, phantoms):
    run, result = finished
    (run / "bundle" / "model.onnx").write_bytes(b"damaged")
    (run / "bundle" / "notes.txt").write_text("of somebody")
    for left in (".bundle.0a1b.part", ".bundle.0a1b.old", "bundles/of-a-recipe-before"):
        (run / left).mkdir(parents=True)
        (run / left / "model.onnx").write_bytes(b"half")
    again = run_study(study(), phantoms, run)
    assert load_bundle(run / again.bundle).candidate.digest == next(
        c.digest for c in result.candidates if c.name == result.shipped
    )
    assert not (run / "bundles").exists()
    assert not list(run.glob(".bundle.*"))
