import numpy as np
from scipy.special import ndtri
from scipy.stats import beta


def flagged(table, sigmas, radii, level):
    largest = np.asarray(sigmas) * ndtri(level)
    return (table > 0) & (np.asarray(radii) > largest[:, None])


def zeros_as_well(table, sigmas, radii, n, alpha):
    "0 % is possible there"
    return flagged(table + 1, sigmas, radii, alpha ** (1 / n))


def halved(table, sigmas, radii, n, alpha):
    "Do you halve alpha?"
    return flagged(table, sigmas, radii, (alpha / 2) ** (1 / n))


def no_sigma(table, sigmas, radii, n, alpha):
    "is proportional to sigma"
    return flagged(table, np.ones(len(sigmas)), radii, alpha ** (1 / n))


def finished(top, k, n, sigma, alpha):
    bound = beta.ppf(alpha, k, n - k + 1)
    if bound <= 0.5:
        return -1, 0.0
    return top, np.floor(1000 * sigma * ndtri(bound)) / 1000


def same_votes(draw, n0, n, sigma, alpha):
    "copies are drawn: n0 = 100 to name"
    votes = draw(n, 0)
    return finished(int(np.argmax(votes)), max(votes), n, sigma, alpha)


def same_copies(draw, n0, n, sigma, alpha):
    "Some noisy copies are drawn twice"
    top = int(np.argmax(draw(n0, 0)))
    return finished(top, draw(n, 0)[top], n, sigma, alpha)


def to_nearest(draw, n0, n, sigma, alpha):
    "round down"
    top = int(np.argmax(draw(n0, 0)))
    k = draw(n, n0)[top]
    label, _ = finished(top, k, n, sigma, alpha)
    bound = beta.ppf(alpha, k, n - k + 1)
    return (label, round(sigma * ndtri(bound), 3)) if label >= 0 else (-1, 0.0)


def never_abstains(draw, n0, n, sigma, alpha):
    "are no proof of a majority"
    top = int(np.argmax(draw(n0, 0)))
    k = draw(n, n0)[top]
    return top, np.floor(1000 * sigma * ndtri(beta.ppf(alpha, k, n - k + 1))) / 1000
