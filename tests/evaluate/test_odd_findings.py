"""Odd files of several findings given to predict, evaluate and compare: right, or one line."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clinipress.cli.terminal import show_comparison, show_evidence
from clinipress.edge.bundle import write_bundle
from clinipress.edge.predict import run_predict
from clinipress.errors import BundleError, ClinipressError, DataError
from clinipress.evidence.scores import Scores
from clinipress.records.candidate import Card, InputSpec
from clinipress.study.external import compare, evaluate
from kit.findings import drawn, names
from kit.linear_model import clear_noise, weights, write_linear

NAMES = ("edema", "mass", "hernia")
SPEC = InputSpec(channels=1, height=16, width=24)


@pytest.fixture
def pair():
    return drawn(NAMES, images=90, seed=0)


def compared(folder, one, other, **how):
    one.save(folder / "a.npz")
    other.save(folder / "b.npz")
    return compare(folder / "a.npz", folder / "b.npz", resamples=20, **how)


def with_labels(pair, change):
    labels = pair[0].labels.copy()
    change(labels)
    return [replace(scores, labels=labels) for scores in pair]


def nan(scores):
    logits = scores.logits.copy()
    logits[3, 1] = np.nan
    return replace(scores, logits=logits)


def of_one_class(scores):
    return replace(scores, labels=np.zeros(len(scores.labels), np.int64))


LINES = {
    "fewer findings": (lambda b: drawn(NAMES[:2], images=90, seed=0)[1], "which differ"),
    "names in another order": (lambda b: b.in_order(("mass", "edema", "hernia")), "which differ"),
    "a logit that is no number": (nan, "finite logits.*1 of"),
    "one class for each image": (of_one_class, "which differ"),
    "other patients": (
        lambda b: replace(b, units=np.arange(90)),
        "names, classes, labels or units",
    ),
}


@pytest.mark.parametrize("form", LINES)
def test_scores_that_do_not_fit_are_one_line(pair, tmp_path, form):
    change, words = LINES[form]
    with pytest.raises(ClinipressError, match=words) as caught:
        compared(tmp_path, pair[0], change(pair[1]))
    assert "\n" not in str(caught.value)


def test_nothing_known_is_one_line(pair, tmp_path):
    with pytest.raises(DataError, match=r"whether they show edema or mass or hernia.*90 images"):
        compared(tmp_path, *with_labels(pair, lambda labels: labels.fill(-1)))


def only_absent(labels):
    labels[:] = 0


def without_mass(labels):
    labels[:, 1] = 0


def mass_unknown(labels):
    labels[:, 1] = -1


@pytest.mark.parametrize("change", [only_absent, without_mass, mass_unknown])
def test_findings_that_nobody_shows_are_named_and_decide_nothing(pair, tmp_path, change, capsys):
    comparison = compared(tmp_path, *with_labels(pair, change))
    assert comparison["verdict"]["status"] == "inconclusive"
    texts = " ".join(reason["text"] for reason in comparison["verdict"]["reasons"])
    assert "mass (0)" in texts
    evidence = comparison["candidates"][0]["evidence"]["data"]
    assert "auroc[mass]" not in evidence
    assert ("auroc_macro" in evidence) == (change is not only_absent)
    show_comparison(comparison)
    shown = capsys.readouterr().out
    assert ("not measured" in shown) == (change is not mass_unknown)  # then it has no row at all


def test_one_image_and_one_patient_decide_nothing(pair, tmp_path):
    first = [
        replace(
            scores, logits=scores.logits[:1], labels=scores.labels[:1], units=scores.units[:1],
            keys=scores.keys[:1], groups={name: v[:1] for name, v in scores.groups.items()},
        )
        for scores in pair
    ]  # fmt: skip
    alone = [replace(scores, units=np.zeros(90, np.int64)) for scores in pair]
    for both in (first, alone):
        assert compared(tmp_path, *both)["verdict"]["status"] == "inconclusive"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"thresholds": [0.5]}, "3 thresholds and temperatures, or none"),
        ({"thresholds": [0.5, 1.5, 0.2]}, "3 thresholds between 0 and 1"),
        ({"thresholds": [0.5, float("nan"), 0.2]}, "3 thresholds between 0 and 1"),
        ({"thresholds": [None, None]}, "3 thresholds and temperatures"),
        ({"temperatures": [1.0]}, "3 thresholds and temperatures, or none"),
        ({"temperatures": [1.0, 0.0, 1.0]}, "3 temperatures above 0"),
        ({"classes": ["edema", "edema", "mass"]}, "per-image scores"),
    ],
)
def test_files_of_scores_with_odd_facts_are_one_line(pair, tmp_path, facts, words):
    pair[0].save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    arrays["facts"] = np.asarray(json.dumps(json.loads(str(arrays["facts"])) | facts))
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=words):
        Scores.load(tmp_path / "a.npz")


def test_labels_other_than_present_absent_unknown_are_refused(pair):
    labels = pair[0].labels.copy()
    labels[0, 0] = 2
    with pytest.raises(DataError, match=r"1 \(present\), 0 \(absent\) or -1 .*from -1 to 2"):
        replace(pair[0], labels=labels)


# ------------------------------------------------------------------------------- bundles and images


def card(findings=NAMES, **more):
    return Card(
        name="chest", classes=findings, input=SPEC, format="onnx", task="multilabel", **more
    )


def bundle_of(folder, made, outputs=None):
    folder.mkdir(exist_ok=True)
    matrix = weights(SPEC, outputs or len(made.classes))
    model = write_linear(folder / "model.onnx", SPEC, matrix)
    return write_bundle(
        folder / "bundle", model, made, sample=clear_noise(SPEC, matrix),
        evidence={"verdict": {"status": "pass"}},
    )  # fmt: skip


@pytest.fixture
def images(tmp_path):
    """SYNTHETIC noise of 30 patients, some of it known to show something."""
    folder, random = tmp_path / "set", np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = ["path,patient_id,edema,mass,hernia"]
    for number in range(30):
        pixels = random.integers(0, 256, (16, 24), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        rows.append(f"images/{number}.png,p{number},{number % 2},{number % 3 == 0:d},-1")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_bundle_of_before_is_called_at_a_half_and_it_is_said(images, tmp_path, capsys):
    old = bundle_of(tmp_path, card())
    facts = evaluate(old, images, resamples=20)
    assert facts["images"] == 30
    assert facts["warnings"][-1].startswith(
        "'chest' brings a threshold for no finding: called from"
    )
    assert facts["evidence"]["sensitivity[edema]"]["n"] == 15
    assert "auroc[hernia]" not in facts["evidence"]
    show_evidence(facts)
    shown = capsys.readouterr().out
    assert "each finding" in shown
    assert "sensitivity[edema]" not in shown  # it has a row of its own
    lines = []
    assert run_predict(old, [images / "images" / "0.png"], write=lines.append) == 0
    assert lines[0].endswith(": nothing asked; not asked: edema, mass, hernia")
    assert "no finding" not in lines[0]


def test_b2_a_finding_without_threshold_is_said_by_name(images, tmp_path, capsys):
    some = bundle_of(tmp_path, card(thresholds=(0.4, None, 0.5)))
    facts = evaluate(some, images, resamples=20, scores=tmp_path / "kept.npz")
    (line,) = [w for w in facts["warnings"] if "threshold" in w]
    assert line == "mass has no threshold in 'chest': nothing that needs one is measured"
    assert facts["confusion"][1] == []
    assert "sensitivity[mass]" not in facts["evidence"]
    assert Scores.load(tmp_path / "kept.npz").thresholds == (0.4, None, 0.5)
    show_evidence(facts)
    assert f"warning: {line}" in capsys.readouterr().out


def test_b6_what_the_audit_warns_of_is_printed(images, tmp_path, capsys):
    (images / "images" / "3.png").write_bytes(b"no picture")
    facts = evaluate(bundle_of(tmp_path, card(thresholds=(0.4, 0.3, 0.5))), images, resamples=20)
    show_evidence(facts)
    shown = capsys.readouterr().out
    assert facts["warnings"]
    assert all(f"warning: {text}" in shown for text in facts["warnings"])
    assert len(facts["unreadable"]) == 1
    assert "1 file not read, the first images/3.png: " in shown


def test_b2_what_the_set_does_not_know_has_no_threshold_to_miss(images, tmp_path):
    unknown = bundle_of(tmp_path, card(("edema", "mass", "gas"), thresholds=(0.4, 0.3, None)))
    assert not [w for w in evaluate(unknown, images, resamples=20)["warnings"] if "threshold" in w]


def test_b1_models_of_different_tasks_are_refused_by_task_either_way(images, tmp_path):
    several = bundle_of(tmp_path / "several", card(thresholds=(0.4, 0.3, 0.5)))
    of_one = Card(name="plain", classes=NAMES, input=SPEC, format="onnx")
    one = bundle_of(tmp_path / "one", of_one)
    for pair in ((several, one), (one, several)):
        with pytest.raises(ClinipressError, match=r"one task.*multi(class|label)") as caught:
            compare(*pair, images, resamples=20)
        assert "\n" not in str(caught.value)
        assert "--onnx task=multilabel" in str(caught.value)


def test_b5_positive_means_nothing_where_there_are_more_than_two(images, tmp_path, pair):
    several = bundle_of(tmp_path / "several", card(thresholds=(0.4, 0.3, 0.5)))
    one = bundle_of(tmp_path / "one", Card(name="plain", classes=NAMES, input=SPEC, format="onnx"))
    for asked in ("mass", "Quatsch"):
        with pytest.raises(ClinipressError, match="--positive with a model of two classes"):
            evaluate(several, images, resamples=20, positive=asked)
        with pytest.raises(ClinipressError, match="--positive with a model of two classes"):
            evaluate(one, images, resamples=20, positive=asked)
        with pytest.raises(ClinipressError, match="--positive with a model of two classes"):
            compared(tmp_path, *pair, positive=asked)


def test_another_number_of_outputs_than_findings_is_one_line(tmp_path):
    with pytest.raises(ClinipressError) as caught:
        bundle_of(tmp_path, card(), outputs=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "facts",
    [{"thresholds": (0.5,)}, {"thresholds": (0.5, 2.0, 0.5)}, {"temperatures": (0.0, 1, 1)}],
)
def test_a_card_with_odd_thresholds_is_refused(tmp_path, facts):
    with pytest.raises(BundleError):
        bundle_of(tmp_path, card(**facts))


def test_a_set_that_knows_none_of_the_findings_is_one_line(images, tmp_path):
    other = bundle_of(tmp_path, card(("gas", "stone", "cyst")))
    with pytest.raises(ClinipressError) as caught:
        evaluate(other, images, resamples=20)
    assert "\n" not in str(caught.value)


def test_forty_findings_are_one_line_with_the_likeliest_present_first(images, tmp_path):
    findings = names(40)
    limits = (1e-6, *([0.5] * 29), *([None] * 10))
    made = bundle_of(tmp_path, card(findings, thresholds=limits))
    lines, rows = [], []
    assert run_predict(made, [images / "images" / "0.png"], write=lines.append) == 0
    assert run_predict(made, [images / "images" / "0.png"], as_json=True, write=rows.append) == 0
    answer = json.loads(rows[0])["findings"]
    present = {name: each["probability"] for name, each in answer.items() if each["present"]}
    ranked = sorted(present, key=lambda name: -present[name])
    text = lines[0].partition(": ")[2]
    called, absent, unasked = text.split("; ")
    parts = [part.partition(" % (called from ")[0] for part in called.split(", ")]
    assert [part.rpartition(" ")[0] for part in parts] == ranked
    assert absent == f"{30 - len(ranked)} absent"
    assert unasked.startswith("not asked: ")
    assert unasked.endswith(" and 4 more")
    assert sum(each["present"] is None for each in answer.values()) == 10
    assert {each["threshold"] for each in answer.values()} == {1e-6, 0.5, None}
