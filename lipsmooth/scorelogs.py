"""Score logs: means and variances of class scores, for one or several simplex maps.

The counterpart of vote logs for scores in [0, 1], written in the same way (see
`lipsmooth.records`), and read without PyTorch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipsmooth.logchecks import check_about, shown
from lipsmooth.records import (
    REQUIRED,
    Kind,
    Pathlike,
    RecordWriter,
    column,
    read_records,
    select_rows,
)

NAMES = ("softmax", "sparsemax", "hardmax")

_MOMENTS = ("mean_selection", "variance_selection", "mean", "variance")

Array = NDArray[np.float64]


class SimplexMap(NamedTuple):
    """A map from logits to class scores: what it is called, and its temperature.

    The temperature divides the logits; the smaller it is, the closer to a vote.
    """

    name: str
    temperature: float = 1.0

    @classmethod
    def parse(cls, text: "str | SimplexMap") -> "SimplexMap":
        """Read ``"sparsemax:0.5"``; without a temperature it is 1.

        Raises
        ------
        ValueError
            If there is no such map, or the temperature is not positive and finite.
        """
        if isinstance(text, SimplexMap):
            name, temperature = text
        else:
            name, separator, number = str(text).partition(":")
            try:
                temperature = float(number) if separator else 1.0
            except ValueError:
                temperature = math.nan
        if name not in NAMES:
            known = ", ".join(NAMES)
            raise ValueError(f"a map is one of {known}, as sparsemax:0.5; got {text!r}")
        if not 0 < temperature < math.inf:
            what = "the temperature of a map must be positive and finite"
            raise ValueError(f"{what}, as in sparsemax:0.5; got {text!r}")
        return cls(name, float(temperature))

    def __str__(self) -> str:
        return f"{self.name}:{self.temperature!r}"


def parse_maps(maps: Sequence[str | SimplexMap]) -> tuple[SimplexMap, ...]:
    """Return the maps, or raise ValueError if there is none or one comes twice."""
    if isinstance(maps, str | SimplexMap):
        maps = [maps]
    found = tuple(SimplexMap.parse(each) for each in maps)
    if not found:
        raise ValueError("maps must name at least one map, such as sparsemax:0.5")
    for each in found:
        if found.count(each) > 1:
            raise ValueError(f"maps name {each} twice")
    return found


@dataclass(frozen=True)
class ScoreLog:
    """The score moments of a set of images, in the order of their index.

    Attributes
    ----------
    config : dict
        Everything they depend on: dataset, model digest, ``maps``, ``sigma``,
        ``n0``, ``n``, ``seed``, ``num_classes``, random number generator, precision.
    provenance : dict
        Where they came from: versions, device, commit, date.
    index, label : ndarray of int, shape (images,)
        Position in the dataset and true class.
    mean_selection, variance_selection : ndarray, shape (images, maps, classes)
        Of the scores under the first ``n0`` noise samples.
    mean, variance : ndarray, shape (images, maps, classes)
        Of the scores under the next ``n``; variances are unbiased, over all ``n``.
    seconds : ndarray, shape (images,)
    """

    config: dict
    provenance: dict
    index: NDArray[np.int64]
    label: NDArray[np.int64]
    mean_selection: Array
    variance_selection: Array
    mean: Array
    variance: Array
    seconds: Array

    def __len__(self) -> int:
        return len(self.index)

    @property
    def maps(self) -> tuple[SimplexMap, ...]:
        """The maps, in the order of the arrays' second axis."""
        return parse_maps(self.config["maps"])

    @property
    def n0(self) -> int:
        """Selection samples of each image."""
        return self.config["n0"]

    @property
    def n(self) -> int:
        """Estimation samples of each image."""
        return self.config["n"]

    def select(self, indices: ArrayLike) -> Self:
        """Return the rows of the images ``indices``, in that order.

        Raises
        ------
        ValueError
            If the log lacks one of them.
        """
        return select_rows(self, indices, SCORES)

    def only(self, simplex_map: str | SimplexMap) -> Self:
        """Return the log as if this map alone had been sampled.

        Raises
        ------
        ValueError
            If the log lacks it.
        """
        wanted = SimplexMap.parse(simplex_map)
        if wanted not in self.maps:
            known = ", ".join(map(str, self.maps))
            raise ValueError(f"the log has no map {wanted}; it has {known}")
        at = self.maps.index(wanted)
        columns = {name: getattr(self, name)[:, at : at + 1] for name in _MOMENTS}
        return replace(self, config={**self.config, "maps": [str(wanted)]}, **columns)


def read_score_log(path: Pathlike) -> ScoreLog:
    """Read a score log, also one that is still being written or was cut short.

    Parameters
    ----------
    path : path
        File written by `ScoreWriter`, hence by ``python -m lipsmooth sample --maps``.

    Returns
    -------
    ScoreLog
        One row per image, sorted by index. Repeated identical rows count once.

    Raises
    ------
    ValueError
        If the file is not a score log; otherwise as for `lipsmooth.logs.read_log`.
    FileNotFoundError
        If there is no such file.

    Warns
    -----
    UserWarning
        For each damaged line, with its number; the other lines are kept.
    """
    header, ordered = read_records(path, SCORES)

    return ScoreLog(
        config=header["config"],
        provenance=header["provenance"],
        index=column(ordered, "index", np.int64),
        label=column(ordered, "label", np.int64),
        **{name: column(ordered, name, float) for name in (*_MOMENTS, "seconds")},
    )


def _check_row(row: dict, config: dict, where: str) -> None:
    """Raise unless a row is data, and has the moments that the configuration says."""
    if not {"index", "label", "seconds", *_MOMENTS} <= row.keys():
        raise ValueError(f"{where} is no row of scores: {shown(row)}")
    check_about(row, where)
    maps, classes = len(config["maps"]), config["num_classes"]
    for name in _MOMENTS:
        # Scores lie in [0, 1]: their unbiased variance is at most n / (4 (n - 1)).
        n = config["n0" if name.endswith("selection") else "n"]
        most = n / (4 * max(n - 1, 1)) if name.startswith("variance") else 1
        numbers = row[name]
        fits = isinstance(numbers, list) and len(numbers) == maps
        fits = fits and all(isinstance(r, list) and len(r) == classes for r in numbers)
        if not fits:
            raise ValueError(f"{where}: {name} must be {maps} lists of {classes} each")
        for value in chain.from_iterable(numbers):
            if type(value) not in (int, float) or not 0 <= value <= most * (1 + 1e-6):
                what = f"{name} has {shown(value, 40)!r}, outside [0, {most:.6g}]"
                raise ValueError(f"{where}: {what}")


def _check_config(config: dict) -> None:
    maps = config["maps"]
    if not isinstance(maps, list) or not all(isinstance(each, str) for each in maps):
        raise ValueError(f"maps must be a list of names, got {shown(maps)!r}")
    parse_maps(maps)


SCORES = Kind(
    format="lipsmooth-scores",
    noun="score log",
    content="scores",
    data=("label", *_MOMENTS),
    check=_check_row,
    required=(*REQUIRED, "maps"),
    check_config=_check_config,
)
"""How the files of score logs are told from others, and checked."""


class ScoreWriter(RecordWriter):
    """A score log opened for appending; see `lipsmooth.records.RecordWriter`."""

    kind = SCORES

    def append(
        self, index: int, label: int, selection: ArrayLike, estimation: ArrayLike,
        seconds: float,
    ) -> None:  # fmt: skip
        """Write one image's moments and wait until they are on the disk.

        ``selection`` and ``estimation`` are pairs of means and variances, each of
        shape ``(maps, classes)``. Their decimals name the very floats.
        """
        moments = zip(_MOMENTS, (*selection, *estimation), strict=True)
        self.write(
            {
                "index": int(index),
                "label": int(label),
                **{name: np.asarray(values).tolist() for name, values in moments},
                "seconds": round(float(seconds), 6),
            }
        )
