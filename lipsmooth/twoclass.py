"""Two classes with a known truth: scores, exact means and simulated moments.

With two classes a simplex map depends on the logits through their margin alone, and in
closed form. If the margin of a noisy copy takes finitely many values, the mean score of
every map is a finite sum, and moments of ``n`` samples follow from how many of them
fell on each value: one multinomial draw gives the moments of all maps, exactly as a
network would have given them. Certificates can then be judged against the truth.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

Array = NDArray[np.float64]
Map = tuple[str, float]

PUBLISHED_MAPS: tuple[Map, ...] = tuple(
    (name, 1 / inverse)
    for name in ("sparsemax", "softmax")
    for inverse in (1.0, *np.linspace(0.1, 50, 100), 1e7)
)
"""The 204 maps of Delattre et al. (2024): inverse temperatures 0.1 to 50, 1 and 1e7.

:meta hide-value:
"""


def two_class_scores(margin: ArrayLike, maps: Sequence[Map]) -> Array:
    """Score of class 0 from the margin of its logit over that of class 1.

    Parameters
    ----------
    margin : array_like
        Values of ``z_0 - z_1``.
    maps : sequence of (name, temperature)
        ``"softmax"``, ``"sparsemax"`` or ``"hardmax"``; the temperature divides the
        logits. A tie of hard votes goes to class 0.

    Returns
    -------
    ndarray, shape (maps, *margin.shape)
        Class 1 has the rest of 1.

    Raises
    ------
    ValueError
        If a map is unknown, a temperature not positive or a margin NaN.

    References
    ----------
    Martins and Astudillo (2016) for sparsemax.
    """
    gap = np.asarray(margin, dtype=float)
    if np.any(np.isnan(gap)):
        raise ValueError("margin must not be NaN")
    rows = []
    for name, temperature in maps:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if name == "softmax":
            rows.append(expit(gap / temperature))
        elif name == "sparsemax":
            rows.append(np.clip(0.5 + gap / (2 * temperature), 0, 1))
        elif name == "hardmax":
            rows.append((gap >= 0).astype(float))
        else:
            raise ValueError(f"map must be softmax, sparsemax or hardmax, got {name!r}")
    return np.stack(rows)


def moments_of_counts(counts: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    """Moments of the scores of both classes when each value occurred so often.

    Parameters
    ----------
    counts : array_like of int, shape (images, values)
        How many of an image's samples had each margin; a common total of at least 2.
    scores : array_like, shape (maps, values)
        From `two_class_scores`.

    Returns
    -------
    mean, variance : ndarray, shape (images, maps, 2)
        Averages and unbiased variances over all samples of an image.

    Raises
    ------
    ValueError
        If shapes do not fit, or totals differ or are below 2.
    """
    votes, table = np.asarray(counts, dtype=float), np.asarray(scores, dtype=float)
    if votes.ndim != 2 or table.ndim != 2 or votes.shape[1] != table.shape[1]:
        raise ValueError(
            "counts and scores must have shapes (images, values) and (maps, values), "
            f"got {votes.shape} and {table.shape}"
        )
    total = votes.sum(axis=1)
    if np.any(total != total[0]) or total[0] < 2:
        raise ValueError(f"counts must share one total of at least 2, got {total}")
    # Around a common centre, so that small variances keep their digits.
    centre = table @ (votes.sum(axis=0) / votes.sum())
    away = table - centre[:, np.newaxis]
    shift = votes @ away.T / total[0]
    squares = votes @ (away**2).T - total[0] * shift**2
    mean = np.clip(centre + shift, 0, 1)
    variance = np.maximum(squares, 0) / (total[0] - 1)
    return np.stack([mean, 1 - mean], axis=-1), np.stack([variance] * 2, axis=-1)


def draw_moments(
    margins: ArrayLike,
    p: ArrayLike,
    maps: Sequence[Map],
    *,
    n: int,
    images: int,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Draw moments of ``n`` samples, for independent images with one law of margins.

    Parameters
    ----------
    margins, p : array_like, shape (values,)
        The margins that a noisy copy can have, and their probabilities.
    maps : sequence of (name, temperature)
        See `two_class_scores`.
    n, images : int
        Samples per image, and images.
    rng : Generator

    Returns
    -------
    mean, variance : ndarray, shape (images, maps, 2)
        As from `moments_of_counts`. All maps of an image share its samples.

    Raises
    ------
    ValueError
        As for the functions that it calls.
    """
    counts = rng.multinomial(n, np.asarray(p, dtype=float), size=images)
    return moments_of_counts(counts, two_class_scores(margins, maps))


def true_means(margins: ArrayLike, p: ArrayLike, maps: Sequence[Map]) -> Array:
    """Exact mean scores of both classes, shape (maps, 2)."""
    mean = two_class_scores(margins, maps) @ np.asarray(p, dtype=float)
    return np.stack([mean, 1 - mean], axis=-1)
