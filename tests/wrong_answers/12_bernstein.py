import numpy as np


def formula(variance, scores, cost, last=1):
    n = len(scores)
    bound = np.mean(scores) - np.sqrt(2 * variance * cost / n)
    return max(0.0, bound - last * 7 * cost / (3 * (n - 1)))


def last_term_forgotten(scores, alpha):
    "does not vary"
    return formula(np.var(scores, ddof=1), scores, np.log(2 / alpha), last=0)


def one_over_alpha(scores, alpha):
    "pays for estimating the variance"
    return formula(np.var(scores, ddof=1), scores, np.log(1 / alpha))


def halved_again(scores, alpha):
    "halve alpha once more"
    return formula(np.var(scores, ddof=1), scores, np.log(4 / alpha))


def biased_variance(scores, alpha):
    "ddof=1"
    return formula(np.var(scores), scores, np.log(2 / alpha))


def deviation_for_variance(scores, alpha):
    "standard deviation stands where"
    return formula(np.std(scores, ddof=1), scores, np.log(2 / alpha))
