"""Sampling that stops by itself: the same votes, the same decisions, however dealt."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm

from lipsmooth.cli import main
from lipsmooth.data import load_dataset
from lipsmooth.logs import read_log
from lipsmooth.models import load_checkpoint
from lipsmooth.noise import NoiseStream
from lipsmooth.pursuit import Candidate, pursue, sample_decisions
from lipsmooth.sampling import count_votes
from lipsmooth.sequential import RULE, stopping_rule
from lipsmooth.train import trained_classifier

SETTINGS = {
    "sigma": 0.5, "n0": 30, "n": 3000, "seed": 3, "target_radius": 0.6,
    "alpha": 0.01, "progress": False,
}  # fmt: skip
DATA = ("index", "label", "counts_selection", "counts_estimation", "decision")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return trained_classifier("digits", sigma=0.5, epochs=6, cache_dir=folder)


@pytest.fixture
def model(checkpoint):
    return load_checkpoint(checkpoint)[0]


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "test")


@pytest.fixture(scope="module")
def log(checkpoint, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "v.jsonl"
    model = load_checkpoint(checkpoint)[0]
    return sample_decisions(model, digits, path, **SETTINGS, indices=range(40))


def same(log, other):
    for name in DATA:
        np.testing.assert_array_equal(getattr(log, name), getattr(other, name))
    assert log.config == other.config


def test_votes_and_decisions_are_those_of_one_image_alone(log, model, digits):
    rule = stopping_rule(0.6, sigma=0.5, n=3000, alpha=0.01)
    for row, index in enumerate(log.index.tolist()[:25]):
        x, label = digits[index]
        common = {"sigma": 0.5, "seed": 3, "index": index}
        selection = count_votes(model, x, n=30, start=0, **common)
        np.testing.assert_array_equal(log.counts_selection[row], selection)
        top, total, before = selection.argmax(), np.zeros(10, dtype=int), 0
        for look, n in enumerate(rule.looks.tolist()):
            total += count_votes(model, x, n=n - before, start=30 + before, **common)
            before, decision = n, int(rule.decide(total[top], look))
            if decision:
                break
        np.testing.assert_array_equal(log.counts_estimation[row], total)
        assert log.decision[row] == decision
        assert log.label[row] == label
    assert set(log.decision[:25].tolist()) == {-1, 0, 1}
    assert log.counts_estimation.sum(axis=1).min() == rule.looks[0]
    assert log.counts_estimation.sum(axis=1).max() == 3000


@pytest.mark.parametrize("batch_size", [1, 37, 999, 20_000])
def test_the_batch_size_leaves_no_trace(log, model, digits, tmp_path, batch_size):
    images = range(8 if batch_size == 1 else 40)
    settings = {**SETTINGS, "indices": images, "batch_size": batch_size}
    other = sample_decisions(model, digits, tmp_path / "v", **settings)
    same(log.select(images), other)


def test_order_and_resuming_leave_no_trace(log, model, digits, tmp_path):
    for part in ([39, 3], [5, 1, 3], range(40)):
        other = sample_decisions(
            model, digits, tmp_path / "v", **SETTINGS, indices=part
        )
        assert other.index.tolist() == list(part)
    same(log, other)
    assert len((tmp_path / "v").read_bytes().splitlines()) == 41


def test_the_log_notes_the_rule(log):
    wanted = {"target_radius": 0.6, "alpha": 0.01, "stopping": RULE, "n": 3000}
    assert log.config.items() >= wanted.items()


@pytest.mark.parametrize(
    "change", [{"target_radius": 0.7}, {"alpha": 0.02}, {"n": 4000}, {"n0": 31}]
)
def test_another_question_needs_another_log(model, digits, tmp_path, change):
    path = tmp_path / "v"
    sample_decisions(model, digits, path, **SETTINGS, indices=[0])
    with pytest.raises(ValueError, match=f"was sampled with {next(iter(change))} ="):
        sample_decisions(model, digits, path, **{**SETTINGS, **change}, indices=[1])


def test_batches_are_full_while_anybody_waits(model, digits):
    sizes = []

    def watched(x):
        sizes.append(len(x))
        return model(x)

    rule = stopping_rule(0.6, sigma=0.5, n=1000, alpha=0.01)
    place = torch.device("cpu")
    admitted = []

    def candidates():
        for i in range(60):
            admitted.append(len(sizes))
            yield Candidate(
                i, *digits[i], rule=rule, n0=30, seed=3, device=place, classes=10,
                sigma=0.5,
            )  # fmt: skip

    images = list(pursue(watched, candidates(), batch_size=200))
    assert sorted(image.index for image in images) == list(range(60))
    assert set(sizes[: admitted[-1]]) == {200}
    # What is sampled beyond decisions, to fill batches, stays a small share.
    used = sum(int(i.selection.sum() + i.estimation.sum()) for i in images)
    assert used <= sum(sizes) <= 1.2 * used + 400
    # And the time is shared out.
    assert all(image.seconds > 0 for image in images)


def half_space(margin):
    """Class 1 where the first coordinate exceeds −margin, seen from 0."""
    return lambda x: torch.stack([torch.zeros(len(x)), x[:, 0] + margin], dim=1)


@pytest.mark.statistical
def test_wrong_decisions_about_a_known_radius_are_rare():
    """The half-space's radius is its margin; the target misses it by 10 %."""
    alpha, images, place = 0.1, 200, torch.device("cpu")
    for factor, wrong in ((0.9, 1), (1.1, -1)):
        target = 1.0
        rule = stopping_rule(target, sigma=1.0, n=5000, alpha=alpha)
        candidates = (
            Candidate(
                i, torch.zeros(1), 1, rule=rule, n0=20, seed=5, device=place, classes=2,
                sigma=1.0,
            ) for i in range(images)
        )  # fmt: skip
        base = half_space(factor * target)
        found = list(pursue(base, candidates, batch_size=5000))
        errors = sum(image.decision == wrong for image in found)
        right = sum(image.decision == -wrong for image in found)
        assert right > 0.9 * images
        test = binomtest(errors, images, alpha / 2, alternative="greater")
        assert test.pvalue > 1e-4
    assert norm.cdf(1.1) > rule.p_star > norm.cdf(0.9)


def test_scores_that_are_not_finite_matter_only_where_they_count(digits, tmp_path):
    stream = NoiseStream(digits[7][0].shape, seed=3, index=7)
    noisy = digits[7][0] + 0.5 * stream.take(0, 200)

    def poisoned(number):
        def classifier(x):
            scores = torch.zeros(len(x), 10)
            scores[:, 2] = 1.0
            hit = (x.flatten(1) - noisy[number].flatten()).abs().amax(1) < 1e-6
            scores[hit, 5] = torch.nan
            return scores

        return classifier

    settings = {**SETTINGS, "indices": [7], "batch_size": 200}
    log = sample_decisions(poisoned(199), digits, tmp_path / "a", **settings)
    assert log.counts_estimation.sum() < 165  # the poison lay beyond the decision
    with pytest.raises(ValueError, match="scores must be finite; image 7 has NaN"):
        sample_decisions(poisoned(35), digits, tmp_path / "b", **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_radius": -1.0}, "radius must be finite and at least 0, got -1"),
        ({"target_radius": 9.0}, "out of reach"),
        ({"alpha": 0.0}, "alpha must lie in"),
        ({"n": 0}, "n must be a whole number"),
        ({"n0": 0}, "n0 must be a whole number"),
        ({"sigma": -1.0}, "sigma must be positive"),
        ({"seed": -1}, "seed must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"indices": [450]}, "image 450"),
    ],
)
def test_bad_settings(model, digits, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sample_decisions(model, digits, tmp_path / "v", **{**SETTINGS, **changes})
    assert not (tmp_path / "v").exists()


def test_killed_and_resumed(checkpoint, tmp_path):
    def command(path):
        return [
            "sample", str(checkpoint), str(path), "--target-radius", "0.6", "--n",
            "4000", "--images", "60", "--seed", "9", "--quiet",
        ]  # fmt: skip

    cut, whole = tmp_path / "cut.jsonl", tmp_path / "whole.jsonl"
    process = subprocess.Popen([sys.executable, "-m", "lipsmooth", *command(cut)])
    deadline = time.monotonic() + 120
    while not (cut.exists() and cut.read_bytes().count(b"\n") >= 4):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 3 <= len(read_log(cut)) < 60
    for path in (cut, whole):
        assert main(command(path)) == 0
    same(read_log(whole), read_log(cut))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(checkpoint, digits, tmp_path):
    model, _ = load_checkpoint(checkpoint, "cuda")
    torch.backends.cudnn.allow_tf32 = False
    logs = [
        sample_decisions(
            model, digits, tmp_path / f"{b}", **SETTINGS, indices=range(40),
            batch_size=b, device="cuda",
        ) for b in (100, 1000)
    ]  # fmt: skip
    same(*logs)
    assert logs[0].config["rng"] == "torch-cuda"
