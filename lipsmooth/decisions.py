"""Certificates from a log: of votes, whether their number was fixed or not, or scores.

A fixed-``n`` bound is a statement about a number of votes that the votes had no say
in. Where they had, only bounds that hold at every look certify. In the same way, a
certificate from scores is for a map that these scores had no say in. A log of margins
leaves nothing to chance.
"""

import numpy as np
from numpy.typing import NDArray

from lipsmooth.certify import ABSTAIN, Certificates, certify_counts, predict_counts
from lipsmooth.logs import VoteLog
from lipsmooth.marginlogs import MarginLog
from lipsmooth.scorelogs import ScoreLog, SimplexMap
from lipsmooth.scores import certify_scores
from lipsmooth.sequential import RULE, stopping_rule
from lipsmooth.strategies import votes_of


def default_strategy(log: VoteLog | ScoreLog | MarginLog) -> str:
    """Return ``"sequential"`` if sampling stopped early, else ``"max-upper"``.

    For scores under noise it is ``"lvmrs"``, for those without ``"margin"``.
    """
    if isinstance(log, MarginLog):
        return "margin"
    if isinstance(log, ScoreLog):
        return "lvmrs"
    return "max-upper" if log.decision is None else "sequential"


def certify_log(
    log: VoteLog | ScoreLog | MarginLog,
    *,
    alpha: float,
    strategy: str | None = None,
    randomize_seed: int | None = None,
    map: str | SimplexMap | None = None,
) -> Certificates:
    """Certify the images of a log.

    Parameters
    ----------
    log : VoteLog, ScoreLog or MarginLog
        See `lipsmooth.shards.read_shards`.
    alpha : float
        Total failure probability per image, in (0, 1). Of no effect on a margin log,
        whose certificates do not fail at random.
    strategy : str, optional
        For scores one of those of `lipsmooth.scores.certify_scores`. For votes one of
        `lipsmooth.certify.STRATEGIES`, or, for a log that was sampled with a target
        radius, ``"sequential"``: that radius where it was decided to be reached, else
        `ABSTAIN`. Of the others only ``"anytime"`` suits such a log: a radius for
        each image at any level, decided or not. A margin log takes none but
        ``"margin"``. By default that of `default_strategy`.
    randomize_seed : int, optional
        For randomised bounds, see `lipsmooth.certify.certify_counts`. The coins of
        an image follow from this seed and its index in the log. Not for
        ``"sequential"`` and ``"anytime"``, nor for scores or margins.
    map : str or SimplexMap, optional
        Which map of a score log to certify; needed if the log has several, and to be
        named without a look at these images.

    Returns
    -------
    Certificates

    Raises
    ------
    ValueError
        If the strategy does not suit the log; if ``alpha`` is below the level at
        which a log decided; if a recorded decision does not follow from the votes;
        if a log has several maps and none is named; or as for
        `lipsmooth.certify.certify_counts` and `lipsmooth.scores.certify_scores`.

    Notes
    -----
    Guarantee: for each image, with probability at least ``1 - alpha`` over the
    estimation samples (and the coins), either the prediction is `ABSTAIN` or the
    smoothed classifier returns the prediction everywhere in the open L2 ball of the
    radius; also where the votes themselves ended the sampling. For a margin log that of
    `lipsmooth.marginlogs.certify_margins`.
    """
    strategy = strategy or default_strategy(log)
    if isinstance(log, MarginLog):
        given = {"the seed": randomize_seed, "the map": map}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"a margin log has no noise: drop {name}")
        if strategy != "margin":
            what = f"strategy {strategy!r} is for votes or scores under noise"
            raise ValueError(f"{what}; a margin log takes 'margin' alone")
        return log.certificates()
    if isinstance(log, ScoreLog):
        if randomize_seed is not None:
            raise ValueError("scores take no coins: drop the seed")
        return _certify_map(map_of(log, map), alpha, strategy)
    if map is not None:
        raise ValueError(f"map {map} is for a log of scores; this one holds votes")
    if strategy == "sequential":
        if randomize_seed is not None:
            raise ValueError("strategy 'sequential' takes no coins: drop the seed")
        return _certify_decisions(log, alpha)
    if log.decision is not None and strategy != "anytime":
        raise ValueError(
            f"strategy {strategy!r} needs a number of votes that was fixed beforehand, "
            "but this log stopped when its votes had decided; use 'sequential' or "
            "'anytime'"
        )
    return certify_counts(
        log.counts_selection, log.counts_estimation,
        sigma=log.sigma, alpha=alpha, strategy=strategy,
        randomize_seed=randomize_seed, index=log.index,
    )  # fmt: skip


def map_of(log: ScoreLog, map: str | SimplexMap | None) -> ScoreLog:
    """Return the log of one map, or raise if it is not plain which.

    Raises
    ------
    ValueError
        If the log lacks the map, or has several and none is named.
    """
    if map is None and len(log.maps) > 1:
        raise ValueError(
            f"the log has {len(log.maps)} maps, such as {log.maps[0]}; name one chosen "
            "on other images: a choice on these would void their certificates"
        )
    return log.only(log.maps[0] if map is None else map)


def _certify_map(log: ScoreLog, alpha: float, strategy: str) -> Certificates:
    first, spread, mean, variance = (
        values[:, 0]
        for values in (
            log.mean_selection, log.variance_selection, log.mean, log.variance,
        )
    )  # fmt: skip
    return certify_scores(
        first, mean, variance, log.n, sigma=log.config["sigma"], alpha=alpha,
        strategy=strategy, variance_selection=spread,
    )  # fmt: skip


def predict_log(log: VoteLog | MarginLog, *, alpha: float) -> NDArray[np.int64]:
    """Predict by `lipsmooth.certify.predict_counts`, from a fixed number of votes.

    From a margin log, whatever ``alpha``: the class with the largest score, or
    `ABSTAIN` where there are two.

    Raises
    ------
    ValueError
        If the log stopped early, for the test counts on a fixed number, or holds
        scores under noise; or as for `lipsmooth.certify.predict_counts`.
    """
    if isinstance(log, MarginLog):
        best = log.scores == log.scores.max(axis=1, keepdims=True)
        return np.where(best.sum(axis=1) == 1, best.argmax(axis=1), ABSTAIN)
    if isinstance(log, ScoreLog):
        raise ValueError("prediction needs votes, but this is a log of scores")
    if log.decision is not None:
        raise ValueError(
            "prediction needs a number of votes that was fixed beforehand, but this "
            "log stopped when its votes had decided; certify it instead"
        )
    return predict_counts(log.counts_estimation, alpha=alpha)


def _certify_decisions(log: VoteLog, alpha: float) -> Certificates:
    config = log.config
    if log.decision is None:
        raise ValueError("strategy 'sequential' needs a log with a target radius")
    if not config["alpha"] <= alpha < 1:
        raise ValueError(
            f"the log decided at alpha = {config['alpha']}, which certifies from that "
            f"level up to 1, got {alpha}; other levels need strategy 'anytime'"
        )
    if config.get("stopping") != RULE:
        raise ValueError(
            f"the log stopped by {config.get('stopping')}, not by {RULE}; "
            "use strategy 'anytime'"
        )
    rule = stopping_rule(
        config["target_radius"], sigma=config["sigma"], n=config["n"],
        alpha=config["alpha"],
    )  # fmt: skip
    top = np.argmax(log.counts_selection, axis=1)
    total = log.counts_estimation.sum(axis=1)
    look = np.minimum(np.searchsorted(rule.looks, total), len(rule.looks) - 1)
    found = rule.decide(votes_of(log.counts_estimation, top), look)
    wrong = np.flatnonzero((rule.looks[look] != total) | (found != log.decision))
    if len(wrong):
        i = wrong[0]
        raise ValueError(
            f"image {log.index[i]}: {total[i]} votes do not lead to the recorded "
            f"decision {log.decision[i]}"
        )
    reached = log.decision == 1
    p_a_lower = np.where(reached, rule.p_star, 0.0)
    return Certificates(
        prediction=np.where(reached, top, ABSTAIN),
        radius=np.where(reached, config["target_radius"], 0.0),
        p_a_lower=p_a_lower,
        p_b_upper=1 - p_a_lower,
    )
