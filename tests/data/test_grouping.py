import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from clinipress.data.grouping import (
    class_counts,
    components,
    deal,
    merge,
    numbered,
    shuffled_by_key,
)

edges = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=60)
    )
)


@given(edges)
@settings(max_examples=100, deadline=None)
def test_components_as_scipy(graph):
    n, pairs = graph
    a, b = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
    _, expected = connected_components(coo_matrix((np.ones(len(a)), (a, b)), (n, n)), False)
    found = components(n, a, b)
    # the same partition: equal names within one are equal names within the other
    assert len({*zip(found.tolist(), expected.tolist(), strict=True)}) == expected.max() + 1
    assert len(np.unique(found)) == expected.max() + 1
    assert (found <= np.arange(n)).all()


def test_components_of_a_long_chain():
    n = 5000
    order = np.random.default_rng(0).permutation(n)
    assert (components(n, order[:-1], order[1:]) == 0).all()


def test_merge_keeps_together_what_any_labeling_joins():
    patients = np.array([0, 0, 1, -1, -1, 2])
    clusters = np.array([0, 1, 1, 2, 3, 3])
    assert merge(clusters, patients).tolist() == [0, 0, 0, 1, 2, 2]


def test_unknown_links_with_nothing():
    unknown = np.full(4, -1)
    assert merge(unknown, unknown).tolist() == [0, 1, 2, 3]
    assert numbered([None, "x", None]).tolist() == [-1, 0, -1]


def test_class_counts():
    found = class_counts(np.array([0, 0, 1, 2]), np.array([1, 1, 0, 1]), 2)
    assert found.tolist() == [[0, 2], [1, 0], [0, 1]]


def test_shuffle_depends_on_names_and_seed_only():
    keys = [f"image {i}" for i in range(50)]
    first = [keys[i] for i in shuffled_by_key(keys, 1)]
    backwards = keys[::-1]
    assert [backwards[i] for i in shuffled_by_key(backwards, 1)] == first
    assert [keys[i] for i in shuffled_by_key(keys, 2)] != first
    assert sorted(first) == sorted(keys)
    assert first != keys


@pytest.mark.parametrize("fractions", [(0.65, 0.15, 0.2), (0.2,) * 5])
def test_single_images_are_dealt_exactly(fractions):
    counts = np.zeros((400, 2), dtype=np.int64)
    counts[:100, 0] = counts[100:, 1] = 1
    split = deal(counts, fractions, np.arange(400))
    for number, share in enumerate(fractions):
        dealt = counts[split == number].sum(axis=0)
        assert np.abs(dealt - share * np.array([100, 300])).max() <= 1


def test_uneven_units_come_near_the_shares():
    generator = np.random.default_rng(3)
    counts = np.zeros((300, 3), dtype=np.int64)
    counts[np.arange(300), generator.integers(0, 3, 300)] = generator.integers(1, 12, 300)
    split = deal(counts, (0.65, 0.15, 0.2), shuffled_by_key([str(i) for i in range(300)], 0))
    share = np.stack([counts[split == s].sum(axis=0) for s in range(3)]) / counts.sum(axis=0)
    assert np.abs(share - np.array([[0.65], [0.15], [0.2]])).max() < 0.01
    # large units are in every split, not in train alone
    assert all(counts[split == s].max() >= 10 for s in range(3))


def test_a_unit_larger_than_the_test_split_goes_to_train():
    counts = np.array([[60], *[[1]] * 40])
    split = deal(counts, (0.65, 0.15, 0.2), np.arange(41))
    assert split[0] == 0
    assert [counts[split == s].sum() for s in range(3)] == [65, 15, 20]


def test_a_rare_class_reaches_every_split():
    counts = np.array([[1, 0]] * 100 + [[0, 1]] * 3)
    split = deal(counts, (0.65, 0.15, 0.2), np.arange(103))
    assert sorted(split[100:].tolist()) == [0, 1, 2]


def test_a_rare_class_does_not_rob_another():
    # the unit that could move holds the only images of class 2 in its split
    counts = np.array([[5, 0, 0]] * 30 + [[0, 1, 3], [0, 1, 0]])
    split = deal(counts, (0.6, 0.4), np.arange(32))
    assert {int(split[30]), int(split[31])} == {0, 1}
