"""Strategies that look at the selection votes: buckets, plans, coins."""

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from lipsmooth.certify import ABSTAIN, STRATEGIES, certify_counts
from lipsmooth.coverage import (
    all_counts,
    bounds_over_coins,
    failure_probability,
    failure_with_coins,
    true_radius,
)
from lipsmooth.intervals import clopper_pearson_upper
from lipsmooth.radii import radius_multi
from lipsmooth.strategies import (
    SOUND,
    SPLITS,
    _bounds,
    _plan,
    bucket_sizes,
    planned,
    strongest_rival,
)

COINLESS = [("anytime", 11)]


def buckets_by_hand(selection):
    """The published procedure, one class at a time; ties to the smaller class."""
    order = sorted(range(len(selection)), key=lambda k: (-selection[k], k))
    buckets, rest = [[order[0]], [order[1]]], order[2:]
    while sum(selection[k] for k in rest) > selection[order[1]]:
        buckets.append([rest.pop(0)])
    return buckets + ([rest] if rest else [])


EDGES = [
    [100, 0, 0, 0],  # all in one class
    [0, 0, 0, 7],
    [25, 25, 25, 25],  # ties
    [50, 20, 20, 10],
    [50, 30, 12, 8],
    [40, 15, 15, 30],
    [3, 1, 1, 0],
]


@pytest.mark.parametrize("selection", EDGES)
def test_cpm_follows_the_published_procedure_at_the_edges(selection):
    check_cpm(np.array([selection]), np.random.default_rng(0), n=200)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_cpm_follows_the_published_procedure(classes):
    rng = np.random.default_rng(classes)
    p = rng.dirichlet(np.full(classes, 0.2), size=60)
    check_cpm(rng.multinomial(100, p), rng, n=3000)


def check_cpm(selection, rng, n, alpha=0.01):
    estimation = rng.multinomial(
        n, (selection + 0.5) / (selection + 0.5).sum(1)[:, None]
    )
    got = certify_counts(selection, estimation, sigma=1.0, alpha=alpha, strategy="cpm")
    for i, (chosen, votes) in enumerate(zip(selection, estimation, strict=True)):
        buckets = buckets_by_hand(list(chosen))
        level = alpha / len(buckets)
        counts = [votes[bucket].sum() for bucket in buckets]
        lower = beta.ppf(level, counts[0], n - counts[0] + 1) if counts[0] else 0.0
        upper = max(beta.isf(level, k + 1, n - k) if k < n else 1.0 for k in counts[1:])
        assert got.p_a_lower[i] == pytest.approx(lower, rel=1e-12)
        assert got.p_b_upper[i] == pytest.approx(upper, rel=1e-12)
        own = bucket_sizes(selection)[i]
        assert len(buckets) == own + (own < selection.shape[1])


def certified(strategy, counts, selection, alpha, **options):
    repeated = np.tile(selection, (len(counts), 1))
    return certify_counts(
        repeated, counts, sigma=1.0, alpha=alpha, strategy=strategy, **options
    ).radius


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
@pytest.mark.parametrize(
    "selection", [[9, 0, 0, 0], [4, 3, 3, 3], [5, 4, 1, 0], [6, 2, 2, 1], [3, 3, 2, 2]]
)
def test_whatever_the_selection_votes_the_level_holds(strategy, alpha, selection):
    """Soundness is conditional on the selection: any plan may come out of it."""
    counts = all_counts(20, 4)
    points = np.vstack(
        [all_counts(12, 4) / 12, np.random.default_rng(0).dirichlet(np.ones(4), 100)]
    )
    radii = certified(strategy, counts, selection, alpha)
    assert failure_probability(radii, counts, points, sigma=1.0).max() <= alpha


def test_planning_on_the_estimation_votes_is_caught():
    """The best of mono and all splits on the estimation votes breaks the level."""
    counts, alpha = all_counts(40, 3), 0.3
    points = np.vstack(
        [all_counts(30, 3) / 30, np.random.default_rng(0).dirichlet(np.ones(3), 200)]
    )
    top = np.zeros(len(counts), dtype=int)
    rival = strongest_rival(counts, top)
    radii = [certified("mono", counts, [3, 1, 1], alpha)]
    for share in SPLITS:
        bounds = _bounds(top, rival, counts, share * alpha, (1 - share) * alpha, None)
        radii.append(radius_multi(*bounds, sigma=1.0))
    best = np.max(radii, axis=0)
    honest = certified("planned", counts, [3, 1, 1], alpha)
    greedy = failure_probability(best, counts, points, sigma=1.0).max()
    assert greedy > failure_probability(honest, counts, points, sigma=1.0).max()
    assert np.all(best >= honest - 1e-12)


def test_a_plan_sees_how_many_estimation_votes_there_are_not_where_they_fell(
    monkeypatch,
):
    rng = np.random.default_rng(5)
    selection = rng.multinomial(100, rng.dirichlet(np.full(6, 0.2), size=40))
    top = selection.argmax(axis=1)
    estimation = rng.multinomial(900, rng.dirichlet(np.ones(6), size=40))
    seen = []

    def recorded(*arguments):
        seen.append(_plan(*arguments))
        return seen[-1]

    monkeypatch.setattr("lipsmooth.strategies._plan", recorded)
    for votes in (estimation, rng.permuted(estimation, axis=1)):
        planned(selection, top, votes, 0.01)
    np.testing.assert_array_equal(*seen)
    alone, share = seen[0]
    assert 0 < alone.sum() < len(alone)
    assert set(share[~alone]) <= set(SPLITS)
    assert np.any(_plan(selection, top, np.full(40, 50), 0.01)[0] != alone)


def some_points(classes, fine):
    drawn = np.random.default_rng(0).dirichlet(np.ones(classes), 60)
    return np.vstack([all_counts(fine, classes) / fine, drawn])


def worst_with_coins(strategy, classes, n, selection, alpha, coins):
    counts = all_counts(n, classes)
    bounds = bounds_over_coins(SOUND[strategy], selection, counts, coins, alpha=alpha)
    points = some_points(classes, {2: 200, 3: 20, 4: 8}[classes])
    return failure_with_coins(*bounds, counts, points).max()


SMALL = {2: (20, [3, 2]), 3: (9, [4, 3, 3]), 4: (6, [4, 3, 3, 3])}
TWO_BOUNDS = ["bonferroni", "cpm", "max-upper", "planned"]


@pytest.mark.parametrize(
    ("strategy", "classes"),
    # Against one rival the plan is mono, of which the next test is about.
    [(s, c) for s in TWO_BOUNDS for c in SMALL if (s, c) != ("planned", 2)],
)
def test_the_level_holds_with_coins(strategy, classes):
    """Every outcome and every pair of coins; each stratum by its luckiest coin."""
    n, selection = SMALL[classes]
    strata, alpha = {2: 600, 3: 80, 4: 80}[classes], 0.2
    coins = np.arange(strata) / strata
    failure = worst_with_coins(strategy, classes, n, selection, alpha, coins)
    assert alpha / 4 < failure <= alpha


@pytest.mark.parametrize("classes", SMALL)
def test_one_bound_with_a_coin_fails_exactly_as_often_as_it_may(classes):
    n, selection = SMALL[classes]
    lucky, alpha = np.arange(1000) / 1000, 0.2
    low, high = (
        worst_with_coins("mono", classes, n, selection, alpha, coins)
        for coins in (lucky + 1 / 1000, lucky)
    )
    assert 0.99 * alpha < low <= alpha * (1 + 1e-9)
    assert alpha <= high < 1.02 * alpha


@pytest.mark.parametrize("classes", SMALL)
def test_the_same_check_catches_coins_that_are_chosen(classes):
    n, selection = SMALL[classes]
    luckier_of_two = 1 - np.sqrt(1 - np.arange(1, 101) / 100)
    failure = worst_with_coins("mono", classes, n, selection, 0.2, luckier_of_two)
    assert failure > 0.2 * 1.05


@pytest.mark.parametrize("classes", [3, 4])
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_the_complement_of_the_lower_bound_is_free(classes, alpha):
    """A split's rival bound may be 1 - p_a_lower where that is smaller."""
    n = {3: 30, 4: 14}[classes]
    counts = all_counts(n, classes)
    points = some_points(classes, {3: 30, 4: 12}[classes])
    top, rival = np.zeros(len(counts), dtype=int), counts[:, 1:].max(axis=1)
    gained = []
    for share in SPLITS:
        levels = share * alpha, (1 - share) * alpha
        lower, upper = _bounds(top, rival, counts, *levels, None)
        plain = clopper_pearson_upper(rival, n, alpha=levels[1])
        assert np.all(upper <= plain)
        radius = radius_multi(lower, upper, sigma=1.0)
        worst = failure_probability(radius, counts, points, sigma=1.0).max()
        assert worst <= alpha
        gained.append(np.any(upper < plain * (1 - 1e-9)))
    np.testing.assert_array_equal(gained, SPLITS > 0.5)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("strategy", "seed"),
    [(s, seed) for s in STRATEGIES for seed in (None, 11) if (s, seed) not in COINLESS],
)
def test_failures_at_ten_thousand_votes(strategy, seed):
    """Seeded certifications with selection included, judged by a binomial test."""
    rng = np.random.default_rng(0)
    alpha, images = 0.02, 20_000
    failures = 0
    points = [[0.5, 0.26, 0.24], [0.55, 0.449, 0.001], [0.9, 0.06, 0.04]]
    for p in map(np.array, points):
        selection, estimation = (
            rng.multinomial(m, p, size=images) for m in (100, 10_000)
        )
        got = certify_counts(
            selection, estimation, sigma=1.0, alpha=alpha, strategy=strategy,
            randomize_seed=seed,
        )  # fmt: skip
        truth = np.array([
            true_radius(np.roll(p, -k), sigma=1.0) if k != ABSTAIN else np.inf
            for k in range(3)
        ])  # fmt: skip
        wrong = (got.prediction != ABSTAIN) & (got.radius > truth[got.prediction])
        failures = max(failures, int(wrong.sum()))
    assert binomtest(failures, images, alpha, alternative="greater").pvalue > 1e-4


def test_coins_are_seeded_and_never_certify_infinity():
    selection, estimation = np.array([[9, 1]] * 500), np.array([[50, 0]] * 500)
    one, two, other = (
        certify_counts(
            selection, estimation, sigma=1.0, alpha=0.01, randomize_seed=seed
        ).radius
        for seed in (1, 1, 2)
    )
    plain = certify_counts(selection, estimation, sigma=1.0, alpha=0.01).radius
    np.testing.assert_array_equal(one, two)
    assert np.any(one != other)
    assert np.all(np.isfinite(one))
    assert np.all(one >= plain)
