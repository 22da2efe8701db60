"""What another number of votes would certify, judged from the votes of a log.

A log of ``n`` votes per image holds the logs of every smaller number: a random part of
the votes is what fewer samples would have been. About larger numbers it tells less: an
estimate, and a ceiling that no number of votes can pass. All of it is about ``"mono"``
certificates, which depend on the votes of one class alone.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtr
from scipy.stats import binom, hypergeom

from lipsmooth.intervals import check_alpha, check_counts, clopper_pearson_upper
from lipsmooth.radii import check_sigma
from lipsmooth.sequential import Boundaries

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

_NODES = 128
"""Quantiles of the belief about a probability over which predictions are averaged."""


def least_votes(
    radius: ArrayLike, n: ArrayLike, *, sigma: float, alpha: float
) -> Counts:
    """Return the fewest of ``n`` votes for a class that certify a radius.

    Parameters
    ----------
    radius : array_like
        At least 0, in the units of the input.
    n : array_like of int
        Estimation votes, at least 1; broadcasts.
    sigma : float
        Standard deviation of the noise.
    alpha : float
        One-sided level in (0, 1).

    Returns
    -------
    ndarray of int
        ``n + 1`` where not even unanimous votes do.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    The Clopper–Pearson lower bound of ``k`` reaches ``p* = Φ(radius / sigma)`` if and
    only if a binomial variable with ``p*`` is ``k`` or more with probability at most
    ``alpha``.
    """
    wanted, total = np.asarray(radius, dtype=float), np.asarray(n)
    if not np.all(np.isfinite(wanted) & (wanted >= 0)):
        raise ValueError(f"radius must be finite and at least 0, got {radius}")
    check_counts(total, total)
    threshold = ndtr(wanted / check_sigma(sigma))
    fewest = binom.isf(check_alpha(alpha), total, threshold) + 1
    return np.minimum(fewest, total + 1).astype(np.int64)


def accuracy_with_votes(
    labels: ArrayLike,
    counts_selection: ArrayLike,
    counts_estimation: ArrayLike,
    at: ArrayLike,
    n: int,
    *,
    sigma: float,
    alpha: float,
) -> Array:
    """Certified accuracy to be expected from ``n`` estimation votes per image.

    Parameters
    ----------
    labels : array_like of int, shape (images,)
        True classes.
    counts_selection, counts_estimation : array_like of int, shape (images, classes)
        Votes of a log; of a fixed number, the same for all images.
    at : array_like
        Radii, any shape, positive.
    n : int
        The other number, at least 1.
    sigma, alpha
        As for `lipsmooth.certify.certify_counts` with strategy ``"mono"``.

    Returns
    -------
    ndarray, the shape of at

    Raises
    ------
    ValueError
        If an argument is out of range, or images differ in their number of votes.

    Notes
    -----
    Up to the number of votes in the log this is exact: the mean over all choices of
    ``n`` of them. Beyond, it is an estimate, of a belief about each image's probability
    that starts from Jeffreys' prior and has seen the votes. An image whose votes were
    unanimous may have a probability of 0.9999 or of 1; the belief is spread over both.
    """
    votes, total, named = _own_votes(labels, counts_estimation, counts_selection)
    fewest = least_votes(at, n, sigma=sigma, alpha=alpha)[..., np.newaxis]
    if n <= total:
        reached = hypergeom.sf(fewest - 1, total, votes, n)
    else:
        quantile = (np.arange(_NODES) + 0.5) / _NODES
        p = betaincinv(votes + 0.5, total - votes + 0.5, quantile[:, np.newaxis])
        reached = np.mean(
            [binom.sf(fewest - 1, n, belief) for belief in p], axis=0
        )  # one belief at a time keeps the arrays small
    return np.mean(reached * named, axis=-1)


def accuracy_ceiling(
    labels: ArrayLike,
    counts_estimation: ArrayLike,
    at: ArrayLike,
    *,
    sigma: float,
    alpha: float,
) -> Array:
    """Upper bound of the certified accuracy from any number of votes.

    Parameters
    ----------
    labels, counts_estimation, at
        As for `accuracy_with_votes`.
    sigma : float
        Standard deviation of the noise.
    alpha : float
        Failure probability per image, in (0, 1).

    Returns
    -------
    ndarray, the shape of at
        Share of images whose probability of the true class cannot be told from one
        that certifies the radius.

    Raises
    ------
    ValueError
        As for `accuracy_with_votes`.

    Notes
    -----
    Guarantee: a true ``"mono"`` certificate of radius ``r`` for the true class ``y``
    means ``p_y >= Φ(r / sigma)``. Each image for which this holds is left out with
    probability at most ``alpha``, so in expectation at most a share ``alpha`` of the
    images is missing.
    """
    votes, total, _ = _own_votes(labels, counts_estimation, counts_estimation)
    upper = clopper_pearson_upper(votes, total, alpha=alpha)
    radii = np.asarray(at, dtype=float)[..., np.newaxis]
    return np.mean(upper >= ndtr(radii / check_sigma(sigma)), axis=-1)


def rehearse(
    p: ArrayLike, rule: Boundaries, *, rng: np.random.Generator
) -> tuple[NDArray[np.int8], Counts]:
    """Play a stopping rule once for each image, before any sampling.

    Parameters
    ----------
    p : array_like, shape (images,)
        Supposed probabilities of the selected classes, such as shares of votes.
    rule : Boundaries
        As from `lipsmooth.sequential.stopping_rule`.
    rng : Generator

    Returns
    -------
    decision : ndarray of int8, shape (images,)
        1, -1 or 0 as in `lipsmooth.logs.VoteLog`.
    votes : ndarray of int, shape (images,)
        At which each image stopped, or the last look.

    Raises
    ------
    ValueError
        If a probability is not in [0, 1].

    Notes
    -----
    For planning: what a run would cost if the probabilities were those.
    `lipsmooth.sequential.course` computes the same exactly, for one probability.
    """
    chance = np.asarray(p, dtype=float)
    if chance.ndim != 1 or not np.all((chance >= 0) & (chance <= 1)):
        raise ValueError(f"p must be numbers in [0, 1], one for each image, got {p}")
    steps = np.diff(rule.looks, prepend=0)[:, np.newaxis]
    votes = np.cumsum(rng.binomial(steps, chance), axis=0)
    found = rule.decide(votes, np.arange(len(steps))[:, np.newaxis])
    first = np.where(found.any(axis=0), (found != 0).argmax(axis=0), len(steps) - 1)
    return found[first, np.arange(len(chance))], rule.looks[first]


def _own_votes(
    labels: ArrayLike, counts_estimation: ArrayLike, counts_selection: ArrayLike
) -> tuple[Counts, int, NDArray[np.bool_]]:
    """Return the true class's votes, their total, and where it is the one selected."""
    truth, votes = np.asarray(labels), np.asarray(counts_estimation)
    named = np.argmax(counts_selection, axis=1) == truth
    totals = np.unique(votes.sum(axis=1))
    if len(totals) != 1:
        few, many = totals[[0, -1]]
        raise ValueError(
            f"every image needs the same number of votes, got {few} to {many}"
        )
    own = np.take_along_axis(votes, truth[:, np.newaxis], axis=1)[:, 0]
    return own, int(totals[0]), named
