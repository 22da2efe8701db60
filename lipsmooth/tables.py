"""Certificates as tables: made from a log, read from a file, typeset."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from lipsmooth.certify import ABSTAIN
from lipsmooth.decisions import certify_log, default_strategy, map_of
from lipsmooth.evaluate import round_down
from lipsmooth.logs import Pathlike, VoteLog
from lipsmooth.marginlogs import MarginLog
from lipsmooth.published import is_published, read_published, read_published_votes
from lipsmooth.scorelogs import ScoreLog, SimplexMap
from lipsmooth.shards import read_shards

_NEEDED = ["label", "predict", "radius"]


def certificate_table(
    log: VoteLog | ScoreLog | MarginLog,
    *,
    alpha: float,
    strategy: str | None = None,
    randomize_seed: int | None = None,
    map: str | SimplexMap | None = None,
) -> pd.DataFrame:
    """Certify every image of a log.

    Parameters
    ----------
    log : VoteLog, ScoreLog or MarginLog
        See `lipsmooth.shards.read_shards`.
    alpha, strategy, randomize_seed, map
        See `lipsmooth.decisions.certify_log`.

    Returns
    -------
    DataFrame
        One row per image: ``idx``, ``label``, ``predict``, ``radius`` (unrounded),
        ``correct`` (0 or 1), ``p_a_lower``, ``p_b_upper``, ``sigma``, ``n`` (its
        estimation samples), ``alpha``, ``strategy``, for scores the ``map`` and, where
        coins were tossed, ``randomize_seed``: all that a certificate depends on beside
        the log. Of a margin log ``sigma``, ``n`` and ``alpha`` are 0, the bounds NaN,
        and ``lipschitz`` is the constant.

    Raises
    ------
    ValueError
        As for `lipsmooth.decisions.certify_log`.

    Notes
    -----
    Guarantee: that of `lipsmooth.decisions.certify_log`, image by image.
    """
    found = certify_log(
        log, alpha=alpha, strategy=strategy, randomize_seed=randomize_seed, map=map
    )
    if isinstance(log, MarginLog):
        sampled = {"sigma": 0.0, "n": 0, "alpha": 0.0}
    elif isinstance(log, ScoreLog):
        sampled = {"sigma": log.config["sigma"], "n": log.n, "alpha": alpha}
    else:
        n = log.counts_estimation.sum(axis=1)
        sampled = {"sigma": log.sigma, "n": n, "alpha": alpha}
    table = pd.DataFrame(
        {
            "idx": log.index,
            "label": log.label,
            "predict": found.prediction,
            "radius": found.radius,
            "correct": (found.prediction == log.label).astype(int),
            "p_a_lower": found.p_a_lower,
            "p_b_upper": found.p_b_upper,
            **sampled,
            "strategy": strategy or default_strategy(log),
        }
    )
    if isinstance(log, MarginLog):
        table["lipschitz"] = log.lipschitz
    if isinstance(log, ScoreLog):
        table["map"] = str(map_of(log, map).maps[0])
    if randomize_seed is not None:
        table["randomize_seed"] = randomize_seed
    return table


def settings_table(logs: Mapping[str, VoteLog | ScoreLog | MarginLog]) -> pd.DataFrame:
    """Say what each log was sampled with, and what it cost.

    Parameters
    ----------
    logs : mapping from name to VoteLog, ScoreLog, MarginLog or AttackLog

    Returns
    -------
    DataFrame, indexed by name
        ``images``, ``dataset``, ``data`` and ``model`` (eight characters of their
        digests, to tell equal from different), ``sigma``, ``n0``, ``n`` (at most, if
        sampling stopped early), ``precision``, ``device``, ``hours`` of sampling.
        What a log does not say is missing.
    """
    keys = "dataset", "data", "model", "sigma", "n0", "n", "precision"
    rows = {}
    for name, log in logs.items():
        known = {key: log.config.get(key) for key in keys}
        for key in ("data", "model"):
            known[key] = known[key] and str(known[key])[:8]
        rows[name] = {
            "images": len(log), **known, "device": log.provenance.get("device"),
            "hours": float(np.sum(log.seconds)) / 3600,
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def read_certificates(
    path: Pathlike,
    *,
    alpha: float = 0.001,
    strategy: str | None = None,
    randomize_seed: int | None = None,
    map: str | SimplexMap | None = None,
) -> pd.DataFrame:
    """Read certificates, or certify what was sampled if the file is a log.

    Parameters
    ----------
    path : path
        A table separated by commas or tabs, with a header that has at least
        ``label``, ``predict`` and ``radius``; or a log, in one file or in shards
        (see `lipsmooth.shards.read_shards`); or a published table or
        folder of votes, recognised and read by `lipsmooth.published`.
    alpha, strategy, randomize_seed, map
        For a log; see `certificate_table`.

    Returns
    -------
    DataFrame
        The table as it is, or that of `certificate_table`.

    Raises
    ------
    ValueError
        If the file is neither, or a needed value is not a finite number.
    FileNotFoundError
        If there is no such file.
    """
    rule = {
        "alpha": alpha, "strategy": strategy, "randomize_seed": randomize_seed,
        "map": map,
    }  # fmt: skip
    if Path(path).is_dir():
        return certificate_table(read_published_votes(path), **rule)
    first = b"{"  # of shards, or of nothing
    if Path(path).exists():
        with open(path, "rb") as file:
            first = file.readline()
    if first.startswith(b"{"):
        return certificate_table(read_shards(path), **rule)
    frame = read_published(path) if is_published(first) else _read_table(path, first)
    for name in _NEEDED:
        if name not in frame:
            raise ValueError(f"{path} has no column {name!r}")
        values = pd.to_numeric(frame[name], errors="coerce").astype(float)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            # The header is line 1.
            where = f"{path}: line {bad[0] + 2}"
            raise ValueError(f"{where}: {name} is {frame[name].iloc[bad[0]]}")
        odd = np.flatnonzero((values != np.floor(values)) | (np.abs(values) > 2**53))
        if len(odd) and name != "radius":
            where = f"{path}: line {odd[0] + 2}"
            raise ValueError(f"{where}: {name} is {frame[name].iloc[odd[0]]}")
        frame[name] = values if name == "radius" else values.astype(int)
    if frame.empty:
        raise ValueError(f"{path} has no certificates")
    return frame


def write_noise_levels(path: Pathlike, frame: pd.DataFrame) -> None:
    """Write certificates in the columns of the published QCRS logs, unrounded.

    Parameters
    ----------
    path : path
        Overwritten.
    frame : DataFrame
        Columns ``idx``, ``label``, ``predict``, ``radius``, ``sigma``, ``p_a_lower``
        and ``seconds``: what `lipsmooth.published.read_published` returns.

    Raises
    ------
    ValueError
        If a column is missing or holds a number that is not finite.
    """
    names = {"sigma": "best_sigma", "p_a_lower": "pABar", "seconds": "time"}
    columns = ["idx", "label", "predict", "radius", *names]
    missing = sorted(set(columns) - set(frame.columns))
    if missing:
        raise ValueError(f"the frame lacks the columns {missing}")
    if not np.all(np.isfinite(frame[columns].to_numpy(float))):
        raise ValueError("every number of the table must be finite")
    table = frame[columns].rename(columns=names)
    right = (table["predict"] == table["label"]) & (table["predict"] != ABSTAIN)
    table.insert(4, "correct", right.astype(int))
    table.to_csv(path, sep="\t", index=False)


def format_table(
    table: pd.DataFrame, style: Literal["markdown", "latex", "csv"] = "markdown"
) -> str:
    """Typeset the result of `lipsmooth.evaluate.summary`.

    Parameters
    ----------
    table : DataFrame
        Whole numbers are kept. Others are rounded to three decimals, down, and
        abstention rates up, so that nothing looks better than it is. CSV is not
        rounded.
    style : {"markdown", "latex", "csv"}
        LaTeX needs the package booktabs.

    Returns
    -------
    str
    """
    if style == "csv":
        text = io.StringIO()
        table.to_csv(text, index_label="name")
        return text.getvalue().rstrip("\n")
    shown = pd.DataFrame(index=table.index.astype(str))
    for name, column in table.items():
        if pd.api.types.is_integer_dtype(column.dtype):
            shown[name] = column.map("{:d}".format)
        else:
            sign = -1 if name == "abstain" else 1
            rounded = sign * round_down(sign * column, 3)
            shown[name] = pd.Series(rounded, column.index).map("{:.3f}".format)
    rows = [["name", *table.columns], *map(list, shown.itertuples())]
    return _latex(rows) if style == "latex" else _markdown(rows)


def _read_table(path: Pathlike, first: bytes) -> pd.DataFrame:
    # Pandas would unpack a file called .gz, however large, and take what exceeds the
    # header for an index, which moves the columns, or leave it out with a warning.
    options = {"sep": "\t" if b"\t" in first else ",", "compression": None}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, index_col=False, low_memory=False, **options)
    except pd.errors.ParserWarning as error:
        raise ValueError(f"{path} has rows longer than the header: {error}") from None
    except ValueError as error:  # pandas' own are of this kind
        raise ValueError(f"{path} is not a table: {error}") from None


def _markdown(rows: list[list[str]]) -> str:
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def _latex(rows: list[list[str]]) -> str:
    escape = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"})
    head, *body = (
        " & ".join(cell.translate(escape) for cell in row) + r" \\" for row in rows
    )
    begin = r"\begin{tabular}{l" + "r" * (len(rows[0]) - 1) + "}"
    rules = r"\toprule", r"\midrule", r"\bottomrule"
    lines = begin, rules[0], head, rules[1], *body, rules[2], r"\end{tabular}"
    return "\n".join(lines)
