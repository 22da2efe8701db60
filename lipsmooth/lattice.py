"""What printed radii tell about the votes and the level behind them.

A Clopper–Pearson radius takes one of ``n + 1`` values: a lattice. It is dense for
small radii and sparse near the largest one, where printed radii betray the level
at which they were computed.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from lipsmooth.intervals import Bounds, clopper_pearson_lower
from lipsmooth.radii import check_sigma

Array = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class LatticeFit:
    """How printed radii sit on the lattice of one level.

    Attributes
    ----------
    alpha : float
        The level.
    largest : float
        The largest radius that ``n`` unanimous votes certify, unrounded.
    positive, matching, above : int
        Positive radii; those that some count explains; those above ``largest`` even
        after rounding. The level fits if ``matching == positive``.
    telling : int
        Positive radii where the lattice is sparser than the print, so that a wrong
        level is likely to miss them. With few of them no level is ruled out.
    """

    alpha: float
    largest: float
    positive: int
    matching: int
    above: int
    telling: int


def lattice_fit(
    radii: ArrayLike, *, sigma: float, n: int, alpha: float, digits: int = 3
) -> LatticeFit:
    """Ask whether radii can have been certified at level ``alpha``.

    Parameters
    ----------
    radii : array_like
        Printed radii, any shape; 0 for abstentions, which say nothing.
    sigma : float
        Standard deviation of the noise.
    n : int
        Number of estimation samples.
    alpha : float
        One-sided level in (0, 1) of the bound on the selected class.
    digits : int
        Significant digits printed.

    Returns
    -------
    LatticeFit

    Raises
    ------
    ValueError
        If a radius is negative or not finite, or an argument is invalid.

    Notes
    -----
    Guarantee: one radius off the lattice, or above ``largest``, disproves that a
    mono certificate from ``n`` samples at level ``alpha`` was printed. A fit proves
    nothing; compare levels by their ``telling`` radii.
    """
    points, _ = _lattice(sigma, n, alpha, digits)
    fewest, most = counts_behind(radii, sigma=sigma, n=n, alpha=alpha, digits=digits)
    printed = np.asarray(radii, dtype=float)
    positive = printed > 0
    # Where a point and its neighbour are further apart than two printed numbers.
    right = np.clip(np.searchsorted(points, printed), 1, len(points) - 1)
    step = 10.0 ** (np.floor(np.log10(np.where(positive, printed, 1))) + 1 - digits)
    sparse = points[right] - points[right - 1] > step
    return LatticeFit(
        alpha=alpha,
        largest=float(points[-1]),
        positive=int(np.sum(positive)),
        matching=int(np.sum(positive & (fewest <= most))),
        above=int(np.sum(printed > print_radii(points[-1], digits))),
        telling=int(np.sum(positive & sparse)),
    )


def counts_behind(
    radii: ArrayLike, *, sigma: float, n: int, alpha: float, digits: int = 3
) -> tuple[Counts, Counts]:
    """Return the fewest and the most votes that print as each radius.

    Parameters
    ----------
    radii, sigma, n, alpha, digits
        As for `lattice_fit`.

    Returns
    -------
    fewest, most : ndarray of int64, the shape of radii
        Votes for the selected class; ``fewest > most`` if no count prints as the
        radius. A radius of 0 stands for every count that certifies nothing.

    Raises
    ------
    ValueError
        As for `lattice_fit`.
    """
    wanted = check_radii(radii)
    points, printed = _lattice(sigma, n, alpha, digits)
    first = n + 1 - len(points)
    fewest = first + np.searchsorted(printed, wanted, side="left")
    most = first + np.searchsorted(printed, wanted, side="right") - 1
    return np.where(wanted == 0, 0, fewest), most


def recertify(
    radii: ArrayLike,
    *,
    sigma: float,
    n: int,
    alpha: float,
    new_alpha: float,
    digits: int = 3,
) -> Bounds:
    """Recompute printed radii at a stricter level, or without the rounding.

    Parameters
    ----------
    radii, sigma, n, digits
        As for `lattice_fit`.
    alpha : float
        Level at which the radii were computed.
    new_alpha : float
        Level wanted, at most ``alpha``: what abstained has left no count.

    Returns
    -------
    Bounds
        Smallest and largest radius, the shape of radii, of the counts that print
        alike; 0 where nothing is certified any more. State the lower one.

    Raises
    ------
    ValueError
        If a radius is off the lattice of ``alpha``, ``new_alpha > alpha``, or as
        for `lattice_fit`.

    Notes
    -----
    Guarantee: if the radii are mono certificates at level ``alpha``, the unrounded
    ones at level ``new_alpha`` lie between the two.
    """
    if new_alpha > alpha:
        raise ValueError(f"new_alpha must be at most alpha = {alpha}, got {new_alpha}")
    wanted = np.asarray(radii, dtype=float)
    fewest, most = counts_behind(wanted, sigma=sigma, n=n, alpha=alpha, digits=digits)
    astray = wanted[fewest > most]
    if astray.size:
        raise ValueError(f"radius {astray[0]:g} is no radius at alpha = {alpha}")
    points, _ = _lattice(sigma, n, new_alpha, digits)
    padded = np.concatenate([[0.0], points])  # counts too small certify nothing

    def radius(counts: Counts) -> Array:
        return padded[np.maximum(counts - (n - len(points)), 0)]

    return Bounds(radius(fewest), radius(most))


def check_radii(radii: ArrayLike) -> Array:
    """Return radii as an array; raise unless all are finite and at least 0."""
    wanted = np.asarray(radii, dtype=float)
    if not np.all(np.isfinite(wanted) & (wanted >= 0)):
        raise ValueError(f"radii must be finite and at least 0, got {radii}")
    return wanted


def print_radii(radii: ArrayLike, digits: int = 3) -> Array:
    """Return radii as locuslab/smoothing prints them: to nearest, hence often up.

    Parameters
    ----------
    radii : array_like
    digits : int
        Significant digits.

    Returns
    -------
    ndarray, the shape of radii
        What a reader of the log gets back.
    """

    # Printing and reading back is exact: both sides name the same decimal.
    def printed(radius: float) -> float:
        return float(f"{radius:.{digits}}")

    return np.vectorize(printed, otypes=[float])(radii)


@lru_cache(maxsize=8)
def _lattice(sigma: float, n: int, alpha: float, digits: int) -> tuple[Array, Array]:
    """Return the positive radii of the counts up to n, and how they are printed."""
    if n < 1 or int(n) != n:
        raise ValueError(f"n must be a whole number, at least 1, got {n}")
    noise = float(check_sigma(sigma))
    counts = np.arange(n // 2, n + 1)  # no lower bound exceeds the observed share
    points = noise * ndtri(clopper_pearson_lower(counts, n, alpha=alpha))
    points = points[points > 0]
    if not len(points):
        raise ValueError(f"n = {n} votes certify nothing at alpha = {alpha}")
    printed = print_radii(points, digits)
    for shared in (points, printed):
        shared.setflags(write=False)  # they are cached
    return points, printed
