"""How a failure probability is spent on one class and its rivals.

A strategy turns selection counts, the selected class and estimation counts into a
lower bound on that class's probability and an upper bound on every rival's. What a
strategy may look at decides whether it is sound: the selection counts freely, the
estimation counts only through bounds that were fixed before them.

All take ``selection`` and ``estimation`` of shape (images, classes), ``top`` of
shape (images,), the total level ``alpha`` and the two numbers per image, ``u`` of
shape (2, images), that randomise the bounds, or None; all return
``(p_a_lower, p_b_upper)``.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lipsmooth.intervals import clopper_pearson_lower, clopper_pearson_upper
from lipsmooth.radii import radius_mono, radius_multi
from lipsmooth.randomized import randomized_lower, randomized_upper
from lipsmooth.sequential import lower_sequence

Counts = NDArray[np.int64]
Array = NDArray[np.float64]
Pair = tuple[Array, Array]

SPLITS = np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98])
"""Shares of ``alpha`` for the selected class among which ``planned`` chooses."""


def mono(_: Counts, top: Counts, estimation: Counts, alpha: float, u=None) -> Pair:
    """Spend all of ``alpha`` on the selected class; rivals get the rest of 1."""
    n = estimation.sum(axis=1)
    p_a_lower = _lower(votes_of(estimation, top), n, alpha, u)
    return p_a_lower, 1 - p_a_lower


def bonferroni(
    _: Counts, top: Counts, estimation: Counts, alpha: float, u=None
) -> Pair:
    """Spend an equal share of ``alpha`` on every class."""
    level = alpha / estimation.shape[1]
    return _bounds(top, strongest_rival(estimation, top), estimation, level, level, u)


def max_upper(_: Counts, top: Counts, estimation: Counts, alpha: float, u=None) -> Pair:
    """Spend half of ``alpha`` on the selected class, half on the largest rival."""
    rival = strongest_rival(estimation, top)
    return _bounds(top, rival, estimation, alpha / 2, alpha / 2, u)


def cpm(
    selection: Counts, top: Counts, estimation: Counts, alpha: float, u=None
) -> Pair:
    """Spend an equal share of ``alpha`` on every bucket of classes.

    The selection counts make the buckets: the selected class; the runner-up; then
    the largest of the remaining classes, one bucket each, while the rest together
    outweigh the runner-up; last the rest. A bucket's bound holds for each class
    in it.
    """
    classes = selection.shape[1]
    order, votes = _with_votes(selection, top)
    first_rest = _first_rest(votes)
    ranked = np.take_along_axis(estimation, order, axis=1)
    alone = np.where(np.arange(ranked.shape[1]) < first_rest[:, np.newaxis], ranked, 0)
    rest = estimation.sum(axis=1) - alone.sum(axis=1)
    single = alone[:, 1:].max(axis=1)
    buckets = first_rest + (first_rest < classes)
    rival = np.maximum(single, rest)
    return _bounds(top, rival, estimation, alpha / buckets, alpha / buckets, u)


def bucket_sizes(selection: Counts) -> Counts:
    """Return how many classes of each image get a bucket of their own in `cpm`.

    In decreasing order of selection counts, ties by smaller class first, these are
    the leading classes; the others, if any, share one more bucket.
    """
    return _first_rest(np.sort(selection, axis=1)[:, ::-1])


def _with_votes(selection: Counts, top: Counts) -> tuple[Counts, Counts]:
    """Rank the classes that have selection votes, by votes and then by number.

    Returns classes and their votes, of shape (images, most classes with votes in
    an image, at least 2). Where an image has fewer, votes are 0 and the class is 0
    or, if that is the top class, 1: with a single class voted for, the runner-up.
    """
    flat = np.flatnonzero(selection != 0)
    image, named = np.divmod(flat, selection.shape[1])
    size = np.bincount(image, minlength=len(selection))
    place = np.arange(len(flat)) - (np.cumsum(size) - size)[image]
    wide = max(2, size.max())
    classes = np.repeat((top == 0).astype(np.int64)[:, np.newaxis], wide, axis=1)
    votes = np.zeros_like(classes)
    classes[image, place], votes[image, place] = named, selection[image, named]
    order = np.argsort(-votes, axis=1, kind="stable")
    ranked = (np.take_along_axis(part, order, axis=1) for part in (classes, votes))
    return tuple(ranked)


def _first_rest(ranked: Counts) -> Counts:
    leading = np.cumsum(ranked, axis=1)
    # rest[:, i] is the weight of the classes ranked below i + 2 others.
    rest = leading[:, -1:] - leading[:, 1:]
    return 2 + np.argmax(rest <= ranked[:, 1:2], axis=1)


def planned(
    selection: Counts, top: Counts, estimation: Counts, alpha: float, u=None
) -> Pair:
    """Spend as promises the largest radius, judged by the selection counts.

    Candidates are `mono` and the split of ``alpha`` between the selected class and
    the largest rival bound, or ``1 - p_a_lower`` where that is smaller, in the
    proportions `SPLITS`. The plan sees the selection counts and the *number* of
    estimation samples, never their votes.
    """
    alone, share = _plan(selection, top, estimation.sum(axis=1), alpha)
    p_a_mono, p_b_mono = mono(selection, top, estimation, alpha, u)
    rival = strongest_rival(estimation, top)
    levels = share * alpha, (1 - share) * alpha
    p_a_multi, p_b_multi = _bounds(top, rival, estimation, *levels, u)
    return np.where(alone, p_a_mono, p_a_multi), np.where(alone, p_b_mono, p_b_multi)


def _plan(selection: Counts, top: Counts, n: Counts, alpha: float) -> Pair:
    """Return where `mono` promises most, and the best share of alpha elsewhere."""
    classes = selection.shape[1]
    # A pinch of a vote per class keeps an unseen class from looking impossible.
    total = selection.sum(axis=1) + 1
    expected_top = n * (votes_of(selection, top) + 1 / classes) / total
    expected_rival = n * (strongest_rival(selection, top) + 1 / classes) / total
    k_a, k_b = np.round(expected_top), np.round(expected_rival)
    promised = [radius_mono(clopper_pearson_lower(k_a, n, alpha=alpha), sigma=1.0)]
    for share in SPLITS:
        lower = clopper_pearson_lower(k_a, n, alpha=share * alpha)
        upper = clopper_pearson_upper(k_b, n, alpha=(1 - share) * alpha)
        promised.append(radius_multi(lower, upper, sigma=1.0))
    best = np.argmax(promised, axis=0)
    return best == 0, SPLITS[np.maximum(best - 1, 0)]


def anytime(_: Counts, top: Counts, estimation: Counts, alpha: float, u=None) -> Pair:
    """Bound the selected class at all times together; nothing here takes a coin."""
    n = estimation.sum(axis=1)
    p_a_lower = lower_sequence(votes_of(estimation, top), n, alpha=alpha)
    return p_a_lower, 1 - p_a_lower


def fixed_runner_up(
    selection: Counts, top: Counts, estimation: Counts, alpha: float, u=None
) -> Pair:
    """Spend half of ``alpha`` on the class second in the selection: unsound."""
    runner_up = np.argmax(_without(selection, top), axis=1)
    rival = votes_of(estimation, runner_up)
    return _bounds(top, rival, estimation, alpha / 2, alpha / 2, u)


SOUND: dict[str, Callable[..., Pair]] = {
    "mono": mono,
    "bonferroni": bonferroni,
    "cpm": cpm,
    "max-upper": max_upper,
    "planned": planned,
    "anytime": anytime,
}
UNSOUND: dict[str, Callable[..., Pair]] = {"fixed-runner-up": fixed_runner_up}


def votes_of(counts: Counts, classes: Counts) -> Counts:
    """Return one class's votes per image."""
    return np.take_along_axis(counts, classes[:, np.newaxis], axis=1)[:, 0]


def strongest_rival(counts: Counts, top: Counts) -> Counts:
    """Return the largest count other than ``top``'s.

    A bound grows with its count, so this count has the largest bound: one inverse
    per image instead of one per class.
    """
    return _without(counts, top).max(axis=1)


def _bounds(top, rival_votes, counts, level_a, level_b, u) -> Pair:
    n = counts.sum(axis=1)
    lower = _lower(votes_of(counts, top), n, level_a, u)
    upper = _upper(rival_votes, n, level_b, u)
    # A true lower bound leaves the rivals no more than its complement, at no further
    # cost. Without coins that is never the smaller bound unless level_a is larger.
    free = np.asarray(level_a > level_b) | (u is not None)
    return lower, np.where(free, np.minimum(upper, 1 - lower), upper)


def _lower(k, n, level, u) -> Array:
    if u is None:
        return clopper_pearson_lower(k, n, alpha=level)
    return randomized_lower(k, n, u[0], alpha=level)


def _upper(k, n, level, u) -> Array:
    if u is None:
        return clopper_pearson_upper(k, n, alpha=level)
    return randomized_upper(k, n, u[1], alpha=level)


def _without(counts: Counts, top: Counts) -> Counts:
    rivals = counts.copy()
    rivals[np.arange(len(counts)), top] = -1
    return rivals
