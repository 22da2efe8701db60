from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import binom


def rate(failures, certifications, alpha, tests, family):
    "rate above α is no proof"
    return failures / certifications > alpha


def more_than(failures, certifications, alpha, tests, family):
    "is the probability of *more* than k"
    return bool(binom.sf(failures, certifications, alpha) < family / tests)


def two_sided(failures, certifications, alpha, tests, family):
    "the test is one-sided"
    p_value = 2 * binom.sf(failures - 1, certifications, alpha)
    return bool(p_value < family / tests)


def uncorrected(failures, certifications, alpha, tests, family):
    "Do you divide by the number"
    return bool(binom.sf(failures - 1, certifications, alpha) < family)


def certificate(left, right, sigma):
    "It is right for a half-space"
    return max(0.0, sigma * ndtri(ndtr(right / sigma) - ndtr(-left / sigma)))


def plane(left, right, sigma):
    "distance to the nearer plane"
    return min(left, right)


def ahead(t, left, right, sigma):
    return ndtr((right - t) / sigma) - ndtr((-left - t) / sigma) - 0.5


def one_side(left, right, sigma):
    "radius is the distance to the nearer side"
    if ahead(0, left, right, sigma) <= 0:
        return 0.0
    return brentq(ahead, 0, right, args=(left, right, sigma))


def unguarded(left, right, sigma):
    "Your search stops with an error"
    sides = (left, right), (right, left)
    return min(brentq(ahead, 0, far, args=(near, far, sigma)) for near, far in sides)
