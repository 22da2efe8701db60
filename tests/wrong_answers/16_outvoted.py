from scipy.stats import binom, binomtest


def majority(own, rival, alpha):
    "a majority and no evidence"
    return rival > own


def more_than_rival_votes(own, rival, alpha):
    "take k - 1"
    return bool(binom.sf(rival, own + rival, 0.5) <= alpha)


def two_sided(own, rival, alpha):
    "as a two-sided test does"
    return rival > own and binomtest(rival, own + rival).pvalue <= alpha
