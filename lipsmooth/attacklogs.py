"""Attack logs: at which radius an attack broke each image, read without PyTorch.

Written as vote logs are, see `lipsmooth.records`.
"""

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

CONFIGURED = ("num_classes", "sigma", "seed", "radii", "alpha")
"""What the configuration of an attack log holds."""


@dataclass(frozen=True)
class AttackLog:
    """What an attack found, in the order of the images' index.

    Attributes
    ----------
    config : dict
        Everything it depends on: dataset, model digest, ``sigma``, ``radii`` and
        ``alpha`` of `lipsmooth.empirical.broken_radii`, settings of attack and judge.
    provenance : dict
        Where it came from: versions, device, commit, date.
    index, label : ndarray of int, shape (images,)
        Position in the dataset and true class.
    broken : ndarray, shape (images,)
        The first of ``radii`` at which the smoothed classifier no longer gives the true
        class, infinity where none was found.
    seconds : ndarray, shape (images,)
    """

    config: dict
    provenance: dict
    index: NDArray[np.int64]
    label: NDArray[np.int64]
    broken: NDArray[np.float64]
    seconds: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.index)

    def select(self, indices: ArrayLike) -> "AttackLog":
        """Return the rows of the images ``indices``, in that order.

        Raises
        ------
        ValueError
            If the log lacks one of them.
        """
        return select_rows(self, indices, ATTACKS)


def read_attack_log(path: Pathlike) -> AttackLog:
    """Read an attack log, also one that is still being written or was cut short.

    Parameters
    ----------
    path : path
        Written by ``python -m lipsmooth attack``.

    Returns
    -------
    AttackLog

    Raises
    ------
    ValueError, FileNotFoundError
        As for `lipsmooth.logs.read_log`.

    Warns
    -----
    UserWarning
        For each damaged line, with its number; the other lines are kept.
    """
    header, ordered = read_records(path, ATTACKS)

    distances = [np.inf if row["broken"] is None else row["broken"] for row in ordered]
    return AttackLog(
        config=header["config"], provenance=header["provenance"],
        index=column(ordered, "index", np.int64),
        label=column(ordered, "label", np.int64),
        broken=np.array(distances, dtype=float),
        seconds=column(ordered, "seconds", float),
    )  # fmt: skip


def _check_row(row: dict, config: dict, where: str) -> None:
    if not {"index", "label", "broken", "seconds"} <= row.keys():
        raise ValueError(f"{where} is no row of an attack log: {shown(row)}")
    check_about(row, where)
    if row["broken"] is not None and row["broken"] not in config["radii"]:
        what = f"{shown(row['broken'])!r} is none of the radii "
        what += shown(config["radii"], 200)
        raise ValueError(f"{where}: {what}")


def _check_config(config: dict) -> None:
    radii = config["radii"]
    if not isinstance(radii, list) or not all(map(is_number, radii)):
        raise ValueError(f"radii must be a list of numbers, got {shown(radii)!r}")


ATTACKS = Kind(
    format="lipsmooth-attack",
    noun="attack log",
    content="attack",
    data=("label", "broken"),
    check=_check_row,
    required=CONFIGURED,
    check_config=_check_config,
)
"""How the files of attack logs are told from others, and checked."""


class AttackWriter(RecordWriter):
    """An attack log opened for appending; see `lipsmooth.records.RecordWriter`."""

    kind = ATTACKS

    def append(self, index: int, label: int, broken: float, seconds: float) -> None:
        """Write what was found on one image and wait until it is on the disk."""
        found = None if np.isinf(broken) else float(broken)
        self.write(
            {"index": int(index), "label": int(label), "broken": found,
             "seconds": round(float(seconds), 6)}
        )  # fmt: skip
