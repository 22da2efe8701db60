"""Attacks on a smoothed classifier, and the accuracy that they leave.

A certificate bounds robust accuracy from below, an attack bounds it from above.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc
from torch import Tensor
from torch.nn.functional import log_softmax

from lipsmooth.intervals import check_alpha
from lipsmooth.noise import NoiseStream
from lipsmooth.sampling import check_settings
from lipsmooth.voting import Classifier, Segment, count_segments, device_of, evaluating


def attack_smoothed(
    base_classifier: Classifier,
    x: Tensor,
    y: ArrayLike,
    *,
    sigma: float,
    radius: ArrayLike,
    steps: int = 20,
    noise_samples: int = 16,
    seed: int,
    indices: Sequence[int] | None = None,
    step_size: float = 0.2,
    bounds: tuple[float, float] | None = None,
    batch_size: int = 1000,
) -> Tensor:
    """Look for a perturbation that changes a smoothed classifier's answer (PGD, L2).

    Votes have no gradient. So each step averages the *softmax* scores of noisy copies,
    goes in the direction in which the logarithm of class ``y``'s average falls fastest,
    and returns to the ball.

    Parameters
    ----------
    base_classifier : callable
        Differentiable; see `lipsmooth.sampling.count_votes`. It is attacked in
        evaluation mode; gradients of its weights are neither needed nor kept.
    x : Tensor, shape (images, *shape)
        The images.
    y : array_like of int, shape (images,)
        The class that each image is to be driven away from: its label, or the class
        that was certified.
    sigma : float
        Standard deviation of the smoothing noise; 0 attacks the base classifier.
    radius : array_like, shape () or (images,)
        How far an image may move, in the units of ``x``, at least 0.
    steps, noise_samples : int
        Gradient steps, and noise samples per image in each step. The samples of a step
        are fresh, numbered ``step * noise_samples`` and up.
    seed : int
        Of the noise.
    indices : sequence of int, optional
        Numbers of the images, 0, 1, … by default; the noise depends on them.
    step_size : float
        Length of the first step, as a share of the radius. Later steps shrink
        linearly, so that the walk settles.
    bounds : tuple of float, optional
        Smallest and largest value of a pixel that the attacker may use. By default
        none: a certificate speaks about the whole ball.
    batch_size : int
        Noisy copies in one forward pass; the result depends on it only by rounding.

    Returns
    -------
    Tensor, shape of x
        Attacked images, each within its radius of the original, up to rounding.

    Raises
    ------
    ValueError
        If an argument is out of range, shapes do not fit, or a score is not finite.

    References
    ----------
    Madry et al. (2018) for PGD; Salman et al. (2019), Section 2.2, for the soft
    smoothed classifier, whose gradient this is.
    """
    check_settings(sigma=sigma or 1.0, steps=steps, noise_samples=noise_samples)
    if not (np.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size must be positive, got {step_size}")
    images = x.to(device_of(base_classifier, x))
    labels = torch.as_tensor(np.asarray(y), device=images.device)
    if labels.shape != (len(images),):
        raise ValueError(f"y has shape {tuple(labels.shape)} for {len(images)} images")
    reach = torch.as_tensor(np.asarray(radius, dtype=np.float32), device=images.device)
    if reach.shape not in ((), labels.shape) or not (reach >= 0).all():
        raise ValueError(f"radius must be at least 0, one or per image, got {radius}")
    reach = reach.expand(len(images)).to(images.dtype)
    numbers = np.arange(len(images)) if indices is None else np.asarray(indices)
    if len(numbers) != len(images):
        raise ValueError(f"{len(numbers)} indices for {len(images)} images")
    together = max(1, batch_size // noise_samples)
    parts = []
    for rows in torch.arange(len(images)).split(together):
        streams = [
            NoiseStream(x.shape[1:], seed=seed, index=int(i), device=images.device)
            for i in numbers[rows.numpy()]
        ]
        start, end = images[rows], reach[rows].view(-1, *[1] * (x.ndim - 1))
        delta = torch.zeros_like(start)
        for step in range(steps):
            samples = step * noise_samples, (step + 1) * noise_samples
            noise = sigma * torch.stack([stream.take(*samples) for stream in streams])
            slope = _ascent(base_classifier, start + delta, labels[rows], noise)
            size = step_size * end * (1 - step / steps)
            delta = delta + size * slope / lengths(slope).clamp_min(1e-30)
            delta = delta * (end / lengths(delta).clamp_min(1e-30)).clamp_max(1)
            if bounds is not None:
                delta = (start + delta).clamp(*bounds) - start
        parts.append(start + delta)
    return torch.cat(parts)


def _ascent(model: Classifier, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """Return the gradient of −log of the mean softmax score of ``y``."""
    at = x.detach().requires_grad_()
    with evaluating(model):
        scores = model((at[:, None] + noise.to(at.dtype)).flatten(0, 1))
    own = log_softmax(scores, dim=1).unflatten(0, noise.shape[:2])
    # Of logarithms, for the mean of tiny probabilities must not round to zero.
    own = own.take_along_dim(y.view(-1, 1, 1), dim=2)[..., 0]
    (slope,) = torch.autograd.grad(-own.logsumexp(dim=1).sum(), at)
    if not slope.isfinite().all():
        raise ValueError("the base classifier's scores must be finite")
    return slope


def lengths(v: Tensor) -> Tensor:
    """Return L2 lengths of perturbations, shaped so that they divide them."""
    return v.flatten(1).norm(dim=1).view(-1, *[1] * (v.ndim - 1))


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


def broken_radii(
    base_classifier: Classifier,
    x: Tensor,
    y: ArrayLike,
    *,
    sigma: float,
    radii: Sequence[float],
    votes: int,
    alpha: float,
    seed: int,
    indices: Sequence[int] | None = None,
    batch_size: int = 1000,
    **settings,
) -> NDArray[np.float64]:
    """Attack images at growing radii; return the first at which each is broken.

    Parameters
    ----------
    base_classifier, x, y, sigma, seed, indices, batch_size
        See `attack_smoothed`; ``sigma`` is positive.
    radii : sequence of float
        Increasing, at least 0. An image that is broken is not attacked again. At 0 the
        image itself is judged.
    votes : int
        Votes at each attacked image, from noise that the attack has not seen.
    alpha : float
        Probability, in (0, 1), of calling an image broken that is not broken at any
        radius; shared out equally over the radii.
    **settings
        ``steps``, ``noise_samples``, ``step_size``, ``bounds`` of `attack_smoothed`.

    Returns
    -------
    ndarray, shape (images,)
        A radius, or infinity: the true distance to another answer is at most this with
        probability at least ``1 - alpha``. The share of images for which it exceeds
        ``r`` bounds the robust accuracy at ``r`` from above, see `empirical_accuracy`.

    Raises
    ------
    ValueError
        If ``radii`` do not increase, or as for `attack_smoothed`.
    """
    reach = np.asarray(radii, dtype=float)
    rising = reach.ndim == 1 and len(reach) and np.all(np.diff(reach) > 0)
    if not rising or not reach[0] >= 0:
        raise ValueError(f"radii must increase from at least 0, got {radii}")
    check_settings(sigma=sigma, votes=votes)
    labels = np.asarray(y)
    numbers = np.arange(len(x)) if indices is None else np.asarray(indices)
    place = device_of(base_classifier, x)
    found = np.full(len(x), np.inf)
    for radius in reach:
        left = np.flatnonzero(np.isinf(found))
        if not len(left):
            break
        attacked = x[left].to(place)
        if radius > 0:
            attacked = attack_smoothed(
                base_classifier, attacked, labels[left], sigma=sigma, radius=radius,
                seed=seed, indices=numbers[left], batch_size=batch_size, **settings,
            )  # fmt: skip
        # Another seed: the attack has chosen its images by looking at the first.
        streams = (
            NoiseStream(x.shape[1:], seed=seed + 1, index=int(i), device=place)
            for i in numbers[left]
        )
        segments = [
            Segment(image, stream, 0, votes)
            for image, stream in zip(attacked, streams, strict=True)
        ]
        counts = count_segments(
            base_classifier, segments, sigma=sigma, batch_size=batch_size
        )
        fallen = outvoted(counts, labels[left], alpha=alpha / len(reach))
        found[left[fallen]] = radius
    return found


def empirical_accuracy(broken: ArrayLike, at: ArrayLike) -> NDArray[np.float64]:
    """Return the share of images that no attack broke within radius ``at``.

    Parameters
    ----------
    broken : array_like, shape (images,) or (attacks, images)
        Results of `broken_radii`; of several attacks the best one counts.
    at : array_like
        Radii, any shape.

    Returns
    -------
    ndarray, the shape of at
        An upper bound for robust accuracy, where certified accuracy is a lower one.

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
