"""The edges of the numbers: a trillion votes, none or all of them for a class."""

import inspect

import mpmath
import numpy as np
import pytest
from scipy.special import ndtri

from lipsmooth import intervals, randomized, sequential
from lipsmooth.certify import ABSTAIN, STRATEGIES, certify_counts
from lipsmooth.radii import max_radius
from lipsmooth.scorebounds import SCORE_BOUNDS, score_bounds

SIZES = (1, 2, 10, 10**3, 10**6, 10**9, 10**12)
LEVELS = (1e-12, 0.001, 0.05, 0.5, 0.999)


def spread(k, n):
    return k / n * (1 - k / n) * n / max(n - 1, 1)


BOUNDS = {
    "clopper_pearson_lower": lambda k, n, a: (
        intervals.clopper_pearson_lower(k, n, alpha=a), None),
    "clopper_pearson_upper": lambda k, n, a: (
        None, intervals.clopper_pearson_upper(k, n, alpha=a)),
    "hoeffding": lambda k, n, a: intervals.hoeffding(k / n, n, alpha=a),
    "empirical_bernstein": lambda k, n, a: intervals.empirical_bernstein(
        k / n, spread(k, n), max(n, 2), alpha=a),
    "wilson": lambda k, n, a: intervals.wilson(k, n, alpha=a),
    "agresti_coull": lambda k, n, a: intervals.agresti_coull(k, n, alpha=a),
    "wald": lambda k, n, a: intervals.wald(k, n, alpha=a),
    "jeffreys": lambda k, n, a: intervals.jeffreys(k, n, alpha=a),
    "randomized_lower": lambda k, n, a: (
        randomized.randomized_lower(k, n, 0.3, alpha=a), None),
    "randomized_upper": lambda k, n, a: (
        None, randomized.randomized_upper(k, n, 0.3, alpha=a)),
    "lower_sequence": lambda k, n, a: (
        sequential.lower_sequence(k, n, alpha=a), None),
}  # fmt: skip
AROUND = {"clopper_pearson_lower", "clopper_pearson_upper", "hoeffding",
          "empirical_bernstein", "lower_sequence"}  # fmt: skip


def edges(n):
    """Counts at both ends and in the middle."""
    near = {0, 1, 2, 3, n // 2 - 1, n // 2, n // 2 + 1, n - 3, n - 2, n - 1, n}
    return np.array(sorted(k for k in near if 0 <= k <= n))


def test_every_bound_is_on_the_list():
    """Betting takes samples instead of counts and has a test of its own below."""
    own = {
        name
        for module in (intervals, randomized)
        for name, part in inspect.getmembers(module, inspect.isfunction)
        if part.__module__ == module.__name__ and not name.startswith(("_", "check_"))
    }
    assert own == (set(BOUNDS) - {"lower_sequence"}) | {"betting"}


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("n", SIZES)
def test_bounds_at_the_edges(name, n):
    k = edges(n)
    # Up to the rounding of inverses: far below what one vote more can mean.
    slack = 1e-4 * np.sqrt(spread(k, n) / n)[:-1] + 1e-15
    for alpha in LEVELS:
        lower, upper = BOUNDS[name](k, n, alpha)
        for bound in (b for b in (lower, upper) if b is not None):
            assert np.all((bound >= 0) & (bound <= 1)), "also fails for NaN"
            assert np.all(np.diff(bound) >= -slack)
        if name in AROUND and alpha < 0.4:
            assert lower is None or np.all(lower <= k / n)
            assert upper is None or np.all(upper >= k / n)


def tail(k, n, p):
    """P(X >= k) for few failures, summed in sixty digits."""
    q = 1 - p
    return sum(mpmath.binomial(n, i) * q**i * p ** (n - i) for i in range(n - k + 1))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("misses", [0, 1, 3])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_clopper_pearson_solves_its_equation_to_the_last_digit(n, misses, alpha):
    if misses >= n:
        return
    with mpmath.workdps(60):
        lower = intervals.clopper_pearson_lower(n - misses, n, alpha=alpha)
        level = tail(n - misses, n, mpmath.mpf(float(lower)))
        # Doubles next to 1 are 1.1e-16 apart, and n of them are multiplied.
        assert abs(level / alpha - 1) < 1e-12 + 2.3e-16 * n
        upper = intervals.clopper_pearson_upper(misses, n, alpha=alpha)
        level = tail(n - misses, n, 1 - mpmath.mpf(float(upper)))
        assert abs(level / alpha - 1) < 1e-6
        shifted = tail(n - misses, n, mpmath.mpf(float(lower)) * (1 + 0.1 / n))
        assert abs(shifted / alpha - 1) > 1e-2, "the check would see a tenth of a vote"


@pytest.mark.parametrize("n", [10**9, 10**12])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_clopper_pearson_is_normal_in_the_middle(n, share):
    sd = np.sqrt(share * (1 - share) / n)
    for alpha in (0.001, 0.05):
        lower = intervals.clopper_pearson_lower(int(share * n), n, alpha=alpha)
        upper = intervals.clopper_pearson_upper(int(share * n), n, alpha=alpha)
        for bound, sign in ((lower, 1), (upper, -1)):
            z = (bound - share) / sd
            assert z == pytest.approx(sign * ndtri(alpha), abs=1e-3)


@pytest.mark.parametrize("n", [10, 10**6, 10**12])
@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_the_capital_of_the_sequence_is_what_it_should_be(n, share):
    k, alpha = int(share * n), 0.001
    with mpmath.workdps(40):
        p = mpmath.mpf(float(sequential.lower_sequence(k, n, alpha=alpha)))
        half = mpmath.mpf(1) / 2
        log_beta = mpmath.loggamma(half + k) + mpmath.loggamma(half + n - k)
        log_beta -= mpmath.loggamma(1 + n) + 2 * mpmath.loggamma(half)
        missed = (n - k) * mpmath.log(1 - p) if n > k else 0
        capital = log_beta - k * mpmath.log(p) - missed
        assert abs(capital + mpmath.log(alpha)) < 5e-3


def test_betting_at_the_edges():
    for values in (np.zeros(1), np.ones(1), np.zeros(5000), np.ones(5000), [0, 1]):
        for alpha in LEVELS:
            lower, upper = intervals.betting(values, alpha=alpha)
            assert np.all((np.r_[lower, upper] >= 0) & (np.r_[lower, upper] <= 1))
            assert lower <= upper or alpha > 0.4


@pytest.mark.parametrize("bound", SCORE_BOUNDS)
@pytest.mark.parametrize("n", [2, 1000, 10**9])
def test_score_bounds_at_the_edges(bound, n):
    mean = edges(n) / n
    lower, upper = score_bounds(mean, spread(edges(n), n), n, alpha=0.001, bound=bound)
    assert np.all((lower >= 0) & (lower <= mean) & (mean <= upper) & (upper <= 1))
    assert np.all(np.diff(lower) >= 0)
    assert np.all(np.diff(upper) >= 0)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n", SIZES)
def test_strategies_at_the_edges(strategy, n):
    own = edges(n)
    for rest in ("one rival", "two rivals"):
        other = n - own
        second = np.zeros_like(other) if rest == "one rival" else other // 2
        votes = np.column_stack([own, other - second, second])
        first = np.tile([5, 1, 1], (len(own), 1))
        got = certify_counts(first, votes, sigma=1, alpha=0.001, strategy=strategy)
        assert np.all(np.isfinite(got.radius) & (got.radius >= 0))
        assert np.all((got.prediction == ABSTAIN) == (got.radius == 0))
        assert np.all(np.diff(got.radius) >= -1e-9)
        most = max_radius(n, sigma=1.0, alpha=0.001)
        assert np.all(got.radius <= np.maximum(most, 0) * (1 + 1e-6))
        if strategy == "mono" and n >= 10:
            assert got.radius[-1] == pytest.approx(most, rel=1e-6)
