"""The arithmetic of the plan, against brute force and hand-made cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinipress.models.pruning.ranking import (
    Costs,
    Unit,
    _ranked_plan,
    choose,
    schedule,
    search,
    share,
)


def unit(scores, groups=1, round_to=1):
    table = np.arange(groups * len(scores)).reshape(groups, -1).T
    return Unit("u", np.asarray(scores, dtype=np.float64), round_to, table=table)


def chain(widths, ends=(1, 3)):
    """Costs of a chain of linear layers whose hidden widths may shrink."""
    sizes = [ends[0], *widths, ends[1]]
    base = [a * b for a, b in itertools.pairwise(sizes)]
    outputs, inputs = np.zeros((len(base), len(widths))), np.zeros((len(base), len(widths)))
    for place, width in enumerate(widths):
        outputs[place, place] = inputs[place + 1, place] = 1 / width
    return Costs(np.array(base, dtype=np.float64), outputs, inputs)


def chain_cost(widths, ends=(1, 3)):
    return sum(a * b for a, b in itertools.pairwise([ends[0], *widths, ends[1]]))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.data())
def test_share_is_that_of_the_smaller_network(widths, data):
    kept = [data.draw(st.integers(1, width)) for width in widths]
    units = [unit(np.ones(width)) for width in widths]
    expected = 1 - chain_cost(kept) / chain_cost(widths)
    assert share(chain(widths), units, kept) == pytest.approx(expected, abs=1e-12)


def test_fixed_cost_stays():
    costs = Costs(np.array([30.0, 10.0]), np.array([[0.1], [0.0]]), np.zeros((2, 1)))
    assert share(costs, [unit(np.ones(10))], [5]) == pytest.approx(15 / 40)


@given(st.integers(1, 300), st.integers(1, 32), st.sampled_from([1, 2, 3, 4, 8]))
def test_choices_are_multiples_and_never_nothing(size, round_to, groups):
    choices = unit(np.ones(size), groups, round_to).kept_choices
    assert choices == sorted(set(choices))
    assert choices[-1] == size
    assert all(kept * groups % round_to == 0 for kept in choices[:-1])
    assert min(choices) >= size / 10 - 1e-9
    assert min(choices) * groups >= min(round_to, size * groups)


def test_small_layers_are_left_alone():
    assert unit(np.ones(6), round_to=8).kept_choices == [6]
    assert unit(np.ones(8), round_to=8).kept_choices == [8]
    assert unit(np.ones(12), round_to=8).kept_choices == [8, 12]


@given(st.integers(1, 100), st.integers(1, 16))
def test_nearest_choice_never_falls(size, round_to):
    one = unit(np.ones(size), 1, round_to)
    kept = [one.kept_near(wanted) for wanted in range(size + 1)]
    assert kept == sorted(kept)
    assert kept[-1] == size


def test_least_important_go_first_and_together_in_each_group():
    assert unit([3.0, 1.0, 2.0, 0.5]).removed(2) == (1, 3)
    assert unit([3.0, 1.0, 2.0], groups=2).removed(2) == (1, 4)
    assert unit([1.0, 1.0, 1.0]).removed(3) == ()


@settings(max_examples=60)
@given(
    st.lists(st.integers(16, 90), min_size=2, max_size=5),
    st.floats(0.1, 0.8),
    st.sampled_from(["global", "uniform"]),
    st.integers(0, 100),
)
def test_ratio_is_reached_and_removals_follow_the_ranking(widths, ratio, scope, seed):
    random = np.random.default_rng(seed)
    units = [unit(random.random(width)) for width in widths]
    kept = choose(chain(widths), units, ratio, scope)
    reached = 1 - chain_cost(kept) / chain_cost(widths)
    assert abs(reached - ratio) < 0.03  # one channel of sixteen is some percent
    for one, k in zip(units, kept, strict=True):
        gone = set(one.removed(k))
        assert len(gone) == one.size - k
        stay = [s for i, s in enumerate(one.scores) if i not in gone]
        assert not gone or max(one.scores[list(gone)]) <= min(stay)


def test_global_spares_the_important_layer_and_uniform_does_not():
    units = [unit(np.linspace(1, 2, 100)), unit(np.linspace(10, 20, 100))]
    costs = chain([100, 100])
    spared = choose(costs, units, 0.4, "global")
    assert spared[1] == 100 > spared[0]
    even = choose(costs, units, 0.4, "uniform")
    assert abs(even[0] - even[1]) <= 2


@pytest.mark.parametrize("ratio", [0.25, 0.3, 0.5, 0.6])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_coarse_rounding_is_repaired_to_nearly_the_best_there_is(ratio, scope):
    widths = [64, 96, 128, 32]
    units = [unit(np.linspace(1, 2, w), round_to=16) for w in widths]
    costs = chain(widths)
    every = itertools.product(*(u.kept_choices for u in units))
    best = min(abs(share(costs, units, kept) - ratio) for kept in every)
    got = abs(share(costs, units, choose(costs, units, ratio, scope)) - ratio)
    assert got <= best + 0.01


def test_out_of_reach_is_approached():
    units = [unit(np.ones(8), round_to=8), unit(np.ones(16), round_to=8)]
    assert choose(chain([8, 16]), units, 0.9, "global") == [8, 8]
    assert choose(chain([8, 16]), units, 0.001, "global") == [8, 16]


@pytest.mark.parametrize(("ratio", "rounds"), [(0.3, 5), (0.5, 1), (0.9, 7)])
def test_rounds_end_exactly_at_the_ratio_and_take_equal_shares(ratio, rounds):
    shares = schedule(ratio, rounds)
    assert len(shares) == rounds
    assert shares[-1] == ratio
    left = [1.0, *(1 - share for share in shares)]
    factors = [after / before for before, after in itertools.pairwise(left)]
    assert factors == pytest.approx([factors[0]] * rounds)
    # the seed's way falls short: five times 6 % are 27 %
    assert pytest.approx(0.266, abs=1e-3) == 1 - (1 - 0.3 / 5) ** 5


def test_a_column_of_heads_is_whole_heads():
    rows = np.arange(18).reshape(3, 3, 2).transpose(1, 0, 2).reshape(3, 6)
    heads = Unit("a.qkv", np.array([3.0, 1.0, 2.0]), table=rows)
    assert heads.removed(2) == (2, 3, 8, 9, 14, 15)
    assert heads.channels == 18
    assert heads.kept_choices == [1, 2, 3]


@given(st.lists(st.integers(4, 40), min_size=2, max_size=6), st.integers(0, 50))
def test_isomorphic_takes_the_same_share_of_every_kind(widths, seed):
    random = np.random.default_rng(seed)
    units = [
        Unit("u", random.random(w) * 10 ** (i % 2), kind="ab"[i % 2]) for i, w in enumerate(widths)
    ]
    kept = _ranked_plan(units, "isomorphic")(sum(widths) // 2)
    for kind in "ab":
        own = [(u, k) for u, k in zip(units, kept, strict=True) if u.kind == kind]
        size = sum(u.size for u, _ in own)
        free = [u.kept_choices[0] for u, _ in own]
        if all(k > least for (_, k), least in zip(own, free, strict=True)):
            assert abs(sum(k for _, k in own) / size - 0.5) <= 1 / size + 1 / sum(widths)


@given(st.floats(0.1, 0.8), st.floats(0.3, 2.5))
def test_search_finds_the_share_of_a_monotone_measure(wanted, power):
    best, probes = search(lambda share: share**power, wanted, within=0.01, tries=12)
    assert abs(best.measured - wanted) <= 0.01 or wanted > 0.97**power
    assert best in probes


def test_search_ends_and_keeps_the_nearest_when_nothing_fits():
    best, probes = search(lambda share: 0.1, 0.5, within=0.01, tries=5)
    assert len(probes) == 5
    assert best.measured == 0.1
