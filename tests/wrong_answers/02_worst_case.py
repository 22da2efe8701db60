from scipy.special import ndtr, ndtri


def no_sigma(p, length, sigma):
    "sigma has no influence"
    return ndtr(ndtri(p) - length)


def other_sign(p, length, sigma):
    "sign of the shift is wrong"
    return ndtr(ndtri(p) + length / sigma)


def total_variation(p, length, sigma):
    "total variation"
    return p - (2 * ndtr(length / (2 * sigma)) - 1)


def straight_line(p, length, sigma):
    "acts on the quantile"
    return p - length / sigma
