import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import beta, norm


def density(k, sigma, levels):
    "Is it a density that you"
    return norm.pdf(k / levels, scale=sigma)


def rounded_down(k, sigma, levels):
    "Nearest to k is what lies between"
    return ndtr((k + 1) / (sigma * levels)) - ndtr(k / (sigma * levels))


def proportional(k, sigma, levels):
    "Weights proportional to the density"
    every = np.arange(-40 * levels, 40 * levels + 1) / (sigma * levels)
    return np.exp(-((k / (sigma * levels)) ** 2) / 2) / np.exp(-(every**2) / 2).sum()


def pixels(k, sigma, levels):
    "It counts steps"
    return noise(k, sigma)


def noise(k, scale):
    return ndtr(-(abs(k) - 0.5) / scale) - ndtr(-(abs(k) + 0.5) / scale)


def right_tail_lost(k, sigma, levels):
    "Φ is rounded"
    return ndtr((k + 0.5) / (sigma * levels)) - ndtr((k - 0.5) / (sigma * levels))


def lower(k, n, level):
    return beta.ppf(level, k, n - k + 1)


def upper(k, n, level):
    return 1.0 if k == n else beta.ppf(1 - level, k + 1, n - k)


def share_for_bound(votes, n, differing, m, sigma, alpha):
    "use its upper bound"
    p = lower(votes, n, alpha) - differing / m
    return sigma * ndtri(p) if p > 0.5 else 0.0


def alpha_twice(votes, n, differing, m, sigma, alpha):
    "Each bound has the whole alpha"
    p = lower(votes, n, alpha) - upper(differing, m, alpha)
    return sigma * ndtri(p) if p > 0.5 else 0.0


def independent(votes, n, differing, m, sigma, alpha):
    "as if the pairs that differ were independent"
    p = lower(votes, n, alpha / 2) * (1 - upper(differing, m, alpha / 2))
    return sigma * ndtri(p) if p > 0.5 else 0.0


def quantiles(votes, n, differing, m, sigma, alpha):
    "not from its quantile"
    p, d = lower(votes, n, alpha / 2), upper(differing, m, alpha / 2)
    return max(0, sigma * (ndtri(p) - ndtri(d)))


def never_abstains(votes, n, differing, m, sigma, alpha):
    "Below one half there is no radius"
    return sigma * ndtri(lower(votes, n, alpha / 2) - upper(differing, m, alpha / 2))
