"""An evolutionary search over sub-nets (Cai et al., arXiv:1908.09791, section 3.4).

Pure: what is good and what fits are functions of the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clinipress.errors import ModelError
from clinipress.models.ofa.architecture import Architecture, Space

__all__ = ["Evolution", "Score", "evolve"]

Score = tuple[float, float]  # accuracy, and minus the cross-entropy for ties
TRIES = 100  # draws of a child that fits before it is made smaller instead


@dataclass(frozen=True)
class Evolution:
    """What a search looked at.

    Attributes:
        ranked: Every sub-net with its score, best first.
        best: Best score after each generation.
    """

    ranked: tuple[tuple[Architecture, Score], ...]
    best: tuple[Score, ...]


def evolve(
    space: Space,
    score: Callable[[Architecture], Score],
    fits: Callable[[Architecture], bool],
    *,
    population: int,
    generations: int,
    parents: float,
    mutation: float,
    seed: int,
) -> Evolution:
    """Search by selection, mutation and crossing; deterministic given `seed` and the scores.

    Args:
        space: What may be chosen.
        score: Of a sub-net, higher is better; asked once for each.
        fits: Whether a sub-net is within the limits.
        population: Sub-nets of a generation.
        generations: After the first.
        parents: Share of a generation that children come from, and that stays.
        mutation: Probability per depth and block.
        seed: Of all draws.

    Raises:
        ModelError: Not even the smallest sub-net fits.
    """
    if not fits(space.smallest()):
        raise ModelError("limits that the smallest sub-net keeps", "limits below it")
    random = np.random.default_rng(seed)
    known: dict[Architecture, Score] = {}

    def looked_at(architectures: Sequence[Architecture]) -> list[Architecture]:
        for architecture in architectures:
            if architecture not in known:
                known[architecture] = score(architecture)
        return sorted(
            dict.fromkeys(architectures), key=lambda architecture: known[architecture], reverse=True
        )

    def child(elders: list[Architecture]) -> Architecture:
        first, second = (elders[int(i)] for i in random.integers(len(elders), size=2))
        if random.random() < 0.5:
            return space.mutated(first, mutation, random)
        return space.crossed(first, second, random)

    drawn = [_fitting(lambda: space.sample(random), space, fits, random) for _ in range(population)]
    present = looked_at(drawn)
    best = [known[present[0]]]
    for _ in range(generations):
        elders = present[: max(1, round(parents * population))]
        count = population - len(elders)
        children = [_fitting(lambda: child(elders), space, fits, random) for _ in range(count)]  # noqa: B023
        present = looked_at([*elders, *children])
        best.append(known[present[0]])
    ranked = sorted(known.items(), key=lambda pair: pair[1], reverse=True)
    return Evolution(tuple(ranked), tuple(best))


def _fitting(
    draw: Callable[[], Architecture],
    space: Space,
    fits: Callable[[Architecture], bool],
    random: np.random.Generator,
) -> Architecture:
    """A draw within the limits; after many that are not, one made smaller until it is."""
    for _ in range(TRIES):
        architecture = draw()
        if fits(architecture):
            return architecture
    while not fits(architecture):
        architecture = space.lessened(architecture, random)
    return architecture
