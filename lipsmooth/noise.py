"""The noise of an image, sample by sample: the only place that draws it.

Sample ``k`` of an image depends on the seed, the image's index and ``k``, on
nothing else: neither on the batch size, nor on which samples or images were drawn
before, nor on a crash in between.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lipsmooth.grid import BITS, Grid

CHUNK = 250
"""Samples drawn from one generator; part of what the votes depend on."""


class NoiseStream:
    """The numbered standard normal noise samples of one image.

    Parameters
    ----------
    shape : tuple of int
        Shape of one sample.
    seed, index : int
        Whole numbers in [0, 2**64) and [0, 2**32).
    device : str or torch.device
        Where samples are drawn. CPU and CUDA have different streams, and a CUDA
        stream can differ between models of GPU.

    Notes
    -----
    Chunk ``j`` of `CHUNK` samples has its own generator, keyed by (seed, index,
    j) through NumPy's ``SeedSequence``, and is always drawn whole. On a CPU it is
    NumPy's SFC64: torch's CPU generator looks at 32 bits of its seed only.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        seed: int,
        index: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        check_whole("seed", seed, least=0, below=2**64)
        check_whole("index", index, least=0, below=2**32)
        self.shape, self.seed, self.index = tuple(shape), int(seed), int(index)
        self.device = torch.device(device)
        self._number, self._chunk = -1, torch.empty(0)

    def take(self, start: int, stop: int) -> Tensor:
        """Return samples ``start`` to ``stop - 1``, shape ``(samples, *shape)``."""
        check_whole("start", start, least=0)
        check_whole("stop", stop, least=start + 1)
        out = torch.empty((stop - start, *self.shape), device=self.device)
        self.fill(out, start)
        return out

    def fill(self, out: Tensor, start: int) -> None:
        """Write the samples from ``start`` on into ``out``, ``(samples, *shape)``.

        ``out`` is contiguous, of type float32 and on the stream's device.
        """
        check_whole("start", start, least=0)
        stop = start + len(out)
        whole = []
        for number in range(start // CHUNK, (stop - 1) // CHUNK + 1):
            first = number * CHUNK
            into = out[max(first - start, 0) : first + CHUNK - start]
            if len(into) == CHUNK:
                whole.append((number, into))
                continue
            if number != self._number:
                self._chunk = torch.empty((CHUNK, *self.shape), device=self.device)
                self._draw((number, self._chunk))
                self._number = number
            into.copy_(self._chunk[max(start - first, 0) : stop - first])
        threads = min(torch.get_num_threads(), len(whole))
        if threads > 1 and self.device.type == "cpu":  # NumPy lets go of Python's lock
            list(_pool(os.getpid(), threads).map(self._draw, whole))
        else:
            for chunk in whole:
                self._draw(chunk)

    def perturb(
        self, x: Tensor, out: Tensor, noise: Tensor, *, start: int, sigma: float
    ) -> None:
        """Write copies of an image with the samples from ``start`` on into ``out``.

        ``noise`` is room for the samples, as for `fill`; ``out`` has the type of ``x``.
        """
        self.fill(noise, start)
        torch.add(x, noise, alpha=sigma, out=out)

    def _draw(self, chunk: tuple[int, Tensor]) -> None:
        number, out = chunk
        rng = self._generator(number)
        if self.device.type == "cpu":
            rng.standard_normal(out=out.numpy(), dtype=np.float32)
        else:
            out.normal_(generator=rng)

    def _generator(
        self, *number: int, device: str | None = None
    ) -> np.random.Generator | torch.Generator:
        key = np.random.SeedSequence(self.seed, spawn_key=(self.index, *number))
        if (device or self.device.type) == "cpu":
            return np.random.Generator(np.random.SFC64(key))
        word = int(key.generate_state(1, np.uint64)[0])
        return torch.Generator(self.device).manual_seed(word)


class GridStream(NoiseStream):
    """The numbered noise samples of one image on a grid, in whole grid steps.

    Parameters
    ----------
    shape, seed, index, device
        See `NoiseStream`.
    sigma : float
        Standard deviation of the noise before it is rounded, in the units of the image.
    levels : int
        Grid steps in one unit; the image's pixels lie on the grid.

    Notes
    -----
    Guarantee: that of `lipsmooth.grid.Grid`. `perturb` adds without rounding: a sum of
    two whole numbers, cut to the grid's range and only then divided by ``levels``.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        sigma: float,
        levels: int,
        seed: int,
        index: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(shape, seed=seed, index=index, device=device)
        self.grid = _grid(sigma=sigma, levels=levels)
        self._steps: tuple[Tensor, Tensor] | None = None

    def perturb(
        self, x: Tensor, out: Tensor, noise: Tensor, *, start: int, sigma: float
    ) -> None:
        """See `NoiseStream.perturb`; raises unless the pixels lie on the grid."""
        if sigma != self.grid.sigma:
            raise ValueError(f"sigma is {self.grid.sigma} for this noise, not {sigma}")
        if self._steps is None or self._steps[0] is not x:
            whole = torch.from_numpy(self.grid.steps(x.cpu().numpy()))
            self._steps = x, whole.to(noise)
        self.fill(noise, start)
        noise += self._steps[1]  # exact: float32 holds all whole numbers below 2**24
        noise.clamp_(-self.grid.margin, self.grid.levels + self.grid.margin)
        torch.div(noise, self.grid.levels, out=out)

    def _draw(self, chunk: tuple[int, Tensor]) -> None:
        number, out = chunk
        rng = self._generator(number, self.grid.levels)
        if self.device.type == "cpu":
            self.grid.draw(rng, out.numpy())
            return
        low, high = (torch.from_numpy(side).to(out.device) for side in
                     self.grid.enclosures)  # fmt: skip
        drawn = torch.empty(out.shape, dtype=torch.int64, device=out.device)
        drawn.random_(0, 2**BITS, generator=rng)
        sure = torch.bucketize(drawn, high, right=True)
        open_ = sure != torch.bucketize(drawn, low, right=True)
        out.copy_(sure - self.grid.reach)
        if open_.any():
            more = self._generator(number, self.grid.levels, 1, device="cpu")
            settled = self.grid.settle(drawn[open_].cpu().numpy(), more)
            out[open_] = torch.from_numpy(settled).to(out)


_grid = cache(Grid)


def open_stream(
    shape: tuple[int, ...],
    *,
    seed: int,
    index: int,
    device: str | torch.device,
    sigma: float,
    levels: int | None,
) -> NoiseStream:
    """Return an image's noise: on the grid of that many levels, or unrounded."""
    common = {"seed": seed, "index": index, "device": device}
    if levels is None:
        return NoiseStream(shape, **common)
    return GridStream(shape, sigma=sigma, levels=levels, **common)


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # One per process: threads do not survive a fork.
    return ThreadPoolExecutor(threads, thread_name_prefix="noise")


def check_whole(name: str, value: int, *, least: int, below: int | None = None) -> None:
    """Raise unless ``value`` is a whole number in [least, below)."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (below is not None and value >= below):
        limit = "" if below is None else f" and below {below}"
        raise ValueError(
            f"{name} must be a whole number, at least {least}{limit}; got {value!r}"
        )
