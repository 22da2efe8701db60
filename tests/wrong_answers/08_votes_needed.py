from math import ceil, floor, log

from scipy.special import log_ndtr, ndtr


def rounded_down(radius, sigma, alpha):
    "Round up"
    return floor(log(alpha) / log_ndtr(radius / sigma))


def two_sided(radius, sigma, alpha):
    "level alpha / 2"
    return ceil(log(alpha / 2) / log_ndtr(radius / sigma))


def no_sigma(radius, sigma, alpha):
    "radius divided by sigma"
    return ceil(log(alpha) / log_ndtr(radius))


def plain_logarithm(radius, sigma, alpha):
    "use log_ndtr"
    return ceil(log(alpha) / log(ndtr(radius / sigma)))
