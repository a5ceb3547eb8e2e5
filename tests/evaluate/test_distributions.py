"""The distributions without scipy, against scipy, closed forms and whole numbers."""

import itertools
import math
from fractions import Fraction
from statistics import NormalDist

import pytest
from scipy import special

from clinipress.stats.distributions import (
    binomial_cdf,
    regularized_beta,
    student_t_quantile,
    student_t_upper_tail,
)

CLOSE = 1e-10
SHAPES = (0.05, 0.5, 1, 1.5, 3, 10, 15.9, 16.1, 50, 300.5, 5e3, 1e5)
POINTS = (1e-300, 1e-12, 1e-6, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999999)
FREEDOMS = (0.5, 1, 1.0001, 1.5, 2, 2.7, 3, 5, 9.99, 30, 99.5, 1000, 12345.6, 1e6, 1e9)
SMALL_TAILS = (1e-100, 1e-50, 1e-16, 1e-9, 1e-4, 0.001, 0.025, 0.1, 0.2499)
LARGE_SHARES = (0.25, 0.2501, 0.3, 0.4, 0.49, 0.51, 0.6, 0.75, 0.9, 0.975, 0.9999, 1 - 1e-12)
LEAST = 1e-290  # below this both sides are denormal or nearly so


@pytest.mark.parametrize("a", SHAPES)
def test_the_incomplete_beta_function_is_scipys(a):
    for b in SHAPES:
        mean = a / (a + b)
        for x in (*POINTS, mean, 0.99 * mean, min(1.01 * mean, 0.999999)):
            expected = float(special.betainc(a, b, x))
            if expected > LEAST:
                assert regularized_beta(a, b, x) == pytest.approx(expected, rel=CLOSE), (b, x)


def test_the_incomplete_beta_function_where_it_ends():
    assert (regularized_beta(2, 3, 0.0), regularized_beta(2, 3, 1.0)) == (0, 1)
    # 1 - x is below one rounding of x: only the complement knows it
    assert 1 - regularized_beta(3, 0.5, 1 - 1e-20) == 0
    beyond = 1 - regularized_beta(0.5, 0.5, 1.0 - 2**-53, 1e-14)
    assert beyond == pytest.approx(2 / math.pi * 1e-7, rel=1e-8)


@pytest.mark.parametrize("n", [1, 2, 5, 14, 33, 200, 1000])
def test_the_binomial_tail_is_the_sum_of_whole_numbers(n):
    ways = 0
    for k in range(n):
        ways += math.comb(n, k)
        exact = Fraction(ways, 2**n)
        assert binomial_cdf(k, n, 0.5) == pytest.approx(float(exact), rel=1e-12), k
    assert (binomial_cdf(n, n, 0.5), binomial_cdf(-1, n, 0.5)) == (1, 0)


@pytest.mark.parametrize("n", [1, 10, 333, 5000])
@pytest.mark.parametrize("probability", [1e-9, 0.01, 0.3, 0.5, 0.77, 0.999])
def test_the_binomial_tail_is_scipys(n, probability):
    for k in {0, 1, n // 10, n // 3, n // 2, n - 1}:
        expected = float(special.bdtr(k, n, probability))
        if expected > LEAST:
            found = binomial_cdf(k, n, probability)
            assert found == pytest.approx(expected, rel=CLOSE), k


def test_a_million_cases_keep_their_digits():
    # P(X <= n / 2) = 1/2 + P(X = n / 2) / 2; Stirling's series gives the middle term
    n = 10**6
    middle = math.sqrt(2 / (math.pi * n)) * (1 - 1 / (4 * n) + 1 / (32 * n * n))
    assert binomial_cdf(n // 2, n, 0.5) == pytest.approx(0.5 + middle / 2, rel=1e-13)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_student_quantiles_are_scipys(freedom):
    for probability in (*SMALL_TAILS, *LARGE_SHARES):
        expected = float(special.stdtrit(freedom, probability))
        if abs(expected) < 1e150:  # beyond, scipy's own search gives up
            found = student_t_quantile(probability, freedom)
            assert found == pytest.approx(expected, rel=CLOSE), probability


@pytest.mark.parametrize("share", [*SMALL_TAILS, *LARGE_SHARES, 1e-300, 0.4999999])
def test_student_quantiles_with_a_closed_form(share):
    tail = min(share, 1 - share)
    # tan near its pole loses what the tail holds: there 1 / tan of the tail itself
    one = 1 / math.tan(math.pi * tail) if tail < 0.1 else math.tan(math.pi * (0.5 - tail))
    two = (0.5 - tail) * math.sqrt(2 / (tail * (1 - tail)))
    sign = math.copysign(1, share - 0.5)
    assert student_t_quantile(share, 1) == pytest.approx(sign * one, rel=1e-12)
    assert student_t_quantile(share, 2) == pytest.approx(sign * two, rel=1e-12)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_student_tails_are_scipys(freedom):
    for t in (-1e8, -30.0, -1.0, 0.3, 1.0, 2.0, 6.0, 40.0, 1e4, 1e9):
        expected = float(special.stdtr(freedom, -t))
        if expected > LEAST:
            assert student_t_upper_tail(t, freedom) == pytest.approx(expected, rel=CLOSE), t
    assert student_t_upper_tail(0.0, freedom) == 0.5


def test_a_student_tail_keeps_a_small_t():
    # scipy takes 1e-9 for 0 here; at one degree of freedom the tail is an arc tangent
    near = 0.5 - math.atan(1e-9) / math.pi
    assert student_t_upper_tail(1e-9, 1) == pytest.approx(near, rel=1e-15)


def test_student_quantiles_at_the_ends():
    assert student_t_quantile(0.5, 3.3) == 0
    assert (student_t_quantile(0.0, 7), student_t_quantile(1.0, 7)) == (-math.inf, math.inf)
    assert student_t_quantile(1e-40, 0.1) == -math.inf  # 1e400
    assert student_t_quantile(0.975, math.inf) == NormalDist().inv_cdf(0.975)
    for freedom, share in itertools.product((3.3, 1e6), (0.01, 0.3)):
        found = student_t_quantile(share, freedom)
        assert student_t_quantile(1 - share, freedom) == pytest.approx(-found, rel=1e-14)
