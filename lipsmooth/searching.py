"""Votes at a noise level searched for each image, into a log."""

import time
from dataclasses import asdict
from functools import partial

from numpy.typing import ArrayLike
from tqdm import tqdm

from lipsmooth.data import Images, Pathlike
from lipsmooth.logs import LogWriter, VoteLog, read_log
from lipsmooth.models import provenance
from lipsmooth.noise_level import Search, search_noise_level
from lipsmooth.runs import prepare
from lipsmooth.sampling import count_votes
from lipsmooth.voting import Classifier


def sample_searched(
    base_classifier: Classifier,
    dataset: Images,
    path: Pathlike,
    *,
    search: Search,
    n0: int,
    n: int,
    seed: int,
    indices: ArrayLike | None = None,
    batch_size: int = 1000,
    device: str = "cpu",
    progress: bool = True,
    precision: str = "float32",
    fast: bool = True,
    compiled: bool = False,
) -> VoteLog:
    """Search a noise level for each image, then sample votes there into a log.

    Parameters
    ----------
    base_classifier, dataset, path, n0, n, seed, indices, batch_size, device, progress
        See `lipsmooth.sampling.sample_log`.
    search : Search
        Where and how finely, such as one of `lipsmooth.noise_level.PRESETS`. Its
        ``sigma`` is the original noise level, kept where the search gains nothing.
    precision, fast, compiled
        See `lipsmooth.sampling.sample_log`.

    Returns
    -------
    VoteLog
        With ``best_sigma`` per image. ``seconds`` includes the search.

    Raises
    ------
    ValueError
        As for `lipsmooth.sampling.sample_log`.

    Notes
    -----
    Guarantee: the votes are drawn from noise samples that the search has not seen, so a
    certificate from them has its full level. It is about the smoothed classifier at the
    image's own noise level: the promise per input, see `lipsmooth.noise_level`.

    References
    ----------
    Kung and Chen (2024), Algorithm 1.
    """
    run = prepare(
        base_classifier, dataset, indices=indices, device=device, sigma=search.sigma,
        n0=n0, n=n, seed=seed, batch_size=batch_size, precision=precision, fast=fast,
        compiled=compiled,
    )  # fmt: skip
    config = {**run.config, "search": asdict(search)}
    with LogWriter(path, config, provenance(run.place)) as log:
        bar = tqdm(
            run.remaining(log.done), f"searching σ, from {search.sigma:g}",
            unit="image", disable=not progress,
        )  # fmt: skip
        for index in bar:
            began = time.perf_counter()
            x, label = dataset[index]
            draw = partial(
                count_votes, run.classifier, x.to(run.place), seed=seed, index=index,
                batch_size=batch_size, num_classes=len(dataset.classes),
            )  # fmt: skip
            found = search_noise_level(draw, search)
            first = draw(sigma=found.sigma, n=n0, start=found.start)
            rest = draw(sigma=found.sigma, n=n, start=found.start + n0)
            seconds = time.perf_counter() - began
            log.append(index, label, first, rest, seconds, best_sigma=found.sigma)
    return read_log(path).select(run.wanted)
