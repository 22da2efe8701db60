"""Normalisation of pixels inside the network, and the published constants for it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Means and deviations per channel of red, green and blue that the networks of Cohen,
Rosenfeld and Kolter (2019) were trained with: ``code/datasets.py`` in their repository
locuslab/smoothing."""

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The same for ImageNet; torchvision's own networks use these too."""


class Normalize(nn.Module):
    """Subtract a mean from pixels and divide by a deviation; by default [0, 1] to ±1.

    Noise is then added to pixels in [0, 1] and a radius is in those units,
    whatever the network does next. Noisy pixels are not clipped.

    Parameters
    ----------
    mean, std : float or sequence of float
        One for all channels, or one per channel.
    """

    def __init__(
        self, mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
    ) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            tensor = torch.tensor(value)
            tensor = tensor[:, None, None] if tensor.ndim == 1 else tensor
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, any shape; (…, C, H, W) if by channel."""
        return (x - self.mean) / self.std
