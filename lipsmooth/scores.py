"""From score moments, or raw scores, to a prediction and a certified radius (LVM-RS).

A *map* turns logits into scores in [0, 1], one per class: a simplex map at one
temperature, or the hard vote. The smoothed classifier averages the scores of noisy
copies. **The map is part of that classifier**, so there are two promises, and they
must not be mistaken for one another.

For the deployed classifier
    One map serves every input, and a certificate says that the classifier keeps its
    prediction in the whole ball: everything in this module, with `choose_map` once
    per model and noise level, on held-out images.
Per input
    The map was chosen for this input. A certificate then speaks about the classifier
    with *that* map. At another point of the ball the deployed rule may choose another
    map and predict another class: `lipsmooth.perinput`, for comparison only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipsmooth.certify import Certificates
from lipsmooth.intervals import betting
from lipsmooth.scorebounds import (
    certificates,
    check_level,
    check_moments,
    check_noise,
    check_range,
    check_simplex,
    check_strategy,
    predicted_radius,
    score_bounds,
    spend,
)

Array = NDArray[np.float64]

_TIE = 1e-9  # expected radii closer than this are equal, whatever the processor


class MapChoice(NamedTuple):
    """One map for all inputs: its number, and what each map promises on average."""

    index: int
    expected_acr: Array


def certify_scores(
    mean_selection: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    n: int,
    *,
    sigma: ArrayLike,
    alpha: float,
    lipschitz: ArrayLike = np.inf,
    strategy: str = "lvmrs",
    bound: str = "bernstein",
    variance_selection: ArrayLike | None = None,
) -> Certificates:
    """Certify a batch of images from the moments of the scores of one map.

    The selection samples name the class; bounds on the mean scores come from the
    estimation samples, which must be others.

    Parameters
    ----------
    mean_selection, mean : array_like, shape (images, classes)
        Average scores over the selection and the estimation samples. Ties in the
        selection go to the smallest class.
    variance : array_like, shape (images, classes)
        Unbiased variances over *all* ``n`` estimation samples.
    n : int
        Number of estimation samples, at least 2 and fixed beforehand.
    sigma : array_like, shape () or (images,)
        Standard deviation of the noise, in the units of the input.
    alpha : float
        Total failure probability per image, in (0, 1).
    lipschitz : array_like, shape () or (images,)
        A Lipschitz constant of *each score* as a function of the input, the map
        included; infinite if none is known. Then the radius is
        `lipsmooth.radii.radius_multi_exact`.
    strategy : str
        How ``alpha`` is spent:

        ``"lvmrs"``
            half on the selected class, half on the largest upper bound of a rival.
        ``"mono"``
            all of it on the selected class; rivals get the rest of 1. Of two classes
            the second tells nothing that the first does not, and this is better.
        ``"planned"``
            per image the one of these two that promises the larger radius, judged by
            the selection samples alone, which needs ``variance_selection``. The
            classifier is the same either way, so the promise is, too.
    bound : str
        ``"bernstein"``, ``"hoeffding"``, or for hard votes ``"clopper-pearson"``,
        which is tighter there; see `lipsmooth.scorebounds.score_bounds`.
    variance_selection : array_like, shape (images, classes), optional
        Unbiased variances over the selection samples.

    Returns
    -------
    Certificates
        Prediction, radius and bounds per image.

    Raises
    ------
    ValueError
        If a moment is NaN or out of range, shapes differ, scores do not sum to 1
        where the strategy needs it, ``n < 2``, or another argument is invalid.

    Notes
    -----
    Guarantee: let the map be fixed without looking at these samples. For each image,
    with probability at least ``1 - alpha`` over the estimation samples, either the
    prediction is `ABSTAIN` or the smoothed classifier *with this map* returns the
    prediction everywhere in the open L2 ball. If the map is the same for every input,
    that classifier is the deployed one; if not, the promise is the weaker one, per
    input. The true strongest rival is one fixed class and the largest upper bound is
    at least that class's, so no union over classes is needed (Berger 1982).

    References
    ----------
    Delattre et al. (2024) for the scores and the bound. Their procedure chooses map
    and class on the samples that it certifies with, and has no such guarantee.
    """
    average, spread = check_moments("", mean, variance, axes=("images", "classes"))
    first = check_range("mean_selection", mean_selection)
    if first.shape != average.shape:
        raise ValueError(
            f"mean_selection has shape {first.shape}, mean {average.shape}"
        )
    noise, level = check_noise(sigma, len(average)), check_level(alpha)
    if check_strategy(strategy) != "lvmrs":
        check_simplex(average)
    top = np.argmax(first, axis=-1)
    alone = np.full(len(first), strategy == "mono")
    if strategy == "planned":
        if variance_selection is None:
            raise ValueError("strategy 'planned' needs variance_selection")
        guess = check_moments(
            "_selection", first, variance_selection, axes=("images", "classes")
        )
        promised = [
            predicted_radius(*guess, n, sigma=noise, alpha=level, lipschitz=lipschitz,
                             strategy=plan, bound=bound)
            for plan in ("lvmrs", "mono")
        ]  # fmt: skip
        alone = promised[1] > promised[0]
    shared, own = (
        spend(average, spread, n, top, alpha=level, strategy=plan,
              bounds=score_bounds, bound=bound)
        for plan in ("lvmrs", "mono")
    )  # fmt: skip
    bounds = [np.where(alone, m, s) for s, m in zip(shared, own, strict=True)]
    return certificates(top, *bounds, sigma=noise, lipschitz=lipschitz)


def certify_score_samples(
    mean_selection: ArrayLike,
    samples: ArrayLike,
    *,
    sigma: ArrayLike,
    alpha: float,
    lipschitz: ArrayLike = np.inf,
    strategy: str = "lvmrs",
) -> Certificates:
    """Certify a batch of images from the raw scores of one map, by betting.

    Parameters
    ----------
    mean_selection : array_like, shape (images, classes)
        Average scores over the selection samples.
    samples : array_like, shape (images, n, classes)
        Estimation scores, in the order in which they were drawn.
    sigma, alpha, lipschitz
        As in `certify_scores`.
    strategy : {"lvmrs", "mono"}
        As in `certify_scores`. With ``"mono"`` one class is bounded instead of all,
        in a fraction of the time.

    Returns
    -------
    Certificates

    Raises
    ------
    ValueError
        As in `certify_scores`; a NaN among the scores raises.

    Notes
    -----
    Guarantee: that of `certify_scores`. Betting bounds (`lipsmooth.intervals.betting`)
    are tighter than empirical Bernstein, and need every score instead of two moments.
    """
    first, values = check_range("mean_selection", mean_selection), np.asarray(samples)
    if values.ndim != 3 or values.shape[::2] != first.shape or first.shape[1] < 2:
        raise ValueError(
            "samples must have shape (images, n, classes) with the images and classes "
            f"of mean_selection {first.shape}, at least two classes; got {values.shape}"
        )
    check_strategy(strategy, ("lvmrs", "mono"))
    noise, level = check_noise(sigma, len(first)), check_level(alpha)
    top, lower, upper = np.argmax(first, axis=-1), [], []
    for chosen, image in zip(top, values, strict=True):
        scores = check_range("samples", image.T)
        if strategy == "mono":
            check_simplex(scores.T)
            lower.append(betting(scores[chosen], alpha=level).lower)
            upper.append(1 - lower[-1])
        else:
            lower.append(betting(scores[chosen], alpha=level / 2).lower)
            rivals = np.delete(scores, chosen, axis=0)
            upper.append(betting(rivals, alpha=level / 2).upper.max())
    bounds = np.array(lower), np.array(upper)
    return certificates(top, *bounds, sigma=noise, lipschitz=lipschitz)


def choose_map(
    mean: ArrayLike,
    variance: ArrayLike,
    labels: ArrayLike,
    n: int,
    *,
    sigma: float,
    alpha: float,
    lipschitz: ArrayLike = np.inf,
    strategy: str = "lvmrs",
    bound: str | Sequence[str] = "bernstein",
) -> MapChoice:
    """Choose one map for a model and a noise level, on held-out images.

    Parameters
    ----------
    mean, variance : array_like, shape (images, maps, classes)
        Moments of the scores of held-out images: images on which neither the network
        was trained nor certificates will be reported.
    labels : array_like of int, shape (images,)
        Their true classes.
    n : int
        Number of samples with which certificates will be made, whatever the number
        behind these moments.
    sigma, alpha, strategy
        As in `certify_scores`, for those certificates.
    lipschitz : array_like, shape () or (maps,)
        As in `certify_scores`; each map has its own.
    bound : str or sequence of str, one per map
        As in `certify_scores`.

    Returns
    -------
    MapChoice
        ``index``: the map with the largest expected average certified radius, the
        first of those within 1e-9 of it. ``expected_acr``, shape (maps,).

    Raises
    ------
    ValueError
        As for `certify_scores`, or if a label is not a class.

    Notes
    -----
    Guarantee: none is needed. Any map may be fixed; the certificates hold for the
    classifier that it defines, as long as it is fixed before they are made. Only the
    *expectation* is optimistic, the more so the more maps and the fewer images.
    """
    axes = ("images", "maps", "classes")
    average, spread = check_moments("", mean, variance, axes=axes)
    truth = np.asarray(labels)
    if truth.shape != average.shape[:1] or truth.dtype.kind not in "iu":
        what = f"{truth.dtype} of shape {truth.shape}"
        raise ValueError(f"labels must be {len(average)} whole numbers, got {what}")
    if np.any((truth < 0) | (truth >= average.shape[2])):
        raise ValueError(f"labels must lie in [0, {average.shape[2]}), got {labels}")
    check_strategy(strategy)
    radius = predicted_radius(
        average, spread, n, sigma=check_noise(sigma, 0), alpha=check_level(alpha),
        lipschitz=lipschitz, strategy=strategy, bound=bound,
    )  # fmt: skip
    right = np.argmax(average, axis=-1) == truth[:, np.newaxis]
    expected = np.mean(np.maximum(radius, 0) * right, axis=0)
    return MapChoice(int(np.argmax(expected >= expected.max() - _TIE)), expected)
