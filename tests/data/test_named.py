"""Named sets in their published layouts (SYNTHETIC trees), and the real copies at hand."""

import hashlib
import http.server
import json
import sys
import threading
import zipfile
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from clinipress.cli.named import show_prepared
from clinipress.data.named import prepare as module
from clinipress.data.named.catalogue import find_set
from clinipress.data.named.fetch import NOT_KNOWN, Download
from clinipress.data.named.prepare import differences, list_sets, prepare
from clinipress.data.named.sets import ALL_SPLITS
from clinipress.data.named.tables import read_masks
from clinipress.data.named.workbook import read_workbook
from clinipress.data.splits import make_split
from clinipress.errors import DataError, MissingExtraError
from clinipress.recipe.study import SplitRecipe
from kit import named_trees as trees

CHEST = {
    "Data/train/adenocarcinoma_left.lower.lobe_T2_N0_M0_Ib": 3,
    "Data/train/large.cell.carcinoma_left.hilum_T2_N2_M0_IIIa": 2,
    "Data/train/normal": 2,
    "Data/train/squamous.cell.carcinoma_left.hilum_T1_N2_M0_IIIa": 1,
    "Data/valid/normal": 1,
    "Data/test/adenocarcinoma": 2,
    "Data/test/normal": 1,
}
CHEST_COUNTS = {
    "train": {
        "adenocarcinoma": 3,
        "large.cell.carcinoma": 2,
        "normal": 2,
        "squamous.cell.carcinoma": 1,
    },
    "validation": {"normal": 1},
    "test": {"adenocarcinoma": 2, "normal": 1},
}


@pytest.fixture
def as_published(monkeypatch):
    """Let `prepare` take other facts for a set: its counts as small as the drawn tree."""

    def use(facts):
        monkeypatch.setattr(module, "find_set", lambda _: facts)

    return use


def kept_together(dataset, kind, unit=None):
    """Split the set as a study would, for several seeds; no unit may lie on two sides."""
    keys = tuple(item.key for item in dataset.items)
    prints = SimpleNamespace(keys=keys, readable=[True] * len(keys), clusters=np.arange(len(keys)))
    unit = unit or {item.key: item.unit(kind) for item in dataset.items}
    for seed in range(5):
        split = make_split(dataset, prints, SplitRecipe(), seed)
        assert split.by == kind
        sides = {}
        for key, side in split.assignment.items():
            sides.setdefault(unit[key], set()).add(side)
        assert all(len(found) == 1 for found in sides.values())


def test_long_and_short_class_names_are_one_class(tmp_path, as_published):
    trees.class_tree(tmp_path, CHEST)
    as_published(trees.small("chest-ctscan", CHEST_COUNTS))
    got = prepare("chest-ctscan", tmp_path)
    assert (got.status, got.differences, got.counts) == ("complete", (), CHEST_COUNTS)
    dataset = got.dataset()
    assert dataset.classes == find_set("chest-ctscan").classes
    assert len(dataset.items) == 12
    assert dataset.items[0].key == "Data/test/adenocarcinoma/im (0).png"
    assert got.steps == ()


def test_what_is_missing_or_too_many_is_named_and_the_rest_used(tmp_path, as_published):
    trees.class_tree(tmp_path, CHEST)
    as_published(trees.small("chest-ctscan", CHEST_COUNTS))
    (tmp_path / "Data/train/normal/im (0).png").unlink()
    got = prepare("chest-ctscan", tmp_path)
    assert (got.status, got.differences) == ("partial", ("normal of train: 1 of 2, 1 missing",))
    assert len(got.dataset().items) == 11
    assert any("chest-ctscan-images" in step for step in got.steps)
    trees.picture(tmp_path / "Data/valid/normal/more.png", 99)
    got = prepare("chest-ctscan", tmp_path)
    assert got.status == "different"
    assert "normal of validation: 2 of 1, 1 too many" in got.differences


def test_two_copies_are_refused_and_nested_ones_are_one(tmp_path):
    trees.class_tree(tmp_path, {"a/COVID": 1, "b/COVID": 1, "a/non-COVID": 1})
    with pytest.raises(DataError, match="one folder for 'COVID'"):
        prepare("sars-cov-2-ct", tmp_path)
    trees.class_tree(tmp_path / "c", {"COVID/COVID": 2, "non-COVID/non-COVID": 3})
    got = prepare("sars-cov-2-ct", tmp_path / "c")
    assert got.counts == {ALL_SPLITS: {"COVID": 2, "non-COVID": 3}}
    assert "COVID: 2 of 1,252, 1,250 missing" in got.differences


@pytest.mark.parametrize(
    ("count", "status"), [(1, "partial"), (2, "complete"), (3, "complete"), (4, "different")]
)
def test_where_the_sources_disagree_either_number_is_right(count, status):
    facts = trees.small("sars-cov-2-ct", {ALL_SPLITS: {"COVID": 1, "non-COVID": (2, 3)}})
    assert differences(facts, {ALL_SPLITS: {"COVID": 1, "non-COVID": count}})[0] == status


def test_bhuvaji_and_nickparvar_are_not_taken_for_each_other(tmp_path):
    trees.class_tree(
        tmp_path, {"Training/glioma_tumor": 2, "Training/no_tumor": 1, "Testing/no_tumor": 1}
    )
    assert prepare("brain-mri", tmp_path).counts["train"] == {"glioma_tumor": 2, "no_tumor": 1}
    assert prepare("nickparvar", tmp_path).status == "absent"
    other = tmp_path / "n"
    trees.class_tree(other, {"Training/notumor": 2, "Training/glioma": 1, "Testing/pituitary": 1})
    assert prepare("nickparvar", other).counts["train"] == {"glioma": 1, "notumor": 2}
    assert prepare("brain-mri", other).status == "absent"


def test_covid_qu_ex_has_no_mask_among_its_images_and_offers_them(tmp_path, as_published):
    trees.qu_ex(tmp_path)
    counts = {ALL_SPLITS: dict.fromkeys(("COVID-19", "Non-COVID", "Normal"), 6)}
    as_published(trees.small("covid-qu-ex", counts))
    got = prepare("covid-qu-ex", tmp_path)
    assert got.status == "complete"
    dataset = got.dataset()
    assert len(dataset.items) == 18
    assert {item.split for item in dataset.items} == {"train", "validation", "test"}
    assert not any("mask" in item.key for item in dataset.items)
    assert not any("Infection" in item.key for item in dataset.items)
    masks = read_masks(got.masks)
    assert set(masks) == {item.key for item in dataset.items}
    assert all(
        m["lung"].is_file() and m["lung"].parent.name == "lung masks" for m in masks.values()
    )
    infected = [m["infection"] for m in masks.values() if "infection" in m]
    # nine pictures are in both parts, of which one is not the same picture
    assert len(infected) == 8
    assert all(path.parent.name == "infection masks" for path in infected)
    assert any("1 infection masks left out" in note for note in got.notes)
    told = show_prepared(got)
    assert f"put into the study, under evidence: masks: {got.masks}" in told
    assert "and mask_kind: infection or lung" in told


def test_lc25000_siblings_never_cross(tmp_path, as_published):
    trees.lc25000(tmp_path)
    classes = find_set("lc25000").classes
    as_published(trees.small("lc25000", {ALL_SPLITS: dict.fromkeys(classes, 6)}, units=10))
    got = prepare("lc25000", tmp_path)
    assert got.status == "complete"
    dataset = got.dataset()
    assert len({item.unit("tile") for item in dataset.items}) == 10
    assert {item.patient for item in dataset.items} == {None}
    assert dataset.group_columns == ("tissue",)


def test_lc25000_is_dealt_by_tile(tmp_path):
    """Three tiles a class at least, so that each split can have each class."""
    table = trees.lc25000(tmp_path, siblings=6)
    lines = table.read_text().splitlines()
    # six siblings of two tiles become three tiles of four
    regrouped = [lines[0]]
    for n, line in enumerate(lines[1:]):
        cells = line.split(",")
        regrouped.append(",".join([*cells[:5], str(n // 4)]))
    table.write_text("\n".join(regrouped) + "\n")
    dataset = prepare("lc25000", tmp_path).dataset()
    assert len({item.unit("tile") for item in dataset.items}) == 15
    kept_together(dataset, "tile")
    with pytest.raises(AssertionError):  # the checker can fail: a tile larger than what is kept
        kept_together(dataset, "tile", dict.fromkeys((item.key for item in dataset.items), "one"))


def test_lc25000_without_groups_is_not_used(tmp_path):
    trees.lc25000(tmp_path).unlink()
    got = prepare("lc25000", tmp_path)
    assert (got.status, got.source) == ("absent", None)
    assert "30 images, none of them used" in got.notes[0]
    assert "lc25000_image_groups.csv" in got.steps[0]
    assert "kaggle.com/datasets/andrewmvd/lung-and-colon" in got.steps[1]
    with pytest.raises(DataError, match="images of lc25000"):
        got.dataset()


def test_lc25000_groups_that_cannot_be_right(tmp_path):
    table = trees.lc25000(tmp_path)
    text = table.read_text()
    table.write_text("\n".join(text.splitlines()[:-1]) + "\n")
    got = prepare("lc25000", tmp_path)
    assert got.notes == (
        "1 images left out: their tile is not known, so a sibling could be anywhere",
    )
    assert len(got.dataset().items) == 29
    table.write_text(
        text.replace("lungn,lungn.jpeg", "x").replace("lung_scc,lung,1,9", "lung_scc,lung,1,0")
    )
    with pytest.raises(DataError, match="one class per tile"):
        prepare("lc25000", tmp_path)


@pytest.mark.parametrize(
    "name", ["HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata"]
)
def test_ham10000_with_its_lesions(tmp_path, as_published, name):
    table = trees.ham10000(tmp_path)
    text = table.read_text()
    table.unlink()
    (tmp_path / name).write_text(text.replace(",", "\t") if name.endswith("tab") else text)
    as_published(trees.small("ham10000", {ALL_SPLITS: {"mel": 2, "nv": 2}}, units=3))
    got = prepare("ham10000", tmp_path)
    assert got.status == "complete"
    assert got.notes == (f"1 rows of {name} have no image",)
    items = {item.path.stem: item for item in got.dataset().items}
    assert items["ISIC_1"].unit("lesion") == items["ISIC_2"].unit("lesion") == "HAM_1"
    assert items["ISIC_1"].patient is None
    assert items["ISIC_3"].groups == {"dx_type": "histo", "sex": "female", "localization": "face"}


def test_ham10000_with_its_images_twice_as_one_copy_has_them(tmp_path):
    trees.ham10000(tmp_path)
    for number, name in enumerate(("ISIC_1", "ISIC_3")):
        trees.picture(tmp_path / "ham10000_images" / f"{name}.jpg", number)
    got = prepare("ham10000", tmp_path)
    assert len(got.dataset().items) == 4
    assert any("2 images lie in two folders" in note for note in got.notes)
    assert "3 lesions of 7,470" in got.differences


def test_covid_ct_as_published(tmp_path):
    trees.covid_ct(tmp_path)
    got = prepare("covid-ct", tmp_path)
    items = {item.path.name: item for item in got.dataset().items}
    assert len(items) == 7
    assert items["2020.02.13-p13-77%0.png"].patient == "Patient 12"
    assert items["2020.02.13-p13-77%1.png"].groups == {"age": "36", "sex": "F"}
    assert items["1%0.jpg"].unit("figure") == items["1%1.jpg"].unit("figure") == "1"
    assert items["b.png"].split == "validation"
    assert items["2.jpg"].split == "test"
    assert items["unlisted.jpg"].split is None
    assert any("1 images are in none of the lists" in note for note in got.notes)
    assert any("5 images without patient" in note for note in got.notes)


def test_figshare_is_converted_once_with_patients_and_masks(tmp_path, as_published):
    pytest.importorskip("h5py")
    images = {}
    for number, (label, patient) in enumerate(
        [(1, "100360"), (1, "100360"), (2, "MR0172"), (3, "99")], start=1
    ):
        folder = "brainTumorDataPublic_1-766" if number < 3 else "b"
        images[number] = trees.matlab(
            tmp_path / folder / f"{number}.mat", label=label, patient=patient, seed=number
        )
    (tmp_path / "cvind.mat").write_bytes(b"not read")
    counts = {ALL_SPLITS: {"glioma": 1, "meningioma": 2, "pituitary": 1}}
    as_published(trees.small("figshare-brain", counts, units=3))
    got = prepare("figshare-brain", tmp_path)
    assert got.status == "complete"
    dataset = got.dataset()
    items = {item.key: item for item in dataset.items}
    assert list(items) == [
        "images/glioma/3.png",
        "images/meningioma/1.png",
        "images/meningioma/2.png",
        "images/pituitary/4.png",
    ]
    assert [item.patient for item in dataset.items] == ["MR0172", "100360", "100360", "99"]
    masks = read_masks(got.masks)
    for number, image in images.items():
        key = next(key for key in items if key.endswith(f"/{number}.png"))
        stored = np.asarray(Image.open(items[key].path)).astype(np.int64)
        np.testing.assert_array_equal(stored, image)  # every stored value, the right way up
        mask = np.asarray(Image.open(masks[key]["tumour"]))
        np.testing.assert_array_equal(mask, (image > 2000) * 255)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")}
    prepare("figshare-brain", tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")} == before


@pytest.mark.parametrize("damage", ["text", "label", "no patient", "shape"])
def test_a_damaged_matlab_file_is_left_out_and_counted(tmp_path, damage):
    h5py = pytest.importorskip("h5py")
    trees.matlab(tmp_path / "1.mat", label=1, patient="a", seed=1)
    trees.matlab(tmp_path / "2.mat", label=2, patient="b", seed=2, mask=False)
    trees.matlab(tmp_path / "3.mat", label=7 if damage == "label" else 2, patient="c", seed=3)
    if damage == "text":
        (tmp_path / "3.mat").write_bytes(b"MATLAB 5.0")
    elif damage != "label":
        name, value = (
            ("PID", np.zeros((0, 1))) if damage == "no patient" else ("image", np.zeros(5))
        )
        with h5py.File(tmp_path / "3.mat", "a") as file:
            del file[f"cjdata/{name}"]
            file[f"cjdata/{name}"] = value
    got = prepare("figshare-brain", tmp_path)
    assert got.notes == ("1 files could not be read, first 3.mat",)
    assert len(got.dataset().items) == 2


def test_figshare_without_h5py_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "1.mat").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"MATLAB v7\.3"):
        prepare("figshare-brain", tmp_path)


def npz(path, labels=9, sizes=(12, 4, 5)):
    arrays = {}
    for part, n in zip(("train", "val", "test"), sizes, strict=True):
        arrays[f"{part}_images"] = np.zeros((n, 4, 4, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(n).reshape(-1, 1) % labels
    np.savez(path, **arrays)


def test_medmnist_by_name_with_the_names_of_its_classes(tmp_path, as_published):
    npz(tmp_path / "pathmnist.npz")
    counts = {s: {ALL_SPLITS: n} for s, n in (("train", 12), ("validation", 4), ("test", 5))}
    as_published(trees.small("pathmnist", counts))
    got = prepare("pathmnist", tmp_path)
    assert (got.status, got.source) == ("complete", tmp_path / "pathmnist.npz")
    assert got.dataset().items[0].label == "adipose"
    assert set(got.dataset().classes) == set(find_set("pathmnist").labels)
    npz(tmp_path / "pathmnist.npz", labels=10, sizes=(11, 4, 5))
    got = prepare("pathmnist", tmp_path)
    assert got.status == "different"
    assert got.differences == ("train: 11 of 12, 1 missing", "labels without a name: ['9']")


def test_nothing_there_says_exactly_what_to_do(tmp_path):
    got = prepare("figshare-brain", tmp_path / "none")
    assert (got.status, got.source) == ("absent", None)
    assert len(got.steps) == 6
    assert got.steps[0] == (
        "download https://ndownloader.figshare.com/files/3381290 as "
        f"{tmp_path / 'none' / 'brainTumorDataPublic_1-766.zip'} (sha256 "
        "cdac0a7f4152cb34dd79b13543da96c37a6928ad8cb823e2662150b1a73ade54)"
    )
    assert not (tmp_path / "none").exists()
    step = prepare("covid-qu-ex", tmp_path).steps[0]
    assert "version 7 has sha256 2a91b372" in step
    assert "https://www.kaggle.com/datasets/anasmohammedtahir/covidqu with" in step
    assert NOT_KNOWN in prepare("nickparvar", tmp_path).steps[0]
    json.dumps(got.as_facts(), allow_nan=False)


def test_nothing_is_fetched_unasked(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("fetched without being asked")

    monkeypatch.setattr(module, "download", never)
    monkeypatch.setattr(module, "from_kaggle", never)
    for facts in module.SETS:
        assert prepare(facts.name, tmp_path).status == "absent"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AssertionError, match="without being asked"):  # the checker can fail
        prepare("ham10000", tmp_path, fetch=True)


def packed(folder, names):
    """One archive per name of the folder's content."""
    for name, inner in names.items():
        with zipfile.ZipFile(folder / name, "w") as archive:
            for path in sorted((folder / inner).rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(folder / inner).as_posix())


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A local server of the files in a folder."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "shelf"
    folder.mkdir()
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def ham_on(shelf):
    """HAM10000's facts with addresses of the local server."""
    folder, url = shelf
    trees.ham10000(folder)
    parts = {f"HAM10000_images_part_{n}.zip": f"HAM10000_images_part_{n}" for n in (1, 2)}
    packed(folder, parts)
    files = tuple(Download(n, f"{url}/{n}") for n in (*parts, "HAM10000_metadata.csv"))
    return trees.small("ham10000", {ALL_SPLITS: {"mel": 2, "nv": 2}}, units=3, files=files)


def test_fetched_unpacked_and_recorded(tmp_path, shelf, as_published):
    as_published(ham_on(shelf))
    home = tmp_path / "home"
    assert prepare("ham10000", home).status == "absent"
    got = prepare("ham10000", home, fetch=True)
    assert got.status == "complete"
    assert {one["checked"] for one in got.received} == {NOT_KNOWN}
    assert all(len(one["sha256"]) == 64 for one in got.received)
    assert [one["name"] for one in json.loads((home / "ham10000.received.json").read_text())] == [
        "HAM10000_images_part_1.zip", "HAM10000_images_part_2.zip", "HAM10000_metadata.csv",
    ]  # fmt: skip
    again = prepare("ham10000", home)
    assert (again.status, again.received) == ("complete", got.received)


def test_archives_put_there_by_hand_are_unpacked_as_they_come(tmp_path, shelf, as_published):
    as_published(ham_on(shelf))
    home, (folder, _) = tmp_path / "home", shelf
    home.mkdir()
    for name, status in (
        ("HAM10000_metadata.csv", "absent"),
        ("HAM10000_images_part_1.zip", "partial"),
        ("HAM10000_images_part_2.zip", "complete"),
    ):
        (home / name).write_bytes((folder / name).read_bytes())
        assert prepare("ham10000", home).status == status


def test_an_archive_beside_what_was_unpacked_by_hand_makes_no_second_copy(tmp_path, as_published):
    trees.class_tree(tmp_path, CHEST)
    packed(tmp_path, {"archive.zip": "Data"})
    more = {**CHEST_COUNTS, "train": {**CHEST_COUNTS["train"], "normal": 5}}
    as_published(trees.small("chest-ctscan", more))
    got = prepare("chest-ctscan", tmp_path)
    assert (got.status, len(got.dataset().items)) == ("partial", 12)
    assert not (tmp_path / "archive").exists()


def test_an_archive_from_a_browser_is_unpacked_and_its_checksum_kept(tmp_path, as_published):
    trees.class_tree(tmp_path / "made", CHEST)
    home = tmp_path / "home"
    home.mkdir()
    packed(tmp_path, {"home/archive.zip": "made"})
    as_published(trees.small("chest-ctscan", CHEST_COUNTS))
    got = prepare("chest-ctscan", home)
    assert (got.status, got.received[0]["checked"]) == ("complete", NOT_KNOWN)
    assert got.dataset().items[0].key.startswith("archive/Data/test/")


@pytest.mark.parametrize("same", [True, False])
def test_an_archive_of_kaggle_is_compared_with_the_version_that_is_pinned(
    tmp_path, as_published, same
):
    trees.qu_ex(tmp_path / "made")
    home = tmp_path / "home"
    home.mkdir()
    packed(tmp_path, {"home/archive.zip": "made"})
    digest = hashlib.sha256((home / "archive.zip").read_bytes()).hexdigest()
    counts = {ALL_SPLITS: dict.fromkeys(("COVID-19", "Non-COVID", "Normal"), 6)}
    as_published(trees.small("covid-qu-ex", counts, archive_sha256=digest if same else "0" * 64))
    got = prepare("covid-qu-ex", home)
    assert got.status == "complete"
    said = "sha256" if same else "another version than the one pinned"
    assert got.received[0]["checked"] == said


def test_the_groups_of_lc25000_are_fetched_beside_images_that_are_there(
    tmp_path, shelf, as_published, monkeypatch
):
    folder, url = shelf
    home = tmp_path / "home"
    table = trees.lc25000(home)
    table.rename(folder / table.name)
    monkeypatch.setattr(module, "from_kaggle", lambda *_: pytest.fail("the images are there"))
    classes = find_set("lc25000").classes
    counts = {ALL_SPLITS: dict.fromkeys(classes, 6)}
    files = (Download(table.name, f"{url}/{table.name}"),)
    as_published(trees.small("lc25000", counts, units=10, files=files))
    assert prepare("lc25000", home).status == "absent"
    assert prepare("lc25000", home, fetch=True).status == "complete"


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a folder for brain-mri"):
        prepare("brain-mri", tmp_path / "file")


def test_what_is_shown_has_every_fact(tmp_path, as_published):
    trees.class_tree(tmp_path, {**CHEST, "Data/valid/normal": 3})
    as_published(trees.small("chest-ctscan", CHEST_COUNTS))
    text = "\n".join(show_prepared(prepare("chest-ctscan", tmp_path)))
    facts = find_set("chest-ctscan")
    for said in (*facts.defects, facts.licence, facts.citation, facts.page):
        assert said in text
    assert "normal of validation: 3 of 1, 2 too many" in text
    assert f"next: clinipress audit {tmp_path / 'chest-ctscan-images.manifest.csv'}" in text
    absent = "\n".join(show_prepared(prepare("chest-ctscan", tmp_path / "none")))
    assert "  1. download https://www.kaggle.com" in absent
    assert facts.layout in absent


def test_medmnist_shows_the_class_map_a_study_needs(tmp_path):
    npz(tmp_path / "pathmnist.npz")
    got = prepare("pathmnist", tmp_path)
    line = next(line for line in show_prepared(got) if "class_map" in line)
    assert json.loads(line.split("class_map: ")[1]) == dict(got.class_map)
    assert [one["name"] for one in list_sets()] == [one.name for one in module.SETS]


def test_a_wrong_archive_is_refused_before_it_is_unpacked(tmp_path, shelf, as_published):
    facts = ham_on(shelf)
    wrong = replace(facts.files[0], sha256="0" * 64)
    as_published(replace(facts, files=(wrong, *facts.files[1:])))
    with pytest.raises(DataError, match="0000"):
        prepare("ham10000", tmp_path / "home", fetch=True)
    assert not (tmp_path / "home" / "HAM10000_images_part_1").exists()


def test_from_kaggle_only_when_asked_and_into_its_own_folder(tmp_path, monkeypatch, as_published):
    calls = []

    def from_kaggle(handle, folder):
        calls.append(handle)
        trees.class_tree(folder, CHEST)
        return folder

    monkeypatch.setattr(module, "from_kaggle", from_kaggle)
    as_published(trees.small("chest-ctscan", CHEST_COUNTS))
    got = prepare("chest-ctscan", tmp_path, fetch=True)
    assert (got.status, calls) == ("complete", ["mohamedhanyyy/chest-ctscan-images"])
    assert got.received[0]["url"] == "kaggle: mohamedhanyyy/chest-ctscan-images"
    assert prepare("chest-ctscan", tmp_path, fetch=True).status == "complete"
    assert len(calls) == 1


def test_a_folder_moved_afterwards_still_reads(tmp_path):
    trees.class_tree(tmp_path / "a", CHEST)
    got = prepare("chest-ctscan", tmp_path / "a")
    keys = [item.key for item in got.dataset().items]
    (tmp_path / "a").rename(tmp_path / "b")
    moved = prepare("chest-ctscan", tmp_path / "b")
    assert [item.key for item in moved.dataset().items] == keys


def test_a_manifest_that_cannot_be_written(tmp_path):
    trees.class_tree(tmp_path, CHEST)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a folder for the manifest"):
        prepare("chest-ctscan", tmp_path, manifest=tmp_path / "file" / "m.csv")


def test_a_table_that_is_not_text_is_one_line(tmp_path):
    (tmp_path / "HAM10000_metadata.csv").write_bytes(b"image_id,dx\n\xff\xfe\x00,nv\n")
    with pytest.raises(DataError, match="a table in UTF-8"):
        prepare("ham10000", tmp_path)


def test_folders_too_deep_for_any_layout_are_not_entered(tmp_path):
    deep = tmp_path.joinpath(*"abcdefghij")
    trees.class_tree(deep, {"COVID": 1, "non-COVID": 1})
    assert prepare("sars-cov-2-ct", tmp_path).status == "absent"
    assert prepare("sars-cov-2-ct", deep).status == "partial"


@pytest.mark.parametrize("shared", [True, False])
def test_a_workbook_is_read_as_it_looks(tmp_path, shared):
    rows = [["name", "age", "note"], ["a & b", 36.0, None], ["c", 4.5, "36.0"]]
    path = trees.workbook(tmp_path / "a.xlsx", rows, shared=shared)
    assert read_workbook(path) == [
        {"name": "a & b", "age": "36"},
        {"name": "c", "age": "4.5", "note": "36.0"},
    ]


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(18)])
def test_a_workbook_that_is_none(tmp_path, content):
    path = tmp_path / "a.xlsx"
    path.write_bytes(content)
    if content.startswith(b"PK"):
        assert read_workbook(path) == []
    else:
        with pytest.raises(DataError, match="workbook"):
            read_workbook(path)


def test_a_table_of_masks_that_is_none(tmp_path):
    (tmp_path / "m.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="image, kind and mask"):
        read_masks(tmp_path / "m.csv")
    with pytest.raises(DataError, match="image, kind and mask"):
        read_masks(tmp_path / "none.csv")


# the real copies; their README says how they differ from what was published


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "folder", "status", "images", "lines"),
    [
        ("brain-mri", "brain-mri", "complete", 3264, ()),
        ("covid-ct", "covid-ct", "complete", 746, ()),
        (
            "chest-ctscan-images",
            "chest-ctscan",
            "partial",
            944,
            (
                "adenocarcinoma of test: 92 of 120, 28 missing",
                "squamous.cell.carcinoma of test: 62 of 90, 28 missing",
            ),
        ),
        ("ham10000", "ham10000", "partial", 5984, None),
    ],
)
def test_the_real_sets(realdata, tmp_path, name, folder, status, images, lines):
    got = prepare(name, realdata / folder, manifest=tmp_path / "m.csv")
    assert got.status == status
    assert lines is None or got.differences == lines
    dataset = got.dataset()
    assert len(dataset.items) == images
    assert dataset.classes == find_set(name).classes


@pytest.mark.realdata
def test_the_real_ham10000_says_how_much_is_missing(realdata, tmp_path):
    got = prepare("ham10000", realdata / "ham10000", manifest=tmp_path / "m.csv")
    assert got.differences[-1] == "5,984 lesions of 7,470"
    assert "df: 60 of 115, 55 missing" in got.differences


@pytest.mark.realdata
def test_the_real_covid_ct_keeps_patients_whole(realdata, tmp_path):
    dataset = prepare("covid-ct", realdata / "covid-ct", manifest=tmp_path / "m.csv").dataset()
    assert len({item.patient for item in dataset.items}) == 384
    kept_together(dataset, "patient")
