"""A sampling run: what is sampled, how, and everything that its log says about it."""

import os
import shutil
import time
from collections.abc import Callable, Container, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from tqdm import tqdm

from lipsmooth.data import Images
from lipsmooth.inference import check_precision, optimized
from lipsmooth.models import weights_digest
from lipsmooth.noise import CHUNK, check_whole, open_stream
from lipsmooth.voting import Classifier, Segment


class Run(NamedTuple):
    """A classifier ready to be sampled on images of a dataset.

    Attributes
    ----------
    classifier : callable
        What gives the scores.
    dataset : Images
        Where the images come from.
    wanted : ndarray of int
        Positions of those asked for, perhaps more than once.
    place : torch.device
        Where to sample.
    config : dict
        Everything that the samples depend on.
    """

    classifier: Classifier
    dataset: Images
    wanted: NDArray[np.int64]
    place: torch.device
    config: dict

    def remaining(self, done: Container[int]) -> list[int]:
        """Return the images asked for that are not done, each once."""
        return [i for i in dict.fromkeys(self.wanted.tolist()) if i not in done]

    def pair(self, index: int) -> tuple[int, Segment, Segment]:
        """Return an image's label, its selection and its estimation samples."""
        x, label = self.dataset[index]
        n0, n, seed = (self.config[name] for name in ("n0", "n", "seed"))
        stream = open_stream(
            x.shape, seed=seed, index=index, device=self.place,
            sigma=self.config["sigma"], levels=self.config.get("levels"),
        )  # fmt: skip
        first = Segment(x.to(self.place), stream, 0, n0)
        return label, first, first._replace(start=n0, stop=n0 + n)

    def fill(
        self,
        done: Container[int],
        measure: Callable[[list[Segment]], Sequence],
        append: Callable,
        *,
        batch_size: int,
        progress: bool,
    ) -> None:
        """Append what ``measure`` finds on the remaining images to a log.

        ``measure`` gets the two segments of one image after the other, of as many
        images as share a batch, and returns one result for each.
        """
        remaining = self.remaining(done)
        together = max(1, batch_size // (self.config["n0"] + self.config["n"]))
        name = f"sampling σ={self.config['sigma']:g}"
        with tqdm(remaining, name, unit="image", disable=not progress) as bar:
            for start in range(0, len(remaining), together):
                group = remaining[start : start + together]
                began = time.perf_counter()
                labels, *sides = zip(*map(self.pair, group), strict=True)
                both = [side for pair in zip(*sides, strict=True) for side in pair]
                found = measure(both)
                seconds = (time.perf_counter() - began) / len(group)
                for row in zip(group, labels, found[::2], found[1::2], strict=True):
                    append(*row, seconds)
                bar.update(len(group))


def prepare(
    base_classifier: Classifier,
    dataset: Images,
    *,
    indices: ArrayLike | None,
    device: str,
    sigma: float,
    n0: int,
    n: int,
    seed: int,
    batch_size: int,
    precision: str,
    fast: bool,
    compiled: bool,
    levels: int | None = None,
) -> Run:
    """Check the settings and make a base classifier ready to be sampled.

    Parameters
    ----------
    base_classifier, dataset, indices, device, sigma, n0, n, seed, batch_size
        See `lipsmooth.sampling.sample_log`.
    precision, fast, compiled, levels
        See `lipsmooth.sampling.sample_log`.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If a setting is out of range, an index not in the dataset, or the precision
        or compilation not to be had.
    """
    check_settings(sigma=sigma, n0=n0, n=n, batch_size=batch_size)
    open_stream((), seed=seed, index=0, device="cpu", sigma=sigma, levels=levels)
    wanted, place = find_images(dataset, indices), torch.device(device)
    check_precision(precision, place)
    module = isinstance(base_classifier, nn.Module)
    fast = fast and module
    if precision != "float32" and not fast:
        raise ValueError(f"precision {precision} needs a module and fast=True")
    if compiled:
        _check_compilation(place, fast)
    config = {
        **describe(base_classifier, dataset, place),
        "sigma": float(sigma), "n0": int(n0), "n": int(n), "seed": int(seed),
        "rng": "numpy-sfc64" if place.type == "cpu" else f"torch-{place.type}",
        "chunk": CHUNK, "precision": arithmetic(place, precision), "folded": fast,
    }  # fmt: skip
    if compiled:  # rounds otherwise, so that a close vote can go the other way
        config["compiled"] = True
    if levels is not None:  # pixels, noise and their sum are whole numbers of steps
        config["levels"] = int(levels)
    if fast:
        base_classifier = optimized(
            base_classifier, precision=precision, compiled=compiled
        )
    return Run(base_classifier, dataset, wanted, place, config)


def describe(base_classifier: Classifier, dataset: Images, place: torch.device) -> dict:
    """Return what a log says about a classifier, moved to a device, and its images."""
    module = isinstance(base_classifier, nn.Module)
    parts = base_classifier.parts() if hasattr(base_classifier, "parts") else {}
    prepared = {"preparation": dataset.preparation} if dataset.preparation else {}
    return {
        "dataset": dataset.name, "split": dataset.split, "data": dataset.digest(),
        "num_classes": len(dataset.classes),
        "model": weights_digest(base_classifier.to(place)) if module else None,
        **parts, **prepared,
    }  # fmt: skip


def arithmetic(device: torch.device, wanted: str) -> str:
    """Return the precision in which a device really computes when asked for one."""
    shortened = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    tf32 = device.type == "cuda" and shortened and wanted == "float32"
    return "tf32" if tf32 else wanted


def check_settings(*, sigma: float, **counts: int) -> None:
    """Raise unless ``sigma`` is positive and the counts are whole numbers."""
    if not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    for name, value in counts.items():
        check_whole(name, value, least=0 if name == "start" else 1)


def find_images(dataset: Images, indices: ArrayLike | None) -> NDArray[np.int64]:
    """Return the positions asked for, all by default; ValueError if there is none."""
    wanted = np.asarray(range(len(dataset)) if indices is None else indices)
    if wanted.dtype.kind not in "iu":
        raise ValueError(f"indices must be whole numbers, got {wanted.dtype} values")
    outside = wanted[(wanted < 0) | (wanted >= len(dataset))]
    if len(outside) or not len(wanted):
        what = f"image {outside[0]}" if len(outside) else "no image"
        raise ValueError(
            f"{what} was asked for; {dataset.name} {dataset.split} has {len(dataset)}"
        )
    return wanted


def _check_compilation(place: torch.device, fast: bool) -> None:
    if not fast:
        raise ValueError("compiled=True needs a module and fast=True")
    if place.type != "cpu" and find_spec("triton") is None:
        raise ValueError(f"torch.compile needs Triton on {place.type}: not installed")
    compilers = os.environ.get("CXX", ""), "g++", "clang++"
    if not any(map(shutil.which, compilers)):
        raise ValueError("torch.compile needs a C++ compiler, and there is none")
