"""The facts of the named sets: sums against the figures that the papers and pages state."""

import importlib
import json
import re

import pytest

from clinipress.data.named import medmnist
from clinipress.data.named.catalogue import SETS, find_set
from clinipress.data.named.layouts import _READERS
from clinipress.data.named.prepare import list_sets
from clinipress.errors import DataError

# name -> images, classes, units: as stated in one sentence by the publishers
STATED = {
    "chest-ctscan-images": (1000, 4, None),
    "sars-cov-2-ct": (2481, 2, None),
    "covid-ct": (746, 2, None),
    "brain-mri": (3264, 4, None),
    "nickparvar": (7023, 4, None),
    "figshare-brain": (3064, 3, 233),
    "covid-qu-ex": (33920, 3, None),
    "lc25000": (25000, 5, 1246),
    "ham10000": (10015, 7, 7470),
    # Yang et al. 2023, table 2
    "pathmnist": (107180, 9, None),
    "dermamnist": (10015, 7, None),
    "octmnist": (109309, 4, None),
    "pneumoniamnist": (5856, 2, None),
    "retinamnist": (1600, 5, None),
    "breastmnist": (780, 2, None),
    "bloodmnist": (17092, 8, None),
    "tissuemnist": (236386, 8, None),
    "organamnist": (58830, 11, None),
    "organcmnist": (23583, 11, None),
    "organsmnist": (25211, 11, None),
}
SPLITS = {
    "chest-ctscan-images": {"train": 613, "validation": 72, "test": 315},
    "covid-ct": {"train": 425, "validation": 118, "test": 203},
    "brain-mri": {"train": 2870, "test": 394},
    "nickparvar": {"train": 5712, "test": 1311},
}


def test_counts_add_up_to_what_the_publishers_say():
    assert {s.name: (s.images, len(s.classes), s.units) for s in SETS} == STATED


@pytest.mark.parametrize("name", SPLITS)
def test_splits_add_up_too(name):
    counts = find_set(name).counts
    assert {split: sum(part.values()) for split, part in counts.items()} == SPLITS[name]


def test_the_sources_disagree_about_one_image_and_either_is_right():
    assert find_set("sars-cov-2-ct").counts[""]["non-COVID"] == (1229, 1230)


@pytest.mark.parametrize("one", SETS, ids=lambda one: one.name)
def test_every_set_says_all_that_must_be_known(one):
    assert one.licence
    assert one.citation
    assert one.page.startswith("https://")
    assert one.layout
    assert one.defects
    assert one.files or one.kaggle
    assert one.adapter in {*_READERS, "figshare", "medmnist"}
    for file in one.files:
        assert file.url.startswith("https://")
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.md5 is None or re.fullmatch("[0-9a-f]{32}", file.md5)
    assert find_set(one.name) == one
    assert {label for _, label in one.folders.values()} <= set(one.classes)


def test_no_name_leads_to_two_sets():
    names = [name for one in SETS for name in (one.name, *one.aliases)]
    assert len(names) == len(set(names))


def test_the_list_is_json():
    rows = json.loads(json.dumps(list_sets(), allow_nan=False))
    assert [row["name"] for row in rows] == list(STATED)
    assert rows[1]["counts"]["all"]["non-COVID"] == [1229, 1230]
    assert {row["fetch"] for row in rows} == {"direct", "kagglehub"}


@pytest.mark.parametrize("name", ["COVIDQU", "Brain_MRI", "chest-ctscan", "PathMNIST", "Bhuvaji"])
def test_names_are_found_however_they_are_written(name):
    assert find_set(name).name in STATED


def test_medmnist_with_more_pixels():
    one = find_set("pathmnist-224")
    assert one.files[0].name == "pathmnist_224.npz"
    assert one.files[0].md5 == "2c51a510bcdc9cf8ddb2af93af1eadec"
    assert (
        one.files[0].url == "https://zenodo.org/records/10519652/files/pathmnist_224.npz?download=1"
    )
    assert find_set("pathmnist_28") == find_set("pathmnist") != one
    sums = [md5 for subset in medmnist.SUBSETS for md5 in subset.md5]
    assert len(sums) == len(set(sums)) == 44


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chestmnist", "several findings"),
        ("medmnist", "name one of"),
        ("no", "one of chest"),
        ("pathmnist-225", "one of chest"),
        ("nomnist-28", "one of chest"),
    ],
)
def test_a_name_that_is_none_is_one_line(name, said):
    with pytest.raises(DataError, match=said):
        find_set(name)


def test_the_facts_are_those_of_the_medmnist_package():
    info = importlib.import_module("medmnist.info").INFO  # the name is also our module's
    for one in medmnist.SUBSETS:
        said = info[one.name]
        names = [said["label"][str(n)] for n in range(len(one.labels))]
        plain = [label.removeprefix("grade ") for label in one.labels]
        assert plain == names
        assert list(one.images.values()) == list(said["n_samples"].values())
        assert one.md5 == tuple(said[k] for k in ("MD5", "MD5_64", "MD5_128", "MD5_224"))
        assert one.licence == said["license"]
        assert one.download(64).url == said["url_64"]
