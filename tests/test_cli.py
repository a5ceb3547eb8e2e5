"""The command line as a script sees it: exit codes, JSON on stdout, nothing else there."""

import json
import re
import shutil

import pytest

from clinipress.cli import commands as cli
from clinipress.data.sources import read_dataset
from clinipress.errors import DataError
from kit.folders import folder_of, table


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["clinipress", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code or 0, capsys.readouterr().out

    return run


def test_help_names_every_command_of_the_contract(call):
    code, text = call("--help")
    assert code == 0
    first = ["demo", "run", "init", "audit", "evaluate", "compare"]
    for command in (*first, "predict", "bench", "report", "models", "targets", "data", "table"):
        assert f" {command} " in text, command


def test_every_command_has_json(call):
    for command in ("demo", "run", "init", "audit", "evaluate", "compare", "predict", "bench"):
        assert "--json" in call(command, "--help")[1], command
    for command in ("report", "models", "targets", "data", "table"):
        assert "--json" in call(command, "--help")[1], command


def test_audit_and_init(call, phantoms, tmp_path):
    code, text = call("audit", phantoms, "--json")
    assert code == 0
    found = json.loads(text)
    assert found["images"] == sum(found["classes"].values())
    assert set(found["groups"]) == {"sex", "age", "scanner"}
    study = tmp_path / "study.yaml"
    code, text = call("init", phantoms, "--out", study, "--json")
    assert code == 0
    assert json.loads(text)["patients"] is True
    from clinipress.study.read import load_study

    assert load_study(study).data.path == str(phantoms)
    assert call("init", phantoms, "--out", study)[0] == 2  # never overwritten unasked


def test_evaluate_and_compare(call, finished, phantoms):
    run, result = finished
    own = call("evaluate", run / "bundle", phantoms, "--json")
    assert own[0] == 2  # a study's own images are not from elsewhere
    code, text = call("evaluate", run / "bundle", phantoms, "--overlap", "keep", "--json")
    assert code == 0
    code, plain = call("evaluate", run / "bundle", phantoms, "--overlap", "keep")
    assert "are counted here" in " ".join(plain.split())
    assert {"value", "low", "high"} <= json.loads(text)["evidence"]["accuracy"].keys()
    reference = run / result.candidates[0].path
    code, text = call("compare", reference, reference, phantoms, "--risk", "low", "--json")
    same = json.loads(text)
    # nothing was lost of a reference that is not shown to be worth anything
    assert (code, same["verdict"]["status"]) == (1, "inconclusive")
    unsure = [r["kind"] for r in same["verdict"]["reasons"] if r["status"] == "inconclusive"]
    assert unsure == ["weak reference"]
    assert same["changes"]["accuracy"]["value"] == 0
    code, text = call("compare", reference, reference, phantoms, "--risk", "critical", "--json")
    strict = json.loads(text)["verdict"]
    assert (code, strict["status"]) in [(1, "inconclusive"), (0, "pass")]
    assert (code == 0) == (strict["status"] == "pass")


def test_compare_fails_a_model_that_lost_everything(call, finished, phantoms, tmp_path):
    import onnx
    from onnx import numpy_helper

    run, result = finished
    path = run / result.candidates[0].path
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 2:
            tensor.CopyFrom(numpy_helper.from_array(-array, tensor.name))
    onnx.save(model, tmp_path / "upside-down.onnx")
    code, text = call("compare", path, tmp_path / "upside-down.onnx", phantoms, "--json")
    assert code == 1
    assert json.loads(text)["verdict"]["status"] == "fail"


def test_predict_text_and_json(call, finished, phantoms):
    run, result = finished
    images = sorted((phantoms.parent / "images").glob("*.png"))[:3]
    code, text = call("predict", run / "bundle", *images, "--json")
    rows = [json.loads(line) for line in text.splitlines()]
    assert code == 0
    assert [row["file"] for row in rows] == [str(i) for i in images]
    assert all(set(row["probabilities"]) == set(result.classes) for row in rows)
    code, text = call("predict", run / "bundle", images[0])
    assert code == 0
    assert rows[0]["label"] in text


def test_bench_report_models_targets(call, finished):
    run, _ = finished
    code, text = call("bench", run / "bundle", "--threads", "1", "--seconds", "0.1", "--json")
    assert code == 0
    assert json.loads(text)["latency_ms"][0]["threads"] == 1
    (run / "report.html").unlink()
    assert call("report", run, "--json")[0] == 0
    assert (run / "report.html").is_file()
    code, text = call("models", "mobilenetv2", "--json")
    assert code == 0
    assert "mobilenetv2_100" in json.loads(text)
    code, text = call("targets", "--json")
    assert code == 0
    assert "raspberry-pi-5" in json.loads(text)
    for command in (("models", "resnet18"), ("targets",)):
        code, text = call(*command)
        assert code == 0
        assert text


def test_e6_class_map_may_be_repeated(call, finished, phantoms, tmp_path):
    """In each command that has it, beside commas; a class cannot become two."""
    folder = shutil.copytree(phantoms.parent, tmp_path / "there")
    there = folder / phantoms.name
    there.write_text(there.read_text().replace(",nodule,", ",n,").replace(",opacity,", ",o,"))
    repeated = ("--class-map", "n=nodule", "--class-map", "o=opacity")
    commas = ("--class-map", "n=nodule,o=opacity")
    for pairs in (repeated, commas):
        code, text = call("audit", there, *pairs, "--json")
        assert code == 0
        assert set(json.loads(text)["classes"]) == set(finished[1].classes)
    assert call("init", there, "--out", tmp_path / "study.yaml", *repeated)[0] == 0
    bundle = finished[0] / "bundle"
    assert call("evaluate", bundle, there, *repeated, "--overlap", "keep", "--json")[0] == 0
    assert call("compare", bundle, bundle, there, *repeated, "--json")[0] in (0, 1)
    assert call("audit", there, *repeated, "--class-map", "n=normal")[0] == 2


def test_audit_and_init_of_several_findings(call, tmp_path):
    root = folder_of(tmp_path / "Set A", [f"{n}.png" for n in range(6)])
    cells = ["A|B", "A", "", "B", "A", ""]
    table(root / "t.csv", ["path,labels", *(f"{n}.png,{c}" for n, c in enumerate(cells))])
    code, text = call("audit", root)
    assert code == 0
    assert re.search(r"finding +┃ images", text)
    assert re.search(r"A +│ +3 ", text)
    assert f"next: clinipress init '{root}'" in text  # as a shell must be told it
    # two columns of 0 and 1 may be anything of the image: a person says that they are findings
    columns = [f"{n}.png,{int('A' in c)},{int('B' in c)}" for n, c in enumerate(cells)]
    table(root / "t.csv", ["path,A,B", *columns])
    assert call("init", root, "--out", tmp_path / "study.yaml")[0] == 2
    with pytest.raises(DataError, match="--task multilabel"):
        read_dataset(root, task=None)
    assert call("audit", root, "--task", "multilabel")[0] == 0
    assert call("init", root, "--out", tmp_path / "study.yaml", "--task", "multilabel")[0] == 0
    written = (tmp_path / "study.yaml").read_text()
    assert "task: multilabel" in written
    assert "mean AUROC may fall" in written
    assert 'classes: ["A", "B"]' in written
