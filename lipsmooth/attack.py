"""Attacks on a smoothed classifier: gradients of an average over the noise."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import log_softmax

from lipsmooth.noise import NoiseStream
from lipsmooth.sampling import check_settings
from lipsmooth.voting import Classifier, device_of, evaluating


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
    path_length: float = 2.5,
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
    x : Tensor, shape (images, ...)
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
    path_length : float
        Length of all steps together, in radii. They shrink linearly: the walk gets to
        the surface in time, and settles.
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
    if not (np.isfinite(path_length) and path_length > 0):
        raise ValueError(f"path_length must be positive, got {path_length}")
    images = x.to(device_of(base_classifier, x))
    labels = torch.tensor(np.array(y), device=images.device)
    if labels.shape != (len(images),):
        raise ValueError(f"y has shape {tuple(labels.shape)} for {len(images)} images")
    reach = torch.tensor(np.array(radius, dtype=np.float32), device=images.device)
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
            size = 2 * path_length * (steps - step) / (steps * (steps + 1)) * end
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
