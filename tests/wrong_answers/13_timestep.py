import numpy as np


def half_the_noise(sigma, alphas_cumprod):
    "match 2 sigma"
    ratios = np.sqrt((1 - alphas_cumprod) / alphas_cumprod)
    return np.abs(ratios - sigma).argmin()


def ratio_of_variances(sigma, alphas_cumprod):
    "square root is missing"
    return np.abs((1 - alphas_cumprod) / alphas_cumprod - 2 * sigma).argmin()


def noise_alone(sigma, alphas_cumprod):
    "what has to match is the ratio"
    return np.abs(np.sqrt(1 - alphas_cumprod) - 2 * sigma).argmin()


def first_noisy_enough(sigma, alphas_cumprod):
    "need not be the nearest one"
    ratios = np.sqrt((1 - alphas_cumprod) / alphas_cumprod)
    return np.argmax(ratios >= 2 * sigma)
