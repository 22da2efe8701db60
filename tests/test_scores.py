"""Certificates from scores: by hand, against the truth, and where they must refuse."""

import numpy as np
import pytest
from scipy.special import ndtri, softmax
from scipy.stats import binomtest

from lipsmooth.certify import ABSTAIN, certify_counts
from lipsmooth.intervals import betting, empirical_bernstein, hoeffding
from lipsmooth.radii import radius_mono, radius_mono_exact, radius_multi_exact
from lipsmooth.scorebounds import score_bounds
from lipsmooth.scores import certify_score_samples, certify_scores, choose_map
from lipsmooth.twoclass import draw_moments


def sparsemax(logits):
    """Project every row onto the simplex, one row at a time."""
    rows = []
    for z in logits:
        ordered = np.sort(z)[::-1]
        excess = (np.cumsum(ordered) - 1) / np.arange(1, len(z) + 1)
        rows.append(np.maximum(z - excess[np.flatnonzero(ordered > excess)[-1]], 0))
    return np.array(rows)


def moments(samples):
    return samples.mean(axis=1), samples.var(axis=1, ddof=1)


@pytest.fixture
def scores():
    """Scores of 6 images, 500 samples, 4 classes."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 1, 4)) * 2 + rng.normal(size=(6, 500, 4))
    return softmax(logits, axis=-1)


def by_hand(first, mean, variance, n, sigma, alpha, strategy):
    """One image at a time, written from the formulas."""
    out = []
    for m0, m, v in zip(first, mean, variance, strict=True):
        a = int(np.argmax(m0))
        level = alpha if strategy == "mono" else alpha / 2
        width = np.sqrt(2 * v * np.log(2 / level) / n)
        width = width + 7 * np.log(2 / level) / (3 * (n - 1))
        lower = max(m[a] - width[a], 0)
        upper = max(min(m[b] + width[b], 1) for b in range(len(m)) if b != a)
        upper = 1 - lower if strategy == "mono" else upper
        with np.errstate(invalid="ignore"):
            radius = sigma / 2 * (ndtri(lower) - ndtri(upper))
        out.append((a, radius) if radius > 0 else (ABSTAIN, 0.0))
    return zip(*out, strict=True)


@pytest.mark.parametrize("strategy", ["lvmrs", "mono"])
@pytest.mark.parametrize("n", [2, 40, 500])
def test_certificates_are_those_computed_by_hand(scores, strategy, n):
    first = scores[:, :50].mean(axis=1)
    mean, variance = moments(scores[:, :n])
    got = certify_scores(
        first, mean, variance, n, sigma=0.5, alpha=0.01, strategy=strategy
    )
    prediction, radius = by_hand(first, mean, variance, n, 0.5, 0.01, strategy)
    np.testing.assert_array_equal(got.prediction, prediction)
    np.testing.assert_allclose(got.radius, radius, rtol=1e-9)
    assert n < 500 or np.any(got.radius > 0)
    assert n > 2 or np.all(got.prediction == ABSTAIN)


@pytest.mark.parametrize(("ours", "votes"), [("lvmrs", "max-upper"), ("mono", "mono")])
def test_hard_votes_are_certified_as_votes(ours, votes):
    rng = np.random.default_rng(1)
    counts = rng.multinomial(300, rng.dirichlet(np.full(4, 0.3), size=30))
    selection = rng.multinomial(30, counts / 300)
    mean = counts / 300
    got = certify_scores(
        selection / 30, mean, mean * (1 - mean) * 300 / 299, 300, sigma=1.0,
        alpha=0.05, strategy=ours, bound="clopper-pearson",
    )  # fmt: skip
    want = certify_counts(selection, counts, sigma=1.0, alpha=0.05, strategy=votes)
    np.testing.assert_array_equal(got.prediction, want.prediction)
    np.testing.assert_allclose(got.radius, want.radius, rtol=1e-12)
    soft = certify_scores(
        selection / 30, mean, mean * (1 - mean) * 300 / 299, 300, sigma=1.0,
        alpha=0.05, strategy=ours,
    )  # fmt: skip
    assert np.all(soft.radius <= got.radius)


def test_soft_scores_do_not_pass_for_votes(scores):
    with pytest.raises(ValueError, match="for scores that are 0 or 1"):
        score_bounds(*moments(scores), 500, alpha=0.1, bound="clopper-pearson")


def test_with_two_classes_the_second_tells_nothing_new():
    """Half of alpha for each side is then alpha / 2 for the only side there is."""
    rng = np.random.default_rng(2)
    laws = [0.2, -1.0, 3.0], [0.5, 0.2, 0.3]
    mean, variance = draw_moments(*laws, [("softmax", 0.5)], n=200, images=50, rng=rng)
    first, mean, variance = mean[:, 0], mean[:, 0], variance[:, 0]
    options = {"sigma": 1.0, "strategy": "mono"}
    shared = certify_scores(first, mean, variance, 200, sigma=1.0, alpha=0.1)
    half = certify_scores(first, mean, variance, 200, alpha=0.05, **options)
    full = certify_scores(first, mean, variance, 200, alpha=0.1, **options)
    np.testing.assert_allclose(shared.radius, half.radius, rtol=1e-9)
    assert np.all(full.radius >= half.radius)
    assert np.any(full.radius > half.radius)


def test_a_lipschitz_constant_enlarges_the_radius(scores):
    first, (mean, variance) = scores[:, :50].mean(axis=1), moments(scores[:, 50:])
    options = {"sigma": 0.5, "alpha": 0.01}
    plain = certify_scores(first, mean, variance, 450, **options)
    sure = plain.radius > 0
    for lipschitz in (0.1, 1.0, np.linspace(0.2, 1.2, len(first))):
        got = certify_scores(first, mean, variance, 450, **options, lipschitz=lipschitz)
        exact = radius_multi_exact(
            plain.p_a_lower, plain.p_b_upper, sigma=0.5, lipschitz=lipschitz
        )
        np.testing.assert_allclose(got.radius[sure], exact[sure], rtol=1e-12)
        assert np.all(got.radius[sure] > plain.radius[sure])
    one = certify_scores(
        first, mean, variance, 450, **options, lipschitz=1.0, strategy="mono"
    )
    want = radius_mono_exact(one.p_a_lower, sigma=0.5, lipschitz=1.0)
    np.testing.assert_allclose(one.radius, np.maximum(want, 0), rtol=1e-12)


def test_a_plan_never_sees_the_estimation_moments(scores):
    """Whatever the estimation says, the same images are certified the same way."""
    first, guess = moments(scores[:, :100])
    rng = np.random.default_rng(3)
    seen = []
    for _ in range(5):
        other = softmax(rng.normal(size=scores.shape), axis=-1)
        got = certify_scores(
            first, *moments(other), 500, sigma=1.0, alpha=0.01, strategy="planned",
            variance_selection=guess,
        )  # fmt: skip
        seen.append(got.p_b_upper == 1 - got.p_a_lower)
    assert np.all(np.array(seen) == seen[0])


def test_a_plan_takes_the_better_way_of_a_clear_case():
    # Nine rivals share the rest, or one has it all.
    spread = np.full(10, 0.3 / 9)
    spread[0] = 0.7
    lone = np.zeros(10)
    lone[:2] = 0.7, 0.3
    mean = np.array([spread, lone])
    moment = mean, np.full((2, 10), 0.02)
    got = {
        strategy: certify_scores(
            mean, *moment, 10_000, sigma=1.0, alpha=0.01, strategy=strategy,
            variance_selection=moment[1],
        ).radius
        for strategy in ("lvmrs", "mono", "planned")
    }  # fmt: skip
    assert got["lvmrs"][0] > got["mono"][0]
    assert got["lvmrs"][1] < got["mono"][1]
    np.testing.assert_array_equal(got["planned"], np.maximum(got["lvmrs"], got["mono"]))


def test_betting_is_the_bound_of_raw_scores(scores):
    first, samples = scores[:, :50].mean(axis=1), scores[:, 50:]
    options = {"sigma": 0.5, "alpha": 0.02}
    for strategy, level in (("lvmrs", 0.01), ("mono", 0.02)):
        got = certify_score_samples(first, samples, **options, strategy=strategy)
        top = first.argmax(axis=1)
        for i, chosen in enumerate(top):
            own = betting(samples[i].T, alpha=level)
            assert got.p_a_lower[i] == own.lower[chosen]
            upper = np.delete(own.upper, chosen).max()
            want = 1 - own.lower[chosen] if strategy == "mono" else upper
            assert got.p_b_upper[i] == want
        loose = certify_scores(
            first, *moments(samples), 450, **options, strategy=strategy
        )
        assert np.all(got.radius >= loose.radius)
        assert np.any(got.radius > loose.radius)


def test_equal_scores_have_variance_zero_and_a_finite_radius():
    mean = np.array([[1.0, 0.0, 0.0]] * 2)
    got = certify_scores(mean, mean, 0 * mean, 100, sigma=1.0, alpha=0.001)
    assert np.all(np.isfinite(got.radius))
    width = 7 * np.log(4000) / (3 * 99)
    np.testing.assert_allclose(got.radius, radius_mono(1 - width, sigma=1.0))


def test_ties_and_tiny_samples_abstain_or_name_the_first():
    tie = np.array([[0.4, 0.4, 0.2]])
    got = certify_scores(tie, tie, 0 * tie, 10**6, sigma=1.0, alpha=0.1)
    assert got.prediction[0] == ABSTAIN
    assert got.radius[0] == 0
    clear = np.array([[0.2, 0.5, 0.3]])
    first = np.array([[0.1, 0.45, 0.45]])
    got = certify_scores(first, clear, 0 * clear, 10**5, sigma=1.0, alpha=0.1)
    assert got.prediction[0] == 1
    one = np.array([[0.0, 1.0]])
    assert certify_scores(one, one, 0 * one, 2, sigma=1.0, alpha=0.1).radius[0] == 0


def test_rounding_of_single_precision_is_forgiven():
    mean = np.array([[1 + 1e-7, -1e-7]])
    got = certify_scores(
        mean, mean, 0 * mean, 1000, sigma=1.0, alpha=0.1, strategy="mono"
    )
    assert got.prediction[0] == 0


# Coverage against a known truth. A law: logits that a noisy copy can have, and with
# which probability; the truth of every map is then a finite sum.


def near_tie(classes, gap):
    """Two classes that win equally often but for a hair; the others never."""
    logits = np.full((2, classes), -3.0)
    logits[0, 0] = logits[1, 1] = 1.0
    return logits, [0.5 + gap, 0.5 - gap]


def everybody(classes, gap):
    """All classes win equally often but for a hair."""
    p = np.full(classes, (1 - gap) / classes)
    p[0] += gap
    return 2 * np.eye(classes), p


def heavy_tails(classes, exponent):
    """Margins over six orders of magnitude, the larger the rarer, of both signs."""
    size = 10.0 ** np.arange(-3, 4)
    p = size**-exponent
    logits = np.zeros((14, classes))
    logits[:7, 0], logits[7:, 1] = size, size
    return logits, np.tile(p / p.sum() / 2, 2)


def catastrophe(classes, rare):
    """Class 0 leads a little in nearly every copy; rarely class 1 wins outright."""
    logits = np.full((2, classes), -5.0)
    logits[0, :2] = 0.1, 0.0
    logits[1, :2] = 0.0, 50.0
    return logits, [1 - rare, rare]


LAWS = {
    f"{law.__name__}({classes}, {number:g})": law(classes, number)
    for law, numbers in (
        (near_tie, (0.0, 0.002)),
        (everybody, (0.0, 0.01)),
        (heavy_tails, (0.5, 1.0)),
        (catastrophe, (0.02, 0.045)),
    )
    for number in numbers
    for classes in (2, 3, 10)
}
MAPS = {
    "softmax at 1": lambda z: softmax(z, axis=-1),
    "softmax at 10": lambda z: softmax(z / 10, axis=-1),
    "sparsemax at 1": sparsemax,
    "sparsemax at 0.05": lambda z: sparsemax(z / 0.05),
}


def failures(law, to_scores, n, certify, images=4000, n0=20):
    """How often a certificate says more than is true of the smoothed classifier."""
    logits, p = law
    table, rng = to_scores(logits), np.random.default_rng(0)
    truth = np.asarray(p) @ table
    first, counts = (rng.multinomial(m, p, size=images) for m in (n0, n))
    mean = counts @ table / n
    away = table - truth
    shift = mean - truth
    variance = np.maximum(counts @ away**2 - n * shift**2, 0) / (n - 1)
    got = certify(first @ table / n0, mean, variance, n)
    rivals = np.array([np.delete(truth, k).max() for k in range(len(truth))])
    true_radius = (ndtri(truth) - ndtri(np.minimum(rivals, 1))) / 2
    certified = got.prediction != ABSTAIN
    too_far = got.radius > true_radius[got.prediction] + 1e-9
    return int(np.sum(certified & too_far)), images


def sound(alpha, strategy, bound="bernstein"):
    return lambda first, *rest: certify_scores(
        np.clip(first, 0, 1), np.clip(rest[0], 0, 1), *rest[1:], sigma=1.0,
        alpha=alpha, strategy=strategy, bound=bound,
    )  # fmt: skip


@pytest.mark.statistical
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [5, 30, 400, 20_000])
def test_coverage_in_adversarial_settings(law, n):
    """24 laws, four sample sizes, four maps, three rules: all within their level."""
    alpha = 0.2
    for name, to_scores in MAPS.items():
        for strategy, bound in (
            ("lvmrs", "bernstein"), ("mono", "bernstein"), ("lvmrs", "hoeffding"),
        ):  # fmt: skip
            wrong, runs = failures(
                LAWS[law], to_scores, n, sound(alpha, strategy, bound)
            )
            test = binomtest(wrong, runs, alpha, alternative="greater")
            assert test.pvalue > 1e-4, (name, strategy, bound, wrong / runs)


def careless(bound):
    """Certify with a bound that forgets a part of empirical Bernstein."""

    def certify(first, mean, variance, n):
        width = bound(mean, variance, n)
        top = first.argmax(axis=1)
        rows = np.arange(len(mean))
        lower = np.clip(mean - width, 0, 1)[rows, top]
        upper = np.clip(mean + width, 0, 1)
        upper[rows, top] = -1
        with np.errstate(invalid="ignore"):
            radius = (ndtri(lower) - ndtri(upper.max(axis=1))) / 2
        good = radius > 0

        class Found:
            prediction = np.where(good, top, ABSTAIN)

        Found.radius = np.where(good, radius, 0)
        return Found

    return certify


@pytest.mark.statistical
@pytest.mark.parametrize(
    "bound",
    [
        lambda mean, variance, n: np.zeros_like(mean),
        lambda mean, variance, n: np.sqrt(2 * variance * np.log(2 / 0.1) / n),
        lambda mean, variance, n: -ndtri(0.1) * np.sqrt(variance / n),
    ],
    ids=["no bound", "no second term", "normal approximation"],
)
def test_coverage_would_notice_a_careless_bound(bound):
    worst = max(
        failures(law, to_scores, n, careless(bound))[0]
        for name, law in LAWS.items()
        for to_scores in MAPS.values()
        for n in (5, 30)
        if "catastrophe" in name
    )
    assert binomtest(worst, 4000, 0.2, alternative="greater").pvalue < 1e-12


@pytest.mark.statistical
@pytest.mark.parametrize("law", [name for name in LAWS if "(3" in name])
def test_betting_covers_in_adversarial_settings(law):
    logits, p = LAWS[law]
    table, rng, alpha, images = sparsemax(logits), np.random.default_rng(1), 0.2, 400
    truth = np.asarray(p) @ table
    draws = rng.choice(len(p), p=p, size=(images, 60))
    first = table[rng.choice(len(p), p=p, size=(images, 10))].mean(axis=1)
    for strategy in ("lvmrs", "mono"):
        got = certify_score_samples(
            first, table[draws], sigma=1.0, alpha=alpha, strategy=strategy
        )
        rivals = np.array([np.delete(truth, k).max() for k in range(3)])
        radius = (ndtri(truth) - ndtri(rivals)) / 2
        wrong = np.sum(got.radius > np.maximum(radius[got.prediction], 0) + 1e-9)
        test = binomtest(int(wrong), images, alpha, alternative="greater")
        assert test.pvalue > 1e-4


# One map for all inputs


def held_out():
    """Three maps of five images: timid, good for confident images, good for all."""
    mean = np.empty((5, 3, 2))
    mean[:, 0, 0], mean[:, 1, 0], mean[:, 2, 0] = 0.6, [0.9, 0.9, 0.9, 0.4, 0.4], 0.8
    mean[..., 1] = 1 - mean[..., 0]
    return mean, np.full((5, 3, 2), 0.01), np.zeros(5, dtype=int)


def test_the_map_with_the_largest_expected_radius_is_chosen():
    mean, variance, labels = held_out()
    choice = choose_map(mean, variance, labels, 10_000, sigma=1.0, alpha=0.01)
    assert choice.index == 2
    width = np.sqrt(0.02 * np.log(400) / 10_000) + 7 * np.log(400) / (3 * 9999)
    radii = radius_mono(np.array([0.6, 0.9, 0.8]) - width, sigma=1.0)
    np.testing.assert_allclose(choice.expected_acr, radii * [1, 0.6, 1], rtol=1e-9)
    wrong = choose_map(mean, variance, labels + 1, 10_000, sigma=1.0, alpha=0.01)
    assert wrong.index == 1
    assert wrong.expected_acr[2] == 0


def test_the_number_of_samples_decides_between_margin_and_variance():
    """A wide margin with a large variance needs samples; a narrow one may not."""
    mean = np.array([[[0.70, 0.30], [0.75, 0.25]]])
    variance = np.array([[[0.0001, 0.0001], [0.1875, 0.1875]]])
    few, many = (
        choose_map(mean, variance, [0], n, sigma=1.0, alpha=0.001).index
        for n in (200, 10_000)
    )
    assert (few, many) == (0, 1)


def test_ties_go_to_the_first_map_whatever_the_last_digit():
    mean, variance, labels = held_out()
    mean[:, 1] = mean[:, 2] + [[1e-13, -1e-13]]
    for order in ([0, 1, 2], [0, 2, 1]):
        choice = choose_map(mean[:, order], variance, labels, 100, sigma=1.0, alpha=0.1)
        assert choice.index == 1


def test_each_map_has_its_own_bound_and_constant():
    mean = np.array([[[0.9, 0.1], [0.9, 0.1]]])
    variance = np.full((1, 2, 2), 0.09)
    options = {"sigma": 1.0, "alpha": 0.01}
    votes = choose_map(
        mean, variance, [0], 1000, bound=["bernstein", "clopper-pearson"], **options
    )
    assert votes.index == 1
    rough = choose_map(mean, variance, [0], 1000, lipschitz=[np.inf, 0.5], **options)
    assert rough.index == 1
    planned = choose_map(mean, variance, [0], 1000, strategy="planned", **options)
    mono = choose_map(mean, variance, [0], 1000, strategy="mono", **options)
    np.testing.assert_array_equal(planned.expected_acr, mono.expected_acr)


# What is refused

GOOD = np.array([[0.6, 0.3, 0.1]] * 2)


def call(**changes):
    given = {
        "mean_selection": GOOD, "mean": GOOD, "variance": GOOD / 10, "n": 100,
        "sigma": 1.0, "alpha": 0.01, **changes,
    }  # fmt: skip
    return certify_scores(**given)


def bad(value, where=(1, 2)):
    array = GOOD.copy()
    array[where] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean_selection": bad(np.nan)}, r"mean_selection has a NaN at \(1, 2\)"),
        ({"mean": bad(np.nan)}, r"mean has a NaN at \(1, 2\)"),
        ({"variance": bad(np.nan)}, r"variance must be finite .* nan at \(1, 2\)"),
        ({"variance": -GOOD}, "at least 0, got -0.6"),
        ({"variance": GOOD[:1]}, "variance has shape"),
        ({"mean": bad(1.1)}, r"mean must lie in \[0, 1\], got 1.1 at \(1, 2\)"),
        ({"mean_selection": GOOD[:, :2]}, "mean_selection has shape"),
        ({"mean": GOOD[0], "variance": GOOD[0]}, "mean must have shape"),
        ({"mean": GOOD[:, :1], "variance": GOOD[:, :1]}, "at least two classes"),
        ({"n": 1}, "n must be a whole number of at least 2, got 1"),
        ({"n": 10.5}, "n must be a whole number"),
        ({"alpha": 2}, r"alpha must lie in \(0, 1\), got 2"),
        ({"alpha": [0.1, 0.2]}, "alpha must be one number"),
        ({"sigma": 0}, "sigma must be positive"),
        ({"sigma": np.ones(3)}, r"sigma has shape \(3,\) for 2 images"),
        ({"lipschitz": 0}, "lipschitz must be positive"),
        ({"strategy": "max"}, "strategy must be one of lvmrs, mono, planned; got"),
        ({"strategy": "planned"}, "needs variance_selection"),
        ({"strategy": "mono", "mean": bad(0.5)}, "must sum to 1"),
        ({"bound": "wald"}, "bound must be one of bernstein, hoeffding"),
    ],
)
def test_bad_moments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_bad_samples_are_refused(scores):
    options = {"sigma": 1.0, "alpha": 0.1}
    first = scores.mean(axis=1)
    broken = scores.copy()
    broken[3, 7, 1] = np.nan
    with pytest.raises(ValueError, match="samples has a NaN"):
        certify_score_samples(first, broken, **options)
    for wrong in (scores[0], scores[:2], scores[:, :0]):
        with pytest.raises(ValueError, match=r"samples must have shape"):
            certify_score_samples(first, wrong, **options)
    with pytest.raises(ValueError, match="strategy must be one of lvmrs, mono; got"):
        certify_score_samples(first, scores, strategy="planned", **options)
    with pytest.raises(ValueError, match="must sum to 1"):
        certify_score_samples(first, scores / 2, strategy="mono", **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0]}, "labels must be 5 whole numbers"),
        ({"labels": np.full(5, 2)}, r"labels must lie in \[0, 2\)"),
        ({"labels": np.zeros(5)}, "labels must be 5 whole numbers, got float64"),
        ({"bound": ["bernstein"]}, "1 bounds for moments of shape"),
        ({"strategy": "best"}, "strategy must be one of"),
        ({"sigma": np.ones(5)}, "sigma"),
    ],
)
def test_bad_choices_are_refused(changes, message):
    mean, variance, labels = held_out()
    given = {"labels": labels, "n": 100, "sigma": 1.0, "alpha": 0.1, **changes}
    with pytest.raises(ValueError, match=message):
        choose_map(mean, variance, **given)


def test_the_bounds_are_those_of_the_intervals(scores):
    mean, variance = moments(scores)
    for name, want in (
        ("bernstein", empirical_bernstein(mean, variance, 500, alpha=0.1)),
        ("hoeffding", hoeffding(mean, 500, alpha=0.1)),
    ):
        got = score_bounds(mean, variance, 500, alpha=0.1, bound=name)
        np.testing.assert_array_equal(got, want)
