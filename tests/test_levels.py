import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binom

from lipsmooth.certify import certify_counts
from lipsmooth.lattice import lattice_fit, print_radii
from lipsmooth.levels import exclusion_probability, level_range, unexplained_rows

N, SIGMA = 10_000, 0.25
LEVELS = np.array([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05])


def printed(votes, alpha, *, n=N, sigma=SIGMA):
    """Return radii as a log would print them, by the certifier itself."""
    counts = np.stack([votes, n - votes], axis=1)
    selection = np.tile([1, 0], (len(votes), 1))
    found = certify_counts(selection, counts, sigma=sigma, alpha=alpha, strategy="mono")
    return print_radii(found.radius)


@pytest.fixture(scope="module")
def votes():
    rng = np.random.default_rng(0)
    return np.concatenate(
        [rng.integers(4_900, N + 1, 300), N - rng.integers(0, 99, 60)]
    )


@pytest.mark.parametrize("sigma", [0.12, 0.25, 1.0])
@pytest.mark.parametrize("alpha", [0.001, 0.01])
def test_the_count_agrees_with_the_lattice(votes, alpha, sigma):
    radii = printed(votes, alpha, sigma=sigma)
    missed = unexplained_rows(radii, sigma=sigma, n=N, alpha=LEVELS)
    for level, count in zip(LEVELS, missed, strict=True):
        fit = lattice_fit(radii, sigma=sigma, n=N, alpha=level)
        assert count == fit.positive - fit.matching
        assert (count == 0) == (level == alpha)


def test_everything_that_can_be_wrong_broadcasts(votes):
    radii = printed(votes, 0.01)
    sizes, noise = np.array([N, 2 * N])[:, None], np.array([SIGMA, 0.26])
    missed = unexplained_rows(radii, sigma=noise, n=sizes, alpha=0.01)
    assert missed.shape == (2, 2)
    assert missed[0, 0] == 0
    assert np.all(missed.flat[1:] > 0)


def test_radii_next_to_a_power_of_ten():
    # 0.99951 prints as 1.0 and 0.99949 as 0.999; 1.0049 prints as 1.0 too.
    for radius, shown in ((0.99951, 1.0), (0.99949, 0.999), (1.0049, 1.0)):
        assert print_radii(radius) == shown
    # One vote certifies sigma * ndtri(alpha); a noise that puts it where it is wanted.
    for radius in (0.99951, 1.0049, 0.9994, 1.0051):
        sigma = radius / 0.2533471031357997  # ndtri(0.6)
        missed = unexplained_rows([1.0], sigma=sigma, n=1, alpha=0.6)
        assert missed == (print_radii(radius) != 1.0)


def test_a_wide_cell_beyond_the_last_point_is_unexplained():
    # At small levels the lattice ends far below 1, and a cell of more than 10 / n fits
    # between: 0.99856 is certified at most, and 1.0 stands for 0.99870 or more.
    n, alpha, sigma = 8_000, 1e-5, 1 / 3.17
    below, above = ndtr(np.array([0.95, 1.5]) / sigma)
    assert alpha ** (1 / n) < below < above - 10 / n
    known = {"sigma": sigma, "n": n, "digits": 1}
    assert unexplained_rows([1.0], alpha=alpha, **known) == 1
    assert unexplained_rows([1.0], alpha=0.01, **known) == 0


@pytest.mark.parametrize("alpha", [0.001, 0.01])
def test_the_range_of_levels_is_where_rows_are_explained(votes, alpha):
    radii = printed(votes, alpha)
    low, high = level_range(radii, sigma=SIGMA, n=N, alpha=alpha)
    assert low <= alpha <= high
    assert high / low < 1.02
    inside = np.geomspace(low * (1 + 1e-9), high * (1 - 1e-9), 50)
    known = {"sigma": SIGMA, "n": N}
    assert not unexplained_rows(radii, alpha=inside, **known).any()
    outside = np.array([low * (1 - 1e-9), high * (1 + 1e-9)])
    assert np.all(unexplained_rows(radii, alpha=outside, **known) > 0)


def test_small_radii_bound_no_level():
    radii = printed(np.arange(5_500, 6_500, 10), 0.01)
    assert level_range(radii, sigma=SIGMA, n=N, alpha=0.01) == (0, 1)
    assert unexplained_rows(radii, sigma=SIGMA, n=N, alpha=0.001) == 0


def test_a_level_that_does_not_fit_has_no_range(votes):
    with pytest.raises(ValueError, match=r"alpha = 0\.001 leaves \d+ radii unexpl"):
        level_range(printed(votes, 0.01), sigma=SIGMA, n=N, alpha=0.001)


def test_the_probability_of_exclusion_is_exact():
    # Summed by hand: every count, printed, and asked one by one.
    n, p = 2_000, np.array([0.5, 0.99, 0.999, 1.0])
    known = {"sigma": SIGMA, "n": n}
    counts = np.arange(n + 1)
    radii = printed(counts, 0.001, n=n)
    one_by_one = [unexplained_rows([r], alpha=0.01, **known) for r in radii]
    by_hand = binom.pmf(counts, n, p[:, None]) @ np.array(one_by_one)
    found = exclusion_probability(p, alpha=0.001, other=0.01, **known)
    np.testing.assert_allclose(found, by_hand, atol=1e-12)
    assert found[0] < 0.001 < 0.5 < found[2]
    # The truth is never excluded.
    assert not exclusion_probability(p, alpha=0.001, other=0.001, **known).any()


@pytest.mark.statistical
def test_logs_survive_a_wrong_level_as_often_as_announced():
    rng, rows, runs = np.random.default_rng(0), 20, 400
    p = np.tile([0.7, 0.99, 0.998, 0.9994], rows // 4)
    single = exclusion_probability(p, sigma=0.5, n=N, alpha=0.001, other=0.01)
    survival = np.prod(1 - single)
    assert 0.1 < survival < 0.9
    survived = sum(
        unexplained_rows(
            printed(rng.binomial(N, p), 0.001, sigma=0.5), sigma=0.5, n=N, alpha=0.01
        )
        == 0
        for _ in range(runs)
    )
    tail = min(
        binom.cdf(survived, runs, survival), binom.sf(survived - 1, runs, survival)
    )
    assert tail > 1e-3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"radii": [-0.1]}, "radii must be finite and at least 0"),
        ({"radii": [np.nan]}, "radii must be finite"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"alpha": [0.1, 2]}, r"alpha must lie in \(0, 1\), got \[0.1, 2\]"),
        ({"n": 0}, "n must be a whole number, at least 1, got 0"),
        ({"n": 10.5}, "n must be a whole number, at least 1, got 10.5"),
    ],
)
def test_bad_input(changed, message):
    arguments = {"radii": [0.1], "sigma": 0.5, "n": 1000, "alpha": 0.01, **changed}
    with pytest.raises(ValueError, match=message):
        unexplained_rows(arguments.pop("radii"), **arguments)
