"""Maps from logits to the simplex, each with a temperature that divides the logits.

Softmax keeps every class in play, sparsemax sets the hopeless ones to exactly zero,
and both tend to hardmax, the vote, as the temperature goes to zero. Literature that
multiplies the logits by an inverse temperature τ means ``temperature = 1 / τ``.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lipsmooth.scorelogs import SimplexMap


def softmax(logits: Tensor, temperature: float) -> Tensor:
    """Exponentials of ``logits / temperature``, normalised over the last axis.

    Parameters
    ----------
    logits : Tensor, shape (..., classes)
        Floating point and finite.
    temperature : float
        Positive and finite.

    Returns
    -------
    Tensor, shape (..., classes)
        Of the type of ``logits``: at least 0, adding up to 1 along the last axis.

    Raises
    ------
    ValueError
        If ``logits`` are no floating point numbers, have no class or hold NaN or
        infinity, or ``temperature`` is not positive and finite.

    Notes
    -----
    Guarantee: in the L2 norm, the scores as a vector are ``1 / (2 temperature)``-
    Lipschitz in the logits, each of them ``√2 / (4 temperature)``-Lipschitz.
    """
    return torch.softmax(_scaled(logits, temperature), dim=-1)


def sparsemax(logits: Tensor, temperature: float) -> Tensor:
    """Euclidean projection of ``logits / temperature`` onto the simplex.

    Parameters
    ----------
    logits, temperature
        As for `softmax`.

    Returns
    -------
    Tensor, shape (..., classes)
        ``max(logits / temperature - θ, 0)``, with the θ for which it adds up to 1.

    Raises
    ------
    ValueError
        As for `softmax`.

    Notes
    -----
    Guarantee: in the L2 norm the scores, as a vector and each, are
    ``1 / temperature``-Lipschitz in the logits: projections move nothing apart.
    Gradients of any order are those of automatic differentiation; where a class
    enters the support there is none, and a one-sided one is returned.

    References
    ----------
    Martins and Astudillo (2016), Algorithm 1 and Proposition 2.
    """
    scaled = _scaled(logits, temperature)
    if scaled.dtype in (torch.float16, torch.bfloat16):  # too coarse to add up
        return sparsemax(logits.float(), temperature).to(logits.dtype)
    # What lies below -1 is never in the support; two below, it cannot overflow a sum.
    scaled = scaled.clamp(min=-2)
    ranked = scaled.sort(dim=-1, descending=True).values
    sums = ranked.cumsum(dim=-1)
    rank = torch.arange(1, scaled.shape[-1] + 1, device=scaled.device)
    support = (1 + rank * ranked > sums).sum(dim=-1, keepdim=True)
    theta = (sums.gather(-1, support - 1) - 1) / support
    return (scaled - theta).clamp(min=0)


def hardmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """One for the largest logit, the first on ties, and zero for the others.

    Parameters
    ----------
    logits, temperature
        As for `softmax`; the temperature makes no difference.

    Returns
    -------
    Tensor, shape (..., classes)
        A constant to automatic differentiation: the gradient is zero wherever there
        is one.

    Raises
    ------
    ValueError
        As for `softmax`.
    """
    votes = _scaled(logits, temperature).argmax(dim=-1, keepdim=True)
    return torch.zeros_like(logits).scatter(-1, votes, 1)


MAPS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "softmax": softmax,
    "sparsemax": sparsemax,
    "hardmax": hardmax,
}
"""The maps by the names that `SimplexMap` knows them by."""


def apply(simplex_map: SimplexMap, logits: Tensor) -> Tensor:
    """Apply a named map: ``apply(SimplexMap("sparsemax", 0.5), logits)``."""
    return MAPS[simplex_map.name](logits, simplex_map.temperature)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """Return logits, less their largest, over the temperature, or raise."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, got {logits.dtype}")
    if not logits.ndim or not logits.shape[-1]:
        raise ValueError(f"logits must have shape (..., classes), got {logits.shape}")
    centred = logits - logits.detach().amax(dim=-1, keepdim=True)
    if not centred.isfinite().all():
        raise ValueError("logits must be finite; some are NaN or infinite")
    # A temperature that the arithmetic would take for 0 or infinity is as good as one.
    known = torch.finfo(torch.promote_types(logits.dtype, torch.float32))
    return centred / min(max(temperature, known.tiny), known.max)
