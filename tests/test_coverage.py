"""Exact coverage: the enumerations against brute force and against SciPy."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, multinomial

from lipsmooth.coverage import (
    all_counts,
    binomial_coverage,
    bounds_over_coins,
    failure_probability,
    failure_with_coins,
    multinomial_pmf,
    true_radius,
)
from lipsmooth.radii import radius_multi
from lipsmooth.strategies import max_upper, mono, planned


@pytest.mark.parametrize(("n", "classes"), [(1, 2), (5, 3), (4, 4), (7, 2)])
def test_all_counts_lists_every_vector_once(n, classes):
    brute = {v for v in product(range(n + 1), repeat=classes) if sum(v) == n}
    rows = all_counts(n, classes)
    assert set(map(tuple, rows)) == brute
    assert len(rows) == len(brute)


def test_multinomial_pmf_matches_scipy_also_at_zero_probabilities():
    counts = all_counts(6, 3)
    points = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.0, 0.4, 0.6]])
    ours = multinomial_pmf(counts, points)
    for row, p in zip(ours, points, strict=True):
        np.testing.assert_allclose(row, multinomial.pmf(counts, 6, p), atol=1e-14)
        np.testing.assert_allclose(row, multinomial_pmf(counts, p), rtol=1e-12)
    np.testing.assert_allclose(ours.sum(axis=1), 1)


def test_binomial_coverage_is_the_sum_over_outcomes():
    bounds = np.array([0.0, 0.1, 0.1, 0.4, 0.9])
    for p in (0.0, 0.05, 0.1, 0.4, 0.5, 1.0):
        pmf = binom.pmf(np.arange(5), 4, p)
        lower = binomial_coverage(bounds, p, side="lower")
        upper = binomial_coverage(bounds, p, side="upper")
        assert lower == pytest.approx(pmf[bounds <= p].sum())
        assert upper == pytest.approx(pmf[bounds >= p].sum())


def test_failure_probability_is_the_sum_over_outcomes():
    counts = all_counts(5, 3)
    certified = np.random.default_rng(0).normal(size=len(counts))
    points = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    ours = failure_probability(certified, counts, points, sigma=0.5)
    for value, p in zip(ours, points, strict=True):
        wrong = (certified > 0) & (certified > true_radius(p, sigma=0.5))
        assert value == pytest.approx(multinomial_pmf(counts, p)[wrong].sum())
        alone = failure_probability(certified, counts, p, sigma=0.5)
        assert alone == pytest.approx(value, rel=1e-12)
    assert ours[2] == 0, "an infinite true radius cannot be exceeded"
    rules = np.stack([certified, -certified])
    both = failure_probability(rules, counts, points, sigma=0.5)
    assert both.shape == (2, 3)
    np.testing.assert_array_equal(both[0], ours)
    other = failure_probability(-certified, counts, points[1], sigma=0.5)
    assert both[1, 1] == pytest.approx(other, rel=1e-12)


def test_failure_with_coins_is_the_mean_over_all_pairs_of_coins():
    counts = all_counts(4, 3)
    rng = np.random.default_rng(1)
    lower = -np.sort(-rng.uniform(0.3, 1, (len(counts), 5)), axis=1)
    upper = np.sort(rng.uniform(0, 0.6, (len(counts), 5)), axis=1)
    points = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.9, 0.1, 0], [1.0, 0, 0]])
    ours = failure_with_coins(lower, upper, counts, points)
    brute = np.zeros(4)
    for i, j in product(range(5), repeat=2):
        rival = np.minimum(upper[:, j], 1 - lower[:, i])
        radius = radius_multi(lower[:, i], rival, sigma=1.0)
        brute += failure_probability(radius, counts, points, sigma=1.0) / 25
    np.testing.assert_allclose(ours, brute, atol=1e-12)
    assert np.all(ours[:3] > 0.1)


@pytest.mark.parametrize("rule", [mono, max_upper, planned])
def test_bounds_over_coins_make_up_the_rule(rule):
    counts, coins = all_counts(5, 3), np.array([0.02, 0.3, 1.0])
    lower, upper = bounds_over_coins(rule, [3, 1, 1], counts, coins, alpha=0.1)
    selection = np.tile([3, 1, 1], (len(counts), 1))
    top = np.zeros(len(counts), dtype=int)
    for i, j in product(range(3), repeat=2):
        tossed = np.tile(coins[[i, j]][:, np.newaxis], len(counts))
        p_a, p_b = rule(selection, top, counts, 0.1, tossed)
        np.testing.assert_allclose(lower[:, i], p_a, rtol=1e-13)
        both = np.minimum(upper[:, j], 1 - lower[:, i])
        np.testing.assert_allclose(both, p_b, rtol=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: all_counts(0, 3), "need n >= 1"),
        (lambda: all_counts(1000, 6), "too many to enumerate"),
        (lambda: multinomial_pmf([[1, 1]], [0.5, 0.6]), "must sum to 1"),
        (lambda: binomial_coverage([0, 0.5, 0.2], 0.1, side="lower"), "non-decreasing"),
        (lambda: binomial_coverage([0, 0.5], 0.1, side="both"), "side must be"),
        (lambda: failure_with_coins([[0, 1]], [[0, 1]], [[1, 1]], [[1, 0]]), "coin"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
