"""Networks whose Lipschitz constant is known by construction, not by measurement.

Every layer is 1-Lipschitz in the L2 norm and loses as little as that allows: linear
maps are orthogonal, activations sort. One fixed factor at the end sets the constant.
"""

from math import prod

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

WIDTH, HIDDEN, SCALE = 128, 2, 4.0
"""Units per hidden layer, hidden layers, and the factor on the scores, which was chosen
on held-out training images. Cross-entropy asks for score differences of a few units: a
larger factor reaches them with smaller margins, a smaller one loses accuracy."""


class MaxMin(nn.Module):
    """Sort the first half of the features against the second, pair by pair.

    A permutation of the features at every point: 1-Lipschitz, and unlike ReLU it never
    shrinks a gradient.

    References
    ----------
    Anil, Lucas and Grosse (2019), *Sorting out Lipschitz function approximation*.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Sort features (batch, 2 k, ...); an odd number of them is an error."""
        if x.shape[1] % 2:
            raise ValueError(f"MaxMin needs an even number of features, got {x.shape}")
        first, second = x.chunk(2, dim=1)
        return torch.cat([first.maximum(second), first.minimum(second)], dim=1)


class Scale(nn.Module):
    """Multiply by a constant that is not trained."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = float(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``x``, any shape."""
        return self.factor * x

    def extra_repr(self) -> str:
        """Return what ``print`` shows of the layer."""
        return f"{self.factor:g}"


def lipschitz_network(
    shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = WIDTH,
    hidden: int = HIDDEN,
    scale: float = SCALE,
) -> nn.Sequential:
    """Return a dense classifier whose score vector is ``scale``-Lipschitz.

    Parameters
    ----------
    shape : tuple of int
        Image shape (C, H, W). Training inverts a square matrix with as many rows as
        the image has pixels, all channels counted, in every step.
    num_classes : int
        Of the scores.
    width, hidden : int
        Units per hidden layer, even, and hidden layers.
    scale : float
        The Lipschitz constant, up to the rounding of the orthogonal matrices:
        `lipsmooth.lipschitz.product_upper_bound` gives it with that.

    Returns
    -------
    nn.Sequential
        From images (batch, C, H, W) to scores (batch, num_classes). The matrices are
        kept orthogonal by PyTorch's Cayley parametrisation.

    Raises
    ------
    ValueError
        If ``width`` is odd or ``scale`` not positive.
    """
    if width < 2 or width % 2:
        raise ValueError(f"width must be even and positive, got {width}")
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale must be positive and finite, got {scale}")
    layers, before = [nn.Flatten()], prod(shape)
    for _ in range(hidden):
        layers += [_orthogonal_linear(before, width), MaxMin()]
        before = width
    return nn.Sequential(*layers, _orthogonal_linear(before, num_classes), Scale(scale))


def _orthogonal_linear(before: int, after: int) -> nn.Linear:
    return orthogonal(nn.Linear(before, after), orthogonal_map="cayley")
