"""A study's images: all of them, or a sample for a trial."""

from collections import Counter
from pathlib import Path

import pytest

from clinipress.data import study
from clinipress.data.layouts.items import Dataset, drawn
from clinipress.data.sources import read_dataset
from clinipress.data.study import open_study_data
from clinipress.recipe.study import DataRecipe
from clinipress.records.item import ImageItem
from clinipress.records.store import Store

COUNTS = {"common": 700, "rare": 290, "single": 10}


def dataset():
    items = [
        ImageItem(f"{label}/{number}", Path(f"{label}/{number}"), label)
        for label, count in COUNTS.items()
        for number in range(count)
    ]
    return Dataset(Path(), "class folders", tuple(COUNTS), tuple(items))


@pytest.mark.parametrize("count", [20, 100, 333, 999])
def test_a_sample_keeps_the_classes_shares(count):
    found = Counter(item.label for item in drawn(dataset(), count, 0).items)
    for label, whole in COUNTS.items():
        assert found[label] >= 1
        assert abs(found[label] - count * whole / 1000) <= 1


def test_a_sample_depends_on_the_seed_alone_and_keeps_the_order():
    whole = dataset()
    first, again, other = (drawn(whole, 100, seed).items for seed in (0, 0, 1))
    assert first == again
    assert first != other
    places = [whole.items.index(item) for item in first]
    assert places == sorted(places)


def test_a_sample_as_large_as_the_set_is_the_set():
    whole = dataset()
    assert drawn(whole, 1000, 0) is whole
    assert drawn(whole, 5000, 0) is whole


def test_a_study_of_a_sample_says_so(phantoms, tmp_path):
    def opened(name, sample):
        return open_study_data(phantoms, DataRecipe(sample=sample), Store(tmp_path / name), seed=0)

    count = len(read_dataset(phantoms).items)
    trial, whole, large = (opened(*one) for one in (("a", 60), ("b", None), ("c", count)))
    assert trial.audit.images == len(trial.dataset.items)
    assert abs(trial.audit.images - 60) <= 2
    assert sum(map(len, (trial.split.keys("train"), trial.split.keys("validation")))) < 60
    told = f"A trial: {trial.audit.images} of {count} images, drawn by class"
    assert trial.audit.warnings[0] == told
    assert (trial.audit.trial_of, whole.audit.trial_of, large.audit.trial_of) == (count, None, None)
    assert whole.audit.images == large.audit.images == count
    assert not any("trial" in warning for warning in (*whole.audit.warnings, *large.audit.warnings))
    assert opened("a", 60).dataset == trial.dataset
    assert len({trial.digest, whole.digest}) == 2
    assert whole.digest == large.digest


def test_another_reading_of_files_makes_everything_anew(phantoms, tmp_path, monkeypatch):
    """All but the split: it must not put images that were trained on into the test split."""

    def opened():
        store = Store(tmp_path / "run")
        data = open_study_data(phantoms, DataRecipe(), store, seed=0)
        return data, {p.name for p in (tmp_path / "run" / "objects").glob("audit-*")}

    before, audits = opened()
    digests = before.digest, before.test_digest
    assert opened()[1] == audits
    monkeypatch.setattr(study, "READING", 99)
    after, more = opened()
    assert not {after.digest, after.test_digest} & set(digests)
    assert after.split.assignment == before.split.assignment
    assert len(more) == len(audits) + 1
