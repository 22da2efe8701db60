"""The ramp: its mean in 60 digits, by quadrature, and as the worst of a linear program.

Three derivations that share nothing: the closed form, the integral of the ramp, and a
linear program over all Lipschitz functions on a grid.
"""

import itertools

import mpmath as mp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import diags, vstack
from scipy.special import ndtr, ndtri

from lipsmooth.ramp import ramp_inverse, ramp_mean, ramp_slope, smoothed_lipschitz

# L * sigma; at 2 the module goes over from averages to differences.
PRODUCTS = (1e-3, 0.01, 0.1, 0.5, 1.0, 1.99, 2.0, 2.01, 5.0, 100.0, 1e4)
TAILS = (1e-9, 1e-6, 1e-3, 0.05, 0.3, 0.49999)
SIGMA = 0.25
GRID = list(itertools.product(PRODUCTS, TAILS))


def closed_form(t, *, sigma, lipschitz):
    """h(t) and h'(t): differences of nearly equal numbers, with digits to spare."""
    t, sigma, lipschitz = map(mp.mpf, (t, sigma, lipschitz))
    edges = [(t + sign / (2 * lipschitz)) / sigma for sign in (-1, 1)]
    low, high = (v * mp.ncdf(v) + mp.npdf(v) for v in edges)
    slope = lipschitz * (mp.ncdf(edges[1]) - mp.ncdf(edges[0]))
    return lipschitz * sigma * (high - low), slope


def by_quadrature(t, *, sigma, lipschitz):
    """The ramp integrated against the density of the noise, and nothing else."""
    foot, top = (mp.mpf(sign) / (2 * lipschitz) - t for sign in (-1, 1))
    density = lambda u: mp.npdf(u, 0, sigma)  # noqa: E731
    rise = mp.quad(lambda u: (0.5 + lipschitz * (t + u)) * density(u), [foot, top])
    return rise + mp.quad(density, [top, max(top, 0) + 12 * sigma])


def least_mean(p, shift, *, sigma, lipschitz):
    """Least mean after a shift, over Lipschitz scores with mean ``p`` before it.

    The scores are constant on the cells of a grid, which moves a mean by half a cell's
    rise at most; that rise is returned too.
    """
    step = sigma / 40
    u = np.arange(-8 * sigma, 8 * sigma + shift, step)
    edges = np.r_[-np.inf, (u[1:] + u[:-1]) / 2, np.inf]
    before, after = (np.diff(ndtr((edges - mean) / sigma)) for mean in (0, shift))
    rise = diags([-1.0, 1.0], [0, 1], shape=(len(u) - 1, len(u)))
    solved = linprog(
        after,
        A_ub=vstack([rise, -rise]),
        b_ub=np.full(2 * len(u) - 2, lipschitz * step),
        A_eq=before[np.newaxis],
        b_eq=[p],
        bounds=(0, 1),
    )
    assert solved.status == 0
    return solved.fun, lipschitz * step


# Values


@pytest.mark.parametrize(("product", "p"), GRID)
def test_mean_slope_and_inverse_agree_with_sixty_digits(product, p):
    setting = {"sigma": SIGMA, "lipschitz": product / SIGMA}
    t = float(ramp_inverse(p, **setting))
    with mp.workdps(60):
        mean, slope = closed_form(t, **setting)
        assert abs(ramp_mean(t, **setting) / mean - 1) < 1e-11
        assert abs(ramp_slope(t, **setting) / slope - 1) < 1e-11
        # How far t is from the t that has the mean p exactly.
        assert abs((mean - p) / slope) < 1e-12 * (SIGMA + abs(t))


@pytest.mark.parametrize(("product", "p"), GRID)
def test_the_inverse_returns_to_where_it_came_from(product, p):
    setting = {"sigma": SIGMA, "lipschitz": product / SIGMA}
    t = float(ramp_inverse(p, **setting)) * (1 - 1e-7)
    assert ramp_inverse(ramp_mean(t, **setting), **setting) == pytest.approx(
        t, rel=0, abs=1e-9
    )


@pytest.mark.parametrize(("product", "p"), GRID)
def test_near_one_it_returns_as_far_as_doubles_tell(product, p):
    """Above one half a mean is known to half the distance between doubles, 2**-54."""
    setting = {"sigma": SIGMA, "lipschitz": product / SIGMA}
    t = -float(ramp_inverse(p, **setting))
    unknown = 2.0**-54 / ramp_slope(t, **setting)
    returned = ramp_inverse(ramp_mean(t, **setting), **setting)
    assert abs(returned - t) < 1e-9 + 1.01 * unknown
    # The complement loses nothing.
    assert abs(-ramp_inverse(ramp_mean(-t, **setting), **setting) - t) < 1e-9


def test_the_plain_difference_would_not_be_good_enough():
    """At L sigma = 10^4 it would lose a thousand times what doubles near 1 can tell."""
    sigma, lipschitz = 1.0, 1e4
    t = -float(ramp_inverse(1e-9, sigma=sigma, lipschitz=lipschitz))
    v = np.array([-0.5, 0.5]) / lipschitz + t
    area = v * ndtr(v) + np.exp(-(v**2) / 2) / np.sqrt(2 * np.pi)
    naive = lipschitz * (area[1] - area[0])
    assert abs(naive - ramp_mean(t, sigma=sigma, lipschitz=lipschitz)) > 1000 * 2.0**-54


@pytest.mark.parametrize("product", PRODUCTS)
def test_it_is_odd_about_one_half_and_increases(product):
    setting = {"sigma": 1.0, "lipschitz": product}
    p = np.arange(1, 512) / 512
    t = ramp_inverse(p, **setting)
    assert np.all(np.diff(t) > 0)
    np.testing.assert_allclose(t, -t[::-1], rtol=1e-14)  # 1 - p is exact here
    assert ramp_inverse(0.5, **setting) == 0
    np.testing.assert_allclose(ramp_mean(t, **setting), p, rtol=1e-12)


def test_edges_and_limits():
    assert ramp_inverse(0.0, sigma=1, lipschitz=1) == -np.inf
    assert ramp_inverse(1.0, sigma=1, lipschitz=1) == np.inf
    assert list(ramp_mean([-np.inf, 0, np.inf], sigma=1, lipschitz=3)) == [0, 0.5, 1]
    assert list(ramp_slope([-np.inf, np.inf], sigma=1, lipschitz=3)) == [0, 0]
    p = np.array([1e-300, 1e-9, 0.2, 0.5, 0.75, 1 - 2.0**-50])
    np.testing.assert_allclose(
        ramp_inverse(p, sigma=2, lipschitz=np.inf), 2 * ndtri(p), rtol=1e-14
    )
    assert ramp_mean(0.3, sigma=0.5, lipschitz=np.inf) == pytest.approx(ndtr(0.6))
    # Far outside the range that is promised it is still the right limit.
    for product in (1e-100, 1e100):
        margin = ramp_inverse(0.75, sigma=1, lipschitz=product)
        assert margin == pytest.approx(max(0.25 / product, ndtri(0.75)))


def test_shapes_broadcast():
    p, sigma = np.full((4, 1, 1), 0.7), np.array([[0.1], [0.2]])
    together = ramp_inverse(p, sigma=sigma, lipschitz=[1.0, 2.0, np.inf])
    assert together.shape == (4, 2, 3)
    assert together[1, 1, 1] == ramp_inverse(0.7, sigma=0.2, lipschitz=2)
    assert ramp_mean([], sigma=1, lipschitz=1).shape == (0,)


# Other derivations


@pytest.mark.parametrize("sigma", [0.05, 1.0])
@pytest.mark.parametrize("lipschitz", [0.3, 4.0])
@pytest.mark.parametrize("t", [-1.5, -0.2, 0.0, 0.7])
def test_the_mean_is_an_integral(sigma, lipschitz, t):
    setting = {"sigma": sigma, "lipschitz": lipschitz}
    with mp.workdps(30):
        assert abs(by_quadrature(t, **setting) - ramp_mean(t, **setting)) < 1e-14


@pytest.mark.parametrize(
    ("p", "shift", "sigma", "lipschitz"),
    [
        (0.9, 0.4, 0.5, 1.0),
        (0.99, 1.2, 0.5, 0.5),
        (0.7, 0.5, 0.4, 0.8),
        (0.3, 0.9, 1.0, 0.2),
    ],
)
def test_no_lipschitz_function_falls_faster_than_the_ramp(p, shift, sigma, lipschitz):
    setting = {"sigma": sigma, "lipschitz": lipschitz}
    programmed, rise = least_mean(p, shift, **setting)
    centre = ramp_inverse(p, **setting)
    assert programmed == pytest.approx(
        ramp_mean(centre - shift, **setting), abs=rise / 10
    )
    # It is another number that a step of any steepness would reach.
    step = ndtr(ndtri(p) - shift / sigma)
    assert programmed > step + rise


def test_the_quantile_of_a_lipschitz_score_is_lipschitz():
    """Random Lipschitz scores on a line; only one known to be too steep may differ."""
    rng = np.random.default_rng(0)
    sigma, lipschitz, step = 0.3, 2.0, 0.01
    u = np.arange(-6, 6, step)
    walks = np.cumsum(rng.choice([-1, 1], (200, len(u) // 20)), axis=1).repeat(
        20, axis=1
    )
    tops = np.clip(0.5 + rng.uniform(-1, 1, (200, 1)) + walks * 0.4, 0, 1)
    scores = np.stack([np.interp(u, u[::20], row[::20]) for row in tops])
    assert np.abs(np.diff(scores)).max() <= lipschitz * step + 1e-12
    x = np.linspace(-3, 3, 121)
    weights = np.exp(-(((u[:, None] - x) / sigma) ** 2) / 2)
    means = scores @ (weights / weights.sum(axis=0))

    def steepest(constant):
        inner = np.clip(means, 1e-6, 1 - 1e-6)
        quantile = ramp_inverse(inner, sigma=sigma, lipschitz=constant)
        return np.abs(np.diff(quantile)).max() / (x[1] - x[0])

    assert 0.8 < steepest(lipschitz) <= 1 + 1e-3
    assert steepest(lipschitz / 2) > 1.2


# The Lipschitz constant after smoothing


@pytest.mark.parametrize(("sigma", "lipschitz"), [(0.1, 2.0), (1.0, 1.0), (2.0, 30.0)])
def test_a_ramp_attains_the_smoothed_constant(sigma, lipschitz):
    t = np.linspace(-1e-3, 1e-3, 3)
    observed = np.diff(ramp_mean(t, sigma=sigma, lipschitz=lipschitz)).max() / 1e-3
    constant = smoothed_lipschitz(sigma=sigma, lipschitz=lipschitz)
    assert constant == pytest.approx(observed, rel=1e-4)
    assert constant == pytest.approx(ramp_slope(0, sigma=sigma, lipschitz=lipschitz))


def test_the_smoothed_constant_scales_and_has_both_limits():
    half = smoothed_lipschitz(sigma=0.3, lipschitz=0.5)
    assert smoothed_lipschitz(sigma=0.3, lipschitz=5, score_range=10) == pytest.approx(
        10 * half
    )
    assert smoothed_lipschitz(sigma=0.5) == pytest.approx(2 / np.sqrt(2 * np.pi))
    both = smoothed_lipschitz(sigma=0.5, lipschitz=[1e-9, 1e12, np.inf])
    np.testing.assert_allclose(both, [1e-9, both[2], 2 / np.sqrt(2 * np.pi)])


def test_the_printed_constant_is_up_to_twice_as_large():
    products = np.array([1e-3, 0.5, 1e3])
    printed = products * np.array(
        [float(mp.erf(1 / (mp.sqrt(2) * s))) for s in products]
    )
    ratio = printed / smoothed_lipschitz(sigma=1.0, lipschitz=products)
    np.testing.assert_allclose(ratio[[0, 2]], [1, 2], rtol=1e-6)
    assert 1.3 < ratio[1] < 1.5


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ramp_mean(np.nan, sigma=1, lipschitz=1), "t must not be NaN, got nan"),
        (
            lambda: ramp_mean(0, sigma=0, lipschitz=1),
            "sigma must be positive and finite",
        ),
        (
            lambda: ramp_slope(0, sigma=1, lipschitz=0),
            "lipschitz must be positive, got 0",
        ),
        (lambda: ramp_inverse(1.2, sigma=1, lipschitz=1), r"p must lie in .* got 1.2"),
        (lambda: ramp_inverse(0.2, sigma=1, lipschitz=np.nan), "lipschitz must be pos"),
        (lambda: smoothed_lipschitz(sigma=-1), "sigma must be positive"),
        (
            lambda: smoothed_lipschitz(sigma=1, lipschitz=-2),
            "lipschitz must be positive",
        ),
        (
            lambda: smoothed_lipschitz(sigma=1, score_range=np.inf),
            "score_range must be positive and finite, got inf",
        ),
    ],
)
def test_bad_input_names_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
