"""A noise level for each input by gradient ascent (DDRS), to compare with a search."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softmax

from lipsmooth.noise import NoiseStream
from lipsmooth.sampling import check_settings
from lipsmooth.voting import Classifier, device_of, evaluating


def ascend_noise_level(
    base_classifier: Classifier,
    x: Tensor,
    *,
    sigma: float,
    bounds: tuple[float, float],
    learning_rate: float,
    steps: int,
    n: int,
    seed: int,
    indices: Sequence[int] | None = None,
    clip: float = 0.02,
) -> NDArray[np.float64]:
    """Climb the radius of the soft smoothed classifier, image by image, in σ.

    Parameters
    ----------
    base_classifier : callable
        Differentiable, from images to scores; see `lipsmooth.sampling.count_votes`.
    x : Tensor, shape (images, ...)
        The images.
    sigma : float
        Noise level at which all images start.
    bounds : tuple of float
        Smallest and largest noise level; the ascent does not leave them.
    learning_rate : float
        Positive. The published code has 0.0001 for images in [0, 1].
    steps, n : int
        Gradient steps, and noise samples per image in each: sample numbers
        ``step * n`` to ``(step + 1) * n - 1``.
    seed : int
        Of the noise.
    indices : sequence of int, optional
        Numbers of the images, 0, 1, … by default; the noise depends on them.
    clip : float
        Mean probabilities are kept within [clip, 1 - clip], as published: there Φ⁻¹ has
        a finite slope. A clipped radius grows in proportion to σ.

    Returns
    -------
    ndarray, shape (images,)
        A noise level for each image, for `lipsmooth.noise_level.certify_noise_level`
        with ``start`` at least ``steps * n``.

    Raises
    ------
    ValueError
        If an argument is out of range, or a score is not finite.

    Notes
    -----
    Guarantee: none, and the certificate needs none: see `lipsmooth.noise_level`. What
    is climbed is ``σ/2 (Φ⁻¹(p₁) - Φ⁻¹(p₂))`` with the two largest mean softmax scores,
    whichever classes they belong to, a stand-in for the votes that are certified.

    References
    ----------
    Alfarra, Bibi, Torr and Ghanem (2022), Algorithm 1.
    """
    check_settings(sigma=sigma, steps=steps, n=n)
    low, high = bounds
    if not 0 < low <= sigma <= high < np.inf:
        raise ValueError(f"bounds must hold sigma = {sigma:g}, got {bounds}")
    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    if not 0 < clip < 0.5:
        raise ValueError(f"clip must lie in (0, 0.5), got {clip}")
    images = x.to(device_of(base_classifier, x))
    numbers = range(len(images)) if indices is None else indices
    streams = [
        NoiseStream(image.shape, seed=seed, index=int(i), device=images.device)
        for i, image in zip(numbers, images, strict=True)
    ]
    levels = torch.full((len(images),), float(sigma), device=images.device)
    normal = torch.distributions.Normal(0, 1)
    with evaluating(base_classifier):
        for step in range(steps):
            noise = torch.stack([s.take(step * n, (step + 1) * n) for s in streams])
            levels.requires_grad_()
            spread = levels.view(-1, *[1] * (noise.ndim - 1))
            noisy = images[:, None] + spread * noise
            scores = softmax(base_classifier(noisy.flatten(0, 1)), dim=1)
            mean = scores.unflatten(0, (len(images), n)).mean(dim=1)
            first, second = mean.topk(2, dim=1).values.clamp(clip, 1 - clip).unbind(1)
            radius = levels / 2 * (normal.icdf(first) - normal.icdf(second))
            (slope,) = torch.autograd.grad(radius.sum(), levels)
            if not slope.isfinite().all():
                raise ValueError("the base classifier's scores must be finite")
            levels = (levels.detach() + learning_rate * slope).clamp(low, high)
    return levels.double().cpu().numpy()
