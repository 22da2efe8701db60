"""Closed-form certified radii in the L2 norm.

Inputs are class probabilities of a base classifier under Gaussian noise, or
bounds for them: a lower bound for the predicted class and an upper bound for
its rivals keep the radius a lower bound of the true one. Radii are signed and
unrounded; zero or less certifies nothing.

Some also know a Lipschitz constant, in the L2 norm, that every score of the base
classifier has. The constant of the score vector is one.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from lipsmooth.intervals import check_alpha, check_unit
from lipsmooth.ramp import (
    check_lipschitz,
    check_sigma,
    ramp_inverse,
    ramp_slope,
    smoothed_lipschitz,
)

Array = NDArray[np.float64]


def radius_mono(p_a: ArrayLike, *, sigma: ArrayLike) -> Array:
    """Radius from the probability of the predicted class alone.

    Parameters
    ----------
    p_a : array_like
        Probability of the predicted class, or a lower bound for it, in [0, 1].
    sigma : array_like
        Standard deviation of the noise, in the units of the input.

    Returns
    -------
    ndarray
        ``sigma * Φ⁻¹(p_a)``: negative below one half, infinite at 1.

    Raises
    ------
    ValueError
        If ``p_a`` leaves [0, 1] or ``sigma`` is not positive and finite.

    Notes
    -----
    Guarantee: the smoothed classifier is constant in the open ball of this
    radius. No larger radius is true for every classifier with this ``p_a``.

    References
    ----------
    Cohen, Rosenfeld and Kolter (2019), Theorem 1 with ``p_B = 1 - p_A``.
    """
    return check_sigma(sigma) * ndtri(check_unit("p_a", p_a))


def radius_multi(p_a: ArrayLike, p_b: ArrayLike, *, sigma: ArrayLike) -> Array:
    """Radius from the predicted class and its strongest rival.

    Parameters
    ----------
    p_a : array_like
        Probability of the predicted class, or a lower bound for it, in [0, 1].
    p_b : array_like
        Largest probability among the other classes, or an upper bound for it.
    sigma : array_like
        Standard deviation of the noise, in the units of the input.

    Returns
    -------
    ndarray
        ``sigma / 2 * (Φ⁻¹(p_a) - Φ⁻¹(p_b))``; equals `radius_mono` when
        ``p_b == 1 - p_a``.

    Raises
    ------
    ValueError
        If a probability leaves [0, 1] or ``sigma`` is not positive and finite.

    Notes
    -----
    Guarantee: as for `radius_mono`; no larger radius is true for every
    classifier with these two probabilities when ``p_a + p_b <= 1``.

    References
    ----------
    Cohen, Rosenfeld and Kolter (2019), Theorems 1 and 2.
    """
    top = ndtri(check_unit("p_a", p_a))
    rival = ndtri(check_unit("p_b", p_b))
    return check_sigma(sigma) / 2 * (top - rival)


def radius_mono_exact(
    p_a: ArrayLike, *, sigma: ArrayLike, lipschitz: ArrayLike
) -> Array:
    """Radius from the mean score of the predicted class and a Lipschitz constant.

    Parameters
    ----------
    p_a : array_like
        Mean score of the predicted class, or a lower bound for it, in [0, 1].
    sigma : array_like
        Standard deviation of the noise, in the units of the input.
    lipschitz : array_like
        Lipschitz constant of every score, or an upper bound for it, per unit of the
        input; ``inf`` if none is known.

    Returns
    -------
    ndarray
        ``h⁻¹(p_a)`` of `lipsmooth.ramp`: `radius_mono` for an infinite constant, the
        margin ``(p_a - 1/2) / lipschitz`` in the limit of no noise, and for
        ``p_a > 1/2`` never below either.

    Raises
    ------
    ValueError
        If ``p_a`` leaves [0, 1], ``sigma`` is not positive and finite or
        ``lipschitz`` not positive.

    Notes
    -----
    Guarantee: if the scores lie in [0, 1] and add up to at most 1, the smoothed
    classifier is constant in the open ball of this radius. No larger radius is true
    for every classifier with this ``p_a`` and this constant.
    """
    return ramp_inverse(check_unit("p_a", p_a), sigma=sigma, lipschitz=lipschitz)


def radius_multi_exact(
    p_a: ArrayLike, p_b: ArrayLike, *, sigma: ArrayLike, lipschitz: ArrayLike
) -> Array:
    """Radius from two mean scores, as for `radius_multi`, and a Lipschitz constant.

    ``(h⁻¹(p_a) - h⁻¹(p_b)) / 2``, with parameters and errors of `radius_mono_exact`;
    equal to it for ``p_b == 1 - p_a``. Guarantee: as there, for any scores in [0, 1].
    No larger radius is true for every classifier with these means whose *single*
    scores have this constant, if ``p_a + p_b <= 1`` and other classes take the rest.

    A score *vector* with the constant ``L`` cannot move two scores at full speed; for
    it ``radius_mono_exact((1 + p_a - p_b) / 2, sigma=sigma, lipschitz=L / sqrt(2))`` is
    valid too, and may be larger.
    """
    top = ramp_inverse(check_unit("p_a", p_a), sigma=sigma, lipschitz=lipschitz)
    rival = ramp_inverse(check_unit("p_b", p_b), sigma=sigma, lipschitz=lipschitz)
    return (top - rival) / 2


def radius_mono_lipschitz(
    p_a: ArrayLike, *, sigma: ArrayLike, lipschitz: ArrayLike
) -> Array:
    """Radius as published by Delattre et al. (2025), for comparison.

    Parameters and errors are those of `radius_mono_exact`.

    Returns
    -------
    ndarray
        ``Φ⁻¹(p_a) φ(Φ⁻¹(p_a)) / h'(h⁻¹(p_a))``: the Gaussian quantile over the
        steepest slope it can have at the centre (their ρ = 0). Infinite at 0 and 1.

    Notes
    -----
    Guarantee: for ``p_a > 1/2`` it lies between `radius_mono` and
    `radius_mono_exact`, and so is valid, at a lower bound for ``p_a`` too. It can
    *decrease* as ``p_a`` grows.
    """
    probability = check_unit("p_a", p_a)
    lower = np.minimum(probability, 1 - probability)
    quantile = -ndtri(lower)
    slope = ramp_slope(
        ramp_inverse(lower, sigma=sigma, lipschitz=lipschitz),
        sigma=sigma,
        lipschitz=lipschitz,
    )
    inner = lower > 0  # at the ends both density and slope vanish
    density = np.exp(-(quantile**2) / 2, where=inner, out=np.ones_like(quantile))
    ratio = density / np.sqrt(2 * np.pi) / np.where(inner, slope, 1)
    return quantile * ratio * np.sign(probability - 0.5) + 0.0


def radius_multi_lipschitz(
    p_a: ArrayLike, p_b: ArrayLike, *, sigma: ArrayLike, lipschitz: ArrayLike
) -> Array:
    """Radius from two classes by Delattre et al. (2025), for comparison.

    Half the difference of `radius_mono_lipschitz` at ``p_a`` and at ``p_b``, each with
    the slope at its own class's centre: the reading of the released script. Parameters
    and errors are those of `radius_multi_exact`. Guarantee: for ``p_a >= p_b`` never
    above that radius, and so valid.
    """
    top = radius_mono_lipschitz(p_a, sigma=sigma, lipschitz=lipschitz)
    rival = check_unit("p_b", p_b)
    return (top - radius_mono_lipschitz(rival, sigma=sigma, lipschitz=lipschitz)) / 2


def radius_smoothed_margin(
    p_a: ArrayLike, p_b: ArrayLike, *, sigma: ArrayLike
) -> Array:
    """Radius from the margin of two mean scores; parameters as for `radius_multi`.

    ``(p_a - p_b) sigma sqrt(π / 2)``, because a mean score in [0, 1] has the Lipschitz
    constant ``1 / (sigma sqrt(2 π))`` (Salman et al. 2019; Delattre et al. 2024).
    Guarantee: as for `radius_multi`, and for ``p_a >= p_b`` never above it.
    """
    margin = check_unit("p_a", p_a) - check_unit("p_b", p_b)
    constant = smoothed_lipschitz(sigma=sigma)
    return radius_margin(margin, lipschitz=constant, per_score=True)


def radius_margin(
    margin: ArrayLike, *, lipschitz: ArrayLike, per_score: bool = False
) -> Array:
    """Radius of a Lipschitz classifier, without noise, from the margin of its scores.

    Parameters
    ----------
    margin : array_like
        Score of the predicted class minus the largest other one, in any range.
    lipschitz : array_like
        Lipschitz constant in the L2 norm, per unit of the input.
    per_score : bool
        Whether the constant is that of each score rather than of the score vector,
        which says more: two scores of a vector cannot both move at full speed.

    Returns
    -------
    ndarray
        ``margin / (sqrt(2) lipschitz)``, or ``margin / (2 lipschitz)`` per score.

    Raises
    ------
    ValueError
        If ``margin`` is not finite or ``lipschitz`` not positive.

    Notes
    -----
    Guarantee: the prediction is constant in the open ball of this radius (Tsuzuku,
    Sato and Sugiyama 2018).
    """
    gap = np.asarray(margin, dtype=float)
    if not np.all(np.isfinite(gap)):
        raise ValueError(f"margin must be finite, got {margin}")
    return gap / ((2 if per_score else np.sqrt(2)) * check_lipschitz(lipschitz))


def max_radius(n: ArrayLike, *, sigma: ArrayLike, alpha: ArrayLike) -> Array:
    """Largest radius that ``n`` unanimous votes can certify at level ``alpha``.

    Parameters
    ----------
    n : array_like
        Number of estimation samples, at least 1.
    sigma : array_like
        Standard deviation of the noise, in the units of the input.
    alpha : array_like
        One-sided level in (0, 1).

    Returns
    -------
    ndarray
        ``sigma * Φ⁻¹(alpha ** (1 / n))``, from the upper tail so that it stays
        exact when ``alpha ** (1 / n)`` rounds to 1.

    Raises
    ------
    ValueError
        If ``n < 1``, ``alpha`` is not in (0, 1) or ``sigma`` not positive.

    References
    ----------
    Cohen, Rosenfeld and Kolter (2019), Section 3.2.2.
    """
    trials = np.asarray(n, dtype=float)
    if not np.all(np.isfinite(trials) & (trials >= 1)):
        raise ValueError(f"n must be at least 1, got {n}")
    miss = -np.expm1(np.log(check_alpha(alpha)) / trials)
    return check_sigma(sigma) * -ndtri(miss)
