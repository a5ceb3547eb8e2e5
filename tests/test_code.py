"""Whose code runs: what files name runs where somebody permitted it, and stays in its folder."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clinipress.edge.load import load_candidate
from clinipress.errors import InputError, ModelError, RecipeError
from clinipress.models.catalogue import NAMED
from clinipress.models.classifier import TorchCandidate
from clinipress.models.zoo import create_backbone
from clinipress.recipe.code import OURS, code_behind
from clinipress.records.store import below
from clinipress.steps.supernet.supernets import FACTORY
from clinipress.study.flow import run_study
from clinipress.study.read import load_study, parse_study
from kit.candidates import wrapped
from kit.studies import tree
from tiny_nets import make

TINY = "tiny_nets:make"
MARK = "import pathlib\npathlib.Path('ran').touch()\nfrom tiny_nets import make\n"
NEVER = ("torch.hub:load", "builtins:exec", "os:system", "runpy:run_path", "subprocess:call",
         "torch:load", "clinipress.extras:require")  # fmt: skip


def written(folder: Path, **changes) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tree(**changes)))
    return path


def saved(folder: Path, factory: str | None = TINY) -> Path:
    """A candidate folder as it may come by mail."""
    net = wrapped(lambda channels: make(3, channels), name="net")
    model = net.spec.model_copy(update={"name": None, "factory": factory})
    TorchCandidate(net.card.model_copy(update={"model": model}), net.module).save(folder)
    return folder


@pytest.fixture
def marked(tmp_path, monkeypatch):
    """A module of the current folder that leaves a mark when it is imported."""
    (tmp_path / "left_a_mark.py").write_text(MARK)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "ran"
    sys.modules.pop("left_a_mark", None)


def test_f3_a_study_file_runs_no_code_unasked(tmp_path, marked):
    path = written(tmp_path, reference={"model": {"factory": "left_a_mark:make"}, "train": None})
    path.write_text(path.read_text().replace("train: null", "train: {epochs: 1}"))
    with pytest.raises(ModelError, match=r"'left_a_mark:make'.*--allow-code"):
        load_study(path)
    assert not marked.exists()
    assert load_study(path, allow_code=True).reference.model.factory == "left_a_mark:make"


def test_f3_a_student_in_a_study_file_neither(tmp_path):
    path = written(tmp_path, reference={"model": "resnet18"})
    with pytest.raises(ModelError, match="'tiny_nets:make'"):
        load_study(path)


@pytest.mark.parametrize(
    "typed", ["reference.model.factory=tiny_nets:make", "reference.model={factory: tiny_nets:make}"]
)
def test_f3_what_is_typed_is_permission(tmp_path, typed):
    path = written(tmp_path, reference={"model": {"name": None}}, steps=[])
    assert load_study(path, (typed,)).reference.model.factory == TINY
    with pytest.raises(ModelError, match="allow-code"):
        load_study(written(tmp_path), ("reference.model.factory=other:make",))


def test_f3_our_own_networks_ask_nobody(tmp_path):
    ours = {model.origin for model in NAMED if ":" in model.origin} | {FACTORY}
    assert ours <= OURS
    for name in OURS:
        reference = {"model": {"factory": name}}
        assert load_study(written(tmp_path, reference=reference, steps=[])).reference


@pytest.mark.parametrize("name", NEVER)
def test_f3_some_functions_run_for_nobody(tmp_path, name):
    path = written(tmp_path, reference={"model": {"factory": name}})
    with pytest.raises(ModelError, match=r"never run"):
        load_study(path, allow_code=True)
    with pytest.raises(ModelError, match=r"never run"):
        create_backbone(factory=name, num_classes=2, in_channels=1, size=(8, 8))


@pytest.mark.parametrize(
    "line",
    [
        "from torch.hub import load as make",
        "import functools, os\nmake = functools.partial(os.system, '')",
    ],
)
def test_f3_nor_under_another_name(tmp_path, monkeypatch, line):
    (tmp_path / "borrowed.py").write_text(line)
    monkeypatch.chdir(tmp_path)
    try:
        with pytest.raises(ModelError, match="never run"):
            create_backbone(factory="borrowed:make", num_classes=2, in_channels=1, size=(8, 8))
    finally:
        sys.modules.pop("borrowed", None)


def test_f3_timm_opens_no_file_that_arguments_name(tmp_path):
    with pytest.raises(ModelError, match=r"model\.checkpoint"):
        create_backbone(
            name="test_resnet", arguments={"checkpoint_path": str(tmp_path / "evil.pth")},
            num_classes=2, in_channels=1, size=(32, 32),
        )  # fmt: skip


def test_f3_a_candidate_folder_runs_no_code_unasked(tmp_path, marked):
    folder = saved(tmp_path / "mailed", "left_a_mark:make")
    with pytest.raises(ModelError, match=r"'left_a_mark:make'.*allow_code=True"):
        load_candidate(folder)
    assert not marked.exists()
    assert load_candidate(folder, allow_code=True).card.classes
    assert marked.exists()


def test_f3_permission_is_for_the_functions_that_were_named(tmp_path):
    folder = saved(tmp_path / "kept")
    assert TorchCandidate.load(folder, allow_code=(TINY,))
    with pytest.raises(ModelError, match="allow-code"):
        TorchCandidate.load(folder, allow_code=("other:make",))


def test_f3_a_teachers_folder_is_asked_for_too(tmp_path, phantoms):
    steps = [{"step": "distill", "student": "resnet18", "teachers": [str(saved(tmp_path / "t"))]}]
    changes = {"reference": {"model": "resnet18"}, "steps": steps}
    study = parse_study(tree(**changes))
    assert code_behind(study) == (TINY,)
    with pytest.raises(ModelError, match="'tiny_nets:make'"):
        run_study(study, phantoms, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    path = written(tmp_path, **changes)
    with pytest.raises(ModelError, match="'tiny_nets:make'"):
        load_study(path)


def test_f3_the_command_says_what_runs_before_it_runs(tmp_path, marked, phantoms):
    folder, here = saved(tmp_path / "mailed", "left_a_mark:make"), Path(__file__).resolve().parent
    command = [sys.executable, "-m", "clinipress", "evaluate", str(folder), str(phantoms), "--json"]
    paths = [str(here.parent / "src"), str(here / "nets")]
    environment = {"PYTHONPATH": ":".join(paths), "PATH": "", "HOME": str(tmp_path)}

    def ran(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    refused = ran()
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "running" not in refused.stderr
    assert not marked.exists()
    allowed = ran("--allow-code")  # its classes are not the phantoms': refused, after it was built
    assert marked.exists(), allowed.stderr
    first = allowed.stderr.splitlines()[0]
    assert first.startswith("running code of yours: 'left_a_mark:make'")
    assert str(tmp_path) in first


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "a\\b", "..", "a\nb", "\x1b[2Jx", ""])
@pytest.mark.parametrize("step", ["distill", "prune", "train", "qat", "shrink", "search"])
def test_f3_names_of_steps_stay_in_the_folder_and_the_line(name, step):
    with pytest.raises(RecipeError, match=r"steps\.0\.name"):
        parse_study(tree(steps=[{"step": step, "name": name}]))


def test_f3_names_of_phases_too():
    with pytest.raises(RecipeError, match=r"phases\.0\.name"):
        parse_study(tree(steps=[{"step": "shrink", "phases": [{"name": "../x"}]}]))


@pytest.mark.parametrize("name", ["student 2", "Schüler", "8-bit (fast)", "学生", "a.b+c"])
def test_names_of_many_tongues_are_names(name):
    assert parse_study(tree(steps=[{"step": "prune", "name": name}])).steps[0].name == name


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../b", "a\\..\\b", "x\x1b[2J"])
def test_f3_records_lead_out_of_no_folder(tmp_path, name):
    with pytest.raises(InputError, match="inside"):
        below(tmp_path, name)


def test_f3_an_external_sets_name_stays_in_the_run(finished, phantoms):
    from clinipress.study.external import evaluate_run

    with pytest.raises(InputError, match=r"'\.\./\.\./x"):
        evaluate_run(finished[0], phantoms, name="../../x")


def test_f3_a_run_folder_that_names_files_elsewhere(finished, phantoms, tmp_path):
    from clinipress.study.external import evaluate_run

    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    record = json.loads((run / "result.json").read_text())
    for row in record["candidates"]:
        row["path"] = str(saved(tmp_path / row["name"]))
    (run / "result.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="inside"):
        evaluate_run(run, phantoms)


def test_weights_are_still_checked_where_code_is_allowed(tmp_path):
    folder = saved(tmp_path)
    card = json.loads((folder / "card.json").read_text())
    card["model"]["arguments"] = {"width": 8}
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="changed"):
        TorchCandidate.load(folder, allow_code=True)
