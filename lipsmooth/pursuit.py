"""Sampling that stops, image by image, as soon as the votes have decided.

Undecided images share the batches; decided ones make room for the next. Sample ``k``
of an image is the same however the batches are dealt, and an image stops at the
first look of its schedule that decides, so that neither the batch size nor a crash
nor the other images leave a trace in the log. Samples drawn beyond the decision,
to fill a batch, are dropped uncounted.
"""

import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm import tqdm

from lipsmooth.data import Images, Pathlike
from lipsmooth.logs import LogWriter, VoteLog, read_log
from lipsmooth.models import provenance
from lipsmooth.noise import open_stream
from lipsmooth.runs import prepare
from lipsmooth.sequential import RULE, Boundaries, stopping_rule
from lipsmooth.voting import Classifier, check_scores, evaluating

_STRIDE = 10
"""Samples that an image gets at least when others wait: shorter strides cost more
in Python than they save in samples."""


def sample_decisions(
    base_classifier: Classifier,
    dataset: Images,
    path: Pathlike,
    *,
    target_radius: float,
    alpha: float,
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
    """Sample each image until it is decided whether its radius reaches a target.

    Parameters
    ----------
    base_classifier, dataset, path, sigma, n0, seed, indices
        See `lipsmooth.sampling.sample_log`.
    target_radius : float
        At least 0, in the units of the input.
    alpha : float
        Total failure probability per image, in (0, 1).
    n : int
        Estimation samples after which an image stays undecided.
    batch_size : int
        Samples in one forward pass, of several images; the log does not depend on
        it. Noise is kept for up to ``batch_size / 10`` images at a time.
    device, progress, wait, precision, fast, compiled, levels
        See `lipsmooth.sampling.sample_log`.

    Returns
    -------
    VoteLog
        With a ``decision`` per image; `lipsmooth.decisions.certify_log` turns it
        into certificates.

    Raises
    ------
    ValueError
        As for `lipsmooth.sampling.sample_log` and
        `lipsmooth.sequential.stopping_rule`.

    Notes
    -----
    Guarantee: that of `lipsmooth.sequential.boundaries`, image by image, for the
    class that the selection samples name and ``p* = Φ(target_radius / sigma)``.
    After ``m`` estimation samples an image's votes are those of
    `lipsmooth.sampling.count_votes` with ``start=n0, n=m``.
    """
    run = prepare(
        base_classifier, dataset, indices=indices, device=device, sigma=sigma, n0=n0,
        n=n, seed=seed, batch_size=batch_size, precision=precision, fast=fast,
        compiled=compiled, levels=levels,
    )  # fmt: skip
    rule = stopping_rule(target_radius, sigma=sigma, n=n, alpha=alpha)
    aim = {"target_radius": float(target_radius), "alpha": float(alpha)}
    run.config.update(aim, stopping=RULE)
    with LogWriter(path, run.config, provenance(run.place), wait=wait) as log:
        remaining = run.remaining(log.done)
        candidates = (
            Candidate(
                i, *dataset[i], rule=rule, n0=n0, seed=seed, device=run.place,
                classes=len(dataset.classes), sigma=sigma, levels=levels,
            ) for i in remaining
        )  # fmt: skip
        for image in tqdm(
            pursue(run.classifier, candidates, batch_size=batch_size),
            desc=f"deciding R ≥ {target_radius:g}", unit="image",
            total=len(remaining), disable=not progress,
        ):  # fmt: skip
            log.append(
                image.index, image.label, image.selection, image.estimation,
                image.seconds, image.decision,
            )  # fmt: skip
    return read_log(path).select(run.wanted)


class Candidate:
    """An image on its way to a decision."""

    def __init__(
        self,
        index: int,
        x: Tensor,
        label: int,
        *,
        rule: Boundaries,
        n0: int,
        seed: int,
        device: torch.device,
        classes: int,
        sigma: float,
        levels: int | None = None,
    ) -> None:
        if not x.isfinite().all():
            raise ValueError(f"x must be finite; image {index} has NaN or infinity")
        self.index, self.label, self.x = index, label, x.to(device)
        self._sigma = sigma
        self._stream = open_stream(
            x.shape, seed=seed, index=index, device=device, sigma=sigma, levels=levels
        )
        self._rule = rule
        # Sample numbers at which something is asked: which class, then the looks.
        self._marks = np.concatenate([[n0], n0 + rule.looks]).tolist()
        self._passed = self.position = 0
        self.selection, self.estimation = np.zeros((2, classes), dtype=np.int64)
        self.decision, self.done, self.seconds = 0, False, 0.0

    @property
    def stride(self) -> int:
        """Samples to the next question, or a few more."""
        step = self._marks[self._passed] - self.position
        return min(max(step, _STRIDE), self.left)

    @property
    def left(self) -> int:
        """Samples before the cap."""
        return self._marks[-1] - self.position

    def draw(self, noise: Tensor, noisy: Tensor) -> None:
        """Write the next noise and the noisy copies, as many as there is room for."""
        self._stream.perturb(
            self.x, noisy, noise, start=self.position, sigma=self._sigma
        )

    def add(self, votes: NDArray[np.int64]) -> None:
        """Count the votes of those copies, -1 for scores that are not finite."""
        while len(votes) and not self.done:
            mark = self._marks[self._passed]
            part, votes = np.split(votes, [mark - self.position])
            if part.min() < 0:
                what = "the base classifier's scores must be finite"
                raise ValueError(f"{what}; image {self.index} has NaN or infinity")
            counts = self.estimation if self._passed else self.selection
            counts += np.bincount(part, minlength=len(counts))
            self.position += len(part)
            if self.position == mark:
                self._ask()

    def _ask(self) -> None:
        if self._passed:
            k = self.estimation[np.argmax(self.selection)]
            self.decision = int(self._rule.decide(k, self._passed - 1))
        self._passed += 1
        self.done = self.decision != 0 or self._passed == len(self._marks)


def pursue(
    base_classifier: Classifier,
    candidates: Iterable[Candidate],
    *,
    batch_size: int,
) -> Iterator[Candidate]:
    """Yield candidates as they are decided, or reach the cap."""
    waiting, active, noise = iter(candidates), [], None
    while sizes := _deal(active, waiting, batch_size):
        began = time.perf_counter()
        shares = [(c, size) for c, size in zip(active, sizes, strict=True) if size]
        if noise is None:  # kept: fresh memory costs as much as the noise
            x = active[0].x
            noise = torch.empty((batch_size, *x.shape), device=x.device)
            noisy = noise.to(x.dtype, copy=True)
        ends = np.cumsum([size for _, size in shares]).tolist()
        for (image, size), end in zip(shares, ends, strict=True):
            image.draw(noise[end - size : end], noisy[end - size : end])
        votes = _vote(base_classifier, noisy[: ends[-1]], len(active[0].selection))
        each = (time.perf_counter() - began) / len(votes)
        for (image, size), part in zip(shares, np.split(votes, ends[:-1]), strict=True):
            image.add(part)
            image.seconds += each * size
        yield from [image for image in active if image.done]
        active = [image for image in active if not image.done]


def _deal(
    active: list[Candidate], waiting: Iterator[Candidate], batch_size: int
) -> list[int]:
    """Share a batch, earlier images first; admit new ones while there is room."""
    sizes, room = [], batch_size
    for image in active:
        sizes.append(min(room, image.stride))
        room -= sizes[-1]
    while room and (image := next(waiting, None)):
        active.append(image)
        sizes.append(min(room, image.stride))
        room -= sizes[-1]
    # With nobody left waiting, running ahead costs nothing.
    ahead = room // max(len(active), 1)
    return [min(s + ahead, c.left) for c, s in zip(active, sizes, strict=True)]


def _vote(
    base_classifier: Classifier, batch: Tensor, classes: int
) -> NDArray[np.int64]:
    with torch.inference_mode(), evaluating(base_classifier):
        scores = base_classifier(batch)
        check_scores(scores, len(batch), classes)
        finite = scores.isfinite().all(dim=1)
        return torch.where(finite, scores.argmax(dim=1), -1).cpu().numpy()
