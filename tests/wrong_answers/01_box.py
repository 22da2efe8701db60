import numpy as np


def ends_by_themselves(weight, bias, low, high):
    "the lower end of W @ z"
    return weight @ low + bias, weight @ high + bias


def centre_by_absolute_values(weight, bias, low, high):
    "the centre by W itself"
    centre = np.abs(weight) @ ((low + high) / 2) + bias
    half_width = np.abs(weight) @ ((high - low) / 2)
    return centre - half_width, centre + half_width


def full_width(weight, bias, low, high):
    "twice too wide"
    centre = weight @ ((low + high) / 2) + bias
    width = np.abs(weight) @ (high - low)
    return centre - width, centre + width


def no_bias(weight, bias, low, high):
    "The bias is missing"
    centre = weight @ ((low + high) / 2)
    half_width = np.abs(weight) @ ((high - low) / 2)
    return centre - half_width, centre + half_width
