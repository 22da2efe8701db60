"""Spectral norms against dense singular values, for every kind of linear layer."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lipsmooth import spectral
from lipsmooth.spectral import gram_bound, spectral_norm, spectral_norm_upper

MODES = ("zeros", "circular", "reflect", "replicate")


def dense(layer, shape):
    """The largest singular value of the layer's matrix, written down by images."""
    layer = layer.double()
    units = torch.eye(int(np.prod(shape)), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        matrix = layer(units) - layer(torch.zeros_like(units[:1]))
    return torch.linalg.matrix_norm(matrix.flatten(1), 2).item()


def random_convolution(seed, dimensions=2):
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 2, 3]))
    channels, outputs = (groups * int(rng.integers(1, 4)) for _ in range(2))
    shape = channels, *rng.integers(5, 9 if dimensions == 2 else 6, dimensions).tolist()

    def draw(low, high):
        return tuple(rng.integers(low, high, dimensions).tolist())

    torch.manual_seed(seed)
    layer = getattr(nn, f"Conv{dimensions}d")(
        channels, outputs, draw(1, 4), draw(1, 4), draw(0, 3), draw(1, 3),
        groups=groups, padding_mode=MODES[seed % 4] if dimensions == 2 else "zeros",
    )  # fmt: skip
    return layer, shape


LAYERS = {
    **{f"conv2d-{seed}": random_convolution(seed) for seed in range(60)},
    **{f"conv1d-{seed}": random_convolution(seed, 1) for seed in range(5)},
    **{f"conv3d-{seed}": random_convolution(seed, 3) for seed in range(1, 5)},
    "linear": (nn.Linear(30, 50), (30,)),
    "narrow": (nn.Linear(50, 3), (50,)),
    "same": (nn.Conv2d(2, 3, (4, 3), padding="same"), (2, 8, 7)),
    "circular same": (
        nn.Conv2d(2, 3, 4, padding="same", padding_mode="circular"),
        (2, 8, 7),
    ),
    "valid": (nn.Conv2d(2, 3, 5, padding="valid"), (2, 8, 7)),
    "wide padding": (nn.Conv2d(2, 3, 1, padding=4), (2, 5, 6)),
    "larger": (nn.Conv2d(8, 12, 3, padding=1), (8, 12, 12)),
    "average": (nn.AvgPool2d(2), (3, 8, 8)),
    "overlapping": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 9, 8)),
    "ragged": (nn.AvgPool2d(3, 2, ceil_mode=True), (2, 8, 8)),
    "global": (nn.AdaptiveAvgPool2d(1), (4, 8, 8)),
    "adaptive": (nn.AdaptiveAvgPool2d((2, 3)), (2, 7, 7)),
    "orthogonal": (parametrizations.orthogonal(nn.Linear(12, 7)), (12,)),
    "weight norm": (parametrizations.weight_norm(nn.Conv2d(2, 3, 3)), (2, 7, 7)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("written", [True, False], ids=["written", "iterated"])
def test_against_dense_singular_values(name, written, monkeypatch):
    layer, shape = LAYERS[name]
    exact = dense(layer, shape)
    if not written:
        monkeypatch.setattr(spectral, "DENSE", 3)
    assert spectral_norm(layer, shape) == pytest.approx(exact, rel=1e-5)
    assert spectral_norm_upper(layer, shape) >= exact
    assert spectral_norm_upper(layer, shape) <= 5 * exact  # and says something


def random_circular(seed):
    rng = np.random.default_rng(seed)
    kernel, stride = int(rng.choice([1, 3, 5])), int(rng.choice([1, 2]))
    shape = int(rng.integers(1, 5)), 6, 8
    torch.manual_seed(seed)
    layer = nn.Conv2d(
        shape[0], int(rng.integers(1, 5)), kernel, stride, kernel // 2,
        padding_mode="circular",
    )  # fmt: skip
    return layer, shape


@pytest.mark.parametrize("seed", range(12))
def test_the_bound_of_a_circular_convolution_is_its_norm(seed):
    layer, shape = random_circular(seed)
    exact = dense(layer, shape)
    assert exact <= spectral_norm_upper(layer, shape) <= exact * (1 + 1e-6)


def test_strides_are_folded_and_not_ignored():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, 2, 1, padding_mode="circular")
    ignored = nn.Conv2d(4, 4, 3, 1, 1, padding_mode="circular")
    ignored.load_state_dict(layer.state_dict())
    shape = (4, 8, 8)
    assert spectral_norm_upper(layer, shape) < 0.8 * spectral_norm_upper(ignored, shape)


def test_without_a_larger_torus_zero_padding_would_not_be_bounded():
    # A shift to the left reads zeros from beyond the edge, or, on a torus that is too
    # small, from the other side: with these weights the two differ.
    layer = nn.Conv1d(1, 1, 2, padding=1, bias=False).double()
    layer.weight.data = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
    exact = dense(layer, (1, 3))
    naive = (2 - 2 * torch.cos(2 * torch.pi * torch.arange(3) / 3)).sqrt().max()
    assert naive < exact <= spectral_norm_upper(layer, (1, 3))


def published_iteration(layer, shape, rounds=10):
    """The published script: the ratio of two norms that both tend to the answer."""
    x = torch.randn(1, *shape)
    x = x / x.norm()
    for _ in range(rounds):
        y = layer(x)
        forward = y.norm()
        z = nn.functional.conv_transpose2d(
            y / forward, layer.weight, stride=layer.stride, padding=layer.padding
        )
        x = z / z.norm()
    return (forward / z.norm()).item()


@pytest.mark.parametrize("seed", range(5))
def test_the_published_iteration_never_exceeds_one(seed):
    torch.manual_seed(seed)
    layer = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    layer.weight.data *= 10
    with torch.no_grad():
        ratio = published_iteration(layer, (4, 8, 8))
    exact = dense(layer, (4, 8, 8))
    assert 0.9 < ratio <= 1 + 1e-6
    assert exact > 5
    layer.float()
    assert spectral_norm(layer, (4, 8, 8)) == pytest.approx(exact, rel=1e-5)


def test_the_bias_is_left_out_and_the_layer_untouched():
    layer = nn.Conv2d(2, 3, 3, padding=1)
    layer.bias.data.fill_(100)
    before = spectral_norm(layer, (2, 6, 6)), spectral_norm_upper(layer, (2, 6, 6))
    layer.bias.data.zero_()
    after = spectral_norm(layer, (2, 6, 6)), spectral_norm_upper(layer, (2, 6, 6))
    assert before == after
    assert layer.bias is not None
    assert layer.weight.dtype == torch.float32
    assert layer.weight.requires_grad


def test_pooling_is_an_eighth_and_not_one():
    pooling, shape = nn.AdaptiveAvgPool2d(1), (64, 8, 8)
    assert spectral_norm(pooling, shape) == pytest.approx(1 / 8, rel=1e-12)
    assert spectral_norm_upper(pooling, shape) == pytest.approx(1 / 8, rel=1e-11)


def test_frequencies_in_parts(monkeypatch):
    layer, shape = LAYERS["larger"]
    whole = spectral_norm_upper(layer, shape)
    monkeypatch.setattr(spectral, "CHUNK", 1)
    assert spectral_norm_upper(layer, shape) == pytest.approx(whole, rel=1e-6)


class TestGramBound:
    def test_between_the_norm_and_a_millionth_more(self):
        rng = torch.Generator().manual_seed(0)
        for size in [(1, 1), (3, 40), (40, 3), (30, 30)]:
            batch = torch.randn(20, *size, generator=rng, dtype=torch.complex128)
            exact = torch.linalg.matrix_norm(batch, 2).max().item()
            assert exact <= gram_bound(batch) <= exact * (1 + 1e-6)

    def test_equal_singular_values(self):
        bound = gram_bound(3 * torch.eye(50, dtype=torch.float64))
        assert 3 <= bound <= 3 * (1 + 1e-6)

    @pytest.mark.parametrize("factor", [1e-200, 1e-30, 1e200])
    def test_any_scale(self, factor):
        matrix = factor * torch.tensor([[3.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
        assert gram_bound(matrix) == pytest.approx(5 * factor, rel=1e-6)

    def test_zero(self):
        assert gram_bound(torch.zeros(2, 3, 3, dtype=torch.float64)) == 0
        layer = nn.Conv2d(1, 1, 3)
        layer.weight.data.zero_()
        assert spectral_norm_upper(layer, (1, 5, 5)) == 0


class Loud(nn.Conv2d):
    def forward(self, x):
        return 10 * super().forward(x)


def hooked():
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(lambda *_: None)
    return layer


def infinite():
    layer = nn.Conv2d(1, 1, 3)
    layer.weight.data[0, 0, 0, 0] = torch.nan
    return layer


@pytest.mark.parametrize("rule", [spectral_norm, spectral_norm_upper])
@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Conv2d(3, 4, 3), (2, 8, 8), r"Conv2d cannot take input of shape \(2, 8"),
        (nn.Conv2d(3, 4, 9), (3, 8, 8), r"Conv2d cannot take input of shape \(3, 8"),
        (nn.ReLU(), (3,), "ReLU"),
        (Loud(3, 4, 3), (3, 8, 8), "Loud"),
        (nn.ConvTranspose2d(3, 4, 3), (3, 8, 8), "ConvTranspose2d"),
        (hooked(), (3,), "Linear has hooks"),
        (infinite(), (1, 8, 8), "Conv2d has weights that are not finite"),
    ],
)
def test_bad_layers(rule, layer, shape, message):
    with pytest.raises(ValueError, match=message):
        rule(layer, shape)
