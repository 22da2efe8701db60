from scipy.special import ndtr
from scipy.stats import binom


def rounded_down(radius, step, sigma, n):
    "as if the log had rounded down"
    return ndtr(radius / sigma) ** n, ndtr((radius + step) / sigma) ** n


def whole_steps(radius, step, sigma, n):
    "a whole step to either side"
    return ndtr((radius - step) / sigma) ** n, ndtr((radius + step) / sigma) ** n


def one_level(radius, step, sigma, n):
    "an interval of levels"
    return (ndtr(radius / sigma) ** n,) * 2


def single_vote(radius, step, sigma, n):
    "n-th power is missing"
    return ndtr((radius - step / 2) / sigma), ndtr((radius + step / 2) / sigma)


def ends(radius, step, sigma):
    return ndtr((radius - step / 2) / sigma), ndtr((radius + step / 2) / sigma)


def one_too_many(radius, step, sigma, n, alpha):
    "the first count is q(p⁻) + 1"
    return tuple(int(binom.isf(alpha, n, p)) for p in ends(radius, step, sigma))


def shares(radius, step, sigma, n, alpha):
    "which counts have this *share*"
    low, high = ends(radius, step, sigma)
    return int(n * low) + 1, int(n * high)


def two_sided(radius, step, sigma, n, alpha):
    "The bound is one-sided"
    low, high = ends(radius, step, sigma)
    return int(binom.isf(alpha / 2, n, low)) + 1, int(binom.isf(alpha / 2, n, high))


def in_order(radius, step, sigma, n, alpha):
    "put the ends in order"
    low, high = ends(radius, step, sigma)
    found = int(binom.isf(alpha, n, low)) + 1, int(binom.isf(alpha, n, high))
    return min(found), max(found)
