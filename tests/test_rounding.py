"""Rounding of scores: below its bound in every precision that the bound is for."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lipsmooth.inference import optimized
from lipsmooth.lipnets import Scale, lipschitz_network
from lipsmooth.marginlogs import certify_margins
from lipsmooth.rounding import rounding_bound


@pytest.fixture
def network():
    torch.manual_seed(0)
    return optimized(lipschitz_network((1, 8, 8), 10, scale=3.3)).network


def off(network, x, dtype):
    """Return how far scores in a precision are from those in double precision."""
    with torch.inference_mode():
        exact = copy.deepcopy(network).double()(x.double())
        found = copy.deepcopy(network).to(dtype)(x.to(dtype))
    return (found.double() - exact).norm(dim=1)


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e3])
def test_scores_are_as_near_as_the_bound_says(size, network):
    x = size * torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    constant, slope = rounding_bound(network, dtype=torch.float32)
    allowed = constant + slope * x.double().flatten(1).norm(dim=1)
    assert (off(network, x, torch.float32) < allowed).all()
    # Controls: it is no more than the worst case, and coarser arithmetic exceeds it.
    assert (off(network, x, torch.float32) > allowed / 10_000).any()
    assert (off(network, x, torch.bfloat16) > allowed).all()


def test_the_bound_shrinks_with_the_precision(network):
    single = rounding_bound(network, dtype=torch.float32)
    double = rounding_bound(network, dtype=torch.float64)
    np.testing.assert_allclose(np.divide(double, single), 2.0**-29, rtol=1e-3)


def test_the_worst_order_of_a_sum_stays_below():
    # Half a unit in the last place is lost at each step when one large number leads.
    layer = nn.Linear(4096, 1, bias=False)
    layer.weight.data.fill_(1.0)
    x = torch.full((4096,), 2.0**-24)
    x[0] = 1.0
    total = torch.tensor(0.0)
    for value in x:
        total = total + value
    lost = float(x.double().sum() - total.double())
    constant, slope = rounding_bound(layer, dtype=torch.float32)
    allowed = constant + slope * float(x.double().norm())
    assert allowed / 100 < lost < allowed


def test_the_edge_of_a_linear_classifier():
    torch.manual_seed(0)
    layer, x = nn.Linear(100, 2, bias=False), torch.randn(2000, 100)
    weight = torch.randn(100)
    layer.weight = nn.Parameter(torch.stack([-weight, weight]))
    constant = float(
        layer.weight.detach().double().norm()
    )  # the spectral norm, of rank one
    with torch.no_grad():
        scores = layer(x).double().numpy()
    length = x.double().norm(dim=1).numpy()
    bound = rounding_bound(layer, dtype=torch.float32)

    def broken(**settings):
        found = certify_margins(scores, lipschitz=constant, **settings)
        radius, sign = (
            torch.tensor(found.radius),
            1 - 2 * torch.tensor(found.prediction),
        )
        way = sign[:, None] * weight.double() / weight.double().norm()
        any_ = torch.zeros(len(x), dtype=torch.bool)
        for k in range(-8, 9):
            reach = radius * (1 + k * 2.0**-24)
            moved = (x.double() + reach[:, None] * way).float()
            inside = (moved.double() - x.double()).norm(dim=1) < radius
            with torch.no_grad():
                other = layer(moved).argmax(dim=1).numpy() != found.prediction
            any_ |= inside & torch.tensor(other)
        return any_.double().mean()

    assert broken() > 0.02
    assert broken(rounding=bound, norm=length) == 0


def test_what_has_no_bound(network):
    for layer, message in (
        (nn.Conv2d(1, 1, 3), "rounding of Conv2d"),
        (nn.Sequential(nn.Tanh()), "rounding of Tanh"),
        (lipschitz_network((1, 2, 2), 2), "rounding of ParametrizedLinear"),
    ):
        with pytest.raises(ValueError, match=message):
            rounding_bound(layer, dtype=torch.float32)
    with pytest.raises(ValueError, match="dtype must be"):
        rounding_bound(network, dtype=torch.bfloat16)
    hooked = Scale(2.0)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="Scale has hooks"):
        rounding_bound(hooked, dtype=torch.float32)
