"""Logs that others published: read line by line, never evaluated, and fetched.

Read are the certification and prediction tables of locuslab/smoothing, which the
scripts of blaisedelattre/bridging_the_gap_rs write too, those of ntuaislab/QCRS, and
the vote counts of blaisedelattre/bridging_the_gap_rs.
"""

import hashlib
import json
import operator
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from lipsmooth.logs import Pathlike, VoteLog
from lipsmooth.radii import check_sigma

# Recognised by their header, column by column.
_VOTES = ("idx", "label", "counts")
_TABLES = {
    ("idx", "label", "predict", "radius", "correct", "time"),
    ("idx", "label", "predict", "correct", "time"),
    ("idx", "label", "predict", "radius", "correct", "best_sigma", "pABar", "time"),
    ("idx", "label", "predict", "radius", "correct", "sigma", "time"),
}
_NATURAL = r"(0|[1-9]\d{0,14})"
_NUMBER = r"\d{1,30}(\.\d{1,60})?(e[+-]?\d{1,2})?"  # no sign, no nan, no inf
_SHARE = r"0(\.\d{1,60})?|1(\.0)?|\d(\.\d{1,60})?e-\d{1,2}"
_CLOCK = r"((\d{1,4} days?, )?\d{1,2}:)?\d{1,2}:\d{1,2}(\.\d{1,9})?"

# Commit and folder of the files that the hashes below were computed from.
COHEN2019 = (
    "https://raw.githubusercontent.com/locuslab/smoothing/"
    "bdfa2280bc075089305796973b4b1aa03b51ee85/data/certify/"
)
"""Where the logs of Cohen, Rosenfeld and Kolter (2019) are published."""

_REGISTRY = """
cifar10/resnet110/noise_0.12/test/sigma_0.12 a1587fd0f8bdbbe0a75baf2d8a10ffc29f920dbdab2f6d614c0b0af97595c7ee
cifar10/resnet110/noise_0.12/test/sigma_0.50 8e116cded3659fdf6b5e46e7523d197a703795746fcfe6eeb6760be2d5debcf1
cifar10/resnet110/noise_0.25/test/sigma_0.25 6b4e0247f027b2dc3ad0cef43cb6d463e67c15fceb9a3f94a62e02b209b3fed3
cifar10/resnet110/noise_0.25/test/sigma_0.50 20942a522ff93534a4f1603a784a8bfcf07f3a339209aa4eea7b5b6b8094151e
cifar10/resnet110/noise_0.50/test/sigma_0.50 71a062b786eab25779290a7a5c7670aad18590fd6940b1fb240db50f4e66e3b7
cifar10/resnet110/noise_1.00/test/sigma_0.50 651ef44f417bcf61ffb79be68be9816dd10a598349b5677a38380917e3b55b2c
cifar10/resnet110/noise_1.00/test/sigma_1.00 a1d3f7731901cb7116f62993f7d79765d16191151a5c8a9a234dde7c9b8f3f82
imagenet/resnet50/noise_0.25/test/sigma_0.25 6a8b62ec0315e18f3e1a601ad1920f3f32e0231171bfe550d000b9af39df53c0
imagenet/resnet50/noise_0.25/test/sigma_0.50 d7a562e71d8c2fee16e16574ca0aee9a78bfb66bfe82bc590e1df3dab47f9e46
imagenet/resnet50/noise_0.50/test/sigma_0.50 f099668de3d463255eab31a3541e06ae767901ba5d95bce62187e2e20caaad61
imagenet/resnet50/noise_0.50/train/sigma_0.50 f0405b79523ec80a5255d421ec3e76d993330b0afc5c65d6f2cda97a53c4cddf
imagenet/resnet50/noise_1.00/test/sigma_0.50 75bf30eff9b637096485584af9aae34ee7d33557907fc70e1f965e7836ecf0e0
imagenet/resnet50/noise_1.00/test/sigma_1.00 17f415e64eaccf320e6d1e3fdcf2d7d1cbc466af7e73d6119e406c39ef6d7f10
"""  # noqa: E501 - a name and its hash belong on one line
PUBLISHED = {
    f"cohen2019/{line.split()[0]}": line.split()[1]
    for line in _REGISTRY.strip().splitlines()
}
"""SHA-256 of each log that `fetch_log` knows, by name.

:meta hide-value:
"""


def fetch_log(
    name: str, *, logs_dir: Pathlike | None = None, base_url: str = COHEN2019
) -> Path:
    """Return the path of a published log, downloaded once and checked.

    Parameters
    ----------
    name : str
        A key of `PUBLISHED`, such as
        ``"cohen2019/cifar10/resnet110/noise_0.25/test/sigma_0.25"``.
    logs_dir : path, optional
        Folder that holds the file under that name; nothing is downloaded.
    base_url : str
        Where to download from, for a mirror. Needs pooch. Downloads are kept in
        ``$LIPSMOOTH_CACHE``, else in the user's cache.

    Raises
    ------
    ValueError
        If the name is unknown or the content is not the published one.
    OSError
        If the file is not in ``logs_dir`` or cannot be downloaded.
    """
    if name not in PUBLISHED:
        raise ValueError(f"no published log {name!r}; known: {', '.join(PUBLISHED)}")
    if logs_dir is None:
        # Imported only here: the statistical core does without. In a notebook that
        # has no widgets pooch warns of its progress bar, which is not used.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pooch

        cache = pooch.create(
            pooch.os_cache("lipsmooth"),
            base_url=base_url,
            env="LIPSMOOTH_CACHE",
            registry={name: PUBLISHED[name]},
            urls={name: base_url + name.partition("/")[2]},
        )
        return Path(cache.fetch(name))
    path = Path(logs_dir) / name
    if hashlib.sha256(path.read_bytes()).hexdigest() != PUBLISHED[name]:
        raise ValueError(f"{path} is not the published log: its SHA-256 differs")
    return path


def is_published(first_line: bytes) -> bool:
    """Return whether a file that begins so is one for `read_published`."""
    return tuple(first_line.decode(errors="replace").strip().split("\t")) in _TABLES


def read_published(path: Pathlike) -> pd.DataFrame:
    """Read published certificates or predictions.

    Parameters
    ----------
    path : path
        A table of locuslab/smoothing (``certify.py``, ``predict.py``), of a script
        that writes the same, or of ntuaislab/QCRS (QCRS and DDRS).

    Returns
    -------
    DataFrame
        One row per image: ``idx``, ``label``, ``predict`` (-1 abstains),
        ``radius`` as printed (not in predictions), ``correct`` (0 or 1, recomputed),
        ``seconds``; QCRS has ``sigma`` and ``p_a_lower`` as well, DDRS ``sigma``.

    Raises
    ------
    ValueError
        If the header is unknown, there is no image, an image occurs twice, or a
        line is malformed; the message names file and line.
    FileNotFoundError
        If there is no such file.

    Warns
    -----
    UserWarning
        If the file's own column ``correct`` is not ``predict == label``. The scripts
        of Delattre et al. (2024) print a running total there.

    Notes
    -----
    Printed radii are rounded to nearest, hence some of them up;
    `lipsmooth.lattice.recertify` finds the unrounded ones.
    """
    columns = _read(path, _TABLES)
    frame = pd.DataFrame({_NAMES.get(key, key): columns[key] for key in columns})
    own = (frame["predict"] == frame["label"]).astype(int)
    wrong = np.flatnonzero(frame["correct"] != own)
    if len(wrong):
        total = frame["correct"].equals(own.cumsum())
        what = "is a running total" if total else "disagrees with predict == label"
        rows = f"{len(wrong)} of {len(frame)} rows, first in line {wrong[0] + 2}"
        warnings.warn(
            f"{path}: the column 'correct' {what} ({rows}); recomputed", stacklevel=2
        )
    return frame.assign(correct=own)


def read_published_votes(folder: Pathlike) -> VoteLog:
    """Read the votes that ``log_certify.py`` of bridging_the_gap_rs leaves.

    Parameters
    ----------
    folder : path
        With ``certify_args.json``, one file ``certify_…_N0_….txt`` of selection
        votes and one ``certify_…_N_….txt`` of estimation votes.

    Returns
    -------
    VoteLog
        Rows sorted by index; ``config["seed"]`` is None, for the script sets none.
        ``seconds`` is NaN.

    Raises
    ------
    ValueError
        If a file is missing or malformed, an image occurs twice, the two files
        disagree, or counts do not sum to the configuration's ``N0`` and ``N``.
    """
    settings = _settings(Path(folder) / "certify_args.json")
    votes = {}
    for name in ("N0", "N"):
        found = sorted(Path(folder).glob(f"certify_*_{name}_*.txt"))
        if len(found) != 1:
            raise ValueError(f"{folder} has {len(found)} files certify_*_{name}_*.txt")
        votes[name] = found[0], _read(found[0], {_VOTES})
    (first, selection), (second, estimation) = votes.values()
    classes = len(selection["counts"][0])
    for name, (path, columns) in votes.items():
        for number, counts in enumerate(columns["counts"], start=2):
            if len(counts) != classes or sum(counts) != settings[name]:
                what = f"{len(counts)} classes, {sum(counts)} votes"
                wanted = f"{classes} classes, {name} = {settings[name]}"
                raise ValueError(f"{path}: line {number}: {what}, not {wanted}")
    if any(selection[key] != estimation[key] for key in ("idx", "label")):
        raise ValueError(f"{first} and {second} are about different images")
    if max(selection["label"]) >= classes:
        raise ValueError(f"{first}: label {max(selection['label'])}, {classes} classes")
    order = np.argsort(selection["idx"])
    named = {"n0": settings["N0"], "n": settings["N"], "sigma": settings["sigma"]}
    return VoteLog(
        config={**named, "num_classes": classes, "seed": None},
        provenance=settings,
        index=np.array(selection["idx"])[order],
        label=np.array(selection["label"])[order],
        counts_selection=np.array(selection["counts"])[order],
        counts_estimation=np.array(estimation["counts"])[order],
        seconds=np.full(len(order), np.nan),
    )


def _settings(path: Path) -> dict:
    try:
        settings = json.loads(path.read_bytes())
        settings["sigma"] = float(check_sigma(settings["sigma"]))
        if not all(type(settings[name]) is int for name in ("N0", "N")):
            raise ValueError("N0 and N must be whole numbers")
    except (
        OSError,
        ArithmeticError,
        ValueError,
        LookupError,
        TypeError,
        RecursionError,
    ) as error:
        raise ValueError(f"{path} is no configuration: {error!r}") from None
    return settings


def _seconds(text: str) -> float:
    if ":" not in text:
        return float(text)
    parts = [float(part) for part in re.findall(r"[\d.]+", text)]
    return sum(map(operator.mul, reversed(parts), (1, 60, 3600, 86400)))


# Only text that matches its pattern is converted.
_CELLS: dict[str, tuple[str, Callable]] = {
    "idx": (_NATURAL, int),
    "label": (_NATURAL, int),
    "predict": (rf"{_NATURAL}|-1", int),
    "radius": (_NUMBER, float),
    "correct": (_NATURAL, int),
    "time": (rf"{_NUMBER}|{_CLOCK}", _seconds),
    "best_sigma": (_NUMBER, float),
    "sigma": (_NUMBER, float),
    "pABar": (_SHARE, float),
    "counts": (rf"\[{_NATURAL}(, {_NATURAL})*\]", json.loads),
}
_NAMES = {"time": "seconds", "best_sigma": "sigma", "pABar": "p_a_lower"}


def _read(path: Pathlike, headers: set[tuple[str, ...]]) -> dict[str, list]:
    """Return the columns of a table whose every cell must match its pattern."""
    # A byte that is no text becomes a character that matches no pattern.
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    lines = text.removesuffix("\n").split("\n")
    header = tuple(lines[0].split("\t"))
    if header not in headers:
        raise ValueError(f"{path}: line 1 is no known header: {lines[0][:60]!r}")
    if len(lines) == 1:
        raise ValueError(f"{path} has no images")
    columns: dict[str, list] = {name: [] for name in header}
    seen: set[int] = set()
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(header):
            what = f"{len(cells)} columns, not {len(header)}"
            raise ValueError(f"{path}: line {number} has {what}: {line[:60]!r}")
        for name, cell in zip(header, cells, strict=True):
            pattern, convert = _CELLS[name]
            if not re.fullmatch(pattern, cell, re.ASCII):
                raise ValueError(f"{path}: line {number}: {name} is {cell[:60]!r}")
            columns[name].append(convert(cell))
        if columns["idx"][-1] in seen:
            raise ValueError(f"{path}: line {number}: image {cells[0]} occurs twice")
        seen.add(columns["idx"][-1])
    return columns
