"""Margin logs: scores of clean images and a Lipschitz constant, read without PyTorch.

What certificates without noise are made from, see `lipsmooth.margins`. Written as vote
logs are, see `lipsmooth.records`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipsmooth.certify import ABSTAIN, Certificates
from lipsmooth.logchecks import check_about, is_number, shown
from lipsmooth.radii import radius_margin
from lipsmooth.records import (
    Kind,
    Pathlike,
    RecordWriter,
    column,
    read_records,
    select_rows,
)

CONFIGURED = ("num_classes", "lipschitz", "rounding")
"""What the configuration of a margin log holds."""

Array = NDArray[np.float64]

_SLIVER = 1e-12
"""Share of a margin that pays for the rounding, in double precision, of the radius."""


@dataclass(frozen=True)
class MarginLog:
    """The scores of a set of images, in the order of their index.

    Attributes
    ----------
    config : dict
        Everything they depend on: dataset, model digest, ``num_classes``, precision;
        ``lipschitz``, the constant of the score vector, and ``bound``, where it came
        from; ``rounding``, see `certify_margins`.
    provenance : dict
        Where they came from: versions, device, commit, date.
    index, label : ndarray of int, shape (images,)
        Position in the dataset and true class.
    scores : ndarray, shape (images, classes)
        As the network computed them.
    norm : ndarray, shape (images,)
        Euclidean norm of each image.
    seconds : ndarray, shape (images,)
    """

    config: dict
    provenance: dict
    index: NDArray[np.int64]
    label: NDArray[np.int64]
    scores: Array
    norm: Array
    seconds: Array

    @property
    def lipschitz(self) -> float:
        """The L2 Lipschitz constant of the score vector, or an upper bound of it."""
        return self.config["lipschitz"]

    def __len__(self) -> int:
        return len(self.index)

    def select(self, indices: ArrayLike) -> "MarginLog":
        """Return the rows of the images ``indices``, in that order.

        Raises
        ------
        ValueError
            If the log lacks one of them.
        """
        return select_rows(self, indices, MARGINS)

    def certificates(self) -> Certificates:
        """Certify every image; see `certify_margins` for what is promised."""
        return certify_margins(
            self.scores, lipschitz=self.lipschitz, norm=self.norm,
            rounding=self.config["rounding"],
        )  # fmt: skip


def certify_margins(
    scores: ArrayLike,
    *,
    lipschitz: float,
    rounding: tuple[float, float] | None = None,
    norm: ArrayLike | None = None,
) -> Certificates:
    """Certify a batch of images from their scores, without noise and without chance.

    Parameters
    ----------
    scores : array_like, shape (images, classes)
        Of the clean images, finite; at least two classes.
    lipschitz : float
        Lipschitz constant of the score *vector* in the L2 norm, or an upper bound.
    rounding : pair of float, optional
        Numbers e and f such that the scores of an input x, as they are computed, are
        at most ``e + f ‖x‖`` from the exact ones, in the L2 norm: from
        `lipsmooth.rounding.rounding_bound`.
    norm : array_like, shape (images,)
        The norm ‖x‖ of each image, needed with ``rounding``.

    Returns
    -------
    Certificates
        Prediction and radius, `ABSTAIN` and 0 where two classes tie or rounding could
        exchange them. The bounds on probabilities are NaN: there is no noise.

    Raises
    ------
    ValueError
        If a score is not finite, shapes do not fit or the constant is not positive.

    Notes
    -----
    Guarantee: if ``lipschitz`` is an upper bound of the constant of the network in
    exact arithmetic, then in the open ball of the radius the network in exact
    arithmetic gives no class a larger score than the prediction. With ``rounding``
    this holds for the network *as computed*, at every point that its precision can
    represent: at a distance r both images' scores may be off, so the margin m leaves
    ``r < (m / sqrt(2) − 2 (e + f ‖x‖)) / (lipschitz + f)``,
    and a last 1e-12 of m pays for computing that. Without, rounding is not covered.
    There is no failure probability.

    References
    ----------
    Tsuzuku, Sato and Sugiyama (2018), *Lipschitz-margin training*.
    """
    values = np.asarray(scores, dtype=float)
    if values.ndim != 2 or values.shape[1] < 2 or not np.all(np.isfinite(values)):
        raise ValueError(
            "scores must be finite, of shape (images, classes) with at least two "
            f"classes; got shape {values.shape}"
        )
    rival, best = np.moveaxis(np.partition(values, -2, axis=1)[:, -2:], 1, 0)
    margin, slope = best - rival, float(lipschitz)
    if rounding is not None:
        constant, growth = rounding
        length = np.asarray(norm, dtype=float)
        if length.shape != margin.shape or not np.all(length >= 0):
            raise ValueError(f"norm must be {len(margin)} lengths, got {norm}")
        lost = 2 * np.sqrt(2) * (constant + growth * length)
        margin, slope = (1 - _SLIVER) * margin - lost, slope + growth
    radius = radius_margin(margin, lipschitz=slope)
    certified = radius > 0
    unknown = np.full(len(values), np.nan)
    return Certificates(
        prediction=np.where(certified, np.argmax(values, axis=1), ABSTAIN),
        radius=np.where(certified, radius, 0.0),
        p_a_lower=unknown,
        p_b_upper=unknown,
    )


def read_margin_log(path: Pathlike) -> MarginLog:
    """Read a margin log, also one that is still being written or was cut short.

    Parameters
    ----------
    path : path
        Written by ``python -m lipsmooth margins``.

    Returns
    -------
    MarginLog

    Raises
    ------
    ValueError, FileNotFoundError
        As for `lipsmooth.logs.read_log`.

    Warns
    -----
    UserWarning
        For each damaged line, with its number; the other lines are kept.
    """
    header, ordered = read_records(path, MARGINS)

    return MarginLog(
        config=header["config"],
        provenance=header["provenance"],
        index=column(ordered, "index", np.int64),
        label=column(ordered, "label", np.int64),
        scores=column(ordered, "scores", float),
        norm=column(ordered, "norm", float),
        seconds=column(ordered, "seconds", float),
    )


def _check_row(row: dict, config: dict, where: str) -> None:
    if not {"index", "label", "scores", "norm", "seconds"} <= row.keys():
        raise ValueError(f"{where} is no row of a margin log: {shown(row)}")
    check_about(row, where)
    scores, classes = row["scores"], config["num_classes"]
    if not isinstance(scores, list) or len(scores) != classes:
        found = len(scores) if isinstance(scores, list) else shown(scores)
        raise ValueError(f"{where}: scores must be {classes} numbers, got {found!r}")
    for value in (*scores, row["norm"]):
        if not is_number(value):
            raise ValueError(f"{where}: {shown(value)!r} is not a finite number")
    if row["norm"] < 0:
        raise ValueError(f"{where}: norm is {row['norm']}")


def _check_config(config: dict) -> None:
    constant, pair = config["lipschitz"], config["rounding"]
    if not is_number(constant) or constant <= 0:
        what = "lipschitz must be positive and finite"
        raise ValueError(f"{what}, got {shown(constant)!r}")
    if config["num_classes"] < 2:
        raise ValueError("num_classes must be at least 2, got 1")
    if pair is None:
        return
    fits = isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair))
    if not fits or min(pair) < 0:
        what = "rounding must be two numbers, at least 0, or none"
        raise ValueError(f"{what}, got {shown(pair)!r}")


MARGINS = Kind(
    format="lipsmooth-margins",
    noun="margin log",
    content="scores",
    data=("label", "scores", "norm"),
    check=_check_row,
    required=CONFIGURED,
    check_config=_check_config,
)
"""How the files of margin logs are told from others, and checked."""


class MarginWriter(RecordWriter):
    """A margin log opened for appending; see `lipsmooth.records.RecordWriter`."""

    kind = MARGINS

    def append(
        self, index: int, label: int, scores: ArrayLike, norm: float, seconds: float
    ) -> None:
        """Write the scores of one image and wait until they are on the disk.

        Their decimals name the very floats.
        """
        self.write(
            {"index": int(index), "label": int(label),
             "scores": np.asarray(scores, dtype=float).tolist(), "norm": float(norm),
             "seconds": round(float(seconds), 6)}
        )  # fmt: skip
