"""Votes of a base classifier under Gaussian noise."""

import hashlib
import json

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lipsmooth.data import Images, Pathlike, cache_folder, evenly_spaced, load_dataset
from lipsmooth.logs import LogWriter, VoteLog, read_log
from lipsmooth.models import provenance, weights_digest
from lipsmooth.noise import CHUNK
from lipsmooth.pretrained import load_base
from lipsmooth.runs import arithmetic, check_settings, prepare
from lipsmooth.voting import Classifier, Segment, count_segments, whole_segment


def count_votes(
    base_classifier: Classifier,
    x: Tensor | NDArray[np.float32],
    *,
    sigma: float,
    n: int,
    seed: int,
    index: int = 0,
    start: int = 0,
    batch_size: int = 1000,
    num_classes: int | None = None,
    levels: int | None = None,
) -> NDArray[np.int64]:
    """Count the classes that a base classifier gives to noisy copies of an image.

    Parameters
    ----------
    base_classifier : callable
        From images ``(batch, *shape)`` to scores ``(batch, classes)``; the vote is the
        largest score, the first on ties. A module runs in evaluation mode, on its
        own device, and is left as it was.
    x : Tensor or ndarray, shape (C, H, W) or any other
        The image, floating point. Noise is added to it as it is; nothing is
        clipped.
    sigma : float
        Standard deviation of the noise, in the units of ``x``.
    n : int
        Number of samples.
    seed : int
        In [0, 2**64).
    index : int
        Number of the image: images with different numbers get different noise.
    start : int
        Number of the first sample. Counts of samples [0, n0) and [n0, n0 + n)
        are independent.
    batch_size : int
        Samples in one forward pass; the counts do not depend on it.
    num_classes : int, optional
        Checked against the scores.
    levels : int, optional
        Sound arithmetic: pixels are multiples of ``1 / levels`` (255 for bytes), the
        noise is rounded to such multiples, and their sum is exact. By default
        floating-point numbers are added, and the sum is rounded.

    Returns
    -------
    ndarray of int64, shape (classes,)
        Votes; their sum is ``n``.

    Raises
    ------
    ValueError
        If an argument is out of range, ``x`` or a score is not finite, or the
        scores have the wrong shape.

    Notes
    -----
    Guarantee: the votes are independent draws of the class of ``x + ε``,
    ``ε ~ N(0, sigma² I)``, the premise of every certificate. Without ``levels`` that
    is so up to rounding, which a classifier can exploit: `lipsmooth.grid`.
    """
    check_settings(sigma=sigma, n=n, start=start, batch_size=batch_size)
    segment = whole_segment(
        base_classifier, x, n=n, seed=seed, index=index, start=start, sigma=sigma,
        levels=levels,
    )  # fmt: skip
    (counts,) = count_segments(
        base_classifier, [segment],
        sigma=sigma, batch_size=batch_size, num_classes=num_classes,
    )  # fmt: skip
    return counts


def sample_log(
    base_classifier: Classifier,
    dataset: Images,
    path: Pathlike,
    *,
    sigma: float,
    n0: int,
    n: int,
    seed: int,
    indices: ArrayLike | None = None,
    batch_size: int = 1000,
    device: str = "cpu",
    progress: bool = True,
    wait: bool = False,
    precision: str = "float32",
    fast: bool = True,
    compiled: bool = False,
    levels: int | None = None,
) -> VoteLog:
    """Sample the votes of many images into a log, going on from what it holds.

    Parameters
    ----------
    base_classifier : nn.Module or callable
        See `count_votes`. A module is moved to ``device`` and identified in the
        log by a digest of its weights; another callable is not identified.
    dataset : Images
        What to sample.
    path : path
        The log. Killed at any moment, the same call finishes it, with the same
        counts as if it had not been interrupted.
    sigma, seed, batch_size
        See `count_votes`.
    n0, n : int
        Selection samples, numbered 0 to n0 − 1, and estimation samples, numbered
        n0 to n0 + n − 1: no sample serves both.
    indices : array_like of int, optional
        Positions in the dataset; all by default.
    device : str
        Where to sample.
    progress : bool
        Show a progress bar on standard error.
    wait : bool
        Wait for another process that is writing the log, instead of raising.
    precision, fast : str, bool
        A module is sampled as `lipsmooth.inference.optimized` makes it, unless
        ``fast`` is false.
    compiled : bool
        Pass that copy through ``torch.compile``, which needs a C++ compiler: tens of
        seconds at first, worth it on a GPU. Votes can differ from those of the
        uncompiled copy in close cases, so the log says so.
    levels : int, optional
        Sound arithmetic; see `count_votes`. The log says so.

    Returns
    -------
    VoteLog
        The images asked for, in that order; the file may hold more.

    Raises
    ------
    ValueError
        As for `count_votes` and `lipsmooth.logs.LogWriter`, or if an index is
        not in the dataset.
    """
    run = prepare(
        base_classifier, dataset, indices=indices, device=device, sigma=sigma, n0=n0,
        n=n, seed=seed, batch_size=batch_size, precision=precision, fast=fast,
        compiled=compiled, levels=levels,
    )  # fmt: skip

    def count(segments: list[Segment]) -> NDArray[np.int64]:
        return count_segments(
            run.classifier, segments, sigma=sigma, batch_size=batch_size,
            num_classes=len(dataset.classes),
        )  # fmt: skip

    with LogWriter(path, run.config, provenance(run.place), wait=wait) as log:
        run.fill(log.done, count, log.append, batch_size=batch_size, progress=progress)
    return read_log(path).select(run.wanted)


def sample_votes(
    checkpoint: Pathlike,
    dataset_name: Pathlike,
    *,
    sigma: float,
    n0: int,
    n: int,
    seed: int,
    images: int | None = None,
    batch_size: int = 500,
    device: str = "cpu",
    cache_dir: Pathlike | None = None,
    progress: bool = False,
    precision: str = "float32",
    fast: bool = True,
    denoiser: Pathlike | None = None,
    levels: int | None = None,
) -> VoteLog:
    """Return votes on a test set, sampling only what the cache lacks.

    Parameters
    ----------
    checkpoint, denoiser : path or str
        See `lipsmooth.pretrained.load_base`.
    dataset_name : str or path
        See `lipsmooth.data.load_dataset`; its test split.
    sigma, n0, n, seed, batch_size, device, progress, precision, fast, levels
        See `sample_log`.
    images : int, optional
        How many, evenly spaced over the test set; all by default.
    cache_dir : path, optional
        By default `lipsmooth.data.cache_folder`.

    Returns
    -------
    VoteLog
        Equal requests share one log; a process waits while another writes it.

    Raises
    ------
    ValueError
        As for `sample_log`, or if ``images`` exceeds the test set.
    """
    dataset = load_dataset(dataset_name, "test")
    indices = evenly_spaced(len(dataset), images)
    model, _ = load_base(checkpoint, device, denoiser=denoiser, sigma=sigma)
    settings = {"sigma": float(sigma), "n0": n0, "n": n, "seed": seed}
    place = torch.device(device)
    key = {
        **settings, "model": weights_digest(model), "data": dataset.digest(),
        "device": place.type, "chunk": CHUNK, "torch": str(torch.__version__),
        "precision": arithmetic(place, precision), "folded": fast,
    }  # fmt: skip
    if levels is not None:
        key["levels"] = levels
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = (
        cache_folder(cache_dir) / "votes" / f"{dataset.name}-{sigma:g}-{digest}.jsonl"
    )
    return sample_log(
        model, dataset, path, **settings, indices=indices, batch_size=batch_size,
        device=device, progress=progress, wait=True, precision=precision, fast=fast,
        levels=levels,
    )  # fmt: skip
