import numpy as np


def entropy_of(scores):
    return -(scores * np.log(scores)).sum(axis=-1)


def divergences(u, v):
    return (u * np.log(u / v)).sum(axis=-1)


def arguments_exchanged(scores, weight, entropy):
    "arguments of the divergence are exchanged"
    mean = scores.mean(axis=0)
    return weight * divergences(scores, mean).mean() + entropy * entropy_of(mean)


def sum_over_copies(scores, weight, entropy):
    "add up the copies"
    mean = scores.mean(axis=0)
    return weight * divergences(mean, scores).sum() + entropy * entropy_of(mean)


def entropy_of_the_copies(scores, weight, entropy):
    "entropy of every copy"
    mean = scores.mean(axis=0)
    price = weight * divergences(mean, scores).mean()
    return price + entropy * entropy_of(scores).mean()


def no_minus(scores, weight, entropy):
    "Entropy is positive"
    mean = scores.mean(axis=0)
    return weight * divergences(mean, scores).mean() - entropy * entropy_of(mean)
