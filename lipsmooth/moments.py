"""Means and variances of class scores under noise, for many simplex maps at once.

Every map sees the same noisy images, whose logits are computed once. The logits of an
image are taken a block at a time, whatever batches they came in, so that the moments
are the same for every batch size if the logits are.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lipsmooth.data import Images, Pathlike
from lipsmooth.models import provenance
from lipsmooth.noise import check_whole
from lipsmooth.runs import check_settings, prepare
from lipsmooth.scorelogs import (
    ScoreLog,
    ScoreWriter,
    SimplexMap,
    parse_maps,
    read_score_log,
)
from lipsmooth.simplex import apply
from lipsmooth.temperatures import Total
from lipsmooth.voting import (
    Classifier,
    Segment,
    evaluating,
    not_finite,
    score_batches,
    whole_segment,
)


class Moments(NamedTuple):
    """Mean and unbiased variance of each score, float64, shape (maps, classes)."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def score_moments(
    base_classifier: Classifier,
    x: Tensor | NDArray[np.float32],
    *,
    maps: Sequence[str | SimplexMap],
    sigma: float,
    n: int,
    seed: int,
    index: int = 0,
    start: int = 0,
    batch_size: int = 1000,
    num_classes: int | None = None,
    compiled: bool = False,
    levels: int | None = None,
) -> Moments:
    """Estimate mean and variance of every class score of an image under noise.

    Parameters
    ----------
    base_classifier, x, sigma, seed, index, start, batch_size, num_classes
        As for `lipsmooth.sampling.count_votes`. The scores of the base classifier
        are taken as logits.
    maps : sequence of SimplexMap or str
        What turns logits into class scores, such as ``"sparsemax:0.5"``.
    n : int
        Number of samples, at least 2.
    compiled : bool
        Fuse the arithmetic with ``torch.compile``: worth its half minute from about
        100 maps and a million samples on. Needs a C++ compiler.
    levels : int, optional
        As for `lipsmooth.sampling.count_votes`.

    Returns
    -------
    Moments
        Over all ``n`` samples, in the order of ``maps``.

    Raises
    ------
    ValueError
        As for `lipsmooth.sampling.count_votes`, or if a map is unknown, named twice
        or its temperature is not positive and finite.

    Notes
    -----
    Guarantee: the moments are those of scores at the very samples that
    `lipsmooth.sampling.count_votes` counts with equal arguments. They do not depend
    on the batch size in any bit, if the base classifier's logits do not; a network's
    own logits can, in their last digits. Scores are computed in float32, with
    an error below 2e-6 in the mean and 1e-6 in the standard deviation.

    References
    ----------
    Chan, Golub and LeVeque (1983), for merging the blocks' variances.
    """
    _check_samples(n=n)
    check_settings(sigma=sigma, start=start, batch_size=batch_size)
    segment = whole_segment(
        base_classifier, x, n=n, seed=seed, index=index, start=start, sigma=sigma,
        levels=levels,
    )  # fmt: skip
    found = _moments_of(
        base_classifier, [segment],
        maps=parse_maps(maps), sigma=sigma, batch_size=batch_size,
        num_classes=num_classes, compiled=compiled,
    )  # fmt: skip
    return found[0]


def score_samples(
    base_classifier: Classifier,
    x: Tensor | NDArray[np.float32],
    *,
    map: str | SimplexMap,
    sigma: float,
    n: int,
    seed: int,
    index: int = 0,
    start: int = 0,
    batch_size: int = 1000,
    num_classes: int | None = None,
    levels: int | None = None,
) -> NDArray[np.float32]:
    """Return the class scores of every noisy copy, for bounds that need them all.

    Parameters
    ----------
    map : SimplexMap or str
        What turns logits into class scores.
    base_classifier, x, sigma, n, seed, index, start, batch_size, num_classes, levels
        As for `score_moments`.

    Returns
    -------
    ndarray of float32, shape (n, classes)
        In the order of the samples; each row is at least 0 and adds up to 1.

    Raises
    ------
    ValueError
        As for `score_moments`.
    """
    (chosen,) = parse_maps([map])
    check_settings(sigma=sigma, n=n, start=start, batch_size=batch_size)
    segment = whole_segment(
        base_classifier, x, n=n, seed=seed, index=index, start=start, sigma=sigma,
        levels=levels,
    )  # fmt: skip
    parts = []
    with torch.inference_mode(), evaluating(base_classifier):
        for _, logits in score_batches(
            base_classifier, [segment], sigma=sigma, batch_size=batch_size,
            num_classes=num_classes,
        ):  # fmt: skip
            if not logits.isfinite().all():
                raise not_finite(segment)
            parts.append(apply(chosen, logits.float()).cpu())
    return torch.cat(parts).numpy()


def sample_moments(
    base_classifier: Classifier,
    dataset: Images,
    path: Pathlike,
    *,
    maps: Sequence[str | SimplexMap],
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
) -> ScoreLog:
    """Sample the score moments of many images into a log, resuming what it holds.

    Parameters
    ----------
    base_classifier, dataset, path, sigma, seed, indices, batch_size
        As for `lipsmooth.sampling.sample_log`.
    maps
        As for `score_moments`.
    n0, n : int
        At least 2 each. Selection samples, numbered 0 to n0 − 1, and estimation
        samples, numbered n0 to n0 + n − 1: no sample serves both.
    device, progress, wait, precision, fast, levels
        As for `lipsmooth.sampling.sample_log`.
    compiled : bool
        As there, and for the arithmetic of the maps as in `score_moments`.

    Returns
    -------
    ScoreLog
        The images asked for, in that order; the file may hold more.

    Raises
    ------
    ValueError
        As for `score_moments` and `lipsmooth.sampling.sample_log`.
    """
    chosen = parse_maps(maps)
    _check_samples(n0=n0, n=n)
    run = prepare(
        base_classifier, dataset, indices=indices, device=device, sigma=sigma, n0=n0,
        n=n, seed=seed, batch_size=batch_size, precision=precision, fast=fast,
        compiled=compiled, levels=levels,
    )  # fmt: skip
    run.config["maps"] = [str(each) for each in chosen]
    measure = partial(
        _moments_of, run.classifier, maps=chosen, sigma=sigma, batch_size=batch_size,
        num_classes=len(dataset.classes), compiled=compiled,
    )  # fmt: skip
    with ScoreWriter(path, run.config, provenance(run.place), wait=wait) as log:
        run.fill(
            log.done, measure, log.append, batch_size=batch_size, progress=progress
        )
    return read_score_log(path).select(run.wanted)


def _moments_of(
    base_classifier: Classifier,
    segments: Sequence[Segment],
    *,
    maps: tuple[SimplexMap, ...],
    sigma: float,
    batch_size: int,
    num_classes: int | None,
    compiled: bool,
) -> list[Moments]:
    totals = [Total(s.stop - s.start, maps, compiled) for s in segments]
    with torch.inference_mode(), evaluating(base_classifier):
        for batch, logits in score_batches(
            base_classifier, segments, sigma=sigma, batch_size=batch_size,
            num_classes=num_classes,
        ):  # fmt: skip
            parts = logits.split([stop - start for _, start, stop in batch])
            for (number, _, _), part in zip(batch, parts, strict=True):
                if not part.isfinite().all():
                    raise not_finite(segments[number])
                totals[number].add(part)
    return [Moments(*total.result()) for total in totals]


def _check_samples(**counts: int) -> None:
    for name, value in counts.items():
        check_whole(name, value, least=2)  # one sample has no variance
