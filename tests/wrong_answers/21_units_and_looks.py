import numpy as np
from scipy.stats import binom


def in_normalised_units(radius, scales):
    "four times too large"
    return radius


def divided(radius, scales):
    "You divide by the scale"
    return radius / np.min(scales)


def longest(radius, scales):
    "longest half-axis"
    return radius * np.max(scales)


def mean(radius, scales):
    "mean of the half-axes"
    return radius * np.mean(scales)


def same_volume(radius, scales):
    "ball of the same volume"
    return radius * np.exp(np.mean(np.log(scales)))


def stops(n, level, more=1):
    return binom.sf(np.arange(n + 1) - more, n, 0.5) < level


def error(n, level):
    return binom.pmf(np.arange(n + 1), n, 0.5)[stops(n, level)].sum()


def level_itself(looks, size, level):
    "You return the level"
    return level


def more_than(looks, size, level):
    "is the probability of more than k"
    return binom.pmf(np.arange(size + 1), size, 0.5)[stops(size, level, 0)].sum()


def two_sided(looks, size, level):
    "Do you halve the level?"
    return binom.pmf(np.arange(size + 1), size, 0.5)[stops(size, level / 2)].sum()


def added(looks, size, level):
    "You add the probabilities of all looks"
    return sum(error(look * size, level) for look in range(1, looks + 1))


def independent(looks, size, level):
    "You treat the looks as independent"
    return 1 - (1 - error(size, level)) ** looks
