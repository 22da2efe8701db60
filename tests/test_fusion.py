"""Fused convolutions: the same function, and nothing fused that must not be."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from lipsmooth import fusion
from lipsmooth.fusion import FusedConvolution, fused
from lipsmooth.inference import optimized
from lipsmooth.lipschitz import product_upper_bound
from lipsmooth.models import build_model


def convolution(before=4, after=4, **options):
    return nn.Conv2d(before, after, 3, **{"padding": 1, **options})


def fusions(network):
    return [part for part in network.modules() if isinstance(part, FusedConvolution)]


def compare(network, x):
    """Return the fused network, having seen that it computes the same."""
    network = network.eval()
    before = copy.deepcopy(network)
    with torch.inference_mode():
        result = fused(network)
        expected = before(x.clone())
        for _ in range(2):  # nothing that it is given may change
            torch.testing.assert_close(result(x), expected, rtol=1e-4, atol=1e-5)
    return result


class Net(nn.Module):
    """Three convolutions, joined by the function of a test."""

    def __init__(self, join, **options):
        super().__init__()
        self.a, self.b, self.c = (convolution(**options) for _ in range(3))
        self.relu, self.join = nn.ReLU(inplace=True), join

    def forward(self, x):
        return self.join(self, x)


def shortcut(net, x):
    y = net.b(net.relu(net.a(x)))
    y += x
    return net.relu(y)


def other_first(net, x):
    side = net.c(x)
    return functional.relu(side + net.b(x))


def sum_alone(net, x):
    return torch.add(net.a(x), x).tanh()


def overwrites_a_namesake_too(net, x):
    x = namesake = x * 2
    x += 1
    return (net.a(x) + namesake).relu() * namesake


def overwrites_fresh(net, x):
    y = net.a(x)
    side = net.b(x)
    y += side
    return y.relu()


@pytest.mark.parametrize(
    ("join", "count"),
    [
        (shortcut, 2),
        (other_first, 1),
        (sum_alone, 1),
        (overwrites_fresh, 1),
        (overwrites_a_namesake_too, 1),
    ],
)
def test_sums_and_rectifiers_are_fused(join, count):
    torch.manual_seed(0)
    result = compare(Net(join), torch.randn(3, 4, 6, 6))
    assert len(fusions(result)) == count


def read_twice(net, x):
    y = net.a(x)
    return functional.relu(y) + y


def doubled(net, x):
    y = net.a(x)
    return y + y


def scaled(net, x):
    return torch.add(net.a(x), x, alpha=2)


def constant(net, x):
    return net.a(x) + 1


def overwrites_input(net, x):
    x = net.relu(x + 1)
    y = net.a(x)
    x += y
    return x


def overwrites_a_namesake(net, x):
    x = namesake = x * 2
    x += 1
    x *= namesake
    return net.a(x) * namesake


def overwritten_between(net, x):
    x = x + 0
    y = net.a(x)
    x += 1
    return net.relu(y) + x


def overwrites_what_is_read_again(net, x):
    y = net.a(x)
    side = net.b(x)
    y += side
    return y + net.c(x).sigmoid() * y


def called_by_name(net, x):
    return net.relu(net.a(input=x))


def leaky(net, x):
    return functional.leaky_relu(net.a(x))


@pytest.mark.parametrize(
    "join",
    [
        read_twice,
        doubled,
        scaled,
        constant,
        overwrites_input,
        overwritten_between,
        called_by_name,
        leaky,
    ],
)
def test_what_must_not_be_fused_is_not(join):
    torch.manual_seed(0)
    net = Net(join)
    assert compare(net, torch.randn(3, 4, 6, 6)) is net


def test_a_sum_that_overwrites_something_read_again_stays_right():
    torch.manual_seed(0)
    compare(Net(overwrites_what_is_read_again), torch.randn(3, 4, 6, 6))


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (3, 1, 6, 6), (4, 6, 6)])
@pytest.mark.parametrize("rectified", [True, False])
def test_sums_that_broadcast_stay_right(shape, rectified):
    torch.manual_seed(0)
    part = convolution()
    x, other = torch.randn(3, 4, 6, 6), torch.randn(shape)
    with torch.inference_mode():
        expected = part(x) + other
        expected = expected.relu() if rectified else expected
        result = FusedConvolution(part, rectified=rectified)(x, other)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2}, {"dilation": 2, "padding": 2}, {"groups": 2}, {"bias": False},
        {"stride": (1, 2), "padding": (0, 1)},
    ],
)  # fmt: skip
def test_convolutions_of_all_kinds(options):
    torch.manual_seed(0)
    compare(Net(other_first, **options), torch.randn(3, 4, 7, 8))


@pytest.mark.parametrize("options", [{"padding_mode": "reflect"}, {"padding": "same"}])
def test_paddings_that_the_operation_lacks(options):
    net = Net(other_first, **options)
    assert compare(net, torch.randn(3, 4, 7, 8)) is net


def test_what_cannot_be_traced_is_left(monkeypatch):
    net = Net(lambda net, x: net.relu(net.a(x)) if x.sum() > 0 else x)
    assert fused(net.eval()) is net
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    net = Net(shortcut).eval()
    assert fused(net) is net


def test_what_is_more_than_a_function_of_its_input_is_left():
    hooked = Net(shortcut).eval()
    hooked.register_forward_hook(lambda *_: None)
    assert fused(hooked) is hooked
    random = Net(lambda net, x: net.relu(net.a(x)) + torch.randn(6)).eval()
    assert fused(random) is random


@pytest.mark.parametrize("arch", ["resnet20", "resnet9-16", "resnet50"])
def test_every_convolution_of_a_residual_network(arch):
    torch.manual_seed(0)
    side = 224 if arch == "resnet50" else 32
    model = build_model(arch, shape=(3, side, side), num_classes=10)
    result = compare(network := optimized(model).network, torch.randn(2, 3, side, side))
    every = sum(isinstance(part, nn.Conv2d) for part in network.modules())
    # Where a shortcut convolves, the sum waits for two: one of them stays as it is.
    shortcuts = sum("downsample.0" in name for name, _ in network.named_modules())
    assert len(fusions(result)) == every - shortcuts


def test_an_identity_called_by_name_stays():
    net = Net(lambda net, x: net.relu(net.a(net.b(input=x))))
    net.b = nn.Identity()
    assert len(fusions(compare(net, torch.randn(2, 4, 6, 6)))) == 1


def test_a_sum_of_two_precisions_has_the_finer_one():
    def join(net, x):
        finer = x.float()
        return net.relu(net.a(x) + finer)

    net = Net(join).eval().bfloat16()
    x = torch.randn(2, 4, 6, 6, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected, result = net(x), fused(net)
        assert len(fusions(result)) == 1
        assert result(x).dtype == expected.dtype == torch.float32
        torch.testing.assert_close(result(x), expected)


def test_inference_copies_are_fused():
    model = build_model("resnet20", shape=(3, 32, 32), num_classes=10)
    copied = optimized(model)
    assert fusions(copied.runs)
    assert not fusions(model)
    assert not fusions(copied.network)
    assert product_upper_bound(copied, (3, 32, 32)) > 0  # layers of known kinds


def reads_the_shortcut_later(net, x):
    first = net.relu(net.a(x))
    return net.relu(net.c(net.b(first)) + first) * first.mean()


def keeps_a_view_of_the_shortcut(net, x):
    first = net.relu(net.a(x))
    view = first.flatten(1)
    y = net.relu(net.c(net.b(first)) + first)
    return y.flatten(1) * view


def convolves_the_shortcut_itself(net, x):
    first = net.relu(net.a(x))
    return net.relu(net.b(first) + first)


def lets_the_shortcut_go(net, x):
    first = net.relu(net.a(x))
    return net.relu(net.c(net.b(first)) + first)


@pytest.mark.parametrize(
    ("join", "overwritten"),
    [(shortcut, 0), (reads_the_shortcut_later, 0), (keeps_a_view_of_the_shortcut, 0),
     (convolves_the_shortcut_itself, 0),
     (lets_the_shortcut_go, 1)],
)  # fmt: skip
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_only_what_nobody_reads_again_is_overwritten(join, overwritten, layout):
    torch.manual_seed(0)
    net = Net(join).to(memory_format=layout)
    result = compare(net, torch.randn(3, 4, 6, 6).to(memory_format=layout))
    assert sum(part.overwrites for part in fusions(result)) == overwritten


@pytest.mark.parametrize(
    "join", [reads_the_shortcut_later, keeps_a_view_of_the_shortcut]
)
def test_overwriting_what_is_read_again_would_be_noticed(join, monkeypatch):
    monkeypatch.setattr(fusion, "_done_with", lambda *_: True)
    with pytest.raises(AssertionError, match="not close"):
        compare(Net(join), torch.randn(3, 4, 6, 6))


def test_a_wrong_fusion_would_be_noticed(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(
        FusedConvolution, "forward", lambda self, x, other=None: self.convolution(x)
    )
    with pytest.raises(AssertionError):
        compare(Net(shortcut), torch.randn(3, 4, 6, 6))
