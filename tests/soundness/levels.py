"""A noise level for each input: found, then certified, then held against the truth.

The noise level returned differs from image to image, and so does the truth: class
probabilities and radii are those of the known classifier at that noise level. The votes
come from noise samples that have numbers, as in `lipsmooth.noise`: the same number is
the same sample at every noise level, so votes that are used twice are used twice here.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, lru_cache, partial

import numpy as np
from judging import Setting, Trial
from known import Layers, Shells, lead
from mistakes import Mutant, deaf, exchanged, under
from numpy.typing import NDArray
from panel import SIGMA, known

from lipsmooth import intervals
from lipsmooth.certify import ABSTAIN, certify_counts
from lipsmooth.noise_level import Search, certify_noise_level, search_noise_level

STRATEGIES = ("mono", "max-upper")
"""One with a single bound, and the one that is used if no other is asked for."""

SEARCH = Search(
    SIGMA, low=0.1, high=1.5, tolerance=0.2, step=0.15, n=100, alpha=0.3
)  # fmt: skip
"""Three bisections on few samples and loose bounds: they end all over the bracket."""

SPREAD = (0.12, 0.25, 1.2)
"""Candidates so far apart that votes at them have little to do with one another."""

CLIMB = {"sigma": SIGMA, "bounds": (0.15, 2.0), "steps": 5, "n": 50}
"""Few samples and long steps, so that an ascent may end anywhere within the bounds."""

BLOCK = 200  # images whose noise is held at a time
SLOW = 20
"""One image here takes as long as so many of other trials."""


class Numbered:
    """The sampler of one image: votes of a known classifier on numbered noise.

    Of all directions only one matters for layers; for shells also the squared length of
    the noise in all others.
    """

    def __init__(self, name: str, along: NDArray, across: NDArray) -> None:
        truth = known(name)
        self.at, self.along, self.across = truth.at, along, across
        self.edges = getattr(truth, "edges", None)
        if isinstance(truth, Layers):
            self.owners = np.argmax(truth.scores, axis=1)
        else:
            self.edges = np.square(truth.borders)
            self.owners = np.asarray(truth.owners)
        self.classes = len(truth.probabilities)
        self.radial = isinstance(truth, Shells)

    def __call__(self, *, sigma: float, n: int, start: int) -> NDArray[np.int64]:
        """Return votes per class of the samples ``start`` to ``start + n - 1``."""
        if start + n > len(self.along):
            raise IndexError(f"sample {start + n} of {len(self.along)}")
        part = slice(start, start + n)
        where = self.at + sigma * self.along[part]
        if self.radial:
            where = where**2 + sigma**2 * self.across[part]
        layer = np.searchsorted(self.edges, where)
        return np.bincount(self.owners[layer], minlength=self.classes)


def numbered(s: Setting, images: int, size: int, rng) -> Iterator[Numbered]:
    """Yield a sampler for each image, with so many samples of noise."""
    dimension = known(s.classifier).dimension
    for begin in range(0, images, BLOCK):
        shape = min(BLOCK, images - begin), size
        along, across = rng.standard_normal(shape), np.zeros(shape)
        if isinstance(known(s.classifier), Shells) and dimension > 1:
            across = rng.chisquare(dimension - 1, shape)
        for row in zip(along, across, strict=True):
            yield Numbered(s.classifier, *row)


# The truth at a noise level


@lru_cache(maxsize=1000)
def at_level(name: str, sigma: float):
    """Return a classifier of the panel under another noise level."""
    return replace(known(name), sigma=sigma)


def is_false(name: str, found) -> bool:
    """Return whether a certificate is false at the noise level that it names.

    No change of class is nearer than the lead of the class reaches, so only what
    exceeds that is held against the true radius, which takes longer to find.
    """
    if found.prediction == ABSTAIN:
        return False
    truth = at_level(name, found.sigma)
    reach = lead(truth.probabilities, found.sigma)[found.prediction]
    return found.radius > reach and found.radius > truth.radii[found.prediction]


def judged(name: str, certificates) -> tuple[NDArray, NDArray]:
    """Return which certificates are false, and which are no abstentions."""
    rows = [(is_false(name, c), c.prediction != ABSTAIN) for c in certificates]
    return tuple(np.array(rows, dtype=bool).T)


# Search


remembered = cache(intervals.clopper_pearson_lower)  # equal votes have equal bounds


def samples_of(search: Search) -> int:
    """Return how many noise samples a search looks at."""
    halvings = np.ceil(np.log2((search.high - search.low) / search.tolerance))
    return (2 + max(1, int(halvings))) * search.n


def of_searched(
    images: int, rng, *, s: Setting, strategy: str, search: Search = SEARCH,
    others: tuple = (), start: Callable | None = None, swapped: bool = False,
):  # fmt: skip
    """Try a search and the certificate after it, also as the best of several levels.

    With ``others``, the candidates are these, the original and the level found.
    Mistakes are a ``start`` of the samples that certify which is not the search's, and,
    if ``swapped``, votes at the level found in a certificate for the original one.
    """
    certificates = []
    with exchanged(noise_level__clopper_pearson_lower=remembered):
        for sampler in numbered(s, images, samples_of(search) + s.n0 + s.n, rng):
            level = search_noise_level(sampler, search)
            sigmas = [search.sigma, level.sigma, *others] if others else [level.sigma]
            if swapped:
                sampler = partial(displaced, sampler, level.sigma)
                sigmas = [search.sigma]
            certificates.append(certify_noise_level(
                sampler, list(dict.fromkeys(sigmas)), n0=s.n0, n=s.n, alpha=s.alpha,
                start=start(level) if start else level.start, strategy=strategy,
            ))  # fmt: skip
    return judged(s.classifier, certificates)


def displaced(sampler: Callable, level: float, *, sigma: float, n: int, start: int):
    """Draw votes at a noise level of one's own, whatever is asked for."""
    return sampler(sigma=level, n=n, start=start)


# Ascent


def soft(name: str) -> Callable:
    """Return scores that torch can differentiate, with the votes of a known classifier.

    The classifier has two classes: the first below an edge, or between two.
    """
    import torch

    truth = known(name)
    edges, width = [float(e) for e in np.asarray(truth.edges)], truth.dimension**0.5

    def scores(points):
        along = points.sum(dim=1) / width
        inside = edges[-1] - along
        if len(edges) == 2:
            inside = torch.minimum(inside, along - edges[0])
        return torch.stack([inside, -inside], dim=1) * (8 / SIGMA)

    return scores


def streamed(scores: Callable, x, stream, *, sigma: float, n: int, start: int):
    """Draw votes at an input as `lipsmooth.sampling.count_votes` does, in less time."""
    noisy = x + sigma * stream.take(start, start + n)
    return np.bincount(scores(noisy).argmax(dim=1).numpy(), minlength=2)


def of_climbed(
    images: int, rng, *, s: Setting, strategy: str, rate: float = 0.3,
    start: int | None = None, swapped: bool = False, **climb,
):  # fmt: skip
    """Try an ascent in the noise level and the certificate after it.

    Mistakes are a ``start`` too early, and, if ``swapped``, votes at the original level
    in a certificate for the one found: an ascent tends upwards, a search downwards.
    """
    import torch

    from lipsmooth.ddrs import ascend_noise_level
    from lipsmooth.noise import NoiseStream

    climb = CLIMB | climb
    scores, seed = soft(s.classifier), int(rng.integers(2**63))
    x = torch.zeros(1, known(s.classifier).dimension)
    certificates = []
    for begin in range(0, images, BLOCK):
        indices = range(begin, min(begin + BLOCK, images))
        levels = ascend_noise_level(
            scores, x.expand(len(indices), -1), learning_rate=rate, seed=seed,
            indices=indices, **climb,
        )  # fmt: skip
        for index, level in zip(indices, levels.tolist(), strict=True):
            stream = NoiseStream(x[0].shape, seed=seed, index=index)
            sampler = partial(streamed, scores, x, stream)
            if swapped:
                sampler = partial(displaced, sampler, climb["sigma"])
            certificates.append(certify_noise_level(
                sampler, level, n0=s.n0, n=s.n, alpha=s.alpha, strategy=strategy,
                start=climb["steps"] * climb["n"] if start is None else start,
            ))  # fmt: skip
    return judged(s.classifier, certificates)


# What there is to try, and to mistake

SEARCHED, BEST, CLIMBED = (
    "noise level searched", "best of noise levels", "noise level climbed",
)  # fmt: skip
TRIED = ("half-space, p = 0.5", "half-space, p = 0.7", "three stripes, one thin",
         "slab", "ball in the plane", "outside a ball, d = 10")  # fmt: skip
SOFT = ("half-space, p = 0.92", "slab")


def level_trials() -> list[Trial]:
    """Return the trials of a noise level per input."""
    kinds = (
        (SEARCHED, of_searched, TRIED, 300),
        (BEST, partial(of_searched, others=SPREAD), TRIED, 300),
        # With n0 = 20 these are samples 250 to 499, one chunk of the noise.
        (CLIMBED, of_climbed, SOFT, 230),
    )
    return [
        Trial(f"{name}, {strategy}", s, partial(run, s=s, strategy=strategy), SLOW)
        for name, run, classifiers, n in kinds
        for strategy in STRATEGIES
        for s in (Setting(c, 20, n, 0.05) for c in classifiers)
    ]


def unpaid(*votes, alpha, **options):
    """Certify each of several candidates at the full level."""
    return certify_counts(*votes, alpha=alpha * len(votes[0]), **options)


MANY = (0.1, 0.13, 0.17, 0.25, 0.8, 1.2, 2.0)
AT_THE_EDGE = Setting("half-space, p = 0.7", 100, 1000, 0.2)
SMALL = Setting("half-space, p = 0.7", 20, 300, 0.2)
STEEP = Setting("half-space, p = 0.92", 20, 230, 0.2)
APART = replace(SEARCH, sigma=0.12, low=0.6, tolerance=0.5, n=1000, alpha=0.2)
"""A search that ends with a choice between two levels that are far apart."""


def level_mutants() -> list[Mutant]:
    """Return the mutants of a noise level per input.

    A level of 0.2 shows the same mistakes as a smaller one, with fewer images. `mono`
    alone has the mutants that certify what was chosen on the same votes: they fail at
    less than twice the level, which the two halves of alpha in `max-upper` would hide.
    """
    found = []

    def add(mistake, procedure, s, run, slow=SLOW):
        found.append(Mutant(mistake, Trial(procedure, s, run, slow)))

    for strategy in STRATEGIES:
        searched = partial(of_searched, strategy=strategy)
        best = partial(searched, s=AT_THE_EDGE, others=MANY)
        climbed = partial(of_climbed, strategy=strategy)
        for kind, s, run, swap in (
            (SEARCHED, SMALL, searched,
             "votes at the level found, radius for the original"),
            (CLIMBED, STEEP, climbed,
             "votes at the original level, radius for the one found"),
        ):  # fmt: skip
            name, few = f"{kind}, {strategy}", replace(s, alpha=0.05)
            add("every bound at twice alpha", name, s,
                under(deaf(2 * s.alpha), partial(run, s=s)))  # fmt: skip
            add(swap, name, few, partial(run, s=few, swapped=True))
        add("each candidate at alpha", f"{BEST}, {strategy}", AT_THE_EDGE,
            under({"noise_level__certify_counts": unpaid}, best))  # fmt: skip
    for which, size, start in (
        ("the last votes", APART.n, lambda level: level.start - APART.n),
        ("all samples", samples_of(APART), lambda level: 0),
    ):
        s = Setting("half-space, p = 0.7", 20, size - 20, APART.alpha)
        run = partial(of_searched, s=s, strategy="mono", search=APART, start=start)
        add(f"certified from {which} of the search", f"{SEARCHED}, mono", s, run,
            SLOW // 2)  # fmt: skip
    s = replace(STEEP, n=980)
    run = partial(of_climbed, s=s, strategy="mono", rate=0.03, steps=25, n=40)
    add("certified from the samples of the ascent", f"{CLIMBED}, mono", s,
        partial(run, start=0))  # fmt: skip
    return found
