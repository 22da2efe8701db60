"""Which levels can have printed a set of radii, and how surely a log tells two apart.

The lower bound of ``k`` votes is below ``p`` exactly if ``k`` votes or more have a
probability above the level under ``p``. So the counts behind a printed radius are
counted without computing a single bound, for any level, noise and number of votes.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from lipsmooth.intervals import Bounds, check_alpha, clopper_pearson_lower
from lipsmooth.lattice import check_radii, print_radii
from lipsmooth.radii import check_sigma

Array = NDArray[np.float64]
Counts = NDArray[np.int64]


def unexplained_rows(
    radii: ArrayLike,
    *,
    sigma: ArrayLike,
    n: ArrayLike,
    alpha: ArrayLike,
    digits: int = 3,
) -> Counts:
    """Count the radii that no number of votes prints as.

    Parameters
    ----------
    radii : array_like, shape (images,)
        Printed radii; 0 for abstentions, which need no explanation.
    sigma, n, alpha : array_like
        Noise, number of estimation samples and one-sided level to try; they broadcast.
    digits : int
        Significant digits printed.

    Returns
    -------
    ndarray of int, the broadcast shape of sigma, n and alpha

    Raises
    ------
    ValueError
        If a radius is negative or not finite, or an argument is invalid.

    Notes
    -----
    Guarantee: mono certificates from ``n`` samples at level ``alpha``, rounded to
    nearest, have 0 such rows. One row therefore refutes all of it together.
    """
    values, images = np.unique(check_radii(radii), return_counts=True)
    # The counts that certify less than r at level alpha are binom.isf(alpha, n, p) in
    # number, with p = Phi(r / sigma): those whose tail under p exceeds the level.
    lower, upper = _cells(values[values > 0], digits)
    noise, size, level = (
        part[..., None]
        for part in np.broadcast_arrays(
            check_sigma(sigma), check_size(n), check_alpha(alpha)
        )
    )
    below, above = ndtr(lower / noise), ndtr(upper / noise)
    # Two counts in a row have bounds less than 10 / n apart, unless alpha < 1e-300,
    # and the last bound, alpha^(1/n), lies within -log(alpha) / n of 1.
    doubtful = size * (above - below) < 10 - np.log(level)
    size, level = (
        np.broadcast_to(part, doubtful.shape)[doubtful] for part in (size, level)
    )
    missed = np.zeros(doubtful.shape, dtype=np.int64)
    ends = (binom.isf(level, size, part[doubtful]) for part in (above, below))
    missed[doubtful] = np.subtract(*ends) <= 0
    return missed @ images[values > 0]


def level_range(
    radii: ArrayLike, *, sigma: float, n: int, alpha: float, digits: int = 3
) -> Bounds:
    """Return how far a level that explains every radius can be moved.

    Parameters
    ----------
    radii, sigma, n, digits
        As for `unexplained_rows`.
    alpha : float
        A level that explains every row.

    Returns
    -------
    Bounds
        Just outside of them some row is unexplained; 0 and 1 where no row says so.
        Other levels further away may explain every row again.

    Raises
    ------
    ValueError
        If ``alpha`` leaves a row unexplained, or as for `unexplained_rows`.
    """
    if missed := int(
        unexplained_rows(radii, sigma=sigma, n=n, alpha=alpha, digits=digits)
    ):
        raise ValueError(f"alpha = {alpha} leaves {missed} radii unexplained")
    values = np.unique(np.asarray(radii, dtype=float))
    lower, upper = (ndtr(edge / sigma) for edge in _cells(values[values > 0], digits))
    most = binom.isf(alpha, n, upper)
    fewest = binom.isf(alpha, n, lower) + 1
    # The level at which k votes certify exactly p is P(K >= k) under p.
    least = binom.sf(most - 1, n, lower)
    largest = binom.sf(fewest - 1, n, upper)
    # Where one vote more or fewer takes over before this one ends, nothing is lost.
    binding_below = (most == n) | (binom.sf(most, n, upper) < least)
    binding_above = binom.sf(fewest - 2, n, lower) > largest
    return Bounds(
        np.max(least, where=binding_below, initial=0.0),
        np.min(largest, where=binding_above, initial=1.0),
    )


def exclusion_probability(
    p_a: ArrayLike,
    *,
    sigma: float,
    n: int,
    alpha: float,
    other: float,
    digits: int = 3,
) -> Array:
    """Probability that one printed radius rules out another level.

    Parameters
    ----------
    p_a : array_like
        True probabilities of the selected class, any shape.
    sigma, n, digits
        As for `unexplained_rows`.
    alpha : float
        Level at which the radius is certified.
    other : float
        Level to be ruled out.

    Returns
    -------
    ndarray, the shape of p_a
        Exact, summed over the counts. Rows are independent: with ``m`` of them the
        other level survives with the product of ``1 -`` these.

    Raises
    ------
    ValueError
        As for `unexplained_rows`.
    """
    size, noise = int(check_size(n)), float(check_sigma(sigma))
    counts = np.arange(size // 2, size + 1)
    bounds = clopper_pearson_lower(counts, size, alpha=float(check_alpha(alpha)))
    certified = counts[bounds > 0.5]
    printed = print_radii(noise * ndtri(bounds[bounds > 0.5]), digits)
    lower, upper = _cells(printed, digits)
    level = float(check_alpha(other))
    ends = (binom.isf(level, size, ndtr(edge / noise)) for edge in (upper, lower))
    foreign = certified[np.subtract(*ends) <= 0]
    p = np.asarray(p_a, dtype=float)
    return binom.pmf(foreign, size, p[..., None]).sum(axis=-1)


def check_size(n: ArrayLike) -> NDArray[np.float64]:
    """Return numbers of samples as an array; raise unless whole and at least 1."""
    size = np.asarray(n, dtype=float)
    if not np.all((size >= 1) & (size == np.floor(size))):
        raise ValueError(f"n must be a whole number, at least 1, got {n}")
    return size


def _cells(printed: Array, digits: int) -> tuple[Array, Array]:
    """Return the ends of the interval of radii that print as each."""
    decade = np.floor(np.log10(printed))
    step = 10.0 ** (decade + 1 - digits)
    # Just below a power of ten one more decimal is printed.
    below = np.where(printed <= 10.0**decade * (1 + 1e-9), step / 10, step)
    return printed - below / 2, printed + step / 2
