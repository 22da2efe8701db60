import numpy as np


def eigenvalues(weights, std):
    "not the largest eigenvalue"
    radii = [np.abs(np.linalg.eigvals(w)).max() for w in weights]
    return np.prod(radii) / std


def frobenius(weights, std):
    "Frobenius norm"
    return np.prod([np.linalg.norm(weight) for weight in weights]) / std


def without_normalisation(weights, std):
    "normalisation is missing"
    return np.prod([np.linalg.norm(weight, 2) for weight in weights])


def added_up(weights, std):
    "you add them"
    return sum(np.linalg.norm(weight, 2) for weight in weights) / std
