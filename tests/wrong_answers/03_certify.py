import numpy as np
from scipy.special import ndtri
from scipy.stats import beta


def winner_of_the_estimation(selection, estimation, sigma, alpha):
    "winner of the estimation votes"
    top, n = int(np.argmax(estimation)), sum(estimation)
    bound = beta.ppf(alpha, estimation[top], n - estimation[top] + 1)
    return (top, sigma * ndtri(bound)) if bound > 0.5 else (-1, 0.0)


def never_abstains(selection, estimation, sigma, alpha):
    "negative radius"
    top, n = int(np.argmax(selection)), sum(estimation)
    return top, sigma * ndtri(beta.ppf(alpha, estimation[top], n - estimation[top] + 1))


def share_for_bound(selection, estimation, sigma, alpha):
    "takes the share 900/1000 for p"
    top = int(np.argmax(selection))
    share = estimation[top] / sum(estimation)
    return (top, sigma * ndtri(share)) if share > 0.5 else (-1, 0.0)


def all_votes_together(selection, estimation, sigma, alpha):
    "count the selection votes as well"
    top, votes = int(np.argmax(selection)), np.add(selection, estimation)
    bound = beta.ppf(alpha, votes[top], sum(votes) - votes[top] + 1)
    return (top, sigma * ndtri(bound)) if bound > 0.5 else (-1, 0.0)
