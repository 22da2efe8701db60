"""Attacks on many images, into a log."""

import time
from collections.abc import Sequence
from functools import partial

from numpy.typing import ArrayLike
from torch import nn
from tqdm import tqdm

from lipsmooth.attack import attack_smoothed
from lipsmooth.attacklogs import AttackLog, AttackWriter, read_attack_log
from lipsmooth.data import Images, Pathlike
from lipsmooth.empirical import broken_radii, outvoted_at
from lipsmooth.intervals import check_alpha
from lipsmooth.models import provenance
from lipsmooth.noise import check_whole
from lipsmooth.runs import prepare

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def sample_attacks(
    base_classifier: nn.Module,
    dataset: Images,
    path: Pathlike,
    *,
    sigma: float,
    radii: Sequence[float] = RADII,
    alpha: float = 0.05,
    n: int = 1000,
    seed: int,
    steps: int = 20,
    noise_samples: int = 16,
    indices: ArrayLike | None = None,
    batch_size: int = 1000,
    device: str = "cpu",
    progress: bool = True,
) -> AttackLog:
    """Attack the smoothed classifier on many images, going on from what a log holds.

    Parameters
    ----------
    base_classifier : nn.Module
        Moved to ``device``; both attacked and judged in float32, batch normalisations
        folded.
    dataset : Images
        What to attack.
    path : path
        The log. Killed at any moment, the same call finishes it, to the same result.
    sigma : float
        Standard deviation of the smoothing noise, positive.
    radii : sequence of float
        Increasing, at least 0; see `lipsmooth.empirical.broken_radii`.
    alpha : float
        Probability of calling an image broken that is not.
    n : int
        Votes from which an attacked image is judged.
    seed : int
        Of all noise.
    steps, noise_samples : int
        See `lipsmooth.attack.attack_smoothed`.
    indices : array_like of int, optional
        Positions in the dataset; all by default.
    batch_size, device, progress
        See `lipsmooth.sampling.sample_log`.

    Returns
    -------
    AttackLog
        The images asked for, in that order.

    Raises
    ------
    ValueError
        If a setting is out of range, or the log is of another run.

    Notes
    -----
    Guarantee: that of `lipsmooth.empirical.broken_radii`, image by image. The noise of
    the judge is not that of the attack.
    """
    reach = [float(radius) for radius in radii]
    check_alpha(alpha)
    for name, value in {"steps": steps, "noise_samples": noise_samples}.items():
        check_whole(name, value, least=1)
    run = prepare(
        base_classifier, dataset, indices=indices, device=device, sigma=sigma, n0=1,
        n=n, seed=seed, batch_size=batch_size, precision="float32", fast=True,
        compiled=False,
    )  # fmt: skip
    config = {
        **{key: value for key, value in run.config.items() if key not in ("n0", "n")},
        "radii": reach, "alpha": float(alpha), "judge_votes": int(n),
        "steps": int(steps), "noise_samples": int(noise_samples),
    }  # fmt: skip
    attack = partial(
        attack_smoothed, run.classifier, sigma=sigma, steps=steps, seed=seed,
        noise_samples=noise_samples, batch_size=batch_size,
    )  # fmt: skip
    judge = partial(
        outvoted_at, run.classifier, sigma=sigma, n=n, seed=seed + 1,
        batch_size=batch_size,
    )  # fmt: skip
    with AttackWriter(path, config, provenance(run.place)) as log:
        remaining = run.remaining(log.done)
        bar = tqdm(remaining, "attacking", unit="image", disable=not progress)
        for index in bar:
            began = time.perf_counter()
            x, y = dataset.tensors([index])
            (broken,) = broken_radii(
                attack, judge, x.to(run.place), y.numpy(), radii=reach, alpha=alpha,
                indices=[index],
            )  # fmt: skip
            log.append(index, int(y[0]), broken, time.perf_counter() - began)
    return read_attack_log(path).select(run.wanted)
