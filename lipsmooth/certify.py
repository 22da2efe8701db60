"""From vote counts to a prediction and a certified radius."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc

from lipsmooth.intervals import check_alpha
from lipsmooth.radii import check_sigma, radius_mono, radius_multi
from lipsmooth.strategies import SOUND, UNSOUND, strongest_rival, votes_of

ABSTAIN = -1
"""The prediction of an image for which nothing is certified."""

Counts = NDArray[np.int64]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Certificates:
    """Certified predictions of a batch of images, each field of shape (images,).

    Attributes
    ----------
    prediction : ndarray of int
        The class, or `ABSTAIN`.
    radius : ndarray
        Certified L2 radius in the units of the input, unrounded; 0 for `ABSTAIN`.
    p_a_lower, p_b_upper : ndarray
        The bounds behind it, kept also for abstentions: on the selected class,
        and on every other class.
    """

    prediction: NDArray[np.int64]
    radius: Array
    p_a_lower: Array
    p_b_upper: Array

    def __len__(self) -> int:
        return len(self.prediction)


STRATEGIES = tuple(SOUND)
"""Names of the strategies whose certificates hold at level ``alpha``."""

_LEAST_COIN = 10
"""Times alpha: below this a coin alone, not the votes, would certify anything."""


def certify_counts(
    counts_selection: ArrayLike,
    counts_estimation: ArrayLike,
    *,
    sigma: ArrayLike,
    alpha: float,
    strategy: str = "max-upper",
    randomize_seed: int | None = None,
    index: ArrayLike | None = None,
    allow_unsound: bool = False,
) -> Certificates:
    """Certify a batch of images from their vote counts.

    The selection votes name the class, the estimation votes bound its
    probability and its rivals'; the two must come from different noise samples.

    Parameters
    ----------
    counts_selection, counts_estimation : array_like of int, shape (images, classes)
        Votes per class under ``n0`` and ``n`` noise samples. Ties in the
        selection go to the smallest class.
    sigma : array_like, shape () or (images,)
        Standard deviation of the noise, in the units of the input.
    alpha : float
        Total failure probability per image, in (0, 1).
    strategy : str
        How ``alpha`` is spent:

        ``"mono"``
            all of it on the selected class; rivals get ``1 - p_a_lower``
            (Cohen et al. 2019, Certify).
        ``"bonferroni"``
            ``alpha / classes`` on every class.
        ``"cpm"``
            ``alpha / m`` on each of ``m`` buckets of classes, made from the
            selection votes (Delattre et al. 2025, class partitioning).
        ``"max-upper"``
            ``alpha / 2`` on the selected class and ``alpha / 2`` on the largest
            rival bound; never a smaller radius than ``"bonferroni"`` or ``"cpm"``.
        ``"planned"``
            as ``"mono"``, or as ``"max-upper"`` with another split of ``alpha``,
            whichever the selection votes promise the larger radius.
        ``"anytime"``
            as ``"mono"``, with `lipsmooth.sequential.lower_sequence`: holds however
            the number of votes came about. All others need a number of votes that
            was fixed before any vote was seen.
        ``"fixed-runner-up"``
            the misuse: ``alpha / 2`` on the class that came second in the
            selection. **Unsound**; its coverage can fall to 0.
    randomize_seed : int, optional
        Use randomised Clopper–Pearson bounds (`lipsmooth.randomized`) with coins
        from this seed, which must be fixed before the votes are seen and reported
        with the result. Coins below ``10 * alpha`` are raised to it, which is valid
        and keeps a lucky coin from certifying an infinite radius. Not for
        ``"anytime"``.
    index : array_like of int, shape (images,), optional
        Numbers of the images, at least 0, each with coins of its own whatever the
        other images are; by default their positions.
    allow_unsound : bool
        Must be true to run an unsound strategy, for study.

    Returns
    -------
    Certificates
        Prediction, radius and bounds per image.

    Raises
    ------
    ValueError
        If counts are not whole numbers of matching shape, an image has no votes,
        there are fewer than two classes, or ``sigma``, ``alpha``, ``strategy``,
        ``randomize_seed`` or ``index`` is invalid.

    Notes
    -----
    Guarantee (sound strategies): for each image, with probability at least
    ``1 - alpha`` over the estimation samples, either the prediction is `ABSTAIN`
    or the smoothed classifier returns the prediction everywhere in the open L2
    ball of the radius. For ``"max-upper"``: the true strongest rival is one fixed
    class, and the largest of the upper bounds is at least that class's bound, so
    no union over classes is needed (Berger 1982). What the selection votes decide
    is free, for they are independent of the estimation votes. With
    ``randomize_seed`` the probability is over the coins too.

    References
    ----------
    Cohen, Rosenfeld and Kolter (2019), Algorithm 1. Delattre et al. (2025),
    Section 4, for the multi-class bounds and the misuse.
    """
    selection, top = _check_counts("counts_selection", counts_selection)
    estimation, _ = _check_counts("counts_estimation", counts_estimation)
    if selection.shape != estimation.shape:
        raise ValueError(
            f"counts_selection has shape {selection.shape}, "
            f"counts_estimation {estimation.shape}"
        )
    if np.ndim(alpha):
        raise ValueError(f"alpha must be one number, got {alpha}")
    check_alpha(alpha)
    noise = check_sigma(sigma)
    if noise.shape not in ((), (len(estimation),)):
        raise ValueError(f"sigma has shape {noise.shape} for {len(estimation)} images")
    bound = _find_strategy(strategy, allow_unsound)

    coins = None
    if randomize_seed is not None:
        if strategy == "anytime":
            raise ValueError("strategy 'anytime' takes no coins: drop randomize_seed")
        numbers = np.arange(len(estimation)) if index is None else np.asarray(index)
        drawn = _toss(randomize_seed, numbers, len(estimation))
        coins = np.maximum(drawn, min(1.0, _LEAST_COIN * alpha))
    p_a_lower, p_b_upper = bound(selection, top, estimation, float(alpha), coins)
    # Φ⁻¹ loses digits near 1, so 1 - p_a_lower goes through the mono formula.
    radius = np.where(
        p_b_upper == 1 - p_a_lower,
        radius_mono(p_a_lower, sigma=noise),
        radius_multi(p_a_lower, p_b_upper, sigma=noise),
    )
    certified = radius > 0
    return Certificates(
        prediction=np.where(certified, top, ABSTAIN),
        radius=np.where(certified, radius, 0.0),
        p_a_lower=p_a_lower,
        p_b_upper=p_b_upper,
    )


def predict_counts(counts: ArrayLike, *, alpha: float) -> NDArray[np.int64]:
    """Predict the smoothed class of each image, or abstain when votes are close.

    Parameters
    ----------
    counts : array_like of int, shape (images, classes)
        Votes per class.
    alpha : float
        Probability, in (0, 1), of returning a class that is not the most likely.

    Returns
    -------
    ndarray of int, shape (images,)
        The class with most votes, or `ABSTAIN` if a two-sided binomial test does
        not tell it from the runner-up at level ``alpha``.

    Raises
    ------
    ValueError
        If the counts or ``alpha`` are invalid.

    Notes
    -----
    Guarantee: with probability at least ``1 - alpha`` a returned class is the
    prediction of the smoothed classifier, although the two classes compared were
    chosen from the same votes (Hung and Fithian 2019, Theorem 1).

    References
    ----------
    Cohen, Rosenfeld and Kolter (2019), Algorithm 1 (Predict), Proposition 1.
    """
    votes, top = _check_counts("counts", counts)
    check_alpha(alpha)
    winner, second = votes_of(votes, top), strongest_rival(votes, top)
    # P(X >= winner) for X ~ Binomial(winner + second, 1/2), doubled by symmetry.
    p_value = np.minimum(1, 2 * betainc(winner, second + 1, 0.5))
    return np.where((p_value <= alpha) & (winner > second), top, ABSTAIN)


def _toss(seed: int, index: NDArray, images: int) -> Array:
    """Return two uniform numbers per image, in an array of shape (2, images)."""
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**63:
        what = "randomize_seed must be a whole number, at least 0 and below 2**63"
        raise ValueError(f"{what}; got {seed!r}")
    if index.shape != (images,) or index.dtype.kind not in "iu":
        what = f"{index.dtype} of shape {index.shape} for {images} images"
        raise ValueError(f"index must be one whole number per image, got {what}")
    if np.any(index < 0):
        raise ValueError(f"index must be at least 0, got {index.min()}")
    stream = np.random.Generator(np.random.PCG64(seed))
    return stream.random((index.max(initial=-1) + 1, 2))[index].T


def _find_strategy(strategy: str, allow_unsound: bool) -> Callable:
    if strategy in SOUND:
        return SOUND[strategy]
    if strategy not in UNSOUND:
        known = ", ".join(STRATEGIES)
        raise ValueError(f"strategy must be one of {known}; got {strategy!r}")
    if not allow_unsound:
        raise ValueError(
            f"strategy {strategy!r} is unsound: its certificates can be wrong more "
            "often than alpha; pass allow_unsound=True to study it"
        )
    return UNSOUND[strategy]


def _check_counts(name: str, counts: ArrayLike) -> tuple[Counts, Counts]:
    """Return the counts and each image's class with most votes, the first on ties."""
    raw = np.asarray(counts)
    if raw.ndim != 2 or raw.shape[1] < 2:
        raise ValueError(
            f"{name} must have shape (images, classes) with at least two classes, "
            f"got {raw.shape}"
        )
    whole = raw.dtype.kind in "iu" or (
        raw.dtype.kind == "f" and np.all((raw == np.floor(raw)) & (abs(raw) < 2**63))
    )
    if not whole:
        raise ValueError(f"{name} must be whole numbers, got {raw.dtype} values")
    votes = raw.astype(np.int64, copy=False)
    # Unsigned, a negative count exceeds all others: one pass over the memory finds
    # the top class, negative counts and images without votes.
    top = np.argmax(votes.view(np.uint64), axis=1)
    most = votes_of(votes, top)
    if np.any(most < 0):
        raise ValueError(f"{name} must not be negative, got {votes.min()}")
    empty = np.flatnonzero(most < 1)
    if len(empty):
        raise ValueError(f"{name} has no votes for image {empty[0]}")
    return votes, top
