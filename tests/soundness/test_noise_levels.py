"""The samplers behind the trials of noise levels, and the truth at a noise level."""

from functools import partial

import levels
import numpy as np
import pytest
import torch
from judging import Setting
from levels import CLIMB, SEARCH, TRIED, at_level, is_false, numbered, soft, streamed
from panel import known
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import binomtest

from lipsmooth.certify import ABSTAIN
from lipsmooth.ddrs import ascend_noise_level
from lipsmooth.noise import NoiseStream
from lipsmooth.noise_level import NoiseLevelCertificate, search_noise_level
from lipsmooth.sampling import count_votes


def sampler_of(name, size, seed=0):
    rng = np.random.default_rng(seed)
    return next(numbered(Setting(name, 20, 100, 0.05), 1, size, rng))


@pytest.mark.parametrize("name", TRIED)
def test_the_same_numbers_are_the_same_votes(name):
    sampler = sampler_of(name, 400)
    for sigma in (0.12, 0.5, 1.5):
        draw = partial(sampler, sigma=sigma)
        whole = draw(n=400, start=0)
        assert whole.sum() == 400
        parts = draw(n=150, start=0), draw(n=250, start=150)
        assert np.array_equal(sum(parts), whole)
        assert np.array_equal(draw(n=150, start=0), parts[0])
    with pytest.raises(IndexError, match="sample 401 of 400"):
        draw(n=1, start=400)


@pytest.mark.statistical
@pytest.mark.parametrize("name", TRIED)
def test_votes_at_every_level_have_the_probabilities_of_the_truth(name):
    size = 20_000
    sampler = sampler_of(name, size)
    for sigma in (0.12, 0.5, 1.5):
        votes = sampler(sigma=sigma, n=size, start=0)
        truth = at_level(name, sigma).probabilities
        for count, p in zip(votes, truth, strict=True):
            assert binomtest(int(count), size, min(p, 1.0)).pvalue > 1e-5
    moved = truth[0] + (0.05 if truth[0] < 0.9 else -0.05)
    assert binomtest(int(votes[0]), size, moved).pvalue < 1e-2


def test_more_noise_takes_votes_from_a_half_space_one_by_one():
    sampler = sampler_of("half-space, p = 0.7", 500)
    votes = [sampler(sigma=s, n=500, start=0)[0] for s in np.linspace(0.1, 2, 40)]
    assert np.all(np.diff(votes) <= 0), "the noise samples are the same"
    assert votes[0] > 480
    assert votes[-1] < 320


def test_a_search_looks_at_as_many_samples_as_are_drawn():
    for search in (SEARCH, levels.APART):
        size = levels.samples_of(search)
        found = search_noise_level(sampler_of("slab", size), search)
        assert found.start == size


@pytest.mark.parametrize("name", levels.SOFT)
def test_soft_scores_vote_as_the_known_classifier(name):
    scores, truth = soft(name), known(name)
    points = torch.linspace(-3, 3, 1001).unsqueeze(1)
    rng = np.random.default_rng(0)
    votes = scores(points).argmax(dim=1).numpy()
    assert np.array_equal(votes, truth.classify(points.numpy(), rng))
    assert len(set(votes)) == 2
    x = torch.zeros(1)
    stream = NoiseStream(x.shape, seed=3, index=5)
    for sigma, start in ((0.3, 250), (1.2, 20)):
        real = count_votes(scores, x, sigma=sigma, n=230, seed=3, index=5, start=start)
        got = streamed(scores, x, stream, sigma=sigma, n=230, start=start)
        assert np.array_equal(got, real)


def test_searches_and_ascents_end_at_many_levels():
    draws = numbered(Setting("half-space, p = 0.7", 20, 1, 0.05), 100, 600,
                     np.random.default_rng(0))  # fmt: skip
    found = {search_noise_level(draw, SEARCH).sigma for draw in draws}
    assert len(found) >= 5
    for name in levels.SOFT:
        climbed = ascend_noise_level(
            soft(name), torch.zeros(100, 1), learning_rate=0.3, seed=0, **CLIMB
        )
        assert np.ptp(climbed) > 0.8
        assert np.std(climbed) > 0.2


def test_the_truth_is_that_at_the_level_of_the_certificate():
    edge = known("slab").edges[1]
    for sigma in (0.2, 0.5, 0.8):

        def inside(s, sigma=sigma):
            return ndtr((edge - s) / sigma) - ndtr((-edge - s) / sigma) - 0.5

        way = brentq(inside, 0, 3)
        assert at_level("slab", sigma).radii == pytest.approx([way, 0], rel=1e-9)
        for prediction, radius, false in (
            (0, way * (1 - 1e-9), False), (0, way * (1 + 1e-9), True),
            (1, 1e-9, True), (ABSTAIN, 0.0, False),
        ):  # fmt: skip
            found = NoiseLevelCertificate(prediction, radius, 0.9, sigma)
            assert is_false("slab", found) == false
    # With much noise the class around the slab is the prediction inside it.
    wide = at_level("slab", 1.5).radii
    assert wide[0] == 0
    assert wide[1] > 0
    for sigma in (0.1, 0.5, 2.0):
        half = at_level("half-space, p = 0.7", sigma)
        assert half.radii == pytest.approx(known("half-space, p = 0.7").radii, rel=1e-9)
