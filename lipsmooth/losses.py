"""What a base classifier can be trained for: losses on noisy copies of an image.

Each draws its Gaussian noise from the generator it is given, adds it to pixels in
[0, 1] and does not clip it, as smoothing will. Scores are (copies, batch, classes).
"""

from collections.abc import Callable
from math import log
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, softmax
from torch.special import ndtri

from lipsmooth.adversarial import (
    adversarial_images,
    closest_adversarial_images,
    copies_scores,
    soft_cross_entropy,
    warmed,
)

FLOOR = 1e-20
"""Smallest score that MACER tells from 0, 9.3 standard deviations out: Φ⁻¹ is then
finite, and so is its gradient."""


class Loss(NamedTuple):
    """What one batch gives.

    Attributes
    ----------
    value : Tensor
        The loss, a scalar that can be differentiated.
    hits : Tensor
        Number of images classified right, an average over their noisy copies.
    """

    value: Tensor
    hits: Tensor


def gaussian(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    sigma: float,
    generator: torch.Generator,
    copies: int = 1,
) -> Loss:
    """Cross-entropy on noisy images: Gaussian augmentation.

    Parameters
    ----------
    model : nn.Module
        From images to logits (batch, classes).
    x : Tensor, shape (batch, C, H, W)
        Images in [0, 1].
    y : Tensor of int, shape (batch,)
        Labels.
    sigma : float
        Standard deviation of the noise.
    generator : torch.Generator
        On the device of ``x``; the noise of the batch is the next it gives.
    copies : int
        Noisy copies of each image in a step.

    Returns
    -------
    Loss

    References
    ----------
    Cohen, Rosenfeld and Kolter (2019), section 3.3.
    """
    return _plain(model, x + _noise(x, sigma, copies, generator), y)


def consistency(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    sigma: float,
    generator: torch.Generator,
    copies: int = 2,
    weight: float = 10.0,
    entropy: float = 0.5,
) -> Loss:
    """Gaussian augmentation, and a price for answers that change with the noise.

    With F_i the softmax scores of copy i and F̄ their mean, the price is
    λ · mean KL(F̄ ‖ F_i) + η · H(F̄).

    Parameters
    ----------
    model, x, y, sigma, generator
        As for `gaussian`.
    copies : int
        Noisy copies m of each image. With one the divergence is 0.
    weight, entropy : float
        λ and η, at least 0. The source has η = 0.5 and λ from 5 to 20.

    Returns
    -------
    Loss

    References
    ----------
    Jeong and Shin (2020), *Consistency regularization for certified robustness of
    smoothed classifiers*, section 3.
    """
    scores = copies_scores(model, x + _noise(x, sigma, copies, generator))
    logs = log_softmax(scores, dim=-1)
    mean_log = logs.logsumexp(dim=0) - log(copies)
    mean = mean_log.exp()
    divergence = (mean * (mean_log - logs)).sum(dim=-1).mean()
    spread = -(mean * mean_log).sum(dim=-1).mean()
    value = _cross_entropy(scores, y) + weight * divergence + entropy * spread
    return Loss(value, _hits(scores, y))


def macer(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    sigma: float,
    generator: torch.Generator,
    copies: int = 16,
    weight: float = 12.0,
    inverse_temperature: float = 16.0,
    margin: float = 8.0,
) -> Loss:
    """Log-likelihood of the smoothed scores, and a hinge on their certified radius.

    With z the mean over the copies of softmax(β · logits), an image that z gets right
    pays λ σ/2 · max(γ − ξ, 0), where ξ = Φ⁻¹(z_y) − Φ⁻¹(max of the rivals) and σ ξ / 2
    is the radius of the soft classifier. An image that z gets wrong pays nothing here:
    it has no radius to enlarge.

    Parameters
    ----------
    model, x, y, sigma, generator
        As for `gaussian`.
    copies : int
        Noisy copies k of each image.
    weight : float
        λ, at least 0.
    inverse_temperature : float
        β, positive: it *multiplies* the logits, in the hinge only.
    margin : float
        γ, at least 0: an image whose ξ exceeds it is left alone.

    Returns
    -------
    Loss

    Notes
    -----
    The upper tail is computed as −Φ⁻¹(1 − z_y) with 1 − z_y summed from the rivals, so
    that a score close to 1 keeps its digits in float32.

    References
    ----------
    Zhai et al. (2020), *MACER*, algorithm 1.
    """
    scores = copies_scores(model, x + _noise(x, sigma, copies, generator))
    value = soft_cross_entropy(scores, y)
    soft = softmax(inverse_temperature * scores, dim=-1).mean(dim=0)
    own = torch.zeros_like(soft, dtype=torch.bool).scatter_(1, y[:, None], True)
    rivals = soft.masked_fill(own, 0)
    xi = -_quantile(rivals.sum(dim=1)) - _quantile(rivals.amax(dim=1))
    hinge = (margin - xi).clamp(min=0) * (soft.detach().argmax(dim=1) == y)
    return Loss(value + weight * sigma / 2 * hinge.mean(), _hits(scores, y))


def smoothadv(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    sigma: float,
    generator: torch.Generator,
    copies: int = 2,
    radius: float = 0.5,
    steps: int = 2,
    warmup: int = 0,
    epoch: int = 0,
) -> Loss:
    """Gaussian augmentation around an image that attacks the smoothed classifier.

    The attack is `lipsmooth.adversarial.adversarial_images`.

    Parameters
    ----------
    model, x, y, sigma, generator
        As for `gaussian`.
    copies : int
        Noise samples m. The attack averages over them and the training step uses the
        same ones: the attack has to defeat the noise that will be learnt from.
    radius : float
        L2 distance the attack may go, at least 0.
    steps : int
        Of the attack.
    warmup : int
        Epochs over which the radius grows, see `lipsmooth.adversarial.warmed`.
    epoch : int
        Number of this one, from 0. The trainer gives it.

    Returns
    -------
    Loss

    References
    ----------
    Salman et al. (2019), *Provably robust deep learning via adversarially trained
    smoothed classifiers*, sections 2.2 and 3; the warm-up is in their code.
    """
    noise = _noise(x, sigma, copies, generator)
    reach = warmed(radius, warmup, epoch)
    attacked = adversarial_images(model, x, y, noise, radius=reach, steps=steps)
    return _plain(model, attacked + noise, y)


def smoothadv_ddn(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    sigma: float,
    generator: torch.Generator,
    copies: int = 2,
    radius: float = 0.5,
    steps: int = 4,
    warmup: int = 0,
    epoch: int = 0,
) -> Loss:
    """Gaussian augmentation around the nearest image that is answered wrongly.

    The attack is `lipsmooth.adversarial.closest_adversarial_images`; images that are
    wrong already, or out of its reach, it leaves alone.

    Parameters
    ----------
    model, x, y, sigma, generator
        As for `gaussian`.
    copies, warmup, epoch
        As for `smoothadv`.
    radius : float
        L2 distance at which the attack begins, and the largest it may end at.
    steps : int
        Of the attack. The first looks at the image itself: with one this is `gaussian`.

    Returns
    -------
    Loss

    References
    ----------
    Salman et al. (2019), with the attack of Rony et al. (2019).
    """
    noise = _noise(x, sigma, copies, generator)
    reach = warmed(radius, warmup, epoch)
    attacked = closest_adversarial_images(model, x, y, noise, radius=reach, steps=steps)
    return _plain(model, attacked + noise, y)


def _noise(x: Tensor, sigma: float, copies: int, generator: torch.Generator) -> Tensor:
    noise = torch.empty((copies, *x.shape), dtype=x.dtype, device=x.device)
    return sigma * noise.normal_(generator=generator)


def _plain(model: nn.Module, copies: Tensor, y: Tensor) -> Loss:
    scores = copies_scores(model, copies)
    return Loss(_cross_entropy(scores, y), _hits(scores, y))


def _cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(scores.flatten(0, 1), y.repeat(len(scores)))


def _hits(scores: Tensor, y: Tensor) -> Tensor:
    return (scores.detach().argmax(dim=-1) == y).sum() / len(scores)


def _quantile(probability: Tensor) -> Tensor:
    return ndtri(probability.clamp(min=FLOOR, max=1 - 1e-6))


LOSSES: dict[str, Callable[..., Loss]] = {
    "gaussian": gaussian,
    "consistency": consistency,
    "macer": macer,
    "smoothadv": smoothadv,
    "smoothadv-ddn": smoothadv_ddn,
}
"""Losses by the name that the trainer and the command line know them by."""
