"""Logs written by several workers, one shard each.

Workers need not talk to one another: worker ``rank`` of ``world`` takes every
``world``-th image and writes its own file. Votes do not depend on who counts them,
so reading the shards together gives the log that one worker would have written.
"""

import glob
import os
import re
import warnings
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from lipsmooth.logs import VoteLog, read_log
from lipsmooth.marginlogs import MARGINS, MarginLog, read_margin_log
from lipsmooth.records import Pathlike
from lipsmooth.scorelogs import SCORES, ScoreLog, read_score_log

_SHARD = re.compile(r"(?P<base>.+)\.(?P<rank>\d+)-of-(?P<world>\d+)")


def worker() -> tuple[int, int]:
    """Return this process's rank and the number of workers, as torchrun sets them.

    Returns
    -------
    rank, world : int
        From the environment's ``RANK`` and ``WORLD_SIZE``; (0, 1) without them.

    Raises
    ------
    ValueError
        If they are not whole numbers with ``0 <= rank < world``.
    """
    rank, world = (
        os.environ.get(k, v) for k, v in (("RANK", "0"), ("WORLD_SIZE", "1"))
    )
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ValueError(f"RANK must be below WORLD_SIZE, got {rank!r} and {world!r}")
    return int(rank), int(world)


def shard_path(path: Pathlike, rank: int, world: int) -> Path:
    """Return where worker ``rank`` of ``world`` writes: ``path`` if it is alone."""
    return Path(path if world == 1 else f"{path}.{rank}-of-{world}")


def read_shards(*paths: Pathlike) -> VoteLog | ScoreLog | MarginLog:
    """Read a log to certify, whether one worker wrote it or several.

    Parameters
    ----------
    *paths : path
        Of the log as given to ``sample``, whose shards are then found; or of the
        shards; or a glob pattern of either.

    Returns
    -------
    VoteLog, ScoreLog or MarginLog
        Which of them is for the files to say. All their images, sorted by index.

    Raises
    ------
    ValueError
        If a shard is missing (the message names it), configurations differ, two
        files contradict each other about an image, or are of different kinds; or as
        for `lipsmooth.logs.read_log`.
    FileNotFoundError
        If there is no such log.

    Warns
    -----
    UserWarning
        If shards have numbers of images that finished workers cannot have.
    """
    files = find_files(*paths)
    groups: dict[tuple[str, int], dict[int, Path]] = {}
    for file in files:
        if match := _SHARD.fullmatch(str(file)):
            group = groups.setdefault((match["base"], int(match["world"])), {})
            group[int(match["rank"])] = file
    for (base, world), group in groups.items():
        if len(group) < world - 1000 or max(group) >= world:
            raise ValueError(f"{base}: {len(group)} of {world} shards are here")
        names = [shard_path(base, rank, world) for rank in range(world)]
        if absent := [name for name in names if name not in group.values()]:
            gone = [name for name in absent if not name.exists()]
            advice = "finish sampling first" if gone else f"name {base} to read all"
            listed = ", ".join(map(str, gone or absent))
            raise ValueError(f"shards are missing: {listed}; {advice}")
    logs = {file: _read(file) for file in files}
    for (base, _), group in groups.items():
        sizes = [len(logs[group[rank]]) for rank in sorted(group)]
        if max(sizes) - min(sizes) > 1:
            what = f"the shards hold {sizes} images: sampling is not finished"
            warnings.warn(f"{base}: {what}", stacklevel=2)
    return _merge(logs)


def find_files(*paths: Pathlike) -> list[Path]:
    """Return the files of a log, named as for `read_shards`."""
    found = {}
    for path in map(str, paths):
        named = [path] if os.path.exists(path) else sorted(glob.glob(path))
        beside = sorted(glob.glob(f"{glob.escape(path)}.*-of-*"))
        shards = [file for file in beside if _SHARD.fullmatch(file)]
        if not named and not shards:
            what = f"no vote log {path} and no shard of it"
            raise FileNotFoundError(f"No such file: {what}")
        found.update(dict.fromkeys((*named, *shards)))
    return [Path(file) for file in found]


def _read(file: Path) -> VoteLog | ScoreLog | MarginLog:
    with open(file, "rb") as opened:
        start = opened.read(100)
    if start and SCORES.begins(start):
        return read_score_log(file)
    return read_margin_log(file) if start and MARGINS.begins(start) else read_log(file)


def _merge(
    logs: dict[Path, VoteLog | ScoreLog | MarginLog],
) -> VoteLog | ScoreLog | MarginLog:
    files, parts = list(logs), list(logs.values())
    first = parts[0]
    for file, log in logs.items():
        if type(log) is not type(first):
            raise ValueError(f"{files[0]} and {file} are logs of different kinds")
        for key in sorted(first.config.keys() | log.config.keys()):
            mine, other = first.config.get(key), log.config.get(key)
            if mine != other:
                what = f"{files[0]} has {key} = {mine!r}, {file} {key} = {other!r}"
                raise ValueError(f"shards of different logs: {what}")
    if len(parts) == 1:
        return first
    source = np.repeat(np.arange(len(parts)), [len(log) for log in parts])
    names = [field.name for field in fields(first)[2:]]
    columns = {
        name: np.concatenate([getattr(log, name) for log in parts])
        for name in names
        if getattr(first, name) is not None
    }
    _, kept, row = np.unique(columns["index"], return_index=True, return_inverse=True)
    compared = [name for name in columns if name not in ("index", "seconds")]
    for name in compared:
        differs = columns[name] != columns[name][kept][row]
        rows = np.flatnonzero(differs.reshape(len(row), -1).any(axis=1))
        if len(rows):
            here, there = files[source[rows[0]]], files[source[kept[row[rows[0]]]]]
            image = columns["index"][rows[0]]
            raise ValueError(f"{here} contradicts {there} about image {image}")
    merged = {name: column[kept] for name, column in columns.items()}
    return replace(first, **merged)
