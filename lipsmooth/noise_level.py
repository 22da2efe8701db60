"""A noise level for each input (QCRS): search for it, then certify with fresh samples.

Two promises that must not be mistaken for one another:

Per input
    ``g_σ`` is constant on the ball around ``x``, for the ``σ`` that was found *at x*:
    what every certificate of this module says, with probability ``1 - alpha``.
For the deployed classifier
    ``x' ↦ g_{σ(x')}(x')``, which searches anew at each input, is constant on that ball.
    This is **not** implied: at another point of the ball the search may end at another
    noise level, and the prediction there may be another class. `lipsmooth.memory` is a
    remedy, at a price.

A *sampler* draws the votes. It is called as ``sampler(sigma=…, n=…, start=…)`` and
returns votes per class of the noise samples ``start`` to ``start + n - 1``, the same
standard normal samples at every noise level: ``functools.partial(count_votes, model, x,
seed=seed, index=index)`` is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipsmooth.certify import certify_counts
from lipsmooth.intervals import check_alpha, clopper_pearson_lower
from lipsmooth.radii import radius_mono

Array = NDArray[np.float64]


class Sampler(Protocol):
    """Votes of one image at any noise level, from numbered noise samples."""

    def __call__(self, *, sigma: float, n: int, start: int) -> NDArray[np.int64]:
        """Return votes per class."""


@dataclass(frozen=True)
class Search:
    """Where and how finely to search.

    Attributes
    ----------
    sigma : float
        The original noise level. Its class is the one that the search is about.
    low, high : float
        The bracket that is bisected, in the units of the input.
    tolerance : float
        Bisection stops when the bracket is no longer than this.
    step : float
        Radii are compared at ``step`` above and below the middle of the bracket.
    n : int
        Samples at each noise level that is looked at.
    alpha : float
        One-sided level of the bound from which the compared radii are made. It has no
        part in the certificate's level.
    """

    sigma: float
    low: float
    high: float
    tolerance: float
    step: float
    n: int = 500
    alpha: float = 0.001

    def __post_init__(self) -> None:
        for name in ("sigma", "low", "high", "tolerance", "step"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if self.low >= self.high:
            raise ValueError(
                f"low must lie below high, got {self.low:g} and {self.high:g}"
            )
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")
        check_alpha(self.alpha)


PRESETS = {
    "cifar10-0.25": Search(0.25, low=0.08, high=0.9, tolerance=0.03, step=0.075),
    "cifar10-0.50": Search(0.50, low=0.12, high=1.7, tolerance=0.03, step=0.15),
    "cifar10-0.50-macer": Search(0.50, low=0.12, high=1.9, tolerance=0.03, step=0.15),
    "imagenet-0.25": Search(0.25, low=0.15, high=0.4, tolerance=0.01, step=0.0125),
    "imagenet-0.50": Search(0.50, low=0.4, high=0.6, tolerance=0.01, step=0.025),
}
"""The settings that Kung and Chen (2024) publish, by data set and noise level."""


class NoiseLevel(NamedTuple):
    """What a search found: the noise level, and how it got there.

    ``prediction`` is the class at the original noise level; ``drawn`` counts the votes
    that the search cost; ``start`` is the number of the first noise sample that it has
    not seen; ``path`` holds the middles of the brackets, each with the radius above it
    minus the radius below it.
    """

    sigma: float
    prediction: int
    drawn: int
    start: int
    path: tuple[tuple[float, float], ...]


def search_noise_level(sampler: Sampler, search: Search) -> NoiseLevel:
    """Bisect for the noise level with the largest radius, on few samples.

    Parameters
    ----------
    sampler : callable
        See the module. Sample numbers count from 0.
    search : Search
        For instance one of `PRESETS`.

    Returns
    -------
    NoiseLevel
        The original noise level, unless the one found promises a larger radius *for the
        same class*.

    Raises
    ------
    ValueError
        As for the sampler.

    Notes
    -----
    Guarantee: none, and none is needed, as long as the certificate comes from samples
    that the search has not seen. If the radius is strictly quasiconcave where it is
    positive, a comparison of two different radii errs by at most ``step``, up to
    sampling error; comparisons of two zeros tell nothing, and otherwise the search ends
    somewhere.

    The two radii of a comparison use the same noise samples: their *difference* is far
    less noisy than either. Every comparison has samples of its own, lest one unlucky
    set of them tilts the whole search.

    A radius counts as zero where another class has most votes. Of two equal radii
    (both zero, say) nothing can be learned, and the search turns round, as in the
    published code, whose last comparison does not look at the class.

    References
    ----------
    Kung and Chen (2024), Algorithm 1.
    """
    blocks, drawn = 0, 0

    def votes(sigma: float) -> NDArray[np.int64]:
        nonlocal drawn
        drawn += search.n
        return np.asarray(sampler(sigma=sigma, n=search.n, start=blocks * search.n))

    def promise(sigma: float) -> float:
        # low - step may be no noise at all, and no radius.
        return _promise(votes(sigma), top, sigma, search) if sigma > 0 else 0.0

    top = int(np.argmax(votes(search.sigma)))
    low, high, up, path = search.low, search.high, True, []
    while not path or high - low > search.tolerance:
        blocks += 1
        middle = (low + high) / 2
        slope = promise(middle + search.step) - promise(middle - search.step)
        up = slope > 0 if slope else not up
        low, high = (middle, high) if up else (low, middle)
        path.append((middle, slope))
    blocks += 1
    found = (low + high) / 2
    chosen = found if promise(found) > promise(search.sigma) else search.sigma
    return NoiseLevel(chosen, top, drawn, (blocks + 1) * search.n, tuple(path))


def _promise(
    counts: NDArray[np.int64], top: int, sigma: float, search: Search
) -> float:
    """Return the radius of class ``top`` that these votes suggest, at least 0."""
    if np.argmax(counts) != top:
        return 0.0
    bound = clopper_pearson_lower(counts[top], search.n, alpha=search.alpha)
    return max(0.0, float(radius_mono(bound, sigma=sigma)))


class NoiseLevelCertificate(NamedTuple):
    """A certified prediction, or `ABSTAIN`, and the noise level that it is about."""

    prediction: int
    radius: float
    p_a_lower: float
    sigma: float


def certify_noise_level(
    sampler: Sampler,
    sigmas: float | Sequence[float],
    *,
    start: int,
    n0: int,
    n: int,
    alpha: float,
    strategy: str = "max-upper",
) -> NoiseLevelCertificate:
    """Certify one image at a noise level, or at the best of several.

    Parameters
    ----------
    sampler : callable
        See the module.
    sigmas : float or sequence of float
        The noise level, or candidates, the original first. They may have been chosen
        by looking at the image and at samples before ``start``.
    start : int
        Number of the first fresh sample, such as the ``start`` that a search returns.
    n0, n : int
        Selection and estimation samples at each candidate.
    alpha : float
        Failure probability of the certificate that is returned, in (0, 1).
    strategy : str
        See `lipsmooth.certify.certify_counts`.

    Returns
    -------
    NoiseLevelCertificate
        The candidate with the largest radius, the earlier one on ties.

    Raises
    ------
    ValueError
        If there is no candidate, ``start`` is negative, or as for the sampler and
        `lipsmooth.certify.certify_counts`.

    Notes
    -----
    Guarantee: with probability at least ``1 - alpha`` either the prediction is
    `ABSTAIN` or the smoothed classifier *at the noise level returned* is constant in
    the open L2 ball: the promise per input, not that for the deployed classifier.

    Which of several certificates is the largest is known only after the estimation
    samples were seen, so each of ``m`` candidates is certified at ``alpha / m``: the
    one returned is false only if one of them is. Which candidates there are is free:
    those whose selection samples name another class than the original's are dropped
    first, and ``m`` counts the rest.
    """
    candidates = np.atleast_1d(np.asarray(sigmas, dtype=float))
    if candidates.ndim != 1 or not len(candidates):
        raise ValueError(f"sigmas must be one or more noise levels, got {sigmas}")
    if start < 0:
        raise ValueError(f"start must be at least 0, got {start}")
    check_alpha(alpha)
    selection = _votes(sampler, candidates, start=start, n=n0)
    agree = selection.argmax(axis=1) == selection[0].argmax()
    kept = candidates[agree]
    certificates = certify_counts(
        selection[agree], _votes(sampler, kept, start=start + n0, n=n),
        sigma=kept, alpha=alpha / len(kept), strategy=strategy,
    )  # fmt: skip
    best = int(np.argmax(certificates.radius))
    return NoiseLevelCertificate(
        prediction=int(certificates.prediction[best]),
        radius=float(certificates.radius[best]),
        p_a_lower=float(certificates.p_a_lower[best]),
        sigma=float(kept[best]),
    )


def _votes(sampler: Sampler, sigmas: Array, *, start: int, n: int) -> Array:
    return np.stack([sampler(sigma=float(sigma), n=n, start=start) for sigma in sigmas])


def quasiconcavity_gap(radii: ArrayLike) -> float:
    """Return how far a sequence of radii is from rising first and then falling.

    Parameters
    ----------
    radii : array_like, shape (levels,)
        Radii at increasing noise levels.

    Returns
    -------
    float
        The depth of the deepest valley: the largest amount by which a radius falls
        short of both a radius before it and a radius after it. 0 if quasiconcave.

    Raises
    ------
    ValueError
        If the radii are not a sequence of finite numbers.
    """
    values = np.asarray(radii, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"radii must be a sequence, got shape {values.shape}")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"radii must be finite, got {values[~np.isfinite(values)][0]}")
    before = np.maximum.accumulate(values)
    after = np.maximum.accumulate(values[::-1])[::-1]
    return float(np.max(np.minimum(before, after) - values))
