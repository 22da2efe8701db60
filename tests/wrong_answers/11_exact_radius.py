from scipy.special import ndtri

from lipsmooth.radii import radius_mono_lipschitz


def without_the_constant(p, sigma, lipschitz):
    "does not know L"
    return sigma * ndtri(p)


def without_the_noise(p, sigma, lipschitz):
    "the radius without noise"
    return (p - 0.5) / lipschitz


def as_published(p, sigma, lipschitz):
    "This is the published radius"
    return float(radius_mono_lipschitz(p, sigma=sigma, lipschitz=lipschitz))
