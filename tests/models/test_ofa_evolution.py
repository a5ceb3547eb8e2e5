"""The evolutionary search: limits, determinism, and the best of spaces small enough to list."""

import itertools

import pytest

from clinipress.errors import ModelError
from clinipress.models.ofa import Architecture, Space
from clinipress.models.ofa.evolution import evolve

SETTINGS = {"population": 16, "generations": 12, "parents": 0.25, "mutation": 0.15}


def taste(chosen: Architecture) -> tuple[float, float]:
    """A made-up worth: large kernels early, many channels late, each with its own weight."""
    worth = 0.0
    for number, stage in enumerate(chosen.stages):
        for place, (kernel, expansion) in enumerate(stage):
            worth += (5 - number) * kernel + (number + 1) * expansion / (place + 1)
    return worth, -worth


def listed(space: Space) -> list[Architecture]:
    """Every architecture of a space with one depth and one expansion or kernel."""
    blocks = list(itertools.product(space.kernels, space.expansions))
    (depth,) = space.depths
    stages = [tuple([block] * depth) for block in blocks]
    return [Architecture(tuple(c), space.width) for c in itertools.product(stages, repeat=5)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_what_is_found_is_within_the_limit_and_better_than_the_first_draws(seed, share):
    space = Space()
    limit = space.smallest().macs() + share * (space.largest().macs() - space.smallest().macs())
    seen = []

    def score(chosen):
        seen.append(chosen)
        return taste(chosen)

    found = evolve(space, score, lambda a: a.macs() <= limit, seed=seed, **SETTINGS)
    assert len(seen) == len(set(seen)) == len(found.ranked)
    assert all(a.macs() <= limit for a in seen)
    assert list(found.best) == sorted(found.best)
    assert found.ranked[0][1] == found.best[-1] == max(map(taste, seen))
    first = [taste(a)[0] for a in seen[: SETTINGS["population"]]]
    assert found.best[-1][0] > max(first)


def test_beats_chance_with_as_many_looks():
    """The search is worth its name: better than the best of as many draws that fit."""
    import numpy as np

    space, wins = Space(), 0
    limit = space.sample(np.random.default_rng(0)).macs()

    def fits(chosen):
        return chosen.macs() <= limit

    for seed in range(10):
        found = evolve(space, taste, fits, seed=seed, **SETTINGS)
        random, drawn = np.random.default_rng(1000 + seed), []
        while len(drawn) < len(found.ranked):
            one = space.sample(random)
            drawn += [one] if fits(one) else []
        wins += found.best[-1] > max(map(taste, drawn))
    assert wins >= 9


def test_the_best_of_a_listed_space_is_found():
    space = Space(kernels=(3, 5), expansions=(3, 4), depths=(2,))
    limit = sum(end.macs() for end in (space.smallest(), space.largest())) / 2
    best = max(taste(a) for a in listed(space) if a.macs() <= limit)
    found = evolve(
        space, taste, lambda a: a.macs() <= limit,
        population=30, generations=30, parents=0.3, mutation=0.2, seed=0,
    )  # fmt: skip
    assert found.best[-1] >= best  # blocks of a stage may differ, so better is possible


def test_same_seed_same_search():
    runs = [evolve(Space(), taste, lambda a: True, seed=s, **SETTINGS) for s in (3, 3, 4)]
    assert runs[0] == runs[1]
    assert runs[0].ranked != runs[2].ranked


def test_a_limit_that_only_the_smallest_keeps():
    space = Space()
    found = evolve(space, taste, lambda a: a.macs() <= space.smallest().macs(), seed=0, **SETTINGS)
    assert [a for a, _ in found.ranked] == [space.smallest()]


def test_a_limit_below_the_smallest_is_refused():
    with pytest.raises(ModelError, match="smallest"):
        evolve(Space(), taste, lambda a: False, seed=0, **SETTINGS)


def test_no_generation_is_a_random_search():
    found = evolve(Space(), taste, lambda a: True, seed=0, **(SETTINGS | {"generations": 0}))
    assert len(found.best) == 1
    assert len(found.ranked) <= SETTINGS["population"]
