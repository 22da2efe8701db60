"""Product bounds against what networks do, and local slopes that stay below them."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from lipsmooth.inference import Inference, optimized
from lipsmooth.lipnets import MaxMin, Scale
from lipsmooth.lipschitz import local_lower_bound, product_upper_bound
from lipsmooth.models import Normalize, build_model
from lipsmooth.resnet import Block, ResNet
from lipsmooth.spectral import spectral_norm


def jacobian_norm(model, shape, centres=3):
    """The largest Jacobian norm at a few random points."""
    model = model.double().eval()
    points = torch.randn(centres, 1, *shape, dtype=torch.float64)
    norms = []
    for x in points:
        jacobian = torch.autograd.functional.jacobian(model, x)
        norms.append(torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), 2))
    return max(norms).item()


def lively(model):
    """Give normalisations statistics and weights that matter."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data.uniform_(-2, 2)
            part.running_mean.uniform_(-1, 1)
            part.running_var.uniform_(0.1, 2)
    return model


LAYERS = {
    "normalize": (Normalize(0.5, 0.25), (3, 6, 6), 4),
    "scale": (Scale(-3), (5,), 3),
    "global average": (nn.AdaptiveAvgPool2d(1), (4, 8, 8), 1 / 8),
    "leaky": (nn.LeakyReLU(-2.0), (40,), 2),
    "relu": (nn.ReLU(), (40,), 1),
    "sigmoid": (nn.Sigmoid(), (1,), 0.25),
    "maxmin": (MaxMin(), (6,), 1),
    "flatten": (nn.Flatten(), (2, 3, 3), 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_known_constant(name):
    layer, shape, constant = LAYERS[name]
    assert product_upper_bound(layer, shape) == pytest.approx(constant, rel=1e-9)


@pytest.mark.parametrize(
    "pooling",
    [nn.MaxPool2d(2), nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 1, 1), nn.MaxPool1d(2, 1),
     nn.MaxPool2d(2, 2, dilation=2), nn.MaxPool2d((3, 1), (1, 2))],
    ids=str,
)  # fmt: skip
def test_max_pooling_is_bounded_by_its_overlap(pooling):
    shape = (2, 9) if isinstance(pooling, nn.MaxPool1d) else (2, 9, 9)
    bound = product_upper_bound(pooling, shape)
    # One bright pixel lights up every window that it lies in.
    units = torch.eye(int(np.prod(shape[1:]))).reshape(-1, 1, *shape[1:])
    worst = pooling(units).flatten(1).norm(dim=1).max().item()
    assert worst <= bound <= worst * (1 + 1e-6)


def test_normalisation_in_evaluation_mode():
    norm = nn.BatchNorm2d(3, eps=0.0)
    norm.weight.data = torch.tensor([1.0, -6.0, 2.0])
    norm.running_var = torch.tensor([1.0, 4.0, 0.25])
    state = {key: value.clone() for key, value in norm.state_dict().items()}
    assert norm.training
    assert product_upper_bound(norm, (3, 4, 4)) == pytest.approx(4, rel=1e-9)
    assert all(torch.equal(norm.state_dict()[key], state[key]) for key in state)


@pytest.mark.parametrize("arch", ["cnn", "resnet20", "lipschitz"])
def test_no_jacobian_exceeds_the_product(arch):
    torch.manual_seed(0)
    shape = (1, 8, 8)
    model = lively(build_model(arch, shape=shape, num_classes=10))
    bound = product_upper_bound(model, shape)
    assert jacobian_norm(model, shape) <= bound


def test_a_linear_network_shows_every_factor():
    # Nothing is lost here, so a forgotten or doubled factor would show.
    torch.manual_seed(0)
    layers = [
        Normalize(0, 0.2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.AvgPool2d(2),
        nn.Flatten(), Scale(3),
    ]  # fmt: skip
    layers[1].weight.data = torch.diag(torch.tensor([4.0, -1.0])).view(2, 2, 1, 1)
    layers[2].running_var = torch.tensor([0.25, 1.0]) - layers[2].eps
    model = nn.Sequential(*layers)
    exact = 5 * 4 * 2 * 0.5 * 3
    assert product_upper_bound(model, (2, 4, 4)) == pytest.approx(exact, rel=1e-6)
    assert jacobian_norm(model, (2, 4, 4)) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(("before", "stride"), [(4, 1), (2, 2)])
def test_two_ways_of_a_residual_block_add_up(before, stride):
    torch.manual_seed(0)
    block, shape = lively(Block(before, 4, stride)), (before, 6, 6)
    way = nn.Sequential(block.conv1, block.bn1, block.relu, block.conv2, block.bn2)
    short = 1.0
    if block.downsample is not None:
        short = product_upper_bound(block.downsample, shape)
    bound = product_upper_bound(block, shape)
    assert bound == pytest.approx(product_upper_bound(way, shape) + short)
    assert jacobian_norm(block, shape) <= bound


def test_resnets_at_their_initial_weights():
    torch.manual_seed(0)
    model = ResNet(20)
    upper = product_upper_bound(model, (3, 32, 32))
    estimate = product_upper_bound(model, (3, 32, 32), norm=spectral_norm)
    assert 1e7 < estimate < 1e10
    assert estimate < upper < 2 * estimate


def test_a_hundred_and_ten_layers_take_seconds():
    torch.manual_seed(0)
    began = time.process_time()
    bound = product_upper_bound(ResNet(110), (3, 32, 32))
    assert time.process_time() - began < 60
    assert 1e48 < bound < 1e55


def test_the_folded_copy_has_a_smaller_bound():
    torch.manual_seed(0)
    model = lively(build_model("cnn", shape=(1, 8, 8), num_classes=10)).eval()
    fast = optimized(model)
    folded = product_upper_bound(fast, (1, 8, 8))
    assert folded < product_upper_bound(model, (1, 8, 8))
    assert jacobian_norm(model, (1, 8, 8)) <= folded


class Loud(nn.Sequential):
    def forward(self, x):
        return 100 * super().forward(x)


class Strange(nn.Module):
    def forward(self, x):
        return x**2


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Strange(), "known for Strange"),
        (nn.Sequential(nn.ReLU(), nn.Sequential(nn.GELU())), "known for GELU"),
        (Loud(nn.ReLU()), "known for Loud"),
        (nn.BatchNorm2d(3, track_running_stats=False), "known for BatchNorm2d"),
        (Inference(nn.Linear(4, 4), torch.bfloat16), "Linear computes in torch.bfloat"),
        (nn.Sequential(nn.Linear(3, 2)), r"Linear cannot take input of shape \(4,\)"),
        (Normalize(0, 0.0), "normalisation has the scale inf"),
    ],
)
def test_what_is_not_understood_is_refused(module, message):
    with pytest.raises(ValueError, match=message):
        product_upper_bound(module, (4,))


def test_hooks_are_refused():
    relu = nn.ReLU()
    relu.register_forward_hook(lambda module, args, out: 2 * out)
    with pytest.raises(ValueError, match="ReLU has hooks"):
        product_upper_bound(nn.Sequential(relu), (4,))


class TestLocalLowerBound:
    def test_a_linear_network_is_found_out(self):
        torch.manual_seed(0)
        layer = nn.Linear(20, 6)
        found = local_lower_bound(layer, torch.randn(4, 20), reach=0.5)
        exact = torch.linalg.matrix_norm(layer.weight.detach(), 2).item()
        assert np.all(found <= exact * (1 + 1e-6))
        assert np.all(found >= exact * (1 - 1e-3))

    def test_it_climbs_to_where_the_network_is_steep(self):
        class Bump(nn.Module):  # slope 1 + 2 x² at x
            def forward(self, x):
                return x + 2 * x**3 / 3

        near, far = (
            local_lower_bound(Bump(), torch.zeros(1, 1), reach=reach)[0]
            for reach in (0.01, 2.0)
        )
        assert near == pytest.approx(1, rel=1e-3)
        assert 7 < far <= 9  # control: without ascent it would stay near 1

    def test_below_the_product_and_above_the_slope_at_the_centre(self):
        torch.manual_seed(0)
        model = lively(build_model("cnn", shape=(1, 8, 8), num_classes=10)).eval()
        x = torch.rand(3, 1, 8, 8)
        found = local_lower_bound(model, x, reach=1.0, steps=60)
        assert found.max() <= product_upper_bound(model, (1, 8, 8))
        double = build_model("cnn", shape=(1, 8, 8), num_classes=10).double().eval()
        double.load_state_dict(model.state_dict())
        for slope, point in zip(found, x, strict=True):
            jacobian = torch.autograd.functional.jacobian(double, point[None].double())
            assert slope > torch.linalg.matrix_norm(jacobian.reshape(10, -1), 2)

    def test_the_same_seed_gives_the_same_answer_and_leaves_the_model(self):
        torch.manual_seed(0)
        model = build_model("cnn", shape=(1, 8, 8), num_classes=10)
        x = torch.rand(2, 1, 8, 8)
        first, second, other = (
            local_lower_bound(model, x, reach=1.0, steps=3, seed=seed)
            for seed in (0, 0, 1)
        )
        assert np.array_equal(first, second)
        assert not np.array_equal(first, other)
        assert model.training
        assert next(model.parameters()).dtype == torch.float32

    @pytest.mark.parametrize(
        ("bad", "message"),
        [({"reach": 0.0}, "reach .* got 0.0"), ({"steps": 0}, "steps .* got 0")],
    )
    def test_bad_arguments(self, bad, message):
        settings = {"reach": 1.0, "steps": 5, **bad}
        with pytest.raises(ValueError, match=message):
            local_lower_bound(nn.Linear(2, 2), torch.zeros(1, 2), **settings)
