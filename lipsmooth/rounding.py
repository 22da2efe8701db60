"""How far rounding can move the scores of a network: bounds that hold for every input.

A certificate by a Lipschitz constant is about exact arithmetic. What a computer
returns differs, here and at every other point of the ball, and the network that is
deployed is the computed one.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from lipsmooth.hooks import reject_hooks
from lipsmooth.inference import Inference
from lipsmooth.lipnets import MaxMin, Scale
from lipsmooth.spectral import gram_bound

_EXACT = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d, nn.ReLU, MaxMin)
"""Layers that copy, compare and round nothing: 1-Lipschitz, and zero stays zero."""

_COVER = 1 + 1e-9  # pays for the arithmetic of the bound itself


class Affine(NamedTuple):
    """The function ``constant + slope * ‖x‖`` of an input x; both at least 0."""

    constant: float
    slope: float

    def times(self, factor: float, plus: float = 0.0) -> "Affine":
        """Return ``factor`` times this function, and a constant more."""
        return Affine(factor * self.constant + plus, factor * self.slope)

    def add(self, other: "Affine") -> "Affine":
        """Return the sum of two functions."""
        return Affine(self.constant + other.constant, self.slope + other.slope)


def rounding_bound(module: nn.Module, *, dtype: torch.dtype) -> Affine:
    """Bound the distance of computed scores from those in exact arithmetic.

    Parameters
    ----------
    module : nn.Module
        ``nn.Sequential`` or a layer: linear, activations that only compare, and those
        of `lipsmooth.lipnets`; used in evaluation mode.
    dtype : torch.dtype
        Of weights, inputs and arithmetic: float32 or float64.

    Returns
    -------
    Affine
        Numbers e and f with ``‖computed − exact‖ ≤ e + f ‖x‖`` for every input x
        that the precision can represent.

    Raises
    ------
    ValueError
        If a layer is unknown, is parametrised (its weights are then computed, with
        rounding of their own) or has hooks.

    Notes
    -----
    Guarantee: for sums of products in any order, with or without fused
    multiplication, in binary arithmetic that rounds to nearest and does not overflow.
    It is the worst case, a thousand times what is seen and more. Convolutions are
    refused: libraries compute them by transforms to which this analysis does not
    apply. So is whatever computes matrix products in a coarser precision than that of
    the numbers, which is for the caller to exclude.

    A sum of n products has an error of at most ``γ |w|ᵀ|x|`` with
    ``γ = n u / (1 − n u)`` and unit roundoff u; so a matrix W adds at most
    ``γ ‖|W|‖ ‖x‖``, and passes on ``‖W‖`` times the error that came in.

    References
    ----------
    Higham (2002), *Accuracy and Stability of Numerical Algorithms*, Section 3.1.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    size, error = Affine(0.0, 1.0), Affine(0.0, 0.0)
    for layer in _layers(module):
        size, error = _through(layer, size, error, torch.finfo(dtype))
    return error.times(_COVER)


def _layers(module: nn.Module) -> Iterable[nn.Module]:
    kind = parametrize.type_before_parametrizations(module)
    reject_hooks(module)
    if kind is nn.Sequential:
        for part in module:
            yield from _layers(part)
    elif kind is Inference:
        yield from _layers(module.network)
    else:
        yield module


def _through(
    layer: nn.Module, size: Affine, error: Affine, info: torch.finfo
) -> tuple[Affine, Affine]:
    """Return bounds on the norm and on the error of what a layer returns."""
    if type(layer) in _EXACT:
        return size, error
    if type(layer) is Scale:
        # The factor is rounded to the precision, and then the product.
        weight = magnitude = abs(layer.factor)
        terms, bias = 1, 0.0
    elif type(layer) is nn.Linear:
        matrix = layer.weight.detach().double().cpu()
        weight, magnitude = gram_bound(matrix), gram_bound(matrix.abs())
        terms = layer.in_features
        bias = 0.0 if layer.bias is None else float(layer.bias.detach().double().norm())
    else:
        raise ValueError(f"no bound on the rounding of {type(layer).__name__} is known")
    # Of each product: its own rounding, and those of the sums and the bias after it.
    unit = (terms + 1) * info.eps / 2
    if unit >= 1:
        raise ValueError(f"sums of {terms} products are too long for {info.dtype}")
    gamma = unit / (1 - unit)
    # One that underflows is off by at most eps * tiny; tiny pays for all outputs.
    vanished = (terms + 1) * info.tiny
    new = size.times(gamma * magnitude, gamma * bias + vanished)
    after = size.times(weight, bias).add(new)
    return after, error.times(weight).add(new)
