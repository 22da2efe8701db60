"""Certifications by the hundred thousand, each held against the truth.

Whatever lipsmooth offers is found in its registries, so that a strategy or a bound
that is added there is tried here without another word. A *trial* draws the votes or
scores of many images that are all the same known input, certifies them through the
public functions, and tells which certificates are false: another class than that of
the smoothed classifier, or a radius above the true one.
"""

from functools import partial

import numpy as np
from judging import Setting, Trial, is_false
from levels import level_trials
from panel import known

from lipsmooth.budget import rehearse
from lipsmooth.certify import ABSTAIN, STRATEGIES, certify_counts, predict_counts
from lipsmooth.decisions import certify_log
from lipsmooth.logs import VoteLog
from lipsmooth.perinput import certify_best_map
from lipsmooth.scorebounds import SCORE_BOUNDS, SCORE_STRATEGIES
from lipsmooth.scores import certify_score_samples, certify_scores
from lipsmooth.sequential import RULE, boundaries, schedule, stopping_rule

WITHOUT_COINS = ("anytime",)
"""Strategies whose bounds take no coins."""

COINS = 20_261
"""Seed of the coins of randomised bounds: fixed before any vote."""

MAPS = np.array([1, 2, 3, 5, 8, 13])
"""Frequencies of the maps among which `certify_best_map` may choose."""


# Votes, their number fixed


def draw_votes(s: Setting, images: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """Draw selection and estimation votes, each of shape (images, classes)."""
    p = known(s.classifier).probabilities
    return rng.multinomial(s.n0, p, size=images), rng.multinomial(s.n, p, size=images)


def of_votes(images: int, rng, *, s: Setting, strategy: str, coins: bool, **options):
    """Try a strategy of `certify_counts`; draw the votes, certify, compare."""
    truth = known(s.classifier)
    votes = draw_votes(s, images, rng)
    options |= {"sigma": truth.sigma, "alpha": s.alpha, "strategy": strategy}
    if coins:
        return is_false(certify_counts(*votes, randomize_seed=COINS, **options), truth)
    rows, back = alike(*votes)
    found = certify_counts(*(part[rows] for part in votes), **options)
    return tuple(part[back] for part in is_false(found, truth))


def alike(selection, estimation) -> tuple[np.ndarray, np.ndarray]:
    """Return one image of each kind, and the kind of each image.

    Equal votes have equal certificates. Only of two classes are many votes equal.
    """
    if selection.shape[1] > 2:
        return np.arange(len(selection)), np.arange(len(selection))
    key = selection[:, 0] * (estimation.sum(axis=1) + 1) + estimation[:, 0]
    return np.unique(key, return_index=True, return_inverse=True)[1:]


def of_predictions(images: int, rng, *, s: Setting):
    """Try `predict_counts`: false where a less probable class is returned."""
    p = known(s.classifier).probabilities
    found = predict_counts(rng.multinomial(s.n, p, size=images), alpha=s.alpha)
    certified = found != ABSTAIN
    return certified & (p[found] < p.max()), certified


# Votes whose number depends on them


def target(s: Setting) -> float:
    """Return a radius just above the true one: whoever certifies it is wrong."""
    truth = known(s.classifier).radii.max()
    return float(np.nextafter(truth, np.inf)) + 1e-9


def of_decisions(images: int, rng, *, s: Setting):
    """Try ``sample --target-radius`` and `certify_log` on votes that it stopped."""
    truth = known(s.classifier)
    p, goal = truth.probabilities, target(s)
    rule = stopping_rule(goal, sigma=truth.sigma, n=s.n, alpha=s.alpha)
    selection = rng.multinomial(s.n0, p, size=images)
    top = selection.argmax(axis=1)
    decision, votes = rehearse(p[top], rule, rng=rng)
    own = _votes_at_the_end(rule, decision, votes, p[top], rng)
    estimation = np.zeros((images, len(p)), dtype=np.int64)
    estimation[np.arange(images), (top + 1) % len(p)] = votes - own
    estimation[np.arange(images), top] = own
    config = {"sigma": truth.sigma, "alpha": s.alpha, "n": s.n, "stopping": RULE,
              "target_radius": goal}  # fmt: skip
    log = VoteLog(
        config=config, provenance={}, index=np.arange(images), label=top,
        counts_selection=selection, counts_estimation=estimation,
        seconds=np.zeros(images), decision=decision,
    )  # fmt: skip
    return is_false(certify_log(log, alpha=s.alpha), truth)


def _votes_at_the_end(rule, decision, votes, p, rng):
    """Return votes for the top class that lead to the decision, as a log has them."""
    look = np.searchsorted(rule.looks, votes)
    up, down = rule.accept[look], rule.reject[look]
    middle = np.clip(rng.binomial(votes, p), down + 1, up - 1)
    return np.select([decision == 1, decision == -1], [up, down], middle)


def of_looks(images: int, rng, *, s: Setting, strategy: str, looks=None):
    """Look again and again, and stop as soon as a false radius is certified.

    The worst reader of all: the sampling goes on until the certificate is false or the
    votes are used up. Bounds that hold at all times bear even that.
    """
    truth = known(s.classifier)
    p = truth.probabilities
    top = rng.multinomial(s.n0, p, size=images).argmax(axis=1)
    votes = np.zeros((images, len(p)), dtype=np.int64)
    wrong, some, before = np.zeros(images, bool), np.zeros(images, bool), 0
    for look in schedule(s.n, first=20, growth=1.2) if looks is None else looks:
        votes += rng.multinomial(look - before, p, size=images)
        before = look
        # Equal votes have equal certificates, and few differ at a time.
        rows, back = np.unique(
            np.column_stack([top, votes]), axis=0, return_inverse=True
        )
        named = np.eye(len(p), dtype=np.int64)[rows[:, 0]]
        found = certify_counts(
            named, rows[:, 1:], sigma=truth.sigma, alpha=s.alpha, strategy=strategy
        )
        false, certified = is_false(found, truth)
        wrong |= false[back.reshape(-1)]
        some |= certified[back.reshape(-1)]
    return wrong, some


def of_tests(images: int, rng, *, s: Setting, side: str):
    """Try `boundaries` at the threshold itself, from below or from above."""
    p = float(known(s.classifier).probabilities.max())
    rule = boundaries(p, looks=schedule(s.n), alpha=s.alpha)
    decision, _ = rehearse(np.full(images, p), rule, rng=rng)
    return decision == (1 if side == "accept" else -1), decision != 0


# Scores


def draw_moments(truth, n: int, images: int, rng, votes: bool = False):
    """Draw means and unbiased variances of scores, each (images, classes).

    With ``votes`` every score is a vote, tossed with the mean score for its chance.
    """
    if votes:
        mean = rng.multinomial(n, truth.probabilities, size=images) / n
        return mean, mean * (1 - mean) * n / (n - 1)
    if not hasattr(truth, "draw"):
        rows = rng.multinomial(n, truth.shares, size=images)
        scores = np.asarray(truth.scores, float)
        mean = rows @ scores / n
        away = scores - mean[:, np.newaxis]
        return mean, np.einsum("il,ilc->ic", rows, away**2) / (n - 1)
    block = max(1, 4_000_000 // n)
    own = np.concatenate([
        np.stack([part.mean(axis=1), part.var(axis=1, ddof=1)])
        for part in (truth.draw((min(block, images - start), n), rng)
                     for start in range(0, images, block))
    ], axis=1)  # fmt: skip
    shares = np.asarray(truth.shares)
    mean = np.column_stack([own[0], (1 - own[0])[:, np.newaxis] * shares])
    return mean, np.column_stack([own[1], own[1][:, np.newaxis] * shares**2])


def of_scores(images: int, rng, *, s: Setting, strategy: str, bound: str, options):
    """Try `certify_scores` by moments; also with the Lipschitz constant if known."""
    votes = bound == "clopper-pearson"
    truth = known(s.classifier, soft=True)
    first, spread = draw_moments(truth, s.n0, images, rng, votes)
    mean, variance = draw_moments(truth, s.n, images, rng, votes)
    found = certify_scores(
        first, mean, variance, s.n, sigma=truth.sigma, alpha=s.alpha, bound=bound,
        strategy=strategy, variance_selection=spread, **options,
    )  # fmt: skip
    return is_false(found, truth)


def of_samples(images: int, rng, *, s: Setting, strategy: str):
    """Try `certify_score_samples`: betting on the scores in their order."""
    truth = known(s.classifier, soft=True)
    first, _ = draw_moments(truth, s.n0, images, rng)
    layers = rng.choice(len(truth.shares), size=(images, s.n), p=truth.shares)
    # Equal sequences have equal certificates, and of so few scores many are equal.
    rows, back = np.unique(
        np.column_stack([first.argmax(axis=1), layers]), axis=0, return_inverse=True
    )
    found = certify_score_samples(
        np.eye(first.shape[1])[rows[:, 0]], np.asarray(truth.scores)[rows[:, 1:]],
        sigma=truth.sigma, alpha=s.alpha, strategy=strategy,
    )  # fmt: skip
    return tuple(part[back.reshape(-1)] for part in is_false(found, truth))


def of_maps(images: int, rng, *, s: Setting, reuse: bool = False, **options):
    """Try `certify_best_map`: for each image the map that looks best for it.

    With ``reuse`` by the scores that certify, which is a mistake.

    A map votes for class 0 where a sine of the coordinate is positive. At 0 both
    classes have a mean score of one half, so that any certificate is false.
    """
    truth = known(s.classifier, soft=True)

    def moments(n):
        z = rng.standard_normal((images, 1, n))
        mean = (np.sin(MAPS[:, np.newaxis] * z) > 0).mean(axis=2)
        variance = mean * (1 - mean) * n / (n - 1)
        return np.stack([mean, 1 - mean], axis=-1), np.stack([variance] * 2, axis=-1)

    last = moments(s.n)
    first = last if reuse else moments(s.n0)
    found = certify_best_map(
        *first, *last, s.n, sigma=truth.sigma, alpha=s.alpha,
        bound="clopper-pearson", **options,
    ).certificates  # fmt: skip
    return is_false(found, truth)


# What there is to try

TINY, SHORT = (10, 40, 0.05), (20, 100, 0.05)
USUAL, LONG = (100, 1000, 0.01), (100, 100_000, 0.001)
FIXED = {
    "half-space, p = 0.5": (SHORT,),
    "half-space, p = 0.501": (SHORT,),
    "half-space, p = 0.7": (TINY, SHORT, LONG),
    "half-space, p = 0.99": (USUAL,),
    "half-space, p = 0.999": (LONG,),
    "slab": (SHORT,),
    "three stripes": (USUAL,),
    "three stripes, one thin": (SHORT, LONG),
    "eleven stripes": (USUAL,),
    "mixture of stripes": (SHORT,),
    "ball in the plane": (SHORT,),
    "ball, d = 3072": (USUAL,),
    "outside a ball, d = 10": (USUAL,),
    "outside a ball, d = 3072": (USUAL,),
    "two polygons": (SHORT,),
    "grid of bytes": (USUAL,),
}
"""Settings (n0, n, alpha) of votes whose number is fixed."""

TOSSED = (
    Setting("half-space, p = 0.7", *SHORT),
    Setting("half-space, p = 0.99", *USUAL),
    Setting("three stripes, one thin", *SHORT),
)
"""Settings of randomised bounds, which take long and matter where votes are few."""

STOPPED = ("half-space, p = 0.7", "half-space, p = 0.99", "three stripes, one thin")


def all_trials() -> list[Trial]:
    """Return every trial of everything in the registries."""
    return [*vote_trials(), *stopped_trials(), *score_trials(), *level_trials()]


def vote_trials(classifiers=tuple(FIXED)) -> list[Trial]:
    """Return the trials of `certify_counts` and `predict_counts`."""
    settings = [Setting(c, *numbers) for c in classifiers for numbers in FIXED[c]]
    tossed = [s for s in TOSSED if s.classifier in classifiers]
    trials = [
        Trial(f"{name} with coins" if coins else name, s,
              partial(of_votes, s=s, strategy=name, coins=coins))
        for name in STRATEGIES
        for coins in (False, True) if not (coins and name in WITHOUT_COINS)
        for s in (tossed if coins else settings)
    ]  # fmt: skip
    return trials + [
        Trial("predict", s, partial(of_predictions, s=s)) for s in settings
    ]


def stopped_trials(classifiers=STOPPED) -> list[Trial]:
    """Return the trials of rules that stop when the votes have decided."""
    trials = []
    for name in classifiers:
        s = Setting(name, 20, 5000, 0.05)
        trials += [
            Trial("sequential, target radius", s, partial(of_decisions, s=s)),
            Trial("anytime, stopped when false", s,
                  partial(of_looks, s=s, strategy="anytime")),
            *(Trial(f"sequential test, {side}", s, partial(of_tests, s=s, side=side))
              for side in ("accept", "reject")),
        ]  # fmt: skip
    return trials


def score_trials() -> list[Trial]:
    """Return the trials of soft scores: by moments, by betting, by map."""
    trials = []
    for strategy in SCORE_STRATEGIES:
        for bound in SCORE_BOUNDS:
            name = f"scores, {strategy}, {bound}"
            for classifier in ("ramp", "steep ramp", "ramp, two rivals",
                               "mixture of stripes", "rare zero", "two values",
                               "hard votes, p = 0.99"):  # fmt: skip
                s = Setting(classifier, 20, 200, 0.05)
                call = partial(of_scores, s=s, strategy=strategy, bound=bound)
                trials.append(Trial(name, s, partial(call, options={})))
                slope = getattr(known(classifier, soft=True), "lipschitz", None)
                if slope and bound != "clopper-pearson":
                    options = {"lipschitz": slope}
                    trials.append(
                        Trial(f"{name}, Lipschitz", s, partial(call, options=options))
                    )
    for strategy in ("lvmrs", "mono"):
        for classifier in ("hard votes, p = 0.99", "two values"):
            s = Setting(classifier, 10, 10, 0.05)
            call = partial(of_samples, s=s, strategy=strategy)
            trials.append(Trial(f"scores, {strategy}, betting", s, call))
    s = Setting("on the fence", 20, 100, 0.05)
    return trials + [
        Trial(f"map per input, {strategy}", s, partial(of_maps, s=s, strategy=strategy))
        for strategy in ("lvmrs", "mono")
    ]
