"""Choosing the map of LVM-RS anew for every input: here to be compared, not used.

A map chosen per input changes the smoothed classifier from input to input. Even when
the choice is made on separate samples, the certificate is about the classifier with
the map chosen *at the centre* of the ball. The rule as deployed chooses again at every
point, and two of its certified balls, with different classes, can hold each other's
centre. `lipsmooth.scores` fixes one map for all inputs and has no such trouble.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import binom

from lipsmooth.certify import ABSTAIN, Certificates
from lipsmooth.intervals import empirical_bernstein
from lipsmooth.radii import radius_multi, radius_smoothed_margin
from lipsmooth.scorebounds import (
    check_level,
    check_moments,
    check_noise,
    check_strategy,
    predicted_radius,
    score_bounds,
)
from lipsmooth.scores import certify_scores
from lipsmooth.twoclass import Map, moments_of_counts, two_class_scores

PROMISES = {"selection": "per input", "estimation": "none"}
"""What certificates promise, by the samples that choose the map of an input."""

_AXES = ("images", "maps", "classes")


class PerInput(NamedTuple):
    """Certificates of inputs that each have a map of their own.

    Attributes
    ----------
    certificates : Certificates
        Each is about the smoothed classifier with the map of that input.
    map : ndarray of int, shape (images,)
        The chosen maps.
    promise : str
        ``"per input"`` or ``"none"``; never the promise for a deployed classifier.
    """

    certificates: Certificates
    map: NDArray[np.int64]
    promise: str


def certify_best_map(
    mean_selection: ArrayLike,
    variance_selection: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    n: int,
    *,
    sigma: ArrayLike,
    alpha: float,
    choose: str = "selection",
    lipschitz: ArrayLike = np.inf,
    strategy: str = "lvmrs",
    bound: str | Sequence[str] = "bernstein",
    allow_unsound: bool = False,
) -> PerInput:
    """Certify each input with the map that looks best for it.

    Parameters
    ----------
    mean_selection, variance_selection : array_like, shape (images, maps, classes)
        Moments over the selection samples.
    mean, variance : array_like, shape (images, maps, classes)
        Moments over the ``n`` estimation samples.
    n, sigma, alpha, strategy
        As in `lipsmooth.scores.certify_scores`; not ``"planned"``.
    choose : {"selection", "estimation"}
        ``"selection"``: the map that promises the largest radius by the selection
        samples. ``"estimation"``: as published; map, class and radius formula are the
        best on the estimation samples themselves, at level ``alpha / classes`` per
        class and with no correction for the choice. **Unsound**; it ignores the
        selection samples, ``lipschitz`` and ``strategy``.
    lipschitz : array_like, shape () or (maps,)
        As in `lipsmooth.scores.choose_map`.
    bound : str or sequence of str, one per map
        As in `lipsmooth.scores.choose_map`.
    allow_unsound : bool
        Must be true for ``"estimation"``, for study.

    Returns
    -------
    PerInput

    Raises
    ------
    ValueError
        As for `lipsmooth.scores.certify_scores`, or if ``choose`` is unknown or
        unsound and not allowed.

    Notes
    -----
    Guarantee (``"selection"``): for each input, with probability at least
    ``1 - alpha``, the smoothed classifier *with the map chosen for this input* is
    constant on the ball. **Nothing** follows for the rule that chooses a map at every
    input and then predicts. ``"estimation"`` guarantees neither.

    References
    ----------
    Delattre et al. (2024), for the published choice. Súkeník et al. (2022), for the
    same trouble with a noise level chosen per input.
    """
    average, spread = check_moments("", mean, variance, axes=_AXES)
    noise, level = check_noise(sigma, len(average)), check_level(alpha)
    names = [bound] * average.shape[1] if isinstance(bound, str) else list(bound)
    if len(names) != average.shape[1]:
        raise ValueError(f"{len(names)} bounds for {average.shape[1]} maps")
    if choose not in PROMISES:
        raise ValueError(f"choose must be 'selection' or 'estimation', got {choose!r}")
    if choose == "estimation":
        if not allow_unsound:
            raise ValueError(
                "choose='estimation' is unsound: its radii can be too large more often "
                "than alpha; pass allow_unsound=True to study it"
            )
        return _as_published(average, spread, n, noise, level, names)
    check_strategy(strategy, ("lvmrs", "mono"))
    first, guess = check_moments(
        "_selection", mean_selection, variance_selection, axes=_AXES
    )
    if first.shape != average.shape:
        raise ValueError(f"mean_selection: {first.shape}, mean: {average.shape}")
    constants = np.broadcast_to(lipschitz, average.shape[1])
    promised = predicted_radius(
        first, guess, n, sigma=noise[..., np.newaxis], alpha=level,
        lipschitz=constants, strategy=strategy, bound=names,
    )  # fmt: skip
    best = np.argmax(promised, axis=1)
    return _gather(best, first, average, spread, n, noise, level, constants, strategy,
                   names)  # fmt: skip


def _gather(
    best, first, average, spread, n, noise, level, constants, strategy, names
) -> PerInput:
    """Certify every input with its map; the inputs of one map together."""
    fields = np.zeros((4, len(best)))
    for number in np.unique(best):
        rows = best == number
        own = certify_scores(
            first[rows, number], average[rows, number], spread[rows, number], n,
            sigma=np.broadcast_to(noise, best.shape)[rows], alpha=level,
            lipschitz=constants[number], strategy=strategy, bound=names[number],
        )  # fmt: skip
        fields[:, rows] = own.prediction, own.radius, own.p_a_lower, own.p_b_upper
    prediction, *others = fields
    found = Certificates(prediction.astype(np.int64), *others)
    return PerInput(found, best, PROMISES["selection"])


def _as_published(average, spread, n, noise, level, names) -> PerInput:
    images, maps, classes = average.shape
    lower, upper = np.empty((2, images, maps, classes))
    for number, name in enumerate(names):
        moments = average[:, number], spread[:, number]
        lower[:, number], upper[:, number] = score_bounds(
            *moments, n, alpha=level / classes, bound=name
        )
    top = np.argmax(lower, axis=-1)[..., np.newaxis]
    p_a = np.take_along_axis(lower, top, -1)[..., 0]
    rivals = upper.copy()
    np.put_along_axis(rivals, top, -np.inf, -1)
    p_b, scale = rivals.max(axis=-1), noise[..., np.newaxis]
    radius = np.maximum(
        radius_multi(p_a, p_b, sigma=scale),
        radius_smoothed_margin(p_a, p_b, sigma=scale),  # never the larger one
    )
    best = np.argmax(radius, axis=1)
    pick = np.arange(images), best
    certified = radius[pick] > 0
    found = Certificates(
        prediction=np.where(certified, top[..., 0][pick], ABSTAIN),
        radius=np.where(certified, radius[pick], 0.0),
        p_a_lower=p_a[pick],
        p_b_upper=p_b[pick],
    )
    return PerInput(found, best, PROMISES["estimation"])


class FailureRate(NamedTuple):
    """A failure probability, the error of its simulated part, and the votes' share."""

    rate: float
    error: float
    votes: float


def maximum_failure_rate(
    margins: ArrayLike,
    p: ArrayLike,
    maps: Sequence[Map],
    *,
    n: int,
    alpha: float,
    runs: int,
    rng: np.random.Generator,
) -> FailureRate:
    """How often the one-sample maximum certifies although no class is ahead.

    Two classes, each leading in half of the noisy copies and with a mean score of one
    half under every map: whatever is certified is false. Votes and maps compete as in
    ``certify_best_map(choose="estimation")``.

    Parameters
    ----------
    margins, p : array_like, shape (values,)
        As for `lipsmooth.twoclass.draw_moments`; all of ``p`` positive, no margin zero.
    maps : sequence of (name, temperature)
        Soft maps, bounded by empirical Bernstein beside the votes.
    n : int
        Samples per image.
    alpha : float
        The level that the procedure claims.
    runs : int
        Simulated images.
    rng : Generator

    Returns
    -------
    FailureRate

    Raises
    ------
    ValueError
        If a class is ahead under some map, or an argument is invalid.

    Notes
    -----
    What the votes certify alone is a binomial tail. What only the maps certify is rare
    and is simulated where it is not: from laws tilted, map by map, until a bound just
    reaches one half, each image weighted by its likelihood ratio.
    """
    law, scores = np.asarray(p, dtype=float), two_class_scores(margins, maps)
    leads = np.asarray(margins) > 0
    level = check_level(alpha) / 2
    off = np.abs(np.r_[scores @ law, law[leads].sum()] - 0.5).max()
    if off > 1e-9 or np.any(law <= 0) or np.any(np.asarray(margins) == 0):
        raise ValueError(f"no class may be ahead; under some map one is, by {off:.3g}")
    least = binom.isf(level, n, 0.5) + 1  # votes that certify
    tilts = _tilts(scores - 0.5, law, n, level)
    parts = []
    for tilt in tilts:
        counts = rng.multinomial(n, tilt, size=max(2, runs // len(tilts)))
        log_ratio = logsumexp(counts @ np.log(tilts / law).T, axis=1)
        mean, variance = (m[..., 0] for m in moments_of_counts(counts, scores))
        bounds = empirical_bernstein(mean, variance, n, alpha=level)
        soft = np.any((bounds.lower > 0.5) | (bounds.upper < 0.5), axis=1)
        votes = counts[:, leads].sum(axis=1)
        alone = soft & (np.maximum(votes, n - votes) < least)
        parts.append(alone * np.exp(np.log(len(tilts)) - log_ratio))
    weights = np.array(parts)
    error = np.sqrt(weights.var(axis=1).mean() / weights.size)
    hard = 2 * binom.sf(least - 1, n, 0.5)
    return FailureRate(float(hard + weights.mean()), float(error), float(hard))


def _tilts(away, law, n, level):
    """Return laws under which the bound of some map is about to pass one half."""
    log_term = np.log(2 / level)
    spread = np.sqrt(away**2 @ law)
    alike = (away * law) @ away.T / np.outer(spread, spread)
    taken, found = [], []
    for number, score in enumerate(away):
        width = np.sqrt(2 * log_term / n) * spread[number] + 7 * log_term / (3 * n)
        if width > 0.95 * score.max() or np.any(alike[number, taken] > 0.97):
            continue  # it can hardly ever certify, or another does when it does

        def excess(strength, score=score, width=width):
            weight = law * np.exp(strength * score)
            return weight @ score / weight.sum() - width

        strength = brentq(excess, 0, 1000)
        taken.append(number)
        for sign in (1, -1):
            weight = law * np.exp(sign * strength * score)
            found.append(weight / weight.sum())
    if not found:
        raise ValueError(f"n = {n} samples are too few for any map to certify")
    return np.array(found)
