import numpy as np
from scipy.stats import beta


def lower(k, n, level):
    return 0.0 if k == 0 else beta.ppf(level, k, n - k + 1)


def upper(k, n, level):
    return 1.0 if k == n else beta.ppf(1 - level, k + 1, n - k)


def runner_up_of_the_selection(selection, estimation, alpha):
    "runner-up of the *selection* votes"
    top, second = np.argsort(selection)[::-1][:2]
    n, level = sum(estimation), alpha / 2
    return lower(estimation[top], n, level), upper(estimation[second], n, level)


def one_share_per_class(selection, estimation, alpha):
    "divide alpha by the number of classes"
    top, n, level = np.argmax(selection), sum(estimation), alpha / len(selection)
    rival = max(np.delete(estimation, top))
    return lower(estimation[top], n, level), upper(rival, n, level)


def alpha_twice(selection, estimation, alpha):
    "Each side has the whole alpha"
    top, n = np.argmax(selection), sum(estimation)
    rival = max(np.delete(estimation, top))
    return lower(estimation[top], n, alpha), upper(rival, n, alpha)


def largest_of_all(selection, estimation, alpha):
    "not one of its rivals"
    top, n = np.argmax(selection), sum(estimation)
    return lower(estimation[top], n, alpha / 2), upper(max(estimation), n, alpha / 2)
