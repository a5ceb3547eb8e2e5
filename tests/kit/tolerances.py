"""Every tolerance of the tests, named and reasoned; what is exact is compared with ``==``."""

from __future__ import annotations

import math
from collections.abc import Mapping

# one formula in float64, summed in another order: a few thousand roundings of 1e-16
ROUNDING = 1e-11
# log odds are rounded to nine decimals, so that equal cases tie
LOG_ODDS_STEP = 1e-9
# a root found by halving here and by Brent's method (xtol 1e-12) in the referee
ROOT = 1e-8
# a maximum found numerically is flat at its top: its place is known to about sqrt(1e-16)
OPTIMUM = 1e-5
# figures printed with three decimals in a paper
THREE_DECIMALS = 0.0005 + 1e-9


def monte_carlo(share: float, trials: int) -> float:
    """Four standard errors of a simulated share: one false alarm in 16,000 even with a new seed."""
    return 4 * math.sqrt(share * (1 - share) / trials)


def check_close(
    found: Mapping[str, float], expected: Mapping[str, float], tolerance: float
) -> None:
    """The same keys, no NaN, and each figure within `tolerance` (absolute)."""
    assert set(found) == set(expected), f"keys differ: {sorted(set(found) ^ set(expected))}"
    assert expected, "nothing was compared"
    for name, value in expected.items():
        assert abs(found[name] - value) <= tolerance, f"{name}: {found[name]!r}, not {value!r}"


def check_share(hits: int, trials: int, *, at_least: float = 0.0, at_most: float = 1.0) -> None:
    """A simulated share lies in ``[at_least, at_most]``, give or take its Monte Carlo error."""
    assert trials >= 300, f"{trials} trials tell nothing"
    share = hits / trials
    low, high = monte_carlo(at_least, trials), monte_carlo(at_most, trials)
    assert share >= at_least - low, f"{share:.4f} of {trials}, expected {at_least} or more"
    assert share <= at_most + high, f"{share:.4f} of {trials}, expected {at_most} or less"
