"""What a log may hold, whoever wrote it: numbers in range where numbers are due.

A checksum tells damage, not malice. What is read here goes into arrays and formulas,
so that a value of another type or size is refused before it gets there.
"""

from collections.abc import Sequence
from typing import Any


def is_number(value: Any) -> bool:
    """Return whether a value out of JSON is a finite number, and fits a float."""
    return type(value) in (int, float) and abs(value) < 1e300


def shown(value: Any, most: int = 60) -> str:
    """Return a value for a message, cut to ``most`` characters."""
    return str(value)[:most]


def check_config(config: Any, name: str, required: Sequence[str]) -> None:
    """Check a log's configuration.

    Parameters
    ----------
    config : any
        What the log's header has in its place.
    name : str
        What it is, for messages.
    required : sequence of str
        Keys that it must have.

    Raises
    ------
    ValueError
        If it is no dict, lacks a key, ``num_classes``, ``n0`` or ``n`` is no whole
        number from 1 to 2**53, or ``sigma`` not positive and finite, where it has one.
    """
    if not isinstance(config, dict):
        raise ValueError(f"{name} is {shown(config)!r}")
    missing = [key for key in required if key not in config]
    if missing:
        raise ValueError(f"{name} needs {missing}")
    for key in ("num_classes", "n0", "n"):
        value = config.get(key, 1)
        if type(value) is not int or not 1 <= value <= 2**53:
            what = f"{key} must be a whole number from 1 to 2**53"
            raise ValueError(f"{what}, got {shown(value)!r}")
    sigma = config.get("sigma", 1)
    if not is_number(sigma) or sigma <= 0:
        what = "sigma must be positive and finite"
        raise ValueError(f"{what}, got {shown(sigma)!r}")


def check_about(row: dict, where: str) -> None:
    """Check what every row has.

    Parameters
    ----------
    row : dict
        With ``index``, ``label`` and ``seconds``.
    where : str
        Where it stands, for messages.

    Raises
    ------
    ValueError
        If the first two are no whole numbers in [0, 2**63), or the third is no number
        or negative.
    """
    for name in ("index", "label"):
        if type(row[name]) is not int or not 0 <= row[name] < 2**63:
            what = f"{name} is {shown(row[name])!r}, not a number where one is due"
            raise ValueError(f"{where}: {what}")
    if not is_number(row["seconds"]) or row["seconds"] < 0:
        what = f"seconds is {shown(row['seconds'])!r}, not a number where one is due"
        raise ValueError(f"{where}: {what}")
