from math import inf, pi, sqrt

from scipy.special import erf


def as_printed(sigma, lipschitz, score_range=1.0):
    "printed formula"
    if lipschitz == inf:
        return score_range / (sigma * sqrt(2 * pi))
    return lipschitz * erf(score_range / (sqrt(2) * lipschitz * sigma))


def smaller_of_two(sigma, lipschitz, score_range=1.0):
    "smaller of the two simple bounds"
    return min(lipschitz, score_range / (sigma * sqrt(2 * pi)))


def range_of_one(sigma, lipschitz, score_range=1.0):
    "score_range has no influence"
    if lipschitz == inf:
        return 1 / (sigma * sqrt(2 * pi))
    return lipschitz * erf(1 / (2 * sqrt(2) * lipschitz * sigma))


def no_limit(sigma, lipschitz, score_range=1.0):
    "infinity times erf(0)"
    return lipschitz * erf(score_range / (2 * sqrt(2) * lipschitz * sigma))
