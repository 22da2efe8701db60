"""Radii: identities, a classifier whose true radius is known, bad input."""

import itertools

import mpmath
import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest

from lipsmooth.intervals import clopper_pearson_lower
from lipsmooth.radii import (
    max_radius,
    radius_margin,
    radius_mono,
    radius_mono_exact,
    radius_mono_lipschitz,
    radius_multi,
    radius_multi_exact,
    radius_multi_lipschitz,
    radius_smoothed_margin,
)
from lipsmooth.ramp import ramp_mean

P = np.array([1e-300, 1e-9, 0.01, 0.5, 0.7, 0.99, 1 - 1e-12])


def test_multi_equals_mono_when_one_rival_takes_the_rest():
    inner = P[2:-1]
    np.testing.assert_allclose(
        radius_multi(inner, 1 - inner, sigma=0.5),
        radius_mono(inner, sigma=0.5),
        rtol=1e-14,
    )


def test_linear_classifier_gets_its_exact_distance():
    """For a half-space at distance d, p = Φ(d/σ), and the radius must be d."""
    distance = np.linspace(-2, 4, 61)
    sigma = 0.7
    np.testing.assert_allclose(
        radius_mono(ndtr(distance / sigma), sigma=sigma), distance, atol=1e-9
    )


def test_radius_scales_with_sigma_and_broadcasts():
    sigmas = np.array([[0.25], [1.0]])
    radii = radius_mono(P, sigma=sigmas)
    assert radii.shape == (2, len(P))
    np.testing.assert_allclose(radii[1], 4 * radii[0])


def test_edges_are_infinite_not_nan():
    assert radius_mono(1.0, sigma=1.0) == np.inf
    assert radius_mono(0.0, sigma=1.0) == -np.inf
    assert radius_multi(0.6, 1.0, sigma=1.0) == -np.inf


def test_max_radius_is_that_of_unanimous_votes():
    for n in (1, 10, 1000, 100_000):
        unanimous = radius_mono(clopper_pearson_lower(n, n, alpha=0.001), sigma=0.25)
        assert max_radius(n, sigma=0.25, alpha=0.001) == pytest.approx(unanimous)


@pytest.mark.parametrize("n", [10**6, 10**12, 10**17])
def test_max_radius_keeps_its_digits_where_the_bound_rounds_to_one(n):
    with mpmath.workdps(60):
        miss = -mpmath.expm1(mpmath.log(mpmath.mpf("0.001")) / n)
        exact = mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * miss)
    assert max_radius(n, sigma=1, alpha=0.001) == pytest.approx(float(exact), rel=1e-12)


# With a Lipschitz constant

# 10,648 combinations: L sigma from 1e-3 to 1e4, p from one half to 1 - 1e-9.
SIGMAS = np.geomspace(0.01, 10, 22)[:, None, None]
PRODUCTS = np.geomspace(1e-3, 1e4, 22)[:, None]
ABOVE_HALF = np.r_[np.linspace(0.5, 0.99, 13), 1 - np.geomspace(1e-9, 3e-3, 9)]


def test_exact_is_never_below_any_other_radius():
    known = {"sigma": SIGMAS, "lipschitz": PRODUCTS / SIGMAS}
    exact = radius_mono_exact(ABOVE_HALF, **known)
    assert exact.size > 10_000
    published = radius_mono_lipschitz(ABOVE_HALF, **known)
    cohen = radius_mono(ABOVE_HALF, sigma=SIGMAS)
    margin = radius_margin(
        2 * ABOVE_HALF - 1, lipschitz=known["lipschitz"], per_score=True
    )
    for other in (published, cohen, margin):
        assert np.all(other <= exact * (1 + 1e-12))
    assert np.all(cohen <= published * (1 + 1e-9))
    # Not vacuous: each of them is far below in places, and the published radius, unlike
    # the exact one, does fall below the margin.
    for other in (published, cohen, margin):
        assert np.any(other < 0.1 * exact)
    assert np.any(margin > published)


def test_exact_multi_is_never_below_any_other_radius():
    known = {"sigma": SIGMAS, "lipschitz": PRODUCTS / SIGMAS}
    p_a = np.array([0.9, 0.6, 0.4, 0.999, 0.35, 0.05])
    p_b = np.array([0.05, 0.39, 0.3, 1e-6, 1e-9, 0.04])
    exact = radius_multi_exact(p_a, p_b, **known)
    margin = radius_margin(p_a - p_b, lipschitz=known["lipschitz"], per_score=True)
    smoothed = radius_smoothed_margin(p_a, p_b, sigma=SIGMAS)
    published = radius_multi_lipschitz(p_a, p_b, **known)
    multi = radius_multi(p_a, p_b, sigma=SIGMAS)
    for other in (published, multi, margin, smoothed):
        assert np.all(other <= exact * (1 + 1e-12))
    assert np.all(smoothed <= multi * (1 + 1e-12))
    # Below one half the published one can fall under Cohen's, and even under zero.
    assert np.any(published < 0)


def test_multi_equals_mono_for_one_rival_with_a_lipschitz_constant_too():
    p = np.array([0.55, 0.9, 0.999])
    for mono, multi in [
        (radius_mono_exact, radius_multi_exact),
        (radius_mono_lipschitz, radius_multi_lipschitz),
    ]:
        np.testing.assert_allclose(
            multi(p, 1 - p, sigma=0.3, lipschitz=2),
            mono(p, sigma=0.3, lipschitz=2),
            rtol=1e-12,
        )


def test_values_of_four_radii():
    """Figures known beforehand, to the digits with which they were given."""
    known = {"sigma": 0.5, "lipschitz": 0.5}
    assert radius_mono_exact(0.99, **known) == pytest.approx(1.6801, abs=5e-5)
    assert radius_mono_lipschitz(0.99, **known) == pytest.approx(1.4273, abs=5e-5)
    assert radius_mono(0.99, sigma=0.5) == pytest.approx(1.1632, abs=5e-5)
    assert radius_margin(0.98, lipschitz=0.5, per_score=True) == pytest.approx(0.98)


def test_published_radius_loses_most_at_a_small_product_and_can_decrease():
    p = 1 - np.geomspace(1e-9, 0.4, 400)
    known = {"sigma": 1, "lipschitz": np.array([[5e-4], [1e-3], [100]])}
    kept = radius_mono_lipschitz(p, **known) / radius_mono_exact(p, **known)
    assert kept.min(axis=1) == pytest.approx([0.0075, 0.0142, 1.0], abs=1e-4)
    falling = radius_mono_lipschitz([0.9, 0.99], sigma=0.05, lipschitz=1)
    assert falling == pytest.approx([0.2303, 0.1993], abs=1e-4)
    rising = radius_mono_exact([0.9, 0.99], sigma=0.05, lipschitz=1)
    assert rising == pytest.approx([0.4004, 0.5246], abs=1e-4)


def test_published_radius_is_a_ratio_of_numerical_derivatives():
    """Its definition: the Gaussian quantile over the slope of that quantile."""
    sigma, lipschitz, p = 0.4, 1.5, 0.93
    with mpmath.workdps(40):

        def quantile(t):
            a, s = mpmath.mpf(1) / (2 * lipschitz), mpmath.mpf(sigma)
            edges = [(t + a) / s, (t - a) / s]
            area = [v * mpmath.ncdf(v) + mpmath.npdf(v) for v in edges]
            mean = lipschitz * s * (area[0] - area[1])
            return mpmath.sqrt(2) * mpmath.erfinv(2 * mean - 1)

        z = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1)
        centre = mpmath.findroot(lambda t: quantile(t) - z, 0.5)
        expected = float(z / mpmath.diff(quantile, centre))
    measured = radius_mono_lipschitz(p, sigma=sigma, lipschitz=lipschitz)
    assert measured == pytest.approx(expected, rel=1e-10)


def test_a_large_constant_gives_cohens_radius_and_little_noise_the_margin():
    p = ABOVE_HALF[1:]
    for radius in (radius_mono_exact, radius_mono_lipschitz):
        np.testing.assert_allclose(
            radius(p, sigma=0.5, lipschitz=1e4), radius_mono(p, sigma=0.5), rtol=1e-6
        )
        np.testing.assert_allclose(
            radius(ABOVE_HALF, sigma=0.5, lipschitz=np.inf),
            radius_mono(ABOVE_HALF, sigma=0.5),
            rtol=1e-14,
        )
    still = radius_mono_exact(p, sigma=1e-8, lipschitz=0.5)
    np.testing.assert_allclose(still, (p - 0.5) / 0.5, rtol=1e-6)
    rival = np.minimum(1 - p, 0.3)
    np.testing.assert_allclose(
        radius_multi_exact(p, rival, sigma=1e-8, lipschitz=0.5),
        radius_margin(p - rival, lipschitz=0.5, per_score=True),
        rtol=1e-6,
    )
    # The published radius has another limit.
    still = radius_mono_lipschitz(0.99, sigma=1e-8, lipschitz=1)
    z = ndtri(0.99)
    assert still == pytest.approx(
        z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), rel=1e-6
    )
    assert still < 0.13 * 0.49


@pytest.mark.statistical
@pytest.mark.parametrize(("sigma", "lipschitz"), [(0.5, 0.5), (0.25, 2.0), (1.0, 0.1)])
def test_the_ramp_classifier_changes_its_mind_exactly_at_the_radius(sigma, lipschitz):
    """Votes are drawn with the ramp as their probability, in five dimensions."""
    rng, n = np.random.default_rng(7), 200_000
    direction = rng.standard_normal(5)
    direction /= np.linalg.norm(direction)
    exact = float(radius_mono_exact(0.95, sigma=sigma, lipschitz=lipschitz))

    def votes(distance):
        noisy = distance * direction + sigma * rng.standard_normal((n, 5))
        score = np.clip(0.5 + lipschitz * (exact - noisy @ direction), 0, 1)
        return int(np.count_nonzero(rng.random(n) < score))

    assert binomtest(votes(0.0), n, 0.95).pvalue > 1e-3
    assert binomtest(votes(exact), n, 0.5).pvalue > 1e-3
    # Controls: a little nearer it has not changed, a little further it has.
    assert binomtest(votes(0.95 * exact), n, 0.5, alternative="greater").pvalue < 1e-6
    assert binomtest(votes(1.05 * exact), n, 0.5, alternative="less").pvalue < 1e-6


def test_the_multi_radius_is_attained_by_two_ramps_and_the_rest():
    """Ramps in opposite directions; eight other classes share what they leave."""
    sigma, lipschitz, p_a, p_b = 0.3, 1.2, 0.6, 0.15
    known = {"sigma": sigma, "lipschitz": lipschitz}
    t_a, t_b = (radius_mono_exact(p, **known) for p in (p_a, p_b))
    u = np.linspace(-8, 8, 40_001)
    scores = np.clip(0.5 + lipschitz * np.stack([t_a - u, t_b + u]), 0, 1)
    rest = 1 - scores.sum(axis=0)
    assert rest.min() > -1e-12
    assert np.abs(np.diff(rest)).max() <= lipschitz * (u[1] - u[0]) * (1 + 1e-9)
    radius = float(radius_multi_exact(p_a, p_b, **known))

    def winner(distance):
        weights = np.exp(-(((u - distance) / sigma) ** 2) / 2)
        means = np.stack([*scores, rest / 8]) @ (weights / weights.sum())
        if distance == 0:
            np.testing.assert_allclose(means[:2], [p_a, p_b], atol=1e-6)
        return means.argmax()

    assert winner(0) == winner(0.999 * radius) == 0
    assert winner(1.001 * radius) == 1
    # As one vector these scores have a constant larger by the square root of two.
    steepest = np.linalg.norm(np.diff(scores, axis=1), axis=0).max() / (u[1] - u[0])
    assert steepest == pytest.approx(np.sqrt(2) * lipschitz)


@pytest.mark.parametrize(("p_a", "p_b"), [(0.9, 0.05), (0.5, 0.4)])
def test_a_vector_constant_gives_a_second_radius(p_a, p_b):
    """As documented: the margin is a score too. Either radius can be the larger."""
    constants = np.geomspace(0.01, 100, 41)
    single = radius_multi_exact(p_a, p_b, sigma=0.5, lipschitz=constants)
    margin = (1 + p_a - p_b) / 2
    vector = radius_mono_exact(margin, sigma=0.5, lipschitz=constants / np.sqrt(2))
    assert vector[0] > 1.4 * single[0]
    assert vector[0] == pytest.approx(
        radius_margin(p_a - p_b, lipschitz=constants[0]), rel=0.01
    )
    assert vector[-1] < single[-1]


def test_lipschitz_radii_are_signed_and_their_edges_infinite():
    for radius, p in itertools.product(
        (radius_mono_exact, radius_mono_lipschitz), (0.0, 0.25, 0.5)
    ):
        below = radius(p, sigma=1, lipschitz=1)
        assert below == -radius(1 - p, sigma=1, lipschitz=1)
        assert np.sign(below) == np.sign(p - 0.5)
    assert radius_mono_lipschitz(1.0, sigma=1, lipschitz=1) == np.inf
    assert radius_multi_exact(0.6, 1.0, sigma=1, lipschitz=1) == -np.inf
    shapes = radius_multi_exact(np.ones((3, 1)) / 2, 0.2, sigma=1, lipschitz=[1, 2])
    assert shapes.shape == (3, 2)


def test_a_bound_below_the_mean_gives_a_smaller_exact_radius():
    """Certifying from bounds needs this; the published radius does not have it."""
    p = np.linspace(0.5, 0.9999, 2000)
    for product in (1e-3, 0.05, 1, 30):
        assert np.all(np.diff(radius_mono_exact(p, sigma=1, lipschitz=product)) > 0)
    assert np.any(np.diff(radius_mono_lipschitz(p, sigma=1, lipschitz=0.05)) < 0)


def test_the_mean_at_the_radius_is_one_half():
    known = {"sigma": 0.7, "lipschitz": 0.9}
    radius = radius_mono_exact(0.8, **known)
    assert ramp_mean(radius, **known) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: radius_mono(1.1, sigma=1), r"p_a must lie in \[0, 1\], got 1.1"),
        (lambda: radius_mono(np.nan, sigma=1), "p_a must lie in"),
        (lambda: radius_multi(0.9, -0.1, sigma=1), "p_b must lie in"),
        (lambda: radius_mono(0.9, sigma=0), "sigma must be positive and finite, got 0"),
        (lambda: radius_mono(0.9, sigma=np.inf), "sigma must be positive"),
        (lambda: radius_mono_exact(2, sigma=1, lipschitz=1), "p_a must lie in"),
        (lambda: radius_multi_exact(1, 2, sigma=1, lipschitz=1), "p_b must lie in"),
        (lambda: radius_mono_lipschitz(2, sigma=1, lipschitz=1), "p_a must lie in"),
        (lambda: radius_multi_lipschitz(1, 2, sigma=1, lipschitz=1), "p_b must lie in"),
        (
            lambda: radius_mono_exact(0.9, sigma=1, lipschitz=0),
            "lipschitz must be positive, got 0",
        ),
        (lambda: radius_smoothed_margin(1, 2, sigma=1), "p_b must lie in"),
        (lambda: radius_margin(np.nan, lipschitz=1), "margin must be finite, got nan"),
        (lambda: radius_margin(1, lipschitz=-1), "lipschitz must be positive, got -1"),
        (lambda: max_radius(0, sigma=1, alpha=0.1), "n must be at least 1, got 0"),
        (lambda: max_radius(5, sigma=1, alpha=0), r"alpha must lie in \(0, 1\), got 0"),
    ],
)
def test_bad_input_names_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
