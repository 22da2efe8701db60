"""Attacks on the soft smoothed classifier, for training: the noise is held fixed.

What is attacked is the mean, over noisy copies, of the softmax scores. Both attacks
work in evaluation mode: statistics of batch normalisations neither see the attack nor
give way to it. Attacked images stay in [0, 1] and within a radius of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import cos, log, pi

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, nll_loss

TINY = 1e-20
"""What a length is not divided by less than: of shorter vectors the float32 squares
vanish, and the direction with them."""


def adversarial_images(
    model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, *, radius: float, steps: int
) -> Tensor:
    """Lower the label's mean score as far as a ball allows (PGD).

    Projected gradient ascent on −log of the mean softmax score of the label, in steps
    of 2 radius / steps along the normalised gradient.

    Parameters
    ----------
    model : nn.Module
        From images to logits; left in the mode it was in.
    x : Tensor, shape (batch, C, H, W)
        Images in [0, 1].
    y : Tensor of int, shape (batch,)
        Labels.
    noise : Tensor, shape (copies, batch, C, H, W)
        What is added to the images.
    radius : float
        L2 distance allowed, at least 0.
    steps : int
        At least 1.

    Returns
    -------
    Tensor, shape (batch, C, H, W)
        Images in [0, 1], each within ``radius`` of its own. One whose gradient vanishes
        stays where it is.

    References
    ----------
    Salman et al. (2019), *Provably robust deep learning via adversarially trained
    smoothed classifiers*, section 2.2.
    """
    if radius == 0:
        return x
    shift = torch.zeros_like(x)
    with _evaluating(model):
        for _ in range(steps):
            gradient, _ = _ascent(model, x + shift, y, noise)
            step = 2 * radius / steps * gradient / _lengths(gradient).clamp(min=TINY)
            moved = (x + shift + step).clamp(0, 1) - x
            # The cube and the ball both contain the image: shrinking keeps the cube.
            shift = moved.renorm(p=2, dim=0, maxnorm=radius)
    return x + shift


def closest_adversarial_images(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    noise: Tensor,
    *,
    radius: float,
    steps: int,
    change: float = 0.05,
) -> Tensor:
    """Look for the nearest image that is answered wrongly (DDN).

    "Decoupled direction and norm": step k = 0, 1, … evaluates the present image, and
    keeps it if it is answered wrongly and nearer than the wrong ones before. Then it
    turns the shift by a step of length α_k up the normalised gradient, and sets its
    norm, first ``radius``, to 1 − ``change`` of the last where the answer was wrong, to
    1 + ``change`` where it was right. In K steps, α_k = 0.01 + 0.495 (1 + cos πk/K).

    Parameters
    ----------
    model, x, y, noise
        As for `adversarial_images`. An answer is the class of the largest mean score.
    radius : float
        Norm to begin with, and largest norm of the result: a nearest wrong image that
        is farther away is pulled back to it. At least 0.
    steps : int
        At least 1. The first evaluates the clean image: one step moves nothing.
    change : float
        Share of the norm that a step adds or takes away, in (0, 1).

    Returns
    -------
    Tensor, shape (batch, C, H, W)
        Images in [0, 1], each within ``radius`` of its own. One that is wrong as it is,
        for which no wrong neighbour was found, or whose gradient vanishes, stays where
        it is.

    Raises
    ------
    ValueError
        If ``change`` is out of range.

    Notes
    -----
    To begin at the radius, to cap the result by it, and to give the clean image back
    if nothing was found is what Salman et al. (2019) do. Their code also rounds shifted
    images to 256 levels, takes the majority of the copies' answers for the answer, and
    a random direction where the gradient vanishes.

    References
    ----------
    Rony et al. (2019), *Decoupling direction and norm for efficient gradient-based L2
    adversarial attacks and defenses*, algorithm 1.
    """
    if not 0 < change < 1:
        raise ValueError(f"change must lie in (0, 1), got {change}")
    if radius == 0:
        return x
    shift = found = torch.zeros_like(x)
    shortest = corner = _lengths(torch.maximum(x, 1 - x))  # no image is farther away
    norm = torch.full_like(corner, radius)
    with _evaluating(model):
        for k in range(steps):
            gradient, answers = _ascent(model, x + shift, y, noise)
            wrong, length = (answers != y).view_as(norm), _lengths(shift)
            nearer = wrong & (length < shortest)
            found = torch.where(nearer, shift, found)
            shortest = torch.where(nearer, length, shortest)
            rate = 0.01 + 0.495 * (1 + cos(pi * k / steps))
            shift = shift + rate * gradient / _lengths(gradient).clamp(min=TINY)
            norm = torch.where(wrong, norm * (1 - change), norm * (1 + change))
            norm = norm.minimum(corner)
            shift = norm * shift / _lengths(shift).clamp(min=TINY)
            shift = (x + shift).clamp(0, 1) - x
    return x + found.renorm(p=2, dim=0, maxnorm=radius)


def warmed(radius: float, warmup: int, epoch: int) -> float:
    """Return radius · min(1, (epoch + 1) / warmup), or the radius if warmup is 0.

    Epochs count from 0: the first has a share of the radius, not none, and the epoch of
    number warmup − 1 the first whole one. So do Salman et al. (2019).
    """
    return radius if epoch + 1 >= warmup else radius * (epoch + 1) / warmup


def copies_scores(model: nn.Module, copies: Tensor) -> Tensor:
    """Return logits (copies, batch, classes) of images (copies, batch, C, H, W).

    All copies form one batch, also for the statistics of batch normalisations.
    """
    return model(copies.flatten(0, 1)).unflatten(0, copies.shape[:2])


def soft_cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    """Return −log of the mean over copies of the label's softmax score.

    Parameters
    ----------
    scores : Tensor, shape (copies, batch, classes)
        Logits.
    y : Tensor of int, shape (batch,)
        Labels.

    Returns
    -------
    Tensor, shape ()
        The mean over the batch.
    """
    return nll_loss(_mean_log(scores), y)


def _mean_log(scores: Tensor) -> Tensor:
    return log_softmax(scores, dim=-1).logsumexp(dim=0) - log(len(scores))


def _ascent(
    model: nn.Module, x: Tensor, y: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Return gradients of −log of the label's mean score, and the answers."""
    at = x.detach().requires_grad_(True)
    mean_log = _mean_log(copies_scores(model, at + noise))
    # Summed, not averaged: then a row is the gradient of its image alone.
    objective = len(x) * nll_loss(mean_log, y)
    (gradient,) = torch.autograd.grad(objective, at)
    return gradient, mean_log.detach().argmax(dim=1)


def _lengths(v: Tensor) -> Tensor:
    return v.flatten(1).norm(dim=1)[:, None, None, None]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    mode = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(mode)
