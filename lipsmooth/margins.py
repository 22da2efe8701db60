"""Certificates without noise: scores of clean images and a Lipschitz constant."""

import copy
import math
import time
from decimal import ROUND_CEILING, Context, Decimal

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from tqdm import tqdm

from lipsmooth.data import Images, Pathlike
from lipsmooth.inference import optimized
from lipsmooth.lipschitz import product_upper_bound
from lipsmooth.marginlogs import MarginLog, MarginWriter, read_margin_log
from lipsmooth.models import provenance
from lipsmooth.noise import check_whole
from lipsmooth.rounding import rounding_bound
from lipsmooth.runs import Run, arithmetic, describe, find_images

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}

_DIGITS = Context(prec=10, rounding=ROUND_CEILING)


def sample_margins(
    base_classifier: nn.Module,
    dataset: Images,
    path: Pathlike,
    *,
    lipschitz: float | None = None,
    indices: ArrayLike | None = None,
    batch_size: int = 1000,
    precision: str = "float64",
    device: str = "cpu",
    progress: bool = True,
) -> MarginLog:
    """Compute the scores of clean images, going on from what a log holds.

    Parameters
    ----------
    base_classifier : nn.Module
        Moved to ``device``. What is certified is `lipsmooth.inference.optimized` of it:
        in evaluation mode, batch normalisations folded, and weights that are computed
        from others, such as orthogonal ones, computed once, in float32.
    dataset : Images
        What to certify.
    path : path
        The log. Killed at any moment, the same call finishes it.
    lipschitz : float, optional
        An upper bound of the Lipschitz constant of the score vector in the L2 norm,
        known from elsewhere. By default `lipsmooth.lipschitz.product_upper_bound` of
        the very weights that compute the scores.
    indices : array_like of int, optional
        Positions in the dataset; all by default.
    batch_size : int
        Images at a time.
    precision : {"float64", "float32"}
        Of the arithmetic, hence of the network that is certified and is to be
        deployed; the weights are the same. One pass per image can afford float64,
        where rounding costs no radius to speak of. In float32 its worst case costs a
        dense network about 0.001 on images of 64 numbers, and 0.1 on 3,072.
    device, progress
        See `lipsmooth.sampling.sample_log`.

    Returns
    -------
    MarginLog
        The images asked for, in that order. Its configuration has the constant as
        ``lipschitz``, and says whether it is ``"product"`` or ``"given"`` as
        ``bound``; and as ``rounding`` the bound of `lipsmooth.rounding`, or None where
        none is known: for convolutions, and for float32 where PyTorch may multiply
        matrices in TF32 or bfloat16.

    Raises
    ------
    ValueError
        If a setting is out of range, the log is of another run, a score is not finite,
        or no constant is given and a layer's is not known; the layer is named.

    Notes
    -----
    Guarantee: that of `lipsmooth.marginlogs.certify_margins`, with certainty if the
    constant is an upper bound. Where ``rounding`` is a bound, it is for the network as
    it computes in that precision, in batches of any size; where it is None, for the
    network in exact arithmetic with the scores as computed, and what rounding moves,
    typically a millionth of the scores, is not covered.
    """
    check_whole("batch_size", batch_size, least=1)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be float32 or float64, got {precision!r}")
    if lipschitz is not None and not 0 < lipschitz < math.inf:
        raise ValueError(f"lipschitz must be positive and finite, got {lipschitz}")
    wanted, place = find_images(dataset, indices), torch.device(device)
    config = describe(base_classifier, dataset, place)
    network = optimized(base_classifier)
    if precision == "float64":
        network = network.network.double()
    fixed = copy.deepcopy(network).cpu()
    if lipschitz is None:
        constant = _rounded_up(product_upper_bound(fixed, dataset.shape))
        if not 0 < constant < math.inf:
            raise ValueError(f"the network's Lipschitz constant is {constant}")
        config |= {"lipschitz": constant, "bound": "product"}
    else:
        config |= {"lipschitz": float(lipschitz), "bound": "given"}
    config |= {
        "rounding": _rounding(fixed, precision), "folded": True,
        "precision": arithmetic(place, precision),
    }  # fmt: skip
    run = Run(network, dataset, wanted, place, config)
    with MarginWriter(path, config, provenance(place)) as log:
        todo = run.remaining(log.done)
        groups = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
        for group in tqdm(groups, "scoring", unit="batch", disable=not progress):
            began = time.perf_counter()
            x, labels = dataset.tensors(group)
            scores, norms = _scores(network, x.to(place, PRECISIONS[precision]))
            seconds = (time.perf_counter() - began) / len(group)
            for row in zip(group, labels, scores, norms, strict=True):
                log.append(*row, seconds)
    return read_margin_log(path).select(run.wanted)


def _scores(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        scores = network(x).double().cpu()
    return scores, x.double().flatten(1).norm(dim=1).cpu()


def _rounding(network: nn.Module, precision: str) -> list[float] | None:
    """Return a bound on the rounding of the scores, or None if none is known."""
    coarse = torch.get_float32_matmul_precision() != "highest"
    if precision == "float32" and coarse:
        return None
    try:
        found = rounding_bound(network, dtype=PRECISIONS[precision])
    except ValueError:  # the layer may still have a Lipschitz constant, or one is given
        return None
    rounded = [_rounded_up(value) for value in found]
    return rounded if all(map(math.isfinite, rounded)) else None


def _rounded_up(value: float) -> float:
    # To ten digits: a log can be resumed where the last ones come out otherwise.
    return float(_DIGITS.create_decimal(Decimal(value)))
