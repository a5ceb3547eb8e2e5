"""The few distributions that the intervals and tests rest on, with the standard library alone.

A comparison of two files of scores runs where no scipy is installed. Each function agrees with
scipy to ten digits or more, which the tests hold it to.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

__all__ = ["binomial_cdf", "regularized_beta", "student_t_quantile", "student_t_upper_tail"]

_NEARLY_ZERO = 1e-300  # stands for a denominator of 0 in Lentz's recurrence
_EPSILON = 2.0**-53
_MOST_ROUNDS = 100  # Newton needs 2 to 6, and some tens where the tail is all there is
_FAR = 40.0  # ln(t / sqrt(v)) from which the tail of t is its power law, to all digits
_LARGEST_LOG = 709.0  # about ln of the largest float64
# Stirling's series of ln Gamma: B_2k / (2k (2k - 1)) (Abramowitz and Stegun 6.1.41)
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_STIRLING_FROM = 16.0  # from here the series above leaves less than one rounding
_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def regularized_beta(a: float, b: float, x: float, complement: float | None = None) -> float:
    """Regularized incomplete beta function ``I_x(a, b)``, in ``[0, 1]``.

    By the continued fraction of DiDonato and Morris (1992, ACM TOMS 18:360, equation 9), which
    needs some ``sqrt(a + b)`` terms, on the side of the mean where it converges. The factor before
    it is Loader's saddle-point form (2000, "Fast and accurate computation of binomial
    probabilities"): the difference of log-gammas that the definition asks for loses all digits
    where a and b are large.

    Args:
        a: Above 0.
        b: Above 0.
        x: In ``[0, 1]``.
        complement: ``1 - x``, where it is known more exactly than that difference gives it.
    """
    y = 1 - x if complement is None else complement
    if x <= 0 or y <= 0:
        return 0.0 if x <= 0 else 1.0
    if (a + b) * x > a:
        return 1 - _beta_fraction(b, a, y, x)
    return _beta_fraction(a, b, x, y)


def _beta_fraction(a: float, b: float, x: float, y: float) -> float:
    """``I_x(a, b)`` for x at or below the mean ``a / (a + b)``."""
    above = a - (a + b) * x if a <= b else (a + b) * y - b
    excess = above + 1
    beta = a * excess / (a + 1)
    factor = _beta_factor(a, b, x, y)
    value = beta or _NEARLY_ZERO
    ratio, reciprocal = value, 0.0
    n = 0
    while True:
        n += 1
        step = a + 2 * n
        alpha = (a + n - 1) * (a + b + n - 1) * n * (b - n) * x * x / (step - 1) ** 2
        beta = n + n * (b - n) * x / (step - 1) + (a + n) * (excess + n * (1 + y)) / (step + 1)
        reciprocal = 1 / ((beta + alpha * reciprocal) or _NEARLY_ZERO)
        ratio = (beta + alpha / ratio) or _NEARLY_ZERO
        change = ratio * reciprocal
        value *= change
        if abs(change - 1) <= 2 * _EPSILON:
            return min(factor / value, 1.0)


def _beta_factor(a: float, b: float, x: float, y: float) -> float:
    """``x^a y^b / B(a, b)`` with ``y = 1 - x``."""
    off = b * x - a * y  # (a + b) x - a, without its cancellation
    exponent = _stirling_error(a + b) - _stirling_error(a) - _stirling_error(b)
    exponent -= a * _deviance(off / a, (a + b) * x / a)
    exponent -= b * _deviance(-off / b, (a + b) * y / b)
    return math.sqrt(a / (a + b) * b / (2 * math.pi)) * math.exp(exponent)


def _stirling_error(z: float) -> float:
    """``ln Gamma(z + 1) - (z + 1/2) ln z + z - ln(2 pi) / 2``, for z above 0."""
    if z < _STIRLING_FROM:
        return math.lgamma(z + 1) - (z + 0.5) * math.log(z) + z - _HALF_LOG_TWO_PI
    total = 0.0
    for coefficient in reversed(_STIRLING):
        total = total / (z * z) + coefficient
    return total / z


def _deviance(e: float, ratio: float) -> float:
    """``e - ln(ratio)`` with ``ratio = 1 + e``, exact where the two nearly cancel."""
    if abs(e) > 0.3:
        return e - math.log(ratio)
    # with r = e / (2 + e): ln(1 + e) = 2 artanh r, and e - 2 r = r e
    r = e / (2 + e)
    power, total, k = 2 * r * r * r, 0.0, 3
    while True:
        term = power / k
        if abs(term) <= _EPSILON * abs(total):
            return r * e - total
        total += term
        power *= r * r
        k += 2


def binomial_cdf(successes: int, n: int, probability: float) -> float:
    """``P(X <= successes)`` of a binomial variable of n trials."""
    if successes >= n:
        return 1.0
    if successes < 0:
        return 0.0
    return regularized_beta(n - successes, successes + 1, 1 - probability, probability)


def student_t_upper_tail(t: float, freedom: float) -> float:
    """``P(T > t)`` of Student's t.

    Args:
        t: Any finite number.
        freedom: Degrees of freedom, above 0; need not be whole.
    """
    if t < 0:
        return 1 - student_t_upper_tail(-t, freedom)
    outer, inner = _t_shares(t, freedom)
    return 0.5 * regularized_beta(freedom / 2, 0.5, outer, inner)


def _t_shares(t: float, freedom: float) -> tuple[float, float]:
    """``v / (v + t^2)`` and ``t^2 / (v + t^2)``, neither by a difference or an overflow."""
    root = math.sqrt(freedom)
    length = math.hypot(root, t)
    return (root / length) ** 2, (t / length) ** 2


@functools.lru_cache(maxsize=4096)
def student_t_quantile(probability: float, freedom: float) -> float:
    """The t with ``P(T <= t) = probability``, by Newton's method.

    Args:
        probability: In ``[0, 1]``; the ends give the infinities.
        freedom: Degrees of freedom, above 0; need not be whole; infinity gives the normal quantile.
    """
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    if math.isinf(freedom):
        return NormalDist().inv_cdf(probability)
    tail = min(probability, 1 - probability)
    size = _t_of_tail(tail, freedom) if tail < 0.25 else _t_of_centre(0.5 - tail, freedom)
    return math.copysign(size, probability - 0.5) if size else 0.0


def _t_density(t: float, freedom: float) -> float:
    """Density of Student's t for t above 0."""
    outer, inner = _t_shares(t, freedom)
    # the density of F = t^2 over that of t, dx = 2 x y dt / t
    return _beta_factor(freedom / 2, 0.5, outer, inner) / t


def _t_of_centre(centre: float, freedom: float) -> float:
    """The t > 0 with ``P(0 < T < t) = centre``: that share is concave, so Newton rises to it."""
    if centre == 0:
        return 0.0
    half = freedom / 2
    t = centre * math.sqrt(2 * math.pi)  # the density at 0 is below the normal one
    for _ in range(_MOST_ROUNDS):
        outer, inner = _t_shares(t, freedom)
        share = 0.5 * regularized_beta(0.5, half, inner, outer)
        step = (centre - share) / _t_density(t, freedom)
        t += step
        if abs(step) <= 4 * _EPSILON * t:
            break
    return t


def _t_of_tail(tail: float, freedom: float) -> float:
    """The t > 0 with ``P(T > t) = tail < 1/4``.

    Newton in ln t on the log of the tail, which is concave there: from beyond the root it comes
    down without ever passing it, and the tail's own power law is such a start. Where the normal
    quantile, corrected to the fourth order, lies below that, it is nearer.
    """
    half = freedom / 2
    # P(T > t) < c v^((v + 1) / 2) / (v t^v), the leading term of its expansion at infinity
    beta = math.lgamma(half) + math.lgamma(0.5) - math.lgamma(half + 0.5)
    limit = 0.5 * math.log(freedom) - (math.log(freedom * tail) + beta) / freedom
    if limit - 0.5 * math.log(freedom) > _FAR:
        return math.exp(limit) if limit < _LARGEST_LOG else math.inf
    z = -NormalDist().inv_cdf(tail)
    start = _cornish_fisher(z, freedom)
    log_t = min(math.log(start), limit) if start > 0 else limit
    for _ in range(_MOST_ROUNDS):
        t = math.exp(log_t)
        share = student_t_upper_tail(t, freedom)
        step = math.log(share / tail) * share / (t * _t_density(t, freedom))
        log_t = min(log_t + step, limit)
        if abs(step) <= 4 * _EPSILON:
            break
    return math.exp(log_t)


def _cornish_fisher(z: float, freedom: float) -> float:
    """The quantile of t from the normal one, to the fourth order (A. and S. 26.7.5)."""
    s = z * z
    terms = (
        (s + 1) / 4,
        ((5 * s + 16) * s + 3) / 96,
        (((3 * s + 19) * s + 17) * s - 15) / 384,
        ((((79 * s + 776) * s + 1482) * s - 1920) * s - 945) / 92160,
    )
    correction = 0.0
    for term in reversed(terms):
        correction = (correction + term) / freedom
    return z * (1 + correction)
