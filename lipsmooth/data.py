"""Image datasets with a fixed order: digits, CIFAR-10, folders of classes."""

import hashlib
import math
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from platformdirs import user_cache_dir
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import CIFAR10
from torchvision.transforms import CenterCrop, Compose, Resize

from lipsmooth.pictures import list_pictures, read_picture

SPLITS = ("train", "test")
RESIDENT_BYTES = 4 * 2**30
"""A dataset of at most this size is kept in memory while a network is trained on it."""
SCALED = 256 / 224
"""Shorter side of a scaled image over the side of the square that is cut out of it."""
Pathlike = str | os.PathLike


def cache_folder(cache_dir: Pathlike | None = None) -> Path:
    """Return ``cache_dir``, else ``$LIPSMOOTH_CACHE``, else the user's cache."""
    chosen = cache_dir or os.environ.get("LIPSMOOTH_CACHE")
    return Path(chosen) if chosen else Path(user_cache_dir("lipsmooth"))


class Images(Dataset):
    """Images of one size in [0, 1] with their labels, in a fixed order.

    Parameters
    ----------
    name, split : str
        What they are.
    classes : sequence of str
        Class names; a label is a position in it.
    pixels : ndarray, shape (images, C, H, W)
        float32 in [0, 1], or uint8 in 0…255.
    labels : array_like of int, shape (images,)

    Attributes
    ----------
    shape : tuple of int
        (C, H, W).
    preparation : dict
        What was done to the files' pixels, empty for nothing: ``resize``, the
        shorter side after scaling, and ``crop``, the side of the square cut out.
    """

    preparation: ClassVar[dict[str, int]] = {}

    def __init__(
        self,
        name: str,
        split: str,
        classes: list[str],
        pixels: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        self.name, self.split, self.classes = name, split, list(classes)
        self.labels = torch.as_tensor(np.asarray(labels, dtype=np.int64))
        self.pixels = torch.from_numpy(pixels)
        self.shape = tuple(self.pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        x, y = self.tensors([index])
        return x[0], int(y[0])

    def tensors(self, indices: np.ndarray | Tensor | None = None) -> tuple:
        """Return images and labels as two tensors.

        Parameters
        ----------
        indices : array_like of int, optional
            Which images, in which order; all by default.

        Returns
        -------
        x : Tensor, shape (images, C, H, W)
            float32 in [0, 1].
        y : Tensor of int64, shape (images,)
        """
        chosen = range(len(self)) if indices is None else indices
        rows = torch.as_tensor(np.asarray(chosen, dtype=np.int64))
        rows = rows.to(self.labels.device)
        return self._load(rows), self.labels[rows]

    def resident(self, device: str = "cpu") -> "Images":
        """Return the same images, decoded once and kept where they are needed.

        Parameters
        ----------
        device : str
            There, in the datatype that they have: a byte per value from files.

        Returns
        -------
        Images
            Themselves where they would take more than `RESIDENT_BYTES`.
        """
        if len(self) * math.prod(self.shape) > RESIDENT_BYTES:
            return self
        copy = Images(self.name, self.split, self.classes, self._decode(), self.labels)
        copy.pixels, copy.labels = copy.pixels.to(device), copy.labels.to(device)
        return copy

    def _decode(self) -> np.ndarray:
        return self.pixels.numpy()

    def digest(self) -> str:
        """Return a SHA-256 of names, labels and content."""
        about = self.classes, self.shape, self.preparation
        digest = hashlib.sha256(repr(about if self.preparation else about[:2]).encode())
        digest.update(self.labels.numpy().tobytes())
        self._digest_content(digest)
        return digest.hexdigest()

    def _digest_content(self, digest: "hashlib._Hash") -> None:
        digest.update(self.pixels.numpy().tobytes())

    def _load(self, rows: Tensor) -> Tensor:
        pixels = self.pixels[rows]
        return pixels if pixels.dtype == torch.float32 else pixels.float() / 255


class FolderImages(Images):
    """Images in one folder per class, read from the disk when they are needed.

    With a ``size`` they may differ in theirs: each is scaled and cropped when read.
    """

    def __init__(
        self, name: str, split: str, folder: Path, size: int | None = None
    ) -> None:
        listing = list_pictures(folder, name)
        self.name, self.split, self.classes = name, split, listing.classes
        self.paths = [path for path, _ in listing.samples]
        self.labels = torch.as_tensor(listing.targets)
        mode, (width, height) = read_picture(self.paths[0], lambda i: (i.mode, i.size))
        self.mode = "L" if mode in ("1", "L") else "RGB"
        if size is not None:
            width = height = size
            self.preparation = {"resize": round(size * SCALED), "crop": size}
            scale = Resize(self.preparation["resize"])
            self._prepare = Compose([scale, CenterCrop(size)])
        self.shape = (1 if self.mode == "L" else 3, height, width)
        for path in self.paths if size is None else ():
            self._read(path, decode=False)

    def _read(self, path: str, *, decode: bool = True) -> np.ndarray | None:
        """Decode one file; without ``decode`` look at its header alone."""
        if self.preparation:
            return read_picture(
                path, lambda image: np.asarray(self._prepare(image.convert(self.mode)))
            )
        wanted = self.shape[:0:-1]

        def pixels(image):
            due = decode and image.size == wanted
            return image.size, np.asarray(image.convert(self.mode)) if due else None

        found, array = read_picture(path, pixels)
        if found != wanted:
            raise ValueError(
                f"{path} is {found[0]}×{found[1]} pixels, the images before it are "
                f"{wanted[0]}×{wanted[1]}; all must have one size"
            )
        return array

    def _digest_content(self, digest: "hashlib._Hash") -> None:
        # Names and sizes: reading every file of a large set would take minutes.
        for path in map(Path, self.paths):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())

    def _load(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self._decode(rows)).float() / 255

    def _decode(self, rows: Tensor | None = None) -> np.ndarray:
        chosen = range(len(self)) if rows is None else rows
        stack = np.empty((len(chosen), *self.shape[1:], self.shape[0]), np.uint8)
        for place, row in enumerate(chosen):
            stack[place] = self._read(self.paths[row]).reshape(stack.shape[1:])
        return np.ascontiguousarray(stack.transpose(0, 3, 1, 2))


def evenly_spaced(size: int, images: int | None) -> np.ndarray:
    """Return the positions of ``images`` out of ``size`` images, all for None.

    Class folders are sorted by class: a sample of them must not be their start.
    """
    count = size if images is None else images
    if not 1 <= count <= size:
        raise ValueError(f"images must lie between 1 and {size}, got {images}")
    return np.arange(count) * size // count


def load_dataset(
    name: Pathlike,
    split: str,
    *,
    root: Pathlike | None = None,
    size: int | None = None,
) -> Images:
    """Load a dataset by name, or a tree of class folders by path.

    Parameters
    ----------
    name : str or path
        ``"digits"``
            scikit-learn's 1,797 scans of 8 × 8 pixels, no download. Sorted by
            class, every fourth image is for testing: 450, each class equally
            often. Both parts keep scikit-learn's order.
        ``"cifar10"``
            through torchvision, downloaded once. Its order is that of the
            distributed files, classes mixed: published logs number images so.
        a folder
            with ``train/<class>/*.png`` and ``test/<class>/*.png`` (or JPEG, PPM, BMP,
            TIFF, WebP; ``val`` serves for ``test``, as ImageNet has it), or the classes
            directly, which is then a test set. Classes are sorted by name, and within a
            class files by their path: image 0 is the
            first of the first class. Published logs of ImageNet number images so;
            those of CIFAR-10 do not.
    split : {"train", "test"}
        Which part.
    root : path, optional
        Where downloads are kept, by default in `cache_folder`.
    size : int, optional
        For folders of images that differ in size: the shorter side is scaled to
        ``size`` × 256 / 224 and the ``size`` × ``size`` pixels in the middle are kept.
        224 is how ImageNet is tested, in Cohen et al. 2019 and elsewhere.

    Returns
    -------
    Images

    Raises
    ------
    ValueError
        If name or split is unknown, a folder has no classes, a class has no
        images, images are unreadable or of different sizes, or a size is too small
        or asked for where there are no files.
    OSError
        If a download fails.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    if size is not None and (name in ("digits", "cifar10") or size < 8):
        raise ValueError(f"size is for folders and at least 8; got {size} for {name}")
    if name == "digits":
        return _digits(split)
    if name == "cifar10":
        return _cifar10(split, Path(root or cache_folder() / "datasets"))
    folder = Path(name)
    if not folder.is_dir():
        raise ValueError(
            f"dataset must be 'digits', 'cifar10' or an existing folder of class "
            f"folders, got {os.fspath(name)!r}"
        )
    found = _split_folder(folder, split)
    return FolderImages(folder.resolve().name, split, found, size)


def _split_folder(folder: Path, split: str) -> Path:
    for found in (folder / split, folder / {"test": "val"}.get(split, split)):
        if found.is_dir():
            return found
    if split == "train" or (folder / "train").is_dir():
        # A flat tree must not serve both to train and to test.
        raise ValueError(f"dataset {folder}: there is no folder {split}/ in it")
    return folder


def _digits(split: str) -> Images:
    bunch = load_digits()
    test = np.argsort(bunch.target, kind="stable")[::4]
    chosen = np.isin(np.arange(len(bunch.target)), test) == (split == "test")
    pixels = (bunch.images[chosen, np.newaxis] / 16).astype(np.float32)
    names = [str(digit) for digit in bunch.target_names]
    return Images("digits", split, names, pixels, bunch.target[chosen])


def _cifar10(split: str, root: Path) -> Images:
    try:
        source = CIFAR10(root, train=split == "train", download=True)
    except RuntimeError as error:  # torchvision's word for a damaged download
        raise OSError(f"cifar10 in {root}: {error}") from None
    pixels = np.ascontiguousarray(source.data.transpose(0, 3, 1, 2))
    return Images("cifar10", split, source.classes, pixels, source.targets)
