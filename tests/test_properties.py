"""Laws that bounds, radii and certificates obey whatever the numbers are."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from lipsmooth.certify import ABSTAIN, STRATEGIES, certify_counts, predict_counts
from lipsmooth.intervals import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    empirical_bernstein,
    hoeffding,
)
from lipsmooth.radii import (
    radius_mono,
    radius_mono_exact,
    radius_mono_lipschitz,
    radius_multi,
    radius_multi_exact,
    radius_multi_lipschitz,
)
from lipsmooth.sequential import lower_sequence

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=60)
fixed = settings.get_profile("fixed")

LARGEST = 10**12
levels = st.floats(-9, -0.31).map(lambda exponent: 10.0**exponent)
sigmas = st.floats(0.01, 100)
shares = st.floats(0, 1)


@st.composite
def counted(draw, largest=LARGEST, edges=True):
    """Return k and n, often at the edges and of any order of magnitude."""
    n = int(10 ** draw(st.floats(0, math.log10(largest))))
    k = draw(st.integers(0, n))
    if edges and draw(st.booleans()):
        end = min(n, draw(st.integers(0, 5)))
        k = draw(st.sampled_from([end, n - end]))
    return k, n


@st.composite
def tables(draw, classes=(2, 12), most=10**6):
    """Return selection and estimation votes of one image, one class often ahead."""
    width = draw(st.integers(*classes))
    votes = st.lists(st.integers(0, 50), min_size=width, max_size=width)
    selection, estimation = (np.array(draw(votes)) for _ in range(2))
    leader = draw(st.integers(0, width - 1))
    selection[leader] += draw(st.integers(1, 100))
    estimation[leader] += draw(st.integers(1, most))
    return selection, estimation


def certify(selection, estimation, **options):
    given_ = {"sigma": 0.5, "alpha": 0.01, **options}
    found = certify_counts([selection], [estimation], **given_)
    return found.prediction[0], found.radius[0], found.p_a_lower[0], found.p_b_upper[0]


# --- Bounds ---------------------------------------------------------------------------

# A quantile is right to some digits only; this is what may be lost of them.
SLACK = 1e-12


@fixed
@given(counted(), levels)
def test_bounds_grow_with_the_count(counts, alpha):
    k, n = counts
    k = min(k, n - 1)
    for bound in (clopper_pearson_lower, clopper_pearson_upper):
        fewer, more = bound([k, k + 1], n, alpha=alpha)
        assert fewer <= more * (1 + SLACK)
        assert 0 <= fewer <= 1
        assert 0 <= more <= 1


@fixed
@given(counted(), levels)
def test_bounds_stand_on_both_sides_and_mirror_each_other(counts, alpha):
    k, n = counts
    lower = clopper_pearson_lower(k, n, alpha=alpha)
    upper = clopper_pearson_upper(k, n, alpha=alpha)
    assert lower <= k / n * (1 + SLACK)
    assert upper >= k / n * (1 - SLACK)
    mirrored = 1 - clopper_pearson_upper(n - k, n, alpha=alpha)
    assert lower == pytest.approx(mirrored, rel=1e-9, abs=1e-15)


@fixed
@given(counted(), levels, st.floats(1.001, 100))
def test_bounds_widen_as_alpha_falls(counts, alpha, factor):
    k, n = counts
    both = [alpha / factor, alpha]
    strict, lax = clopper_pearson_lower(k, n, alpha=both)
    assert strict <= lax * (1 + SLACK)
    strict, lax = clopper_pearson_upper(k, n, alpha=both)
    assert strict >= lax * (1 - SLACK)
    strict, lax = lower_sequence(k, n, alpha=both[0]), lower_sequence(k, n, alpha=alpha)
    assert strict <= lax + SLACK


@fixed
@given(counted(largest=10**11), levels, st.integers(2, 10))
def test_more_votes_of_the_same_share_tighten(counts, alpha, times):
    k, n = counts
    few, many = clopper_pearson_lower([k, times * k], [n, times * n], alpha=alpha)
    assert many >= few * (1 - SLACK)
    few, many = clopper_pearson_upper([k, times * k], [n, times * n], alpha=alpha)
    assert many <= few * (1 + SLACK)


@fixed
@given(shares, st.integers(2, LARGEST), levels, st.floats(0, 0.25), shares)
def test_bounds_for_means_are_monotone(mean, n, alpha, variance, part):
    lesser = mean * part
    low, high = hoeffding([lesser, mean], n, alpha=alpha).lower
    assert low <= high
    low, high = hoeffding(mean, n, alpha=[alpha / 2, alpha]).lower
    assert low <= high
    low, high = hoeffding(mean, [n, n + 1], alpha=alpha).upper
    assert low >= high
    spread = [variance, variance * part]
    low, high = empirical_bernstein(mean, spread, n, alpha=alpha).lower
    assert low <= high
    few, many = empirical_bernstein(mean, variance, [n, 2 * n], alpha=alpha).upper
    assert few >= many


def exact_tail(k, n, p):
    """Return P(X >= k) by Chernoff's bound and a normal tail: crude, and independent.

    Good for judging on which side a bound lies by a factor, at any n.
    """
    if k <= n * p:
        return 1.0
    share = k / n
    rest = (1 - share) * math.log((1 - share) / (1 - p)) if k < n else 0.0
    return math.exp(-n * (share * math.log(share / p) + rest))


@fixed
@given(counted(), levels)
def test_no_digits_are_lost_at_a_million_million(counts, alpha):
    """At the bound the tail is alpha: above Chernoff's it cannot be, by much."""
    k, n = counts
    lower = float(clopper_pearson_lower(k, n, alpha=alpha))
    if k == 0:
        assert lower == 0
        return
    # Chernoff's bound is above the tail, by less than this for a binomial.
    assert exact_tail(k, n, lower) >= alpha * (1 - 1e-6)
    gap = 4 * math.sqrt(2 * math.pi * n) * (1 + math.sqrt(-2 * math.log(alpha)))
    assert exact_tail(k, n, lower) <= alpha * gap
    assert exact_tail(k, n, lower * 0.5) < exact_tail(k, n, lower)


@fixed
@given(st.integers(1, LARGEST), levels)
def test_at_the_edges_the_bounds_have_closed_forms(n, alpha):
    lower = clopper_pearson_lower([1, n], n, alpha=alpha)
    upper = clopper_pearson_upper([0, n - 1], n, alpha=alpha)
    first = -math.expm1(math.log1p(-alpha) / n)
    all_but_none = -math.expm1(math.log(alpha) / n)
    assert lower[0] == pytest.approx(first, rel=1e-9)
    assert 1 - lower[1] == pytest.approx(all_but_none, rel=1e-3, abs=1e-15)
    assert upper[0] == pytest.approx(all_but_none, rel=1e-9)
    assert 1 - upper[1] == pytest.approx(first, rel=1e-3, abs=2e-16)


def test_a_plain_normal_approximation_would_lose_them():
    k = n = 10**12
    wald = k / n - 3 * math.sqrt(k / n * (1 - k / n) / n)
    assert exact_tail(k, n, wald) > 0.999
    assert exact_tail(k, n, clopper_pearson_lower(k, n, alpha=0.001)) < 0.002


# --- Radii ----------------------------------------------------------------------------

MONO = [
    radius_mono,
    lambda p, *, sigma: radius_mono_exact(p, sigma=sigma, lipschitz=2 / sigma),
    lambda p, *, sigma: radius_mono_lipschitz(p, sigma=sigma, lipschitz=2 / sigma),
]
MULTI = [
    radius_multi,
    lambda a, b, *, sigma: radius_multi_exact(a, b, sigma=sigma, lipschitz=2 / sigma),
    lambda a, b, *, sigma: radius_multi_lipschitz(
        a, b, sigma=sigma, lipschitz=2 / sigma
    ),
]
inner = st.floats(1e-9, 1 - 1e-9)


@fixed
@given(inner, inner, inner, sigmas)
def test_radii_grow_with_the_winner_and_fall_with_the_rival(p, q, r, sigma):
    low, high = min(p, q), max(p, q)
    for radius in MONO[:2]:  # the published one may fall: tests/test_radii.py
        small, large = radius([low, high], sigma=sigma)
        assert small <= large + 1e-9 * sigma
    for radius in MULTI[:2]:
        small, large = radius([low, high], r, sigma=sigma)
        assert small <= large + 1e-9 * sigma
        large, small = radius(r, [low, high], sigma=sigma)
        assert small <= large + 1e-9 * sigma


@fixed
@given(inner, inner, sigmas, st.floats(0.01, 100))
def test_twice_the_noise_twice_the_radius(p, q, sigma, factor):
    """Of a classifier on images that are scaled as the noise is."""
    for radius, arguments in [
        *((r, (p,)) for r in MONO),
        *((r, (p, q)) for r in MULTI),
    ]:
        one, other = (radius(*arguments, sigma=s) for s in (sigma, factor * sigma))
        assert other == pytest.approx(factor * one, rel=1e-6, abs=1e-9 * factor * sigma)


@fixed
@given(tables(), sigmas, st.floats(0.01, 100), st.sampled_from(STRATEGIES))
def test_a_certificate_scales_with_the_noise(votes, sigma, factor, strategy):
    class_, radius, *bounds = certify(*votes, sigma=sigma, strategy=strategy)
    again = certify(*votes, sigma=factor * sigma, strategy=strategy)
    assert (class_, *bounds) == (again[0], *again[2:])
    assert again[1] == pytest.approx(factor * radius, rel=1e-12)


# --- Certificates ---------------------------------------------------------------------


@fixed
@given(tables(), levels, st.randoms(use_true_random=False))
def test_names_of_classes_do_not_matter(votes, alpha, random):
    selection, estimation = votes
    order = list(range(len(selection)))
    random.shuffle(order)
    # Ties go to the smallest class, and so do those of the buckets of cpm.
    if np.sum(selection == selection.max()) > 1:
        return
    tied = len(set(selection.tolist())) < len(selection)
    for strategy in set(STRATEGIES) - ({"cpm"} if tied else set()):
        options = {"alpha": alpha, "strategy": strategy}
        class_, *rest = certify(selection, estimation, **options)
        again, *same = certify(selection[order], estimation[order], **options)
        assert same == pytest.approx(rest, rel=1e-12)
        assert (order[again] if again != ABSTAIN else ABSTAIN) == class_
    before = predict_counts([estimation], alpha=alpha)[0]
    after = predict_counts([estimation[order]], alpha=alpha)[0]
    assert (order[after] if after != ABSTAIN else ABSTAIN) == before


def test_a_tie_does_depend_on_the_names():
    selection, estimation = [5, 5, 0], [90, 10, 0]
    assert certify(selection, estimation)[0] == 0
    assert certify(selection, [*estimation[1::-1], 0])[0] == ABSTAIN


@fixed
@given(tables(), levels)
def test_max_upper_is_at_least_as_large_as_what_it_replaces(votes, alpha):
    found = {
        name: certify(*votes, alpha=alpha, strategy=name)
        for name in ("max-upper", "cpm", "bonferroni")
    }
    for name in ("cpm", "bonferroni"):
        assert found["max-upper"][1] >= found[name][1]
        assert found["max-upper"][2] >= found[name][2]
        assert found["max-upper"][3] <= found[name][3]
        if found[name][0] != ABSTAIN:
            assert found["max-upper"][0] == found[name][0]


def test_the_order_is_no_law_of_all_strategies():
    """Mono gains where one rival has all other votes, and loses where many share."""
    one, split = [60, 40, 0, 0, 0, 0], [60, 8, 8, 8, 8, 8]
    for votes, better in ((one, "mono"), (split, "max-upper")):
        worse = {"mono": "max-upper", "max-upper": "mono"}[better]
        scaled = 10 * np.array(votes)
        radii = [certify(votes, scaled, strategy=name)[1] for name in (better, worse)]
        assert radii[0] > radii[1]


@fixed
@given(tables(), levels, st.sampled_from(STRATEGIES), st.floats(1, 1000))
def test_a_stricter_level_certifies_less(votes, alpha, strategy, factor):
    if strategy == "planned":  # its plan, made from other votes, depends on the level
        return
    lax = certify(*votes, alpha=alpha, strategy=strategy)
    strict = certify(*votes, alpha=alpha / factor, strategy=strategy)
    assert strict[1] <= lax[1] * (1 + 1e-9)


@fixed
@given(tables(), st.sampled_from([*STRATEGIES]), st.integers(1, 1000))
def test_a_vote_more_for_the_winner_does_no_harm(votes, strategy, more):
    selection, estimation = votes
    if strategy == "planned":
        return
    richer = estimation.copy()
    richer[np.argmax(selection)] += more
    radius = certify(selection, estimation, strategy=strategy)[1]
    assert certify(selection, richer, strategy=strategy)[1] >= radius * (1 - 1e-9)


@fixed
@given(tables(), st.sampled_from(STRATEGIES))
def test_a_certificate_says_no_more_than_its_bounds(votes, strategy):
    class_, radius, p_a, p_b = certify(*votes, strategy=strategy)
    assert 0 <= p_a <= 1
    assert 0 <= p_b <= 1
    assert (class_ == ABSTAIN) == (radius == 0)
    if class_ != ABSTAIN:
        assert class_ == np.argmax(votes[0])
        assert p_a > p_b
        assert ndtr(radius / 0.5) <= max(p_a, 1 - p_b) * (1 + 1e-9)


# --- What is no number ----------------------------------------------------------------

odd = st.sampled_from([math.nan, math.inf, -math.inf])
PLACES = {
    "k": lambda x: clopper_pearson_lower(x, 10, alpha=0.1),
    "n": lambda x: clopper_pearson_upper(1, x, alpha=0.1),
    "alpha": lambda x: clopper_pearson_lower(1, 10, alpha=x),
    "mean": lambda x: hoeffding(x, 10, alpha=0.1),
    "variance": lambda x: empirical_bernstein(0.5, x, 10, alpha=0.1),
    "p_a": lambda x: radius_mono(x, sigma=1),
    "p_b": lambda x: radius_multi(0.9, x, sigma=1),
    "sigma": lambda x: radius_mono(0.9, sigma=x),
    "certificate's sigma": lambda x: certify([3, 1], [9, 1], sigma=x),
    "certificate's alpha": lambda x: certify([3, 1], [9, 1], alpha=x),
}


@pytest.mark.parametrize("place", PLACES)
@fixed
@given(odd, st.integers(0, 3))
def test_what_is_no_number_is_refused_by_name(place, value, position):
    name = place.rpartition(" ")[2]
    with pytest.raises(ValueError, match=rf"{name} must .*{value}"):
        PLACES[place](value)
    if " " not in place:
        values = [1.0 if name in ("k", "n") else 0.5] * 4
        PLACES[place](values)  # as long as they are numbers
        values[position] = value
        with pytest.raises(ValueError, match=rf"{name} must .*{value}"):
            PLACES[place](values)


@fixed
@given(odd)
def test_votes_that_are_no_numbers_are_refused(value):
    for votes in ([[value, 1.0]], [[1.0, value]]):
        with pytest.raises(ValueError, match="counts_estimation must be whole"):
            certify_counts([[3, 1]], votes, sigma=1, alpha=0.1)
        with pytest.raises(ValueError, match="counts must be whole"):
            predict_counts(votes, alpha=0.1)
