"""The extremal score of a Lipschitz function under Gaussian noise.

Among functions into [0, 1] with Lipschitz constant L, the one whose mean under
noise falls fastest along a line is the ramp ``u -> clip(1/2 + L u, 0, 1)``. Its mean
``h(t)`` at distance ``t`` from the middle is closed-form, and ``h⁻¹`` turns the mean
of *any* such function into a quantity that changes no faster than its argument.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf, erfcx, ndtr, ndtri

from lipsmooth.intervals import check_unit

Array = NDArray[np.float64]

# Half-widths, in units of sigma, up to which h is an average over the ramp instead of
# a difference of two nearly equal numbers.
_NARROW = 0.25
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
# Beyond this many sigma a Gaussian tail is smaller than any positive double.
_FAR = 40.0
_STOP = 4 * np.finfo(float).eps


def check_sigma(sigma: ArrayLike) -> Array:
    """Return ``sigma`` as an array, or raise unless finite and positive."""
    noise = np.asarray(sigma, dtype=float)
    if not np.all(np.isfinite(noise) & (noise > 0)):
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    return noise


def check_lipschitz(lipschitz: ArrayLike) -> Array:
    """Return ``lipschitz`` as an array, or raise unless positive; ``inf`` is."""
    constant = np.asarray(lipschitz, dtype=float)
    if not np.all(constant > 0):
        raise ValueError(f"lipschitz must be positive, got {lipschitz}")
    return constant


def ramp_mean(t: ArrayLike, *, sigma: ArrayLike, lipschitz: ArrayLike) -> Array:
    """Mean of the ramp at a signed distance from its middle, ``h(t)``.

    Parameters
    ----------
    t : array_like
        Distance from the point where the ramp is 1/2, in the units of the input;
        positive where it is larger. May be infinite.
    sigma : array_like
        Standard deviation of the noise, in the units of the input.
    lipschitz : array_like
        Slope of the ramp, per unit of the input; ``inf`` for a step.

    Returns
    -------
    ndarray
        ``E clip(1/2 + L (t + sigma Z), 0, 1)`` for a standard normal ``Z``, in [0, 1]
        and increasing in ``t``. For negative ``t`` its *relative* error is below
        1e-11; take ``ramp_mean(-t)`` for the distance to 1.

    Raises
    ------
    ValueError
        If ``t`` is NaN, ``sigma`` not positive and finite or ``lipschitz`` not
        positive.
    """
    tau, half, _ = _in_units_of_sigma(t, sigma, lipschitz)
    below = _mean(-np.abs(tau), half)
    return np.where(tau > 0, 1 - below, below)


def ramp_slope(t: ArrayLike, *, sigma: ArrayLike, lipschitz: ArrayLike) -> Array:
    """Differentiate `ramp_mean` with respect to ``t``; same parameters and errors.

    Returns
    -------
    ndarray
        ``L (Φ((t + 1/(2L)) / sigma) - Φ((t - 1/(2L)) / sigma))``, per unit of the
        input, with a relative error below 1e-11. Largest at ``t = 0``, where it is
        the Lipschitz constant of the smoothed ramp.
    """
    tau, half, noise = _in_units_of_sigma(t, sigma, lipschitz)
    return _slope(-np.abs(tau), half) / noise


def ramp_inverse(p: ArrayLike, *, sigma: ArrayLike, lipschitz: ArrayLike) -> Array:
    """Signed distance at which the ramp has mean ``p``, ``h⁻¹(p)``.

    Parameters
    ----------
    p : array_like
        Mean of a score, in [0, 1].
    sigma, lipschitz : array_like
        See `ramp_mean`.

    Returns
    -------
    ndarray
        In the units of the input: negative below one half, 0 there, infinite at 0
        and 1. For the ``p`` that is given the error is below ``1e-11 * (sigma +
        |result|)``, on either side.

    Raises
    ------
    ValueError
        If ``p`` leaves [0, 1], ``sigma`` is not positive and finite or ``lipschitz``
        not positive.

    Notes
    -----
    Guarantee: if ``p(x)`` is the mean of a score in [0, 1] with this Lipschitz
    constant under Gaussian noise at ``x``, then ``h⁻¹(p(x))`` changes by at most
    ``|x - x'|`` between any two points. The ramp attains it.

    Doubles next to 1 are 1.1e-16 apart, so that ``p`` there says little about the
    distance. Who knows ``1 - p`` to more digits calls
    ``-ramp_inverse(1 - p)``, which loses none.
    """
    mean = check_unit("p", p)
    noise, constant = check_sigma(sigma), check_lipschitz(lipschitz)
    mean, noise, half = np.broadcast_arrays(mean, noise, 0.5 / (constant * noise))
    lower = np.asarray(np.minimum(mean, 1 - mean))  # exact, whichever is smaller
    distance = np.asarray(-ndtri(lower))  # for a step, and every ramp's ends
    inner = (lower > 0) & (lower < 0.5) & (half > 0)
    distance[inner] = -_solve(lower[inner], half[inner])
    # Plus 0.0, so that one half is at a distance of 0 and not of -0.
    return noise * np.copysign(distance, mean - 0.5) + 0.0


def smoothed_lipschitz(
    *, sigma: ArrayLike, lipschitz: ArrayLike = np.inf, score_range: ArrayLike = 1.0
) -> Array:
    """Lipschitz constant of the mean of a score under Gaussian noise.

    Parameters
    ----------
    sigma : array_like
        Standard deviation of the noise, in the units of the input.
    lipschitz : array_like
        Lipschitz constant of the score, per unit of the input; ``inf`` if unknown.
    score_range : array_like
        Difference between the largest and the smallest score, finite and positive.

    Returns
    -------
    ndarray
        ``L erf(r / (2 sqrt(2) L sigma))``, and its limit ``r / (sigma sqrt(2 π))``
        for an infinite ``L``. A ramp attains it. The sources print
        ``L erf(r / (sqrt(2) L sigma))``, which is valid and up to twice as large.

    Raises
    ------
    ValueError
        If ``sigma`` or ``score_range`` is not positive and finite, or ``lipschitz`` not
        positive.

    References
    ----------
    Delattre et al. (2024) for the looser constant; Salman et al. (2019) for the limit.
    """
    width = np.asarray(score_range, dtype=float)
    if not np.all(np.isfinite(width) & (width > 0)):
        raise ValueError(f"score_range must be positive and finite, got {score_range}")
    noise, constant = check_sigma(sigma), check_lipschitz(lipschitz)
    limit = width / (noise * np.sqrt(2 * np.pi))
    finite = np.where(np.isfinite(constant), constant, 1.0)
    bounded = finite * erf(width / (np.sqrt(8) * finite * noise))
    return np.where(np.isfinite(constant), bounded, limit)


def _in_units_of_sigma(t, sigma, lipschitz):
    """Return t / sigma, the ramp's half-width / sigma, and sigma, broadcast."""
    distance = np.asarray(t, dtype=float)
    if np.any(np.isnan(distance)):
        raise ValueError(f"t must not be NaN, got {t}")
    noise, constant = check_sigma(sigma), check_lipschitz(lipschitz)
    return np.broadcast_arrays(distance / noise, 0.5 / (constant * noise), noise)


def _mean(tau: Array, half: Array) -> Array:
    """Mean of the ramp of this half-width at ``tau <= 0``, in units of sigma."""
    out = np.empty(tau.shape)
    narrow = half <= _NARROW
    nodes = tau[narrow, None] + half[narrow, None] * _NODES
    out[narrow] = ndtr(nodes) @ _WEIGHTS / 2
    above, below = tau[~narrow] + half[~narrow], half[~narrow] - tau[~narrow]
    area = np.maximum(above, 0) + _overshoot(np.abs(above)) - _overshoot(below)
    out[~narrow] = area / (2 * half[~narrow])
    return out


def _slope(tau: Array, half: Array) -> Array:
    """Differentiate `_mean`, likewise for ``tau <= 0``."""
    out = np.empty(tau.shape)
    narrow = half <= _NARROW
    nodes = np.maximum(tau[narrow, None] + half[narrow, None] * _NODES, -_FAR)
    out[narrow] = np.exp(-(nodes**2) / 2) @ _WEIGHTS / np.sqrt(8 * np.pi)
    edges = tau[~narrow] + half[~narrow], tau[~narrow] - half[~narrow]
    out[~narrow] = (ndtr(edges[0]) - ndtr(edges[1])) / (2 * half[~narrow])
    return out


def _overshoot(x: Array) -> Array:
    """E max(Z - x, 0) for ``x >= 0``, without cancellation between its two terms."""
    near = np.minimum(x, _FAR)
    mills = np.sqrt(np.pi / 2) * erfcx(near / np.sqrt(2))
    return np.exp(-(near**2) / 2) / np.sqrt(2 * np.pi) * (1 - near * mills)


def _solve(p: Array, half: Array) -> Array:
    """Return the ``tau`` with mean ``p < 1/2``, by Newton's method on logarithms.

    The logarithm of the mean is concave in tau. So a step may overshoot to the left
    once, and from there on every step goes right without passing the root. Brackets
    catch what rounding does to this argument.
    """
    quantile = ndtri(p)
    low, high = quantile - half, np.minimum(quantile, (2 * p - 1) * half)
    tau = high.copy()
    target, tiny = np.log(p), np.finfo(float).tiny
    for _ in range(200):
        mean = np.maximum(_mean(tau, half), tiny)
        gap = np.log(mean) - target
        low, high = np.where(gap <= 0, tau, low), np.where(gap >= 0, tau, high)
        step = tau - gap * mean / np.maximum(_slope(tau, half), tiny)
        step = np.where((step >= low) & (step <= high), step, (low + high) / 2)
        moved = np.abs(step - tau) > _STOP * (1 + half + np.abs(tau))
        tau = step
        if not moved.any():
            break
    return tau
