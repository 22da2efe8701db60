from math import log


def only_at_the_end(votes, p_star, q, alpha):
    "only after all votes"
    capital, first = 0.0, None
    for count, vote in enumerate(votes, 1):
        capital += log(q / p_star) if vote else log((1 - q) / (1 - p_star))
        first = count if first is None and capital >= log(1 / alpha) else first
    return first if capital >= log(1 / alpha) else None


def losses_forgotten(votes, p_star, q, alpha):
    "cost nothing here"
    capital = 1.0
    for count, vote in enumerate(votes, 1):
        capital *= q / p_star if vote else 1
        if capital >= 1 / alpha:
            return count
    return None


def half_the_level(votes, p_star, q, alpha):
    "You wait for 2/alpha"
    capital = 1.0
    for count, vote in enumerate(votes, 1):
        capital *= q / p_star if vote else (1 - q) / (1 - p_star)
        if capital >= 2 / alpha:
            return count
    return None


def factors_upside_down(votes, p_star, q, alpha):
    "the claim p <= 1/2 stands"
    capital = 1.0
    for count, vote in enumerate(votes, 1):
        capital *= p_star / q if vote else (1 - p_star) / (1 - q)
        if capital >= 1 / alpha:
            return count
    return None
