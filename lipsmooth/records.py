"""Logs of checksummed JSON lines: one header, then one record per image.

What the records hold is for a `Kind` of log to say: votes in `lipsmooth.logs`, moments
of scores in `lipsmooth.scorelogs`. Every line ends in a checksum of the rest of it and
is on the disk before the next image is sampled.
"""

import json
import os
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import BinaryIO, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipsmooth.logchecks import check_config

VERSION = 1
REQUIRED = ("num_classes", "sigma", "n0", "n", "seed")
"""What the configuration of every log holds."""

Pathlike = str | os.PathLike
Log = TypeVar("Log")

_CHECKSUM = len(', "crc32": "00000000"}')


@dataclass(frozen=True)
class Kind:
    """A kind of log: what its files and its records look like.

    Attributes
    ----------
    format : str
        Named in the first bytes of the file.
    noun, content : str
        For messages: "vote log", "votes".
    data : tuple of str
        What two records of the same image must agree on.
    check : callable
        Takes a record, the configuration and where the record stands; raises
        ValueError unless the record is what the configuration says.
    required : tuple of str
        Keys of the configuration.
    check_config : callable
        Takes a configuration that passed `lipsmooth.logchecks.check_config`; raises
        ValueError for what that does not look at.
    """

    format: str
    noun: str
    content: str
    data: tuple[str, ...]
    check: Callable[[dict, dict, str], None]
    required: tuple[str, ...] = REQUIRED
    check_config: Callable[[dict], None] = lambda _: None

    def begins(self, content: bytes) -> bool:
        """Return whether a file that starts with these bytes is of this kind."""
        magic = f'{{"format": "{self.format}"'.encode()
        return content[: len(magic)] == magic[: len(content)]


def encode(record: dict) -> bytes:
    """Return the line of a record."""
    payload = json.dumps(record, allow_nan=False).encode()
    return payload[:-1] + b', "crc32": "%08x"}\n' % zlib.crc32(payload)


def decode(line: bytes) -> dict | None:
    """Return the record of one line, or None if it is damaged."""
    payload = line[:-_CHECKSUM] + b"}"
    if line[-_CHECKSUM:] != b', "crc32": "%08x"}' % zlib.crc32(payload):
        return None
    return json.loads(payload, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def parse(
    content: bytes, path: Pathlike, kind: Kind
) -> tuple[dict | None, dict[int, dict], int]:
    """Return header, records by index, and the length of the part worth keeping."""
    lines = content.split(b"\n")
    if not kind.begins(lines[0]):
        raise ValueError(f"{path} is not a {kind.noun}: line 1 is {lines[0][:40]!r}")
    header = _header(lines, path, kind)
    if header is None:
        return None, {}, 0  # cut short while the header was written: no images yet
    rows: dict[int, dict] = {}
    intact = len(content)
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        try:
            row = decode(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: line {number} is not JSON: {error}") from None
        if row is None:
            torn = number == len(lines)
            intact -= len(line) if torn else 0
            what = "cut short" if torn else "damaged"
            warnings.warn(f"{path}: line {number} is {what}; skipped", stacklevel=4)
            continue
        kind.check(row, header["config"], f"{path}: line {number}")
        known = rows.setdefault(row["index"], row)
        if any(known.get(key) != row.get(key) for key in kind.data):
            raise ValueError(
                f"{path}: line {number} contradicts an earlier line "
                f"about image {row['index']}"
            )
    return header, rows, intact


def _check_config(config: object, kind: Kind) -> None:
    check_config(config, f"the configuration of a {kind.noun}", kind.required)
    kind.check_config(config)


def _header(lines: list[bytes], path: Pathlike, kind: Kind) -> dict | None:
    try:
        header = decode(lines[0])
        if header is None and len(lines) == 1:
            return None
        if header is None:
            raise ValueError("the header, is damaged")
        if header.get("version") != VERSION:
            raise ValueError(f"unknown log version {header.get('version')!r}")
        _check_config(header.get("config"), kind)
        if not isinstance(header.get("provenance"), dict):
            raise ValueError(f"the header has no provenance: {str(header)[:60]}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: line 1, {error}") from None
    return header


def read_records(path: Pathlike, kind: Kind) -> tuple[dict, list[dict]]:
    """Return the header of a log and its records, sorted by index.

    Raises and warns as `lipsmooth.logs.read_log` says.
    """
    header, rows, _ = parse(Path(path).read_bytes(), path, kind)
    if header is None:
        what = f"the {kind.noun} has no complete header, hence no {kind.content}"
        raise ValueError(f"{path}: {what}")
    if not rows:
        raise ValueError(f"{path}: the {kind.noun} has no images yet")
    return header, [rows[index] for index in sorted(rows)]


def select_rows(log: Log, wanted: ArrayLike, kind: Kind) -> Log:
    """Return a log of the images ``wanted`` alone, in that order.

    Its fields after configuration and provenance are arrays of one row per image,
    sorted by ``index``, or None.

    Raises
    ------
    ValueError
        If the log lacks one of the images.
    """
    images = np.asarray(wanted, dtype=np.int64)
    absent = np.setdiff1d(images, log.index)
    if len(absent):
        raise ValueError(f"the log has no {kind.content} for image {absent[0]}")
    rows = np.searchsorted(log.index, images)
    columns = {field.name: getattr(log, field.name) for field in fields(log)[2:]}
    present = {name: v[rows] for name, v in columns.items() if v is not None}
    return replace(log, **present)


def column(rows: Sequence[dict], name: str, dtype: type) -> NDArray:
    """Return what records have under a name, in their order."""
    return np.array([row[name] for row in rows], dtype=dtype)


class RecordWriter:
    """A log opened for appending, under an exclusive lock.

    Opening an existing log resumes it: a line that a crash cut short is removed,
    and ``done`` names the images that need no further work.

    Parameters
    ----------
    path : path
        The log; made, with its folder, if absent.
    config : mapping
        Everything the records depend on, at least what the kind of log requires;
        values that JSON can hold.
    provenance : mapping
        Notes for a new log's header; on resuming they may differ.
    wait : bool
        Wait for another writer of the same log to finish, instead of raising.

    Attributes
    ----------
    done : set of int
        Indices of the images that the log holds.

    Raises
    ------
    ValueError
        If the file is another kind of file, its configuration differs (the message
        names the key and both values), or another process is writing it.

    Notes
    -----
    Guarantee: after `write` returns, that image survives a crash, and no crash
    loses an earlier one. Use it as a context manager.
    """

    kind: Kind

    def __init__(
        self,
        path: Pathlike,
        config: Mapping,
        provenance: Mapping,
        *,
        wait: bool = False,
    ) -> None:
        self.path = Path(path)
        settings = json.loads(json.dumps(dict(config), allow_nan=False))
        _check_config(settings, self.kind)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = open(self.path, "a+b")  # noqa: SIM115 - closed in __exit__
        try:
            _lock(self._file, self.path, wait)
            self.done = self._resume(settings, dict(provenance))
        except BaseException:
            self._file.close()
            raise
        self._config = settings

    def _resume(self, settings: dict, provenance: dict) -> set[int]:
        self._file.seek(0)
        content = self._file.read()
        header, rows, intact = parse(content, self.path, self.kind)
        if intact < len(content):
            self._file.truncate(intact)
        if header is None:
            record = {"format": self.kind.format, "version": VERSION}
            self._put({**record, "config": settings, "provenance": provenance})
            return set()
        if not content[:intact].endswith(b"\n"):
            self._file.write(b"\n")
        _compare(header["config"], settings, self.path)
        return set(rows)

    def write(self, record: dict) -> None:
        """Write one image's record and wait until it is on the disk."""
        self.kind.check(record, self._config, f"image {record['index']}")
        self._put(record)
        self.done.add(record["index"])

    def _put(self, record: dict) -> None:
        try:
            self._file.write(encode(record))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:  # no space left: it does not say where
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        # Closing releases the lock. What could not be written cannot be now either,
        # and has been said.
        with suppress(OSError if kind else ()):
            self._file.close()


def _compare(logged: dict, wanted: dict, path: Path) -> None:
    for key in sorted(logged.keys() | wanted.keys()):
        old, new = logged.get(key), wanted.get(key)
        if old != new:
            raise ValueError(
                f"{path} was sampled with {key} = {old!r}, not {new!r}; "
                "use the same settings to resume it, or another file"
            )


def _lock(file: BinaryIO, path: Path, wait: bool) -> None:
    import fcntl  # not on Windows, where logs can still be read

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise ValueError(f"{path} is being written by another process") from None
