"""Image files in folders: listed and decoded, whatever somebody put there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image
from torchvision.datasets import ImageFolder

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
"""What is decoded, by content and not by name: none of Pillow's other formats, some of
which start programs."""

Result = TypeVar("Result")


def list_pictures(folder: Path, name: str) -> ImageFolder:
    """Return the classes and the files of a folder of class folders, sorted.

    Parameters
    ----------
    folder : Path
        With one folder per class. Links are followed.
    name : str
        Of the dataset, for messages.

    Raises
    ------
    ValueError
        If there is no class, a class has no image, or links lead to one folder twice,
        perhaps without end.
    """
    seen: set[str] = set()
    for where, _, _ in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            raise ValueError(f"dataset {name!r}: {where} is a folder met before")
        seen.add(real)
    try:
        return ImageFolder(folder)
    except FileNotFoundError as error:
        # No class folder at all, or one without an image; both are named.
        raise ValueError(f"dataset {name!r}: {error}") from None


def read_picture(path: str, use: Callable[[Image.Image], Result]) -> Result:
    """Open an image file and return what ``use`` makes of it.

    Parameters
    ----------
    path : str
        A file in one of `FORMATS`.
    use : callable
        Takes the opened image, whose pixels are not decoded yet.

    Raises
    ------
    ValueError
        If the file cannot be read, or has more pixels than
        ``2 * PIL.Image.MAX_IMAGE_PIXELS``, 179 million.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return use(image)
    except Exception as error:  # Pillow raises many kinds for a file it cannot read
        raise ValueError(f"{path} cannot be read as an image: {error}") from None
