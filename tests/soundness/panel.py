"""The known classifiers on which certificates are put to the test, by name.

Each entry asks one question that a certificate may get wrong: two rivals of nearly the
same probability, a class that hardly ever loses, a tie, a border that bends towards the
input or away from it, many classes, many dimensions, votes that are tossed.
"""

from functools import cache

import numpy as np
from known import GridStep, Known, Layers, Polygons, Ramp, Shells
from scipy.special import ndtri
from scipy.stats import ncx2

from lipsmooth.grid import Grid

SIGMA = 0.5


def half_space(p, dimension=1):
    """Class 0 has probability ``p``; its certificate from the truth is exact."""
    return Layers([SIGMA * ndtri(p)], np.eye(2), SIGMA, dimension=dimension)


def stripes(*p, scores=None):
    """Classes on parallel stripes in this order, the strongest rival last."""
    edges = SIGMA * ndtri(np.cumsum(p)[:-1])
    return Layers(edges, np.eye(len(p)) if scores is None else scores, SIGMA)


def slab(p):
    """Class 0 inside a slab around the input, class 1 on both sides."""
    edge = SIGMA * ndtri((1 + p) / 2)
    return Layers([-edge, edge], [[0, 1], [1, 0], [0, 1]], SIGMA)


def ball(p, dimension, shift=0.0):
    """Class 0 in a ball; ``p`` is its probability at the centre."""
    radius = SIGMA * np.sqrt(ncx2.ppf(p, dimension, 0))
    return Shells([radius], [0, 1], SIGMA, shift, dimension)


def around_a_ball(p, dimension, away):
    """Class 0 outside a ball, with probability ``p`` at a distance from its centre."""
    square = ncx2.ppf(1 - p, dimension, (away / SIGMA) ** 2)
    return Shells([SIGMA * np.sqrt(square)], [1, 0], SIGMA, away, dimension)


LEFT = np.array([[-0.9, -0.7], [0.55, -0.6], [0.45, 0.9], [-0.6, 0.6]])
RIGHT = np.array([[0.7, -0.5], [2, -0.5], [2, 2.0], [0.6, 0.8]])
COIN = [[0.9, 0.05, 0.05], [0.3, 0.5, 0.2], [0.05, 0.15, 0.8]]
TEN = np.r_[0.42, np.full(8, 0.02), 0.42 - 0.05, 0.05]

MAKERS = {
    "half-space, p = 0.5": lambda: half_space(0.5),
    "half-space, p = 0.501": lambda: half_space(0.501),
    "half-space, p = 0.7": lambda: half_space(0.7, 64),
    "half-space, p = 0.92": lambda: half_space(0.92),
    "half-space, p = 0.99": lambda: half_space(0.99, 3072),
    "half-space, p = 0.999": lambda: half_space(0.999, 3072),
    "slab": lambda: slab(0.8),
    "three stripes": lambda: stripes(0.4, 0.29, 0.31),
    "three stripes, one thin": lambda: stripes(0.55, 0.001, 0.449),
    "four stripes": lambda: stripes(0.4, 0.1, 0.24, 0.26),
    "eleven stripes": lambda: stripes(*TEN),
    "mixture of stripes": lambda: stripes(0.5, 0.2, 0.3, scores=COIN),
    "ball in the plane": lambda: ball(0.8, 2, 0.2),
    "ball, d = 3072": lambda: ball(0.8, 3072),
    "outside a ball, d = 10": lambda: around_a_ball(0.9, 10, 2),
    "outside a ball, d = 3072": lambda: around_a_ball(0.9, 3072, 12),
    "two polygons": lambda: Polygons((LEFT, RIGHT), (1, 2), SIGMA),
    "grid of bytes": lambda: GridStep(Grid(sigma=SIGMA, levels=255), 60),
}
"""Hard classifiers, and mixtures that toss a coin for each vote."""

SCORED = {
    "ramp": lambda: Ramp(0.3, 1.0, SIGMA),
    "on the fence": lambda: Ramp(0.0, 1.0, SIGMA),
    "steep ramp": lambda: Ramp(0.8, 20.0, SIGMA),
    "ramp, two rivals": lambda: Ramp(0.1, 1.0, SIGMA, (0.55, 0.45)),
    "mixture of stripes": MAKERS["mixture of stripes"],
    "hard votes, p = 0.99": lambda: half_space(0.99),
    "hard votes": lambda: stripes(0.55, 0.45),
    "two values": lambda: stripes(0.6, 0.4, scores=[[0.9, 0.1], [0.1, 0.9]]),
    "rare zero": lambda: stripes(0.99, 0.01, scores=[[0.9, 0.1], [0, 1]]),
}
"""Classifiers with soft scores."""


@cache
def known(name: str, soft: bool = False) -> Known:
    """Return a classifier of the panel; what is found about it is kept."""
    return (SCORED if soft else MAKERS)[name]()
