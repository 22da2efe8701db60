"""Gaussian noise rounded to a grid, drawn exactly: smoothing without rounding errors.

Pixels are whole numbers of grid steps, and so is the noise, so that their sum is exact.
"""

from functools import cache, cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from lipsmooth.intervals import check_unit
from lipsmooth.ramp import check_sigma

BITS = 62
"""Random bits that a noise value may take before exact arithmetic is asked."""
CLAMP = 8
"""Noisy pixels end this many standard deviations outside [0, 1]."""
_FIRST = 16
"""Random bits that decide nearly every value, by a look at a table."""

Array = NDArray[np.float64]


class Grid:
    """Normal noise, rounded to the nearest multiple of ``1 / levels``.

    Parameters
    ----------
    sigma : float
        Standard deviation before rounding, in the units of the input.
    levels : int
        Grid steps in one unit: 255 for images whose pixels were bytes.

    Attributes
    ----------
    margin : int
        Noisy pixels are cut to the range from ``-margin`` to ``levels + margin`` steps,
        as a part of the base classifier.
    reach : int
        Larger noise need not be told apart: it is cut, whatever the pixel.

    Raises
    ------
    ValueError
        If ``sigma`` is not positive and finite, ``levels`` no whole number of at least
        1, or the noise too wide for 16-bit numbers.

    Notes
    -----
    Guarantee: if the random bits are fair and independent, `draw` returns independent
    values with ``P(z) = Φ((z + 1/2) / s) - Φ((z - 1/2) / s)``, ``s = sigma * levels``,
    exactly, but that those beyond ``reach`` are returned as ``±reach``. A uniform
    number is drawn bit by bit, as far as it takes to tell between which values of the
    distribution function it lies; these are enclosed, with as many bits.

    References
    ----------
    Voráček and Hein (2023): for pixels on the grid, rounding the noise is rounding the
    noisy image, and rounding the noisy image is a part of the base classifier.
    """

    def __init__(self, *, sigma: float, levels: int) -> None:
        whole = isinstance(levels, int | np.integer) and not isinstance(levels, bool)
        if not whole or levels < 1:
            raise ValueError(f"levels must be a whole number >= 1, got {levels!r}")
        self.sigma, self.levels = float(check_sigma(sigma)), int(levels)
        self.scale = self.sigma * self.levels
        self.margin = int(np.ceil(CLAMP * self.scale))
        self.reach = self.margin + self.levels
        if self.reach >= 2**15:
            raise ValueError(
                f"sigma = {sigma} is too wide for a grid of {levels} levels: noise up "
                f"to {self.reach} steps, and at most {2**15 - 1} are possible"
            )

    @cached_property
    def pmf(self) -> Array:
        """Probabilities of the noise ``-reach … reach``, in floating point."""
        upper = ndtr(-(np.arange(self.reach + 1) - 0.5) / self.scale)
        side = -np.diff(upper, append=0.0)
        side[0] = 1 - 2 * upper[1]
        return np.concatenate([side[:0:-1], side])

    @cached_property
    def enclosures(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Whole numbers below and above ``2**BITS`` times each value of the cdf.

        Between noise ``z - 1`` and ``z``, for ``z`` from ``1 - reach`` to ``reach``.
        """
        half = [enclose(z, self.scale_exactly, BITS) for z in range(1, self.reach + 1)]
        low, high = np.array(half, dtype=np.int64).T
        return (
            np.concatenate([2**BITS - high[::-1], low]),
            np.concatenate([2**BITS - low[::-1], high]),
        )

    @property
    def scale_exactly(self) -> tuple[float, int]:
        """``sigma`` and ``levels``, whose product is not rounded."""
        return self.sigma, self.levels

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """Noise for the first 16 bits, NaN where they do not decide."""
        low, high = self.enclosures
        start = np.arange(2**_FIRST, dtype=np.int64) << (BITS - _FIRST)
        last = start + (1 << (BITS - _FIRST)) - 1
        sure = np.searchsorted(high, start, side="right")
        possible = np.searchsorted(low, last, side="right")
        value = np.where(sure == possible, sure - self.reach, np.nan)
        return value.astype(np.float32)

    def draw(self, rng: np.random.Generator, out: NDArray[np.float32]) -> None:
        """Fill a contiguous float32 array with noise, in whole steps."""
        flat = out.reshape(-1)
        words = rng.bit_generator.random_raw(-(-flat.size // 4))
        first = words.view(np.uint16)[: flat.size]
        np.take(self.table, first, out=flat, mode="clip")
        open_ = np.flatnonzero(np.isnan(flat))
        rest = rng.integers(0, 1 << (BITS - _FIRST), size=len(open_))
        number = (first[open_].astype(np.int64) << (BITS - _FIRST)) | rest
        flat[open_] = self.settle(number, rng)

    def settle(
        self, number: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Return the noise for random numbers of `BITS` bits.

        ``rng`` gives more bits to a number so close to a value of the distribution
        function that they are needed: about one in 10**15.
        """
        low, high = self.enclosures
        sure = np.searchsorted(high, number, side="right")
        possible = np.searchsorted(low, number, side="right")
        for place in np.flatnonzero(sure != possible):
            sure[place] = self._extend(
                int(number[place]), int(sure[place]), int(possible[place]), rng
            )
        return (sure - self.reach).astype(np.float32)

    def _extend(
        self, number: int, low: int, high: int, rng: np.random.Generator
    ) -> int:
        """Return how many values of the cdf lie below a number that gets more bits."""
        bits = BITS
        while low < high:
            number, bits = (number << 32) | int(rng.integers(2**32)), bits + 32
            bounds = [
                enclose(k + 1 - self.reach, self.scale_exactly, bits)
                for k in range(low, high)
            ]
            high = low + sum(lower <= number for lower, _ in bounds)
            low += sum(upper <= number for _, upper in bounds)
        return low

    def steps(self, x: ArrayLike) -> Array:
        """Return pixels in whole grid steps.

        Raises
        ------
        ValueError
            If a pixel is not the multiple of ``1 / levels`` nearest to one in its
            datatype, or lies outside [0, 1].
        """
        pixels = np.asarray(x)
        whole = np.rint(pixels.astype(float) * self.levels)
        off = (whole / self.levels).astype(pixels.dtype) != pixels
        off |= (whole < 0) | (whole > self.levels)
        if np.any(off):
            value = pixels[off].flat[0]
            raise ValueError(
                f"pixels must be multiples of 1/{self.levels} in [0, 1], got {value}"
            )
        return whole


@cache
def enclose(z: int, scale: tuple[float, int], bits: int) -> tuple[int, int]:
    """Return whole numbers around ``2**bits * Φ((z - 1/2) / (sigma * levels))``.

    Parameters
    ----------
    z : int
        The larger of the two noise values.
    scale : tuple of (float, int)
        ``sigma`` and ``levels``; the first is taken as the binary number that it is.
    bits : int
        Binary digits wanted.

    Returns
    -------
    tuple of int
        Three apart, with the true value strictly between them.
    """
    import mpmath

    sigma, levels = scale
    with mpmath.workprec(bits + 64):  # far more than the few bits that are lost
        t = (mpmath.mpf(2 * z - 1) / 2) / (mpmath.mpf(sigma) * levels)
        whole = int(mpmath.floor(mpmath.ncdf(t) * 2**bits))
    return whole - 1, whole + 2


def shifted_lower(p_a: ArrayLike, shift: ArrayLike, *, pmf: ArrayLike) -> Array:
    """Smallest probability of a class after a shift, exactly, for noise on a grid.

    Parameters
    ----------
    p_a : array_like
        Probability of the class at the image, or a lower bound for it, in [0, 1].
    shift : array_like of int, shape (dimensions,)
        By how many grid steps the image moves along each axis on which it does.
    pmf : array_like, shape (2 * m + 1,)
        Probabilities of the noise ``-m … m`` of one pixel, as `Grid.pmf`.

    Returns
    -------
    ndarray, the shape of p_a
        By the Neyman–Pearson lemma no classifier has less, and one that may toss a coin
        has exactly this, to about nine digits for ``p_a`` in [1e-6, 1 - 1e-6]. All
        ``(2 m + 1 + |shift|) ** dimensions`` outcomes are listed: for the small cases
        that check what is proved for all.

    Raises
    ------
    ValueError
        If ``p_a`` leaves [0, 1], ``shift`` is not whole, or there are more than ten
        million outcomes.
    """
    chance, one = check_unit("p_a", p_a), np.asarray(pmf, dtype=float)
    moves = np.atleast_1d(shift)
    if moves.dtype.kind not in "iu":
        raise ValueError(f"shift must be whole numbers of grid steps, got {shift}")
    if np.prod(len(one) + np.abs(moves), dtype=float) > 1e7:
        raise ValueError(f"too many outcomes to list for a shift of {shift}")
    here, there = np.ones(1), np.ones(1)
    for move in np.abs(moves):  # the noise is symmetric
        pad = np.zeros(move)
        here = np.multiply.outer(here, np.r_[one, pad]).ravel()
        there = np.multiply.outer(there, np.r_[pad, one]).ravel()
    possible = here > 0
    with np.errstate(divide="ignore"):
        order = np.argsort((there[possible] / here[possible]), kind="stable")
    gained = np.r_[0, np.cumsum(here[possible][order])]
    kept = np.r_[0, np.cumsum(there[possible][order])]
    return np.interp(chance, gained, kept)
