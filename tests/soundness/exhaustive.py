"""Exact failure probabilities: every vector of counts, on a grid of truths.

Whatever the selection votes are, a strategy may fail with probability ``alpha`` at
most, over all estimation votes there are. Up to 40 votes and 4 classes they can be
listed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lipsmooth.certify import STRATEGIES, certify_counts
from lipsmooth.coverage import all_counts, failure_probability, multinomial_pmf
from lipsmooth.radii import radius_mono, radius_multi
from lipsmooth.scorebounds import SCORE_STRATEGIES
from lipsmooth.scores import certify_scores
from lipsmooth.sequential import boundaries, course, schedule
from lipsmooth.strategies import SPLITS, _bounds, strongest_rival

ALPHAS = {2: (0.01, 0.05, 0.2), 3: (0.01, 0.05, 0.2), 4: (0.05,)}  # by classes
GRID = {2: 1000, 3: 36, 4: 12}
SELECTED = {2: 5, 3: 5, 4: 3}  # selection votes, in all ways, by classes
VALUES = np.array([0.0, 0.5, 1.0])  # scores whose moments are listed
SOFT_BOUNDS = ("bernstein", "hoeffding")  # clopper-pearson is for votes


@dataclass(frozen=True)
class Worst:
    """The largest failure probability of a procedure, and how it came about."""

    procedure: str
    classes: int
    alpha: float
    failure: float
    n: int
    p: tuple
    outcomes: int

    @property
    def holds(self) -> bool:
        """Whether the level is kept, up to rounding."""
        return self.failure <= self.alpha * (1 + 1e-9)


def truths(classes: int) -> np.ndarray:
    """Return class probabilities to try: a grid of the simplex, and random points."""
    drawn = np.random.default_rng(0).dirichlet(np.ones(classes), 60)
    steps = GRID[classes]
    return np.vstack([all_counts(steps, classes) / steps, drawn])


def selections(votes: int, classes: int) -> np.ndarray:
    """Return all ways to select class 0, up to the order of its rivals."""
    rows = all_counts(votes, classes)
    return rows[np.all(np.diff(rows, axis=1) <= 0, axis=1)]


def radii_of(strategy: str, counts, chosen, alpha: float) -> np.ndarray:
    """Return the radii of all outcomes after each selection; equal rows once."""
    rows = [
        certify_counts(
            np.tile(selection, (len(counts), 1)), counts, sigma=1.0, alpha=alpha,
            strategy=strategy,
        ).radius
        for selection in chosen
    ]  # fmt: skip
    return np.unique(rows, axis=0)


def unsplit(counts, alpha: float) -> np.ndarray:
    """Return the radii of two bounds that are each at the full level."""
    top = np.zeros(len(counts), dtype=np.int64)
    rival = strongest_rival(counts, top)
    return radius_multi(*_bounds(top, rival, counts, alpha, alpha, None), sigma=1.0)


def planned_late(counts, alpha: float) -> np.ndarray:
    """Return the largest radii of mono and of all splits on the same votes."""
    top = np.zeros(len(counts), dtype=np.int64)
    rival = strongest_rival(counts, top)
    pairs = [_bounds(top, rival, counts, s * alpha, (1 - s) * alpha, None)
             for s in SPLITS]  # fmt: skip
    mono = certify_counts(counts[:, ::-1] * 0 + np.eye(counts.shape[1], dtype=int)[0],
                          counts, sigma=1.0, alpha=alpha, strategy="mono")  # fmt: skip
    return np.max([mono.radius, *(radius_multi(*p, sigma=1.0) for p in pairs)], axis=0)


OPEN = {
    "both bounds at alpha": unsplit,
    "planned on the estimation votes": planned_late,
}
"""Rules without a proof of which no failure above alpha is known; see `open_rules`."""


def of_votes(classes: int, largest: int, names=STRATEGIES) -> list[Worst]:
    """Return the worst case of each strategy and level up to ``largest`` votes."""
    found, points = {}, truths(classes)
    chosen = selections(SELECTED[classes], classes)
    for n in range(1, largest + 1):
        counts = all_counts(n, classes)
        keys, rules = [], []
        for name in names:
            for alpha in ALPHAS[classes]:
                rows = radii_of(name, counts, chosen, alpha)
                keys += [(name, alpha)] * len(rows)
                rules.extend(rows)
        for name, rule in OPEN.items() if names == STRATEGIES else ():
            keys += [(name, alpha) for alpha in ALPHAS[classes]]
            rules += [rule(counts, alpha) for alpha in ALPHAS[classes]]
        failures = failure_probability(rules, counts, points, sigma=1.0)
        for key, row in zip(keys, failures, strict=True):
            worst, total = found.get(key, (None, 0))
            at = int(np.argmax(row))
            if worst is None or row[at] > worst[0]:
                worst = float(row[at]), n, tuple(points[at].round(6).tolist())
            found[key] = worst, total + len(counts)
    return [
        Worst(name, classes, alpha, *worst, total)
        for (name, alpha), (worst, total) in found.items()
    ]


def open_rules(rows: list[Worst]) -> list[Worst]:
    """Return the rows of rules that are no strategies: questions, not promises."""
    return [row for row in rows if row.procedure in OPEN]


def of_scores(largest: int) -> list[Worst]:
    """Return the worst case of certificates from scores of 0, 1/2 and 1."""
    points, found = truths(3), {}
    mean = points @ VALUES
    truth = np.maximum(radius_mono(mean, sigma=1.0), 0)[:, np.newaxis]
    for n in range(2, largest + 1):
        counts = all_counts(n, 3)
        average = counts @ VALUES / n
        spread = np.maximum(counts @ VALUES**2 - n * average**2, 0) / (n - 1)
        moments = np.column_stack([average, 1 - average]), np.column_stack([spread] * 2)
        first = np.tile([0.9, 0.1], (len(counts), 1))
        pmf = multinomial_pmf(counts, points)
        for strategy in SCORE_STRATEGIES:
            for bound in SOFT_BOUNDS:
                for alpha in ALPHAS[2]:
                    got = certify_scores(
                        first, *moments, n, sigma=1.0, alpha=alpha, bound=bound,
                        strategy=strategy, variance_selection=0.1 * first,
                    ).radius  # fmt: skip
                    row = (pmf * (got > truth)).sum(axis=1)
                    key = f"scores, {strategy}, {bound}", alpha
                    worst, total = found.get(key, (None, 0))
                    at = int(np.argmax(row))
                    if worst is None or row[at] > worst[0]:
                        worst = float(row[at]), n, tuple(points[at].round(6).tolist())
                    found[key] = worst, total + len(counts)
    return [
        Worst(name, 2, alpha, *worst, total)
        for (name, alpha), (worst, total) in found.items()
    ]


def of_tests(n: int) -> Iterator[Worst]:
    """Yield the exact error of each side of a sequential test at its threshold."""
    for alpha in ALPHAS[2]:
        for side in ("accepted", "rejected"):
            errors = {
                p: getattr(
                    course(p, boundaries(p, looks=schedule(n), alpha=alpha)), side
                )
                for p in (0.5, 0.7, 0.9, 0.99, 0.999)
            }
            p = max(errors, key=lambda q: errors[q][-1])
            failure = float(errors[p][-1])
            yield Worst(f"sequential test, {side}", 2, alpha / 2, failure, n, (p,), n)
