import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import betabinom, binomtest

from lipsmooth.budget import (
    accuracy_ceiling,
    accuracy_with_votes,
    least_votes,
    rehearse,
)
from lipsmooth.certify import certify_counts
from lipsmooth.evaluate import certified_accuracy
from lipsmooth.intervals import clopper_pearson_lower
from lipsmooth.radii import radius_mono
from lipsmooth.sequential import course, stopping_rule

LEVEL = {"sigma": 0.5, "alpha": 0.001}
RADII = np.array([0.05, 0.25, 0.5, 1.0, 1.3])


def simulated(p, n, seed, n0=100):
    """Draw selection and estimation votes of two classes; class 0 has ``p``."""
    rng = np.random.default_rng(seed)
    sides = rng.binomial(n0, p), rng.binomial(n, p)
    labels = np.zeros(len(p), dtype=int)
    counts = [np.stack([k, m - k], 1) for k, m in zip(sides, (n0, n), strict=True)]
    return labels, *counts


def measured(labels, selection, estimation, at=RADII):
    found = certify_counts(selection, estimation, strategy="mono", **LEVEL)
    return certified_accuracy(labels, found.prediction, found.radius, at)


@pytest.mark.parametrize("n", [1, 50, 1000, 100_000])
@pytest.mark.parametrize("alpha", [0.3, 0.001])
def test_one_vote_fewer_does_not_certify(n, alpha):
    radii = np.linspace(0.001, 2, 40)
    fewest = least_votes(radii, n, sigma=0.5, alpha=alpha)
    assert np.all((fewest >= 1) & (fewest <= n + 1))

    def reach(k):
        bound = clopper_pearson_lower(np.minimum(k, n), n, alpha=alpha)
        return radius_mono(bound, sigma=0.5)

    inside = fewest <= n
    assert np.all(reach(fewest)[inside] >= radii[inside] - 1e-9)
    assert np.all(reach(fewest - 1) < radii + 1e-9)
    assert np.all(reach(fewest)[~inside] < radii[~inside])


def test_few_votes_cannot_certify_a_large_radius():
    assert least_votes(1.9, 10_000, **LEVEL) == 10_001
    assert least_votes(1.9, 100_000, **LEVEL) == 100_000


def test_with_the_votes_there_are_it_is_the_certified_accuracy():
    log = simulated(np.linspace(0.4, 1, 300), 2000, seed=1)
    np.testing.assert_allclose(
        accuracy_with_votes(*log, RADII, 2000, **LEVEL), measured(*log), atol=1e-12
    )


def test_fewer_votes_are_a_random_part_of_them():
    labels, selection, estimation = simulated(np.linspace(0.5, 1, 200), 1000, seed=2)
    rng = np.random.default_rng(3)
    parts = []
    for _ in range(60):
        drawn = [rng.multivariate_hypergeometric(row, 200) for row in estimation]
        parts.append(measured(labels, selection, np.stack(drawn)))
    expected = accuracy_with_votes(labels, selection, estimation, RADII, 200, **LEVEL)
    error = np.std(parts, axis=0) / np.sqrt(len(parts))
    assert np.all(np.abs(np.mean(parts, axis=0) - expected) <= 5 * error + 1e-9)
    # Fewer votes never certify more on average, and here plainly less.
    assert np.all(expected[1:4] < measured(labels, selection, estimation)[1:4])


def test_beyond_the_log_it_is_the_predictive_distribution():
    labels, selection, estimation = simulated(np.array([0.9, 0.97, 1.0]), 60, seed=4)
    k = estimation[:, 0]
    fewest = least_votes(RADII, 400, **LEVEL)
    exact = betabinom.sf(fewest[:, None] - 1, 400, k + 0.5, 60 - k + 0.5)
    own = accuracy_with_votes(labels, selection, estimation, RADII, 400, **LEVEL)
    np.testing.assert_allclose(own, exact.mean(axis=1), atol=0.004)


def test_the_estimate_meets_what_more_votes_then_certify():
    rng = np.random.default_rng(5)
    p = ndtr(rng.normal(1.2, 1.2, size=1500))
    before, after = simulated(p, 1000, seed=6), simulated(p, 20_000, seed=7)
    expected = accuracy_with_votes(*before, RADII, 20_000, **LEVEL)
    np.testing.assert_allclose(expected, measured(*after), atol=0.02)
    # The control: what the log itself certifies is too little.
    assert np.all(measured(*before)[2:] < measured(*after)[2:] - 0.02)


@pytest.mark.statistical
def test_the_ceiling_leaves_out_as_few_images_as_it_says():
    alpha, radius, images = 0.05, 0.5, 20_000
    p = np.full(images, ndtr(radius / 0.5))  # certifies the radius, just
    labels, _, estimation = simulated(p, 500, seed=8)
    settings = {"sigma": 0.5, "alpha": alpha}
    left = accuracy_ceiling(labels, estimation, [radius, 1.2 * radius], **settings)
    missing = round(images * (1 - left[0]))
    assert binomtest(missing, images, alpha, alternative="greater").pvalue > 1e-6
    assert left[1] < 0.5  # and says something about larger radii


def test_no_number_of_votes_passes_the_ceiling():
    log = simulated(np.linspace(0.3, 1, 200), 1000, seed=9)
    ceiling = accuracy_ceiling(log[0], log[2], RADII, **LEVEL)
    for n in (100, 1000):
        assert np.all(accuracy_with_votes(*log, RADII, n, **LEVEL) <= ceiling + 1e-12)


def test_an_image_with_another_class_selected_never_counts():
    labels, selection, estimation = simulated(np.full(5, 0.999), 1000, seed=10)
    wrong = accuracy_with_votes(
        labels, selection[:, ::-1], estimation, RADII, 5000, **LEVEL
    )
    assert np.all(wrong == 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": -1.0}, "radius must be finite and at least 0, got -1.0"),
        ({"n": 0}, "n must be at least 1"),
        ({"alpha": 2}, r"alpha must lie in \(0, 1\), got 2"),
        ({"sigma": 0}, "sigma must be positive"),
    ],
)
def test_bad_arguments_are_named(change, message):
    good = {"radius": 0.5, "n": 100, "sigma": 0.5, "alpha": 0.01}
    values = {**good, **change}
    with pytest.raises(ValueError, match=message):
        least_votes(values.pop("radius"), values.pop("n"), **values)


def test_votes_of_different_number_are_refused():
    counts = np.array([[9, 1], [5, 1]])
    with pytest.raises(ValueError, match="same number of votes, got 6 to 10"):
        accuracy_ceiling([0, 0], counts, 0.5, **LEVEL)


@pytest.mark.statistical
@pytest.mark.parametrize("p", [0.0, 0.8, 0.86, 0.9, 1.0])
def test_a_rehearsal_follows_the_course_of_the_rule(p):
    rule = stopping_rule(0.5, sigma=0.5, n=2000, alpha=0.05)
    exact, images = course(p, rule), 3000
    decision, votes = rehearse(np.full(images, p), rule, rng=np.random.default_rng(11))
    assert abs(votes.mean() - exact.votes) <= 5 * votes.std() / np.sqrt(images) + 1e-9
    for answer, chance in ((1, exact.accepted[-1]), (-1, exact.rejected[-1])):
        said = int(np.sum(decision == answer))
        assert binomtest(said, images, min(chance, 1.0)).pvalue > 1e-6
    assert np.all(votes[decision == 0] == rule.looks[-1])
    # The control: another probability has another course.
    far = rehearse(np.full(images, 0.5), rule, rng=np.random.default_rng(11))[1]
    assert abs(far.mean() - course(0.86, rule).votes) > 20 * far.std() / np.sqrt(images)


def test_a_rehearsal_of_no_probability_is_refused():
    rule = stopping_rule(0.5, sigma=0.5, n=100, alpha=0.05)
    with pytest.raises(ValueError, match=r"p must be numbers in \[0, 1\]"):
        rehearse([1.5], rule, rng=np.random.default_rng(0))
