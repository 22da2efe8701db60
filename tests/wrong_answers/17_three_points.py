import numpy as np
from scipy.special import ndtr
from scipy.stats import binom, norm


def no_sigma(p, n, radius, sigma, alpha):
    "Do you divide the radius by sigma?"
    return binom.sf(binom.isf(alpha, n, ndtr(radius)), n, p)


def more_than(p, n, radius, sigma, alpha):
    "is the probability of *more* than k"
    return binom.sf(binom.isf(alpha, n, ndtr(radius / sigma)) - 1, n, p)


def share(p, n, radius, sigma, alpha):
    "A share is no"
    return binom.sf(np.floor(n * ndtr(radius / sigma)), n, p)


def two_sided(p, n, radius, sigma, alpha):
    "The bound is one-sided"
    return binom.sf(binom.isf(alpha / 2, n, ndtr(radius / sigma)), n, p)


def one_sided(first, second):
    "four losses. Four wins would have been"
    wins, losses = np.sum(first > second), np.sum(first < second)
    return binom.sf(max(wins, losses) - 1, wins + losses, 0.5)


def as_if_on_other_images(first, second):
    "as tested on different images"
    a, b, n = np.mean(first), np.mean(second), len(first)
    deviation = np.sqrt((a * (1 - a) + b * (1 - b)) / n)
    return 2 * norm.sf(abs(a - b) / deviation)


def agreement_as_tosses(first, second):
    "images on which they agree as tosses"
    wins, losses = np.sum(first > second), np.sum(first < second)
    even = (len(first) - wins - losses) / 2
    return min(1, 2 * binom.sf(max(wins, losses) + even - 1, len(first), 0.5))


def above_one(first, second):
    "probability cannot exceed 1"
    wins, losses = np.sum(first > second), np.sum(first < second)
    return 2 * binom.sf(max(wins, losses) - 1, wins + losses, 0.5)
