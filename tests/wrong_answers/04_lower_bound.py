from scipy import stats


def two_sided(k, n, alpha):
    "all of alpha"
    return 0.0 if k == 0 else stats.beta.ppf(alpha / 2, k, n - k + 1)


def quantile_of_the_data(k, n, alpha):
    "no bound for p"
    return 0.0 if k == 0 else stats.binom.ppf(alpha, n, k / n) / n


def parameters_of_the_upper_bound(k, n, alpha):
    "parameters of the upper bound"
    if k in (0, n):
        return 0.0 if k == 0 else alpha ** (1 / n)
    return stats.beta.ppf(alpha, k + 1, n - k)


def no_votes(k, n, alpha):
    "Without any votes you return NaN"
    return stats.beta.ppf(alpha, k, n - k + 1)
