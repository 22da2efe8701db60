"""All temperatures of the simplex maps at once: one pass over a block of logits."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipsmooth.scorelogs import NAMES, SimplexMap

BLOCK = 1000
"""Samples whose moments are taken together, before they are merged."""

_NEGLIGIBLE = 25.0
"""Terms of a softmax below exp(-25) = 1.4e-11 of the largest are left out where that
saves work: less than float32 resolves, for up to 4,000 classes."""

_FLOOR = -40.0
"""Exponentials below are raised to exp(-40) = 4e-18: processors are slow on numbers so
small that float32 cannot hold their squares."""

_MANY = 64
"""Classes from which on it pays to keep only those that are not negligible."""

_ENTRIES = {"cpu": 2**18, "compiled": 2**22, "cuda": 2**24}
"""Scores in work at a time; on a CPU 1 MB, what a core's cache can hold."""

Scores = Callable[[Tensor, Tensor, Tensor], Tensor]


class Total:
    """The moments of one run of samples, block by block."""

    def __init__(self, n: int, maps: tuple[SimplexMap, ...], compiled: bool) -> None:
        self._n, self._maps, self._compiled = n, maps, compiled
        self._block = self._out = None
        self._filled = self._done = 0

    def add(self, logits: Tensor) -> None:
        """Take the next samples; how they are cut into calls makes no difference."""
        while len(logits):
            if self._block is None:
                size = min(BLOCK, self._n - self._done)
                self._block = logits.new_empty(
                    (size, logits.shape[1]), dtype=torch.float32
                )
            room = len(self._block) - self._filled
            part, logits = logits[:room], logits[room:]
            # A copy: what a base classifier returns may be overwritten by its next.
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            if self._filled == len(self._block):
                self._merge()

    def _merge(self) -> None:
        new = grid_moments(self._block, self._maps, compiled=self._compiled)
        rows, self._block, self._filled = self._filled, None, 0
        if self._out is None:
            self._out = new
        else:
            n, step = self._done, new[0] - self._out[0]
            self._out[0] += step * (rows / (n + rows))
            self._out[1] += new[1] + step.square() * (n * rows / (n + rows))
        self._done += rows

    def result(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and unbiased variance over all samples, (maps, classes) each."""
        mean, squares = self._out.cpu().numpy()
        # Rounding alone makes a score's square sum negative, or its mean exceed 1.
        variance = np.maximum(squares, 0) / (self._n - 1)
        return np.clip(mean, 0, 1), variance


def grid_moments(
    logits: Tensor, maps: Sequence[SimplexMap], *, compiled: bool = False
) -> Tensor:
    """Take the moments over rows of every map of the same logits.

    Parameters
    ----------
    logits : Tensor of float32, shape (rows, classes)
        Finite.
    maps : sequence of SimplexMap
    compiled : bool
        Fuse the arithmetic with ``torch.compile``.

    Returns
    -------
    Tensor of float64, shape (2, maps, classes)
        Mean, and sum of the squared deviations from it.

    Notes
    -----
    One sort serves every temperature. With many classes only those by rank are kept
    that some row has above zero, and added to the classes they stand for. Deviations
    are taken from the mean before they are squared: in float32, the difference of two
    uncentred sums has no digits left for small variances.
    """
    rows, classes = logits.shape
    at = {n: [k for k, each in enumerate(maps) if each.name == n] for n in NAMES}
    given = [min(max(each.temperature, 1e-30), 1e30) for each in maps]  # of float32
    grids = {n: logits.new_tensor([given[k] for k in at[n]]) for n in NAMES}
    out = logits.new_empty((2, len(maps), classes), dtype=torch.float64)
    if at["hardmax"]:
        votes = torch.bincount(logits.argmax(dim=1), minlength=classes).double()
        moments = torch.stack([votes / rows, votes * (rows - votes) / rows])
        out[:, at["hardmax"]] = moments[:, None]
    centred = logits - logits.amax(dim=1, keepdim=True)
    columns, ranks = centred.T.contiguous(), None
    if at["sparsemax"]:
        ranks, theta, support = _rank(centred, grids["sparsemax"])
        kept = support.amax(dim=1)
        grid_of = _sparsemax, grids["sparsemax"], theta, kept
        out[:, at["sparsemax"]] = _moments(columns, ranks, *grid_of, compiled)
    if at["softmax"]:
        grid, kept = grids["softmax"], None
        if classes >= _MANY:
            ranks = ranks or _rank(centred, grid[:0])[0]
            reach = -ranks[0].amax(dim=1)  # of the best row, by rank: ascending
            kept = torch.searchsorted(reach, _NEGLIGIBLE * grid)
        theta = grid[:, None]  # not in use
        grid_of = _softmax, grid, theta, kept
        out[:, at["softmax"]] = _moments(columns, ranks, *grid_of, compiled)
    return out


def sparsemax_thresholds(ranked: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor]:
    """Find θ of the sparsemax at every temperature from logits sorted once.

    Parameters
    ----------
    ranked : Tensor, shape (rows, classes)
        Logits of each row, the largest first and equal to 0.
    temperatures : Tensor, shape (temperatures,)

    Returns
    -------
    theta : Tensor, shape (temperatures, rows)
        Such that the sparsemax is ``max(logits - θ, 0) / temperature``.
    support : Tensor of int64, shape (temperatures, rows)
        How many classes it leaves above zero.

    Notes
    -----
    Class ``k`` by rank is in the support if and only if the gaps to it from above,
    ``Σ_{j<k} (z_j - z_k)``, add up to less than the temperature. They grow with ``k``,
    so each temperature is a binary search: the sort and the sums serve all of them.
    """
    # What lies further below is never in the support: keep it from eating digits.
    known = ranked.clamp(min=-2 * temperatures.amax())
    sums = known.cumsum(dim=1)
    rank = torch.arange(1, ranked.shape[1] + 1, device=ranked.device)
    wanted = temperatures.expand(len(ranked), -1).contiguous()
    support = torch.searchsorted(sums - rank * known, wanted).clamp(min=1)
    theta = (sums.gather(1, support - 1) - wanted) / support
    return theta.T.contiguous(), support.T


Ranks = tuple[Tensor, Tensor]
"""Logits by rank and the classes they belong to, shape (classes, rows)."""


def _rank(centred: Tensor, temperatures: Tensor) -> tuple[Ranks, Tensor, Tensor]:
    """Sort as far down as it takes; return ranks, and thresholds and supports."""
    classes = centred.shape[1]
    keep = classes if classes < _MANY else classes // 4
    if keep < classes:
        ranked, order = centred.topk(keep, dim=1)
    else:
        ranked, order = centred.sort(dim=1, descending=True)
    theta = support = temperatures
    if len(temperatures):
        theta, support = sparsemax_thresholds(ranked, temperatures)
        if keep < classes and support.amax() == keep:  # or more
            ranked, order = centred.sort(dim=1, descending=True)
            theta, support = sparsemax_thresholds(ranked, temperatures)
    return (ranked.T.contiguous(), order.T.contiguous()), theta, support


def _softmax(logits: Tensor, grid: Tensor, _: Tensor) -> Tensor:
    powers = (logits / grid[:, None, None]).clamp_(min=_FLOOR).exp_()
    return powers.mul_(powers.sum(dim=1, keepdim=True).reciprocal_())


def _sparsemax(logits: Tensor, grid: Tensor, theta: Tensor) -> Tensor:
    return (logits - theta[:, None]).clamp_(min=0).div_(grid[:, None, None])


def _moments(
    columns: Tensor,
    ranks: Ranks | None,
    scores: Scores,
    grid: Tensor,
    theta: Tensor,
    kept: Tensor | None,
    compiled: bool,
) -> Tensor:
    """Return the moments of one kind of map, (2, temperatures, classes).

    ``columns`` are the logits, (classes, rows); of those by rank, ``kept`` matter.
    """
    classes, rows = columns.shape
    out = columns.new_empty((2, len(grid), classes), dtype=torch.float64)
    few = [classes] * len(grid)
    if classes >= _MANY:
        few = kept.tolist()
    # Adding to the right classes takes time, too; a full set of ranks may lack some.
    sparse = [k for k, count in enumerate(few) if count < classes // 4]
    for k in sparse:
        ranked, order = (part[: few[k]] for part in ranks)
        values = scores(ranked, grid[k : k + 1], theta[k : k + 1]).double().flatten()
        sums = columns.new_zeros((2, classes), dtype=torch.float64)
        sums[0].scatter_add_(0, order.flatten(), values)
        sums[1].scatter_add_(0, order.flatten(), values.square_())
        out[:, k] = torch.stack([sums[0] / rows, sums[1] - sums[0].square() / rows])
    dense = sorted(set(range(len(grid))) - set(sparse))
    of = _compiled() if compiled else _dense
    kind = "compiled" if compiled else columns.device.type
    size = _ENTRIES.get(kind, _ENTRIES["cuda"])
    size = max(1, size // columns.numel())
    for first in range(0, len(dense), size):
        part = dense[first : first + size]
        out[:, part] = of(scores, columns, grid[part], theta[part])
    return out


def _dense(scores: Scores, columns: Tensor, grid: Tensor, theta: Tensor) -> Tensor:
    values = scores(columns, grid, theta)
    mean = values.mean(dim=2, keepdim=True)
    values = values.sub_(mean)
    # The mean of float32 numbers is rounded: correct it, and what it did to squares.
    rest = values.sum(dim=2).double()
    norm = torch.linalg.vector_norm(values, dim=2).double()
    squares = norm.square() - rest.square() / values.shape[2]
    return torch.stack([mean[..., 0].double() + rest / values.shape[2], squares])


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_dense)
