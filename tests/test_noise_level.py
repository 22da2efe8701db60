"""A noise level for each input: the search, the price of choosing, the promise."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import ndtr, ndtri
from scipy.stats import binom, binomtest

from lipsmooth.certify import ABSTAIN
from lipsmooth.intervals import clopper_pearson_lower
from lipsmooth.noise_level import (
    PRESETS,
    Search,
    certify_noise_level,
    quasiconcavity_gap,
    search_noise_level,
)
from lipsmooth.radii import radius_mono
from lipsmooth.sampling import count_votes

CIFAR = PRESETS["cifar10-0.50"]
LEVELS = np.linspace(0.12, 2, 400)


def share(edges, x, sigma):
    """P(x + σZ in A), A the union of the intervals between pairs of edges."""
    steps = (np.asarray(edges) - x) / np.reshape(sigma, (-1, 1))
    low, high = steps[:, ::2], steps[:, 1::2]
    # From the nearer tail, so that no digits are lost near 1.
    near = np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
    return near.sum(axis=1)


def true_radii(edges, x):
    """Radius of the class that holds x without noise, 0 where it loses."""
    inside = np.searchsorted(edges, x) % 2 == 1
    other = np.concatenate([[-np.inf], edges, [np.inf]]) if inside else edges
    return np.maximum(-LEVELS * ndtri(share(other, x, LEVELS)), 0)


def sampler_of(classify, x, seed=0):
    """Real votes of a two-class classifier on the line, through `count_votes`."""

    def scores(z):
        one = classify(z[:, 0]).float()
        return torch.stack([1 - one, one], dim=1)

    return partial(count_votes, scores, torch.tensor([float(x)]), seed=seed)


def inner(z):
    return z.abs() < 0.4


class Recorder:
    """A sampler with exact shares, which notes what it was asked for."""

    def __init__(self, p):
        self.p, self.asked = p, []

    def __call__(self, *, sigma, n, start):
        self.asked.append((sigma, n, start))
        k = round(n * self.p(sigma))
        return np.array([n - k, k])


# The search


def test_the_search_draws_what_it_says_and_leaves_the_rest_fresh():
    sampler = Recorder(lambda sigma: share([-0.4, 0.4], 0, sigma)[0])
    found = search_noise_level(sampler, CIFAR)
    assert {n for _, n, _ in sampler.asked} == {500}
    assert found.drawn == 500 * len(sampler.asked)
    # 1.58 is halved six times until it is at most 0.03.
    assert len(found.path) == 6
    assert found.drawn <= 500 * (1 + 2 * 6 + 2)
    assert found.start == 500 * (1 + 6 + 1)
    assert found.prediction == 1
    assert min(sigma for sigma, *_ in sampler.asked) > 0
    # Both sides of a comparison share their samples, two comparisons share none.
    starts = [start for *_, start in sampler.asked]
    middles = [middle for middle, _ in found.path]
    for number, middle in enumerate(middles, 1):
        sides = {s for s, _, start in sampler.asked if start == 500 * number}
        steps = [s - middle for s in sides]
        assert_allclose(np.abs(steps), CIFAR.step)
    assert max(starts) + 500 == found.start


@pytest.mark.parametrize("name", PRESETS)
def test_published_settings_search_a_bracket_around_their_noise_level(name):
    search = PRESETS[name]
    assert search.low < search.sigma < search.high
    assert float(name.split("-")[1]) == search.sigma
    assert (search.n, search.alpha) == (500, 0.001)


def test_the_published_noise_levels_lie_on_our_lattice():
    # Column best_sigma of exp/cifar10/cifar_exp, images 0 to 11 (Kung and Chen 2024).
    published = [
        0.35453125, 0.42859375, 0.37921875, 0.5, 0.60140625, 0.57671875, 0.5,
        0.65078125, 0.30515625, 1.16921875, 0.50265625, 0.55203125,
    ]  # fmt: skip
    cells = (np.array(published) - CIFAR.low) / ((CIFAR.high - CIFAR.low) / 64) - 0.5
    on_lattice = np.abs(cells - np.round(cells)) < 1e-6
    assert np.all(on_lattice | (np.array(published) == CIFAR.sigma))
    sampler = Recorder(lambda sigma: share([-0.4, 0.4], 0, sigma)[0])
    ours = search_noise_level(sampler, CIFAR).sigma
    cell = (ours - CIFAR.low) / ((CIFAR.high - CIFAR.low) / 64) - 0.5
    assert_allclose(cell, round(cell), atol=1e-6)


@pytest.mark.parametrize("best", [0.2, 0.7, 1.5])
def test_a_quasiconcave_radius_is_climbed_to_its_top(best):
    def p(sigma):  # radius 1 - |σ - best| / 2 at every noise level
        return ndtr((1 - abs(sigma - best) / 2) / sigma)

    search = replace(CIFAR, n=10**9, step=0.01, sigma=1.0, low=0.1)
    found = search_noise_level(Recorder(p), search)
    assert abs(found.sigma - best) <= search.tolerance
    # A control: a second, higher hill where the search does not look.
    far = 1.37 if best < 1 else 0.42
    hills = Recorder(
        lambda s: ndtr(max(1 - abs(s - best) / 2, 4 - 40 * abs(s - far)) / s)
    )
    assert abs(search_noise_level(hills, search).sigma - far) > 0.5


def test_another_class_counts_as_no_radius():
    # The farther out, the larger the radius of class 0; but class 1 is asked about.
    def p(sigma):
        return 0.9 if sigma < 0.6 else 0.01

    found = search_noise_level(Recorder(p), CIFAR)
    assert found.prediction == 1
    assert found.sigma < 0.6


def test_the_original_is_kept_unless_the_same_class_gains():
    # At every other noise level the other class wins, with a larger radius.
    found = search_noise_level(Recorder(lambda s: 0.9 if s == 0.5 else 0.001), CIFAR)
    assert (found.sigma, found.prediction) == (0.5, 1)
    # A control that differs in the class alone.
    found = search_noise_level(Recorder(lambda s: 0.9 if s == 0.5 else 0.999), CIFAR)
    assert found.sigma != 0.5


def hill(z):
    return (z.abs() < 1.1) | (z > 1.8)


def first_slopes(draw):
    search = replace(CIFAR, high=2.2, step=0.03, tolerance=1.5)
    found = []
    for run in range(60):
        found.append(search_noise_level(draw(run), search).path[0][1])
    return np.std(found)


def test_common_random_numbers_make_the_comparison_steadier():
    def independent(run):
        sampler, before = sampler_of(hill, 0.3, seed=run), iter(range(0, 10**6, 500))
        return lambda *, sigma, n, start: sampler(sigma=sigma, n=n, start=next(before))

    common = first_slopes(lambda run: sampler_of(hill, 0.3, seed=run))
    assert common < 0.75 * first_slopes(independent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 0.0}, "low must be positive"),
        ({"low": 2.0}, "low must lie below high, got 2 and 1.7"),
        ({"tolerance": -1}, "tolerance must be positive"),
        ({"step": np.nan}, "step must be positive and finite, got nan"),
        ({"n": 0}, "n must be at least 1"),
        ({"alpha": 1}, "alpha must lie in"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CIFAR, **change)


# Quasiconcavity, where p is known exactly


def test_the_gap_measures_the_deepest_valley():
    assert quasiconcavity_gap([0, 1, 3, 2, 0]) == 0
    assert quasiconcavity_gap([3, 1, 2]) == 1
    assert quasiconcavity_gap([0, 2, 1.5, 4, 1, 3]) == 2
    with pytest.raises(ValueError, match=r"must be a sequence, got shape \(0,\)"):
        quasiconcavity_gap([])
    with pytest.raises(ValueError, match="must be finite, got inf"):
        quasiconcavity_gap([1, np.inf])


def test_half_spaces_and_intervals_are_quasiconcave():
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(1408):
        edges = np.sort(rng.uniform(-2, 2, 2))
        worst = max(worst, quasiconcavity_gap(true_radii(edges, rng.uniform(-2, 2))))
    assert worst < 1e-9
    half = quasiconcavity_gap(true_radii([-0.7, np.inf], 0.1))
    assert half < 1e-9


def test_a_band_with_two_wings_has_two_hills():
    # {|z| < 0.3 or |z| > 0.6}: little noise stays in the band, much jumps the gap.
    radii = true_radii([-0.6, -0.3, 0.3, 0.6], 0)
    assert quasiconcavity_gap(radii) > 0.08
    rng = np.random.default_rng(1)
    for edges in (4, 10, 18):
        gaps = [
            quasiconcavity_gap(true_radii(np.sort(rng.uniform(-2, 2, edges)), x))
            for x in rng.uniform(-2, 2, 200)
        ]
        assert 0.04 < np.mean(np.array(gaps) > 1e-3) < 0.5


# The certificate


def test_the_certificate_comes_from_samples_that_the_search_has_not_seen():
    sampler = Recorder(lambda sigma: 0.9)
    found = certify_noise_level(sampler, 0.3, start=500, n0=100, n=1000, alpha=0.01)
    assert sampler.asked == [(0.3, 100, 500), (0.3, 1000, 600)]
    bound = clopper_pearson_lower(900, 1000, alpha=0.01)
    mono = certify_noise_level(
        sampler, 0.3, start=500, n0=100, n=1000, alpha=0.01, strategy="mono"
    )
    assert mono.p_a_lower == bound
    assert mono.radius == radius_mono(bound, sigma=0.3)
    assert found.prediction == mono.prediction == 1


def test_candidates_of_another_class_are_dropped_and_cost_nothing():
    def p(sigma):
        return 0.9 if sigma < 0.6 else 0.001

    rule = {"start": 0, "n0": 100, "n": 1000, "alpha": 0.01, "strategy": "mono"}
    alone = certify_noise_level(Recorder(p), 0.5, **rule)
    assert certify_noise_level(Recorder(p), [0.5, 0.8], **rule) == alone
    assert alone.prediction == 1
    # The other class had by far the larger radius.
    assert certify_noise_level(Recorder(p), 0.8, **rule).radius > 3 * alone.radius


def test_the_better_of_two_is_paid_for():
    rule = {"start": 0, "n0": 100, "n": 1000, "strategy": "mono"}
    sampler = Recorder(lambda sigma: 0.9)
    both = certify_noise_level(sampler, [0.5, 0.8], alpha=0.01, **rule)
    assert both.sigma == 0.8
    assert both == certify_noise_level(sampler, 0.8, alpha=0.005, **rule)


def failure(alpha, n=60, p=0.75):
    """Exact probability that the better of two certificates overstates its radius.

    Both noise levels have the same share p, so that each is as often wrong, and the
    reported one is wrong if its bound exceeds p.
    """
    weight, wrong = binom.pmf(np.arange(n + 1), n, p), np.zeros((n + 1, n + 1))

    class Fixed:
        def __init__(self, k):
            self.k = k

        def __call__(self, *, sigma, n, start):
            k = n if start == 0 else self.k[sigma]
            return np.array([n - k, k])

    for i in range(n + 1):
        for j in range(n + 1):
            sampler = Fixed({0.5: i, 0.51: j})
            found = certify_noise_level(
                sampler, [0.5, 0.51], start=0, n0=9, n=n, alpha=alpha, strategy="mono"
            )
            wrong[i, j] = found.p_a_lower > p and found.prediction != ABSTAIN
    return weight @ wrong @ weight


def test_paying_keeps_the_level_and_not_paying_breaks_it():
    assert 0.025 < failure(0.05) <= 0.05
    # Full level for each of the two, as if nothing had been chosen afterwards.
    assert failure(2 * 0.05) > 0.05


@pytest.mark.statistical
def test_search_and_certificate_together_hold_their_level():
    # Exact truth: class 1 iff |z| < 0.4, seen from 0.15.
    fails, runs, alpha = 0, 400, 0.1
    search = Search(0.5, low=0.12, high=1.7, tolerance=0.1, step=0.15, n=100)
    for run in range(runs):
        sampler = sampler_of(inner, 0.15, seed=run)
        level = search_noise_level(sampler, search)
        found = certify_noise_level(
            sampler,
            level.sigma,
            start=level.start,
            n0=50,
            n=200,
            alpha=alpha,
            strategy="mono",
        )
        p = share([-0.4, 0.4], 0.15, found.sigma)[0]
        truth = {1: p, 0: 1 - p, ABSTAIN: 1}[found.prediction]
        fails += found.p_a_lower > truth
    assert binomtest(fails, runs, alpha, alternative="greater").pvalue > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": []}, "one or more noise levels"),
        ({"start": -1}, "start must be at least 0"),
        ({"alpha": 0}, "alpha must lie in"),
    ],
)
def test_bad_requests_are_refused(change, message):
    rule = {"sigmas": 0.5, "start": 0, "n0": 10, "n": 10, "alpha": 0.1, **change}
    with pytest.raises(ValueError, match=message):
        certify_noise_level(Recorder(lambda s: 0.9), **rule)


# What is not promised


def test_the_classifier_that_searches_anew_contradicts_itself_inside_the_ball():
    """Class 1 iff |z| < 0.4, the published CIFAR-10 search (σ = 0.5).

    At 0 every run certifies class 1 with a radius that contains 0.3. There, half the
    runs certify class 0, mostly with a radius that contains 0.
    """

    def run(x, seed):
        sampler = sampler_of(inner, x, seed=seed)
        level = search_noise_level(sampler, CIFAR)
        return certify_noise_level(
            sampler, level.sigma, start=level.start, n0=100, n=100_000, alpha=0.001,
            strategy="mono",
        )  # fmt: skip

    centre = [run(0.0, seed) for seed in range(6)]
    assert {c.prediction for c in centre} == {1}
    assert min(c.radius for c in centre) > 0.313
    aside = [run(0.3, seed) for seed in range(20)]
    other = [c for c in aside if c.prediction == 0]
    assert 5 <= len(other) <= 15
    assert np.mean([c.radius > 0.3 for c in other]) > 0.8  # these contain 0
    # And yet each certificate is true of the smoothed classifier that it names.
    for c in centre:
        for x in np.linspace(-c.radius, c.radius, 21):
            assert share([-0.4, 0.4], x, c.sigma)[0] > 0.5
    for c in other:
        for x in 0.3 + np.linspace(-c.radius, c.radius, 21):
            assert share([-0.4, 0.4], x, c.sigma)[0] < 0.5
