"""The known classifiers: their probabilities and radii, each found in a second way."""

import numpy as np
import panel
import pytest
from known import GridStep, Layers, Polygons, Ramp, Shells, lead
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest, ncx2

from lipsmooth.grid import Grid
from lipsmooth.radii import radius_multi
from lipsmooth.ramp import ramp_mean

IN_SPACE = [n for n in panel.MAKERS if hasattr(panel.known(n), "classify")]


@pytest.mark.statistical
@pytest.mark.parametrize("name", IN_SPACE)
def test_votes_in_the_space_itself_have_the_stated_probabilities(name):
    truth, rng = panel.known(name), np.random.default_rng(1)
    draws = 4_000_000 // (truth.dimension + 200)
    votes = np.zeros(len(truth.probabilities), dtype=int)
    for part in np.array_split(np.arange(draws), 4):
        noise = rng.standard_normal((len(part), truth.dimension))
        points = truth.move(truth.at) + truth.sigma * noise
        votes += np.bincount(truth.classify(points, rng), minlength=len(votes))
    for count, p in zip(votes, truth.probabilities, strict=True):
        assert binomtest(int(count), draws, min(p, 1.0)).pvalue > 1e-5
    moved = truth.probabilities[0] + (0.08 if truth.probabilities[0] < 0.9 else -0.08)
    assert binomtest(int(votes[0]), draws, moved).pvalue < 1e-2


@pytest.mark.statistical
def test_votes_in_the_plane_have_the_stated_probabilities():
    truth, rng = panel.known("two polygons"), np.random.default_rng(1)
    points = truth.at + truth.sigma * rng.standard_normal((40_000, 2))
    for corners, p in zip(truth.corners, truth.probabilities[1:], strict=True):
        steps = np.roll(corners, -1, axis=0) - corners
        away = points[:, np.newaxis] - corners
        turn = steps[:, 0] * away[..., 1] - steps[:, 1] * away[..., 0]
        inside = int(np.all(turn > 0, axis=1).sum())  # both polygons are convex
        assert binomtest(inside, len(points), p).pvalue > 1e-4


def test_half_spaces_and_slabs_in_closed_form():
    for p in (0.6, 0.99, 1 - 1e-9):
        truth = panel.half_space(p)
        assert truth.radii == pytest.approx([panel.SIGMA * ndtri(p), 0], rel=1e-9)

    def inside(s):
        return ndtr((0.9 - s) / 0.5) - ndtr((-0.5 - s) / 0.5)

    slab = Layers([-0.5, 0.9], [[1, 0], [0, 1], [1, 0]], 0.5)
    assert slab.probabilities[1] == pytest.approx(inside(0.0), rel=1e-12)
    nearest = min(abs(brentq(lambda s: inside(s) - 0.5, *b)) for b in ((-3, 0), (0, 3)))
    assert slab.radii == pytest.approx([0, nearest], rel=1e-9)
    assert slab.radius > 1.01 * radius_multi(*slab.probabilities[::-1], sigma=0.5)


@pytest.mark.parametrize("dimension", [1, 2, 10, 3072])
def test_balls_by_the_law_of_the_distance(dimension):
    truth = panel.ball(0.8, dimension, 0.2)
    edge = (truth.borders[0] / truth.sigma) ** 2

    def inside(s):
        return ncx2.cdf(edge, dimension, (s / truth.sigma) ** 2)

    way = brentq(lambda s: inside(s) - 0.5, 0.2, 40) - 0.2
    assert truth.radii == pytest.approx([way, 0], rel=1e-8)
    if dimension == 1:
        slab = panel.slab(0.8)
        assert panel.ball(0.8, 1).radii == pytest.approx(slab.radii, rel=1e-9)


def test_a_square_so_large_that_it_is_a_half_space():
    for angle in (0.0, 2.0):
        c, s = np.cos(angle), np.sin(angle)
        turn = np.array([[c, -s], [s, c]])
        square = np.array([[-4, -4], [0.4, -4], [0.4, 4], [-4, 4]]) @ turn.T
        truth = Polygons((square,), (1,), 0.5)
        assert truth.probabilities == pytest.approx([ndtr(-0.8), ndtr(0.8)], rel=1e-9)
        low, high = truth.bracket
        assert low <= 0.4 * (1 + 1e-9)
        assert high >= 0.4 * (1 - 1e-9)
        assert high - low < 2e-4 * high


def test_ramps_and_grids():
    truth = Ramp(0.3, 1.0, 0.5, (0.7, 0.3))
    there = ramp_mean(0.3 - truth.radius, sigma=0.5, lipschitz=1.0)
    assert there == pytest.approx(0.7 * (1 - there), rel=1e-9)
    assert Ramp(0.3, 1.0, 0.5).radius == pytest.approx(0.3)
    step = GridStep(Grid(sigma=0.5, levels=255), 60)
    assert step.probabilities[0] == pytest.approx(ndtr(60.5 / 127.5), rel=1e-9)
    assert step.radii == pytest.approx([61 / 255, 0])


@pytest.mark.parametrize(
    "name", [n for n in IN_SPACE if panel.known(n).radii.max() > 0]
)
def test_the_class_holds_up_to_the_radius_and_not_beyond(name):
    truth = panel.known(name)
    top, radius = int(np.argmax(truth.radii)), truth.radii.max()

    def leads(way):
        where = (truth.at - way, truth.at + way)
        sides = map(abs, where) if isinstance(truth, Shells) else where
        return all(lead(truth.along(s), truth.sigma)[top] > 0 for s in sides)

    assert all(leads(way) for way in np.linspace(0, radius * (1 - 1e-6), 200))
    assert not leads(radius * (1 + 1e-6))


def test_the_class_of_a_polygon_holds_in_its_ball_and_not_in_a_larger_one():
    truth, rng = panel.known("two polygons"), np.random.default_rng(0)
    angle, share = rng.uniform(0, 2 * np.pi, 1000), np.sqrt(rng.uniform(size=1000))
    disc = share[:, np.newaxis] * np.column_stack([np.cos(angle), np.sin(angle)])
    top = int(np.argmax(truth.probabilities))

    def broken(radius):
        p = truth.probabilities_at(np.asarray(truth.at) + radius * disc)
        return np.any(p.argmax(axis=1) != top)

    assert not broken(truth.radii.max())
    assert broken(1.05 * truth.radii.max())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Layers([1, 0], np.eye(3), 1.0), "edges must increase"),
        (lambda: Layers([0], np.eye(3), 1.0), "scores of shape"),
        (lambda: Layers([0], [[1, 0], [1, 1]], 1.0), "add up to 1"),
        (lambda: Layers([0], np.eye(2), 0.0), "sigma must be positive"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
