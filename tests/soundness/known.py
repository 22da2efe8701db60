"""Classifiers of which everything is known: class probabilities and true radii.

A certificate can be judged only against the truth, and of a network nobody knows it.
Here are classifiers in any dimension that are simple enough: of parallel layers
(half-spaces, slabs, stripes and mixtures of them), of spherical shells, of polygons in
the plane, with a ramp for a score, and on a grid. Each is a base classifier together
with Gaussian noise and one input.

The true radius is the distance to the nearest point at which another class is at least
as probable. It is found by walking: by the theorem of Cohen et al. no such point is
closer than `lipsmooth.radii.radius_multi` of the *true* probabilities, so a step of
that length skips nothing, and the steps shrink to 0 at the first change of prediction.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr
from scipy.stats import ncx2

from lipsmooth.grid import Grid
from lipsmooth.radii import radius_multi
from lipsmooth.ramp import check_sigma, ramp_inverse, ramp_mean

Array = NDArray[np.float64]

_CLOSE = 1e-12  # in units of sigma: where a walk has arrived
_STRIDE = 2.0  # longest step; probabilities that round to 1 would allow any
_FAR = 60.0  # beyond the last edge nothing changes any more
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


class Known:
    """What all classifiers here have: the truth at their one input.

    Subclasses have ``sigma`` and `_probabilities`, and `radius` or a way to find it.
    """

    sigma: float

    @cached_property
    def probabilities(self) -> Array:
        """Mean score of each class under noise at the input, shape (classes,)."""
        return self._probabilities()

    @cached_property
    def radii(self) -> Array:
        """True radius of each class, shape (classes,).

        Radius of the open ball around the input on which the smoothed classifier
        returns the class; 0 where it does not even do so at the input.
        """
        own = lead(self.probabilities, self.sigma) > 0
        return np.where(own, self.radius if own.any() else 0.0, 0.0)


def lead(p: ArrayLike, sigma: float) -> Array:
    """Return for each class how far its lead over the strongest other one reaches.

    Parameters
    ----------
    p : array_like, shape (..., classes)
        Class probabilities.
    sigma : float
        Standard deviation of the noise.

    Returns
    -------
    ndarray, shape (..., classes)
        `lipsmooth.radii.radius_multi` of the class and its strongest rival. It changes
        by at most ``|x - x'|`` between two inputs.
    """
    chance = np.clip(p, 0, 1)
    ranked = np.sort(chance, axis=-1)
    best, second = ranked[..., -1:], ranked[..., -2:-1]
    rival = np.where(chance == best, np.where(second == best, best, second), best)
    with np.errstate(invalid="ignore"):
        reach = radius_multi(chance, rival, sigma=sigma)
    return np.where(chance == rival, 0.0, reach)


@dataclass(frozen=True, eq=False)
class Layers(Known):
    """Scores that depend on one coordinate and are constant between its edges.

    One edge makes half-spaces, two a slab; rows of ``scores`` that are no unit vectors
    make a mixture of such classifiers, or a soft one.

    Parameters
    ----------
    edges : array_like, shape (layers - 1,)
        Increasing values of the coordinate at which one layer ends.
    scores : array_like, shape (layers, classes)
        Score of each class in each layer; each row adds up to 1.
    sigma : float
        Standard deviation of the noise.
    at : float
        Coordinate of the input.
    dimension : int
        Of the input space; neither probabilities nor radii depend on it.
    """

    edges: ArrayLike
    scores: ArrayLike
    sigma: float
    at: float = 0.0
    dimension: int = 1

    def __post_init__(self) -> None:
        edges, scores = np.asarray(self.edges, float), np.asarray(self.scores, float)
        check_sigma(self.sigma)
        if edges.ndim != 1 or np.any(np.diff(edges) <= 0):
            raise ValueError(f"edges must increase, got {self.edges}")
        if scores.ndim != 2 or len(scores) != len(edges) + 1:
            raise ValueError(f"{len(edges)} edges, but scores of shape {scores.shape}")
        if np.any(scores < 0) or not np.allclose(scores.sum(axis=1), 1, atol=1e-12):
            raise ValueError(f"each row of scores must add up to 1, got {self.scores}")

    @cached_property
    def shares(self) -> Array:
        """Probability of each layer under noise at the input, shape (layers,)."""
        return self._shares(np.array(self.at))

    @cached_property
    def radius(self) -> float:
        """Radius of the predicted class: the first change on either side."""
        up = _walk(lambda s: self.along(self.at + s), self.sigma, self._span)
        down = _walk(lambda s: self.along(self.at - s), self.sigma, self._span)
        return min(up, down)

    def classify(self, points: ArrayLike, rng: np.random.Generator) -> NDArray:
        """Vote at points of shape (points, dimension); a mixture tosses ``rng``.

        The coordinate is that along the diagonal of the space.
        """
        along = np.asarray(points).sum(axis=1) / np.sqrt(self.dimension)
        rows = np.cumsum(np.asarray(self.scores), axis=1)[
            np.searchsorted(self.edges, along)
        ]
        return (rng.random(len(along))[:, np.newaxis] >= rows[:, :-1]).sum(axis=1)

    def move(self, distance: float) -> Array:
        """Return the point, shape (dimension,), that far from 0 on the diagonal."""
        return np.full(self.dimension, distance / np.sqrt(self.dimension))

    @property
    def _span(self) -> float:
        return float(np.max(np.abs(np.asarray(self.edges) - self.at)))

    def _shares(self, where: Array) -> Array:
        z = (np.asarray(self.edges) - where[..., np.newaxis]) / self.sigma
        ends = np.full((*where.shape, 1), np.inf)
        z = np.concatenate([-ends, z, ends], axis=-1)
        # From the tail that is smaller, so that no digit is lost.
        left, right = np.diff(ndtr(z)), -np.diff(ndtr(-z))
        return np.where(z[..., :-1] > 0, right, left)

    def along(self, where: ArrayLike) -> Array:
        """Class probabilities under noise at other values of the coordinate."""
        return self._shares(np.asarray(where, float)) @ np.asarray(self.scores, float)

    def _probabilities(self) -> Array:
        return self.along(self.at)


@dataclass(frozen=True, eq=False)
class Shells(Known):
    """Concentric shells: a ball and what is around it, or several such borders.

    Parameters
    ----------
    borders : array_like, shape (shells - 1,)
        Increasing radii at which one shell ends; the first shell is a ball.
    owners : array_like of int, shape (shells,)
        Class of each shell.
    sigma : float
        Standard deviation of the noise.
    at : float
        Distance of the input from the centre.
    dimension : int
        Of the input space. The squared distance of a noisy input from the centre has,
        in units of ``sigma``, a noncentral chi-squared law with so many degrees.
    """

    borders: ArrayLike
    owners: ArrayLike
    sigma: float
    at: float = 0.0
    dimension: int = 2

    @cached_property
    def radius(self) -> float:
        """Radius of the predicted class: by symmetry the first change on a ray."""
        out = _walk(lambda s: self.along(self.at + s), self.sigma, self._span)
        inner = _walk(lambda s: self.along(max(self.at - s, 0)), self.sigma, self.at)
        return min(out, inner if inner <= self.at else np.inf)

    def classify(self, points: ArrayLike, rng: np.random.Generator) -> NDArray:
        """Vote at points of shape (points, dimension) around the centre 0."""
        away = np.linalg.norm(points, axis=1)
        return np.asarray(self.owners)[np.searchsorted(self.borders, away)]

    def move(self, distance: float) -> Array:
        """Return a point, shape (dimension,), that far from the centre."""
        return np.full(self.dimension, distance / np.sqrt(self.dimension))

    @property
    def _span(self) -> float:
        return float(np.max(self.borders)) + self.at

    def along(self, where: float) -> Array:
        """Class probabilities under noise at another distance from the centre."""
        squares = (np.asarray(self.borders) / self.sigma) ** 2
        law = (squares, self.dimension, (where / self.sigma) ** 2)
        below, above = np.r_[0, ncx2.cdf(*law), 1], np.r_[1, ncx2.sf(*law), 0]
        shares = np.where(below[:-1] > 0.5, -np.diff(above), np.diff(below))
        return np.bincount(self.owners, weights=np.maximum(shares, 0))

    def _probabilities(self) -> Array:
        return self.along(self.at)


@dataclass(frozen=True, eq=False)
class Polygons(Known):
    """Disjoint polygons in the plane, each of one class; the rest is of class 0.

    Parameters
    ----------
    corners : sequence of array_like, each of shape (corners, 2)
        Corners of each polygon in counterclockwise order.
    owners : array_like of int, shape (polygons,)
        Class of each polygon.
    sigma : float
        Standard deviation of the noise.
    at : tuple of float
        The input.
    """

    corners: tuple
    owners: ArrayLike
    sigma: float
    at: tuple = (0.0, 0.0)

    @cached_property
    def radius(self) -> float:
        """Lower end of `bracket`."""
        return self.bracket[0]

    @cached_property
    def bracket(self) -> tuple[float, float]:
        """Numbers between which the radius of the predicted class lies.

        In a wedge between two rays no change is closer than where the lead on its
        middle ray is no longer than the arc from there to its sides. Wedges in which it
        may be closer than a change that was found are cut in two until the two numbers
        are within a share of 2e-4.
        """
        width = np.pi / 64
        angles, upper = np.arange(64) * 2 * width, np.inf
        for _ in range(40):
            lower = self._walks(angles, width, upper)
            best = int(np.argmin(lower))
            upper = min(upper, self._change_on(angles[best], lower[best]))
            if upper == np.inf or upper - lower[best] < 2e-4 * upper:
                break
            left = angles[lower < upper]
            width /= 2
            angles = np.concatenate([left - width, left + width])
        return float(min(lower[best], upper)), float(upper)

    def probabilities_at(self, points: ArrayLike) -> Array:
        """Class probabilities at points of shape (points, 2).

        By Stokes' theorem the mass of a polygon is the integral of ``Φ(x) φ(y) dy``
        along its border, by Gauss–Legendre on pieces no longer than ``sigma``.
        """
        shares = [self._mass(np.asarray(part), points) for part in self.corners]
        classes = int(np.max(self.owners)) + 1
        out = np.zeros((len(points), classes))
        np.add.at(out.T, np.asarray(self.owners), shares)
        out[:, 0] = 1 - out[:, 1:].sum(axis=1)
        return out

    def _mass(self, corners: Array, points: ArrayLike) -> Array:
        total = np.zeros(len(points))
        for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            pieces = int(np.ceil(np.linalg.norm(end - start) / self.sigma))
            share = (np.arange(pieces)[:, np.newaxis] + (_NODES + 1) / 2) / pieces
            weight = np.tile(_WEIGHTS / 2 / pieces, pieces)
            path = start + share.reshape(-1, 1) * (end - start)
            z = (path - np.asarray(points, float)[:, np.newaxis]) / self.sigma
            density = np.exp(-(z[..., 1] ** 2) / 2) / np.sqrt(2 * np.pi)
            rise = (end - start)[1] / self.sigma
            total += rise * (ndtr(z[..., 0]) * density) @ weight
        return total

    def _leads(self, angles: Array, way: Array) -> Array:
        """Return the lead of the predicted class at points in polar coordinates."""
        top = int(np.argmax(self.probabilities))
        rays = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        points = np.asarray(self.at) + way[:, np.newaxis] * rays
        return lead(self.probabilities_at(points), self.sigma)[:, top]

    @property
    def _limit(self) -> float:
        far = max(np.abs(np.asarray(c) - self.at).max() for c in self.corners)
        return 2 * far + _FAR * self.sigma

    def _walks(self, angles: Array, width: float, stop: float) -> Array:
        """Walk along rays until the lead is at most ``width`` times the way."""
        way, limit = np.zeros(len(angles)), min(stop, self._limit)
        going = np.arange(len(angles))
        while len(going):
            reach = self._leads(angles[going], way[going])
            reach = np.minimum(reach, _STRIDE * self.sigma)
            step = (reach - width * way[going]) / (1 + width)
            way[going] += np.maximum(step, 0)
            open_ = (step > 1e-3 * width * way[going]) & (way[going] < limit)
            going = going[open_]
        return np.where(way >= self._limit, np.inf, way)

    def _change_on(self, angle: float, start: float) -> float:
        """Return a distance on a ray, not much beyond ``start``, with no lead."""
        if start == np.inf:
            return np.inf
        low, step = start, 1e-9 * self.sigma
        ray = np.array([angle])
        while self._leads(ray, np.array([low + step]))[0] > 0:
            step *= 2
            if step > self._limit:
                return np.inf
        high = low + step
        for _ in range(60):
            middle = (low + high) / 2
            ahead = self._leads(ray, np.array([middle]))[0] > 0
            low, high = (middle, high) if ahead else (low, middle)
        return high

    def _probabilities(self) -> Array:
        return self.probabilities_at(np.array([self.at], float))[0]


@dataclass(frozen=True, eq=False)
class Ramp(Known):
    """A score that rises along one coordinate with the steepest slope it may have.

    Class 0 has the score ``clip(1/2 + lipschitz * u, 0, 1)`` at the coordinate ``u``,
    the others share the rest of 1 in fixed proportions. So each score has the Lipschitz
    constant ``lipschitz``, that of class 0 attains it, and class 0 leads where its mean
    score is above ``w / (1 + w)``, ``w`` being the largest of the ``shares``.

    Parameters
    ----------
    at : float
        Coordinate of the input.
    lipschitz, sigma : float
        Slope, and standard deviation of the noise.
    shares : tuple of float
        Of the other classes in the rest; they add up to 1.
    """

    at: float
    lipschitz: float
    sigma: float
    shares: tuple = (1.0,)

    @cached_property
    def radius(self) -> float:
        """Distance to the point at which class 0 and its strongest rival are equal."""
        options = {"sigma": self.sigma, "lipschitz": self.lipschitz}
        most = max(self.shares)
        return abs(self.at - float(ramp_inverse(most / (1 + most), **options)))

    def draw(self, size: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Draw scores of class 0 at noisy copies of the input."""
        moved = self.at + self.sigma * rng.standard_normal(size)
        return np.clip(0.5 + self.lipschitz * moved, 0, 1)

    def _probabilities(self) -> Array:
        own = float(ramp_mean(self.at, sigma=self.sigma, lipschitz=self.lipschitz))
        return np.r_[own, (1 - own) * np.asarray(self.shares)]


@dataclass(frozen=True, eq=False)
class GridStep(Known):
    """One pixel on a grid, with noise on it: class 0 up to so many steps above.

    Parameters
    ----------
    grid : Grid
        The noise.
    steps : int
        At least 0. Class 0 has the pixel and the next ``steps`` grid points, class 1
        those above.
    """

    grid: Grid
    steps: int

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise before it is rounded."""
        return self.grid.sigma

    @property
    def radius(self) -> float:
        """Distance of the nearest *grid point* at which class 0 has no majority."""
        return (self.steps + 1) / self.grid.levels

    def _probabilities(self) -> Array:
        beyond = self.grid.pmf[self.grid.reach + self.steps + 1 :].sum()
        return np.array([1 - beyond, beyond])


def _walk(along, sigma: float, span: float) -> float:
    """Return the distance of the first change of the leading class, or infinity.

    ``along`` gives class probabilities at a distance; no edge is beyond ``span``.
    """
    way, limit = 0.0, span + _FAR * sigma
    top = int(np.argmax(along(0.0)))
    for _ in range(100_000):
        reach = float(lead(along(way), sigma)[top])
        if reach <= _CLOSE * sigma:
            return way
        way += min(reach, _STRIDE * sigma)
        if way > limit:
            return np.inf
    raise ArithmeticError(f"no change of class was reached after {way:g}")
