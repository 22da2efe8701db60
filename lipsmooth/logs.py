"""Vote logs: what sampling hands to certification, safe against crashes.

A log is a text file of JSON lines: a header with everything the votes depend on,
then one line per image. Every line ends in a checksum of the rest of it and is on
the disk before the next image is sampled.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipsmooth.logchecks import check_about, is_number, shown
from lipsmooth.records import (
    Kind,
    Pathlike,
    RecordWriter,
    column,
    read_records,
    select_rows,
)

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class VoteLog:
    """The votes of a set of images, in the order of their index.

    Attributes
    ----------
    config : dict
        Everything the votes depend on: dataset, model digest, ``sigma``, ``n0``,
        ``n``, ``seed``, ``num_classes``, random number generator, precision.
    provenance : dict
        Where they came from: versions, device, commit, date.
    index, label : ndarray of int, shape (images,)
        Position in the dataset and true class.
    counts_selection, counts_estimation : ndarray of int64, shape (images, classes)
        Votes under the first ``n0`` and under the next ``n`` noise samples, or under
        fewer than ``n`` in a log that stopped early.
    seconds : ndarray, shape (images,)
    decision : ndarray of int8, shape (images,), or None
        None unless ``config`` has a ``target_radius``, for which sampling stopped
        early: 1 where the radius was found to reach it, -1 where it was found not
        to, 0 where ``n`` votes did not decide. The stopping time is the sum of
        ``counts_estimation``; fixed-``n`` bounds do not hold for such votes.
    best_sigma : ndarray, shape (images,), or None
        None unless ``config`` has a ``search``: the noise level that it found for each
        image, at which the image's votes were then drawn, from fresh noise.
    """

    config: dict
    provenance: dict
    index: Counts
    label: Counts
    counts_selection: Counts
    counts_estimation: Counts
    seconds: NDArray[np.float64]
    decision: NDArray[np.int8] | None = None
    best_sigma: NDArray[np.float64] | None = None

    @property
    def sigma(self) -> float | NDArray[np.float64]:
        """The noise level of the votes: one for all images, or one for each."""
        return self.config["sigma"] if self.best_sigma is None else self.best_sigma

    def __len__(self) -> int:
        return len(self.index)

    def select(self, indices: ArrayLike) -> "VoteLog":
        """Return the rows of the images ``indices``, in that order.

        Raises
        ------
        ValueError
            If the log lacks one of them.
        """
        return select_rows(self, indices, VOTES)


def read_log(path: Pathlike) -> VoteLog:
    """Read a vote log, also one that is still being written or was cut short.

    Parameters
    ----------
    path : path
        File written by `LogWriter`, hence by ``python -m lipsmooth sample``.

    Returns
    -------
    VoteLog
        One row per image, sorted by index. Repeated identical rows count once.

    Raises
    ------
    ValueError
        If the file is not a vote log, its header is damaged, it holds no image, a
        row disagrees with the header, or two rows of one image differ.
    FileNotFoundError
        If there is no such file.

    Warns
    -----
    UserWarning
        For each damaged line, with its number; the other lines are kept.
    """
    header, ordered = read_records(path, VOTES)

    def given(name: str, dtype: type) -> NDArray | None:
        return column(ordered, name, dtype) if name in ordered[0] else None

    return VoteLog(
        config=header["config"],
        provenance=header["provenance"],
        index=column(ordered, "index", np.int64),
        label=column(ordered, "label", np.int64),
        counts_selection=column(ordered, "selection", np.int64),
        counts_estimation=column(ordered, "estimation", np.int64),
        seconds=column(ordered, "seconds", float),
        decision=given("decision", np.int8),
        best_sigma=given("best_sigma", float),
    )


def _check_row(row: dict, config: dict, where: str) -> None:
    """Raise unless a row is data, and has the votes that the configuration says."""
    if not {"index", "seconds", "label", "selection", "estimation"} <= row.keys():
        raise ValueError(f"{where} is no row of votes: {shown(row)}")
    check_about(row, where)
    numbers = [row.get("decision", 0)]
    for name in ("selection", "estimation"):
        if not isinstance(row[name], list):
            raise ValueError(f"{where}: {name} is {shown(row[name])!r}")
        numbers += row[name]
    wrong = [value for value in numbers if type(value) is not int]
    if wrong:
        text = shown(wrong[0])
        raise ValueError(f"{where}: {text!r} is not a number where one is due")
    _check_votes(row, config, where)


def _check_config(config: dict) -> None:
    """Raise for a log that stopped early, unless it says by what rule."""
    if "target_radius" not in config:
        return
    radius, alpha = config["target_radius"], config.get("alpha")
    if not is_number(radius) or radius < 0:
        what = "target_radius must be at least 0 and finite"
        raise ValueError(f"{what}, got {shown(radius)!r}")
    if not is_number(alpha) or not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {shown(alpha)!r}")


def _check_votes(row: dict, config: dict, where: str) -> None:
    level = row.get("best_sigma", 0.0)
    if ("best_sigma" in row) != ("search" in config) or not isinstance(level, float):
        due = "a number" if "search" in config else "absent: none was searched for"
        raise ValueError(f"{where}: best_sigma must be {due}")
    if "search" in config and not 0 < level < np.inf:
        raise ValueError(f"{where}: best_sigma must be positive, got {level}")
    stopped = "target_radius" in config
    if ("decision" in row) != stopped or row.get("decision", 0) not in (-1, 0, 1):
        what = "-1, 0 or 1" if stopped else "absent: nothing was to be decided"
        raise ValueError(f"{where}: decision must be {what}")
    for name, key in (("selection", "n0"), ("estimation", "n")):
        votes = row[name]
        if len(votes) != config["num_classes"]:
            what = f"{len(votes)} classes, not {config['num_classes']}"
            raise ValueError(f"{where}: {what}")
        fewer = stopped and key == "n" and row["decision"] != 0
        fits = 1 <= sum(votes) <= config[key] if fewer else sum(votes) == config[key]
        if min(votes) < 0 or not fits:
            rule = "sum to at most" if fewer else "sum to"
            raise ValueError(
                f"{where}: {name} counts {shown(votes, 200)} do not {rule} "
                f"{key} = {config[key]}"
            )


VOTES = Kind(
    format="lipsmooth-votes",
    noun="vote log",
    content="votes",
    data=("label", "selection", "estimation", "decision", "best_sigma"),
    check=_check_row,
    check_config=_check_config,
)
"""How the files of vote logs are told from others, and checked."""


class LogWriter(RecordWriter):
    """A vote log opened for appending; see `lipsmooth.records.RecordWriter`."""

    kind = VOTES

    def append(
        self,
        index: int,
        label: int,
        selection: Iterable[int],
        estimation: Iterable[int],
        seconds: float,
        decision: int | None = None,
        best_sigma: float | None = None,
    ) -> None:
        """Write one image's votes and wait until they are on the disk.

        ``decision`` belongs to logs whose configuration has a ``target_radius``,
        ``best_sigma`` to those that have a ``search``.
        """
        record = {
            "index": int(index),
            "label": int(label),
            "selection": [int(votes) for votes in selection],
            "estimation": [int(votes) for votes in estimation],
            "seconds": round(float(seconds), 6),
        }
        if decision is not None:
            record["decision"] = int(decision)
        if best_sigma is not None:
            record["best_sigma"] = float(best_sigma)
        self.write(record)
