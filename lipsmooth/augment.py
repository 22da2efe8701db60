"""Random crops and flips of a whole batch, on the device where it lies."""

import torch
from torch import Tensor
from torch.nn.functional import pad

PADDING = 4
"""Pixels by which a crop may be shifted, in both directions."""


def identity(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images as they are."""
    return x


def crop_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `PADDING` pixels and mirror half of them.

    Parameters
    ----------
    x : Tensor, shape (images, C, H, W)
        At least 5 × 5 pixels: what is shifted in is the image's own reflection.
    generator : torch.Generator
        On the device of ``x``.

    Returns
    -------
    Tensor, shape (images, C, H, W)
        In memory with the channels last.

    Raises
    ------
    ValueError
        If the images are too small.
    """
    count, _, height, width = x.shape
    if min(height, width) <= PADDING:
        raise ValueError(
            f"crop-flip needs images of more than {PADDING} × {PADDING} pixels, "
            f"got {height} × {width}"
        )

    def draw(stop: int) -> Tensor:
        return torch.randint(stop, (count, 1), generator=generator, device=x.device)

    rows = draw(2 * PADDING + 1) + torch.arange(height, device=x.device)
    columns = draw(2 * PADDING + 1) + torch.arange(width, device=x.device)
    columns = torch.where(draw(2) == 1, columns.flip(1), columns)
    padded = pad(x, [PADDING] * 4, mode="reflect").permute(0, 2, 3, 1)
    images = torch.arange(count, device=x.device)[:, None, None]
    chosen = padded[images, rows[:, :, None], columns[:, None, :]]
    return chosen.permute(0, 3, 1, 2)


AUGMENTATIONS = {"none": identity, "crop-flip": crop_flip}
"""Functions ``(x, generator) -> x`` by name: what is done to clean images in training,
before noise is added. Mirrored digits are other characters; mirrored cars are cars."""
