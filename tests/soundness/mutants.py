"""What the suite must catch: every strategy with a mistake put into it.

A mutant goes through the same trial as the code without the mistake. Mistakes that fit
any strategy are made by exchanging what the strategies call, so that a strategy that is
added to a registry gets its mutants with it. A mutant that is not caught fails the
suite: then the suite could not have caught the same mistake in the code.
"""

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import numpy as np
from judging import Setting, Trial, is_false
from levels import level_mutants
from mistakes import Mutant, deaf, under
from panel import known
from scipy.special import ndtri
from trials import (
    COINS,
    STOPPED,
    WITHOUT_COINS,
    draw_votes,
    of_decisions,
    of_looks,
    of_maps,
    of_predictions,
    of_samples,
    of_scores,
    of_tests,
    of_votes,
)

from lipsmooth import intervals, sequential, strategies
from lipsmooth.budget import least_votes
from lipsmooth.certify import ABSTAIN, STRATEGIES, Certificates, certify_counts
from lipsmooth.scorebounds import SCORE_BOUNDS, SCORE_STRATEGIES


def mutants() -> list[Mutant]:
    """Return every mutant of everything in the registries."""
    return [*vote_mutants(), *stopping_mutants(), *score_mutants(), *level_mutants()]


# Mistakes in bounds


def wald_lower(k, n, *, alpha):
    """Take the normal approximation for a lower bound."""
    return intervals.wald(k, n, alpha=alpha).lower


def wald_upper(k, n, *, alpha):
    """Take the normal approximation for an upper bound."""
    return intervals.wald(k, n, alpha=alpha).upper


def observed(k, n, *, alpha):
    """Take the observed share for a bound."""
    return np.asarray(k) / np.asarray(n)


WALD = {
    "strategies__clopper_pearson_lower": wald_lower,
    "strategies__clopper_pearson_upper": wald_upper,
    "strategies__lower_sequence": wald_lower,
}
SWAPPED = {
    "strategies__clopper_pearson_lower": intervals.clopper_pearson_upper,
    "strategies__clopper_pearson_upper": intervals.clopper_pearson_lower,
    "strategies__lower_sequence": intervals.clopper_pearson_upper,
}
PLUGGED_IN = {"strategies__clopper_pearson_upper": observed}
PEEKED = {"strategies__lower_sequence": intervals.clopper_pearson_lower}


# Mistakes of votes


def reused(images: int, rng, *, s: Setting, strategy: str):
    """Name the class by the same votes that bound its probability."""
    _, votes = draw_votes(s, images, rng)
    found = certify_counts(
        votes, votes, sigma=known(s.classifier).sigma, alpha=s.alpha, strategy=strategy
    )
    return is_false(found, known(s.classifier))


def shopped(images: int, rng, *, s: Setting, strategy: str, tries: int = 10):
    """Toss the coins of each image several times and report the largest radius."""
    votes = draw_votes(s, images, rng)
    radius, prediction = np.zeros(images), np.full(images, ABSTAIN)
    for seed in range(COINS, COINS + tries):
        found = certify_counts(
            *votes, sigma=known(s.classifier).sigma, alpha=s.alpha, strategy=strategy,
            randomize_seed=seed,
        )  # fmt: skip
        prediction = np.where(found.radius > radius, found.prediction, prediction)
        radius = np.maximum(radius, found.radius)
    best = Certificates(prediction, radius, radius, radius)
    return is_false(best, known(s.classifier))


def without_rest(selection, top, estimation, alpha, u=None):
    """Partition classes, and forget the bucket of those that are left over."""
    order = np.argsort(-selection, axis=1, kind="stable")
    runner_up = np.where(order[:, 0] == top, order[:, 1], order[:, 0])
    rival = strategies.votes_of(estimation, runner_up)
    return strategies._bounds(top, rival, estimation, alpha / 2, alpha / 2, u)


def as_unsound(rule: Callable, run: Callable) -> Callable:
    """Return the trial of a rule that is registered as unsound while it runs."""

    def mutated(images, rng):
        with patch.dict(strategies.UNSOUND, {"mutant": rule}):
            return run(images, rng)

    return mutated


RARE = Setting("half-space, p = 0.99", 20, 100, 0.05)
EASY = Setting("half-space, p = 0.7", 20, 100, 0.05)
FEW = Setting("half-space, p = 0.92", 10, 40, 0.01)
TIE = Setting("half-space, p = 0.5", 20, 100, 0.05)
LEVEL = Setting("half-space, p = 0.7", 20, 1000, 0.05)
THREE = Setting("three stripes", 5, 10_000, 0.05)
FOUR = Setting("four stripes", 12, 10_000, 0.05)
THIN = Setting("three stripes, one thin", 20, 1000, 0.05)
LOOKS = Setting("half-space, p = 0.7", 20, 5000, 0.05)

TWO_BOUNDS = tuple(s for s in STRATEGIES if s not in ("mono", "anytime"))
"""Strategies that bound the rivals as well; a new one is taken to do so."""
ALL_ON_ONE = ("mono", "planned")
"""Strategies that may spend all of alpha on one class, even against one rival."""


def vote_mutants() -> list[Mutant]:
    """Return the mutants of `certify_counts`."""
    found = []

    def add(mistake, procedure, s, run):
        found.append(Mutant(mistake, Trial(procedure, s, run)))

    for name in STRATEGIES:
        plain = partial(of_votes, strategy=name, coins=False)
        for mistake, exchange, s in (
            ("Wald's interval", WALD, RARE),
            ("lower and upper bound swapped", SWAPPED, EASY),
        ):
            add(mistake, name, s, under(exchange, partial(plain, s=s)))
        if name == "anytime":
            for mistake, exchange in (
                ("fixed-n bound at each look", PEEKED), ("Wald at each look", WALD),
            ):  # fmt: skip
                run = partial(of_looks, s=LOOKS, strategy=name)
                add(mistake, "anytime, stopped when false", LOOKS,
                    under(exchange, run))  # fmt: skip
            continue
        add("every bound at twice alpha", name, LEVEL,
            under(deaf(2 * LEVEL.alpha), partial(plain, s=LEVEL)))  # fmt: skip
        add("certified at every look", name, LOOKS,
            partial(of_looks, s=LOOKS, strategy=name))  # fmt: skip
        if name not in WITHOUT_COINS:
            add("the best of ten tosses", f"{name} with coins", FEW,
                partial(shopped, s=FEW, strategy=name))  # fmt: skip
        if name in TWO_BOUNDS:
            s = THIN if name == "planned" else EASY
            add("the rival's observed share", name, s,
                under(PLUGGED_IN, partial(plain, s=s)))  # fmt: skip
        if name in ALL_ON_ONE:
            add("alpha doubled", name, LEVEL, _doubled(name, LEVEL))
            add("selection on the estimation votes", name, TIE,
                partial(reused, s=TIE, strategy=name))  # fmt: skip
    unsound = {"allow_unsound": True, "coins": False}
    for name in strategies.UNSOUND:
        run = partial(of_votes, s=THREE, strategy=name, **unsound)
        add("the runner-up fixed beforehand", name, THREE, run)
    run = partial(of_votes, s=FOUR, strategy="mutant", **unsound)
    add("the rest without a bucket", "cpm", FOUR, as_unsound(without_rest, run))
    s = Setting("half-space, p = 0.501", 20, 100, 0.05)

    def majority(images, rng):
        with patch("trials.predict_counts", lambda votes, alpha: votes.argmax(axis=1)):
            return of_predictions(images, rng, s=s)

    add("no test of the runner-up", "predict", s, majority)
    return found


def _doubled(name: str, s: Setting) -> Callable:
    twice = Setting(s.classifier, s.n0, s.n, 2 * s.alpha)
    return partial(of_votes, s=twice, strategy=name, coins=False)


# Mistakes of rules that stop


def peeking(radius, *, sigma, n, alpha):
    """Stop by a fixed-n bound, looked at again and again."""
    looks = sequential.schedule(n, first=20, growth=1.01)
    accept = least_votes(radius, looks, sigma=sigma, alpha=alpha / 2)
    never = np.full(len(looks), -1)
    return sequential.Boundaries(looks, accept, never, 0.5, alpha)


def in_tens(threshold, *, looks, alpha):
    """Take the logarithm to base ten where the natural one belongs."""
    level = 2 * np.exp(np.log10(alpha / 2))
    return sequential.boundaries(threshold, looks=looks, alpha=level)


def stopping_mutants() -> list[Mutant]:
    """Return the mutants of sequential decisions."""
    found = []
    for name in STOPPED[:2]:
        s = Setting(name, 20, 5000, 0.05)

        def decided(images, rng, s=s):
            with patch("trials.stopping_rule", peeking):
                return under({"decisions__stopping_rule": peeking},
                             partial(of_decisions, s=s))(images, rng)  # fmt: skip

        found.append(
            Mutant(
                "a fixed-n bound at every look",
                Trial("sequential, target radius", s, decided),
            )
        )
        for side in ("accept", "reject"):

            def tested(images, rng, s=s, side=side):
                with patch("trials.boundaries", in_tens):
                    return of_tests(images, rng, s=s, side=side)

            trial = Trial(f"sequential test, {side}", s, tested)
            found.append(Mutant("logarithm to base ten", trial))
    return found


# Mistakes of scores


def by_the_limit(mean, variance, n, *, alpha):
    """Trust the central limit theorem and the observed variance."""
    width = -ndtri(alpha) * np.sqrt(np.asarray(variance) / n)
    return intervals.Bounds(np.clip(mean - width, 0, 1), np.clip(mean + width, 0, 1))


def half_hoeffding(mean, n, *, alpha):
    """Take scores to have a range of one half."""
    lower, upper = intervals.hoeffding(mean, n, alpha=alpha)
    return intervals.Bounds((mean + lower) / 2, (mean + upper) / 2)


def trusting_samples(samples, *, alpha):
    """Bound scores in their order by the central limit theorem."""
    values = np.asarray(samples)
    moments = values.mean(axis=-1), values.var(axis=-1, ddof=1)
    return by_the_limit(*moments, values.shape[-1], alpha=alpha)


def swapped_scores(mean, variance, n, *, alpha, bound):
    """Mistake the lower bounds for the upper ones."""
    from lipsmooth.scorebounds import score_bounds

    lower, upper = score_bounds(mean, variance, n, alpha=alpha, bound=bound)
    return intervals.Bounds(upper, lower)


WRONG_BOUND = {
    "bernstein": ("the central limit theorem",
                  {"scorebounds__empirical_bernstein": by_the_limit},
                  "hard votes, p = 0.99"),
    "hoeffding": ("half the range", {"scorebounds__hoeffding": half_hoeffding},
                  "hard votes"),
    "clopper-pearson": ("Wald's interval", {"scorebounds__clopper_pearson_lower":
                        wald_lower, "scorebounds__clopper_pearson_upper": wald_upper},
                        "hard votes, p = 0.99"),
}  # fmt: skip


def score_mutants() -> list[Mutant]:
    """Return the mutants of `certify_scores` and what belongs to it."""
    found = []
    for strategy in SCORE_STRATEGIES:
        for bound in SCORE_BOUNDS:
            name = f"scores, {strategy}, {bound}"
            call = partial(of_scores, strategy=strategy, bound=bound, options={})
            mistake, exchange, classifier = WRONG_BOUND[bound]
            for what, names, s in (
                (mistake, exchange, Setting(classifier, 20, 50, 0.05)),
                ("lower and upper bound swapped",
                 {"scores__score_bounds": swapped_scores},
                 Setting("steep ramp", 20, 200, 0.05)),
            ):  # fmt: skip
                run = under(names, partial(call, s=s))
                found.append(Mutant(what, Trial(name, s, run)))
        for bound in ("bernstein", "hoeffding"):
            s = Setting("ramp", 20, 2000, 0.05)
            half = {"lipschitz": known("ramp", soft=True).lipschitz / 2}
            run = partial(of_scores, s=s, strategy=strategy, bound=bound, options=half)
            trial = Trial(f"scores, {strategy}, {bound}, Lipschitz", s, run)
            found.append(Mutant("half the Lipschitz constant", trial))
    for strategy in ("lvmrs", "mono"):
        s = Setting("hard votes, p = 0.99", 10, 12, 0.05)
        run = under({"scores__betting": trusting_samples},
                    partial(of_samples, s=s, strategy=strategy))  # fmt: skip
        trial = Trial(f"scores, {strategy}, betting", s, run)
        found.append(Mutant("the central limit theorem", trial))
    s = Setting("on the fence", 20, 100, 0.05)
    for strategy in ("lvmrs", "mono"):
        run = partial(of_maps, s=s, reuse=True, strategy=strategy)
        trial = Trial(f"map per input, {strategy}", s, run)
        found.append(Mutant("the map that is best for the same scores", trial))
    run = partial(of_maps, s=s, choose="estimation", allow_unsound=True)
    trial = Trial("map per input, lvmrs", s, run)
    return [*found, Mutant("map, class and radius by the same scores", trial)]
