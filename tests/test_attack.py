"""Attacks find the boundary where it is known, and never enter a certified ball."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binom, binomtest

from lipsmooth.attack import attack_smoothed
from lipsmooth.certify import ABSTAIN, certify_counts
from lipsmooth.data import load_dataset
from lipsmooth.empirical import (
    broken_radii,
    empirical_accuracy,
    outvoted,
    outvoted_at,
)
from lipsmooth.models import load_checkpoint
from lipsmooth.sampling import count_votes, sample_votes
from lipsmooth.train import trained_classifier

NORMAL = torch.tensor([0.6, 0.8])


def half_space(z):
    """Class 1 on the side of the normal: g has the same boundary at every σ."""
    side = z @ NORMAL - 0.2
    return 3 * torch.stack([-side, side], dim=1)


def distance(z):
    return (z.double() @ NORMAL.double() - 0.2).numpy()


@pytest.fixture(scope="module")
def points():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    return x[distance(x) > 0.01]


@pytest.fixture(scope="module")
def digits():
    checkpoint = trained_classifier("digits", sigma=0.25, epochs=8)
    votes = sample_votes(
        checkpoint, "digits", sigma=0.25, n0=50, n=500, images=60, seed=0
    )
    x, y = load_dataset("digits", "test").tensors(votes.index)
    return load_checkpoint(checkpoint)[0], x, y.numpy(), votes


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.5, 2.0])
def test_the_exact_boundary_of_a_half_space_is_found(points, sigma):
    truth, ones = distance(points), np.ones(len(points), dtype=int)
    for factor, crossed in ((0.999, False), (1.001, True)):
        attacked = attack_smoothed(
            half_space, points, ones, sigma=sigma, radius=factor * truth, seed=1
        )
        assert_array_equal(distance(attacked) < 0, np.full(len(points), crossed))
        moved = (attacked - points).norm(dim=1).numpy()
        assert np.all(moved <= factor * truth * (1 + 1e-5))


def test_no_certificate_breaks_more_often_than_its_level(points):
    """Cohen's radius is exact here, so that what is false is found to be false."""
    alpha, sigma = 0.1, 0.5
    x = points.repeat(8, 1)
    votes = [
        [
            count_votes(half_space, z, sigma=sigma, n=k, start=s, seed=2, index=i)
            for s, k in ((0, 50), (50, 400))
        ]
        for i, z in enumerate(x)
    ]
    certificates = certify_counts(
        *np.swapaxes(votes, 0, 1), sigma=sigma, alpha=alpha, strategy="mono"
    )
    held = certificates.prediction != ABSTAIN

    def broken(stretch):
        attacked = attack_smoothed(
            half_space, x[held], certificates.prediction[held], sigma=sigma,
            radius=stretch * certificates.radius[held], seed=3,
        )  # fmt: skip
        answer = (distance(attacked) > 0).astype(int)
        return int(np.sum(answer != certificates.prediction[held]))

    test = binomtest(broken(1.0), int(held.sum()), alpha, alternative="greater")
    assert test.pvalue > 1e-3
    assert broken(1.0) > 0  # the attack is strong enough to find them
    # A control: balls one and a half times as large are nearly all false.
    assert broken(1.5) > 0.8 * held.sum()


def test_no_digit_is_broken_inside_its_certified_ball(digits):
    model, x, _, votes = digits
    certificates = certify_counts(
        votes.counts_selection, votes.counts_estimation, sigma=0.25, alpha=0.001
    )
    held = certificates.prediction != ABSTAIN
    claimed = certificates.prediction[held]
    assert held.sum() > 40

    def alarms(stretch):
        attacked = attack_smoothed(
            model, x[held], claimed, sigma=0.25, seed=4, steps=10, noise_samples=8,
            radius=stretch * certificates.radius[held],
        )  # fmt: skip
        counts = [
            count_votes(model, z, sigma=0.25, n=300, seed=5, index=i)
            for i, z in enumerate(attacked)
        ]
        return int(outvoted(counts, claimed, alpha=1e-6).sum())

    assert alarms(0.999) == 0
    assert alarms(4.0) > 20


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_the_walk_gets_to_the_surface_however_few_the_steps(digits, steps):
    model, x, y, _ = digits
    attacked = attack_smoothed(
        model, x[:8], y[:8], sigma=0.25, radius=1.5, seed=0, steps=steps,
        noise_samples=4,
    )  # fmt: skip
    assert_allclose((attacked - x[:8]).flatten(1).norm(dim=1), 1.5, rtol=0.01)


def test_more_noise_and_more_steps_make_a_stronger_attack(digits):
    model, x, y, _ = digits

    judge = partial(outvoted_at, model, sigma=0.25, n=200, seed=1)

    def left(**settings):
        attack = partial(attack_smoothed, model, sigma=0.25, seed=0, **settings)
        found = broken_radii(attack, judge, x, y, radii=[0.6], alpha=0.01)
        return np.mean(np.isinf(found))

    weak = left(steps=1, noise_samples=1, path_length=1.0)
    assert left(steps=10, noise_samples=16) < weak - 0.05


def test_the_batch_size_does_not_matter(digits):
    model, x, y, _ = digits
    whole, split = (
        attack_smoothed(
            model, x[:7], y[:7], sigma=0.25, radius=0.4, seed=0, steps=3,
            noise_samples=4, batch_size=size,
        )
        for size in (1000, 8)
    )  # fmt: skip
    assert_allclose(whole, split, atol=1e-3)
    alone = attack_smoothed(
        model, x[3:4], y[3:4], sigma=0.25, radius=0.4, seed=0, steps=3,
        noise_samples=4, indices=[3],
    )  # fmt: skip
    assert_allclose(alone[0], whole[3], atol=1e-3)
    other = attack_smoothed(
        model, x[3:4], y[3:4], sigma=0.25, radius=0.4, seed=0, steps=3,
        noise_samples=4, indices=[4],
    )  # fmt: skip
    assert (other - alone).abs().max() > 1e-3


def test_pixels_can_be_kept_in_range(digits):
    model, x, y, _ = digits
    common = {"sigma": 0.25, "radius": 1.0, "seed": 0, "steps": 4, "noise_samples": 2}
    free = attack_smoothed(model, x[:5], y[:5], **common)
    bounded = attack_smoothed(model, x[:5], y[:5], **common, bounds=(0, 1))
    assert free.min() < -0.01
    assert bounded.min() >= 0
    assert bounded.max() <= 1


def test_the_model_is_left_as_it_was(digits):
    model, x, y, _ = digits
    model.train()
    attack_smoothed(
        model, x[:2], y[:2], sigma=0.25, radius=0.1, seed=0, steps=1, noise_samples=2
    )
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    model.eval()


def test_probabilities_too_small_for_a_float_still_have_a_direction():
    def steep(z):
        return 1e3 * half_space(z)

    x = torch.tensor([[-3.0, -3.0]])  # softmax of class 1 is exactly 0 in float32
    attacked = attack_smoothed(steep, x, [1], sigma=0.1, radius=1.0, seed=0)
    assert_allclose((attacked - x)[0], -NORMAL, atol=1e-4)


# Judging


def test_outvoted_by_hand():
    counts = [[60, 40, 0], [90, 10, 0], [50, 50, 0], [40, 30, 30]]
    assert outvoted(counts, [1, 1, 1, 1], alpha=0.01).tolist() == [
        False, True, False, False,
    ]  # fmt: skip
    assert outvoted([[0, 0]], [0], alpha=0.5).tolist() == [False]
    # 60 against 40 is significant at 0.03 for one rival, and not for two.
    assert binom.sf(59, 100, 0.5) == pytest.approx(0.0284, abs=1e-4)
    assert outvoted([[60, 40]], [1], alpha=0.03).tolist() == [True]
    assert outvoted([[60, 40, 0]], [1], alpha=0.03).tolist() == [False]


@pytest.mark.statistical
def test_a_tie_is_rarely_called_broken():
    rng = np.random.default_rng(0)
    worst = rng.multinomial(100, [0.25, 0.25, 0.25, 0.25], size=4000)
    alarms = int(outvoted(worst, np.zeros(4000, dtype=int), alpha=0.1).sum())
    assert alarms > 0
    assert binomtest(alarms, 4000, 0.1, alternative="greater").pvalue > 1e-3
    lost = rng.multinomial(100, [0.1, 0.7, 0.1, 0.1], size=100)
    assert outvoted(lost, np.zeros(100, dtype=int), alpha=0.1).all()


@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=20),
    st.floats(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_empirical_accuracy_counts_what_is_left(broken, at):
    expected = np.mean([r > at for r in broken])
    assert empirical_accuracy(broken, at) == pytest.approx(expected)


def test_of_several_attacks_the_best_counts():
    first, second = [0.5, np.inf, 0.1], [np.inf, 0.3, 0.2]
    both = empirical_accuracy([first, second], [0, 0.1, 0.3, 0.5])
    assert_allclose(both, [1, 2 / 3, 1 / 3, 0])


ATTACK = partial(attack_smoothed, half_space, sigma=0.5, seed=0)
JUDGE = partial(outvoted_at, half_space, sigma=0.5, n=4000, seed=1)


def test_radii_grow_and_broken_images_stay_broken(points):
    ones = np.ones(len(points), dtype=int)
    radii = [0, 0.1, 0.3, 1.0, 3.0]
    found = broken_radii(ATTACK, JUDGE, points, ones, radii=radii, alpha=1e-4)
    truth = distance(points)
    # Never broken closer than the truth, and soon after it.
    assert np.all(found >= truth)
    first = [next((r for r in radii if r > d + 0.1), np.inf) for d in truth]
    assert np.all(found <= first)
    wrong = broken_radii(ATTACK, JUDGE, points, 1 - ones, radii=[0], alpha=1e-4)
    assert np.mean(wrong == 0) > 0.8


def test_a_broken_image_is_not_asked_again_and_the_level_is_shared_out(points):
    asked = []

    def attack(x, y, *, radius, indices):
        asked.append((radius, indices.tolist()))
        return x

    def judge(x, y, *, indices, alpha):
        assert alpha == pytest.approx(0.1 / 3)
        return np.isin(indices, [5, 7])

    found = broken_radii(
        attack, judge, points[:3], [1, 1, 1], radii=[0, 1, 2], alpha=0.1,
        indices=[5, 6, 7],
    )  # fmt: skip
    assert found.tolist() == [0, np.inf, 0]
    assert asked == [(1, [6]), (2, [6])]


def test_judging_draws_the_votes_of_count_votes(digits):
    model, x, y, _ = digits
    counts = [
        count_votes(model, x[i], sigma=0.25, n=100, seed=3, index=9 + i)
        for i in range(4)
    ]
    for y in (0, 1, 5):
        claimed = np.full(4, y)
        found = outvoted_at(
            model, x[:4], claimed, sigma=0.25, n=100, seed=3, alpha=0.01,
            indices=[9, 10, 11, 12], batch_size=33,
        )  # fmt: skip
        assert_array_equal(found, outvoted(counts, claimed, alpha=0.01))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": -1}, "sigma must be positive"),
        ({"radius": -0.1}, "radius must be at least 0"),
        ({"radius": [0.1, 0.2]}, "one or per image"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"noise_samples": 0}, "noise_samples must be a whole number"),
        ({"path_length": 0}, "path_length must be positive"),
        ({"y": [1, 1]}, r"y has shape \(2,\) for 1 images"),
        ({"indices": [1, 2]}, "2 indices for 1 images"),
    ],
)
def test_bad_attacks_are_refused(change, message):
    call = {"y": [1], "sigma": 0.5, "radius": 1.0, "seed": 0, **change}
    with pytest.raises(ValueError, match=message):
        attack_smoothed(half_space, torch.zeros(1, 2), **call)


def test_bad_judgements_are_refused():
    for radii in ([], [0.2, 0.1], [-1.0], [0.1, 0.1], [np.nan]):
        with pytest.raises(ValueError, match="radii must increase"):
            broken_radii(ATTACK, JUDGE, torch.zeros(1, 2), [1], radii=radii, alpha=0.1)
    with pytest.raises(ValueError, match="alpha must lie in"):
        broken_radii(ATTACK, JUDGE, torch.zeros(1, 2), [1], radii=[1], alpha=2)
    with pytest.raises(ValueError, match="sigma must be positive"):
        JUDGE(torch.zeros(1, 2), [1], sigma=0.0, alpha=0.1)
    with pytest.raises(ValueError, match="are needed"):
        outvoted([[1, 2]], [0, 1], alpha=0.1)
    with pytest.raises(ValueError, match="must not be negative"):
        outvoted([[1, -2]], [0], alpha=0.1)
    with pytest.raises(ValueError, match="alpha must lie in"):
        outvoted([[1, 2]], [0], alpha=0)
    with pytest.raises(ValueError, match="broken must hold"):
        empirical_accuracy([], 0.1)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="scores must be finite"):
        attack_smoothed(
            lambda z: half_space(z) * np.nan, torch.zeros(1, 2), [1], sigma=0.5,
            radius=1.0, seed=0,
        )  # fmt: skip
