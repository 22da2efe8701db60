"""Certification from counts: exact coverage, dominance, controls, bad input."""

import numpy as np
import pytest
from scipy.stats import beta, binomtest, norm

from lipsmooth.certify import ABSTAIN, STRATEGIES, certify_counts, predict_counts
from lipsmooth.coverage import all_counts, failure_probability, multinomial_pmf


def simplex_grid(steps, classes):
    """Class probabilities on a grid that includes the corners and edges."""
    return all_counts(steps, classes) / steps


def edge_points(classes):
    """Points beside the places where a radius changes sign or explodes."""
    rng = np.random.default_rng(7)
    tie = np.full(classes, 0.5 / (classes - 1))
    tie[0] = 0.5
    points = [tie, np.eye(classes)[0], np.eye(classes)[-1]]
    for epsilon in (1e-12, 1e-6, 1e-3):
        nearly = np.full(classes, epsilon / (classes - 1))
        nearly[0] = 1 - epsilon
        shifted = tie.copy()
        shifted[:2] += epsilon, -epsilon
        points += [nearly, shifted, np.roll(shifted, 1)]
    return np.vstack([points, rng.dirichlet(np.ones(classes), 100)])


def certified_for_class_0(counts, strategy, alpha, runner_up=1):
    selection = np.zeros_like(counts)
    selection[:, 0], selection[:, runner_up] = 2, 1
    return certify_counts(
        selection, counts, sigma=1.0, alpha=alpha, strategy=strategy, allow_unsound=True
    ).radius


def worst_failure(strategy, n, classes, alpha, points):
    counts = all_counts(n, classes)
    certified = certified_for_class_0(counts, strategy, alpha)
    return failure_probability(certified, counts, points, sigma=1.0).max()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.2, 0.5])
@pytest.mark.parametrize(
    ("n", "classes"), [(1, 2), (10, 2), (40, 2), (10, 3), (40, 3), (12, 4)]
)
def test_failure_probability_never_exceeds_alpha(strategy, alpha, n, classes):
    points = np.vstack([simplex_grid({2: 200, 3: 40, 4: 14}[classes], classes),
                        edge_points(classes)])  # fmt: skip
    assert worst_failure(strategy, n, classes, alpha, points) <= alpha


@pytest.mark.parametrize(("n", "at_least"), [(10, 0.15), (40, 0.5)])
def test_the_same_check_catches_the_fixed_runner_up(n, at_least):
    points = simplex_grid(40, 3)
    assert worst_failure("fixed-runner-up", n, 3, 0.05, points) > at_least


def test_the_same_check_catches_a_doubled_level():
    failures = [
        worst_failure("mono", n, 2, 0.1, simplex_grid(400, 2)) for n in range(5, 40)
    ]
    assert max(failures) > 0.05, "a level of 0.1 sold as 0.05 must show"


def test_selection_from_the_estimation_votes_is_caught():
    """Naming the class after seeing the estimation votes breaks the level."""
    counts = all_counts(20, 2)
    alpha, p = 0.4, np.array([0.5, 0.5])
    reused = certify_counts(counts, counts, sigma=1.0, alpha=alpha, strategy="mono")
    wrong = (reused.prediction != ABSTAIN) & (reused.radius > 0)
    assert multinomial_pmf(counts, p)[wrong].sum() > alpha


def random_counts(rng, images, classes, n):
    p = rng.dirichlet(np.full(classes, 0.3), size=images)
    return rng.multinomial(n, p)


@pytest.mark.parametrize("strategy", ["bonferroni", "cpm"])
@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
def test_max_upper_is_never_below(classes, strategy):
    rng = np.random.default_rng(classes)
    images = 10_000 if classes <= 10 else 1_000
    for n in (1, 7, 1000):
        selection = random_counts(rng, images, classes, 20)
        estimation = random_counts(rng, images, classes, n)
        estimation[: images // 2] += selection[: images // 2]
        ours, theirs = (
            certify_counts(selection, estimation, sigma=0.5, alpha=0.01, strategy=name)
            for name in ("max-upper", strategy)
        )
        assert np.all(ours.radius >= theirs.radius)
        assert np.all(ours.p_a_lower >= theirs.p_a_lower)
        assert np.all(ours.p_b_upper <= theirs.p_b_upper)


LEVELS = {"mono": 0.01, "bonferroni": 0.01 / 5, "max-upper": 0.01 / 2}


@pytest.mark.parametrize("strategy", LEVELS)
def test_against_a_loop_over_images_and_classes(strategy):
    """An independent derivation: Beta quantiles one by one, the maximum of bounds."""
    rng = np.random.default_rng(1)
    selection, estimation = (random_counts(rng, 60, 5, n) for n in (30, 500))
    got = certify_counts(
        selection, estimation, sigma=0.5, alpha=0.01, strategy=strategy
    )
    level = LEVELS[strategy]
    for i, votes in enumerate(estimation):
        top = int(np.argmax(selection[i]))
        k = votes[top]
        p_a = beta.ppf(level, k, 500 - k + 1) if k else 0.0
        uppers = [beta.isf(level, b + 1, 500 - b) if b < 500 else 1.0
                  for c, b in enumerate(votes) if c != top]  # fmt: skip
        p_b = 1 - p_a if strategy == "mono" else max(uppers)
        radius = 0.25 * (norm.ppf(p_a) - norm.ppf(p_b))
        assert got.p_a_lower[i] == pytest.approx(p_a, rel=1e-12)
        assert got.p_b_upper[i] == pytest.approx(p_b, rel=1e-12)
        assert got.radius[i] == pytest.approx(max(radius, 0), abs=1e-9)
        assert got.prediction[i] == (top if radius > 0 else ABSTAIN)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_vote_for_the_selected_class_abstains(strategy):
    got = certify_counts([[3, 0]], [[0, 50]], sigma=1.0, alpha=0.01, strategy=strategy)
    assert got.prediction[0] == ABSTAIN
    assert got.radius[0] == 0.0
    assert not np.isnan(got.p_a_lower[0])


def test_images_do_not_influence_each_other_and_sigma_may_vary():
    rng = np.random.default_rng(2)
    selection, estimation = (random_counts(rng, 9, 4, n) for n in (50, 900))
    sigma = np.linspace(0.1, 1, 9)
    together = certify_counts(selection, estimation, sigma=sigma, alpha=0.01)
    for i in range(9):
        alone = certify_counts(
            selection[i : i + 1], estimation[i : i + 1], sigma=sigma[i], alpha=0.01
        )
        assert alone.radius[0] == together.radius[i]
    assert len(together) == 9


def test_predict_is_the_two_sided_binomial_test():
    rng = np.random.default_rng(3)
    counts = random_counts(rng, 200, 4, 60)
    got = predict_counts(counts, alpha=0.05)
    for votes, prediction in zip(counts, got, strict=True):
        winner, second = np.sort(votes)[::-1][:2]
        rejects = binomtest(int(winner), int(winner + second), 0.5).pvalue <= 0.05
        assert prediction == (np.argmax(votes) if rejects else ABSTAIN)


def test_predict_errs_at_most_alpha_exactly():
    """P(wrong class returned) over every outcome, at a tie where it is largest."""
    counts = all_counts(25, 3)
    returned = predict_counts(counts, alpha=0.1)
    naive = np.argmax(counts, axis=1)
    for p in ([0.4, 0.4, 0.2], [0.34, 0.33, 0.33], [0.5, 0.49, 0.01]):
        pmf = multinomial_pmf(counts, p)
        assert pmf[(returned != 0) & (returned != ABSTAIN)].sum() <= 0.1
        assert pmf[naive != 0].sum() > 0.1, "without the test the level is broken"


def test_predict_abstains_on_a_tie_at_any_level():
    assert predict_counts([[5, 5, 0]], alpha=0.999)[0] == ABSTAIN


GOOD = {"sigma": 0.5, "alpha": 0.01}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1, 2]], [[1, 2, 3]], GOOD), "counts_selection has shape"),
        (([1, 2], [1, 2], GOOD), r"shape \(images, classes\)"),
        (([[5]], [[5]], GOOD), "at least two classes"),
        (([[1, 2]], [[-1, 2]], GOOD), "must not be negative, got -1"),
        (([[1, 2]], [[0.5, 2]], GOOD), "whole numbers"),
        (([[1, 2]], [[np.nan, 2]], GOOD), "whole numbers"),
        (([[1, 2]], [["1", "2"]], GOOD), "whole numbers"),
        (([[1, 2], [1, 2]], [[1, 2], [0, 0]], GOOD), "no votes for image 1"),
        (([[1, 2]], [[1, 2]], dict(GOOD, sigma=-1)), "sigma must be positive"),
        (([[1, 2]], [[1, 2]], dict(GOOD, sigma=[1, 2])), "sigma has shape"),
        (
            ([[1, 2]], [[1, 2]], dict(GOOD, alpha=1)),
            r"alpha must lie in \(0, 1\), got 1",
        ),
        (
            ([[1, 2]], [[1, 2]], dict(GOOD, alpha=[0.1, 0.2])),
            "alpha must be one number",
        ),
        (([[1, 2]], [[1, 2]], dict(GOOD, strategy="cohen")), "strategy must be one of"),
        (([[1, 2]], [[1, 2]], dict(GOOD, strategy="fixed-runner-up")), "is unsound"),
        (([[1, 2]], [[1, 2]], dict(GOOD, randomize_seed=-1)), "at least 0 .*; got -1"),
        (([[1, 2]], [[1, 2]], dict(GOOD, randomize_seed=2**63)), "below 2"),
        (([[1, 2]], [[1, 2]], dict(GOOD, randomize_seed=0.5)), "whole number.*got 0.5"),
        (
            ([[1, 2]], [[1, 2]], dict(GOOD, randomize_seed=1, strategy="anytime")),
            "takes no coins",
        ),
        (
            ([[1, 2]], [[1, 2]], dict(GOOD, randomize_seed=1, index=[1, 2])),
            r"one whole number per image.*\(2,\) for 1 images",
        ),
        (
            ([[1, 2]], [[1, 2]], dict(GOOD, randomize_seed=1, index=[-3])),
            "index must be at least 0, got -3",
        ),
    ],
)
def test_bad_input_names_the_value(arguments, message):
    selection, estimation, keywords = arguments
    with pytest.raises(ValueError, match=message):
        certify_counts(selection, estimation, **keywords)
