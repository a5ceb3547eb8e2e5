"""Runs, bundles and results of earlier releases open, answer and are reported by this one."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clinipress.cli.commands import app
from clinipress.edge.bundle import load_bundle
from clinipress.edge.predict import predict
from clinipress.errors import InputError
from clinipress.records.store import read_result
from clinipress.records.version1 import external_of_version1, result_of_version1
from clinipress.text import true_minus

HERE = Path(__file__).resolve().parent
RELEASES = ("0.1.0",)
sys.path.insert(0, str(HERE.parent / "golden"))

import drawing  # noqa: E402

# as the 0.1.0 reports showed them
VERDICTS = {
    "reference": None,
    "too-small": "fail",
    "distilled": "pass",
    "distilled-control": "pass",
    "distilled-onnx-float16": "pass",
    "distilled-onnx-int8": "inconclusive",
}


@pytest.fixture(params=RELEASES)
def old(request, tmp_path):
    """A copy of a release's files: nothing is written where they are kept."""
    return Path(shutil.copytree(HERE / request.param, tmp_path / "old"))


def command(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def verdicts(result):
    return {row.name: row.verdict and row.verdict.status for row in result.candidates}


def test_an_old_bundle_opens_and_answers_its_sample(old):
    folder = old / "run" / "bundles" / "cpu-x86"
    bundle = load_bundle(folder, threads=1)
    assert bundle.self_test() <= bundle.manifest.self_test.tolerance
    (answer,) = predict(bundle, [folder / "sample.png"])
    assert answer.label == bundle.manifest.self_test.label
    said = command("predict", folder, folder / "sample.png", "--json")
    assert said.exit_code == 0
    assert answer.label in said.output


def test_an_old_result_is_read_with_its_verdicts(old):
    result = read_result(old / "run")
    assert verdicts(result) == VERDICTS
    assert [one.shipped for one in result.targets] == ["distilled", "distilled"]


def plain(old):
    return json.loads((old / "run" / "result.json").read_text(encoding="utf-8"))


def turned(interval):
    """Reference minus candidate of version 1, as the candidate minus reference of today."""
    return (-interval["value"], -interval["high"], -interval["low"])


def ends(interval):
    return (interval.value, interval.low, interval.high)


def test_old_figures_are_kept_and_old_drops_change_sign(old):
    rows = {row["name"]: row for row in plain(old)["candidates"]}
    signed = 0
    for row in read_result(old / "run").candidates:
        before = rows[row.name]
        assert set(row.changes) == set(before["drops"])
        for split, changes in row.changes.items():
            for metric, change in changes.items():
                assert ends(change) == turned(before["drops"][split][metric])
                signed += change.value != 0
        for split, evidence in row.evidence.items():
            for metric, interval in evidence.items():
                assert interval.model_dump() == before["evidence"][split][metric]
        for split, gains in row.over_control.items():
            for metric, gain in gains.items():
                assert gain.model_dump() == before["over_control"][split][metric]
    assert signed > 50


def test_old_sections_change_sign_where_they_compare(old):
    rows = {row["name"]: row for row in plain(old)["candidates"]}
    (row,) = (row for row in read_result(old / "run").candidates if row.name == "distilled")
    for split, sections in row.judgements.items():
        before = rows[row.name]["findings"][split]
        for now, was in zip(sections.operating.rows, before["operating"]["rows"], strict=True):
            assert ends(now.sensitivity_change) == turned(was["sensitivity_drop"])
            assert ends(now.specificity_change) == turned(was["specificity_drop"])
            assert now.sensitivity.model_dump() == was["sensitivity"]
        for name, change in sections.calibration.changes.items():
            assert ends(change) == turned(before["calibration"]["drops"][name])
        for now, was in zip(sections.subgroups.groups, before["subgroups"]["groups"], strict=True):
            for name, change in now.changes.items():
                assert ends(change) == turned(was["drops"][name])
        # a gap was candidate minus reference before
        for now, was in zip(sections.subgroups.gaps, before["subgroups"]["gaps"], strict=True):
            assert now.model_dump() == was
    curves = before["stress"]["curves"]
    for now, was in zip(sections.stress.curves, curves, strict=True):
        for level, kept in zip(now.levels, was["levels"], strict=True):
            assert ends(level.change) == turned(kept["drop"])
            assert ends(level.added_change) == turned(kept["excess"])


def test_old_reasons_are_read_as_their_sentences(old):
    rows = {row["name"]: row for row in plain(old)["candidates"]}
    for row in read_result(old / "run").candidates:
        if row.verdict is not None:
            before = rows[row.name]["verdict"]
            assert row.verdict.texts == tuple(map(true_minus, before["reasons"]))
            statuses = before.get("reason_statuses") or [None] * len(before["reasons"])
            assert [reason.status for reason in row.verdict.reasons] == list(statuses)
            assert row.verdict.deciding


def test_statuses_of_version_1_are_kept_where_it_had_them():
    tree = {"verdict": {"status": "fail", "reasons": ["a", "b"], "reason_statuses": ["fail", None]}}
    reasons = result_of_version1(tree)["verdict"]["reasons"]
    assert [(reason["text"], reason["status"]) for reason in reasons] == [
        ("a", "fail"),
        ("b", None),
    ]


def test_an_old_external_test_and_old_seeds_change_sign():
    figure = {"value": 0.1, "low": -0.1, "high": 0.3}
    fall = {"values": [0.1, 0.3], "mean": figure, "deviation": 0.1, "low": 0.1, "high": 0.3}
    test = {"rows": {"a": {"drop": {"accuracy": figure}, "findings": {}, "verdict": None}}}
    change = {"value": -0.1, "low": -0.3, "high": 0.1}
    assert external_of_version1(test)["rows"]["a"]["changes"] == {"accuracy": change}
    again = external_of_version1(external_of_version1(test))
    assert again == external_of_version1(test)
    tree = {"over_seeds": {"a": {"split": "test", "drop": {"accuracy": fall}}}}
    (spread,) = result_of_version1(tree)["over_seeds"]["a"]["changes"].values()
    assert spread == {
        "values": [-0.1, -0.3], "mean": change, "deviation": 0.1, "low": -0.3, "high": -0.1,
    }  # fmt: skip


@pytest.mark.parametrize("broken", [None, 3, "x", [], [None], {}, {"low": "x"}])
@pytest.mark.parametrize(
    "path",
    [
        ("verdict",),
        ("verdict", "reasons"),
        ("candidates",),
        ("candidates", 0),
        ("candidates", 2, "drops"),
        ("candidates", 2, "drops", "test"),
        ("candidates", 2, "drops", "test", "accuracy"),
        ("candidates", 2, "drop_split"),
        ("candidates", 2, "findings"),
        ("candidates", 2, "findings", "test", "subgroups"),
        ("candidates", 2, "verdict", "reason_statuses"),
        ("over_seeds",),
        ("external_tests",),
    ],
    ids=lambda path: ".".join(map(str, path)) if isinstance(path, tuple) else str(path),
)
def test_a_broken_file_of_version_1_is_refused_or_read_and_never_a_traceback(old, path, broken):
    tree = plain(old)
    part = tree
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = broken
    (old / "run" / "result.json").write_text(json.dumps(tree))
    with contextlib.suppress(InputError):
        read_result(old / "run")


def test_an_old_result_is_written_again_as_version_2(old):
    result = read_result(old / "run")
    assert result.schema_version == "2"
    (old / "run" / "result.json").write_text(result.model_dump_json())
    assert read_result(old / "run") == result


def test_an_old_report_is_drawn_again_with_the_same_verdicts(old):
    run = old / "run"
    before = true_minus((run / "report.md").read_text(encoding="utf-8"))
    for page in ("report.md", "dossier.md", "model-card.md"):
        (run / page).unlink()
    said = command("report", run)
    assert said.exit_code == 0, said.output
    after = (run / "report.md").read_text(encoding="utf-8")
    # below the first screen, which says more today
    parts = [text[text.index("\n## ") :] for text in (before, after)]
    for word in ("PASS", "FAIL"):
        assert parts[1].count(word) == parts[0].count(word) > 0
    for row in read_result(run).candidates:
        assert row.name in after
        for text in row.verdict.texts if row.verdict else ():
            assert (text in after) == (text in before)
    assert all((run / page).is_file() for page in ("report.html", "dossier.md", "model-card.md"))


def test_old_scores_are_compared_without_models_or_images(old):
    scores = old / "run" / "scores"
    first = scores / "reference-validation.npz"
    second = scores / "distilled-validation.npz"
    said = command("compare", first, second, "--risk", "low", "--json")
    assert said.exit_code in (0, 1), said.output
    found = json.loads(said.output)
    # one answer of 150 changed: since 0.2.0 the interval knows how few did
    assert found["changes"]["accuracy"]["value"] == pytest.approx(-1 / 150)
    assert found["verdict"]["status"] == "pass"
    worse = command("compare", first, scores / "too-small-validation.npz", "--json")
    assert json.loads(worse.output)["verdict"]["status"] == "fail"


@pytest.mark.slow
def test_an_old_run_is_tested_on_images_from_elsewhere(old, tmp_path):
    data = drawing.draw(tmp_path / "elsewhere", 32)
    said = command("evaluate", old / "run", data, "--split", "test", "--name", "again", "--json")
    assert said.exit_code in (0, 1), said.output
    assert set(json.loads(said.output)["rows"]) == {"reference", "distilled"}
    assert "again" in (old / "run" / "report.md").read_text(encoding="utf-8")


def test_the_result_of_a_study_of_every_format_is_read_and_reported(old):
    run = old / "golden"
    run.mkdir()
    packed = (old / "golden-result.json.gz").read_bytes()
    (run / "result.json").write_bytes(gzip.decompress(packed))
    result = read_result(run)
    kinds = {(row.format, row.precision) for row in result.candidates}
    assert len(kinds) == 14
    assert [one.name for one in result.targets if one.shipped is None] == []
    said = command("report", run)
    assert said.exit_code == 0, said.output
    text = (run / "report.md").read_text(encoding="utf-8")
    assert all(row.name in text for row in result.candidates)


def test_no_old_file_names_a_machine_path():
    for path in (path for path in HERE.rglob("*.json") if path.is_file()):
        text = path.read_text(encoding="utf-8")
        assert "/home/" not in text, path
        assert "/tmp/" not in text, path
