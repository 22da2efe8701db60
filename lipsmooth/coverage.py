"""Exact coverage: how often a bound or a certificate is right, by enumeration.

Nothing here is estimated. For a binomial all ``n + 1`` outcomes are summed; for
a multinomial all count vectors, of which there are ``C(n + c - 1, c - 1)``; coins,
which are continuous, are bracketed.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, ndtri, xlogy
from scipy.stats import binom

from lipsmooth.radii import radius_multi

Array = NDArray[np.float64]


def binomial_coverage(bounds: ArrayLike, p: ArrayLike, *, side: str) -> Array:
    """Probability that a one-sided bound is right, for each true ``p``.

    Parameters
    ----------
    bounds : array_like, shape (n + 1,)
        The bound for each number of successes 0 … n; it may not decrease.
    p : array_like
        True probabilities in [0, 1], any shape.
    side : {"lower", "upper"}
        Whether ``bounds`` should lie below or above ``p``.

    Returns
    -------
    ndarray, the shape of p
        ``P(bounds[K] <= p)`` or ``P(bounds[K] >= p)`` with K ~ Binomial(n, p).

    Raises
    ------
    ValueError
        If the bounds decrease somewhere or ``side`` is unknown.
    """
    values, truth = np.asarray(bounds, dtype=float), np.asarray(p, dtype=float)
    if values.ndim != 1 or not np.all(np.diff(values) >= 0):
        raise ValueError("bounds must be one non-decreasing value per count 0 … n")
    n = len(values) - 1
    if side == "lower":
        return binom.cdf(np.searchsorted(values, truth, side="right") - 1, n, truth)
    if side == "upper":
        return binom.sf(np.searchsorted(values, truth, side="left") - 1, n, truth)
    raise ValueError(f"side must be 'lower' or 'upper', got {side!r}")


def all_counts(n: int, classes: int) -> NDArray[np.int64]:
    """Every way to distribute ``n`` votes over ``classes``, one per row.

    Raises
    ------
    ValueError
        If ``n < 1``, ``classes < 2`` or there are more than ten million rows.
    """
    if n < 1 or classes < 2:
        raise ValueError(f"need n >= 1 and classes >= 2, got {n} and {classes}")
    rows = math.comb(n + classes - 1, classes - 1)
    if rows > 10_000_000:
        raise ValueError(f"{rows} outcomes are too many to enumerate")
    counts = np.zeros((1, 0), dtype=np.int64)
    for _ in range(classes - 1):
        room = n - counts.sum(axis=1) + 1
        start = np.repeat(np.cumsum(room) - room, room)
        column = np.arange(room.sum()) - start
        counts = np.column_stack([np.repeat(counts, room, axis=0), column])
    return np.column_stack([counts, n - counts.sum(axis=1)])


def multinomial_pmf(counts: ArrayLike, p: ArrayLike) -> Array:
    """Multinomial probabilities of count vectors.

    Parameters
    ----------
    counts : array_like, shape (outcomes, classes)
        Count vectors with a common total.
    p : array_like, shape (classes,) or (points, classes)
        Class probabilities; each row sums to 1.

    Returns
    -------
    ndarray, shape (outcomes,) or (points, outcomes)

    Raises
    ------
    ValueError
        If a row of ``p`` is negative somewhere or does not sum to 1.
    """
    votes, probabilities = np.asarray(counts), np.asarray(p, dtype=float)
    total = probabilities.sum(axis=-1)
    if np.any(probabilities < 0) or not np.allclose(total, 1, rtol=0, atol=1e-9):
        raise ValueError(f"class probabilities must sum to 1, got {total}")
    log_ways = gammaln(votes.sum(axis=1) + 1) - gammaln(votes + 1).sum(axis=1)
    points = np.atleast_2d(probabilities)
    # A product of matrices serves every p > 0; p = 0 needs xlogy's 0 log 0 = 0.
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.log(points) @ votes.T
    for row in np.flatnonzero(np.any(points == 0, axis=1)):
        log_p[row] = xlogy(votes, points[row]).sum(axis=1)
    pmf = np.exp(log_ways + log_p)
    return pmf if probabilities.ndim == 2 else pmf[0]


def failure_probability(
    certified: ArrayLike, counts: ArrayLike, p: ArrayLike, *, sigma: float
) -> Array:
    """Probability that the radius certified for class 0 exceeds the true one.

    Parameters
    ----------
    certified : array_like, shape (outcomes,) or (rules, outcomes)
        Radius that a rule certifies at each outcome; 0 or less where it abstains.
        Several rules share the work of the probabilities.
    counts : array_like, shape (outcomes, classes)
        All outcomes, from `all_counts`.
    p : array_like, shape (classes,) or (points, classes)
        True class probabilities; the certified class is class 0.
    sigma : float
        Standard deviation of the noise.

    Returns
    -------
    ndarray, shape (), (points,), (rules,) or (rules, points)
        Exact, up to rounding. The true radius is that of
        `lipsmooth.radii.radius_multi` at ``p``, so the failure is against the
        tightest radius that class probabilities allow.
    """
    votes, rules = np.asarray(counts), np.asarray(certified, dtype=float)
    points = np.atleast_2d(np.asarray(p, dtype=float))
    result = np.empty((*rules.shape[:-1], len(points)))
    block = max(1, 20_000_000 // len(votes))
    for start in range(0, len(points), block):
        part = slice(start, start + block)
        # An abstention is beyond no radius, and no radius is below 0.
        truth = np.maximum(true_radius(points[part], sigma=sigma), 0)[:, np.newaxis]
        pmf = multinomial_pmf(votes, points[part])
        for rule in np.ndindex(rules.shape[:-1]):
            result[rule][part] = (pmf * (rules[rule] > truth)).sum(axis=1)
    return result if np.ndim(p) == 2 else result[..., 0]


def bounds_over_coins(
    rule: Callable,
    selection: ArrayLike,
    counts: ArrayLike,
    coins: ArrayLike,
    *,
    alpha: float,
) -> tuple[Array, Array]:
    """Bounds of a strategy for each outcome and each value of its two coins.

    Parameters
    ----------
    rule : callable
        From `lipsmooth.strategies.SOUND`.
    selection : array_like of int, shape (classes,)
        The selection votes, the same for all outcomes.
    counts : array_like of int, shape (outcomes, classes)
        All outcomes of the estimation votes, from `all_counts`.
    coins : array_like, shape (coins,)
        Values of either coin in [0, 1].
    alpha : float
        Total level.

    Returns
    -------
    p_a_lower, p_b_upper : ndarray, shape (outcomes, coins)
        Each at the least lucky value, 1, of the other bound's coin. As no rule's
        ``p_b_upper`` uses the first coin but in the complement of ``p_a_lower``,
        `failure_with_coins` has all it needs.
    """
    votes, values = np.asarray(counts), np.asarray(coins, dtype=float)
    estimation = np.repeat(votes, len(values), axis=0)
    chosen = np.tile(selection, (len(estimation), 1))
    tossed = np.tile(values, len(votes))
    sides = []
    for side in (0, 1):
        both = np.ones((2, len(tossed)))
        both[side] = tossed
        found = rule(chosen, np.argmax(chosen, axis=1), estimation, alpha, both)[side]
        sides.append(found.reshape(len(votes), len(values)))
    return tuple(sides)


def failure_with_coins(
    p_a_lower: ArrayLike, p_b_upper: ArrayLike, counts: ArrayLike, p: ArrayLike
) -> Array:
    """Probability that a certificate from randomised bounds is wrong.

    Parameters
    ----------
    p_a_lower, p_b_upper : array_like, shape (outcomes, coins)
        Bounds for class 0 and its rivals at each outcome, for equally likely values
        of two independent coins, in increasing order: the first may not increase,
        the second not decrease. The rule certifies the radius of
        `lipsmooth.radii.radius_multi` at a pair, with ``1 - p_a_lower`` for the
        second if that is smaller.
    counts : array_like, shape (outcomes, classes)
        All outcomes, from `all_counts`.
    p : array_like, shape (points, classes)
        True class probabilities; the certified class is class 0.

    Returns
    -------
    ndarray, shape (points,)
        A continuous coin is bracketed: with the smallest coin of each of equal
        strata this is at least its failure probability, with the largest at most.

    Raises
    ------
    ValueError
        If the bounds are not ordered like that.
    """
    lower, upper = np.asarray(p_a_lower), np.asarray(p_b_upper)
    if np.any(np.diff(lower) > 0) or np.any(np.diff(upper) < 0):
        raise ValueError(
            "p_a_lower may not increase in its coin, nor p_b_upper decrease"
        )
    votes, points = np.asarray(counts), np.asarray(p, dtype=float)
    truth = np.maximum(true_radius(points, sigma=1.0), 0)[:, np.newaxis]
    finite = np.isfinite(truth)  # no radius exceeds one that is not
    truth = np.where(finite, truth, 0)
    result = np.zeros(len(points))
    for own, rival, pmf in zip(
        ndtri(lower), ndtri(upper), multinomial_pmf(votes, points).T, strict=True
    ):
        # Wrong where rival < own - 2 R: for a leading part of the rival's coins.
        share = np.searchsorted(rival, own - 2 * truth) / len(rival)
        result += pmf * np.where(own > truth, 1.0, share).mean(axis=1)
    return result * finite[:, 0]


def true_radius(p: ArrayLike, *, sigma: float) -> Array:
    """Radius of class 0 when the class probabilities ``p`` (…, classes) are known."""
    probabilities = np.asarray(p, dtype=float)
    rival = probabilities[..., 1:].max(axis=-1)
    return radius_multi(probabilities[..., 0], rival, sigma=sigma)
