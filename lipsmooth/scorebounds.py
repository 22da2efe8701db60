"""Bounds on mean scores from their moments, and what they make of a radius.

The arithmetic that `lipsmooth.scores` and `lipsmooth.perinput` share. Moments have the
classes along their last axis and anything before it.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipsmooth.certify import ABSTAIN, Certificates
from lipsmooth.intervals import (
    Bounds,
    check_alpha,
    clopper_pearson_lower,
    clopper_pearson_upper,
    empirical_bernstein,
    hoeffding,
)
from lipsmooth.radii import (
    check_sigma,
    radius_mono,
    radius_mono_exact,
    radius_multi,
    radius_multi_exact,
)
from lipsmooth.ramp import check_lipschitz

Array = NDArray[np.float64]
Classes = NDArray[np.int64]

ROUNDING = 1e-6
"""How far scores may leave [0, 1], or their sum 1: they come in single precision."""

SCORE_STRATEGIES = ("lvmrs", "mono", "planned")
"""Ways to spend ``alpha``; all hold at level ``alpha``."""

SCORE_BOUNDS = ("bernstein", "hoeffding", "clopper-pearson")
"""Names of the bounds on a mean score, each valid for a sample size fixed before."""


def score_bounds(
    mean: ArrayLike, variance: ArrayLike, n: int, *, alpha: float, bound: str
) -> Bounds:
    """Bound mean scores from below and from above, each side at level ``alpha``.

    Parameters
    ----------
    mean, variance : array_like
        Averages and unbiased variances of scores over ``n`` samples.
    n : int
        Number of samples, at least 2.
    alpha : float
        One-sided level in (0, 1).
    bound : str
        ``"bernstein"``: empirical Bernstein. ``"hoeffding"``: from the mean alone.
        ``"clopper-pearson"``: for hard votes, whose mean is a count in disguise.

    Raises
    ------
    ValueError
        If the bound is unknown or its own conditions fail; scores strictly between
        0 and 1 are no votes, and their variance gives them away.

    Notes
    -----
    Guarantee: each side holds with probability at least ``1 - alpha``.
    """
    if not (n == int(n) and n >= 2):
        raise ValueError(f"n must be a whole number of at least 2, got {n}")
    if bound == "bernstein":
        return empirical_bernstein(mean, variance, n, alpha=alpha)
    if bound == "hoeffding":
        return hoeffding(mean, n, alpha=alpha)
    if bound != "clopper-pearson":
        known = ", ".join(SCORE_BOUNDS)
        raise ValueError(f"bound must be one of {known}; got {bound!r}")
    # x² ≤ x on [0, 1], with equality for 0 and 1 only: the largest variance is votes'.
    slack = np.asarray(mean) * (1 - np.asarray(mean)) * n / (n - 1) - variance
    if np.any(np.abs(slack) > ROUNDING):
        raise ValueError(
            "bound 'clopper-pearson' is for scores that are 0 or 1; the variances "
            f"are up to {np.max(np.abs(slack)):.3g} away from those of votes"
        )
    return _from_counts(mean, n, alpha)


def predicted_bounds(
    mean: ArrayLike, variance: ArrayLike, n: int, *, alpha: float, bound: str
) -> Bounds:
    """Bounds that ``n`` further samples would give if their moments were these.

    A guess to choose by, never a certificate: the moments come from other samples,
    or from other images, and from another number of them.
    """
    if bound == "clopper-pearson":
        return _from_counts(mean, n, alpha)
    return score_bounds(mean, variance, n, alpha=alpha, bound=bound)


def _from_counts(mean: ArrayLike, n: int, alpha: float) -> Bounds:
    votes = np.round(np.asarray(mean) * n)
    return Bounds(
        clopper_pearson_lower(votes, n, alpha=alpha),
        clopper_pearson_upper(votes, n, alpha=alpha),
    )


def spend(
    mean: Array,
    variance: Array,
    n: int,
    top: Classes,
    *,
    alpha: float,
    strategy: str,
    bounds: Callable[..., Bounds],
    bound: str,
) -> tuple[Array, Array]:
    """Return a lower bound on class ``top`` and an upper bound on all its rivals.

    ``"mono"`` spends all of ``alpha`` on the former and uses that scores sum to 1;
    ``"lvmrs"`` spends half on each and takes the largest bound of a rival. ``bounds``
    is `score_bounds` or `predicted_bounds`.
    """
    place = top[..., np.newaxis]
    if strategy == "mono":
        own = (np.take_along_axis(a, place, -1)[..., 0] for a in (mean, variance))
        lower = bounds(*own, n, alpha=alpha, bound=bound).lower
        return lower, 1 - lower
    both = bounds(mean, variance, n, alpha=alpha / 2, bound=bound)
    rivals = both.upper.copy()
    np.put_along_axis(rivals, place, -np.inf, -1)
    return np.take_along_axis(both.lower, place, -1)[..., 0], rivals.max(axis=-1)


def predicted_radius(
    mean: Array, variance: Array, n: int, *, sigma, alpha, lipschitz, strategy, bound
) -> Array:
    """Return the signed radius that ``n`` samples promise if their moments are these.

    Of shape (images, ...), one per map if there are maps; ``bound`` is then one name
    or one per map. ``"planned"`` promises the better of its two ways.
    """
    if not isinstance(bound, str):
        if mean.ndim < 3 or len(bound) != mean.shape[1]:
            raise ValueError(f"{len(bound)} bounds for moments of shape {mean.shape}")
        radius = np.empty(mean.shape[:2])
        for name in dict.fromkeys(bound):
            own = np.array([other == name for other in bound])
            constants = np.broadcast_to(lipschitz, own.shape)[own]
            radius[:, own] = predicted_radius(
                mean[:, own], variance[:, own], n, sigma=sigma, alpha=alpha,
                lipschitz=constants, strategy=strategy, bound=name,
            )  # fmt: skip
        return radius
    plans = ("lvmrs", "mono") if strategy == "planned" else (strategy,)
    top = np.argmax(mean, axis=-1)
    chances = [
        score_radius(
            *spend(mean, variance, n, top, alpha=alpha, strategy=plan,
                   bounds=predicted_bounds, bound=bound),
            sigma=sigma, lipschitz=lipschitz,
        )
        for plan in plans
    ]  # fmt: skip
    return np.max(chances, axis=0)


def certificates(
    top: Classes, p_a_lower: Array, p_b_upper: Array, *, sigma, lipschitz
) -> Certificates:
    """Return what the bounds certify, and abstentions where that is nothing."""
    radius = score_radius(p_a_lower, p_b_upper, sigma=sigma, lipschitz=lipschitz)
    certified = radius > 0
    return Certificates(
        prediction=np.where(certified, top, ABSTAIN),
        radius=np.where(certified, radius, 0.0),
        p_a_lower=p_a_lower,
        p_b_upper=p_b_upper,
    )


def score_radius(
    p_a: Array, p_b: Array, *, sigma: ArrayLike, lipschitz: ArrayLike
) -> Array:
    """Return the signed radius, with the Lipschitz constant of a score if finite."""
    alone = p_b == 1 - p_a  # then 1 - p_a goes through the mono formula, which is exact
    if np.all(np.isinf(check_lipschitz(lipschitz))):
        mono, multi = radius_mono, radius_multi
        options = {"sigma": sigma}
    else:
        mono, multi = radius_mono_exact, radius_multi_exact
        options = {"sigma": sigma, "lipschitz": lipschitz}
    return np.where(alone, mono(p_a, **options), multi(p_a, p_b, **options))


def check_noise(sigma: ArrayLike, images: int) -> Array:
    """Return ``sigma`` as an array of shape () or (images,), or raise."""
    noise = check_sigma(sigma)
    if noise.shape not in ((), (images,)):
        raise ValueError(f"sigma has shape {noise.shape} for {images} images")
    return noise


def check_strategy(strategy: str, known: tuple[str, ...] = SCORE_STRATEGIES) -> str:
    """Return ``strategy``, or raise unless it is known."""
    if strategy not in known:
        names = ", ".join(known)
        raise ValueError(f"strategy must be one of {names}; got {strategy!r}")
    return strategy


def check_level(alpha: float) -> float:
    """Return ``alpha`` as one float in (0, 1), or raise."""
    if np.ndim(alpha):
        raise ValueError(f"alpha must be one number, got {alpha}")
    return float(check_alpha(alpha))


def check_range(name: str, values: ArrayLike) -> Array:
    """Return scores or their means in [0, 1], cut by no more than `ROUNDING`."""
    array = np.asarray(values, dtype=float)
    if np.any(np.isnan(array)):
        raise ValueError(f"{name} has a NaN at {_first(np.isnan(array))}")
    outside = (array < -ROUNDING) | (array > 1 + ROUNDING)
    if np.any(outside):
        raise ValueError(
            f"{name} must lie in [0, 1], got {array[outside][0]} at {_first(outside)}"
        )
    return np.clip(array, 0, 1)


def check_moments(
    name: str, mean: ArrayLike, variance: ArrayLike, *, axes: tuple[str, ...]
) -> tuple[Array, Array]:
    """Return means and variances of scores of two classes or more, or raise."""
    average = check_range(f"mean{name}", mean)
    spread = np.asarray(variance, dtype=float)
    if average.ndim != len(axes) or average.shape[-1] < 2 or not average.size:
        raise ValueError(
            f"mean{name} must have shape ({', '.join(axes)}), none empty, with at "
            f"least two classes; got {average.shape}"
        )
    if spread.shape != average.shape:
        raise ValueError(
            f"variance{name} has shape {spread.shape}, mean{name} {average.shape}"
        )
    wrong = ~(np.isfinite(spread) & (spread >= 0))
    if np.any(wrong):
        raise ValueError(
            f"variance{name} must be finite and at least 0, "
            f"got {spread[wrong][0]} at {_first(wrong)}"
        )
    return average, spread


def check_simplex(mean: Array) -> None:
    """Raise unless the scores sum to 1 over the classes."""
    total = mean.sum(axis=-1)
    wrong = np.abs(total - 1) > ROUNDING * mean.shape[-1]
    if np.any(wrong):
        raise ValueError(
            f"scores must sum to 1 for this strategy, got {total[wrong][0]} "
            f"at {_first(wrong)}"
        )


def _first(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])
