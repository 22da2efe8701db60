"""Votes that stopped early are certified by rules that allow it, and by no other."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from lipsmooth.certify import ABSTAIN, STRATEGIES, certify_counts
from lipsmooth.decisions import certify_log, default_strategy, predict_log
from lipsmooth.intervals import clopper_pearson_lower
from lipsmooth.logs import LogWriter, VoteLog, read_log
from lipsmooth.radii import radius_mono
from lipsmooth.sequential import RULE, lower_sequence, stopping_rule

CONFIG = {
    "num_classes": 3, "sigma": 0.5, "n0": 10, "n": 500, "seed": 7,
    "target_radius": 0.5, "alpha": 0.01, "stopping": RULE,
}  # fmt: skip
STOPPED_TOO = ("anytime",)


def walks(p, count, config=CONFIG, seed=0):
    """A log of images whose classes have probabilities ``p``, stopped by the rule."""
    rng = np.random.default_rng(seed)
    rule = stopping_rule(
        config["target_radius"], sigma=config["sigma"], n=config["n"],
        alpha=config["alpha"],
    )  # fmt: skip
    estimation, decisions = [], []
    for _ in range(count):
        votes = np.cumsum(rng.multinomial(1, p, size=config["n"]), axis=0)
        found = rule.decide(votes[rule.looks - 1, 0], np.arange(len(rule.looks)))
        last = np.flatnonzero(found)[0] if found.any() else -1
        estimation.append(votes[rule.looks[last] - 1])
        decisions.append(found[last])
    return VoteLog(
        config=config, provenance={}, index=np.arange(count),
        label=np.zeros(count, dtype=int),
        counts_selection=np.tile([8, 1, 1], (count, 1)),
        counts_estimation=np.array(estimation), seconds=np.zeros(count),
        decision=np.array(decisions, dtype=np.int8),
    )  # fmt: skip


@pytest.fixture(scope="module")
def log():
    parts = [
        walks(p, 20) for p in ([0.99, 0.01, 0], [0.84, 0.1, 0.06], [0.3, 0.6, 0.1])
    ]
    whole = replace(
        parts[0],
        counts_estimation=np.concatenate([p.counts_estimation for p in parts]),
        decision=np.concatenate([p.decision for p in parts]),
        counts_selection=np.tile([8, 1, 1], (60, 1)), index=np.arange(60),
        label=np.zeros(60, dtype=int), seconds=np.zeros(60),
    )  # fmt: skip
    assert set(whole.decision.tolist()) == {-1, 0, 1}
    return whole


def test_decisions_become_certificates(log):
    got = certify_log(log, alpha=0.01)
    assert default_strategy(log) == "sequential"
    reached = log.decision == 1
    np.testing.assert_array_equal(got.prediction, np.where(reached, 0, ABSTAIN))
    np.testing.assert_array_equal(got.radius, np.where(reached, 0.5, 0.0))
    radius = radius_mono(got.p_a_lower[reached], sigma=0.5)
    np.testing.assert_allclose(radius, 0.5)
    np.testing.assert_array_equal(got.p_b_upper, 1 - got.p_a_lower)


def test_the_radius_sequence(log):
    got = certify_log(log, alpha=0.003, strategy="anytime")
    votes = log.counts_estimation
    bound = lower_sequence(votes[:, 0], votes.sum(axis=1), alpha=0.003)
    np.testing.assert_array_equal(got.p_a_lower, bound)
    radius = radius_mono(bound, sigma=0.5)
    np.testing.assert_array_equal(got.radius, np.maximum(radius, 0))
    assert np.any(got.radius > 0)
    # It costs: with a number of votes that was fixed, Clopper–Pearson's is larger.
    fixed = certify_counts(
        log.counts_selection, votes, sigma=0.5, alpha=0.003, strategy="mono"
    )
    assert np.all(got.p_a_lower <= fixed.p_a_lower)


@pytest.mark.parametrize("strategy", sorted({*STRATEGIES} - {*STOPPED_TOO}))
def test_fixed_n_strategies_are_refused(log, strategy):
    with pytest.raises(ValueError, match="fixed beforehand, but this log stopped"):
        certify_log(log, alpha=0.01, strategy=strategy)


@pytest.mark.parametrize("strategy", [None, "sequential", *STOPPED_TOO])
def test_coins_are_refused_where_no_bound_takes_them(log, strategy):
    with pytest.raises(ValueError, match="takes no coins"):
        certify_log(log, alpha=0.01, strategy=strategy, randomize_seed=3)


def test_prediction_is_refused(log):
    with pytest.raises(ValueError, match="fixed beforehand, but this log stopped"):
        predict_log(log, alpha=0.01)


def stopped(p, rule):
    """Yield number of votes, counts and exact probabilities at the end of sampling."""
    alive, lowest, before = np.ones(1), 0, 0
    for i, look in enumerate(rule.looks):
        step = binom.pmf(np.arange(look - before + 1), look - before, p)
        alive = np.convolve(alive, step)
        k = lowest + np.arange(len(alive))
        ends = (k >= rule.accept[i]) | (k <= rule.reject[i]) | (look == rule.looks[-1])
        yield look, k[ends], alive[ends]
        keep = np.flatnonzero(~ends)
        if not len(keep):
            return
        alive, lowest, before = alive[keep[0] : keep[-1] + 1], k[keep[0]], look


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_why_they_are_refused(alpha, ratio):
    """Exactly: Clopper–Pearson fails far too often on stopped votes, ours do not."""
    rule = stopping_rule(ratio, sigma=1.0, n=2000, alpha=alpha)
    worst_fixed = worst_anytime = worst_decision = 0.0
    for p in rule.p_star + np.array([0, 0.005, 0.01, 0.015, 0.02, 0.04, 0.08]):
        fixed = anytime = 0.0
        for n, k, weight in stopped(p, rule):
            fixed += weight[clopper_pearson_lower(k, n, alpha=alpha) > p].sum()
            anytime += weight[lower_sequence(k, n, alpha=alpha) > p].sum()
        worst_fixed, worst_anytime = (
            max(worst_fixed, fixed),
            max(worst_anytime, anytime),
        )
    for p in rule.p_star - np.array([1e-9, 0.01, 0.05]):
        accepted = [
            weight[k >= rule.accept[rule.looks == n]].sum()
            for n, k, weight in stopped(p, rule)
        ]
        worst_decision = max(worst_decision, sum(accepted))
    assert worst_fixed > 2 * alpha
    assert worst_anytime <= alpha
    assert 0 < worst_decision <= alpha / 2


def test_levels(log):
    assert np.any(certify_log(log, alpha=0.05).radius > 0)
    for alpha in (0.009, 0.0, 1.0, 2.0):
        with pytest.raises(ValueError, match=rf"at alpha = 0.01.* got {alpha}"):
            certify_log(log, alpha=alpha)


def test_a_decision_that_the_votes_do_not_support(log):
    i = int(np.flatnonzero(log.decision == 1)[0])
    for changed in (
        replace(log, decision=np.where(np.arange(60) == i, -1, log.decision)),
        replace(log, counts_estimation=log.counts_estimation + (np.eye(60, 3, -i) > 0)),
        replace(log, counts_selection=np.tile([1, 8, 1], (60, 1))),
    ):
        with pytest.raises(ValueError, match="do not lead to the recorded decision"):
            certify_log(changed, alpha=0.01)


def test_a_rule_of_another_version(log):
    other = replace(log, config={**CONFIG, "stopping": {**RULE, "growth": 2.0}})
    with pytest.raises(ValueError, match=r"the log stopped by .*anytime"):
        certify_log(other, alpha=0.01)
    certify_log(other, alpha=0.01, strategy="anytime")


def test_a_fixed_number_of_votes(log):
    plain = {k: CONFIG[k] for k in ("num_classes", "sigma", "n0", "n", "seed")}
    fixed = replace(log, config=plain, decision=None)
    assert default_strategy(fixed) == "max-upper"
    got = certify_log(fixed, alpha=0.01)
    want = certify_counts(
        fixed.counts_selection, fixed.counts_estimation, sigma=0.5, alpha=0.01
    )
    np.testing.assert_array_equal(got.radius, want.radius)
    assert np.all(predict_log(fixed, alpha=0.01)[:20] == 0)
    with pytest.raises(ValueError, match="needs a log with a target radius"):
        certify_log(fixed, alpha=0.01, strategy="sequential")


def test_the_file_keeps_decisions_and_stopping_times(log, tmp_path):
    path = tmp_path / "v.jsonl"
    with LogWriter(path, CONFIG, {}) as writer:
        for i in log.index:
            votes = log.counts_selection[i], log.counts_estimation[i]
            writer.append(i, 0, *votes, 0.0, log.decision[i])
        with pytest.raises(ValueError, match="image 99: decision must be -1, 0 or 1"):
            writer.append(99, 0, *votes, 0.0)
        with pytest.raises(ValueError, match="decision must be -1, 0 or 1"):
            writer.append(99, 0, *votes, 0.0, 2)
        with pytest.raises(ValueError, match="sum to at most n = 500"):
            writer.append(99, 0, [8, 1, 1], [501, 0, 0], 0.0, 1)
        with pytest.raises(ValueError, match="sum to n = 500"):
            writer.append(99, 0, [8, 1, 1], [499, 0, 0], 0.0, 0)
    read = read_log(path)
    for name in ("index", "counts_estimation", "decision"):
        np.testing.assert_array_equal(getattr(read, name), getattr(log, name))
    assert read.decision.dtype == np.int8
    np.testing.assert_array_equal(read.select([5, 3]).decision, log.decision[[5, 3]])
    with (
        LogWriter(tmp_path / "f.jsonl", {**CONFIG, "target_radius": 1}, {}) as other,
        pytest.raises(ValueError, match="decision"),
    ):
        other.append(0, 0, [8, 1, 1], [20, 0, 0], 0.0)


def test_a_decision_has_no_place_among_fixed_votes(tmp_path):
    plain = {k: CONFIG[k] for k in ("num_classes", "sigma", "n0", "n", "seed")}
    with (
        LogWriter(tmp_path / "v.jsonl", plain, {}) as writer,
        pytest.raises(ValueError, match="decision must be absent"),
    ):
        writer.append(0, 0, [8, 1, 1], [500, 0, 0], 0.0, 1)
