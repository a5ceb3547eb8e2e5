"""Runs, bundles and results of earlier releases open, answer and are reported by this one."""

from __future__ import annotations

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
from clinipress.records.store import read_result

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


def test_an_old_report_is_drawn_again_with_the_same_verdicts(old):
    run = old / "run"
    before = (run / "report.md").read_text(encoding="utf-8")
    for page in ("report.md", "dossier.md", "model-card.md"):
        (run / page).unlink()
    said = command("report", run)
    assert said.exit_code == 0, said.output
    after = (run / "report.md").read_text(encoding="utf-8")
    for word in ("PASS", "FAIL"):
        assert after.count(word) == before.count(word) > 0
    for row in read_result(run).candidates:
        assert row.name in after
        for reason in row.verdict.reasons if row.verdict else ():
            assert (reason in after) == (reason in before)
    assert all((run / page).is_file() for page in ("report.html", "dossier.md", "model-card.md"))


def test_old_scores_are_compared_without_models_or_images(old):
    scores = old / "run" / "scores"
    first = scores / "reference-validation.npz"
    second = scores / "distilled-validation.npz"
    said = command("compare", first, second, "--risk", "low", "--json")
    assert said.exit_code in (0, 1), said.output
    found = json.loads(said.output)
    assert found["verdict"]["status"] == "inconclusive"  # on validation alone
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
