import numpy as np


def downhill(radius, low, high, step, tolerance):
    "lies downhill"
    while high - low > tolerance:
        middle = (low + high) / 2
        if radius(middle + step) > radius(middle - step):
            high = middle
        else:
            low = middle
    return (low + high) / 2


def ends_of_the_bracket(radius, low, high, step, tolerance):
    "compare two points close to"
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (middle, high) if radius(high) > radius(low) else (low, middle)
    return (low + high) / 2


def one_step(radius, low, high, step, tolerance):
    "You stop too early"
    for _ in range(4):
        middle = (low + high) / 2
        up = radius(middle + step) > radius(middle - step)
        low, high = (middle, high) if up else (low, middle)
    return (low + high) / 2


def grid(radius, low, high, step, tolerance):
    "a grid is not needed"
    return max(np.arange(low, high, tolerance), key=radius)
