"""The accuracy that attacks leave: an upper bound for robust accuracy.

A certificate bounds robust accuracy from below, an attack from above, and only if it is
decided soundly that an attacked image is no longer given its class.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc
from torch import Tensor

from lipsmooth.intervals import check_alpha
from lipsmooth.noise import NoiseStream
from lipsmooth.sampling import check_settings
from lipsmooth.voting import Classifier, Segment, count_segments, device_of


def outvoted(counts: ArrayLike, y: ArrayLike, *, alpha: float) -> NDArray[np.bool_]:
    """Tell where some class has significantly more votes than class ``y``.

    Parameters
    ----------
    counts : array_like of int, shape (images, classes)
        Votes, each row from samples that had no part in finding the image.
    y : array_like of int, shape (images,)
        The class that is challenged.
    alpha : float
        Probability of a false alarm per image, in (0, 1).

    Returns
    -------
    ndarray of bool, shape (images,)

    Raises
    ------
    ValueError
        If shapes do not fit, a count is negative, or ``alpha`` is not in (0, 1).

    Notes
    -----
    Guarantee: where the smoothed classifier's prediction *is* ``y``, the answer is True
    with probability at most ``alpha``. Each rival's share of the votes that it and
    ``y`` have together is at most one half then; the exact binomial test of that is
    made at ``alpha / (classes - 1)`` for the rival with most votes.
    """
    votes, own = np.asarray(counts), np.asarray(y)
    if votes.ndim != 2 or votes.shape[1] < 2 or own.shape != votes.shape[:1]:
        raise ValueError(
            f"counts has shape {votes.shape} and y {own.shape}; (images, classes) and "
            "(images,) are needed"
        )
    if np.any(votes < 0):
        raise ValueError(f"counts must not be negative, got {votes.min()}")
    level = check_alpha(alpha) / (votes.shape[1] - 1)
    mine = np.take_along_axis(votes, own[:, np.newaxis], axis=1)[:, 0]
    others = votes.copy()
    np.put_along_axis(others, own[:, np.newaxis], 0, axis=1)
    rival = others.max(axis=1)
    # P(X >= rival) for X ~ Binomial(rival + mine, 1/2)
    tail = np.where(rival > 0, betainc(np.maximum(rival, 1), mine + 1, 0.5), 1.0)
    return tail <= level


def outvoted_at(
    base_classifier: Classifier,
    x: Tensor,
    y: ArrayLike,
    *,
    sigma: float,
    n: int,
    seed: int,
    alpha: float,
    indices: Sequence[int] | None = None,
    batch_size: int = 1000,
) -> NDArray[np.bool_]:
    """Draw votes at attacked images, and tell with `outvoted` where ``y`` has lost.

    Parameters
    ----------
    base_classifier, x, y, sigma, indices, batch_size
        See `lipsmooth.attack.attack_smoothed`; ``sigma`` is positive.
    n, seed : int
        Votes per image, and the seed of their noise: another one than the attack's, for
        the attack has chosen its images by looking at its own noise.
    alpha : float
        See `outvoted`.

    Returns
    -------
    ndarray of bool, shape (images,)

    Raises
    ------
    ValueError
        If an argument is out of range, or a score is not finite.
    """
    check_settings(sigma=sigma, n=n, batch_size=batch_size)
    numbers = range(len(x)) if indices is None else indices
    place = device_of(base_classifier, x)
    segments = [
        Segment(
            image, NoiseStream(image.shape, seed=seed, index=int(i), device=place), 0, n
        )
        for i, image in zip(numbers, x.to(place), strict=True)
    ]
    counts = count_segments(
        base_classifier, segments, sigma=sigma, batch_size=batch_size
    )
    return outvoted(counts, y, alpha=alpha)


def broken_radii(
    attack: Callable[..., Tensor],
    judge: Callable[..., NDArray[np.bool_]],
    x: Tensor,
    y: ArrayLike,
    *,
    radii: Sequence[float],
    alpha: float,
    indices: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Attack images at growing radii; return the first at which each is broken.

    Parameters
    ----------
    attack : callable
        Called as ``attack(x, y, radius=…, indices=…)``, such as
        `lipsmooth.attack.attack_smoothed` with the rest filled in by
        ``functools.partial``.
    judge : callable
        Called as ``judge(x, y, indices=…, alpha=…)``, tells which images are *not*
        given class ``y``, and is wrong about one that is with probability at most
        ``alpha``: `outvoted_at`, or for other classifiers a rule of their own.
    x : Tensor, shape (images, ...)
        The images.
    y : array_like of int, shape (images,)
        Their classes.
    radii : sequence of float
        Increasing, at least 0. An image that is broken is not attacked again. At 0 the
        image itself is judged.
    alpha : float
        Probability, in (0, 1), of calling an image broken that is not broken at any
        radius; shared out equally over the radii.
    indices : sequence of int, optional
        Numbers of the images, 0, 1, … by default.

    Returns
    -------
    ndarray, shape (images,)
        A radius, or infinity: the true distance to another answer is at most this with
        probability at least ``1 - alpha``. The share of images for which it exceeds
        ``r`` bounds the robust accuracy at ``r`` from above, but for false alarms: on
        average at most ``alpha`` of the images. See `empirical_accuracy`.

    Raises
    ------
    ValueError
        If ``radii`` do not increase, or as for ``attack`` and ``judge``.
    """
    reach = np.asarray(radii, dtype=float)
    rising = reach.ndim == 1 and len(reach) and np.all(np.diff(reach) > 0)
    if not rising or not reach[0] >= 0:
        raise ValueError(f"radii must increase from at least 0, got {radii}")
    level, labels = float(check_alpha(alpha)) / len(reach), np.asarray(y)
    numbers = np.arange(len(x)) if indices is None else np.asarray(indices)
    found = np.full(len(x), np.inf)
    for radius in reach:
        left = np.flatnonzero(np.isinf(found))
        if not len(left):
            break
        images, own = x[left], {"indices": numbers[left]}
        if radius > 0:
            images = attack(images, labels[left], radius=radius, **own)
        fallen = judge(images, labels[left], alpha=level, **own)
        found[left[fallen]] = radius
    return found


def empirical_accuracy(broken: ArrayLike, at: ArrayLike) -> NDArray[np.float64]:
    """Return the share of images that no attack broke within radius ``at``.

    Parameters
    ----------
    broken : array_like, shape (images,) or (attacks, images)
        Results of `broken_radii`; of several attacks the best one counts,
        and their ``alpha`` add up.
    at : array_like
        Radii, any shape.

    Returns
    -------
    ndarray, the shape of at
        An upper bound for robust accuracy, up to the false alarms of the judge, where
        certified accuracy is a lower one.

    Raises
    ------
    ValueError
        If there is no image, or a radius is NaN.
    """
    distances = np.atleast_2d(np.asarray(broken, dtype=float)).min(axis=0)
    if not distances.size or np.any(np.isnan(distances)):
        raise ValueError("broken must hold a radius, or infinity, for each image")
    fallen = np.searchsorted(np.sort(distances), np.asarray(at, float), side="right")
    return 1 - fallen / len(distances)
