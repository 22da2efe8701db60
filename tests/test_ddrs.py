"""Gradient ascent on the noise level climbs the radius that it says it climbs."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from lipsmooth.ddrs import ascend_noise_level

COMMON = {"bounds": (0.05, 2.0), "learning_rate": 0.05, "n": 256, "seed": 0}


def band(width):
    """Class 1 near 0, with soft edges: the radius falls as the noise grows."""

    def scores(z):
        inside = 20 * (width - z[:, 0].abs())
        return torch.stack([-inside, inside], dim=1)

    return scores


def test_inside_a_band_the_noise_shrinks_and_in_the_open_it_grows():
    x = torch.tensor([[0.0], [3.0]])
    found = ascend_noise_level(band(0.6), x, sigma=0.5, steps=60, **COMMON)
    assert found[0] < 0.35
    assert found[1] > 0.8
    # A control that walks nowhere.
    still = ascend_noise_level(
        band(0.6), x, sigma=0.5, steps=60, **{**COMMON, "learning_rate": 1e-9}
    )
    np.testing.assert_allclose(still, 0.5, atol=1e-6)


def test_a_half_space_has_no_slope():
    def step(z):
        return torch.stack([-50 * z[:, 0], 50 * z[:, 0]], dim=1)

    x, rate = torch.tensor([[0.4]]), 0.01
    moved = ascend_noise_level(
        step, x, sigma=0.5, steps=1, bounds=(0.1, 2), learning_rate=rate, n=200_000,
        seed=0,
    )  # fmt: skip
    # σ Φ⁻¹(Φ(d/σ)) = d at every σ: a half-space has nothing to gain.
    assert abs(moved[0] - 0.5) < 0.02 * rate
    assert ndtr(0.4 / 0.5) < 0.98  # not clipped


def test_a_clipped_share_makes_the_radius_grow_with_the_noise():
    x = torch.tensor([[5.0]])
    found = ascend_noise_level(
        lambda z: torch.stack([-50 * z[:, 0], 50 * z[:, 0]], dim=1), x, sigma=0.5,
        steps=1, bounds=(0.1, 2), learning_rate=0.1, n=50, seed=0,
    )  # fmt: skip
    # dR/dσ = Φ⁻¹(0.98).
    assert found[0] == pytest.approx(0.5 + 0.1 * 2.0537, abs=1e-4)


def test_bounds_hold_and_images_do_not_depend_on_each_other():
    x = torch.tensor([[0.0], [0.2], [3.0]])
    together = ascend_noise_level(band(0.6), x, sigma=0.5, steps=40, **COMMON)
    assert np.all((together >= 0.05) & (together <= 2.0))
    alone = ascend_noise_level(
        band(0.6), x[1:2], sigma=0.5, steps=40, indices=[1], **COMMON
    )
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-4)
    far = ascend_noise_level(
        band(0.6), x, sigma=0.5, steps=40, **{**COMMON, "bounds": (0.4, 0.6)}
    )
    assert (far.min(), far.max()) == pytest.approx((0.4, 0.6), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0}, "sigma must be positive"),
        ({"bounds": (0.6, 2)}, "bounds must hold sigma = 0.5"),
        ({"bounds": (0.1, np.inf)}, "bounds must hold"),
        ({"learning_rate": 0}, "learning_rate must be positive"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"clip": 0.5}, r"clip must lie in \(0, 0.5\)"),
    ],
)
def test_bad_settings_are_refused(change, message):
    call = {"sigma": 0.5, "steps": 1, **COMMON, **change}
    with pytest.raises(ValueError, match=message):
        ascend_noise_level(band(0.6), torch.zeros(1, 1), **call)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="scores must be finite"):
        ascend_noise_level(
            lambda z: torch.full((len(z), 2), np.nan) * z, torch.zeros(1, 1), sigma=0.5,
            steps=1, **COMMON,
        )  # fmt: skip
