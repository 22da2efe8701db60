"""Facts about published logs: made from the logs once, kept in a file of their own.

The logs belong to their authors. What a comparison needs of them is a few hundred
numbers: how many rows, certified accuracies, quantiles, the levels that fit.
"""

import io
from pathlib import Path

import numpy as np
import pandas as pd

from lipsmooth.evaluate import (
    abstention_rate,
    average_certified_radius,
    certified_accuracy,
)
from lipsmooth.lattice import recertify
from lipsmooth.levels import level_range, unexplained_rows
from lipsmooth.logs import Pathlike
from lipsmooth.published import COHEN2019, PUBLISHED, fetch_log, read_published

FILE = Path("notebooks/data/cohen2019-facts.csv")
"""Where the book keeps the facts, seen from its root."""
N = 100_000
"""Estimation samples behind every published log."""
STATED, TENFOLD = 0.001, 0.01
"""The level that the authors state, and the one that most of their logs fit."""
LEVELS = np.geomspace(1e-4, 0.1, 61)
"""Levels at which unexplained rows are counted; both of the above among them."""
AT = 0.25 * np.arange(13)
"""Radii at which accuracy is certified."""
RANKS = np.linspace(0, 1, 21)
"""Ranks of the quantiles."""
_SIZES = np.arange(50_000, 300_001, 100)
_NOISES = np.linspace(0.9, 1.1, 2001)


def log_facts(frame: pd.DataFrame, *, sigma: float) -> pd.Series:
    """Return the facts about one log.

    Parameters
    ----------
    frame : DataFrame
        As of `lipsmooth.published.read_published`, with radii.
    sigma : float
        Standard deviation of the noise.

    Returns
    -------
    Series, indexed by ``fact`` and ``at``
        ``rows``, ``abstained``, ``acr``, ``seconds`` (median), ``seconds_in_tenths`` (1
        if they are printed so); ``accuracy`` at the radii `AT`; ``quantile`` of the
        radii at `RANKS`, ``certified_quantile`` without the abstentions;
        ``largest_radius`` and ``rows_at_largest`` by rank; ``unexplained`` rows at
        `LEVELS`; ``unexplained_slip``, those at half and twice the level `STATED`;
        ``unexplained_any_n`` and ``unexplained_any_sigma``, the fewest at
        `STATED` and `TENFOLD` when n may be anything from 50,000 to 300,000 (in steps
        of 100) or the noise up to 10 % off (in steps of 0.01 %); ``closest_n`` and
        ``closest_sigma`` (as a multiple) are where that is, next to the stated one.
        ``level_from`` and ``level_to`` are the ends of `lipsmooth.levels.level_range`
        around whichever of the two levels explains every row. What the counts behind
        the radii say lies between ``_lower`` and ``_upper``: ``rounded_up`` rows (and
        ``excess``, by how much the worst of them at least), ``exact_acr`` and
        ``exact_accuracy`` without rounding, ``stated_acr`` and ``stated_accuracy`` at
        the level `STATED`. Where both levels fit, the bounds hold for either.

    Raises
    ------
    ValueError
        If neither level explains every row.
    """
    labels, predictions, radii = (
        frame[name].to_numpy() for name in ("label", "predict", "radius")
    )
    known = {"sigma": sigma, "n": N}
    facts: dict[tuple[str, float], float] = {
        ("rows", 0): len(frame),
        ("abstained", 0): len(frame) * abstention_rate(predictions),
        ("acr", 0): average_certified_radius(labels, predictions, radii),
        ("seconds", 0): frame["seconds"].median(),
        ("seconds_in_tenths", 0): np.all(frame["seconds"] == frame["seconds"].round(1)),
    }

    def keep(name, at, values):
        facts.update({(name, a): v for a, v in zip(at, values, strict=True)})

    def quantiles(values):
        return np.quantile(values, RANKS, method="inverted_cdf")

    keep("accuracy", AT, certified_accuracy(labels, predictions, radii, AT))
    keep("quantile", RANKS, quantiles(radii))
    keep("certified_quantile", RANKS, quantiles(radii[predictions >= 0]))
    values, rows = np.unique(radii, return_counts=True)
    keep("largest_radius", range(1, 13), values[:-13:-1])
    keep("rows_at_largest", range(1, 13), rows[:-13:-1])
    keep("unexplained", LEVELS, unexplained_rows(radii, **known, alpha=LEVELS))
    slips = np.array([STATED / 2, 2 * STATED])
    keep("unexplained_slip", slips, unexplained_rows(radii, **known, alpha=slips))
    unexplained = {
        level: unexplained_rows(radii, **known, alpha=level)
        for level in (STATED, TENFOLD)
    }
    fitting = [level for level, missed in unexplained.items() if not missed]
    if not fitting:
        raise ValueError(f"neither {STATED} nor {TENFOLD} explains every radius")
    for level in unexplained:
        elsewhere = unexplained_rows(radii, sigma=sigma, n=_SIZES, alpha=level)
        louder = unexplained_rows(radii, sigma=sigma * _NOISES, n=N, alpha=level)
        for name, tried, missed, nominal in (
            ("n", _SIZES, elsewhere, N),
            ("sigma", _NOISES, louder, 1),
        ):
            facts[f"unexplained_any_{name}", level] = missed.min()
            best = tried[missed == missed.min()]
            facts[f"closest_{name}", level] = best[np.argmin(np.abs(best - nominal))]
        if level in fitting:
            ends = level_range(radii, **known, alpha=level)
            facts["level_from", level], facts["level_to", level] = ends
    facts |= _between(labels, predictions, radii, sigma, fitting)
    index = pd.MultiIndex.from_tuples(facts, names=["fact", "at"])
    return pd.Series([float(value) for value in facts.values()], index)


def collect_facts(logs_dir: Pathlike | None = None) -> pd.DataFrame:
    """Return the facts about all logs of Cohen, Rosenfeld and Kolter (2019).

    Parameters
    ----------
    logs_dir : path, optional
        As for `lipsmooth.published.fetch_log`, which checks each log's hash.

    Returns
    -------
    DataFrame
        One column per log, named as in `lipsmooth.published.PUBLISHED`; rows as of
        `log_facts`.
    """
    facts = {}
    for name in PUBLISHED:
        log = read_published(fetch_log(name, logs_dir=logs_dir))
        facts[name] = log_facts(log, sigma=float(name[-4:]))
    return pd.DataFrame(facts)


def write_facts(path: Pathlike, facts: pd.DataFrame) -> None:
    """Write what `collect_facts` returns, with its origin on top."""
    head = (
        "# Facts about the logs of Cohen, Rosenfeld and Kolter (2019), computed from\n"
        f"# {COHEN2019}\n"
        "# by lipsmooth.facts, whose documentation says what each row is. To make it\n"
        "# again: python notebooks/data/make_facts.py [FOLDER]\n"
    )
    text = facts.to_csv(float_format="%.10g", lineterminator="\n")
    Path(path).write_text(head + text, encoding="utf-8")


def read_facts(
    path: Pathlike | None = None, *, logs_dir: Pathlike | None = None
) -> pd.DataFrame:
    """Read the facts, and compare them with the logs where these are at hand.

    Parameters
    ----------
    path : path, optional
        Written by `write_facts`; the book's file `FILE` by default, sought here and one
        folder up, as chapters run in the root or in ``notebooks/``.
    logs_dir : path, optional
        Folder with the logs. None or ``""``: the file is taken at its word.

    Returns
    -------
    DataFrame
        As of `collect_facts`; from the logs if there is a ``logs_dir``.

    Raises
    ------
    ValueError
        If the file is not one of facts, or differs from the logs.
    OSError
        If the file or a log cannot be read.
    """
    if path is None:
        path = FILE if FILE.exists() else Path("..") / FILE
    text = Path(path).read_text(encoding="utf-8")
    try:
        found = pd.read_csv(io.StringIO(text), comment="#", index_col=["fact", "at"])
        found = found.astype(float)
    except (ValueError, LookupError, TypeError) as error:
        what = f"it begins {text[:40]!r} ({type(error).__name__})"
        raise ValueError(f"{path} is no file of facts: {what}") from None
    if not logs_dir:
        return found
    fresh = collect_facts(logs_dir)
    try:
        pd.testing.assert_frame_equal(found, fresh, rtol=1e-8, atol=1e-12)
    except AssertionError as error:
        raise ValueError(f"{path} differs from the logs: {error}") from None
    return fresh


def _between(labels, predictions, radii, sigma, fitting) -> dict:
    """Return the facts that the counts behind printed radii bound from both sides."""
    cases: dict[tuple[str, float], list[float]] = {}
    for level in fitting:
        known = {"sigma": sigma, "n": N, "alpha": level}
        exact = recertify(radii, **known, new_alpha=level)
        up = [np.sum(radii > end + 1e-12) for end in (exact.upper, exact.lower)]
        cases.setdefault(("rounded_up", 0), []).extend(up)
        worst = np.max(radii - exact.upper)
        cases.setdefault(("excess", 0), []).append(worst)
        for name, new in (("exact", level), ("stated", STATED)):
            for ends in recertify(radii, **known, new_alpha=new):
                columns = labels, predictions, ends
                acr = average_certified_radius(*columns)
                cases.setdefault((f"{name}_acr", 0), []).append(acr)
                shares = certified_accuracy(*columns, AT)
                for at, share in zip(AT, shares, strict=True):
                    cases.setdefault((f"{name}_accuracy", at), []).append(share)
    return {
        (f"{name}_{side}", at): choose(values)
        for side, choose in (("lower", min), ("upper", max))
        for (name, at), values in cases.items()
    }
